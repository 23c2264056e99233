"""The desk: who may wait, who goes next, what each lane may send, and when to come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from policies.admission.desk import LAG_WORTH, WAITING_BOUNDS, Desk
from policies.admission.order import BATCH_SECONDS, ShortestPrefillFirst
from policies.admission.saturation import DEFAULT_POLICIES, LanePolicy
from policies.endpoint_state import EndpointState
from policies.types import InferenceRequest, Lane, Rejection, RejectReason
from policies.waiting import Waiting
from tests.policies.builders import load, make_fleet, make_request, make_state, make_view

RATES = make_state().rates


def desk(
    lanes: Mapping[Lane, LanePolicy] = DEFAULT_POLICIES, bounds: Mapping[Lane, int] = WAITING_BOUNDS, endpoints: int = 1
) -> Desk:
    return Desk(ShortestPrefillFirst(), lanes, bounds, endpoints)


def enter(one: Desk, states: Sequence[EndpointState], request: InferenceRequest, now: float = 0.0) -> Waiting:
    waiting = Waiting(request)
    assert not isinstance(one.enter(waiting, states, now), Rejection)
    return waiting


def batch(tokens: int = 1000, **more: object) -> InferenceRequest:
    return replace(make_request(prompt_tokens=tokens, max_output_tokens=0, blocks=(), lane=Lane.BATCH), **more)


# -- who may wait


@pytest.mark.parametrize("lane", Lane)
def test_a_full_lane_refuses_and_leaves_the_others_room(lane: Lane) -> None:
    one, states = desk(bounds=dict.fromkeys(Lane, 20)), make_fleet(1)
    for _ in range(20):
        enter(one, states, make_request(lane=lane))
    verdict = one.enter(Waiting(make_request(lane=lane)), states, 0.0)
    assert isinstance(verdict, Rejection)
    assert verdict.reason is RejectReason.QUEUE_FULL
    # Long work gives way to short, and batch work to both; nothing gives way to those.
    others = {Lane.SHORT: (), Lane.LONG: (Lane.SHORT,), Lane.BATCH: (Lane.SHORT, Lane.LONG)}[lane]
    for other in others:
        assert not isinstance(one.enter(Waiting(make_request(lane=other)), states, 0.0), Rejection)
    assert len(one) == 20 + len(others)


def test_who_finds_a_full_lane_takes_the_place_of_the_last_request_of_the_worst_tier() -> None:
    one, states = desk(bounds=dict.fromkeys(Lane, 4)), make_fleet(1)
    enter(one, states, make_request("a", tenant="gold", tier_priority=1))
    silver = [
        enter(one, states, make_request(name, tenant="silver", tier_priority=2, prompt_tokens=tokens, blocks=()))
        for name, tokens in (("b", 100), ("c", 9000), ("d", 200))
    ]
    assert one.makes_room(make_request("e", tier_priority=0)) is silver[1]
    assert one.makes_room(make_request("e", tier_priority=1)) is silver[1]
    assert one.makes_room(make_request("e", tier_priority=2)) is None
    assert one.makes_room(make_request("e", tier_priority=0, lane=Lane.LONG)) is None, "its lane has room"


def test_nobody_gives_way_to_batch_that_is_refused_for_the_sake_of_others() -> None:
    one, states = desk(bounds=dict.fromkeys(Lane, 10)), make_fleet(1)
    for _ in range(9):
        enter(one, states, make_request(tier_priority=2))
    for _ in range(1):
        enter(one, states, make_request(tier_priority=2))
    assert one.makes_room(batch(tier_priority=0)) is None


def test_batch_that_is_refused_for_an_interactive_queue_is_told_when_that_will_have_been_sent() -> None:
    one, states = desk(bounds=dict.fromkeys(Lane, 100)), make_fleet(1)
    for _ in range(90):
        enter(one, states, make_request(lane=Lane.LONG))
    verdict = one.enter(Waiting(batch()), states, 0.0)
    assert isinstance(verdict, Rejection)
    assert verdict == Rejection(RejectReason.QUEUE_FULL, one.retry_after(Lane.LONG, 0.0), "90 requests wait")
    assert verdict.retry_after == 90.0


@pytest.mark.parametrize("per_second", [0.5, 4.0])
def test_who_is_refused_is_told_when_those_that_wait_will_have_been_sent(per_second: float) -> None:
    one, states = desk(bounds=dict.fromkeys(Lane, 40)), make_fleet(1)
    waiting = [enter(one, states, make_request(str(number))) for number in range(40)]
    now = 0.0
    for _ in range(200):  # a steady drain, with the queue full all the time
        now += 1 / per_second
        one.sent(waiting.pop(0), RATES, 0, now)
        waiting.append(enter(one, states, make_request(), now))
    verdict = one.enter(Waiting(make_request()), states, now)
    assert isinstance(verdict, Rejection)
    assert verdict.retry_after == pytest.approx(40 / per_second, rel=0.1)
    assert one.retry_after(Lane.SHORT, now) == verdict.retry_after


def test_a_lane_where_nothing_is_sent_says_later_and_later() -> None:
    one, states = desk(bounds=dict.fromkeys(Lane, 10)), make_fleet(1)
    for _ in range(10):
        enter(one, states, make_request())
    told = [one.retry_after(Lane.SHORT, now) for now in (0.0, 5.0, 10.0, 30.0)]
    assert told == sorted(set(told))


# -- who goes next


def test_a_tenant_that_is_ahead_of_its_share_stands_behind_by_its_lag() -> None:
    one, states = desk(), make_fleet(1)
    large = {"prompt_tokens": 30_000, "blocks": ()}
    mine = [enter(one, states, make_request(tenant="a", arrived_at=at, **large)) for at in (0.0, 1.0)]
    other = enter(one, states, make_request(tenant="b", arrived_at=2.0, **large))
    view = make_view(states)
    assert one.next(view, 9) == [*mine, other], "equal work: who came first"
    one.sent(mine[0], RATES, 0, 0.0)
    lag = one.shares[Lane.SHORT, Lane.LONG].lag("a")
    assert lag * LAG_WORTH > ShortestPrefillFirst().ageing, "more than the second of age between them"
    assert one.next(view, 9) == [other, mine[1]]


def test_a_tenant_of_more_weight_is_as_far_ahead_after_more_work() -> None:
    one, states = desk(), make_fleet(1)
    for tenant, weight in (("light", 1.0), ("heavy", 4.0)):
        for number in range(6):
            request = make_request(f"{tenant}{number}", tenant=tenant, prompt_tokens=30_000, blocks=())
            enter(one, states, replace(request, weight=weight))
    sent = []
    for _ in range(5):
        waiting = one.next(make_view(states), 64)[0]
        one.sent(waiting, RATES, 0, 0.0)
        sent.append(waiting.request.tenant)
    assert sent.count("heavy") == 4


def test_work_counts_for_nobody_once_it_is_known_that_there_was_none() -> None:
    one, states = desk(), make_fleet(1)
    for tenant in "ab":
        for number in range(2):
            enter(one, states, make_request(f"{tenant}{number}", tenant=tenant, blocks=()))
    first = next(waiting for waiting in one.queue if waiting.request.tenant == "a")
    share = one.shares[Lane.SHORT, Lane.LONG]
    turn = one.sent(first, RATES, 0, 0.0)
    assert share.lag("a") > 0
    turn.worked(0.0)
    assert share.lag("a") == pytest.approx(0.0)
    turn.worked(5.0)
    assert share.lag("a") == pytest.approx(0.0), "the first call counts"


def test_batch_work_counts_neither_for_nor_against_a_tenants_interactive_share() -> None:
    one, states = desk(lanes={}), make_fleet(1)
    for tenant in "ab":
        enter(one, states, make_request(tenant=tenant))
        enter(one, states, batch(tenant=tenant))
        work = enter(one, states, batch(75_000, tenant=tenant))
    one.sent(work, RATES, 0, 0.0)
    assert one.shares[Lane.SHORT, Lane.LONG].lag("b") == 0.0
    assert one.shares[(Lane.BATCH,)].lag("b") > 1.0


def test_a_tenant_that_waits_in_another_interactive_lane_waits() -> None:
    one, states = desk(), make_fleet(1)
    short = enter(one, states, make_request(tenant="a"))
    enter(one, states, make_request(tenant="a", lane=Lane.LONG))
    other, _ = (enter(one, states, make_request(tenant="b")) for _ in range(2))
    one.sent(short, RATES, 0, 0.0)
    share = one.shares[Lane.SHORT, Lane.LONG]
    before = share.lag("a")
    one.sent(other, RATES, 0, 0.0).worked(0.0)
    assert share.lag("a") == pytest.approx(before) != 0.0, "what b was charged beside a is corrected"


def test_those_that_have_failed_come_by_themselves_in_order_of_arrival() -> None:
    one, states = desk(), make_fleet(2)
    enter(one, states, make_request("new"))
    tried = [Waiting(make_request(str(number), prompt_tokens=9000 - number), frozenset({"e0"})) for number in range(3)]
    for waiting in tried:
        one.enter(waiting, states, 0.0)
    view = make_view(states)
    assert one.again(view, 9) == tried
    assert one.again(view, 2) == tried[:2]
    one.leave(tried[0], 0.0)
    assert one.again(view, 9) == tried[1:]
    assert desk().again(view, 9) == ()


# -- lanes


def saturated(states: Sequence[EndpointState]) -> None:
    for state in states:
        load(state, 60.0)


def test_a_lane_above_its_ceiling_sends_nothing_more_than_its_minimum_and_that_is_level_with_the_others() -> None:
    states = [make_state("e0", kv_capacity_tokens=100_000)]
    one = desk({Lane.BATCH: LanePolicy(ceiling=0.5, min_share=0.02, max_share=0.5)})
    work = [enter(one, states, batch(arrived_at=-1.0)) for _ in range(5)]
    short = enter(one, states, make_request(prompt_tokens=1000, max_output_tokens=0, blocks=()))
    saturated(states)
    view = make_view(states)
    assert one.next(view, 9)[:2] == work[:2], "it is owed 2,000 tokens, and an equal one came first"
    one.sent(work[0], RATES, 0, 0.0)
    assert one.next(view, 9) == [work[1], *work[2:], short]
    assert one.allows(work[1])
    one.sent(work[1], RATES, 0, 0.0)
    assert one.next(view, 9) == [short], "it has its 2,000 tokens, and the pool is above its ceiling"
    assert not one.allows(work[2])


def test_below_its_ceiling_batch_gets_what_is_left_and_stands_behind() -> None:
    states = [make_state("e0", kv_capacity_tokens=100_000)]
    one = desk({Lane.BATCH: LanePolicy(ceiling=0.9, min_share=0.001, max_share=0.5)})
    work = [enter(one, states, batch()) for _ in range(3)]
    short = enter(one, states, make_request(prompt_tokens=8000, max_output_tokens=0, blocks=(), arrived_at=1.0))
    one.sent(work[0], RATES, 0, 0.0)
    assert one.next(make_view(states), 9) == [short, *work[1:]]
    assert one.allows(work[1])


def test_a_lane_stops_within_one_pass_when_what_was_sent_in_it_has_filled_its_share() -> None:
    states = [make_state("e0", kv_capacity_tokens=10_000)]
    one = desk({Lane.BATCH: LanePolicy(max_share=0.5)})
    work = [enter(one, states, batch()) for _ in range(9)]
    assert one.next(make_view(states), 64) == work
    sent = 0
    for waiting in work:
        if one.allows(waiting):
            one.sent(waiting, RATES, 0, 0.0)
            sent += 1
    assert sent == 5


def test_a_tenant_whose_lane_is_shut_does_not_keep_others_out_of_the_window() -> None:
    states = [make_state("e0", kv_capacity_tokens=1000)]
    one = desk({Lane.BATCH: LanePolicy(max_share=0.5)})
    one.sent(Waiting(batch(500)), RATES, 0, 0.0)
    for _ in range(70):
        enter(one, states, batch(arrived_at=-10_000.0))
    short = enter(one, states, make_request())
    assert one.next(make_view(states), 64) == [short]


# -- after a reload


def test_batch_in_flight_before_a_reload_counts_after_it() -> None:
    states = [make_state("e0", kv_capacity_tokens=10_000)]
    policy = {Lane.BATCH: LanePolicy(max_share=0.5)}
    before, after = desk(policy), desk(policy)
    turn = before.sent(Waiting(batch(5000)), RATES, 0, 0.0)
    after.inherit(before)
    waiting = enter(after, states, batch())
    assert after.next(make_view(states), 9) == []
    assert not after.allows(waiting)
    before.ended(turn)
    assert after.next(make_view(states), 9) == [waiting]
    assert after.allows(waiting)


def test_what_is_sent_before_and_after_a_reload_drains_one_queue_and_is_one_tenants_work() -> None:
    before, after, states = desk(), desk(), make_fleet(1)
    now = 0.0
    enter(before, states, make_request(tenant="b"), now)
    for _ in range(600):
        waiting = enter(before, states, make_request(tenant="a"), now)
        now += 0.1
        before.sent(waiting, RATES, 0, now)
    after.inherit(before)
    assert after.drain[Lane.SHORT].rate(now) == pytest.approx(10.0, rel=0.2)
    for tenant in "ab":
        enter(after, states, make_request(tenant=tenant, blocks=()), now)
    assert [waiting.request.tenant for waiting in after.next(make_view(states), 9)] == ["b", "a"], "a is ahead"


# -- the first guess


def test_more_endpoints_are_believed_to_empty_a_queue_faster() -> None:
    told = [desk(endpoints=count).drain[Lane.SHORT].retry_after(100, 0.0) for count in (0, 1, 4)]
    assert told == [100.0, 100.0, 25.0]


def test_a_lane_that_is_owed_nothing_stands_as_far_behind_as_the_order_says() -> None:
    states = [make_state("e0", kv_capacity_tokens=1_000_000)]
    one = desk({Lane.BATCH: LanePolicy(min_share=0.01)})
    work = enter(one, states, batch())
    short = enter(one, states, make_request(prompt_tokens=1000, max_output_tokens=0, blocks=()))
    late = enter(one, states, make_request(arrived_at=BATCH_SECONDS / ShortestPrefillFirst().ageing + 60.0))
    assert one.next(make_view(states), 9) == [work, short, late], "it is owed something: level, and it came first"
    one.sent(Waiting(batch(10_000)), RATES, 0, 0.0)
    assert one.next(make_view(states), 9) == [short, work, late], "behind, but not behind who comes much later"
