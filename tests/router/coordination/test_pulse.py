"""A peer is dropped for its own silence and not for our pause."""

from __future__ import annotations

from random import Random

from router.coordination.backoff import FIRST_PAUSE, LONGEST_PAUSE, Backoff
from router.coordination.pulse import Pulse, Verdict


def test_an_idle_link_is_pinged_at_every_beat() -> None:
    pulse = Pulse(4)
    for _ in range(10):
        pulse.heard = True  # the pong
        assert pulse.beat(0, 0) is Verdict.PING


def test_a_busy_link_needs_no_pings() -> None:
    pulse = Pulse(4)
    for _ in range(10):
        pulse.heard = pulse.said = True
        assert pulse.beat(0, 0) is Verdict.NOTHING


def test_a_peer_that_is_told_much_and_says_nothing_is_pinged_and_then_silent() -> None:
    pulse = Pulse(4)
    verdicts = []
    for _ in range(4):
        pulse.said = True
        verdicts.append(pulse.beat(0, 0))
    assert verdicts == [Verdict.PING] * 3 + [Verdict.SILENT]


def test_one_sign_of_life_begins_the_count_anew() -> None:
    pulse = Pulse(4)
    for _ in range(3):
        pulse.beat(0, 0)
    pulse.heard = True
    assert [pulse.beat(0, 0) for _ in range(4)] == [Verdict.PING] * 4
    assert pulse.beat(0, 0) is Verdict.SILENT


def test_a_peer_that_speaks_but_takes_nothing_of_what_waits_for_it_is_deaf() -> None:
    pulse = Pulse(4)
    verdicts = []
    for unsent in (10, 20, 30, 40, 50):  # more is said meanwhile
        pulse.heard = pulse.said = True
        verdicts.append(pulse.beat(unsent, 1000))
    assert verdicts == [Verdict.NOTHING] * 4 + [Verdict.DEAF]


def test_a_slow_peer_that_takes_a_little_at_every_beat_is_not_deaf() -> None:
    pulse = Pulse(4)
    for taken in range(1, 20):
        pulse.heard = pulse.said = True
        assert pulse.beat(10_000, taken) is Verdict.NOTHING


def test_a_peer_for_which_nothing_waits_is_not_deaf() -> None:
    pulse = Pulse(4)
    for _ in range(20):
        pulse.heard = pulse.said = True
        assert pulse.beat(0, 1000) is Verdict.NOTHING


def test_pauses_double_up_to_the_longest_and_no_two_followers_have_the_same() -> None:
    one, other = (Backoff(Random(seed)) for seed in (1, 2))
    pauses = [one.pause() for _ in range(12)]
    whole = [min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(12)]
    assert all(full / 2 <= pause <= full for pause, full in zip(pauses, whole, strict=True))
    assert len(set(pauses) | {other.pause() for _ in range(12)}) == 24
    one.reset()
    assert one.pause() <= FIRST_PAUSE
