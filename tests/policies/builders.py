"""Small builders: every field has a default, a test names only what it is about."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from policies.cost import Rates, ttft
from policies.endpoint_state import EndpointState
from policies.health import EndpointHealth
from policies.learning import RateLearner
from policies.types import Endpoint, InferenceRequest, Lane, Role
from policies.view import View
from policies.waiting import Waiting

PREFIX = (11, 22, 33, 44)


def make_request(
    id: str = "r",
    *,
    prompt_tokens: int = 256,
    max_output_tokens: int = 100,
    blocks: tuple[int, ...] = PREFIX,
    lane: Lane = Lane.SHORT,
    tenant: str = "acme",
    tier_priority: int = 0,
    arrived_at: float = 0.0,
    tokens_per_block: float = 64.0,
) -> InferenceRequest:
    return InferenceRequest(
        id=id,
        tenant=tenant,
        tier_priority=tier_priority,
        model="m",
        api="chat",
        lane=lane,
        prompt_tokens=prompt_tokens,
        max_output_tokens=max_output_tokens,
        prefix_blocks=blocks,
        tokens_per_block=tokens_per_block,
        stream=True,
        arrived_at=arrived_at,
        deadline=arrived_at + 60,
    )


def make_state(
    name: str = "e0",
    *,
    role: Role = Role.HOT,
    weight: float = 1.0,
    max_in_flight: int = 256,
    kv_capacity_tokens: int | None = None,
    healthy: bool = True,
) -> EndpointState:
    endpoint = Endpoint(
        name,
        f"http://{name}",
        role=role,
        weight=weight,
        max_in_flight=max_in_flight,
        kv_capacity_tokens=kv_capacity_tokens,
    )
    return EndpointState(endpoint, health=EndpointHealth(assume_healthy=healthy))


def make_fleet(count: int, max_in_flight: int = 256) -> list[EndpointState]:
    return [make_state(f"e{number}", max_in_flight=max_in_flight) for number in range(count)]


def make_view(states: Sequence[EndpointState], *, closed: Sequence[int] = (), now: float = 0.0) -> View:
    """All columns open but the closed ones."""
    return View(states, [column for column in range(len(states)) if column not in closed], now)


def make_waiting(states: Sequence[EndpointState], request: InferenceRequest | None = None, *excluded: str) -> Waiting:
    """A request that waits, with predictions as of now."""
    waiting = Waiting(make_request() if request is None else request, frozenset(excluded))
    make_view(states).refresh(waiting)
    return waiting


def send(view: View, column: int, waiting: Waiting) -> None:
    """The request goes to this column, as a pass does it."""
    view.states[column].reserve(waiting.request, waiting.cached[column], waiting.own[column], view.now)
    view.sent(column)


def ttfts(view: View, waiting: Waiting, columns: Sequence[int]) -> list[float]:
    """Seconds to the first token at these columns if sent now."""
    return [ttft(view.waits[at], waiting.own[at], view.slowdowns[at], view.steps[at]) for at in columns]


def chain_of(path: Sequence[int]) -> tuple[int, ...]:
    """The chained blocks of a prompt that is a path in a tree: two prompts share blocks as far as their paths agree."""
    return tuple(hash((0, *path[:length])) for length in range(1, len(path) + 1))


def learn_rates(state: EndpointState, rates: Rates) -> None:
    """What an endpoint does when it has learned that it is that fast."""
    state.learner = RateLearner(rates)
    state.take_rates()


def load(state: EndpointState, seconds: float, *, tokens: int = 256, now: float = 0.0) -> None:
    """Give an endpoint one pending prefill of `seconds`, of a prefix that nobody asks for."""
    state.reserve(make_request(prompt_tokens=tokens, blocks=()), 0, seconds, now)


def rng(seed: int = 7) -> Random:
    return Random(seed)
