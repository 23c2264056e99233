"""Who may wait while a standby wakes: so many of each tier, each for so long."""

from __future__ import annotations

from dataclasses import replace

from policies.holding import Holding
from policies.types import Tier
from policies.waiting import Waiting
from tests.policies.builders import make_request

GOLD = Tier("gold", 1, 15.0, hold_seconds=5.0, hold_requests=2)
SILVER = Tier("silver", 2, 60.0, hold_seconds=60.0, hold_requests=1)


def waiting(tier: Tier = GOLD) -> Waiting:
    return Waiting(replace(make_request(), tier=tier))


def test_so_many_of_a_tier_are_held_and_other_tiers_have_their_own_places() -> None:
    holding = Holding()
    assert [holding.keep(waiting(), 0.0) for _ in range(3)] == [True, True, False]
    assert holding.keep(waiting(SILVER), 0.0)
    assert (len(holding), holding.held) == (3, {"gold": 2, "silver": 1})


def test_each_is_held_for_so_long() -> None:
    holding, one = Holding(), waiting()
    assert holding.keep(one, 10.0)
    assert holding.keep(one, 14.9)
    assert not holding.keep(one, 15.0)


def test_a_place_is_given_back_once() -> None:
    holding, one, other = Holding(), waiting(SILVER), waiting(SILVER)
    holding.keep(one, 0.0)
    holding.release(one)
    holding.release(one)
    holding.release(other)
    assert len(holding) == 0
    assert holding.keep(other, 1.0)


def test_a_tier_that_is_not_held_is_refused_at_once() -> None:
    holding = Holding()
    assert not holding.keep(waiting(replace(GOLD, hold_seconds=0.0)), 0.0)
    assert len(holding) == 0
