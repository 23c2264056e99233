"""`make bench-loop`: for how long one long prompt keeps the event loop from everybody else.

Reads, measures and rewrites bodies as the gateway does, while a ticker notes the longest gap between two turns of the
loop. The least of several rounds counts: what the machine does meanwhile can only add to it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from policies.tokens import TokenEstimator
from policies.types import Tenant, Tier
from router.counting import TokenCounter
from router.gateway import read
from router.measure import SWITCH_SECONDS, Measurer, MeasureSettings
from router.wire.openai import APIS, engine_body

ROUNDS = 7
SIZES = (1_000, 10_000, 100_000, 250_000, 500_000, 1_000_000, 2_000_000, 8_000_000)
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


async def main() -> None:
    settings = MeasureSettings(
        long_prompt_tokens=2048, batch_prompts=8, batch_n=4, batch_header="x-promptlane-lane", block_bytes=256,
        default_output_tokens=256, max_wait=60.0,
    )  # fmt: skip
    measurer = Measurer(settings, TokenCounter())
    print(f"{'characters':>12} {'one turn ms':>12} {'20 turns ms':>12}")
    for size in SIZES:
        gaps = []
        for turns in (1, 20):
            data = body(size, turns=turns)
            gaps.append(min([await longest_gap(data, measurer) for _ in range(ROUNDS)]))
        print(f"{size:>12,} {gaps[0] * 1000:>12.2f} {gaps[1] * 1000:>12.2f}")


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_SECONDS)  # as `promptlane serve` does
    asyncio.run(main())
