"""A gateway with rules before a recording engine, on real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.e2e.stack import poll
from tests.router.stack import Stack, running, sha256, whole

KEY = "acme-key"
PII = {"name": "pii", "action": "redact", "find": {"pii": ["email", "credit-card"]}}
DENY = {"name": "deny", "action": "block", "find": {"words": ["forbidden word", "bomb"]}}
INJECTION = {"name": "injection", "on": "input", "action": "block", "find": {"injection": True}}
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def config(guards: Sequence[dict[str, Any]], *, tier: str = "silver", **tenant: Any) -> dict[str, Any]:
    """acme with these rules, and globex without any."""
    models = {"qwen": {"pool": "p", "engine_model": "tiny"}, "tiny": {"pool": "p"}}
    tenants = {
        "acme": {"tier": tier, "guards": list(guards), **tenant},
        "globex": {"models": models},
    }
    for name, one in tenants.items():
        one |= {"models": models, "api_keys": [{"id": "k", "sha256": sha256(f"{name}-key")}]}
    endpoints = [{"name": "e", "url": "ENGINE:e"}]
    health = {"interval": 0.2, "scrape_interval": 0.2}
    return {
        "server": {"port": 0, "admin_port": 0},
        "tenants": tenants,
        "pools": {"p": {"shared": True, "endpoints": endpoints, "health": health}},
    }


@contextmanager
def guarded(guards: Sequence[dict[str, Any]], **tenant: Any) -> Iterator[Stack]:
    with running(config(guards, **tenant), ["e"]) as stack:
        yield stack


def received(stack: Stack) -> dict[str, Any]:
    """The body of the last request that the engine got."""
    body: dict[str, Any] = json.loads(stack.engines["e"].received[-1].split(b"\r\n\r\n", 1)[1])
    return body


def answering(answer: Any) -> Callable[[bytes, asyncio.StreamWriter], Any]:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(json.dumps(answer).encode()))

    return reply


def streaming(events: Sequence[bytes], *, left: asyncio.Event | None = None) -> Callable[..., Any]:
    """Each event in a piece of its own. `left`: set when the gateway went away before the end."""

    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS)
        try:
            for event in events:
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                await writer.drain()
                await asyncio.sleep(0.002)
                if writer.transport.is_closing():
                    raise ConnectionResetError
            writer.write(b"0\r\n\r\n")
        except ConnectionError:
            if left is not None:
                left.set()
            raise

    return reply


def settled(stack: Stack, wanted: dict[tuple[str, str, str], float]) -> None:
    """Waits until these are the verdicts: a client has its answer before the request is settled."""
    poll(f"the verdicts are {wanted}", lambda: verdicts(stack) == wanted)
    poll("nothing is under way", lambda: not any(state.in_flight for state in stack.app.runtime.pools["p"].states))


def verdicts(stack: Stack) -> dict[tuple[str, str, str], float]:
    """By rule, side and action."""
    found = stack.process.metrics._totals["promptlane_guard_verdicts"]
    return {labels[1:]: total for labels, (total,) in found.items()}


def failures(stack: Stack) -> dict[tuple[str, str, str], float]:
    """By rule, side and cause."""
    found = stack.process.metrics._totals["promptlane_guard_failures"]
    return {labels[1:]: total for labels, (total,) in found.items()}
