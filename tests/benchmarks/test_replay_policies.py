"""The rules of the routers that a replay compares, and the gateway's own objects in it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from benchmarks.replay_parts.baselines import BlockLru, CacheAware, Dynamo, LeastTokens
from benchmarks.replay_parts.fleet import Fleet
from benchmarks.replay_parts.gateway import Gateway
from benchmarks.replay_parts.references import CopyLru
from benchmarks.replay_parts.runs import build, known_policies, replay
from benchmarks.replay_parts.scraping import Kthena, LlmD
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import Job, Row, make_jobs
from benchmarks.replay_parts.workloads import agents

TWO = Setup(endpoints=2)


def job(number: int, prompt: int, blocks: range | tuple[int, ...] = (), output: int = 10) -> Job:
    ids = tuple(blocks) or tuple(range(1_000 * number, 1_000 * number + -(-prompt // 512)))
    made = make_jobs([Row(0.0, prompt, output, ids)], 512)[0]
    return replace(made, number=number)


def fleet_of(setup: Setup, jobs: int = 20) -> Fleet:
    fleet = Fleet(setup.engine(), setup.endpoints)
    fleet.log.arrived.extend([0.0] * jobs)
    fleet.log.first.extend([None] * jobs)
    fleet.log.cached.extend([0] * jobs)
    fleet.log.engine.extend([-1] * jobs)
    return fleet


def test_every_policy_serves_every_request_once_and_twice_the_same() -> None:
    jobs = make_jobs(agents(Random(3), 120, 300_000), 512)
    setup = Setup(endpoints=3, kv_tokens=102_400)
    for name in known_policies():
        fleet, router = build(name, setup)
        log = fleet.run(router, jobs, [one.at / 4 for one in jobs])
        assert log.rejected == 0, name
        for one in jobs:
            first, finished = log.first[one.number], log.finished[one.number]
            assert first is not None, name
            assert finished is not None, name
            assert one.at / 4 < first <= finished, name
        assert replay(name, setup, jobs, 4.0, 1.0) == replay(name, setup, jobs, 4.0, 1.0), name


def test_an_unknown_policy_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match="prompt-aware"):
        build("nearest", TWO)


def test_least_tokens_counts_a_request_until_it_has_finished() -> None:
    fleet = fleet_of(TWO)
    router = LeastTokens(fleet, TWO, "x")
    router.arrive(job(0, 5_000), 0.0)
    busy = fleet.log.engine[0]
    for number in range(1, 4):
        router.arrive(job(number, 400), 0.0)
    assert fleet.log.engine[1:4] == [1 - busy] * 3
    router.first_token(job(0, 5_000), busy, 1.0)
    assert router.choose(job(4, 10), 1.0) == 1 - busy
    router.finish(job(0, 5_000), busy, 2.0)
    assert router.choose(job(5, 10), 2.0) == busy


def test_cache_aware_follows_more_than_half_a_match_until_loads_are_far_apart() -> None:
    fleet = fleet_of(TWO, 100)
    router = CacheAware(fleet, TWO, "x")
    router.arrive(job(0, 2_048, range(4)), 0.0)
    home = fleet.log.engine[0]
    half, more = job(1, 4_096, (0, 1, 2, 3, 90, 91, 92, 93)), job(2, 3_584, (0, 1, 2, 3, 80, 81, 82))
    assert router.choose(half, 0.0) == 1 - home
    assert router.choose(more, 0.0) == home
    router.in_flight[home] = 33 + router.in_flight[1 - home]
    assert router.choose(more, 0.0) == 1 - home


def test_dynamo_weighs_uncached_blocks_against_the_blocks_of_active_requests() -> None:
    fleet = fleet_of(TWO)
    router = Dynamo(fleet, TWO, "x")
    cache = fleet.engines[1].model.cache
    table = cache.acquire([])
    cache.grow(table, 8)
    for index in range(8):
        cache.commit(table, index, index)
    cache.release(table)
    again = job(1, 8 * 512 + 100, (*range(8), 55))
    assert router.choose(again, 0.0) == 1
    router.sent(job(0, 5 * 512, range(100, 105)), 1, 0.0)  # 5 to prefill and 5 active: more than the 8 saved
    assert router.choose(again, 0.0) == 0
    router.prefilled(job(0, 5 * 512, range(100, 105)), 1, 1.0)
    assert router.choose(again, 1.0) == 1


def test_llm_d_sees_queues_no_sooner_than_it_scrapes_and_weighs_prefix_above_them() -> None:
    fleet = fleet_of(TWO)
    router = LlmD(fleet, TWO, "x")
    router.sent(job(0, 2_048, range(4)), 0, 0.0)
    same = job(1, 2_100, (0, 1, 2, 3, 44))
    assert router.choose(same, 0.0) == 0
    fleet.send(0, job(2, 9_000))
    assert router.choose(job(3, 9_000), 0.01) in (0, 1)
    assert router.waiting == [0, 0]
    assert router.choose(job(4, 9_000), 0.06) == 1
    assert router.waiting == [1, 0]
    assert router.choose(same, 0.06) == 0


def test_kthena_learns_a_prefix_when_its_answer_has_ended_and_avoids_long_queues() -> None:
    fleet = fleet_of(TWO)
    router = Kthena(fleet, TWO, "x")
    one = job(0, 2_048, range(4))
    router.sent(one, 1, 0.0)
    assert router._store[1].match(one.blocks) == 0
    router.in_flight[1] += 1
    router.finish(one, 1, 1.0)
    assert router._store[1].match(one.blocks) == 4
    assert router.choose(job(1, 2_100, (0, 1, 2, 3, 44)), 1.0) == 1
    for number in range(2, 12):
        fleet.send(1, job(number, 500))
    assert router.choose(job(12, 2_100, (0, 1, 2, 3, 45)), 2.0) == 0


def test_b_gives_engines_a_priority_and_d_holds_long_prompts_back_for_short_ones() -> None:
    rows = [Row(0.0, 60_000, 5, tuple(range(118)))]
    rows += [Row(0.1 * n, 30_000, 5, tuple(range(1_000 * n, 1_000 * n + 59))) for n in range(1, 5)]
    rows.append(Row(0.6, 500, 5, (9_999,)))
    jobs = make_jobs(rows, 512)
    setup = Setup(endpoints=1)
    waits = {}
    for name in ("policy-a", "policy-b", "policy-c", "policy-d"):
        fleet, router = build(name, setup)
        log = fleet.run(router, jobs, [one.at for one in jobs])
        first = log.first[5]
        assert first is not None
        waits[name] = first - 0.6
        assert all(at is not None for at in log.finished)
    assert waits["policy-d"] == pytest.approx(waits["policy-b"], rel=0.2)
    assert waits["policy-d"] < 0.6 * waits["policy-a"]
    assert waits["policy-c"] > 0.9 * waits["policy-a"]


def test_the_copying_index_keeps_blocks_in_flight_and_renews_them_at_the_finish() -> None:
    index = CopyLru(6)
    index.touch((1, 2))
    index.touch((3, 4))
    index.finish((3, 4), 0)
    index.touch((5, 6))  # full; the oldest are 2 and 1, which are in flight: 4 gives way
    assert (index.match((1, 2)), index.match((3, 4))) == (2, 1)
    index.finish((1, 2), 0)
    index.finish((5, 6), 0)
    assert index.match((1, 2)) == 2


def test_a_router_s_index_forgets_the_least_recent_tail_first() -> None:
    index = BlockLru(3)
    index.touch((1, 2))
    index.touch((3, 4))
    assert (index.match((1, 2)), index.match((3, 4)), len(index)) == (1, 2, 3)


def test_the_gateway_in_a_replay_leaves_no_reservation_behind_and_counts_what_it_turns_away() -> None:
    jobs = make_jobs([Row(0.001 * n, 9_000, 20, tuple(range(100 * n, 100 * n + 18))) for n in range(700)], 512)
    setup = replace(TWO, max_waiting=100)
    fleet = Fleet(setup.engine(), 2)
    gateway = Gateway(fleet, setup, "prompt-aware")
    log = fleet.run(gateway, jobs, [one.at for one in jobs])
    assert 0 < log.rejected < 600
    assert sum(at is not None for at in log.finished) == 700 - log.rejected
    for state in gateway.states:
        assert (state.in_flight, state.pending_prefills, state.outstanding_tokens) == (0, 0, 0.0)


def test_the_gateway_turns_away_whoever_waited_too_long() -> None:
    jobs = make_jobs([Row(0.001 * n, 9_000, 20, tuple(range(100 * n, 100 * n + 18))) for n in range(700)], 512)
    setup = replace(TWO, max_wait=5.0)
    fleet = Fleet(setup.engine(), 2)
    log = fleet.run(Gateway(fleet, setup, "prompt-aware"), jobs, [one.at for one in jobs])
    assert log.rejected > 0
    assert sum(at is not None for at in log.finished) == 700 - log.rejected
