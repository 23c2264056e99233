"""What a finished request says of its tenant's objectives, and of what it says nothing."""

from __future__ import annotations

import pytest

from policies.slo import AVAILABILITY, TTFT, End, ending, judge, targets
from policies.types import Slo

SLO = Slo(ttft_seconds=2.0, share=0.95, availability=0.999)


@pytest.mark.parametrize(
    ("end", "first_byte", "total", "said"),
    [
        (End.ANSWERED, 1.0, 9.0, {AVAILABILITY: True, TTFT: True}),
        (End.ANSWERED, 2.0, 9.0, {AVAILABILITY: True, TTFT: True}),
        (End.ANSWERED, 2.1, 9.0, {AVAILABILITY: True, TTFT: False}),
        (End.FAILED, None, 0.1, {AVAILABILITY: False, TTFT: False}),
        (End.FAILED, 1.0, 5.0, {AVAILABILITY: False, TTFT: True}),
        (End.LEFT, 1.0, 5.0, {TTFT: True}),
        (End.LEFT, None, 1.9, {}),
        (End.LEFT, None, 2.1, {TTFT: False}),
        (End.EXEMPT, 0.1, 0.1, {}),
    ],
)
def test_a_stream_says_whether_it_was_answered_and_began_in_time(
    end: End, first_byte: float | None, total: float, said: dict[str, bool]
) -> None:
    assert dict(judge(SLO, end, timed=True, first_byte=first_byte, total=total)) == said


def test_an_answer_in_one_piece_says_nothing_of_its_first_token() -> None:
    assert dict(judge(SLO, End.ANSWERED, timed=False, first_byte=30.0, total=30.0)) == {AVAILABILITY: True}


def test_who_left_or_was_wrong_is_nobodys_failure() -> None:
    assert ending(left=True, exempt=False, failed=True) is End.LEFT
    assert ending(left=False, exempt=True, failed=True) is End.EXEMPT
    assert ending(left=False, exempt=False, failed=True) is End.FAILED
    assert ending(left=False, exempt=False, failed=False) is End.ANSWERED


def test_each_objective_has_its_target() -> None:
    assert targets(SLO) == {TTFT: 0.95, AVAILABILITY: 0.999}
