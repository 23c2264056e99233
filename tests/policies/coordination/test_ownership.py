"""One replica's part in the lease of one pool: when it takes it, keeps it, gives it up and believes that it leads."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from policies.coordination.ownership import Lease, Ownership, Step, preferred, ranking

POOL = "llama"
FIRST, SECOND, THIRD = ranking(POOL, ["r1", "r2", "r3"])
NAMES = st.lists(st.text("abcdef", min_size=1, max_size=4), unique=True, max_size=8)


def lease(replica: str, term: int = 1) -> Lease:
    return Lease(replica, f"tcp://{replica}:1", term)


def make(me: str, *, steady: bool = True) -> Ownership:
    """Of a replica that (if `steady`) has looked at 0 s, when the second one owned the pool."""
    ownership = Ownership(POOL, me)
    if steady:
        ownership.seen(lease(SECOND, 1), [FIRST, SECOND, THIRD], 0.0)
    return ownership


def leader(me: str = FIRST, *, term: int = 5, now: float = 0.0) -> Ownership:
    ownership = Ownership(POOL, me)
    ownership.seen(lease(me, term), [me], now)
    assert ownership.leads(now)
    return ownership


@given(NAMES, st.text(max_size=5))
def test_the_preferred_replica_is_one_of_them_and_does_not_depend_on_their_order(names: list[str], pool: str) -> None:
    assert preferred(pool, names) == preferred(pool, names[::-1])
    assert preferred(pool, names) in (names or [None])


@given(NAMES.filter(lambda names: len(names) > 1), st.text(max_size=5))
def test_a_replica_that_goes_moves_only_the_pools_that_it_had(names: list[str], pool: str) -> None:
    gone = names[0]
    left = names[1:]
    assert preferred(pool, names) == gone or preferred(pool, left) == preferred(pool, names)


def test_pools_are_spread_evenly_over_replicas() -> None:
    names = [f"replica-{number}" for number in range(4)]
    spread = Counter(preferred(f"pool-{number}", names) for number in range(1000))
    assert len(spread) == 4
    assert max(spread.values()) - min(spread.values()) < 75  # 250 each, give or take three deviations of 13.7, doubled


def test_only_the_preferred_replica_takes_a_pool_that_has_just_become_free() -> None:
    steps = {}
    for me in (FIRST, SECOND, THIRD):
        ownership = make(me)
        ownership.acquired(lease("other", 2), 0.1)
        ownership.seen(None, [FIRST, SECOND, THIRD], 0.25)
        steps[me] = ownership.next(0.3)
    assert steps == {FIRST: Step.ACQUIRE, SECOND: Step.NOTHING, THIRD: Step.NOTHING}


def test_where_the_preferred_one_does_not_come_the_next_takes_it_half_a_second_later() -> None:
    second, third = make(SECOND), make(THIRD)
    for ownership in (second, third):
        ownership.acquired(lease("other", 2), 0.1)
        ownership.seen(None, [FIRST, SECOND, THIRD], 0.25)
    assert second.next(0.74) is Step.NOTHING
    assert second.next(0.75) is Step.ACQUIRE
    assert third.next(1.24) is Step.NOTHING
    assert third.next(1.25) is Step.ACQUIRE


def test_a_replica_that_has_just_come_waits_for_others_to_say_that_they_are_there() -> None:
    ownership = make(FIRST, steady=False)
    assert ownership.next(0.0) is Step.NOTHING
    ownership.seen(None, [FIRST], 1.0)
    assert ownership.next(1.49) is Step.NOTHING
    assert ownership.next(1.5) is Step.ACQUIRE


def test_a_store_that_answers_every_second_time_does_not_keep_a_pool_free() -> None:
    ownership = make(FIRST, steady=False)
    for look in range(4):
        ownership.seen(None, [FIRST], 1.0 + look / 4)
        ownership.store_lost(1.1 + look / 4)
    ownership.seen(None, [FIRST], 2.0)
    assert ownership.next(2.0) is Step.ACQUIRE


def test_who_has_acquired_leads_and_renews() -> None:
    ownership = make(FIRST)
    ownership.acquired(lease(FIRST, 7), 1.0)
    assert ownership.leads(1.1)
    assert (ownership.term, ownership.owner) == (7, lease(FIRST, 7))
    assert ownership.next(1.1) is Step.RENEW


def test_a_lease_of_ours_that_we_do_not_know_of_was_acquired_by_an_attempt_whose_answer_was_lost() -> None:
    ownership = make(FIRST)
    ownership.store_lost(0.5)
    ownership.seen(lease(FIRST, 7), [FIRST, SECOND], 0.75)
    assert ownership.leads(0.8)


def test_who_was_slower_leads_not_and_looks_again() -> None:
    ownership = leader()
    ownership.seen(None, [FIRST], 0.5)
    assert ownership.next(0.5) is Step.ACQUIRE
    ownership.acquired(None, 0.5)
    assert not ownership.leads(0.6)
    assert ownership.next(0.6) is Step.NOTHING


def test_an_owner_goes_on_for_as_long_as_the_store_cannot_be_reached() -> None:
    ownership = leader()
    for tick in range(1, 200):
        ownership.store_lost(tick / 2)
        assert ownership.leads(tick / 2 + 0.25)
    assert ownership.owner == lease(FIRST, 5)


def test_an_owner_whose_lease_is_gone_goes_on_and_takes_it_anew_at_once() -> None:
    ownership = leader(THIRD)
    ownership.seen(None, [FIRST, SECOND, THIRD], 0.5)
    assert ownership.leads(0.5)
    assert ownership.next(0.5) is Step.ACQUIRE
    ownership.acquired(lease(THIRD, 9), 0.5)
    assert ownership.term == 9


def test_an_owner_that_sees_another_in_its_place_stops_at_once_whatever_its_term() -> None:
    for term in (6, 4):
        ownership = leader(term=5)
        ownership.seen(lease(SECOND, term), [FIRST, SECOND], 0.5)
        assert not ownership.leads(0.5)
        assert ownership.owner == lease(SECOND, term)


def test_an_owner_that_a_peer_tells_of_a_higher_term_stops_at_once() -> None:
    ownership = leader(term=5)
    ownership.fenced(5)
    assert ownership.leads(0.1)
    ownership.fenced(6)
    assert not ownership.leads(0.1)
    assert ownership.owner is None


def test_a_lease_below_a_term_that_we_were_told_of_is_given_back_and_never_led_with() -> None:
    ownership = leader(term=5)
    ownership.fenced(6)
    ownership.seen(lease(FIRST, 5), [FIRST], 0.5)
    assert not ownership.leads(0.5)
    assert ownership.next(0.5) is Step.RELEASE
    ownership.released()
    ownership.seen(None, [FIRST], 0.75)
    assert ownership.next(0.75) is Step.ACQUIRE
    assert ownership.term == 6


def test_who_slept_for_longer_than_a_lease_does_not_lead_until_it_has_looked() -> None:
    ownership = leader()
    assert ownership.leads(1.4)
    assert not ownership.leads(1.5)
    ownership.seen(lease(FIRST, 5), [FIRST], 30.0)
    assert ownership.leads(30.1)


def test_who_slept_and_finds_the_store_lost_or_its_lease_gone_does_not_lead() -> None:
    lost, gone = leader(), leader()
    lost.store_lost(10.0)
    gone.seen(None, [FIRST], 10.0)
    assert not lost.leads(10.0)
    assert not gone.leads(10.0)


def test_a_look_that_was_begun_before_the_sleep_does_not_count_as_one_after_it() -> None:
    ownership = leader()
    ownership.seen(lease(FIRST, 5), [FIRST], 0.25)  # begun at 0.25; told after a stop of ten seconds
    assert not ownership.leads(10.0)


def test_a_pool_is_handed_over_once_a_better_placed_replica_has_been_there_for_two_seconds() -> None:
    ownership = leader(SECOND)
    for tick in range(1, 9):
        ownership.seen(lease(SECOND, 5), [FIRST, SECOND], tick / 4)
        assert ownership.next(tick / 4) is Step.RENEW
    ownership.seen(lease(SECOND, 5), [FIRST, SECOND], 2.25)
    assert ownership.next(2.25) is Step.RELEASE
    assert not ownership.leads(2.25)
    assert ownership.owner is None


def test_a_replica_that_comes_and_goes_is_handed_nothing() -> None:
    ownership = leader(SECOND)
    for tick in range(1, 100):
        there = [FIRST, SECOND] if tick % 7 else [SECOND]
        ownership.seen(lease(SECOND, 5), there, tick / 4)
        assert ownership.leads(tick / 4)


def test_a_successor_that_does_not_take_what_it_was_handed_is_given_longer_each_time() -> None:
    ownership = leader(SECOND)
    now, releases = 0.0, []
    held: Lease | None = lease(SECOND, 5)
    while now < 60.0:
        now += 0.25
        ownership.seen(held, [FIRST, SECOND], now)
        step = ownership.next(now)
        if step is Step.RELEASE:
            releases.append(now)
            ownership.released()
            held = None
        elif step is Step.ACQUIRE:
            held = lease(SECOND, ownership.term + 1)
            ownership.acquired(held, now)
    gaps = [later - earlier for earlier, later in pairwise(releases)]
    assert len(gaps) >= 3
    assert all(later > 1.5 * earlier for earlier, later in pairwise(gaps))


def test_a_replica_that_ends_leads_no_longer_and_releases_at_once() -> None:
    ownership = leader()
    ownership.stop()
    assert not ownership.leads(0.0)
    assert ownership.next(0.0) is Step.RELEASE
    ownership.released()
    ownership.seen(None, [], 0.25)
    assert ownership.next(60.0) is Step.NOTHING


def test_a_follower_knows_its_owner_while_the_store_is_lost() -> None:
    ownership = make(FIRST)
    ownership.store_lost(100.0)
    assert ownership.owner == lease(SECOND, 1)
