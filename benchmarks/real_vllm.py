"""Routing before two real vLLM servers on the CPU: conversations over shared prefixes: `make bench-vllm`.

How to read the table: benchmarks/README.md. Ends with status 1 when an answer was wrong or a process failed; a goal
that is missed is printed, and is no failure.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.command import in_order
from benchmarks.overhead_parts.processes import Failed
from benchmarks.real_vllm_parts.conversations import Shape, Turn, ideal_hits, make_turns, needed_tokens
from benchmarks.real_vllm_parts.report import About, as_json, table
from benchmarks.real_vllm_parts.runs import Measured, measure
from benchmarks.real_vllm_parts.servers import BLOCK_TOKENS, cold_seconds, install, running, token_ids, warm_up
from policies.registry import PROFILES
from tests.servers import Server

ENGINES = 2
CACHE_SHARE = 0.57
"""Of what the conversations need at their ends, one engine's cache holds this: both together hold all with a little
room for an uneven split, and one alone does not."""
LOAD = 0.6
"""Share of the engines' time that prefills would take if nothing were ever cached: moderate, whatever the machine."""
_DEFAULT = Shape()


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m benchmarks.real_vllm", description=__doc__)
    add = made.add_argument
    add("--profiles", type=_profiles, default=["prompt-aware", "round-robin"], help=f"of: {', '.join(PROFILES)}")
    add("--conversations", type=_count(2, 64), default=_DEFAULT.conversations, help="at once (default %(default)s)")
    add("--turns", type=_count(1, 100), default=_DEFAULT.turns, help="of each (default %(default)s)")
    add(
        "--gap",
        type=float,
        help=f"mean seconds between turns (default: a load of {LOAD:g} without caches)",
    )
    add("--kv-tokens", type=_count(4096, 60_000), help="cache of each engine (default: CACHE_SHARE of what all need)")
    add("--rounds", type=_count(1, 20), default=1, help="turns of each profile, interleaved (default 1)")
    add("--seed", type=int, default=_DEFAULT.seed, help="of lengths and times")
    add("--json", type=Path, metavar="OUT", help="write the results there")
    return made.parse_args(argv)


def _profiles(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in PROFILES]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(PROFILES)}")
    return names


def _count(least: int, most: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not least <= (number := int(text)) <= most:
            raise argparse.ArgumentTypeError(f"{least:,} to {most:,}")
        return number

    return count


def about_of(server: Server, turns: Sequence[Turn], kv_tokens: int) -> About:
    """Counted by the engine's own tokenizer. Raises Failed when the caches are not what the run is about."""
    prompts = [token_ids(server, turn.messages) for turn in turns]
    found, total = ideal_hits(prompts, BLOCK_TOKENS)
    needed = needed_tokens(turns, list(map(len, prompts)))
    if not kv_tokens < needed <= ENGINES * kv_tokens:
        raise Failed(f"the conversations need {needed:,} tokens: not more than one cache, or more than {ENGINES}")
    return About(
        conversations=len({turn.conversation for turn in turns}),
        requests=len(turns),
        prompt_tokens=total,
        ideal_hit_ratio=found / total,
        live_tokens=needed,
        kv_tokens=kv_tokens,
        engines=ENGINES,
    )


def fitting_gap(server: Server, about: About) -> float:
    """Mean seconds between a conversation's turns that make a moderate load on this machine. Raises Failed."""
    cold = cold_seconds(server, about.prompt_tokens // about.requests)
    return about.conversations * cold / (ENGINES * LOAD)


def run(options: argparse.Namespace) -> int:
    """Installs, starts, measures, prints, writes. Returns the exit status."""
    shape = Shape(options.conversations, options.turns, seed=options.seed)
    turns = make_turns(shape)
    kv_tokens = options.kv_tokens or int(CACHE_SHARE * needed_tokens(turns, [turn.about_tokens for turn in turns]))
    with tempfile.TemporaryDirectory(prefix="promptlane-vllm-") as folder:
        _say("real vLLM: installed and model made, or doing so (the first time takes minutes)")
        install(Path(folder))
    _say(f"starting {ENGINES} real vLLM servers")
    with running(ENGINES, kv_tokens) as servers:
        for server in servers:
            warm_up(server)
        about = about_of(servers[0], turns, kv_tokens // BLOCK_TOKENS * BLOCK_TOKENS)
        print(about.line(), flush=True)
        gap = options.gap or fitting_gap(servers[0], about)
        print(f"{gap:.1f} s between two turns of a conversation, on average", flush=True)
        runs = _measure_all(options, servers, [replace(turn, at=gap * turn.at) for turn in turns])
    print(f"\n{table(about, runs)}")
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(about, runs), indent=1) + "\n")
    return int(any(one.failures() for one in runs))


def _measure_all(options: argparse.Namespace, servers: Sequence[Server], turns: Sequence[Turn]) -> list[Measured]:
    runs = []
    for number in range(1, options.rounds + 1):
        for profile in options.profiles:
            _say(f"round {number}/{options.rounds}: {profile}, the last turn after {turns[-1].at:.0f} s")
            runs.append(measure(profile, servers, turns))
    return runs


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    return in_order(lambda: run(arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
