"""The section of how endpoints are chosen and who goes next: `routing`.

Floor: keys only; a field's type, bounds, default and description are all there is to say of it. Times are seconds. The
constants of the default profile, with the reasons for their values, are those of `policies`.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import Field

from policies.admission.order import AGEING, BATCH_SECONDS, TIER_SECONDS, ShortestPrefillFirst
from policies.dispatch import WINDOW
from policies.gate import KV_SHARE, WAIT_SECONDS, Gate
from policies.registry import ProfileSpec, prompt_aware
from policies.scorers.predicted_ttft import STICKINESS
from router.config.profiles import ProfileConfig
from router.config.section import Section
from router.config.types import NO_BOOL, Count, Name, ProfileName, Seconds, SecondsOrNone, Share


class RoutingConfig(Section):
    profile: ProfileName = Field(
        default="prompt-aware",
        description="How endpoints are chosen. ENABLE_KV_AWARE_ROUTING=false selects least-outstanding.",
    )
    profiles: dict[Name, ProfileConfig] = Field(default={}, description="Profiles of your own, by name.")
    hold: bool = Field(
        default=True,
        description="Whether prompt-aware lets requests wait at the gateway until an engine is nearly free; false: as "
        "prompt-aware-at-once.",
    )
    hold_seconds: Seconds = Field(
        default=WAIT_SECONDS,
        description="Predicted prefill in front of a request from which on it is held (θ), on an A100; slower engines "
        "have as many times more.",
    )
    kv_share: Share = Field(
        default=KV_SHARE, description="Share of an engine's KV cache that requests in flight may need; more are held."
    )
    stickiness: Annotated[float, NO_BOOL, Ge(0), Le(100)] = Field(
        default=STICKINESS, description="How much more own prefill counts where engines are busy, while holding (λ)."
    )
    ageing: Annotated[float, NO_BOOL, Gt(0), Le(100)] = Field(
        default=AGEING, description="Seconds of prefill that a second of waiting is worth in the queue (κ)."
    )
    tier_seconds: SecondsOrNone = Field(
        default=TIER_SECONDS, description="Seconds of prefill that one step of tier priority is worth in the queue."
    )
    batch_seconds: SecondsOrNone = Field(
        default=BATCH_SECONDS, description="Seconds of prefill by which batch requests stand behind in the queue."
    )
    window: Annotated[int, NO_BOOL, Ge(1), Le(4096)] = Field(
        default=WINDOW, description="Waiting requests of a pool that are looked at together (W)."
    )
    index_share: Share = Field(
        default=0.9, description="Share of an engine's KV capacity that the prefix index assumes is still held."
    )
    block_bytes: Annotated[int, NO_BOOL, Ge(64), Le(4096)] | None = Field(
        default=None,
        description="Bytes of canonical prompt per prefix block; null follows each model to about 64 tokens.",
    )
    default_kv_tokens: Count = Field(
        default=100_000, description="KV capacity of an engine, in tokens, until it is configured or scraped."
    )
    default_output_tokens: Count = Field(
        default=256, description="Expected length of an answer, in tokens, where a client gives no bound."
    )


def profile_specs(routing: RoutingConfig) -> dict[str, ProfileSpec]:
    """The profiles that the file changes or adds, for `policies.registry.make_profile`."""
    gate = Gate(routing.hold_seconds, routing.kv_share)
    own = {name: profile.spec(name, gate, held=routing.hold) for name, profile in routing.profiles.items()}
    return {"prompt-aware": prompt_aware(gate if routing.hold else None, routing.stickiness), **own}


def queue_order(routing: RoutingConfig) -> ShortestPrefillFirst:
    """Who goes next, and under `engine_priority` also inside the engines."""
    return ShortestPrefillFirst(routing.ageing, routing.tier_seconds, routing.batch_seconds)
