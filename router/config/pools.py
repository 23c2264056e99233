"""The section of what serves: `pools`, with their endpoints, timeouts, TLS and probes.

Floor: keys only; a field's type, bounds, default and description are all there is to say of it. Times are seconds.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, MaxLen
from pydantic import Field

from policies.outliers import MAX_EJECTED_SHARE
from policies.types import Role
from router.config.deploy import PoolDeployConfig
from router.config.discovery import DiscoveryConfig
from router.config.section import Section
from router.config.standby import StandbyConfig
from router.config.types import (
    NO_BOOL,
    Count,
    EngineKey,
    EngineUrl,
    FileName,
    Name,
    ProfileName,
    Seconds,
    SecondsOrNone,
    SocketUrl,
    Variable,
    Weight,
    WeightsDigest,
    Word,
)


class EndpointConfig(Section):
    name: Name = Field(description="Its name in answers, records and metrics; unique.")
    url: EngineUrl = Field(description="The engine's base URL, without `/v1`.")
    role: Role = Field(default=Role.HOT, description="When it serves: always, as first or as last standby.")
    weight: Weight = Field(default=1.0, description="How much it takes beside the others; 2 takes twice as much.")
    hourly_cost: Annotated[float, NO_BOOL, Ge(0), Le(1e6)] = Field(
        default=0.0, description="Cost per hour, any currency."
    )
    max_in_flight: Count = Field(default=256, description="Requests that it gets at once.")
    kv_capacity_tokens: Count | None = Field(
        default=None, description="Its KV capacity in tokens; null: from its metrics."
    )
    weights_digest: WeightsDigest | None = Field(
        default=None, description="Digest of the weights that it has loaded, for records; null: the model's."
    )
    kv_events_url: SocketUrl | None = Field(
        default=None, description="Where it publishes its KV events (`--kv-events-config`, `endpoint`)."
    )
    kv_replay_url: SocketUrl | None = Field(
        default=None, description="Where it tells missed ones again (`replay_endpoint`); null: nowhere."
    )


class TimeoutsConfig(Section):
    connect: Seconds = Field(default=5.0, description="Seconds to connect to an engine.")
    first_byte: Seconds = Field(
        default=300.0,
        description="Seconds from request sent to the answer's first byte at most; for answers in one piece, which "
        "have it when they are complete, and for the batch lane it is the limit.",
    )
    first_byte_least: Seconds = Field(
        default=30.0,
        description="Seconds that engines have for it, however little is predicted; while they answer others, "
        "`first_byte` holds.",
    )
    first_byte_factor: Annotated[float, NO_BOOL, Ge(1), Le(1e6)] = Field(
        default=10.0, description="Times the predicted time to the first token that they have, within the two."
    )
    idle: Seconds = Field(default=60.0, description="Seconds between two pieces of an answer.")
    total: Seconds = Field(default=3600.0, description="Seconds for one attempt as a whole.")


class RetryBudgetConfig(Section):
    share: Annotated[float, NO_BOOL, Ge(0), Le(1)] = Field(
        default=0.1, description="Retries per request of the last 30 seconds."
    )
    reserve: Annotated[int, NO_BOOL, Ge(0), Le(1_000_000)] | None = Field(
        default=None,
        description="Retries besides in 30 seconds, for the sudden death of an engine; null: the most `max_in_flight`.",
    )


class HedgingConfig(Section):
    enabled: bool = Field(
        default=False,
        description="Whether a second copy of a short stream goes to another endpoint when the first byte is later "
        "than 99 % are; the first to answer is kept.",
    )
    share: Annotated[float, NO_BOOL, Gt(0), Le(0.5)] = Field(
        default=0.05, description="Share of the short requests that may be sent twice."
    )


class EngineTlsConfig(Section):
    ca_file: FileName | None = Field(
        default=None, description="Authorities that sign the engines, PEM; null: the system's."
    )
    verify: bool = Field(default=True, description="Whether an engine's certificate is checked.")


class HealthConfig(Section):
    interval: Seconds = Field(default=2.0, description="Seconds between two probes of an endpoint.")
    timeout: Seconds = Field(default=2.0, description="Seconds that a probe may take.")
    unhealthy_after: Count = Field(default=2, description="Failed probes in a row until an endpoint gets nothing.")
    healthy_after: Count = Field(default=1, description="Good probes in a row until it serves again.")
    scrape_interval: Seconds = Field(default=2.0, description="Seconds between two reads of an engine's metrics.")
    canary_timeout: Seconds = Field(
        default=5.0, description="Seconds that the gateway's own tiny request to an ejected endpoint may take at least."
    )
    detect_hung: bool = Field(
        default=True,
        description="Whether an engine that is silent for too long is tested, and ejected though its probes are good.",
    )
    max_ejected_share: Annotated[float, NO_BOOL, Ge(0), Le(1)] = Field(
        default=MAX_EJECTED_SHARE,
        description="Share of the endpoints that may be taken out at once though their probes are good.",
    )
    slow_start: SecondsOrNone = Field(
        default=10.0,
        description="Seconds until an endpoint that starts or returns gets all its seats; 0: at once.",
    )


class PoolConfig(Section):
    shared: bool = Field(default=False, description="Whether several tenants may name this pool.")
    endpoints: tuple[EndpointConfig, ...] = Field(
        default=(), description="Its engines: at least one, or `discovery`, or both."
    )
    discovery: DiscoveryConfig | None = Field(
        default=None, description="Engines that are found at run time, and come and go."
    )
    timeouts: TimeoutsConfig = Field(default=TimeoutsConfig(), description="How long engines may take.")
    profile: ProfileName | None = Field(
        default=None, description="How its endpoints are chosen; null: as routing.profile."
    )
    kv_events: bool = Field(
        default=False,
        description="Whether its engines' KV events tell what their caches hold; needs promptlane[kv-events].",
    )
    retries: Annotated[int, NO_BOOL, Ge(0), Le(10)] = Field(
        default=2,
        description="Further attempts elsewhere before the first byte of an answer; refused connections do not count.",
    )
    retry_wait: SecondsOrNone = Field(
        default=5.0,
        description="Seconds that a request which every endpoint has failed waits for one to come back; 0: none.",
    )
    retry_budget: RetryBudgetConfig = Field(
        default=RetryBudgetConfig(), description="How many retries all requests have together."
    )
    hold_back_seconds: SecondsOrNone = Field(
        default=5.0,
        description="Seconds for which a stream's beginning without content is held back, so that a failure behind it "
        "can be retried; 0: not at all.",
    )
    hedging: HedgingConfig = Field(default=HedgingConfig(), description="Second copies of late short requests.")
    engine_api_key: EngineKey | None = Field(
        default=None, description="Key that engines ask for (`vllm serve --api-key`)."
    )
    engine_api_key_env: Variable | None = Field(
        default=None, description="Environment variable that holds that key instead."
    )
    tls: EngineTlsConfig = Field(default=EngineTlsConfig(), description="TLS to `https` engines.")
    health: HealthConfig = Field(default=HealthConfig(), description="How endpoints are watched.")
    standby: StandbyConfig = Field(
        default=StandbyConfig(), description="What happens when its hot endpoints cannot serve."
    )
    deploy: PoolDeployConfig | None = Field(
        default=None, description="How its engines run in Kubernetes; null: they run elsewhere."
    )
    drill_hook: Annotated[tuple[Word, ...], MaxLen(64)] = Field(
        default=(),
        description="Program and arguments by which `promptlane drill --real` breaks an engine; gets begin or end, the "
        "fault, and the endpoint's name and URL as further arguments.",
    )
