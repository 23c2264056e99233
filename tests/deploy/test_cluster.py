"""`promptlane audit --cluster` against an API server over HTTP: lists by pages, credentials as kubectl has them."""

from __future__ import annotations

import base64
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
import yaml

from router.cli import main
from router.deployment.cluster import ClusterFailed, find_api, read_cluster
from tests.deploy.broken import ACMES, Objects, removed, rendered
from tests.deploy.test_kubernetes import EXAMPLE

TOKEN = "a-token-of-somebody"
PLURALS = {"networkpolicies": "NetworkPolicy", "ingresses": "Ingress", "priorityclasses": "PriorityClass"}
PAGE = 7  # objects of a page, so that several are asked for


@dataclass
class Api:
    """Answers as an API server does: items without kind, by pages, only with the token. `refused`: by plural."""

    objects: Objects
    installed: bool = True
    refused: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""
    body: bytes | None = None
    clients: list[object] = field(default_factory=list)  # certificates that came in

    def answer(self, path: str, token: str | None) -> tuple[int, dict[str, Any]]:
        parts, plural = urlsplit(path), urlsplit(path).path.rpartition("/")[2]
        self.asked.append(parts.path)
        if token != f"Bearer {TOKEN}":
            return 401, {"kind": "Status", "message": "Unauthorized"}
        if plural in self.refused or (not self.installed and "gateway" in parts.path):
            return self.refused.get(plural, 404), {
                "kind": "Status",
                "message": f"{plural} is forbidden: User cannot list",
            }
        query = {key: value[0] for key, value in parse_qs(parts.query).items()}
        assert int(query["limit"]) > 0
        wanted = [one for one in self.objects if kind_of(plural) == one["kind"].lower()]
        start = int(query.get("continue", "0"))
        items = [
            {key: one[key] for key in one if key not in ("kind", "apiVersion")} for one in wanted[start : start + PAGE]
        ]
        more = str(start + PAGE) if start + PAGE < len(wanted) else None
        return 200, {"kind": "List", "metadata": {"continue": more}, "items": items}


def kind_of(plural: str) -> str:
    return PLURALS.get(plural, plural.removesuffix("s")).lower()


@pytest.fixture
def api() -> Iterator[Api]:
    yield from _served(Api(rendered()), None)


def _served(api: Api, context: ssl.SSLContext | None) -> Iterator[Api]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if isinstance(self.connection, ssl.SSLSocket):
                api.clients.append(self.connection.getpeercert())
            status, body = api.answer(self.path, self.headers.get("authorization"))
            data = json.dumps(body).encode() if api.body is None else api.body
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api.url = f"{'https' if context is not None else 'http'}://127.0.0.1:{server.server_port}"
        yield api
        server.shutdown()


def kubeconfig(folder: Path, url: str, user: dict[str, Any], **cluster: Any) -> dict[str, str]:
    """Written; the environment that names it."""
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    return {"KUBECONFIG": str(path)}


@pytest.fixture
def audited(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    for name, value in kubeconfig(tmp_path, api.url, {"token": TOKEN}).items():
        monkeypatch.setenv(name, value)

    def run(*more: str) -> tuple[int, str]:
        status = main(["audit", "--config", str(EXAMPLE / "promptlane.yaml"), "--cluster", *more])
        out = capsys.readouterr()
        return status, out.out + out.err

    return run


def test_what_was_rendered_and_runs_is_kept_apart(audited: Any, api: Api) -> None:
    status, said = audited()
    assert status == 0, said
    assert "tenants are kept apart" in said
    assert len(api.asked) > len(set(api.asked)), "several pages"
    assert not any("secret" in path for path in api.asked)


def test_the_cluster_s_job_may_list_exactly_what_is_asked_for(audited: Any, api: Api) -> None:
    audited()
    (role,) = (one for one in api.objects if one["kind"] == "ClusterRole")
    allowed = {(group, name) for rule in role["rules"] for group in rule["apiGroups"] for name in rule["resources"]}
    parts = [path.strip("/").split("/") for path in api.asked]
    assert {("" if one[0] == "api" else one[1], one[-1]) for one in parts} == allowed


def test_what_is_missing_in_the_cluster_is_found(audited: Any, api: Api) -> None:
    removed("NetworkPolicy", "nothing-in-or-out", "llm-globex")(api.objects)
    status, said = audited()
    assert status == 1
    assert "default-deny: Namespace llm-globex: no NetworkPolicy closes Egress" in said


def test_a_pod_on_another_tenant_s_node_is_found(audited: Any, api: Api) -> None:
    ACMES(api.objects)
    made = next(one for one in api.objects if one["kind"] == "Deployment" and one["metadata"]["name"] == "globex-0")
    template = made["spec"]["template"]
    place = {"name": "globex-0-x", "namespace": "llm-globex", **template["metadata"]}
    api.objects.append({"kind": "Pod", "metadata": place, "spec": {**template["spec"], "nodeName": "n1"}})
    status, said = audited()
    assert status == 1
    assert "on-own-nodes: Pod llm-globex/globex-0-x: has a GPU of acme's node n1" in said


def test_a_cluster_without_gateway_api_is_audited_too(audited: Any, api: Api) -> None:
    api.installed = False
    assert audited()[0] == 0


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        ({"pods": 403}, "a list of Pod: the API answered 403: pods is forbidden"),
        ({"nodes": 404}, "a list of Node: the API answered 404"),
    ],
)
def test_what_may_not_be_read_ends_the_audit_and_is_no_all_clear(
    audited: Any, api: Api, refused: dict[str, int], expected: str
) -> None:
    api.refused = refused
    status, said = audited()
    assert status == 1
    assert expected in said
    assert "kept apart" not in said


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"items": 3}', b'{"metadata": {}}'])
def test_answers_that_are_no_lists_are_told(audited: Any, api: Api, body: bytes) -> None:
    api.body = body
    status, said = audited()
    assert (status, "cannot be read" in said) == (1, True), said


