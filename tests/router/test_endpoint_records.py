"""Endpoints' time in records: by what each did, in periods of a minute, on the day in which it passed.

Floor: tests only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.endpoint_state import EndpointState
from policies.health import EndpointHealth, ProbeState
from policies.types import Endpoint, Role
from router.endpoint_records import MISSED_SECONDS, PERIOD_SECONDS, EndpointRecords
from router.metrics import Metrics
from router.wire.record import Record

DAY = 86_400.0
WALL = 20_000 * DAY + 1000.0


@dataclass
class Owner:
    looks: bool = True

    def looks_after(self) -> bool:
        return self.looks


@dataclass
class World:
    """Pools of endpoints, and what has been written of them."""

    now: float = 0.0
    wall: float = WALL
    pools: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.meter = EndpointRecords(
            lambda: self.pools.values(), self.records.append, Metrics(), lambda: self.now, lambda: self.wall + self.now
        )

    def add(self, pool: str, *endpoints: Endpoint, remote: Owner | None = None) -> list[EndpointState]:
        states = [EndpointState(one, health=EndpointHealth(assume_healthy=True)) for one in endpoints]
        self.pools[pool] = cast("Any", SimpleNamespace(name=pool, states=states, remote=remote))
        self.meter.look()
        return states

    def look(self, seconds: float, times: int = 1) -> None:
        for _ in range(times):
            self.now += seconds
            self.meter.look()

    def detail(self) -> dict[str, Any]:
        (record,) = self.records
        assert record.detail is not None
        return record.detail


def endpoint(name: str = "e0", **more: Any) -> Endpoint:
    return Endpoint(name, f"http://{name}", **{"hourly_cost": 3.6, **more})


async def test_a_minute_is_one_record_that_says_what_it_cost() -> None:
    world = World()
    world.add("one", endpoint())
    world.look(2.0, times=31)  # the last look begins another
    (record,) = world.records
    assert (record.kind, record.pool, record.endpoint, record.tenant) == ("endpoint", "one", "e0", None)
    assert record.detail == {"role": "hot", "awake": 60_000_000, "asleep": 0, "absent": 0, "hourly_cost": 3.6}
    assert (record.engine_micro_seconds, record.cost_micro) == (60_000_000, 60_000)
    await world.meter.stop()
    assert sum(one.engine_micro_seconds for one in world.records) == 62_000_000, "and the rest at the end"


async def test_time_counts_to_what_the_endpoint_does() -> None:
    world = World()
    (state,) = world.add("one", endpoint(role=Role.COLD))
    world.look(5.0)
    state.sleeping = True
    world.look(7.0)
    state.health.probes = ProbeState.UNHEALTHY
    world.look(11.0)
    await world.meter.stop()
    detail = world.detail()
    assert [detail[name] for name in ("awake", "asleep", "absent")] == [5_000_000, 7_000_000, 11_000_000]
    assert world.records[0].engine_micro_seconds == 12_000_000, "a cold one that is absent is not rented"


async def test_a_period_ends_with_its_day() -> None:
    world = World(wall=20_001 * DAY - 5.0)
    world.add("one", endpoint())
    world.look(2.0, times=4)
    await world.meter.stop()
    assert [(int(one.at // DAY), one.engine_micro_seconds) for one in world.records] == [
        (20_000, 4_000_000),
        (20_001, 4_000_000),
    ]


async def test_another_price_begins_another_period() -> None:
    world = World()
    (state,) = world.add("one", endpoint())
    world.look(10.0)
    state.endpoint = replace(state.endpoint, hourly_cost=7.2)
    world.look(0.0)
    world.look(10.0)
    await world.meter.stop()
    assert [one.cost_micro for one in world.records] == [10_000, 20_000]


async def test_only_who_looks_after_a_pool_writes() -> None:
    world, owner = World(), Owner(looks=False)
    world.add("one", endpoint(), remote=owner)
    world.look(10.0)
    owner.looks = True
    world.look(5.0)
    world.look(20.0)
    owner.looks = False
    world.look(10.0)
    assert [one.engine_micro_seconds for one in world.records] == [20_000_000]


async def test_an_engine_of_several_pools_is_paid_for_once() -> None:
    world = World()
    shared = endpoint(role=Role.WARM)
    world.add("one", shared)
    world.add("two", shared)
    world.look(10.0)
    await world.meter.stop()
    assert sum(one.cost_micro for one in world.records) == 10_000
    assert {one.pool for one in world.records} == {"one", "two"}


async def test_a_process_that_was_stopped_says_nothing_of_that_time() -> None:
    world = World()
    world.add("one", endpoint())
    world.look(MISSED_SECONDS + 1)
    world.look(3.0)
    await world.meter.stop()
    assert [one.engine_micro_seconds for one in world.records] == [3_000_000]


@given(steps=st.lists(st.tuples(st.floats(0.0, MISSED_SECONDS - 1.0), st.sampled_from(["awake", "asleep", "absent"]))))
async def test_all_time_that_was_seen_is_written_once(steps: list[tuple[float, str]]) -> None:
    world = World(wall=20_001 * DAY - 3 * PERIOD_SECONDS)
    (state,) = world.add("one", endpoint())
    for seconds, doing in steps:
        state.sleeping = doing == "asleep"
        state.health.probes = ProbeState.UNHEALTHY if doing == "absent" else ProbeState.HEALTHY
        world.look(seconds)
    await world.meter.stop()
    written = sum(one.engine_micro_seconds for one in world.records)
    assert written == pytest.approx(1e6 * sum(seconds for seconds, _ in steps), abs=len(steps) + 1)
