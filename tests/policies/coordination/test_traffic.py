"""Where a pool's requests come in, and that its ownership follows them."""

from __future__ import annotations

import random

from policies.coordination.ownership import Lease, Ownership, Step, ranking
from policies.coordination.traffic import Traffic

POOL = "llama"
FIRST, SECOND, THIRD = ranking(POOL, ["r1", "r2", "r3"])
ALL = [FIRST, SECOND, THIRD]


def fed(*requests: tuple[str, int]) -> Traffic:
    traffic = Traffic()
    traffic.home(0.0)
    for replica, count in requests:
        for _ in range(count):
            traffic.note(replica)
    return traffic


def test_nearly_all_requests_at_one_replica_make_it_the_home() -> None:
    assert fed((FIRST, 48), (SECOND, 12)).home(1.0) == FIRST
    assert fed((FIRST, 47), (SECOND, 13)).home(1.0) is None


def test_few_requests_say_nothing() -> None:
    assert fed((FIRST, 59)).home(1.0) is None


def test_requests_count_for_the_window_in_which_they_came_and_the_next() -> None:
    traffic = fed((FIRST, 100))
    assert traffic.home(31.0) == FIRST
    for _ in range(70):
        traffic.note(SECOND)
    assert traffic.home(32.0) is None
    assert traffic.home(62.0) == SECOND
    assert traffic.home(93.0) is None


def test_what_nobody_asked_about_for_long_is_old() -> None:
    assert fed((FIRST, 100)).home(61.0) is None


def test_a_random_ingress_makes_no_home() -> None:
    draw, traffic = random.Random(3), Traffic()
    for second in range(3600):
        for _ in range(5):
            traffic.note(draw.choice([FIRST, SECOND]))
        assert traffic.home(float(second)) is None


def lease(replica: str, term: int = 1) -> Lease:
    return Lease(replica, f"tcp://{replica}:1", term)


def test_an_owner_hands_the_pool_to_its_home_which_takes_it_at_once() -> None:
    owner, home = Ownership(POOL, FIRST), Ownership(POOL, THIRD)
    for one in (owner, home):
        one.seen(lease(FIRST), ALL, 0.0)
    assert owner.home_to_say(0.0) is None
    for _ in range(100):
        owner.traffic.note(THIRD)
    assert owner.home_to_say(0.5) == THIRD
    for step in range(1, 10):  # settled for two seconds before it is handed anything
        for one in (owner, home):
            one.seen(lease(FIRST), ALL, 0.5 + step / 4, THIRD)
        assert owner.home_to_say(0.5 + step / 4) is None, "it has been said"
    assert owner.next(2.8) is Step.RELEASE
    owner.released()
    for one in (owner, home):
        one.seen(None, ALL, 3.0, THIRD)
    assert (owner.next(3.0), home.next(3.0)) == (Step.NOTHING, Step.ACQUIRE)


def test_the_home_that_owns_keeps_the_pool_and_says_again_that_it_is_at_home() -> None:
    home = Ownership(POOL, THIRD)
    home.seen(lease(THIRD), ALL, 0.0, THIRD)
    said = []
    for tick in range(1, 600):
        now = tick / 4
        home.traffic.note(THIRD)
        home.traffic.note(THIRD)
        home.seen(lease(THIRD), ALL, now, THIRD)
        assert home.next(now) is Step.RENEW
        if home.home_to_say(now) is not None:
            said.append(now)
    assert len(said) == 3, "once a minute"


def test_a_home_that_is_gone_leaves_the_pool_to_the_others_in_their_order() -> None:
    second = Ownership(POOL, SECOND)
    second.seen(lease(THIRD), ALL, 0.0, THIRD)
    second.seen(None, [FIRST, SECOND], 0.25, THIRD)
    assert second.next(0.25) is Step.NOTHING
    assert second.next(0.75) is Step.ACQUIRE


def test_a_follower_says_nothing_of_what_it_counted_when_it_led() -> None:
    one = Ownership(POOL, FIRST)
    one.seen(lease(FIRST), ALL, 0.0)
    one.home_to_say(0.0)
    for _ in range(100):
        one.traffic.note(THIRD)
    one.seen(lease(SECOND, 2), ALL, 0.25)
    assert one.home_to_say(0.3) is None
    one.seen(lease(FIRST, 3), ALL, 0.5)
    assert one.home_to_say(0.6) is None
