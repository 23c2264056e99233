"""When a replica is ready."""

from __future__ import annotations

import itertools

import pytest

from policies.readiness import ReadyWhen, readiness


@pytest.mark.parametrize(
    ("when", "reaches", "others_reach", "ready"),
    [
        (ReadyWhen.SERVING, False, True, True),
        (ReadyWhen.ENGINES, True, False, True),
        (ReadyWhen.ENGINES, False, False, False),
        (ReadyWhen.COMPARED, True, False, True),
        (ReadyWhen.COMPARED, True, True, True),
        (ReadyWhen.COMPARED, False, True, False),
        (ReadyWhen.COMPARED, False, False, True),
    ],
)
def test_who_is_ready(when: ReadyWhen, reaches: bool, others_reach: bool, ready: bool) -> None:
    assert readiness(when, serves=True, reaches=reaches, others_reach=others_reach).ready is ready


@pytest.mark.parametrize("when", ReadyWhen)
def test_who_does_not_serve_is_not_ready_whatever_it_reaches(when: ReadyWhen) -> None:
    for reaches, others in itertools.product((True, False), repeat=2):
        assert not readiness(when, serves=False, reaches=reaches, others_reach=others).ready


def test_compared_never_takes_all_replicas_out_that_serve() -> None:
    for reached in itertools.product((True, False), repeat=3):
        found = [
            readiness(
                ReadyWhen.COMPARED, serves=True, reaches=one, others_reach=any(reached[:at] + reached[at + 1 :])
            ).ready
            for at, one in enumerate(reached)
        ]
        assert any(found)
        assert not any(ready and not one for ready, one in zip(found, reached, strict=True)) or not any(reached)
