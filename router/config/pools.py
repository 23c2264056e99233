"""The section of what serves: `pools`, with their endpoints, timeouts, TLS and probes.

Floor: keys only; a field's type, bounds, default and description are all there is to say of it. Times are seconds.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import Field

from policies.types import Role
from router.config.section import Section
from router.config.types import (
    NO_BOOL,
    Count,
    EngineKey,
    EngineUrl,
    FileName,
    Name,
    ProfileName,
    Seconds,
    SocketUrl,
    Variable,
    Weight,
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
    kv_events_url: SocketUrl | None = Field(
        default=None, description="Where it publishes its KV events (`--kv-events-config`, `endpoint`)."
    )
    kv_replay_url: SocketUrl | None = Field(
        default=None, description="Where it tells missed ones again (`replay_endpoint`); null: nowhere."
    )


class TimeoutsConfig(Section):
    connect: Seconds = Field(default=5.0, description="Seconds to connect to an engine.")
    first_byte: Seconds = Field(default=300.0, description="Seconds from request sent to the answer's first byte.")
    idle: Seconds = Field(default=60.0, description="Seconds between two pieces of an answer.")
    total: Seconds = Field(default=3600.0, description="Seconds for one attempt as a whole.")


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


class PoolConfig(Section):
    shared: bool = Field(default=False, description="Whether several tenants may name this pool.")
    endpoints: Annotated[tuple[EndpointConfig, ...], MinLen(1)] = Field(description="Its engines, at least one.")
    timeouts: TimeoutsConfig = Field(default=TimeoutsConfig(), description="How long engines may take.")
    profile: ProfileName | None = Field(
        default=None, description="How its endpoints are chosen; null: as routing.profile."
    )
    kv_events: bool = Field(
        default=False,
        description="Whether its engines' KV events tell what their caches hold; needs promptlane[kv-events].",
    )
    retries: Annotated[int, NO_BOOL, Ge(0), Le(10)] = Field(
        default=2, description="Further attempts elsewhere before the first byte of an answer."
    )
    engine_api_key: EngineKey | None = Field(
        default=None, description="Key that engines ask for (`vllm serve --api-key`)."
    )
    engine_api_key_env: Variable | None = Field(
        default=None, description="Environment variable that holds that key instead."
    )
    tls: EngineTlsConfig = Field(default=EngineTlsConfig(), description="TLS to `https` engines.")
    health: HealthConfig = Field(default=HealthConfig(), description="How endpoints are watched.")
    drill_hook: Annotated[tuple[Word, ...], MaxLen(64)] = Field(
        default=(),
        description="Program and arguments by which `promptlane drill --real` breaks an engine; gets begin or end, the "
        "fault, and the endpoint's name and URL as further arguments.",
    )
