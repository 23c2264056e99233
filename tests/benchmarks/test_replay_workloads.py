"""The synthetic workloads, and the command that writes them."""

from __future__ import annotations

from pathlib import Path
from random import Random
from statistics import mean

import pytest

from benchmarks.replay_parts import sessions, workloads
from benchmarks.replay_parts.trace import Row, read_trace


def whole_blocks_are_chained(rows: list[Row]) -> bool:
    """Whether an id always follows the same id: then equal ids are equal prefixes, as in recorded traces."""
    before: dict[int, int] = {}
    return all(
        before.setdefault(block, previous) == previous
        for row in rows
        for previous, block in zip((-1, *row.blocks), row.blocks, strict=False)
    )


def test_agents_share_tools_grow_and_keep_twice_the_cache_alive() -> None:
    rows = sessions.agents(Random(2), 1_500, 400_000)
    assert rows == sessions.agents(Random(2), 1_500, 400_000)
    assert rows == sorted(rows, key=lambda row: row.at)
    assert max(row.prompt for row in rows) <= sessions.LONGEST
    assert all(len(row.blocks) == -(-row.prompt // 512) for row in rows)
    assert workloads.ideal_hit_ratio(rows) > 0.8
    assert len({row.blocks[: sessions.TOOL_BLOCKS] for row in rows}) == sessions.TOOL_SETS
    assert whole_blocks_are_chained(rows)


def test_chats_have_turns_that_repeat_what_was_said_and_a_system_prompt_of_their_application() -> None:
    rows = sessions.chats(Random(2), 3_000)
    assert rows == sessions.chats(Random(2), 3_000)
    assert rows == sorted(rows, key=lambda row: row.at)
    assert rows[0].at >= 0
    assert all(len(row.blocks) == -(-row.prompt // 512) for row in rows)
    assert max(row.prompt for row in rows) <= sessions.CONTEXT
    assert whole_blocks_are_chained(rows)
    systems = [row.blocks[: sessions.SYSTEM_BLOCKS] for row in rows]
    assert len(set(systems)) == sessions.ASSISTANTS
    assert systems.count((0, 1)) > 2 * systems.count((18, 19))
    assert 0.4 < workloads.ideal_hit_ratio(rows) < 0.9


def test_as_many_people_chat_at_the_beginning_as_at_the_end() -> None:
    rows = sessions.chats(Random(4), 6_000)
    half = rows[-1].at / 2
    assert 0.9 < sum(row.at < half for row in rows) / (len(rows) / 2) < 1.1


def test_drawn_arrivals_are_like_those_they_were_fitted_to() -> None:
    drawn = workloads.draw_arrivals(Random(1), 4_000)
    assert drawn[-1][0] / len(drawn) == pytest.approx(1 / workloads.ARRIVALS_PER_SECOND, rel=0.05)
    assert mean(prompt for _, prompt, _ in drawn) == pytest.approx(1_155, rel=0.15)
    assert mean(answer for _, _, answer in drawn) == pytest.approx(211, rel=0.15)


def test_the_hot_prefix_is_all_that_requests_share(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t,in,out\n" + "".join(f"{n},700,5\n" for n in range(400)))
    rows = workloads.hot_prefix(Random(1), workloads.read_arrivals(tmp_path / "a.csv"))
    hot = [row for row in rows if row.blocks[:2] == (0, 1)]
    assert 150 < len(hot) < 250
    cold = [block for row in rows for block in row.blocks if block > 1]
    assert len(cold) == len(set(cold))


@pytest.mark.parametrize("kind", workloads.KINDS)
def test_the_workloads_are_written_by_a_command_of_their_own(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "made.jsonl.gz"
    options = f"{kind} --out {out} --requests 40 --endpoints 1"
    assert workloads.main(options.split()) == 0
    assert len(read_trace(out)) == 40
    first = out.read_bytes()
    assert workloads.main(options.split()) == 0
    assert out.read_bytes() == first
    assert "40 requests" in capsys.readouterr().out
