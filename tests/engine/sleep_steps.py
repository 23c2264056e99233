"""The steps of `samples/sleep.txt`: what an engine answers to sleep and pause, and how it is then; one line each.

Floor: tests only. The simulated engine is held against the sample, and so is the real one, where it runs.
"""

from __future__ import annotations

import re

import httpx2

# `ask` is a request, long enough to have cached blocks; everything else is a POST.
STEPS = (
    "ask", "ask",
    "/sleep?level=0", "ask", "/resume", "ask", "/sleep?level=0", "/wake_up?tags=scheduling", "ask",
    "/sleep", "ask", "/wake_up?tags=weights", "ask", "/wake_up?tags=scheduling", "/wake_up?tags=nonsense",
    "/resume", "ask", "/wake_up", "ask",
    "/sleep?level=2&mode=wait", "/wake_up?tags=weights&tags=kv_cache", "ask",
    "/pause", "ask", "/wake_up", "ask",
    "/pause?mode=keep&clear_cache=false", "ask", "/resume", "ask",
    "/sleep?level=3", "/sleep?level=x", "/sleep?mode=nope", "/pause?mode=nope", "/wake_up",
)  # fmt: skip
_BODY = {"model": "tiny", "prompt": "the list is " * 60, "max_tokens": 1, "temperature": 0}


async def transcript(client: httpx2.AsyncClient, patience: float) -> list[str]:
    """`patience`: seconds after which an answer is not expected any more."""
    return [f"{step} -> {await _take(client, step, patience)}; {await _state(client)}" for step in STEPS]


async def _take(client: httpx2.AsyncClient, step: str, patience: float) -> str:
    if step != "ask":
        answer = await client.post(step)
        return f"{answer.status_code} {answer.text}"
    try:
        answer = await client.post("/v1/completions", json=_BODY, timeout=patience)
    except httpx2.TimeoutException:
        return "nothing"
    cached = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return f"{answer.status_code}, {'some' if cached else 'none'} of it cached"


async def _state(client: httpx2.AsyncClient) -> str:
    """What it says of itself: sleeping, paused, well, and the label of `vllm:engine_sleep_state` that is 1."""
    asleep = (await client.get("/is_sleeping")).json()["is_sleeping"]
    paused = (await client.get("/is_paused")).json()["is_paused"]
    health = (await client.get("/health")).status_code
    page = (await client.get("/metrics")).text
    found = re.findall(r'^vllm:engine_sleep_state{.*sleep_state="(\w+)"} 1\.0', page, re.MULTILINE)
    return f"sleeping={asleep} paused={paused} health={health} metric={','.join(found) or 'none'}"
