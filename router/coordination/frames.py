"""What replicas say to each other about tickets: frames, in msgpack.

Floor: sans-IO. A frame is an array that begins with its kind; fields may be added at the end, with a default, without
a new version of the protocol. Times are ages and remaining seconds: no replica knows another's clock. Prompt text is
in none of them. `id` names one request of one follower, from its `Ask` until its `Done`, on whatever connection.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from policies.types import FailureCause, Outcome
from router.coordination.asked import AskedRequest

Id: TypeAlias = Annotated[int, Meta(ge=1)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0)]


class _Frame(Struct, array_like=True, frozen=True, gc=False):
    """No frame refers to itself: the collector need not look at them."""


class Ended(_Frame, frozen=True):
    """An `Outcome`, as it is told."""

    status: int
    failure: FailureCause | None
    started: bool
    ttft_seconds: float | None
    total_seconds: float | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None

    @classmethod
    def of(cls, outcome: Outcome) -> Ended:
        return cls(
            outcome.status,
            outcome.failure,
            outcome.started,
            outcome.ttft_seconds,
            outcome.total_seconds,
            outcome.prompt_tokens,
            outcome.cached_tokens,
            outcome.completion_tokens,
        )

    def outcome(self) -> Outcome:
        return Outcome(
            self.status,
            self.failure,
            self.started,
            self.ttft_seconds,
            self.total_seconds,
            self.prompt_tokens,
            self.cached_tokens,
            self.completion_tokens,
        )


class CarriedSeat(_Frame, frozen=True):
    """One request that is under way. `sent_ago`: seconds since its dispatch; `prefilled`: its first token has come, or
    is believed to have."""

    id: Id
    request: AskedRequest
    endpoint: str
    cached: Count
    own_seconds: Seconds
    sent_ago: Seconds
    prefilled: bool


class Ranked(_Frame, frozen=True):
    """An endpoint that was not chosen, as `Candidate` has it."""

    endpoint: str
    cost: float
    cached: Count
    own_seconds: Seconds
    ttft_seconds: float


# -- from a follower ---------------------------------------------------------------------------------------------------


class Ask(_Frame, frozen=True, tag=1):
    """A ticket is wanted. `excluded`: endpoints that have failed the request; `may_hold`: it may wait for a standby."""

    id: Id
    pool: str
    request: AskedRequest
    excluded: tuple[str, ...] = ()
    may_hold: bool = False


class Cancel(_Frame, frozen=True, tag=2):
    """Nobody waits for this ticket any more; where it was given already, nothing was learned of the endpoint."""

    id: Id


class First(_Frame, frozen=True, tag=3):
    """The first byte of the answer has come."""

    id: Id


class Done(_Frame, frozen=True, tag=4):
    """The ticket is settled. None: nothing was learned of the endpoint."""

    id: Id
    outcome: Ended | None = None


class Carry(_Frame, frozen=True, tag=5):
    """What is under way in a pool: told to a new owner, and to the old one on a new connection, who so learns which
    `Done` was lost. `more`: further seats follow in a frame of their own."""

    pool: str
    seats: tuple[CarriedSeat, ...]
    more: bool = False


class Fence(_Frame, frozen=True, tag=6):
    """A newer owner of the pool, with this term, has been seen."""

    pool: str
    term: Count


class Ping(_Frame, frozen=True, tag=7):
    """Are you there?"""

    n: Count


# -- from an owner -----------------------------------------------------------------------------------------------------


class Bound(_Frame, frozen=True, tag=16):
    """The ticket: `endpoint` (by name), now. `own_seconds` and `ttft_seconds` are predictions, `queued_seconds` and
    `ahead` what the wait was, `priority` and `session` what the engine is to be told. `ranked`: the next best few,
    where somebody wanted to know. `pause`: seconds before it is to be sent, so that it overtakes nobody's."""

    id: Id
    term: Count
    endpoint: str
    cached: Count
    own_seconds: Seconds
    ttft_seconds: float
    queued_seconds: float
    ahead: Count
    priority: int | None = None
    session: str | None = None
    ranked: tuple[Ranked, ...] = ()
    pause: Seconds = 0.0


class Refused(_Frame, frozen=True, tag=17):
    """A `GatewayError` instead of a ticket."""

    id: Id
    code: str
    message: str
    retry_after: float | None
    status: int
    final: bool


class Held(_Frame, frozen=True, tag=18):
    """The request has begun to wait for a standby, for at most `seconds`; its answer is still to come."""

    id: Id
    seconds: float


class Aside(_Frame, frozen=True, tag=19):
    """The pool is degraded: take the way that your own keeper shows."""

    id: Id


class NotMine(_Frame, frozen=True, tag=20):
    """The pool has another owner. `term`: the highest that is known here."""

    id: Id
    pool: str
    term: Count


class Known(_Frame, frozen=True):
    """The highest term of a pool that the owner of the link knows of; `mine`: it leads with it."""

    pool: str
    term: Count
    mine: bool = False


class Pong(_Frame, frozen=True, tag=21):
    """Here. `n`: the ping's. `known`: what has not been said on this connection yet, some pools at a time: a `Fence` in
    the other direction. `reaches`: whether the owner of the link reaches an engine. Older replicas neither say nor mind
    them."""

    n: Count
    known: tuple[Known, ...] = ()
    reaches: bool = False


FromFollower: TypeAlias = Ask | Cancel | First | Done | Carry | Fence | Ping
FromOwner: TypeAlias = Bound | Refused | Held | Aside | NotMine | Pong
Answer: TypeAlias = Bound | Refused | Held | Aside | NotMine
