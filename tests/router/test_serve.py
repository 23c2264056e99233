"""`promptlane serve` as operators run it: starting, signals, reloads, TLS, logs. Real processes on real sockets."""

from __future__ import annotations

import contextlib
import copy
import json
import resource
import signal
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from router.secret import cache_salt
from tests.router.gateway_process import ROOT, SECRET, Engines, Gateway, configuration, request, rest
from tests.router.stack import read_answer, sha256

EXAMPLE = ROOT / "tests" / "examples" / "two-tenants.yaml"
ASK = {"model": "qwen", "messages": [{"role": "user", "content": "prompt-mark " * 50}]}
STREAM = {**ASK, "stream": True}


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    made = Engines("e0", "e1")
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _fresh(engines: Engines) -> None:
    engines.reset()


@contextlib.contextmanager
def serving(folder: Path, config: dict[str, Any] | Path, **environment: str) -> Iterator[Gateway]:
    gateway = Gateway(folder, config, **{"PROMPTLANE_SECRET": SECRET, **environment})
    try:
        yield gateway.wait_ready()
    finally:
        gateway.stop()


def config_of(engines: Engines, **server: Any) -> dict[str, Any]:
    return configuration({"e0": engines.url("e0")}, **server)


def salts(engines: Engines) -> list[str]:
    return [json.loads(one.partition(b"\r\n\r\n")[2])["cache_salt"] for one in engines["e0"].received]


# -- starting


def test_the_contract_file_is_served_while_its_engines_are_down(tmp_path: Path) -> None:
    ports = {"PROMPTLANE_SERVER__PORT": "0", "PROMPTLANE_SERVER__ADMIN_PORT": "0"}
    with serving(tmp_path, EXAMPLE, **ports) as gateway:
        status, headers, body = gateway.post({"model": "qwen2-7b", "messages": []}, "pl-acme-example-key")
        assert (status, body["error"]["code"]) == (503, "no_endpoint")
        assert int(headers["retry-after"]) >= 1
        assert gateway.post({"model": "qwen2-7b", "messages": []}, "unknown")[0] == 401
        assert [gateway.admin(path).status_code for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]
        assert "promptlane_endpoint_available" in gateway.admin("/metrics").text
        state = gateway.admin("/admin/state").text
        assert set(json.loads(state)["pools"]) == {"acme-qwen", "globex-qwen"}
        keys = [
            key["sha256"]
            for tenant in yaml.safe_load(EXAMPLE.read_text())["tenants"].values()
            for key in tenant["api_keys"]
        ]
        hidden = [SECRET, *keys, cache_salt(SECRET.encode(), "acme"), cache_salt(SECRET.encode(), "globex")]
        assert not [secret for secret in hidden if secret in state + gateway.output]


