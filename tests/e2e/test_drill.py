"""`promptlane drill` as an operator runs it: a process of its own, a gateway under load, a pool with a warm standby.

Floor: tests only; simulated engines, as nothing else may be drilled without asking.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fleet import HEALTH, Fleet, chat, running_fleet
from tests.e2e.stack import ROOT

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def engines(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    if request.config.getoption("--engine") != "sim":
        pytest.skip("a drill is the gateway's own doing: what stands behind it does not matter")
    with running_fleet(2) as running:
        yield running


@pytest.fixture
async def fleet(engines: Fleet, tmp_path: Path) -> AsyncIterator[Fleet]:
    """A platinum tenant with one hot engine and a warm one."""
    roles = ("hot", "warm")
    endpoints = [{"name": f"e{n}", "url": engines.engines[n].url, "role": role} for n, role in enumerate(roles)]
    await engines.serve(
        (0, 1),
        tenants={"acme": {"tier": "platinum"}},
        pool={"endpoints": endpoints, "health": HEALTH},
        state={"drills_file": str(tmp_path / "drills.jsonl")},
    )
    yield engines
    await engines.settled()


async def drill(fleet: Fleet, *options: str) -> tuple[int, str, str]:
    argv = ["-m", "router.cli", "drill", "--config", str(fleet.config_file), "--tenant", "acme", *options]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *argv, cwd=ROOT, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_killed_hot_engine_is_made_up_for_and_nothing_is_lost(fleet: Fleet, tmp_path: Path) -> None:
    statuses: list[int] = []
    over = asyncio.Event()

    async def client() -> None:
        async with fleet.client() as http:
            while not over.is_set():
                statuses.append((await http.post(CHAT, json=chat())).status_code)

    clients = [asyncio.create_task(client()) for _ in range(2)]
    status, out, err = await drill(fleet, "--seconds", "2", "--json")
    over.set()
    await asyncio.gather(*clients)
    result: dict[str, Any] = json.loads(out)
    assert (status, err, result["status"]) == (0, "", "passed"), out
    assert (result["endpoints"], result["left"], result["pool"]) == (["e0"], ["e1"], fleet.pool)
    assert result["rto_seconds"] <= result["target_seconds"] == 5
    assert (result["probes_lost"], result["clients_lost"], set(result["answered_by"])) == (0, 0, {"e1"})
    assert result["clients_requests"] > 0
    assert set(statuses) == {200}
    assert [json.loads(line) for line in (tmp_path / "drills.jsonl").read_text().splitlines()] == [result]
    assert (await fleet.endpoint("e0"))["healthy"], "it is back"


async def test_a_hanging_engine_whose_requests_wait_is_told_in_a_table(fleet: Fleet) -> None:
    status, out, _ = await drill(fleet, "--fault", "hang", "--seconds", "1")
    rows = dict(line.split(None, 1) for line in out.splitlines() if line[0] != " ")
    assert (status, rows["verdict"], rows["fault"]) == (0, "passed", "hang of e0 for 1 s")
    assert rows["lost"].startswith("0 of ")


async def test_a_drill_that_nobody_could_survive_is_refused_with_1_and_says_how(fleet: Fleet) -> None:
    await fleet.reload(fleet.configuration((0,), tenants={"acme": {"tier": "platinum"}}))
    status, out, err = await drill(fleet)
    assert (status, out) == (1, "")
    assert "no other endpoint that could take over" in err
    assert "--force" in err
    status, out, _ = await drill(fleet, "--dry-run")
    assert (status, "nothing was done" in out, "nobody" in out) == (0, True, True)
