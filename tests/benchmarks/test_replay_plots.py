"""The pictures of a replay, and what they need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.replay_parts.plots import style, write_plots
from benchmarks.replay_parts.runs import PEERS, QUANTILES, REFERENCES, Result, known_policies

LOCK = Path(__file__).parents[2] / "benchmarks" / "requirements-plots.txt"


def result(policy: str, load: float, first: float) -> Result:
    ttft = tuple(first * (1 + percent / 100) for percent in QUANTILES)
    return Result(policy, load, first, first, first, first, 2 * first, 0.01, 0.5, 1.1, 0, ttft)


def test_every_policy_is_drawn_and_those_of_a_kind_are_told_apart() -> None:
    styles = {name: style(name) for name in known_policies()}
    for kind in (PEERS, REFERENCES, [name for name in styles if name not in PEERS and name not in REFERENCES]):
        looks = [(styles[name]["color"], str(styles[name].get("linestyle"))) for name in kind]
        assert len(looks) == len(set(looks))


def test_pictures_are_written_for_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="make bench-routing installs it")
    results = [result(name, load, 0.2) for name in ("prompt-aware", "dynamo", "oracle") for load in (0.85, 1.05)]
    results.append(Result("kthena", 0.85, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 9))  # all were rejected
    results.append(Result("kthena", 1.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 9))
    paths = write_plots(tmp_path / "new", "some trace.jsonl.gz", results, {"prompt-aware": 0.9, "dynamo": 0.0})
    names = ["ttft-0-85x", "ttft-1-05x", "ttft-over-load", "goodput"]
    assert [path.name for path in paths] == [f"some-trace-{name}.png" for name in names]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    single = write_plots(tmp_path, "t.jsonl", [result("prompt-aware", 1.0, 0.2)], None)
    assert [path.name for path in single] == ["t-ttft-1x.png"]


def test_what_pictures_need_is_locked_by_hashes_and_names_no_registry() -> None:
    text = LOCK.read_text()
    packages = re.findall(r"^[a-z0-9-]+==\S+", text, re.MULTILINE)
    assert "matplotlib" in {package.split("==")[0] for package in packages}
    assert len(re.findall(r"^[a-z0-9-]+==.*\\\n    --hash=sha256:", text, re.MULTILINE)) == len(packages)
    assert "://" not in text
