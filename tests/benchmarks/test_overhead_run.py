"""Whole turns of the benchmark with small gateways of the test's own: no program needs to be installed for these.

Run as a program (`python -m tests.benchmarks.test_overhead_run ARGUMENTS`), this file is `benchmarks.overhead` with
the gateway `direct` added, a third backend: the cheapest gateway there is.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks import overhead
from benchmarks.overhead_parts import installs
from benchmarks.overhead_parts.gateways import (
    GATEWAYS,
    Gateway,
    Litellm,
    Nginx,
    OneWorker,
    Promptlane,
    PromptlaneInterpreted,
    PromptlaneResume,
    SglangRouter,
    TwoWorkers,
    VllmRouter,
)
from benchmarks.overhead_parts.measure import tree
from benchmarks.overhead_parts.measures import FULL, Measure
from benchmarks.overhead_parts.processes import OWN_MODULES, ROOT, Child, Failed, NotStarted, cores
from benchmarks.overhead_parts.report import Result
from benchmarks.overhead_parts.rounds import Bench, bench
from benchmarks.overhead_parts.traffic import Scenario
from tests.benchmarks.test_overhead_processes import BOUND_SECONDS, alive, becomes

SECONDS = 0.25
BACKENDS = ("http://127.0.0.1:1001", "http://127.0.0.1:1002")


class Direct(Gateway):
    """Answers by itself, as a backend does."""

    name = "direct"

    def install(self) -> None:
        pass

    def command(self, backends: Sequence[str], folder: Path) -> list[str | Path]:
        return [sys.executable, "-m", "benchmarks.overhead_parts.backend", "--port", str(self.port)]

    @property
    def environment(self) -> dict[str, str]:
        return OWN_MODULES


KEEP_WRITES = "writes = backend.stream_writes;"
LIES = """
import sys
UNCHUNKED = b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n"
from benchmarks.overhead_parts import answers, backend
{change}
backend.main()
"""


class Lying(Direct):
    """A backend that is changed first, and is taken for ready as soon as it listens."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self._change = change

    def command(self, backends: Sequence[str], folder: Path) -> list[str | Path]:
        return [sys.executable, "-c", LIES.format(change=self._change), "--port", str(self.port)]


@pytest.fixture(scope="module")
def here() -> Iterator[Bench]:
    with bench(cores()) as running:
        yield running


def test_a_turn_measures_every_figure_and_checks_every_answer(here: Bench) -> None:
    turn = here.turn(Direct(), SECONDS)
    assert turn.raw["requests"]["answers"] > 32
    assert (turn.raw["streams"]["answers"], turn.raw["streams"]["chunks"]) == (64, 64 * 64)
    assert turn.raw["latency"]["answers"] > 1
    assert 0 < turn.request_us < 1e5
    assert 0 < turn.chunk_us < 1e5
    assert turn.first_byte_p50_ms >= 9  # the engine's own first chunk comes after 10 ms, by a clock of whole ms
    assert turn.requests_per_s > 0
    assert 0 < turn.busy_percent < 110
    assert turn.rss_mb > 5
    assert 0 <= turn.others_percent < 100 * (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("backend._CHAT = answers.http_answer(b'{}', '500 Oops')", "compare: BadAnswer: not a 200"),
        ("backend._CHAT = answers.http_answer(answers.CHAT_BODY + b' ')", "compare: BadAnswer: body of"),
        (f"{KEEP_WRITES} backend.stream_writes = lambda n: writes(n - 1)", "66 events for 67"),
        (
            f"{KEEP_WRITES} backend.stream_writes = lambda n: [UNCHUNKED]",
            "stream: BadAnswer: a stream that is not chunked",
        ),
    ],
)
def test_a_gateway_that_changes_an_answer_fails_with_the_difference(here: Bench, change: str, reason: str) -> None:
    gateway = Lying(change)
    gateway.ready = lambda: listens(gateway.port)  # type: ignore[method-assign]
    with pytest.raises(Failed, match=reason):
        here.turn(gateway, SECONDS)
    assert gateway.pids == []


