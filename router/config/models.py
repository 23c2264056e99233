"""The configuration as a whole.

Floor: puts the sections together; what a section holds is the section's.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from router.config.deploy import DeployConfig
from router.config.discovery import KubernetesConfig
from router.config.governance import GovernanceConfig
from router.config.keys import KeysConfig
from router.config.lanes import LanesConfig
from router.config.ledger import LedgerConfig
from router.config.pools import PoolConfig
from router.config.routing import RoutingConfig
from router.config.section import Section
from router.config.server import (
    DEFAULT_LEDGER_URL,
    ClassifyConfig,
    ReplicasConfig,
    ServerConfig,
    StateConfig,
    TracingConfig,
)
from router.config.tenants import DEFAULT_TIERS, TenantConfig, TierConfig
from router.config.types import Name, TenantId, TierName


class Config(Section):
    """The whole. Build it by `load`: only that reads the environment and checks what holds between values."""

    server: ServerConfig = Field(default=ServerConfig(), description="Listeners and bounds of requests.")
    state: StateConfig = Field(default=StateConfig(), description="Where state is kept.")
    keys: KeysConfig = Field(default=KeysConfig(), description="Keys made at run time.")
    ledger: LedgerConfig = Field(default=LedgerConfig(), description="Records of requests and events.")
    governance: GovernanceConfig = Field(default=GovernanceConfig(), description="What is told of answers.")
    tracing: TracingConfig | None = Field(
        default=None,
        description="Traces by OpenTelemetry; needs promptlane[otel]; null: none, and its headers just pass.",
    )
    replicas: ReplicasConfig = Field(default=ReplicasConfig(), description="How replicas reach each other.")
    kubernetes: KubernetesConfig = Field(
        default=KubernetesConfig(), description="The API by which endpoints are found and cold standbys scaled."
    )
    classify: ClassifyConfig = Field(default=ClassifyConfig(), description="Which lane a request queues in.")
    routing: RoutingConfig = Field(default=RoutingConfig(), description="How endpoints are chosen.")
    lanes: LanesConfig = Field(default=LanesConfig(), description="How requests wait.")
    deploy: DeployConfig = Field(
        default=DeployConfig(), description="Names in Kubernetes, for `promptlane render` and `audit`."
    )
    tiers: dict[TierName, TierConfig] = Field(
        default=dict(DEFAULT_TIERS), description="Service classes; what is not given here keeps its default."
    )
    tenants: dict[TenantId, TenantConfig] = Field(default={}, description="Who is served.")
    pools: dict[Name, PoolConfig] = Field(default={}, description="What serves.")

    @property
    def keeps_keys(self) -> bool:
        """Whether keys are made at run time, and kept in the database."""
        return self.keys.at_run_time if self.keys.at_run_time is not None else self.state.ledger_url is not None

    @property
    def keeps_records(self) -> bool:
        """Whether there is a ledger."""
        return self.ledger.enabled if self.ledger.enabled is not None else self.state.ledger_url is not None

    @property
    def database_url(self) -> str:
        """Where the database is, or would be."""
        return self.state.ledger_url if self.state.ledger_url is not None else DEFAULT_LEDGER_URL

    @model_validator(mode="before")
    @classmethod
    def _default_tiers_stay(cls, data: Any) -> Any:
        given = data.get("tiers") if isinstance(data, dict) else None
        if not isinstance(given, dict):
            return data
        merged: dict[str, Any] = {name: tier.model_dump() for name, tier in DEFAULT_TIERS.items()}
        for name, tier in given.items():
            merged[name] = {**merged.get(name, {}), **tier} if isinstance(tier, dict) else tier
        return {**data, "tiers": merged}
