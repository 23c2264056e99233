"""An `InferenceRequest` as it travels to another replica, and back.

Floor: sans-IO. Its two times become an age and the seconds that remain, its prefix blocks one string of bytes: a list
of 64-bit numbers would cost ten times as much to read.
"""

from __future__ import annotations

from struct import Struct as Layout
from struct import pack, unpack
from typing import Annotated

from msgspec import Meta, Struct

from policies.types import InferenceRequest, Lane, Tier

_BLOCK = Layout("<Q").size


class AskedTier(Struct, array_like=True, frozen=True, gc=False):
    """A `Tier`: the owner's own configuration may know it otherwise or, during a roll-out, not at all."""

    name: str
    priority: int
    rto_seconds: float
    resume: bool
    hold_seconds: float
    hold_requests: int


class AskedRequest(Struct, array_like=True, frozen=True, gc=False):
    """All that a decision needs. `age`: seconds since it arrived; `remaining`: until its deadline, negative when that
    is over; `prefix_blocks`: little-endian 64-bit words; `session`: UTF-8, except that JSON allows half characters."""

    id: str
    tenant: str
    tier_priority: int
    model: str
    api: str
    lane: Lane
    prompt_tokens: Annotated[int, Meta(ge=0)]
    max_output_tokens: Annotated[int, Meta(ge=0)]
    prefix_blocks: bytes
    tokens_per_block: Annotated[float, Meta(ge=0)]
    stream: bool
    age: Annotated[float, Meta(ge=0)]
    remaining: float
    session: bytes | None
    weight: Annotated[float, Meta(gt=0)]
    choices: Annotated[int, Meta(ge=1)]
    tier: AskedTier

    def __post_init__(self) -> None:
        if len(self.prefix_blocks) % _BLOCK:
            raise ValueError("prefix blocks that are no 64-bit words")

    @classmethod
    def of(cls, request: InferenceRequest, now: float) -> AskedRequest:
        """The request as it stands at `now`, a time of this replica's clock."""
        blocks, session, tier = request.prefix_blocks, request.session, request.tier
        return cls(
            request.id,
            request.tenant,
            request.tier_priority,
            request.model,
            request.api,
            request.lane,
            request.prompt_tokens,
            request.max_output_tokens,
            pack(f"<{len(blocks)}Q", *blocks),
            request.tokens_per_block,
            request.stream,
            max(0.0, now - request.arrived_at),
            request.deadline - now,
            None if session is None else session.encode("utf-8", "surrogatepass"),
            request.weight,
            request.choices,
            AskedTier(tier.name, tier.priority, tier.rto_seconds, tier.resume, tier.hold_seconds, tier.hold_requests),
        )

    def request(self, now: float) -> InferenceRequest:
        """The request on this replica's clock, of which `now` is the time at which it came."""
        blocks, session, tier = self.prefix_blocks, self.session, self.tier
        return InferenceRequest(
            self.id,
            self.tenant,
            self.tier_priority,
            self.model,
            self.api,
            self.lane,
            self.prompt_tokens,
            self.max_output_tokens,
            unpack(f"<{len(blocks) // _BLOCK}Q", blocks),
            self.tokens_per_block,
            self.stream,
            now - self.age,
            now + self.remaining,
            None if session is None else session.decode("utf-8", "surrogatepass"),
            self.weight,
            self.choices,
            Tier(tier.name, tier.priority, tier.rto_seconds, tier.resume, tier.hold_seconds, tier.hold_requests),
        )
