"""How full a pool is, in one number, and what each lane may use of it.

Floor: `policies`, pure. Lanes do not partition the engines (facts/routing.md: that is disastrous); a ceiling only keeps
batch work from taking the room that the next interactive request needs, and gives it all that is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from policies.cost import wait_seconds
from policies.endpoint_state import EndpointState
from policies.filters import Available, BestRole
from policies.gate import WAIT_SECONDS
from policies.types import Lane

# Where a lane's share begins to fall, as a part of its ceiling. At 0 batch gets up to 17 % less of what is left; at .98
# it is a cliff, and interactive time per token at p99 is up to a third longer. From a simulation with the engines of
# facts/routing.md: endless batch beside 30 to 90 % of interactive load.
SLOPE_FROM = 0.5

# Part of an interactive lane's queue bound from which batch is refused at the door: what can still wait is kept for
# those who cannot come back in ten minutes.
NEARLY_FULL = 0.9

# Part of the short lane's bound from which long requests are refused as well: one of them takes the time of many short.
FULLER = 0.95


@dataclass(frozen=True, slots=True)
class LanePolicy:
    """What a lane may hold in flight: shares of the pool's KV capacity, or of its seats where that is unknown.

    `max_share`: at most this; from 1 on the lane is not limited. `ceiling`: the saturation above which nothing more of
    the lane is sent, unless it holds less than `min_share`. On the way there, from half of the ceiling, the share falls
    linearly from `max_share` to `min_share`. With a `min_share` above 0 one request is always within it, whatever its
    size, so the lane never stops: whenever nothing of it is in flight its next request may be sent as soon as the order
    puts it first, after at most (lane offset + Δ)/κ seconds of waiting (`fairness` has Δ).
    """

    ceiling: float = inf
    min_share: float = 0.0
    max_share: float = 1.0

    def __post_init__(self) -> None:
        if not (self.ceiling > 0 and 0 <= self.min_share <= self.max_share <= 1):
            raise ValueError("expected a ceiling above 0 and shares with 0 <= min_share <= max_share <= 1")

    @property
    def limits(self) -> bool:
        """Whether there is anything to check."""
        return self.ceiling < inf or self.max_share < 1

    def share(self, saturation: float) -> float:
        """The share allowed at this saturation."""
        if self.ceiling == inf:
            return self.max_share
        begin = self.ceiling * SLOPE_FROM
        down = min(1.0, max(0.0, (saturation - begin) / (self.ceiling - begin)))
        return self.max_share - (self.max_share - self.min_share) * down


# Batch. In that simulation a ceiling of .7 leaves it 89 to 95 % of what it gets without one, and interactive time per
# token at p99 falls to a third. `min_share`: at 130 % of interactive load .02 costs nothing that can be seen, .05 costs
# 2 % of the interactive requests and .1 costs 8 %.
DEFAULT_POLICIES: Mapping[Lane, LanePolicy] = {
    Lane.SHORT: LanePolicy(),
    Lane.LONG: LanePolicy(),
    Lane.BATCH: LanePolicy(ceiling=0.7, min_share=0.02, max_share=0.8),
}


# The load of a pool is measured again after changes of this share of its endpoints' number: each moves a mean over all
# of them by no more than its own part, so it is never further off; and after as many seconds, as time moves it too.
# In pools of up to 64 endpoints after every change.
LOAD_SHARE = 1 / 64
LOAD_SECONDS = 0.05


class PoolLoad(NamedTuple):
    """`saturation`: 0 idle, 1 full. `kv_tokens`: the KV capacity of all endpoints, None unless all are known."""

    saturation: float
    kv_tokens: int | None
    seats: int


def pool_load(states: Sequence[EndpointState], now: float, full_wait: float = WAIT_SECONDS) -> PoolLoad:
    """The load of the endpoints that serve now: those that are available, of the best role there is.

    Saturation is the mean over endpoints of the largest of: predicted wait against `full_wait` (θ, from which on the
    gate sends nothing), KV tokens in flight against capacity, requests against seats; each endpoint counts as full at
    most, as one long prefill says nothing of the other endpoints. Without endpoints the pool is full.
    """
    serving = BestRole().keep(Available().keep(states, now), now)
    if not serving:
        return PoolLoad(1.0, None, 0)
    total, tokens, seats = 0.0, 0, 0
    known = True
    for state in serving:
        seats += state.endpoint.max_in_flight
        wait = wait_seconds(state, now) / (full_wait * state.rates.slower)
        fullest = max(wait, state.in_flight / state.endpoint.max_in_flight)
        capacity = state.kv_capacity_tokens
        if capacity:
            tokens += capacity
            fullest = max(fullest, state.kv_tokens / capacity)
        else:
            known = False
        total += min(1.0, fullest)
    return PoolLoad(total / len(serving), tokens if known else None, seats)


class LaneGate:
    """Which lanes may send now; one per pool, told of every request that is sent and that ends.

    A pass calls `begin`, then `allows` for each request. A lane without limits costs one lookup; for the others the
    load is measured again after each request that was sent, so a burst of batch sees itself.
    """

    def __init__(self, policies: Mapping[Lane, LanePolicy] = DEFAULT_POLICIES) -> None:
        self.policies = {lane: policies.get(lane, LanePolicy()) for lane in Lane}
        self.tokens = dict.fromkeys(Lane, 0.0)  # in flight: prompts and expected outputs
        self.requests = dict.fromkeys(Lane, 0)
        self._states: Sequence[EndpointState] = ()
        self._now = self._measured_at = 0.0
        self._load: PoolLoad | None = None
        self._changes = 0  # since it was measured

    def begin(self, states: Sequence[EndpointState], now: float) -> None:
        """A pass begins."""
        if states is not self._states or len(states) * LOAD_SHARE <= 1 or now - self._measured_at >= LOAD_SECONDS:
            self._load = None
        self._states, self._now = states, now

    def allows(self, lane: Lane, tokens: float) -> bool:
        """May one more request of the lane, of `tokens` (prompt and expected output), be sent now?"""
        policy = self.policies[lane]
        if not policy.limits:
            return True
        load = self.load
        share = policy.share(load.saturation)
        if share >= 1:
            return True
        if not self.requests[lane]:
            return share > 0
        if load.kv_tokens is None:
            return self.requests[lane] + 1 <= share * load.seats
        return self.tokens[lane] + tokens <= share * load.kv_tokens

    def below_minimum(self, lane: Lane) -> bool:
        """Whether the lane holds less in flight than its `min_share`."""
        least = self.policies[lane].min_share
        if least <= 0:
            return False
        if not self.requests[lane]:
            return True
        load = self.load
        if load.kv_tokens is None:
            return self.requests[lane] < least * load.seats
        return self.tokens[lane] < least * load.kv_tokens

    @property
    def load(self) -> PoolLoad:
        """As of this moment of the pass."""
        if self._load is None:
            self._load = pool_load(self._states, self._now)
            self._measured_at, self._changes = self._now, 0
        return self._load

    def _changed(self) -> None:
        self._changes += 1
        if self._changes >= len(self._states) * LOAD_SHARE:
            self._load = None

    def sent(self, lane: Lane, tokens: float) -> None:
        """A request was sent and its reservation charged."""
        self.requests[lane] += 1
        self.tokens[lane] += tokens
        self._changed()

    def ended(self, lane: Lane, tokens: float) -> None:
        """The request has left its endpoint. `tokens`: the same number again."""
        self.requests[lane] -= 1
        self.tokens[lane] = max(0.0, self.tokens[lane] - tokens) if self.requests[lane] else 0.0
        self._changed()


class Door:
    """Who may begin to wait. `bounds`: how many requests of each lane may wait.

    Every lane has a queue of its own, so none can fill another's. When an interactive queue is nearly full the pool has
    nothing to spare for a long time: batch is refused then, before anybody else is, and then long requests.
    """

    def __init__(self, bounds: Mapping[Lane, int]) -> None:
        self._bounds = dict(bounds)
        self._crowded: dict[Lane, dict[Lane, float]] = {
            Lane.BATCH: {lane: NEARLY_FULL * bound for lane, bound in bounds.items() if lane is not Lane.BATCH},
            Lane.LONG: {lane: FULLER * bound for lane, bound in bounds.items() if lane is Lane.SHORT},
            Lane.SHORT: {},
        }

    def admits(self, lane: Lane, waiting: Mapping[Lane, int]) -> bool:
        """`waiting`: how many of each lane wait now; a lane that is not there has none."""
        return not self.shut_by(lane, waiting)

    def shut_by(self, lane: Lane, waiting: Mapping[Lane, int]) -> list[Lane]:
        """The lanes whose queues are too long for one more request of this lane."""
        full = [lane] if waiting.get(lane, 0) >= self._bounds[lane] else []
        full += [one for one, bound in self._crowded[lane].items() if waiting.get(one, 0) >= bound]
        return full