def test_what_a_gateway_does_after_its_answers_is_counted_for_them(here: Bench) -> None:
    burn = "until = time.process_time() + 0.005\n    while not self._timer and time.process_time() < until: pass"
    lost = f"import time\ndef lost(self, exc):\n    {burn}"  # behind whole answers, as their client goes
    gateway = Lying(f"{lost}\nbackend.Connection.connection_lost = lost")
    gateway.ready = lambda: listens(gateway.port)  # type: ignore[method-assign]
    gateway.afterwards = 1.0  # type: ignore[misc]
    turn = here.turn(gateway, SECONDS)
    raw = turn.raw["requests"]
    assert raw["cpu_seconds"] - raw["busy_seconds"] >= 0.5 * 32 * 0.005 / 1.3  # the rest goes on while the load ends
    assert turn.request_us == pytest.approx(raw["cpu_seconds"] / raw["answers"] * 1e6)
    assert turn.busy_percent < 110


def listens(port: int) -> bool:
    return f":{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()


def test_a_gateway_that_does_not_start_is_absent_with_its_last_words(here: Bench) -> None:
    gateway = Lying("sys.exit('no such thing')")
    with pytest.raises(NotStarted, match="ended at the start: no such thing"):
        here.turn(gateway, SECONDS)
    results = [Result("direct")]
    overhead.measure(here, [(Lying("sys.exit('no such thing')"), results[0])], rounds=2, seconds=SECONDS)
    assert results[0].absent == "ended at the start: no such thing"


def test_a_gateway_that_cannot_be_installed_is_absent_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Nginx) -> None:
        raise Failed("nginx is not on PATH")

    monkeypatch.setattr(Nginx, "install", refuse)
    result = Result("nginx")
    assert overhead.installed([result]) == []
    assert result.absent == "nginx is not on PATH"


