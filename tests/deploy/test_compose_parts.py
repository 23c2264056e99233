"""The small parts of Compose, run for real: the proxy before Ollama, the password file, Prometheus' configuration."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from deploy.compose import make_secrets
from router.cli import main
from tests.deploy.tools import DEPLOY, run, tool
from tests.servers import PostgresServer, Server, free_port, launch, start_postgres, temporary_folder

COMPOSE = DEPLOY / "compose"
SECONDS = 90.0


@dataclass
class Ollama:
    """Answers two pieces, the second once somebody has seen the first."""

    seen: list[tuple[str, bytes]] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)

    def handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        ollama = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(b'{"version":"0.12.6"}' if self.path == "/api/version" else b"")

            def do_POST(self) -> None:
                ollama.seen.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                self._piece(b"data: one\n\n")
                assert ollama.go_on.wait(SECONDS)
                self._piece(b"data: [DONE]\n\n")
                self.wfile.write(b"0\r\n\r\n")

            def _piece(self, data: bytes) -> None:
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()

            def _answer(self, data: bytes) -> None:
                self.send_response(200 if data else 404)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None: ...

        return Handler


@contextmanager
def proxy(upstream: int) -> Iterator[str]:
    """nginx with the file of this repository, between other ports."""
    port, written = free_port(), (COMPOSE / "ollama.conf").read_text()
    server = written.replace("listen 8000", f"listen 127.0.0.1:{port}")
    server = server.replace("initech-ollama:11434", f"127.0.0.1:{upstream}")
    assert server.count(f"127.0.0.1:{upstream}") == 2
    with temporary_folder("nginx") as (folder, remove):
        folder.chmod(0o755)
        paths = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main_file = folder / "nginx.conf"
        main_file.write_text(
            f"daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off; {paths} {server} }}"
        )
        command = [tool("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(main_file)]
        process, log = launch("nginx", command, folder)
        found = Server("nginx", f"http://127.0.0.1:{port}", process, log, [remove])
        found.start(lambda: _answers(f"{found.url}/health"), SECONDS)
        try:
            yield found.url
        finally:
            found.stop()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=60.0, trust_env=False).status_code in (200, 502)
    except httpx2.HTTPError:
        return False


def test_ollama_behind_the_proxy_answers_as_an_engine_does() -> None:
    ollama = Ollama()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ollama.handler()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with proxy(server.server_port) as url, httpx2.Client(base_url=url, timeout=SECONDS, trust_env=False) as http_:
            assert http_.get("/health").status_code == 200
            assert http_.get("/metrics").status_code == 404
            assert http_.post("/api/pull", content=b"{}").status_code == 404, "only what a gateway asks passes"
            body = json.dumps({"model": "qwen2.5:7b", "stream": True}).encode()
            with http_.stream("POST", "/v1/chat/completions", content=body) as answer:
                pieces = answer.iter_bytes()
                assert next(pieces) == b"data: one\n\n", "streams pass as they come"
                ollama.go_on.set()
                assert b"".join(pieces) == b"data: [DONE]\n\n"
            assert ollama.seen == [("/v1/chat/completions", body)]
        server.shutdown()


def test_the_proxy_says_that_ollama_is_gone() -> None:
    with proxy(free_port()) as url:
        assert httpx2.get(f"{url}/health", timeout=60.0, trust_env=False).status_code == 502


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    """One that wants a password of `promptlane`."""
    server = start_postgres()
    try:
        yield server
    finally:
        server.stop()


def test_the_gateway_gets_into_the_database_by_the_password_file_and_not_without(
    database: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_secrets.os, "chown", lambda *arguments: None)
    for name in ("gateway", "postgres", "grafana", "spool"):
        (tmp_path / name).mkdir()
    make_secrets.main(tmp_path, tmp_path / "spool")
    password = (tmp_path / "postgres" / "password").read_text().strip()
    database.psql(f"create role promptlane login password '{password}'")
    database.psql("create database promptlane owner promptlane")
    hba = Path(database.psql("show hba_file"))
    hba.write_text("host all postgres 127.0.0.1/32 trust\nhost all promptlane 127.0.0.1/32 scram-sha-256\n")
    database.psql("select pg_reload_conf()")

    port = database.url.rpartition(":")[2].partition("/")[0]
    passfile = tmp_path / "gateway" / "pgpass"
    passfile.write_text(passfile.read_text().replace("postgres:5432", f"127.0.0.1:{port}"))
    said = yaml.safe_load((COMPOSE / "promptlane.yaml").read_text())
    url = said["state"]["ledger_url"].replace("postgres:5432", f"127.0.0.1:{port}")
    said["state"] |= {"ledger_url": url.replace("/secrets/gateway/pgpass", str(passfile))}
    said["server"]["secret_file"] = str(tmp_path / "gateway" / "promptlane.secret")
    config = tmp_path / "promptlane.yaml"
    config.write_text(yaml.safe_dump(said))

    create = ["keys", "create", "--config", str(config), "--tenant", "acme"]
    assert main(create) == 0, capsys.readouterr().err
    assert "pl-" in capsys.readouterr().out
    os.chmod(passfile, 0o644)
    assert main(create) == 1, "libpq ignores a file that others may read"
    assert password not in capsys.readouterr().err


def test_prometheus_takes_its_configuration(promtool: str, tmp_path: Path) -> None:
    said: dict[str, Any] = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yaml").read_text())
    said["rule_files"] = [str(DEPLOY / "observability" / "prometheus" / "*.yaml")]
    file = tmp_path / "prometheus.yaml"
    file.write_text(yaml.safe_dump(said))
    done = run(promtool, "check", "config", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout
