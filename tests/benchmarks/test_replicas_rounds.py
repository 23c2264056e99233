"""What a round between replicas costs is measured between two real processes, and printed for both."""

from __future__ import annotations

import re

import pytest

from benchmarks.replicas_parts.rounds import main


def test_a_short_run_prints_what_both_sides_spend(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--rounds", "200", "--runs", "1", "--concurrent", "8"])
    said = capsys.readouterr().out
    figures = re.fullmatch(r"  8 concurrent: follower +([\d.]+) us, owner +([\d.]+) us of CPU a round\n", said)
    assert figures is not None, said
    assert all(float(figure) > 0 for figure in figures.groups())
