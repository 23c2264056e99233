"""Which endpoints may take a request at all.

Floor: `policies`, pure. One idea a class. In a profile their order is their meaning: roles are compared among available
endpoints, and seats counted within the best role, so hot engines that are merely full are waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from policies.endpoint_state import EndpointState
from policies.types import RejectReason


class Available:
    """Healthy, awake and not draining."""

    name: ClassVar[str] = "available"
    reason: ClassVar[RejectReason] = RejectReason.NO_ENDPOINT

    def keep(self, states: Sequence[EndpointState], now: float) -> Sequence[EndpointState]:
        # `EndpointState.available` without a call for each, on the way of every request.
        return [
            state
            for state in states
            if not (state.sleeping or state.draining or state.withdrawn)
            and (state.health.well or state.health.admits(now))
        ]


class NotTried:
    """Not among the endpoints that this request has already failed at."""

    name: ClassVar[str] = "not-tried"
    reason: ClassVar[RejectReason] = RejectReason.NO_ENDPOINT

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def keep(self, states: Sequence[EndpointState], now: float) -> Sequence[EndpointState]:
        return [state for state in states if state.endpoint.name not in self._names]


class BestRole:
    """The hot ones if there is any, otherwise the warm ones, otherwise the cold ones; where a standby's level is in
    force (`policies.standby.ranks`) in its order."""

    name: ClassVar[str] = "best-role"
    reason: ClassVar[RejectReason] = RejectReason.NO_ENDPOINT

    def keep(self, states: Sequence[EndpointState], now: float) -> Sequence[EndpointState]:
        best = min([state.rank for state in states], default=0)
        return [state for state in states if state.rank == best]


class Seat:
    """With fewer in-flight requests than the endpoint allows, and than its slow start does while others have a seat."""

    name: ClassVar[str] = "seat"
    reason: ClassVar[RejectReason] = RejectReason.POOL_BUSY

    def keep(self, states: Sequence[EndpointState], now: float) -> Sequence[EndpointState]:
        kept = [state for state in states if state.in_flight < state.endpoint.max_in_flight]
        return [state for state in kept if state.health.slow_start.since is None or not state.gentle(now)] or kept


# What `usual_columns` does in one loop; almost every request is decided by just these.
USUAL: Final = (Available, BestRole, Seat)


def usual_columns(states: Sequence[EndpointState], now: float) -> list[int]:
    """The columns that the filters of `USUAL` keep, one after the other. Empty also where only asking each of them can
    tell: nobody is left, or the left have to be asked about their slow start."""
    columns: list[int] = []
    best: int | None = None
    for column, state in enumerate(states):
        health = state.health
        if state.sleeping or state.draining or state.withdrawn or not (health.well or health.admits(now)):
            continue
        rank = state.rank
        if rank != best:
            if best is not None and rank > best:
                continue
            best, columns = rank, []
        if state.in_flight < state.endpoint.max_in_flight:
            if health.slow_start.since is not None:
                return []
            columns.append(column)
    return columns
