"""A pool as the router has it, on endpoints that nobody listens at: it only hands the connections out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from policies.admission.desk import Desk
from policies.admission.order import ShortestPrefillFirst
from policies.attempts import AttemptPolicy
from policies.endpoint_state import EndpointState
from policies.first_byte import FirstByteLimit
from policies.registry import make_profile
from policies.retry import Budget, RetryPolicy
from policies.types import InferenceRequest, Lane
from router.pools import Place, Pool
from router.tickets import Ticket
from router.upstream import Timeouts, Upstream
from tests.policies.builders import PREFIX, make_request

NOBODY = "http://127.0.0.1:9"
LIMITS = Timeouts(1.0, 1.0, 1.0, 1.0)
LARGE = 30_000  # tokens: more than 2 s of prefill, so the gate is shut behind it


def make_desk(max_waiting: int = 5000) -> Desk:
    return Desk(ShortestPrefillFirst(), bounds=dict.fromkeys(Lane, max_waiting))


def make_attempts(retries: int = 2) -> AttemptPolicy:
    return AttemptPolicy(RetryPolicy(retries, Budget(0.1, 256), 5.0, Random(1)), FirstByteLimit(300, 30, 10), 5.0)


def make_pool(
    states: Sequence[EndpointState],
    *,
    name: str = "p",
    url: str = NOBODY,
    clock: Callable[[], float] = lambda: 0.0,
    max_waiting: int = 5000,
    profile: str = "prompt-aware",
    retries: int = 2,
    predecessor: Pool | None = None,
) -> Pool:
    pool = Pool(
        name,
        [Place(state, Upstream(url, timeouts=LIMITS)) for state in states],
        make_profile(profile, Random(1)),
        make_desk(max_waiting),
        clock,
        attempts=make_attempts(retries),
        when_full=dict.fromkeys(Lane, 503),
        predecessor=predecessor,
    )
    pool.take_over()
    return pool


def request(
    name: str = "r",
    *,
    deadline: float = 1000.0,
    stream: bool = True,
    tokens: int = 256,
    blocks: tuple[int, ...] = PREFIX,
) -> InferenceRequest:
    return replace(make_request(name, prompt_tokens=tokens, blocks=blocks), deadline=deadline, stream=stream)


async def turns(count: int = 4) -> None:
    """Lets everything happen that is ready to."""
    for _ in range(count):
        await asyncio.sleep(0)


def waiting(pool: Pool, *requests: InferenceRequest) -> list[asyncio.Task[Ticket]]:
    return [asyncio.create_task(pool.dispatch(one)) for one in requests]


async def end(tasks: Sequence[asyncio.Task[Ticket]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
