"""`python -m deploy.compiled.training FOLDER`: shows the compiler what the gateway does often, and what never.

The packages in FOLDER are compiled to count. Here they serve requests of most kinds from simulated engines, first as
one process, then as two workers; each writes its counts when it ends. This is no benchmark: how often is what matters,
not how fast. What never happens here is made small in place of fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.engine.launch import Engine, start_engine
from benchmarks.overhead_parts.processes import Child, Failed, free_port
from deploy.compiled.build import running_from

MODEL = "tiny"
TENANTS = ("own", "plain", "resumed", "guarded")  # the first has a pool for itself, the others share one
ENGINES, OWN_ENGINES = 5, 2
SEATS = 6  # fewer seats than there are clients, so that requests wait
CLIENTS = 32
START_SECONDS = STOP_SECONDS = REQUEST_SECONDS = 120.0  # builds run beside other things
WORDS = ("what", "which", "engine", "tenant", "prompt", "cache", "block", "stream", "token", "lane", "first", "last")


class NotTrained(Exception):
    """The gateway did not serve as it should. The message says how."""


@dataclass(frozen=True)
class Ask:
    """One request. `leaves`: its client goes after so many pieces of the answer; `refused`: whether it must be."""

    path: str
    body: dict[str, Any]
    tenant: str = TENANTS[0]
    leaves: int | None = None
    refused: bool = False


# -- what is asked ----------------------------------------------------------------------------------------------------


def chat(messages: Sequence[str], **more: Any) -> dict[str, Any]:
    told = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(messages)]
    return {"model": MODEL, "messages": told, "max_tokens": 16, **more}


def asks(draw: random.Random) -> list[Ask]:
    """All requests of a process, in no order: many chats and streams, and some of everything."""

    def words(count: int) -> str:
        return " ".join(draw.choices(WORDS, k=count))

    path = "/v1/chat/completions"
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    sampled = {"temperature": 0.7, "top_p": 0.9, "seed": 7, "stop": ["###"], "user": "someone"}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    some: list[Ask] = []
    for tenant in TENANTS:
        some += [Ask(path, chat([words(20)], **sampled), tenant) for _ in range(400)]
        some += [Ask(path, chat([words(20)]), tenant) for _ in range(200)]
        some += [Ask(path, chat([words(40)], **streamed) | {"max_tokens": 48}, tenant) for _ in range(150)]
        some += [Ask(path, chat([words(40)], stream=True) | {"max_tokens": 32}, tenant) for _ in range(50)]
        some += [Ask(path, chat([words(20)], tools=tools, n=2), tenant) for _ in range(10)]
        some += [Ask(path, chat([words(3000)], **streamed), tenant) for _ in range(20)]
        some += [Ask(path, chat([words(20)], service_tier="flex"), tenant) for _ in range(10)]
        some += [Ask("/v1/completions", {"model": MODEL, "prompt": words(30), "max_tokens": 8}, tenant)] * 20
        some += [Ask("/v1/completions", {"model": MODEL, "prompt": words(30), "stream": True}, tenant)] * 10
        some += [Ask("/v1/embeddings", {"model": MODEL, "input": [words(10), words(10)]}, tenant)] * 10
        some += [Ask("/v1/messages", chat([words(20)], **more), tenant) for more in ({}, {"stream": True})] * 5
        some += [Ask("/v1/responses", {"model": MODEL, "input": words(20)}, tenant)] * 10
        some += [Ask(path, chat([words(30)], **streamed) | {"max_tokens": 64}, tenant, leaves=3) for _ in range(10)]
        some += [Ask(path, {"model": "unknown", "messages": []}, tenant, refused=True)] * 5
        some += [Ask(path, chat([words(5)], max_tokens="many"), tenant, refused=True)] * 5
        some += [Ask(path, chat([words(8)], temperature=0), tenant)] * 20  # alike: what a cache answers
    some += [Ask(path, chat([f"{words(8)} jane.doe@example.com starfish"], **streamed), "guarded") for _ in range(20)]
    draw.shuffle(some)
    return some


def conversations(draw: random.Random) -> list[list[Ask]]:
    """Each in its order; a turn is asked when the one before has its answer."""
    found = []
    for number in range(CLIENTS):
        told = [" ".join(draw.choices(WORDS, k=60)) for _ in range(40)]
        turns = [told[:upto] for upto in range(1, len(told), 2)]
        found.append([Ask("/v1/chat/completions", chat(turn), TENANTS[number % len(TENANTS)]) for turn in turns])
    return found


# -- who answers ------------------------------------------------------------------------------------------------------


def configuration(engines: Sequence[Engine], ports: tuple[int, int], workers: int) -> dict[str, Any]:
    limits = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrency"), 1_000_000_000)
    models = {MODEL: {"pool": "shared", "engine_model": MODEL, "prices": {"input": 1, "output": 2}}}
    dedicated = {"models": {MODEL: {"pool": "own", "engine_model": MODEL}}}
    rule = {"name": "data", "action": "redact", "find": {"pii": ["email"], "words": ["starfish"]}}
    own, plain, resumed, guarded = (
        {"api_keys": [{"id": "training", "sha256": hashlib.sha256(key(name).encode()).hexdigest()}], "limits": limits,
         "models": models}
        for name in TENANTS
    )  # fmt: skip
    endpoints = [
        {"name": f"engine-{number}", "url": engine.url, "max_in_flight": SEATS, "hourly_cost": 2.5}
        for number, engine in enumerate(engines)
    ]
    return {
        "server": {"port": ports[0], "admin_port": ports[1], "workers": workers, "shutdown_grace": 5,
                   "routing_headers": True},
        "tiers": {"gold": {"priority": 1, "rto_seconds": 15, "resume": True, "slo": {"ttft_seconds": 2}},
                  "silver": {"priority": 2, "rto_seconds": 60}},
        "tenants": {
            "own": {"tier": "gold", **own, **dedicated},
            "plain": {"tier": "silver", **plain},
            "resumed": {"tier": "gold", **resumed},
            "guarded": {"tier": "silver", "guards": [rule], "cache": {"store": "memory"}, **guarded},
        },
        "pools": {"own": {"endpoints": endpoints[:OWN_ENGINES]},
                  "shared": {"shared": True, "endpoints": endpoints[OWN_ENGINES:]}},
    }  # fmt: skip


def key(tenant: str) -> str:
    return f"pl-training-{tenant}"


@contextlib.contextmanager
def gateway(folder: Path, engines: Sequence[Engine], workers: int) -> Iterator[tuple[str, str]]:
    """Its URL and its operators', once it is ready. It has ended afterwards, with its counts written. Raises
    NotTrained."""
    with tempfile.TemporaryDirectory(prefix="promptlane-training-") as own:
        ports = free_port(), free_port()
        config = Path(own) / "training.json"
        config.write_text(json.dumps(configuration(engines, ports, workers)))
        command = [sys.executable, "-m", "router.cli", "serve", "--config", str(config)]
        with Child(command, os.sched_getaffinity(0), Path(own) / "log", env=running_from(folder)) as child:
            try:
                wait_for(child, f"http://127.0.0.1:{ports[1]}")
                yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
                child.signal(signal.SIGTERM)
                if status := child.wait(STOP_SECONDS):
                    raise NotTrained(f"it ended with status {status}")
            except (NotTrained, Failed, httpx2.HTTPError) as error:
                raise NotTrained(f"{error!r} (the gateway's last words: {child.last_words()})") from None


def wait_for(child: Child, admin: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and child.running:
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(f"{admin}/readyz", trust_env=False).is_success:
                return
        time.sleep(0.1)
    raise NotTrained("the gateway did not begin to serve")


# -- who asks ---------------------------------------------------------------------------------------------------------


async def send(client: httpx2.AsyncClient, ask: Ask) -> None:
    headers = {"authorization": f"Bearer {key(ask.tenant)}"}
    async with client.stream("POST", ask.path, json=ask.body, headers=headers) as answer:
        pieces = answer.aiter_raw()
        await read(pieces, ask.leaves)
        if ask.leaves is not None:
            await pieces.aclose()
    if (answer.status_code >= 400) != ask.refused:
        raise NotTrained(f"{ask.path} of {ask.tenant} was answered by {answer.status_code}")


async def read(pieces: AsyncIterator[bytes], most: int | None) -> None:
    count = 0
    async for _ in pieces:
        count += 1
        if count == most:
            return


async def serve_all(url: str, admin: str, draw: random.Random) -> None:
    """Everything once, over as many connections as there are clients; operators look on. Raises NotTrained or
    httpx2.HTTPError."""
    limits = httpx2.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx2.AsyncClient(base_url=url, timeout=REQUEST_SECONDS, limits=limits, trust_env=False) as client:
        waiting = iter(asks(draw))

        async def one_of_many(conversation: Sequence[Ask]) -> None:
            for ask in chain(conversation, waiting):  # `waiting` is everybody's
                await send(client, ask)

        async def look_on() -> None:
            while True:
                for path in ("/metrics", "/admin/state"):
                    await client.get(f"{admin}{path}")
                await asyncio.sleep(1)

        looking = asyncio.create_task(look_on())
        await asyncio.gather(*map(one_of_many, conversations(draw)))  # raises what the first of them raises
        looking.cancel()


def train(folder: Path) -> None:
    """Raises NotTrained."""
    options = {"prefill_tokens_per_second": 200_000.0, "decode_step_seconds": 0.002}
    for workers in (1, 2):
        with ExitStack() as stack:
            engines = [stack.enter_context(start_engine(MODEL, **options)) for _ in range(ENGINES)]
            url, admin = stack.enter_context(gateway(folder, engines, workers))
            asyncio.run(serve_all(url, admin, random.Random(workers)))


if __name__ == "__main__":
    try:
        train(Path(sys.argv[1]))
    except (NotTrained, Failed, RuntimeError) as error:
        print(f"the compiled form could not be trained: {error}", file=sys.stderr)
        sys.exit(1)
