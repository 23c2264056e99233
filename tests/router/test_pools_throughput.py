"""Holding requests back must not leave engines without work, whatever their speed and whatever is seen of them.

Closed loop: 64 clients that each send one request after the other, the work that is worst for a gateway that holds.
Round robin, which holds nothing, is what the throughput is measured against.
"""

from __future__ import annotations

import pytest

from benchmarks.virtual_loop import run
from tests.router.virtual import Fleet

CLIENTS, REQUESTS = 64, 640
NOISE = 0.93
"""Of round robin's throughput, with all that has to be learned first and the last requests, when clients run out."""


async def throughput(profile: str, speed: float, tokens: int, output: int, *, stream: bool) -> float:
    fleet = Fleet(profile, speed)
    rate = await fleet.serve(CLIENTS, REQUESTS, tokens, output, stream=stream)
    await fleet.close()
    assert len(fleet.pool.waiting) == len(fleet.pool.desk) == 0
    for state in fleet.states:
        sums = (state.in_flight, state.pending_prefills, state.pending_prefill_seconds, state.outstanding_tokens)
        assert (*sums, state.kv_tokens, state.context_tokens, state.decode_tokens) == (0,) * 7
        assert (len(state.learner), len(state.silence)) == (0, 0)
    return rate


@pytest.mark.parametrize("speed", [0.1, 1.0, 10.0], ids=["ten times slower", "as believed", "ten times faster"])
@pytest.mark.parametrize(
    ("tokens", "output", "stream"),
    [
        (64, 8, False),
        (64, 8, True),
        (1000, 8, False),
        (1000, 8, True),
        (4000, 64, False),
        (300, 512, False),
        (200, 0, False),
    ],
    ids=lambda value: {True: "stream", False: "whole"}.get(value, str(value)) if isinstance(value, bool) else None,
)
def test_engines_are_kept_as_busy_as_without_holding(speed: float, tokens: int, output: int, stream: bool) -> None:
    held, unheld = (
        run(throughput(profile, speed, tokens, output, stream=stream)) for profile in ("prompt-aware", "round-robin")
    )
    assert held >= NOISE * unheld