@pytest.mark.parametrize("taken", ["port", "admin_port"])
def test_a_port_in_use_is_a_clear_line_and_exit_1(tmp_path: Path, engines: Engines, taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        gateway = Gateway(tmp_path, config_of(engines, **{taken: port}), PROMPTLANE_SECRET=SECRET)
        assert gateway.ended() == 1
        assert f"server.{taken}: cannot listen on 127.0.0.1:{port}" in gateway.output
        assert "Traceback" not in gateway.output


@pytest.mark.parametrize("broken", ["missing", "no PEM"])
def test_a_certificate_that_cannot_be_used_is_a_clear_line_and_exit_1(
    tmp_path: Path, engines: Engines, broken: str
) -> None:
    for name in ("cert.pem", "key.pem"):
        if broken == "no PEM":
            (tmp_path / name).write_text("nothing")
    tls = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
    gateway = Gateway(tmp_path, config_of(engines, tls=tls), PROMPTLANE_SECRET=SECRET)
    assert gateway.ended() == 1
    assert "server.tls" in gateway.output
    assert "Traceback" not in gateway.output


def test_a_broken_configuration_is_not_served(tmp_path: Path, engines: Engines) -> None:
    config = config_of(engines, prot=1)
    config["tenants"]["acme"]["tier"] = "tin"
    gateway = Gateway(tmp_path, config, PROMPTLANE_SECRET=SECRET)
    assert gateway.ended() == 1
    assert "2 mistakes" in gateway.output


def test_processes_with_one_secret_send_one_salt_also_after_a_restart(tmp_path: Path, engines: Engines) -> None:
    config = config_of(engines)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        with serving(tmp_path / folder, config) as gateway:
            gateway.wait_healthy("e0")
            assert gateway.post(ASK)[0] == 200
    assert salts(engines) == [cache_salt(SECRET.encode(), "acme")] * 2
    engines.reset()
    for _ in range(2):  # now by the file that the first start makes
        gateway = Gateway(tmp_path, config).wait_ready()
        gateway.wait_healthy("e0")
        assert gateway.post(ASK)[0] == 200
        gateway.stop()
    first, second = salts(engines)
    assert first == second != cache_salt(SECRET.encode(), "acme")
    assert stat.S_IMODE((tmp_path / "promptlane.secret").stat().st_mode) == 0o600


# -- ending


def test_a_stream_under_way_finishes_while_nobody_new_is_let_in(tmp_path: Path, engines: Engines) -> None:
    with serving(tmp_path, config_of(engines, shutdown_grace=60)) as gateway:
        gateway.wait_healthy("e0")
        with gateway.stream(engines, "e0", STREAM) as sock:
            gateway.signal(signal.SIGTERM)
            gateway.until(lambda: gateway.admin("/readyz").status_code == 503, "not ready")
            gateway.until(lambda: _refused(gateway), "no new connections")
            assert gateway.admin("/healthz").status_code == 200
            engines.release("e0")
            assert rest(sock).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert gateway.ended() == 0
        assert "Traceback" not in gateway.output


def test_until_balancers_have_noticed_it_answers_and_says_that_connections_end(
    tmp_path: Path, engines: Engines
) -> None:
    with serving(tmp_path, config_of(engines, shutdown_delay=6.0)) as gateway:
        gateway.wait_healthy("e0")
        with gateway.connect() as kept, gateway.stream(engines, "e0", STREAM) as under_way:
            engines["e0"].reply = engines["e0"].answer
            kept.sendall(request(ASK))
            status, headers, _ = read_answer(kept)
            assert (status, headers.get("connection")) == (200, None)
            gateway.signal(signal.SIGTERM)
            gateway.until(lambda: gateway.admin("/readyz").status_code == 503, "not ready")
            kept.sendall(request(ASK))
            status, headers, _ = read_answer(kept)
            assert (status, headers["connection"]) == (200, "close")
            assert kept.recv(1) == b""
            status, headers, _ = gateway.post(ASK)
            assert (status, headers["connection"]) == (200, "close")
            engines.release("e0")
            assert rest(under_way).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            assert under_way.recv(1) == b"", "what it had answered last is over"
        assert gateway.ended() == 0


def _refused(gateway: Gateway) -> bool:
    try:
        gateway.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_after_its_grace_a_stream_is_cut_and_the_engine_freed(tmp_path: Path, engines: Engines) -> None:
    engine = engines["e0"]

    async def begin(received: bytes, writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"d\r\ndata: first\n\n\r\n")
        await engine.silent(received, writer)

    with serving(tmp_path, config_of(engines, shutdown_grace=0.2)) as gateway:
        gateway.wait_healthy("e0")
        engine.reply = begin
        with gateway.connect() as sock:
            sock.sendall(request(STREAM))
            data = b""
            while b"data: first" not in data:
                data += sock.recv(65536)
            gateway.signal(signal.SIGTERM)
            cut = rest(sock)
            assert b"last" not in cut
            assert not cut or b'"shutting_down"' in cut, (
                "broken off, or ended with an error event: never as if complete"
            )
        assert gateway.ended() == 0
        assert "Traceback" not in gateway.output
    engines.run(engine.client_left.wait())


def test_an_idle_kept_connection_does_not_delay_the_end(tmp_path: Path, engines: Engines) -> None:
    with serving(tmp_path, config_of(engines, shutdown_grace=60)) as gateway:
        gateway.wait_healthy("e0")
        with gateway.connect() as sock:
            sock.sendall(request(ASK))
            assert read_answer(sock)[0] == 200
            gateway.signal(signal.SIGINT)
            assert gateway.ended() == 0


# -- reloading


def test_reloads_swap_what_is_valid_and_keep_what_is_under_way(tmp_path: Path, engines: Engines) -> None:
    config = config_of(engines)
    with serving(tmp_path, config) as gateway:
        gateway.wait_healthy("e0")
        first = int(gateway.post(ASK)[1]["x-ratelimit-remaining-requests"])
        with gateway.stream(engines, "e0", STREAM) as sock:
            # By signal: a new tenant; the pool did not change.
            more = copy.deepcopy(config)
            more["tenants"]["globex"] = {
                "api_keys": [{"id": "new", "sha256": sha256("globex-key")}],
                "models": {"other": {"pool": "acme"}},
            }
            more["pools"]["acme"]["shared"] = True
            gateway.write(more)
            gateway.signal(signal.SIGHUP)
            engines["e0"].reply = engines["e0"].answer
            gateway.until(lambda: gateway.post({**ASK, "model": "other"}, "globex-key")[0] == 200, "the new key works")
            kept = gateway.endpoints()["e0"]
            assert kept["in_flight"] == 1
            assert kept["prefix_blocks"] > 0
            # By request: the pool gets a second endpoint; the first keeps its load, affinity and health.
            changed = copy.deepcopy(more)
            changed["pools"]["acme"]["endpoints"].append({"name": "e1", "url": engines.url("e1")})
            changed["pools"]["acme"]["retries"] = 1
            changed["server"]["keep_alive_timeout"] = 5
            gateway.write(changed)
            answer = gateway.admin("/admin/reload", "POST")
            assert (answer.status_code, answer.json()["status"]) == (200, "reloaded")
            assert [warning for warning in answer.json()["warnings"] if "keep_alive_timeout" in warning]
            kept = gateway.endpoints()["e0"]
            assert (kept["healthy"], kept["in_flight"]) == (True, 1)
            assert kept["prefix_blocks"] > 0
            gateway.wait_healthy("e0", "e1")
            # A limit's use is remembered: the stream and this request, beside the first one.
            assert int(gateway.post(ASK)[1]["x-ratelimit-remaining-requests"]) == first - 2
            engines.release("e0")
            assert rest(sock).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        gateway.until(lambda: gateway.endpoints()["e0"]["in_flight"] == 0, "the seat is free again")
        _refuses_what_is_broken(gateway, changed)


def _refuses_what_is_broken(gateway: Gateway, config: dict[str, Any]) -> None:
    broken = copy.deepcopy(config)
    del broken["tenants"]["globex"]["api_keys"]
    broken["pools"]["acme"]["retries"] = "some"
    broken["server"]["prot"] = 1
    gateway.write(broken)
    answer = gateway.admin("/admin/reload", "POST")
    assert (answer.status_code, answer.json()["status"]) == (400, "refused")
    said = "\n".join(answer.json()["problems"])
    assert [place for place in ("tenants.globex", "pools.acme.retries", "server.prot") if place not in said] == []
    for content in ("a: [", ""):
        gateway.write(content)
        assert gateway.admin("/admin/reload", "POST").status_code == 400
    refused = 'promptlane_config_reloads_total{result="refused"}'
    gateway.signal(signal.SIGHUP)
    gateway.until(lambda: f"{refused} 4.0" in gateway.admin("/metrics").text, "a refused reload by signal is counted")
    gateway.file.unlink()
    assert gateway.admin("/admin/reload", "POST").status_code == 400
    assert gateway.post(ASK, "globex-key")[0] == 404, "the tenant of the last good configuration is still known"
    assert gateway.post(ASK)[0] == 200
    assert "Traceback" not in gateway.output


# -- TLS


def test_tenants_are_served_by_tls_and_engines_reached_by_tls(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = ca.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(tmp_path / "cert.pem", append=bool(number))
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(server_side)
    engines = Engines("good", "strange", tls=server_side)
    config = configuration(
        {"good": engines.url("good", "https")},
        tls={"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")},
    )
    health = config["pools"]["acme"]["health"]
    config["pools"]["acme"]["tls"] = {"ca_file": str(tmp_path / "ca.pem")}
    config["pools"]["other"] = {
        "endpoints": [{"name": "strange", "url": engines.url("strange", "https")}],
        "health": health,
    }
    config["tenants"]["acme"]["models"]["untrusted"] = {"pool": "other"}
    try:
        with serving(tmp_path, config) as gateway:
            gateway.wait_healthy("good")
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            with context.wrap_socket(gateway.connect(), server_hostname="localhost") as sock:
                for model, status in (("qwen", 200), ("untrusted", 503), ("qwen", 200)):
                    sock.sendall(request({**ASK, "model": model}))
                    assert read_answer(sock)[0] == status
            assert not engines["strange"].received, "an engine of an unknown authority gets nothing"
            assert gateway.admin("/readyz").status_code == 200
    finally:
        engines.stop()


# -- logs


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_log_line_holds_a_prompt_a_key_or_a_body(tmp_path: Path, engines: Engines, style: str) -> None:
    config = config_of(engines, log_level="debug", log_format=style, cors={"allow_origins": ["https://a.example"]})
    config["pools"]["acme"]["engine_api_key"] = "engine-key-mark"
    with serving(tmp_path, config) as gateway:
        gateway.wait_healthy("e0")
        _, headers, _ = gateway.post(ASK, origin="https://a.example")
        assert headers["access-control-allow-origin"] == "https://a.example"
        assert "x-request-id" in headers["access-control-expose-headers"]
        gateway.post(ASK, "wrong-key-mark")
        gateway.post({**ASK, "model": "model-mark"})
        gateway.post(b'{"model":"qwen","messages":"body-mark')
        gateway.post({**ASK, "messages": [{"content": {"field-mark": 1}}]})
        with gateway.connect() as sock:
            sock.sendall(b"GET header-mark\r\n\r\n")
            read_answer(sock)
        for reply in (_raising, _hanging_up, _answering_nonsense):
            engines["e0"].reply = reply
            gateway.post(ASK)
        assert gateway.admin("/admin/reload", "POST").status_code == 200
        gateway.signal(signal.SIGTERM)
        assert gateway.ended() == 0
        sent = ["prompt", "acme-key", "wrong-key", "model", "body", "field", "header", "engine-key", "answer"]
        marks = [f"{word}-mark" if word != "acme-key" else word for word in sent]
        hidden = [sha256("acme-key"), SECRET, cache_salt(SECRET.encode(), "acme")]
        assert not [mark for mark in (*marks, *hidden) if mark in gateway.output]
        assert "Traceback" not in gateway.output
        lines = [line for line in gateway.output.splitlines() if not line.startswith(("promptlane ready", "warning:"))]
        assert lines, "something is logged at this level"
        if style == "json":
            assert all({"time", "level", "logger", "message"} <= json.loads(line).keys() for line in lines)


async def _raising(_: bytes, writer: Any) -> None:
    body = b'{"error":{"message":"answer-mark"}}'
    writer.write(b"HTTP/1.1 500 Oops\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


async def _hanging_up(_: bytes, writer: Any) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nanswer-mark")
    writer.transport.close()


async def _answering_nonsense(_: bytes, writer: Any) -> None:
    writer.write(b"answer-mark\r\n\r\n")
    writer.transport.close()


def test_as_many_files_may_be_open_as_the_system_allows(tmp_path: Path, engines: Engines) -> None:
    """A soft limit of 1,024, which is usual, would end at some 500 streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with serving(tmp_path, config_of(engines)) as gateway:
            metrics = gateway.admin("/metrics").text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (limit,) = [line for line in metrics.splitlines() if line.startswith("process_max_fds ")]
    assert float(limit.split()[1]) == hard


# -- keys at run time


def test_a_reload_says_that_another_database_needs_a_restart_and_keeps_the_one_there_is(
    engines: Engines, tmp_path: Path
) -> None:
    config = config_of(engines)
    config["state"] = {"ledger_url": f"sqlite:///{tmp_path}/one.db"}
    with serving(tmp_path, config) as gateway:
        key = gateway.admin("/admin/keys", "POST", {"tenant": "acme"}).json()["key"]
        ledger = {"on_full": "refuse"}
        gateway.write({**config, "state": {"ledger_url": f"sqlite:///{tmp_path}/two.db"}, "ledger": ledger})
        answer = gateway.admin("/admin/reload", "POST").json()
        assert "ledger.on_full: changed; takes effect at the next restart" in answer["warnings"]
        assert "state.ledger_url: changed; takes effect at the next restart" in answer["warnings"]
        gateway.wait_healthy("e0")
        assert gateway.post(ASK, key=key)[0] == 200, "keys outlive a reload"
        assert not (tmp_path / "two.db").exists()
