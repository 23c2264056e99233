"""Drills on a running gateway with recording engines: what fails, what is measured, what is refused, what is kept."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from policies.drill import DrillFault
from policies.standby import Level
from router.drill import Drills
from router.drill_report import report_lines
from router.drill_results import KEPT_LINES, DrillResults
from router.drill_stage import DrillOrder
from router.errors import BadRequest
from tests.router.stack import ENGINES, Stack, chat, running, two_tenants

HOOK = """\
import sys
open(sys.argv[1], "a").write(" ".join(sys.argv[2:]) + "\\n")
sys.exit(3 if "fail" in sys.argv[1] else 0)
"""


def configuration(folder: Path) -> dict[str, Any]:
    """acme with a hot engine and a warm one, and a hook; a pool that two tenants share."""
    config = two_tenants()
    config["state"] = {"drills_file": str(folder / "drills.jsonl")}
    config["pools"]["acme"]["endpoints"][1]["role"] = "warm"
    config["pools"]["acme"]["standby"] = {"calm_seconds": 0.05, "max_failovers": 1000}  # one drill after the other
    config["pools"]["globex"]["retry_wait"] = 0  # else who is failed by all waits until the drill is over
    config["pools"]["acme"]["drill_hook"] = [sys.executable, str(folder / "hook.py"), str(folder / "calls")]
    config["pools"]["globex"]["drill_hook"] = [sys.executable, str(folder / "hook.py"), str(folder / "fail")]
    config["tenants"]["acme"]["models"]["other"] = {"pool": "open", "engine_model": "tiny"}
    config["pools"]["open"]["shared"] = True
    (folder / "hook.py").write_text(HOOK)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drill")


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[Stack]:
    with running(configuration(folder), ENGINES) as one:
        yield one


@pytest.fixture
def drills(stack: Stack) -> Drills:
    stack.run(stack.all_available())
    standby = stack.app.runtime.standbys["acme"]
    stack.run(_until(lambda: standby.level is Level.HOT))
    for engine in stack.engines.values():
        engine.received.clear()
    return Drills(lambda: stack.app.runtime, stack.process.metrics)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - time has to pass
            await asyncio.sleep(0.02)


def drilled(stack: Stack, drills: Drills, tenant: str = "acme", **fields: Any) -> dict[str, Any]:
    if tenant == "acme":
        fields.setdefault("model", "tiny")
    order = DrillOrder(tenant=tenant, **{"seconds": 1, **fields})
    result: dict[str, Any] = stack.run(drills.run(order))
    return result


def refused(stack: Stack, drills: Drills, *parts: str, **fields: Any) -> None:
    with pytest.raises(BadRequest) as error:
        drilled(stack, drills, **fields)
    assert [part for part in parts if part not in error.value.message] == []


@pytest.mark.parametrize("fault", ["kill", "refuse"])
def test_a_standby_answers_while_the_hot_engine_cannot_be_reached(stack: Stack, drills: Drills, fault: str) -> None:
    result = drilled(stack, drills, fault=fault)
    assert (result["status"], result["met"], result["probes_lost"]) == ("passed", True, 0)
    assert (result["endpoints"], result["left"]) == (["acme-0"], ["acme-1"])
    assert result["rto_seconds"] < result["target_seconds"] == 5
    assert list(result["answered_by"]) == ["acme-1"]
    assert result["back_seconds"] is not None
    salt = stack.app.runtime.gateway.directory.by_id["acme"].cache_salt.encode()  # canaries have others
    probes = [request for request in stack.engines["acme-0"].received if salt in request]
    assert len(probes) == 1, "the one before the fault, and none while it lasted"


def test_nothing_of_a_drill_is_left(stack: Stack, drills: Drills) -> None:
    drilled(stack, drills)
    pool = stack.app.runtime.pools["acme"]
    assert [place.upstream.fault for place in pool.places] == [None, None]
    assert [(state.in_flight, place.upstream.busy) for state, place in zip(pool.states, pool.places, strict=True)] == [
        (0, 0),
        (0, 0),
    ]
    stack.run(_until(lambda: stack.app.runtime.standbys["acme"].level is Level.HOT))
    assert stack.post("/v1/chat/completions", chat(), key="acme-key")[1]["x-promptlane-endpoint"] == "acme-0"


def test_probes_are_the_tenants_own_and_are_neither_limited_nor_counted(stack: Stack, drills: Drills) -> None:
    metrics = stack.process.metrics
    before = metrics.total("promptlane_requests", "acme"), metrics.total("promptlane_completion_tokens", "acme")
    result = drilled(stack, drills)
    assert (
        metrics.total("promptlane_requests", "acme"),
        metrics.total("promptlane_completion_tokens", "acme"),
    ) == before
    assert (result["clients_requests"], result["probes"] > 2) == (0, True)
    salts = {json.loads(request.split(b"\r\n\r\n")[1])["cache_salt"] for request in stack.engines["acme-1"].received}
    assert salts == {stack.app.runtime.gateway.directory.by_id["acme"].cache_salt}


def test_clients_requests_that_are_lost_fail_the_drill(stack: Stack, drills: Drills) -> None:
    """acme-0 dies while it answers a stream, which nobody can go on with: its client has part of it already."""
    engine = stack.engines["acme-0"]
    event = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
    begun = threading.Event()

    async def half(request: bytes, writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
        begun.set()
        await engine.silent(request, writer)

    engine.reply = half
    client = threading.Thread(
        target=stack.post, args=("/v1/chat/completions", chat(stream=True)), kwargs={"key": "acme-key"}
    )
    client.start()
    assert begun.wait(60)
    engine.reply = engine.answer
    result = drilled(stack, drills)
    client.join(60)
    assert (result["status"], result["met"], result["clients_lost"]) == ("failed", True, 1)


def test_without_anybody_to_take_over_it_is_refused_and_with_force_it_fails(stack: Stack, drills: Drills) -> None:
    refused(stack, drills, "no other endpoint", "--force", tenant="globex")
    result = drilled(stack, drills, tenant="globex", force=True)
    assert (result["status"], result["rto_seconds"], result["answered_by"]) == ("failed", None, {})
    assert result["probes_lost"] == result["probes"] > 0
    assert any("no_endpoint" in why or "engine_unreachable" in why for why in result["reasons"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tenant": "nobody"}, "no tenant 'nobody'. Known: acme, globex, open"),
        ({"model": "nothing"}, "no model 'nothing'. Known: other, qwen2-7b, tiny"),
        ({"model": None}, "2 pools: name a model"),
        ({"endpoint": "globex-0"}, "no endpoint 'globex-0' in the pool. Known: acme-0, acme-1"),
        ({"model": "other"}, "Tenants open share the pool"),
        ({"tenant": "open", "real": True}, "drill_hook is not configured"),
    ],
)
def test_what_cannot_be_exercised_is_refused(stack: Stack, drills: Drills, fields: dict[str, Any], said: str) -> None:
    refused(stack, drills, said, **fields)
    assert list(drills.results) == []


def test_a_dry_run_says_what_would_be_done_and_does_nothing(stack: Stack, drills: Drills) -> None:
    result = drilled(stack, drills, dry_run=True, model="other", seconds=None)
    assert (result["status"], result["seconds"], result["shared_with"]) == ("planned", 10, ["open"])
    assert result["problems"] == [
        "Pool 'open' has no other endpoint that could take over.",
        "Tenants open share the pool and would suffer it too.",
    ]
    assert not any(engine.received for engine in stack.engines.values())


def test_one_pool_has_one_drill_at_a_time(stack: Stack, drills: Drills) -> None:
    first = threading.Thread(target=drilled, args=(stack, drills), kwargs={"seconds": 5})
    pool = stack.app.runtime.pools["acme"]
    first.start()
    while pool.places[0].upstream.fault is None:
        assert first.is_alive()
    refused(stack, drills, "is under way")
    first.join(60)
    assert len(drills.results) == 1


def test_a_pool_that_does_not_answer_anyway_is_left_alone(stack: Stack, drills: Drills) -> None:
    engine = stack.engines["acme-0"]

    async def not_found(_: bytes, writer: Any) -> None:
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}")

    engine.reply = not_found
    refused(stack, drills, "does not answer even before the drill (404 no completion)")
    engine.reply = engine.answer


def test_a_hanging_engine_is_no_failed_probe(stack: Stack, drills: Drills) -> None:
    """`/health` stays good, so only who watches for progress finds out; the probes wait and are answered in the end."""
    result = drilled(stack, drills, fault="hang", endpoint="acme-0")
    assert result["probes_lost"] == 0
    assert result["probes"] > 2


# -- real faults


def test_a_real_drill_runs_the_operators_hook(stack: Stack, drills: Drills, folder: Path) -> None:
    result = drilled(stack, drills, real=True, fault="hang")
    url = stack.app.runtime.pools["acme"].states[0].endpoint.url
    assert (folder / "calls").read_text().splitlines() == [f"begin hang acme-0 {url}", f"end hang acme-0 {url}"]
    assert (result["status"], result["real"]) == ("passed", True)
    assert result["answered_by"] == {"acme-0": result["probes"]}, "the hook of this test breaks nothing"


def test_a_hook_that_fails_is_told_and_ended_all_the_same(stack: Stack, drills: Drills, folder: Path) -> None:
    refused(stack, drills, "ended with 3", tenant="globex", real=True, force=True)
    actions = [line.split()[0] for line in (folder / "fail").read_text().splitlines()]
    assert actions == ["begin", "end"]


# -- results


def test_results_are_kept_in_memory_and_in_the_file(stack: Stack, drills: Drills, folder: Path) -> None:
    (folder / "drills.jsonl").unlink(missing_ok=True)
    result = drilled(stack, drills)
    assert list(drills.results) == [result]
    assert [json.loads(line) for line in (folder / "drills.jsonl").read_text().splitlines()] == [result]


async def test_the_file_is_bounded_and_one_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "drills.jsonl"
    file.write_text("\n".join(str(number) for number in range(KEPT_LINES)) + "\n")
    results = DrillResults()
    await results.keep({"status": "passed"}, str(file))
    lines = file.read_text().splitlines()
    assert (len(lines), lines[0], lines[-1]) == (KEPT_LINES, "1", '{"status": "passed"}')
    await results.keep({"status": "failed"}, str(tmp_path / "none" / "drills.jsonl"))
    assert [one["status"] for one in results.last] == ["passed", "failed"]


def test_the_report_says_all_of_it(stack: Stack, drills: Drills) -> None:
    text = "\n".join(report_lines(drilled(stack, drills)))
    for part in ("acme (platinum), model tiny, pool acme", "kill of acme-0 for 1 s", "(target 5 s: met)", "passed"):
        assert part in text
    plan = "\n".join(report_lines(drilled(stack, drills, dry_run=True)))
    assert "nothing was done" in plan


@pytest.mark.parametrize("fault", list(DrillFault))
def test_health_probes_fail_only_where_nobody_can_connect(stack: Stack, drills: Drills, fault: DrillFault) -> None:
    states: list[bool] = []
    pool = stack.app.runtime.pools["acme"]
    worker = threading.Thread(target=drilled, args=(stack, drills), kwargs={"fault": fault})
    worker.start()
    while worker.is_alive():
        if pool.places[0].upstream.fault is not None:
            states.append(pool.states[0].health.state(pool.clock()) == "unhealthy")
        worker.join(0.01)
    assert any(states) is (fault in (DrillFault.KILL, DrillFault.REFUSE))
