"""A worker's signs of life. Times are made up: nothing waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.heartbeats import LATE_SECONDS, LOOK_SECONDS, Heartbeats


def test_silence_grows_from_look_to_look_and_a_sign_of_life_ends_it() -> None:
    beats = Heartbeats()
    for look in range(int(LATE_SECONDS / LOOK_SECONDS)):
        beats.look(100.0 + look * LOOK_SECONDS)
        assert not beats.late
    beats.look(100.0 + LATE_SECONDS)
    assert beats.late
    beats.heard()
    assert (beats.late, beats.silent) == (False, 0.0)
    beats.look(100.0 + LATE_SECONDS + LOOK_SECONDS)
    assert beats.silent == LOOK_SECONDS


@given(st.floats(0.0, 1e9))
def test_a_pause_of_the_listener_itself_makes_nobody_late(pause: float) -> None:
    beats = Heartbeats()
    beats.look(0.0)
    beats.look(pause)
    assert beats.silent <= 2 * LOOK_SECONDS < LATE_SECONDS
