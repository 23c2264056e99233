"""`make bench-loop`: for how long one long prompt keeps the event loop from everybody else.

Reads, measures and rewrites bodies as the gateway does, while a ticker notes the longest gap between two turns of the
loop. The least of several rounds counts: what the machine does meanwhile can only add to it.

And what the prefix blocks of a long conversation cost when it has grown by one turn: hashed anew, and by the memo of
chains that serves.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from policies.prefix_blocks import ChainMemo, chain
from policies.tokens import TokenEstimator
from policies.types import Lane, Tenant, Tier
from router.counting import TokenCounter
from router.gateway import read
from router.measure import SWITCH_SECONDS, Measurer, MeasureSettings
from router.wire.fields import read_fields
from router.wire.openai import APIS, engine_body, read_prompt

ROUNDS = 7
SIZES = (1_000, 10_000, 100_000, 250_000, 500_000, 1_000_000, 2_000_000, 8_000_000)
CONVERSATION_TURNS, CONVERSATION_BYTES = 40, 128_000
LINE = "The quick brown fox jumps over the lazy dog, said “nobody” at all.\n"  # escapes and non-ASCII, as real text has
TENANT = Tenant("bench", Tier("gold", 10, 15.0), "salt", {})
CHAT = APIS["/v1/chat/completions"]


def body(size: int, *, turns: int) -> bytes:
    """A chat of `size` characters in so many turns."""
    text = (LINE * (size // turns // len(LINE) + 1))[: size // turns]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}] * turns}).encode()


async def work(data: bytes, measurer: Measurer) -> None:
    parsed = await read(CHAT, data)
    await measurer.measure(
        CHAT, parsed, len(data), tenant=TENANT, root=1, estimator=TokenEstimator(), request_id="r",
        asked_lane=None, now=0.0,
    )  # fmt: skip
    engine_body(parsed.fields, "engine", "salt")


async def longest_gap(data: bytes, measurer: Measurer) -> float:
    """Seconds."""
    task = asyncio.create_task(work(data, measurer))
    longest, last = 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    await task
    return longest


def grown_chains() -> tuple[float, float, float]:
    """Microseconds for a conversation that has grown by a turn: to read its prompt, to hash it anew, from the memo."""
    data = body(CONVERSATION_BYTES, turns=CONVERSATION_TURNS)
    fields = read_fields(data)
    segments = read_prompt(CHAT, fields).segments
    read, anew, remembered = [], [], []
    for _ in range(ROUNDS * 20):
        memo = ChainMemo(threading.Lock())
        memo.chain(1, segments[:-2])  # as the request before: the reply and the next question are new
        read.append(_seconds(partial(read_prompt, CHAT, fields)))
        anew.append(_seconds(partial(chain, 1, segments)))
        remembered.append(_seconds(partial(memo.chain, 1, segments)))
        if memo.chain(1, segments) != chain(1, segments):
            raise AssertionError("the memo's chain is another")
    return min(read) * 1e6, min(anew) * 1e6, min(remembered) * 1e6


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


async def main() -> None:
    settings = MeasureSettings(
        long_prompt_tokens=2048, batch_prompts=8, batch_n=4, batch_header="x-promptlane-lane", block_bytes=None,
        default_output_tokens=256, max_wait=dict.fromkeys(Lane, 60.0),
    )  # fmt: skip
    measurer = Measurer(settings, TokenCounter())
    print(f"{'characters':>12} {'one turn ms':>12} {'20 turns ms':>12}")
    for size in SIZES:
        gaps = []
        for turns in (1, 20):
            data = body(size, turns=turns)
            gaps.append(min([await longest_gap(data, measurer) for _ in range(ROUNDS)]))
        print(f"{size:>12,} {gaps[0] * 1000:>12.2f} {gaps[1] * 1000:>12.2f}")
    read, anew, remembered = grown_chains()
    print(f"\n{CONVERSATION_TURNS} turns, {CONVERSATION_BYTES:,} characters, grown by a turn (us):")
    print(f"prompt read {read:.0f}, blocks hashed anew {anew:.0f}, by the memo {remembered:.1f}")


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_SECONDS)  # as `promptlane serve` does
    asyncio.run(main())
