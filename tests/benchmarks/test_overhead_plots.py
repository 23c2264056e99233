"""The picture of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.overhead_parts.measures import PROMPTS
from benchmarks.overhead_parts.plots import write_plot
from benchmarks.overhead_parts.report import Result
from tests.benchmarks.test_overhead_report import turn, with_more


@pytest.mark.parametrize(("ending", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_picture_is_written_in_the_format_of_its_name(tmp_path: Path, ending: str, begins: bytes) -> None:
    pytest.importorskip("matplotlib", reason="make bench-overhead-full installs it")
    longer = {f"{name}: µs/request": length / 100 for length, name in PROMPTS.items()}
    results = [
        with_more(Result("promptlane", [turn(80), turn(100)]), **longer),
        Result("litellm", [turn(9000)]),
        Result("nginx", absent="no"),
    ]
    path = tmp_path / "new" / f"picture.{ending}"
    write_plot(path, results)
    assert path.read_bytes().startswith(begins)


def test_one_gateway_without_a_full_run_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="make bench-overhead-full installs it")
    write_plot(tmp_path / "one.png", [Result("nginx", [turn(25)])])
    assert (tmp_path / "one.png").exists()
