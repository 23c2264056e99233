"""The live states of several workers as that of one."""

from __future__ import annotations

from typing import Any

from router.workers.merged_state import leader, merged, merged_pool


def pool(part: str, in_flight: int, busy: int, waiting: int = 0) -> dict[str, Any]:
    endpoint = {"name": "e", "in_flight": in_flight, "outstanding_tokens": in_flight, "connections": {"busy": busy}}
    return {
        "waiting": waiting,
        "replica": {"part": part, "term": 3, "under_way": busy, "seats_of_followers": 0},
        "endpoints": [endpoint],
    }


def state(part: str, in_flight: int = 0, busy: int = 0, **more: Any) -> dict[str, Any]:
    base = {"version": "1", "profile": "x", "replicas": {"me": part}, "tenants": {"acme": {}}, "drills": []}
    return {**base, "pools": {"p": pool(part, in_flight, busy)}, "calibration": {}, "answers": [], **more}


def test_the_owner_says_how_a_pool_is_and_connections_are_added_up() -> None:
    found = merged_pool({0: pool("follows", 2, 2), 1: pool("leads", 5, 3, waiting=4)})
    assert found["waiting"] == 4
    assert found["endpoints"] == [
        {"name": "e", "in_flight": 5, "outstanding_tokens": 5, "connections": {"busy": 5}},
    ]
    assert found["replica"]["part"] == "leads"
    assert found["replica"]["under_way"] == 5
    assert {index: one["part"] for index, one in found["replica"]["workers"].items()} == {"0": "follows", "1": "leads"}


def test_where_the_owner_is_elsewhere_all_say_together_what_they_have_there() -> None:
    found = merged_pool({0: pool("follows", 2, 2), 1: pool("alone", 5, 5, waiting=1)})
    assert (found["endpoints"][0]["in_flight"], found["waiting"]) == (7, 1)
    assert found["replica"]["part"] == "follows"


def test_who_decides_is_asked_and_else_who_is_nearest_to_it() -> None:
    assert leader({0: pool("alone", 0, 0), 1: pool("follows", 0, 0), 2: pool("leads", 0, 0)}) == 2
    assert leader({0: pool("alone", 0, 0), 1: pool("follows", 0, 0)}) == 1
    assert leader({3: {"replica": None}, 2: {"replica": None}}) == 2


def test_what_each_knows_by_itself_is_shown_for_each_and_drills_of_all_in_their_order() -> None:
    lengths = [{"tenant": "acme", "model": "m", "answers": count} for count in (3, 9)]
    states = {
        0: state("leads", drills=[{"at": "2026-01-02"}], answers=[lengths[0]]),
        2: state("follows", drills=[{"at": "2026-01-01"}], answers=[lengths[1]]),
    }
    workers = {index: {"worker": index, "stage": "serving"} for index in range(3)}
    found = merged(states, workers)
    assert [one["at"] for one in found["drills"]] == ["2026-01-01", "2026-01-02"]
    assert found["answers"] == [lengths[1]]
    assert [one.get("replicas") for one in found["workers"]] == [{"me": "leads"}, None, {"me": "follows"}]
    assert found["tenants"] == {"acme": {}}


def test_caches_in_memory_are_added_up_and_of_one_in_redis_only_what_each_has_counted() -> None:
    def caches(store: str, entries: int, hits: int) -> dict[str, Any]:
        counts = {"hit": hits, "miss": 1, "bypass": 0, "unfit": 2}
        return {"acme": {"store": store, "entries": entries, "bytes": 100 * entries, **counts}}

    memory = merged({0: state("leads", caches=caches("memory", 2, 5)), 1: state("follows", caches={})}, {})["caches"]
    assert memory == caches("memory", 2, 5)
    both = {0: state("leads", caches=caches("memory", 2, 5)), 1: state("follows", caches=caches("memory", 3, 7))}
    summed = {"entries": 5, "bytes": 500, "hit": 12, "miss": 2, "bypass": 0, "unfit": 4}
    assert merged(both, {})["caches"] == {"acme": {"store": "memory"} | summed}
    shared = {0: state("leads", caches=caches("redis", 2, 5)), 1: state("follows", caches=caches("redis", 3, 7))}
    assert merged(shared, {})["caches"]["acme"] | {"hit": 12} == merged(shared, {})["caches"]["acme"]
    assert merged(shared, {})["caches"]["acme"]["entries"] == 3


def test_without_any_worker_that_serves_there_is_still_an_answer() -> None:
    assert merged({}, {0: {"stage": "starting"}}) == {"pools": {}, "workers": [{"stage": "starting"}]}
