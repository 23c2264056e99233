"""`promptlane drill` as an operator runs it: a process of its own, a gateway under load, a pool with a warm standby.

Floor: tests only; simulated engines, as nothing else may be drilled without asking.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet, running_fleet
from tests.e2e.front import HEALTH
from tests.e2e.standby import drill, drill_under_load


@pytest.fixture(scope="module")
def engines() -> Iterator[Fleet]:
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


async def test_a_killed_hot_engine_is_made_up_for_and_nothing_is_lost(fleet: Fleet, tmp_path: Path) -> None:
    result, statuses = await drill_under_load(fleet, "--seconds", "2")
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
