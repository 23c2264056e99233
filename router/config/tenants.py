"""The sections of who is served: `tiers` and `tenants`, with their limits, keys and models.

Floor: keys only; a field's type, bounds, default and description are all there is to say of it. Times are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MaxLen
from pydantic import Field, model_validator

from router.config.deploy import EnginesConfig
from router.config.guards import GuardConfig, RequestsConfig
from router.config.section import Section
from router.config.types import (
    NO_BOOL,
    ApiName,
    Bytes,
    CacheAnswerBytes,
    CacheSeconds,
    Count,
    Expect,
    Expiry,
    Host,
    ModelName,
    Money,
    Name,
    Price,
    Seconds,
    SecondsOrNone,
    Sha256,
    SloShare,
    TokenWeight,
    Weight,
    WeightsDigest,
    Word,
)

DEFAULT_TIER = "silver"


class SloConfig(Section):
    ttft_seconds: Seconds = Field(description="Seconds to the first byte of a stream's answer that are still good.")
    share: SloShare = Field(default=0.95, description="Share of the streams that shall begin so soon: 0.95 is the P95.")
    availability: SloShare = Field(
        default=0.999, description="Share of the requests that shall be answered, by no error of engines or gateway."
    )


class TierConfig(Section):
    priority: Annotated[int, NO_BOOL, Ge(0), Le(1_000_000)] = Field(description="Lower goes first.")
    rto_seconds: Seconds = Field(description="Seconds within which a standby takes over.")
    resume: bool = Field(
        default=False, description="Whether a stream that its engine breaks off goes on at another endpoint."
    )
    hold_seconds: SecondsOrNone | None = Field(
        default=None, description="Seconds that a request waits for a standby that wakes; null: as rto_seconds."
    )
    hold_requests: Count = Field(default=256, description="Requests that wait so per pool; others get 503 at once.")
    slo: SloConfig | None = Field(
        default=None, description="What its tenants' requests shall get; counted by `promptlane_slo_requests_total`."
    )
    engines: EnginesConfig = Field(
        default=EnginesConfig(),
        description="How many engines `promptlane render` makes for a pool that finds them and does not say.",
    )


DEFAULT_TIERS: Mapping[str, TierConfig] = {
    "platinum": TierConfig(priority=0, rto_seconds=5, resume=True),
    "gold": TierConfig(priority=10, rto_seconds=15),
    "silver": TierConfig(priority=20, rto_seconds=60),
}


class CountTokensConfig(Section):
    input: TokenWeight = Field(default=1.0, description="What a token of the prompt counts.")
    output: TokenWeight = Field(default=1.0, description="What a token of the answer counts.")
    cached: TokenWeight = Field(
        default=1.0, description="What a token of the prompt counts that the engine had cached."
    )


class LimitsConfig(Section):
    requests_per_minute: Count | None = Field(default=None, description="Requests a minute; null: no limit.")
    tokens_per_minute: Count | None = Field(
        default=None, description="Tokens a minute, prompt and answer; null: no limit."
    )
    concurrency: Count | None = Field(default=None, description="Requests under way at once; null: no limit.")
    tokens_per_day: Count | None = Field(default=None, description="Tokens in any 24 hours; null: no limit.")
    money_per_month: Money | None = Field(
        default=None,
        description="What a calendar month (UTC) may cost: by a model's `prices`, or, without them, by the time of its "
        "engines at their `hourly_cost`; in their currency; null: no limit.",
    )
    count_tokens: CountTokensConfig = Field(
        default=CountTokensConfig(), description="What tokens count towards the limits of tokens."
    )
    without_redis: Literal["share", "allow", "refuse"] = Field(
        default="share",
        description="While `state.redis_url` cannot be reached: this replica's share goes on, all is allowed, or all "
        "is refused (503).",
    )
    shadow: bool = Field(default=False, description="Whether these limits only count what they would refuse.")


class PricesConfig(Section):
    input: Price = Field(description="Of a million tokens of prompts.")
    output: Price = Field(description="Of a million tokens of answers.")
    cached: Price | None = Field(
        default=None, description="Of a million tokens of prompts that the engine had cached; null: as `input`."
    )


class CacheConfig(Section):
    store: Literal["memory", "redis"] | None = Field(
        default=None,
        description="Where answers are kept: in each process by itself, or in `state.redis_url`, shared by replicas; "
        "null: there, if it is set.",
    )
    ttl: CacheSeconds = Field(default=3600.0, description="Seconds for which an answer is used again.")
    max_bytes: Bytes = Field(
        default=64 * 1024 * 1024, description="Bytes that all of its answers may take, compressed."
    )
    max_entries: Annotated[int, NO_BOOL, Ge(1), Le(1_000_000)] = Field(
        default=10_000, description="Answers that are kept at most."
    )
    max_answer_bytes: CacheAnswerBytes = Field(
        default=1024 * 1024, description="Bytes of the longest answer that is kept."
    )
    billed: Literal["none", "cached", "full"] = Field(
        default="full",
        description="What an answer from the cache counts, for limits and money: no tokens; its prompt as one that the "
        "engine had cached; as much as one that an engine made. Of an engine's time it takes none.",
    )


class ApiKeyConfig(Section):
    id: Name = Field(description="The key's name in records and metrics.")
    sha256: Sha256 = Field(repr=False, description="SHA-256 of the key, hexadecimal; the key itself is never stored.")
    expires: Expiry = Field(
        default=None, description="When the key stops to work; a date is its first moment, 00:00 UTC."
    )
    models: tuple[ModelName, ...] | None = Field(default=None, description="Models the key may ask for; null: all.")
    apis: tuple[ApiName, ...] | None = Field(default=None, description="APIs the key may call; null: all.")
    limits: LimitsConfig = Field(
        default=LimitsConfig(), description="What the key may use, within the tenant's limits."
    )


class ModelConfig(Section):
    pool: Annotated[str, Expect("the name of a pool")] = Field(description="The pool that serves this model.")
    engine_model: ModelName = Field(
        default="",
        description="The name its engines know; the model's own if not given.",
        json_schema_extra={"shown": "<name>"},
    )
    weights_digest: WeightsDigest | None = Field(
        default=None, description="Digest of its weights (`sha256:…`), for records; an endpoint's own counts first."
    )
    limits: LimitsConfig = Field(
        default=LimitsConfig(), description="What the tenant may use of it, within the tenant's limits."
    )
    prices: PricesConfig | None = Field(
        default=None, description="What its tokens cost; null: what its engines' time does."
    )


class TenantConfig(Section):
    tier: Annotated[str, Expect("the name of a tier")] = Field(
        default=DEFAULT_TIER, description="Its service class, one of `tiers`."
    )
    hosts: tuple[Host, ...] = Field(default=(), description="Host names that are this tenant's.")
    anonymous: bool = Field(default=False, description="Whether its hosts serve requests without a key.")
    weight: Weight = Field(default=1.0, description="Its share beside other tenants of a shared pool.")
    limits: LimitsConfig = Field(default=LimitsConfig(), description="What it may use.")
    api_keys: tuple[ApiKeyConfig, ...] = Field(default=(), description="Its keys; `promptlane keys create` makes one.")
    models: dict[ModelName, ModelConfig] = Field(default={}, description="Names its clients may ask for.")
    guards: tuple[GuardConfig, ...] = Field(default=(), description="Rules for its prompts and answers, all applied.")
    watch_words: Annotated[tuple[Word, ...], MaxLen(50)] = Field(
        default=(),
        description="Words that are counted in those of its answers that are looked at (`governance`); records have "
        "keyed hashes of them.",
    )
    cache: CacheConfig | None = Field(
        default=None,
        description="Keeps whole answers to requests that have one answer only (router/README.md); `{}`: with these "
        "defaults; null: none is kept.",
    )
    requests: RequestsConfig = Field(default=RequestsConfig(), description="Bounds of what its clients may ask for.")

    @model_validator(mode="before")
    @classmethod
    def _engines_know_a_model_by_its_own_name(cls, data: Any) -> Any:
        models = data.get("models") if isinstance(data, dict) else None
        if not isinstance(models, dict):
            return data
        named = {
            name: {"engine_model": name, **model} if isinstance(model, dict) else model
            for name, model in models.items()
        }
        return {**data, "models": named}
