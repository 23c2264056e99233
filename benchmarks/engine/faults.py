"""Faults that are switched on at run time, so that a test can break an engine the way real ones break.

Floor: pure; the clock is an argument. `app.py` asks which fault hits a request and plays it.

    hang            accepted, never answered; /health stays 200. What waits is answered when the fault ends.
    slow            every step takes `factor` times as long (10).
    refuse          the port refuses connections and open ones are reset (`server.py`; a way back: the control port,
                    or `seconds`).
    error           an error answer with `status`; with `after_chunks` in a stream: an error event, then [DONE].
    die-mid-stream  the connection closes with no end: after `after_chunks` chunks, or in the middle of a whole body;
                    `after_chunks` 0: before the first byte.
    silent          after `after_chunks` chunks nothing more is sent and the connection stays open.
    abort           after `after_chunks` chunks the answer ends with finish_reason "abort".

Any of them slows steps too where `factor` is given: what is under way stays so while it is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class FaultKind(StrEnum):
    NONE = "none"
    HANG = "hang"
    SLOW = "slow"
    REFUSE = "refuse"
    ERROR = "error"
    DIE = "die-mid-stream"
    SILENT = "silent"
    ABORT = "abort"


SLOW_FACTOR = 10.0

IN_STREAM = {FaultKind.DIE, FaultKind.SILENT, FaultKind.ABORT}


class FaultOrder(BaseModel):
    """The body of `POST /fault`. `seconds`: the fault ends by itself after so long. `count`: how many requests it hits.

    `every`: of the requests as they arrive it hits one of so many. `paths`: only requests to these. `after_chunks`
    counts SSE events, the role chunk of a chat too. `message`: the error's.
    """

    model_config = ConfigDict(extra="forbid")
    kind: FaultKind
    after_chunks: int | None = Field(default=None, ge=0)
    seconds: float | None = Field(default=None, gt=0)
    status: int = Field(default=500, ge=400, le=599)
    count: int | None = Field(default=None, ge=1)
    every: int = Field(default=1, ge=1)
    paths: list[str] | None = None
    factor: float | None = Field(default=None, gt=0)
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """What hits one request. `after_chunks` None (an error only): instead of any answer."""

    kind: FaultKind
    after_chunks: int | None
    status: int
    message: str | None


class FaultSwitch:
    """At most one fault is on. A new order replaces the old one; NONE, or its time, ends it."""

    def __init__(self) -> None:
        self._order = FaultOrder(kind=FaultKind.NONE)
        self._ends_at: float | None = None
        self._left: int | None = None
        self._met = 0
        self.hits_total = 0

    def set(self, order: FaultOrder, now: float) -> None:
        self._order = order
        self._ends_at = None if order.seconds is None else now + order.seconds
        self._left = order.count
        self._met = 0

    def active(self, now: float) -> FaultKind:
        if self._ends_at is not None and now >= self._ends_at:
            self.set(FaultOrder(kind=FaultKind.NONE), now)
        return self._order.kind

    def step_factor(self, now: float) -> float:
        usual = SLOW_FACTOR if self.active(now) is FaultKind.SLOW else 1.0
        return self._order.factor or usual

    def claim(self, path: str, now: float, *, started: bool = False) -> Fault | None:
        """The fault that hits this request, if any; counts it. `started`: the answer is under way."""
        kind = self.active(now)
        order = self._order
        in_stream = kind in IN_STREAM or (kind is FaultKind.ERROR and order.after_chunks is not None)
        if not in_stream and (started or kind not in (FaultKind.HANG, FaultKind.ERROR)):
            return None
        if (order.paths is not None and path not in order.paths) or self._left == 0:
            return None
        if order.every > 1 and (started or not self._is_due(order.every)):
            return None
        if self._left is not None:
            self._left -= 1
        self.hits_total += 1
        after = order.after_chunks
        if after is None and kind in IN_STREAM:
            after = 1
        return Fault(kind, after, order.status, order.message)

    def _is_due(self, every: int) -> bool:
        self._met += 1
        return self._met % every == 0

    def describe(self, now: float) -> Mapping[str, Any]:
        kind = self.active(now)
        return {"kind": kind.value, "left": self._left, "hits_total": self.hits_total}
