"""A breaker: after failures in a row nobody waits, and one finds out whether it is over."""

from __future__ import annotations

from policies.breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, Breaker


def broken(at: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.allows(at)
        breaker.ended(at, well=False)
    return breaker


def test_failures_in_a_row_open_it_and_others_do_not() -> None:
    breaker = Breaker()
    for _ in range(10):
        for well in [False] * (FAILURES - 1) + [True]:
            assert breaker.allows(0.0)
            breaker.ended(0.0, well=well)
    assert not breaker.open
    assert broken().open
    assert not broken(5.0).allows(5.0 + FIRST_PAUSE - 0.01)


def test_after_a_pause_one_call_finds_out_and_the_others_go_on_without() -> None:
    breaker = broken()
    assert breaker.allows(FIRST_PAUSE)
    assert not breaker.allows(FIRST_PAUSE)
    breaker.ended(FIRST_PAUSE + 0.01, well=True)
    assert not breaker.open
    assert breaker.allows(FIRST_PAUSE + 0.01)


def test_pauses_double_with_each_call_that_fails_up_to_a_longest() -> None:
    breaker, now, pauses = broken(), 0.0, list[float]()
    for _ in range(8):
        began = now
        while not breaker.allows(now):
            now += 0.25
        pauses.append(now - began)
        breaker.ended(now, well=False)
    assert pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


def test_calls_that_began_before_it_opened_lengthen_nothing() -> None:
    breaker = broken()
    for _ in range(50):
        breaker.ended(0.5, well=False)
    assert breaker.allows(FIRST_PAUSE)


def test_a_call_that_never_says_how_it_ended_keeps_nobody_out_for_ever() -> None:
    breaker = broken()
    assert breaker.allows(FIRST_PAUSE)
    assert breaker.allows(2 * FIRST_PAUSE)
