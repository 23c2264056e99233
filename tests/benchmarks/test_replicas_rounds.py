"""What a round between replicas costs is measured between two real processes, and printed for both."""

from __future__ import annotations

import re

import pytest

from benchmarks.replicas_parts.rounds import main


def test_a_short_run_prints_what_both_sides_spend_and_what_of_it_is_the_sockets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--rounds", "200", "--runs", "1", "--concurrent", "8"])
    said = capsys.readouterr().out
    cost = r" concurrent: follower +([\d.]+) us, owner +([\d.]+) us of CPU a round\n"
    figures = re.fullmatch(rf"  8{cost}floor at 1{cost}", said)
    assert figures is not None, said
    assert all(float(figure) > 0 for figure in figures.groups())
