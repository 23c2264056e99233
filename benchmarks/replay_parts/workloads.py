"""Workloads that no recorded trace has, as trace files: `python -m benchmarks.replay_parts.workloads agents --out F`.

Floor: benchmarks; files and arithmetic. The same seed gives the same bytes.

    agents      coding-agent sessions: a shared tool prefix, prompts that grow turn by turn up to 75,000 tokens, gaps of
                up to 120 s between turns, and live sessions that together are twice what the fleet can cache
    hot-prefix  arrival times and lengths of a CSV (`t,in,out`), one system prompt before half of the requests and
                nothing else shared
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

from benchmarks.replay_parts.trace import TRACE_BLOCK, Row, write_trace

TOOL_SETS = 4
TOOL_BLOCKS = 16
"""Four kinds of agent; the tool descriptions of each are 8,192 tokens, which all its sessions share."""
LONGEST = 75_000
SHORTEST_END = 20_000
"""Tokens at which sessions end: between these, evenly."""
FIRST_TASK = 3_000
"""Tokens of a session's first task, on average, after the tool descriptions."""
TURN = (800, 0.9)
ANSWER = (120, 0.8)
GAP = (20.0, 0.9)
"""Median and spread (of the logarithm) of what a turn adds to the prompt, of an answer (tokens), and of the pause
before the next turn (seconds): tool results are mostly short, a few are whole files; pauses are tools and people."""
LONGEST_GAP = 120.0
LONGEST_TURN = 8_000
LONGEST_ANSWER = 1_500
HOT_BLOCKS = 2
HOT_SHARE = 0.5
"""The hot prefix: 1,024 tokens before half of the requests makes about 0.3 of all prompt tokens repetitions."""


@dataclass(slots=True)
class Session:
    """One agent at work. `blocks`: the ids of its whole blocks; `length`: tokens of its next prompt."""

    at: float
    length: int
    end: int
    blocks: list[int] = field(default_factory=list)


def agents(rng: Random, requests: int, fleet_tokens: int, live: float = 2.0) -> list[Row]:
    """So many sessions are live at any time that their prompts are `live` times `fleet_tokens`. One that is as long as
    it gets ends, and another begins in its place."""
    ids = count(TOOL_SETS * TOOL_BLOCKS)
    sessions: list[Session] = []
    while sum(session.length for session in sessions) < live * fleet_tokens:
        session = begin(rng, rng.uniform(0, LONGEST_GAP))
        session.length = round(rng.uniform(session.length, session.end))  # in the midst of its work
        sessions.append(session)
    rows: list[Row] = []
    while len(rows) < requests:
        number = min(range(len(sessions)), key=lambda index: sessions[index].at)
        session = sessions[number]
        answer = draw(rng, ANSWER, LONGEST_ANSWER)
        grow(session, ids)
        rows.append(Row(session.at, session.length, answer, (*session.blocks, *partial(session, ids))))
        session.at += min(LONGEST_GAP, max(1.0, rng.lognormvariate(0, GAP[1]) * GAP[0]))
        session.length += answer + draw(rng, TURN, LONGEST_TURN)
        if session.length > session.end:
            sessions[number] = begin(rng, session.at)
    return rows


def begin(rng: Random, at: float) -> Session:
    """A session with nothing but its tools and its first task."""
    tools = rng.randrange(TOOL_SETS) * TOOL_BLOCKS
    length = TOOL_BLOCKS * TRACE_BLOCK + round(rng.expovariate(1 / FIRST_TASK))
    end = rng.randint(SHORTEST_END, LONGEST)
    return Session(at, min(length, SHORTEST_END), end, list(range(tools, tools + TOOL_BLOCKS)))


def grow(session: Session, ids: Iterator[int]) -> None:
    """Give the session's new whole blocks their ids."""
    while len(session.blocks) < session.length // TRACE_BLOCK:
        session.blocks.append(next(ids))


def partial(session: Session, ids: Iterator[int]) -> list[int]:
    """The id of the block that is not full, as recorded traces have it: nobody else's."""
    return [next(ids)] if session.length % TRACE_BLOCK else []


def draw(rng: Random, shape: tuple[int, float], most: int) -> int:
    """Lognormal, at least 1 and at most `most`."""
    return min(most, max(1, round(rng.lognormvariate(0, shape[1]) * shape[0])))


def hot_prefix(rng: Random, arrivals: Sequence[tuple[float, int, int]]) -> list[Row]:
    """`arrivals`: seconds, prompt and output tokens. The hot prefix comes before the prompt and makes it longer."""
    ids = count(HOT_BLOCKS)
    rows = []
    for at, prompt, output in arrivals:
        blocks = list(range(HOT_BLOCKS)) if rng.random() < HOT_SHARE else []
        length = prompt + len(blocks) * TRACE_BLOCK
        while len(blocks) * TRACE_BLOCK < length:
            blocks.append(next(ids))
        rows.append(Row(at, length, max(1, output), tuple(blocks)))
    return rows


def read_arrivals(path: Path) -> list[tuple[float, int, int]]:
    """A CSV with the columns t, in, out; gzipped or not."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [(float(row["t"]), int(row["in"]), int(row["out"])) for row in csv.DictReader(text.splitlines())]


def ideal_hit_ratio(rows: Sequence[Row]) -> float:
    """Share of prompt tokens in whole blocks that an earlier prompt had: what one infinite cache would save."""
    seen: set[int] = set()
    hits = 0
    for row in rows:
        whole = row.blocks[: row.prompt // TRACE_BLOCK]
        hits += TRACE_BLOCK * sum(block in seen for block in whole)
        seen.update(whole)
    return hits / sum(row.prompt for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay_parts.workloads")
    parser.add_argument("kind", choices=["agents", "hot-prefix"], help="which workload")
    parser.add_argument("--out", type=Path, required=True, help="trace file to write; gzipped if it ends in .gz")
    parser.add_argument("--seed", type=int, default=1, help="of everything random")
    parser.add_argument("--requests", type=int, default=12_000, help="agents: how many")
    parser.add_argument("--endpoints", type=int, default=8, help="agents: engines in the fleet")
    parser.add_argument("--kv-tokens", type=int, default=409_600, help="agents: KV cache of each, tokens")
    parser.add_argument("--live", type=float, default=2.0, help="agents: live tokens in multiples of the fleet's cache")
    parser.add_argument("--arrivals", type=Path, help="hot-prefix: CSV with t, in, out")
    options = parser.parse_args(arguments)
    rng = Random(options.seed)
    if options.kind == "agents":
        rows = agents(rng, options.requests, options.endpoints * options.kv_tokens, options.live)
    elif options.arrivals is None:
        parser.error("hot-prefix needs --arrivals")
    else:
        rows = hot_prefix(rng, read_arrivals(options.arrivals))
    write_trace(options.out, rows)
    mean = sum(row.prompt for row in rows) / len(rows)
    print(f"{options.out}: {len(rows)} requests over {rows[-1].at - rows[0].at:.0f} s", end=", ")
    print(f"prompts of {mean:.0f} tokens, ideal hit ratio {ideal_hit_ratio(rows):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
