"""The section of what happens when a pool's hot endpoints cannot serve: `pools.<name>.standby`.

Floor: keys only; a field's type, bounds, default and description are all there is to say of it. Times are seconds. What
the triggers do is in `policies.standby`; `StandbyConfig.machine` says the same in its words.
"""

from __future__ import annotations

import re
from typing import Annotated

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AfterValidator, Field

from policies.standby import StandbySettings
from router.config.discovery import ScaleConfig
from router.config.section import Section, Switch
from router.config.types import NO_BOOL, VARIABLE_NAME, Count, EngineUrl, Expect, ModelName, Seconds, Share

_SETTINGS = StandbySettings()
_PUBLIC = "the name of an environment variable, none of PROMPTLANE_…"


def _not_ours(name: str) -> str:
    """Our own variables hold the secret that salts derive from."""
    if not re.fullmatch(VARIABLE_NAME, name) or name.upper().startswith("PROMPTLANE_"):
        raise ValueError
    return name


PassedVariable = Annotated[str, AfterValidator(_not_ours), Expect(_PUBLIC)]
OneOrMore = Annotated[int, NO_BOOL, Ge(1), Le(1000)]


class HookConfig(Section):
    command: Annotated[tuple[Annotated[str, Expect("text")], ...], MinLen(1)] | None = Field(
        default=None, description="A program and its arguments; no shell reads them."
    )
    url: EngineUrl | None = Field(default=None, description="A URL that gets a POST, instead of a command.")
    scale: ScaleConfig | None = Field(
        default=None, description="A Deployment or StatefulSet of Kubernetes that is scaled, instead of both."
    )
    timeout: Seconds = Field(default=60.0, description="Seconds that it may take.")
    pass_env: tuple[PassedVariable, ...] = Field(
        default=(),
        description="Variables that the command gets, beside PATH, HOME and those by which a pod finds its cluster.",
    )


class DegradedConfig(Section):
    pool: Annotated[str, Expect("the name of a pool")] = Field(
        description="The pool that serves instead: a shared one, or another of the same tenant."
    )
    engine_model: ModelName | None = Field(
        default=None, description="What its engines call the model; null: the same name."
    )
    max_tokens: Count = Field(default=512, description="Longest answer, in tokens.")
    refuse_batch: bool = Field(default=True, description="Whether batch work is refused meanwhile.")


class OverflowConfig(Switch):
    enabled: bool = Field(default=True, description="Whether warm endpoints help; `overflow: true` is short.")
    share: Share = Field(
        default=0.2,
        description="Their share of what is in flight, at most, though always one request: 0.2 is 80 to 20.",
    )
    above: Share = Field(default=0.9, description="Saturation of the serving endpoints from which on they help.")


class MirrorConfig(Section):
    share: Share = Field(description="Share of the short and long requests that is copied.")
    max_in_flight: OneOrMore = Field(default=2, description="Copies at once; requests beyond are not copied.")


class StandbyConfig(Section):
    error_rate: Annotated[float, NO_BOOL, Gt(0), Le(1)] = Field(
        default=_SETTINGS.error_rate, description="Share of failed attempts above which the next standby takes over."
    )
    error_window: Seconds = Field(default=_SETTINGS.error_window, description="Seconds over which they are counted.")
    latency_seconds: Seconds = Field(
        default=_SETTINGS.latency_seconds,
        description="p95 of the time to first byte in the short lane above which the next standby helps.",
    )
    latency_window: Seconds = Field(default=_SETTINGS.latency_window, description="Seconds over which it is measured.")
    min_samples: Count = Field(
        default=_SETTINGS.min_samples, description="Attempts, or first bytes, without which neither says anything."
    )
    calm_seconds: Seconds = Field(
        default=_SETTINGS.calm_seconds,
        description="Seconds that hot endpoints must be well before they serve again; and then until standbys are put "
        "away.",
    )
    max_failovers: OneOrMore = Field(
        default=_SETTINGS.max_failovers,
        description="Failovers within failover_window, after which the standby stays until some are older.",
    )
    failover_window: Seconds = Field(default=_SETTINGS.failover_window, description="Seconds over which they count.")
    heartbeat_seconds: Seconds = Field(
        default=3.0, description="Seconds between two comments in the stream of a request that is held."
    )
    wake_timeout: Seconds = Field(default=30.0, description="Seconds that waking a warm engine may take.")
    canary_timeout: Seconds = Field(default=10.0, description="Seconds for its first token, before it gets requests.")
    sleep_when_idle: bool = Field(
        default=True, description="Whether a warm engine that was woken sleeps again when it is not needed."
    )
    start: HookConfig | None = Field(default=None, description="What starts the cold endpoints.")
    stop: HookConfig | None = Field(default=None, description="What stops them again, when they are not needed.")
    starts_per_hour: OneOrMore = Field(default=4, description="Starts of cold endpoints within an hour, at most.")
    give_up_seconds: Seconds = Field(default=600.0, description="Seconds after which a cold start has failed.")
    degraded: DegradedConfig | None = Field(
        default=None, description="What serves when no endpoint of the pool can; null: 503."
    )
    overflow: Annotated[OverflowConfig | None, Expect("null, true, false or a mapping")] = Field(
        default=None, description="Whether warm endpoints help hot ones that are full."
    )
    mirror: MirrorConfig | None = Field(
        default=None,
        description="Prompts copied to an awake standby for one token that nobody sees or pays, to keep it warm.",
    )

    @property
    def machine(self) -> StandbySettings:
        """In the words of the policies."""
        return StandbySettings(
            error_rate=self.error_rate,
            error_window=self.error_window,
            latency_seconds=self.latency_seconds,
            latency_window=self.latency_window,
            min_samples=self.min_samples,
            calm_seconds=self.calm_seconds,
            max_failovers=self.max_failovers,
            failover_window=self.failover_window,
        )
