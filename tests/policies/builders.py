"""Small builders: every field has a default, a test names only what it is about."""

from __future__ import annotations

from random import Random

from policies.decision import Candidate
from policies.endpoint_state import EndpointState
from policies.health import EndpointHealth
from policies.types import Endpoint, InferenceRequest, Lane, Role

PREFIX = (11, 22, 33, 44)


def make_request(
    id: str = "r",
    *,
    prompt_tokens: int = 256,
    max_output_tokens: int = 100,
    blocks: tuple[int, ...] = PREFIX,
    lane: Lane = Lane.SHORT,
    tier_priority: int = 0,
    arrived_at: float = 0.0,
) -> InferenceRequest:
    return InferenceRequest(
        id=id,
        tenant="acme",
        tier_priority=tier_priority,
        model="m",
        api="chat",
        lane=lane,
        prompt_tokens=prompt_tokens,
        max_output_tokens=max_output_tokens,
        prefix_blocks=blocks,
        tokens_per_block=64.0,
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


def make_candidate(name: str, cost: float = 0.0, weight: float = 1.0) -> Candidate:
    return Candidate(make_state(name, weight=weight), cost, 0, 0.0, 0.0)


def load(state: EndpointState, seconds: float, *, tokens: int = 256, now: float = 0.0) -> None:
    """Give an endpoint one pending prefill of `seconds`, of a prefix that nobody asks for."""
    state.reserve(make_request(prompt_tokens=tokens, blocks=()), 0, seconds, now)


def rng(seed: int = 7) -> Random:
    return Random(seed)
