"""The section of how requests wait: `lanes`, one for each class of requests.

Floor: keys only; a field's type, bounds, default and description are all there is to say of it. Times are seconds. What
the shares do, and the reasons for their defaults, is in `policies.admission.saturation`.
"""

from __future__ import annotations

from math import inf
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator, Field

from policies.admission.saturation import DEFAULT_POLICIES, LanePolicy
from policies.types import Lane
from router.config.section import Section
from router.config.types import NO_BOOL, Expect, Seconds

BATCH = DEFAULT_POLICIES[Lane.BATCH]


def _number(value: object) -> object:
    """A variable's text as the number that it is."""
    return int(value) if isinstance(value, str) and value in ("429", "503") else value


Saturation: TypeAlias = Annotated[float, NO_BOOL, Gt(0), Le(1)]
LaneShare: TypeAlias = Annotated[float, NO_BOOL, Ge(0), Le(1)]
MaxWaiting: TypeAlias = Annotated[int, NO_BOOL, Ge(1), Le(1_000_000)]
RefusalStatus: TypeAlias = Annotated[Literal[429, 503], BeforeValidator(_number), Expect("429 or 503")]


class LaneConfig(Section):
    max_wait: Seconds = Field(default=60.0, description="Seconds that a request may wait for an endpoint; then 503.")
    max_waiting: MaxWaiting = Field(default=1024, description="Requests that may wait per pool.")
    ceiling: Saturation | None = Field(
        default=None,
        description="Saturation of the pool (0 idle, 1 full) above which only `min_share` is sent; null: none.",
    )
    min_share: LaneShare = Field(
        default=0.0, description="Share of the pool's KV capacity that it may hold above its ceiling too."
    )
    max_share: LaneShare = Field(
        default=1.0, description="Share that it may hold at most; from half of the ceiling on it falls to `min_share`."
    )
    when_full: RefusalStatus = Field(
        default=429,
        description="Status for requests beyond `max_waiting`: 429 asks clients to slow down, 503 an ingress to try "
        "another gateway.",
    )


class BatchLaneConfig(LaneConfig):
    max_wait: Seconds = Field(default=600.0, description="Seconds that a request may wait for an endpoint; then 503.")
    max_waiting: MaxWaiting = Field(
        default=4096,
        description="Requests that may wait per pool; none when another lane's queue is nine tenths full.",
    )
    ceiling: Saturation | None = Field(
        default=BATCH.ceiling,
        description="Saturation of the pool (0 idle, 1 full) above which only `min_share` is sent; null: none.",
    )
    min_share: LaneShare = Field(
        default=BATCH.min_share,
        description="Share of the pool's KV capacity that it may hold above its ceiling too; 0 may stop it for ever.",
    )
    max_share: LaneShare = Field(
        default=BATCH.max_share,
        description="Share that it may hold at most; from half of the ceiling on it falls to `min_share`.",
    )


class LanesConfig(Section):
    short: LaneConfig = Field(default=LaneConfig(), description="Prompts up to `classify.long_prompt_tokens`.")
    long: LaneConfig = Field(default=LaneConfig(), description="Longer prompts.")
    batch: BatchLaneConfig = Field(default=BatchLaneConfig(), description="Work that can wait.")

    def __getitem__(self, lane: Lane) -> LaneConfig:
        return {Lane.SHORT: self.short, Lane.LONG: self.long, Lane.BATCH: self.batch}[lane]


def lane_policies(lanes: LanesConfig) -> dict[Lane, LanePolicy]:
    """What each lane may use of a pool, for `policies.admission.saturation`."""
    return {
        lane: LanePolicy(one.ceiling if one.ceiling is not None else inf, one.min_share, one.max_share)
        for lane in Lane
        for one in (lanes[lane],)
    }
