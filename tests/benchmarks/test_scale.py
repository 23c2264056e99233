"""How growth is named, and that every axis is measured on the gateway that serves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.overhead_parts.processes import cores
from benchmarks.overhead_parts.traffic import Scenario
from benchmarks.scale_parts import objects, processes
from benchmarks.scale_parts.axes import AXES
from benchmarks.scale_parts.curve import Curve, Growth, Point
from benchmarks.scale_parts.report import lines, memory
from benchmarks.scale_parts.rig import ScaleGateway, asking, key_of, rig

SIZES = [10, 100, 1_000, 10_000]
SECONDS = 0.1


def curve(cost: Callable[[int], float], allowed: Growth = "O(log n)") -> Curve:
    return Curve("things", "request", allowed, [Point(size, cost(size)) for size in SIZES])


@pytest.mark.parametrize(
    ("cost", "growth"),
    [
        (lambda n: 80.0, "constant"),
        (lambda n: 80.0 / n, "constant"),
        (lambda n: 10 * math.log(n), "O(log n)"),
        (lambda n: 3.0 * n, "linear"),
        (lambda n: 0.01 * n**2, "worse than linear"),
        (lambda n: n * math.log(n) ** 4, "worse than linear"),
    ],
)
def test_growth_has_a_name(cost: Callable[[int], float], growth: Growth) -> None:
    assert curve(cost).growth == growth


def test_a_linear_part_that_small_sizes_hide_is_found_at_the_upper_end() -> None:
    hidden = curve(lambda n: 100 + 0.05 * n)
    assert hidden.slope < 0.3
    assert hidden.growth == "linear"
    assert hidden.defect


def test_noise_of_a_tenth_is_no_growth_that_counts() -> None:
    noisy = curve(lambda n: 80.0 * {10: 1.1, 100: 0.9, 1_000: 1.0, 10_000: 1.15}[n])
    assert not noisy.defect


def test_a_defect_is_marked_in_the_table_and_what_is_allowed_is_not() -> None:
    *rows, last = lines(curve(lambda n: 2.0 * n))
    assert "DEFECT: linear, where O(log n) is allowed" in last
    assert [row.split()[:3] for row in rows[1:3]] == [["10", "20.00", "-"], ["100", "200.00", "10.00"]]
    assert "DEFECT" not in "".join(lines(curve(lambda n: 2.0 * n, "linear")))


def test_the_goal_of_memory_is_met_or_missed() -> None:
    assert memory(150).endswith("(goal 150: met)")
    assert memory(151).endswith("(goal 150: MISSED)")


def test_the_axes_are_those_that_are_asked_for() -> None:
    found = {name: (axis.sizes[0], axis.sizes[-1], axis.allowed) for name, axis in AXES.items()}
    assert found == {
        "endpoints": (2, 512, "O(log n)"),
        "tenants": (10, 100_000, "O(log n)"),
        "keys": (10, 1_000_000, "O(log n)"),
        "prompt": (100, 2_000_000, "linear"),
        "turns": (1, 200, "linear"),
        "index": (1_000, 10_000_000, "O(log n)"),
        "streams": (10, 10_000, "O(log n)"),
    }


def test_objects_are_measured_at_their_size() -> None:
    assert objects.endpoints(3, 2).microseconds > 0
    assert objects.index_entries(2_000, 2).size == 2_000


def test_those_who_ask_are_spread_over_all_and_bounded() -> None:
    assert asking(3) == (key_of(0), key_of(1), key_of(2))
    assert len(asking(1_000_000)) == 1024
    assert asking(1_000_000)[-1] == key_of(976 * 1023)


@pytest.mark.parametrize(
    "gateway", [ScaleGateway(tenants=4), ScaleGateway(stored_keys=3)], ids=["tenants", "keys of the database"]
)
def test_every_tenant_and_every_key_of_the_database_is_served(gateway: ScaleGateway) -> None:
    with rig(cores(), SECONDS) as here, here.serving(gateway):
        assert here.request_us(gateway, Scenario(2), asking(3)) > 0
        assert gateway.load_seconds > 0


@pytest.mark.parametrize(
    ("measure", "size"), [(processes.prompt, 1_000), (processes.turns, 3), (processes.streams, 20)]
)
def test_requests_and_open_streams_are_measured_on_the_process(
    measure: Callable[[int, float], Point], size: int
) -> None:
    point = measure(size, SECONDS)
    assert point.size == size
    assert point.microseconds > 0
    assert point.rss_mb is not None
    assert point.rss_mb > 20


def test_the_command_prints_tables_and_writes_the_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    arguments = ["--axes", "index", "--largest", "10000", "--seconds", "0.1", "--json", str(out)]
    assert scale.main(arguments) == 0
    assert "prefix-index entries" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert [point["size"] for point in written["axes"]["index"]["points"]] == [1_000, 10_000]


def test_a_defect_ends_with_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    grows = AXES["index"].__class__("x", "request", SIZES, "O(log n)", lambda size, seconds: Point(size, size))
    monkeypatch.setitem(AXES, "index", grows)
    assert scale.main(["--axes", "index"]) == 1


@pytest.mark.parametrize("argv", [["--axes", "moons"], ["--seconds", "0"], ["--seconds", "1e9"]])
def test_arguments_that_make_no_sense_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        scale.arguments(argv)
    assert argv[0] in capsys.readouterr().err
