"""Who no fault touches: a gateway that was kept is found out, a machine that was busy is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.chaos.ask import Ask, Seen
from tests.chaos.bystanders import (
    SPARE_IN_ALL,
    SPARE_SECONDS,
    Waits,
    lateness,
    longest_wait,
    longest_waits,
    table,
    who_was_late,
)
from tests.chaos.stalls import HARNESS, HOST, Stalls, waited

CALM = Waits([0.03] * 99 + [0.06], [0.02] * 100)


def stream(*times: float, status: int = 200, whole: bool = False) -> Seen:
    """Sent at 10, with a piece at each of these times."""
    ask = Ask("acme", "chat", not whole, False, "hello there", 4, "chat", "tiny")
    return Seen(ask, 10.0, status=status, pieces=[(at, 100) for at in times])


def no_stalls(began: float, ended: float, names: object) -> float:
    return 0.0


def test_a_streams_longest_wait_is_for_its_first_piece_or_between_two() -> None:
    assert longest_wait(stream(10.5, 10.6), no_stalls, ()) == pytest.approx(0.5)
    assert longest_wait(stream(10.1, 10.2, 10.9), no_stalls, ()) == pytest.approx(0.7)


def test_only_streams_that_were_answered_count() -> None:
    seen = [stream(10.5), stream(10.5, whole=True), stream(10.5, status=503)]
    assert longest_waits(seen, no_stalls, lambda _: ()) == [pytest.approx(0.5)]


def test_time_in_which_a_process_on_the_way_stood_still_is_taken_off() -> None:
    def stood(began: float, ended: float, names: object) -> float:
        return 0.6 if names == ("the gateway",) and began == 10.2 else 0.0

    assert longest_wait(stream(10.1, 10.2, 10.9), stood, ("the gateway",)) == pytest.approx(0.1)
    assert longest_wait(stream(10.1, 10.2, 10.9), stood, ()) == pytest.approx(0.7)


def test_a_loop_that_was_kept_for_300_ms_on_a_failover_is_late() -> None:
    """It holds up whoever streams at that moment: a few of the streams of a schedule."""
    kept = Waits([0.03] * 45 + [0.32] * 3, [0.02] * 20)
    assert lateness(kept, CALM) == pytest.approx(0.32 - 0.06 - SPARE_SECONDS)
    assert who_was_late({"acme": kept}, {"acme": CALM}) != []
    assert lateness(kept, CALM, SPARE_IN_ALL) > lateness(kept, CALM)


def test_what_calm_and_control_show_too_is_noise() -> None:
    assert lateness(Waits([0.06 + SPARE_SECONDS], []), CALM) == 0.0
    assert lateness(Waits([0.03] * 45 + [0.32] * 3, [0.02] * 19 + [0.25]), CALM) == 0.0, "the machine was slow"
    assert lateness(Waits(), CALM) == 0.0
    assert who_was_late({"acme": CALM}, {"acme": CALM}) == []


def test_the_table_has_the_figures_of_both_phases() -> None:
    row = table({"acme": CALM}, {"acme": Waits([0.04] * 10, [0.01] * 3)}).splitlines()[-1].split()
    assert row == ["acme", "30", "/", "60", "20", "/", "20", "40", "/", "40", "10", "/", "10", "10"]


class Noted(Stalls):
    """With these notes: at each time, what had stood still so far."""

    def __init__(self, notes: dict[float, dict[str, float]]) -> None:
        super().__init__(dict)
        self._times, self._stood = list(notes), list(notes.values())


def test_stalls_are_those_of_the_processes_on_the_way_from_the_note_before_to_the_note_after() -> None:
    stalls = Noted(
        {
            1.0: {"gateway": 5.0, "e0": 1.0, "e1": 9.0, HARNESS: 0.1, HOST: 0.0},
            2.0: {"gateway": 5.2, "e0": 1.1, "e1": 9.9, HARNESS: 0.1, HOST: 0.05},
            3.0: {"gateway": 6.0, "e0": 0.2, "e1": 9.9, HARNESS: 0.4, HOST: 0.05},
        }
    )
    assert stalls.seconds(1.2, 1.8, ("gateway", "e0")) == pytest.approx(0.2 + 0.1 + 0.05)
    assert stalls.seconds(2.0, 2.5, ("gateway",)) == pytest.approx(0.8 + 0.3)
    assert stalls.seconds(2.5, 9.0, ("e0",)) == pytest.approx(0.3), "an engine that was started anew has stood for less"
    assert stalls.worst(1.0, ("gateway",)) == pytest.approx(0.2 + 0.05)
    assert Stalls(dict).seconds(0.0, 9.0, ()) == Stalls(dict).worst(1.0, ()) == 0.0


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="this system does not say who waits for a core")
def test_a_process_that_gets_no_core_is_seen_to_stand_still_and_one_that_sleeps_is_not() -> None:
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    idle = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        gives_up = time.monotonic() + 60
        while waited(busy[0].pid) < waited(idle.pid) + 0.2 and time.monotonic() < gives_up:
            time.sleep(0.02)  # they take their turns meanwhile
        assert waited(busy[0].pid) >= waited(idle.pid) + 0.2
    finally:
        for process in (*busy, idle):
            process.kill()
            process.wait()
