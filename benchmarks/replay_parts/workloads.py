"""Workloads that no recorded trace has, as trace files: `python -m benchmarks.replay_parts.workloads agents --out F`.

Floor: benchmarks; files and arithmetic. All are synthetic. The same seed gives the same bytes.

    chat        people who chat with one of twenty applications: turns, pauses and lengths as published
    agents      coding-agent sessions: a shared tool prefix, prompts that grow turn by turn up to 75,000 tokens, gaps of
                up to 120 s between turns, and live sessions that together are twice what the fleet can cache
    hot-prefix  one system prompt before half of the requests and nothing else shared; arrival times and lengths of a
                CSV (`t,in,out`), or drawn from what was fitted to one
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from random import Random

from benchmarks.replay_parts.sessions import (
    LONGEST_MESSAGE,
    LONGEST_REPLY,
    MESSAGE,
    REPLY,
    agents,
    chats,
    draw,
)
from benchmarks.replay_parts.trace import TRACE_BLOCK, Row, write_trace

KINDS = ("chat", "agents", "hot-prefix")
HOT_BLOCKS = 2
HOT_SHARE = 0.5
"""The hot prefix: 1,024 tokens before half of the requests makes about 0.3 of all prompt tokens repetitions."""
ARRIVALS_PER_SECOND = 5.53
"""The mean of the Azure LLM inference trace 2023 (conversation), whose lengths `sessions.MESSAGE` and `REPLY` have."""

Arrival = tuple[float, int, int]
"""Seconds, prompt tokens, answer tokens."""


def hot_prefix(rng: Random, arrivals: Sequence[Arrival]) -> list[Row]:
    """The hot prefix comes before the prompt and makes it longer."""
    ids = count(HOT_BLOCKS)
    rows = []
    for at, prompt, output in arrivals:
        blocks = list(range(HOT_BLOCKS)) if rng.random() < HOT_SHARE else []
        length = prompt + len(blocks) * TRACE_BLOCK
        while len(blocks) * TRACE_BLOCK < length:
            blocks.append(next(ids))
        rows.append(Row(at, length, max(1, output), tuple(blocks)))
    return rows


def draw_arrivals(rng: Random, requests: int) -> list[Arrival]:
    """At random times, with the lengths of single messages."""
    arrivals, at = [], 0.0
    for _ in range(requests):
        arrivals.append((at, draw(rng, MESSAGE, LONGEST_MESSAGE), draw(rng, REPLY, LONGEST_REPLY)))
        at += rng.expovariate(ARRIVALS_PER_SECOND)
    return arrivals


def read_arrivals(path: Path) -> list[Arrival]:
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


def make(options: argparse.Namespace) -> list[Row]:
    rng = Random(options.seed)
    if options.kind == "agents":
        return agents(rng, options.requests, options.endpoints * options.kv_tokens, options.live)
    if options.kind == "chat":
        return chats(rng, options.requests)
    recorded = options.arrivals is not None
    return hot_prefix(rng, read_arrivals(options.arrivals) if recorded else draw_arrivals(rng, options.requests))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay_parts.workloads")
    parser.add_argument("kind", choices=KINDS, help="which workload")
    parser.add_argument("--out", type=Path, required=True, help="trace file to write; gzipped if it ends in .gz")
    parser.add_argument("--seed", type=int, default=1, help="of everything random")
    parser.add_argument("--requests", type=int, default=12_000, help="how many")
    parser.add_argument("--endpoints", type=int, default=8, help="agents: engines in the fleet")
    parser.add_argument("--kv-tokens", type=int, default=409_600, help="agents: KV cache of each, tokens")
    parser.add_argument("--live", type=float, default=2.0, help="agents: live tokens in multiples of the fleet's cache")
    parser.add_argument("--arrivals", type=Path, help="hot-prefix: CSV with t, in, out, instead of drawn ones")
    options = parser.parse_args(arguments)
    rows = make(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_trace(options.out, rows)
    mean = sum(row.prompt for row in rows) / len(rows)
    print(f"{options.out}: {len(rows)} requests over {rows[-1].at - rows[0].at:.0f} s", end=", ")
    print(f"prompts of {mean:.0f} tokens, ideal hit ratio {ideal_hit_ratio(rows):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