def own(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.test_overhead_run", "--gateways", "direct", *arguments]


def test_a_run_prints_the_table_and_writes_the_json(tmp_path: Path) -> None:
    command = own("--rounds", "1", "--seconds", str(SECONDS), "--json", str(tmp_path / "result.json"))
    done = subprocess.run(command, cwd=ROOT, timeout=240, check=True, capture_output=True, text=True)
    assert re.search(r"^ *direct +[\d.]+ +[\d.]+ ", done.stdout, re.MULTILINE)
    written = json.loads((tmp_path / "result.json").read_text())
    assert len(written["gateways"]["direct"]["turns"]) == 1


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_nothing_survives_an_interrupted_run(tmp_path: Path, end: signal.Signals) -> None:
    with Child(own("--seconds", "60"), cores()[1], tmp_path / "log", env={"PYTHONPATH": str(ROOT)}) as run:
        assert becomes(lambda: len(tree([run.pid])) == 5)  # itself, two backends, the load, the gateway
        started = [pid for pid in tree([run.pid]) if pid != run.pid]
        run.signal(end)
        assert run.wait(BOUND_SECONDS) == 130
        assert becomes(lambda: not any(map(alive, started)))  # the kernel ends what is left, a little later


def test_promptlane_gets_a_key_limits_and_both_endpoints_in_the_contracts_shape(tmp_path: Path) -> None:
    gateway = Promptlane()
    gateway.port = 1000
    command = gateway.command(BACKENDS, tmp_path)
    config = yaml.safe_load(Path(command[-1]).read_text())
    key = gateway.headers["authorization"].removeprefix("Bearer ")
    tenant = config["tenants"]["bench"]
    assert tenant["api_keys"][0]["sha256"] == hashlib.sha256(key.encode()).hexdigest()
    assert set(tenant["limits"]) == {"requests_per_minute", "tokens_per_minute", "concurrency"}
    endpoints = config["pools"][tenant["models"]["bench"]["pool"]]["endpoints"]
    assert [(endpoint["url"], endpoint["role"]) for endpoint in endpoints] == [(url, "hot") for url in BACKENDS]
    assert config["server"]["port"] == 1000
    assert config["server"]["routing_headers"] is True
    assert config["state"]["ledger_url"] == f"sqlite:///{tmp_path}/promptlane.db"


def test_without_a_compiler_the_compiled_form_is_absent_and_the_interpreted_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(installs, "COMPILED", ROOT / ".work" / "no-such-folder")
    results = [Result("promptlane"), Result("promptlane-interpreted")]
    assert [type(gateway) for gateway, _ in overhead.installed(results)] == [PromptlaneInterpreted]
    assert results[0].absent.startswith("there is no C compiler")


def test_the_compiled_form_runs_from_its_folder_and_the_other_from_the_checkout() -> None:
    gateway = Promptlane()
    gateway._modules = installs.COMPILED
    assert gateway.environment["PYTHONPATH"].split(":")[0] == str(installs.COMPILED)
    assert gateway.environment["PYTHONSAFEPATH"], "or `-m` would find the checkout first"
    assert PromptlaneInterpreted().environment["PYTHONPATH"].split(":")[0] == OWN_MODULES["PYTHONPATH"]


@pytest.mark.parametrize(("kind", "resume"), [(Promptlane, False), (PromptlaneResume, True)])
def test_streams_that_can_go_on_are_measured_apart(tmp_path: Path, kind: type[Promptlane], resume: bool) -> None:
    gateway = kind()
    config = yaml.safe_load(Path(gateway.command(BACKENDS, tmp_path)[-1]).read_text())
    assert config["tiers"][config["tenants"]["bench"]["tier"]]["resume"] is resume


@pytest.mark.parametrize(("kind", "workers"), [(OneWorker, 1), (TwoWorkers, 2)])
def test_workers_are_measured_with_all_cores(tmp_path: Path, kind: type[OneWorker], workers: int) -> None:
    gateway = kind()
    config = yaml.safe_load(Path(gateway.command(BACKENDS, tmp_path)[-1]).read_text())
    assert config["server"]["workers"] == workers
    assert gateway.all_cores


def test_litellm_gets_both_backends_and_is_spared_what_takes_it_minutes(here: Bench, tmp_path: Path) -> None:
    gateway = Litellm()
    gateway.port, gateway._program = 1000, Path("litellm")
    command = " ".join(map(str, gateway.command(BACKENDS, tmp_path)))
    assert "--port 1000" in command
    config = json.loads((tmp_path / "litellm.json").read_text())
    assert [model["litellm_params"]["api_base"] for model in config["model_list"]] == [f"{url}/v1" for url in BACKENDS]
    assert not gateway.heavy

    class Slow(Direct):
        heavy = False

    measures = [Measure("few", Scenario(2)), Measure("many", Scenario(2), heavy=True)]
    more = here.turn(Slow(), SECONDS, measures).more
    assert "few: µs/request" in more
    assert "many: µs/request" not in more


def test_a_full_turn_has_every_figure_of_every_measure(here: Bench) -> None:
    small = [replace(one, scenario=replace(one.scenario, connections=2), waves=1) for one in FULL]
    more = here.turn(Direct(), SECONDS, small).more
    for one in small:
        assert more[f"{one.name}: {'µs/chunk' if one.scenario.chunks else 'µs/request'}"] > 0
    assert "added p99 ms" in more


def test_nginx_passes_to_both_backends_with_keep_alive_and_without_buffering(tmp_path: Path) -> None:
    gateway = Nginx()
    gateway.port, gateway._program = 1000, "nginx"
    gateway.command(BACKENDS, tmp_path)
    config = (tmp_path / "nginx.conf").read_text()
    for part in ("server 127.0.0.1:1001; server 127.0.0.1:1002; keepalive", "listen 127.0.0.1:1000", "buffering off"):
        assert part in config


@pytest.mark.parametrize("kind", [SglangRouter, VllmRouter])
def test_a_rust_router_is_cache_aware_over_both_backends(tmp_path: Path, kind: type[SglangRouter]) -> None:
    gateway = kind()
    gateway.port, gateway._python = 1000, Path("python")
    command = " ".join(map(str, gateway.command(BACKENDS, tmp_path)))
    assert f"--worker-urls {' '.join(BACKENDS)} " in command
    assert "--policy cache_aware" in command
    assert "--port 1000" in command


if __name__ == "__main__":
    GATEWAYS[Direct.name] = Direct
    sys.exit(overhead.main())