def test_another_token_is_refused_and_shown_nowhere(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path, api.url, {"token": "wrong-token"})["KUBECONFIG"])
    assert main(["audit", "--config", str(EXAMPLE / "promptlane.yaml"), "--cluster"]) == 1
    said = capsys.readouterr()
    assert "answered 401" in said.err
    assert "wrong-token" not in said.out + said.err


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    access = find_api(kubeconfig(tmp_path, "http://127.0.0.1:9", {"token": TOKEN}))
    with pytest.raises(ClusterFailed, match=r"cannot be reached \(ConnectError\)"):
        read_cluster(access)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secured(authority: trustme.CA) -> Iterator[Api]:
    """By TLS; a certificate of the client's is asked for and checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    yield from _served(Api(rendered()), context)


def test_kubeconfigs_have_authorities_certificates_and_tokens_inside_or_in_files(
    secured: Api, authority: trustme.CA, tmp_path: Path
) -> None:
    pem = authority.cert_pem.bytes()
    own = authority.issue_cert("somebody@example.com")
    inside = {"certificate-authority-data": base64.b64encode(pem).decode()}
    (tmp_path / "ca.pem").write_bytes(pem)
    (tmp_path / "key.pem").write_bytes(own.private_key_pem.bytes())
    (tmp_path / "cert.pem").write_bytes(own.cert_chain_pems[0].bytes())
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    files = {"tokenFile": "token", "client-certificate": "cert.pem", "client-key": str(tmp_path / "key.pem")}
    for user, cluster in (({"token": TOKEN}, inside), (files, {"certificate-authority": "ca.pem"})):
        secured.clients.clear()
        found = read_cluster(find_api(kubeconfig(tmp_path, secured.url, user, **cluster)))
        assert len(found) > 40
        assert all(bool(one) is ("client-key" in user) for one in secured.clients)


def test_a_server_that_others_vouch_for_is_not_believed(secured: Api, tmp_path: Path) -> None:
    other = base64.b64encode(trustme.CA().cert_pem.bytes()).decode()
    access = find_api(kubeconfig(tmp_path, secured.url, {"token": TOKEN}, **{"certificate-authority-data": other}))
    with pytest.raises(ClusterFailed, match="its certificate is not trusted"):
        read_cluster(access)
    assert secured.asked == []


def test_a_pod_uses_its_own_account(secured: Api, authority: trustme.CA, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "ca.crt").write_bytes(authority.cert_pem.bytes())
    port = str(urlsplit(secured.url).port)
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port, "HOME": str(tmp_path)}
    assert len(read_cluster(find_api(environ, tmp_path))) > 40


@pytest.mark.parametrize(
    ("user", "expected"),
    [({"exec": {"command": "aws"}}, "kubectl proxy"), ({"tokenFile": "gone"}, "cannot be read"),
     ({"client-certificate-data": "%%"}, "cannot be read")],
)  # fmt: skip
def test_credentials_that_cannot_be_had_are_told(tmp_path: Path, user: dict[str, Any], expected: str) -> None:
    with pytest.raises(ClusterFailed, match=expected):
        find_api(kubeconfig(tmp_path, "https://127.0.0.1:9", user))


@pytest.mark.parametrize("text", ["", "a: [", "current-context: x\ncontexts: []\n", "[]"])
def test_a_kubeconfig_that_says_nothing_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(ClusterFailed, match="names no cluster and user"):
        find_api({"KUBECONFIG": str(tmp_path / "config")})


def test_without_any_access_it_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ClusterFailed, match="there is no kubeconfig"):
        find_api({"HOME": str(tmp_path)})
    with pytest.raises(ClusterFailed, match=r"there is no .*gone"):
        find_api({"KUBECONFIG": str(tmp_path / "gone")})
    with pytest.raises(ClusterFailed, match="service account cannot be read"):
        find_api({"HOME": str(tmp_path), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)
