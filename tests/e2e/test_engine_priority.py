"""The real vLLM serves what waits inside it by the gateway's `priority`, whichever API it came by.

Floor: tests only. Needs `--engine=vllm` (`tests/real_vllm/run.sh -k engine_priority`): a simulated engine would only
show what we believe.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from policies.priority import priority
from router.wire.http import PRIORITY_HEADER
from router.wire.openai import with_priority
from tests.e2e.stack import poll
from tests.policies.builders import make_request
from tests.real_vllm.servers import start_vllm
from tests.servers import Server

LONG = 200  # tokens, about half a second: answers that end together could be read in any order, so none ends early
MESSAGES = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "tiny", "messages": MESSAGES, "max_tokens": LONG, "temperature": 0},
    "/v1/completions": {"model": "tiny", "prompt": "hello", "max_tokens": LONG, "temperature": 0},
    "/v1/responses": {"model": "tiny", "input": "hello", "max_output_tokens": LONG, "temperature": 0},
    "/v1/messages": {"model": "tiny", "messages": MESSAGES, "max_tokens": LONG, "temperature": 0},
}
BLOCKER = {"model": "tiny", "prompt": "hello", "max_tokens": 8000, "ignore_eos": True, "stream": True}
"""Many seconds, and over when its client leaves: however long a busy machine takes until all others wait."""


# Only a real engine can say what it does.
pytestmark = pytest.mark.real_vllm


@pytest.fixture(scope="module", params=["priority", "fcfs"])
def engine(request: pytest.FixtureRequest) -> Iterator[tuple[str, Server]]:
    """A server that serves one request at a time, by either policy."""
    server = start_vllm(max_num_seqs="1", scheduling_policy=request.param)
    yield request.param, server
    server.stop()


def post(server: Server, path: str, body: dict[str, Any], number: int) -> Any:
    headers = {"content-type": "application/json", PRIORITY_HEADER.decode(): str(number)}
    data = with_priority(json.dumps(body).encode(), number)
    return urllib.request.urlopen(urllib.request.Request(server.url + path, data, headers), timeout=120)  # noqa: S310 - loopback


@pytest.mark.parametrize("path", sorted(BODIES))
def test_the_shorter_prefill_is_served_first_though_it_came_last(engine: tuple[str, Server], path: str) -> None:
    policy, server = engine
    wall, order, threads = time.time(), [], []

    def ask(name: str, own_seconds: float) -> None:
        with post(server, path, BODIES[path], priority(make_request(), own_seconds, wall)) as answer:
            assert answer.status == 200
            answer.read()
        order.append(name)

    with post(server, "/v1/completions", BLOCKER, 0) as blocker:
        blocker.read(1)  # it is being served: all others wait
        for waiting, (name, seconds) in enumerate([("long", 9.0), ("middle", 3.0), ("short", 0.1)], 1):
            threads.append(threading.Thread(target=ask, args=(name, seconds)))
            threads[-1].start()
            until_waiting(server, waiting)
    for thread in threads:
        thread.join()
    assert order == (["short", "middle", "long"] if policy == "priority" else ["long", "middle", "short"])


def until_waiting(server: Server, count: int) -> None:
    """Until so many requests wait inside the engine."""

    def wait() -> bool:
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as answer:  # noqa: S310 - loopback
            lines = answer.read().decode().splitlines()
        return any(line.startswith("vllm:num_requests_waiting{") and float(line.split()[-1]) >= count for line in lines)

    poll("the request waits", wait)
