"""What a plan is made of: engines, the Services that lead to them, how they are found, and whose they are.

Floor: values only, and what follows from one alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from policies.types import Role
from router.config import PoolDeployConfig
from router.deployment.grants import Grant
from router.deployment.names import BATCH, CLASS, ENGINE, NAME, PART, POOL, ROLE, TENANT
from router.wire.selectors import Term

# Seconds that a pod has beyond the longest answer: for what is not an answer, and for slow clocks.
GRACE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Engine:
    """One workload: one endpoint, or all of a role that its pool finds (`found`), which are `replicas`, cold ones too.
    `ports`: by name, first where it is asked. `labels`: beside those that every engine has."""

    name: str
    namespace: str
    owner: str
    tier: str
    pool: str
    role: Role
    model: str
    served: tuple[str, ...]
    ports: dict[str, int]
    deploy: PoolDeployConfig
    longest_seconds: int
    needs_key: bool
    found: bool = False
    replicas: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def port(self) -> tuple[str, int]:
        """Where it is asked: name and number."""
        return next(iter(self.ports.items()))

    @property
    def grace_seconds(self) -> int:
        """How long its pod may take to end."""
        return self.longest_seconds + GRACE_SECONDS

    @property
    def kv_events(self) -> str | None:
        """The argument by which vLLM publishes what its cache holds."""
        if "kv-events" not in self.ports:
            return None
        said = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"tcp://*:{self.ports['kv-events']}"}
        if "kv-replay" in self.ports:
            said["replay_endpoint"] = f"tcp://*:{self.ports['kv-replay']}"
        return json.dumps(said, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Service:
    """A name for one endpoint, or for all that a pool finds: `headless` then. `chosen`: by which labels."""

    name: str
    namespace: str
    chosen: Mapping[str, str]
    labels: Mapping[str, str]
    ports: Mapping[str, int]
    headless: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """How a pool finds its engines. `selector`: None where it asks for the Service's name."""

    pool: str
    namespace: str
    selector: tuple[Term, ...] | None
    service: Service
    engines: tuple[Engine, ...]


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has a namespace of engines: a tenant, or a shared pool."""

    name: str
    namespace: str
    tier: str
    engines: tuple[Engine, ...]
    searches: tuple[Search, ...] = ()

    @property
    def services(self) -> tuple[Service, ...]:
        """Of its endpoints, then of its searches."""
        single = (endpoint_service(engine) for engine in self.engines if not engine.found)
        return (*single, *(search.service for search in self.searches))

    @property
    def resources(self) -> dict[str, int]:
        """What all its engines are given together; cold ones too, as they come when they are needed."""
        total: dict[str, int] = {}
        for engine in self.engines:
            more = engine.replicas * engine.deploy.count
            total[engine.deploy.resource] = total.get(engine.deploy.resource, 0) + more
        return total


@dataclass(frozen=True, slots=True)
class Plan:
    """`classes`: the priority class of each tier's engines. `grants`: what the gateway needs, by namespace.
    `operators_port`: of the gateway, where it obeys operators."""

    gateway_namespace: str
    owners: tuple[Owner, ...]
    classes: dict[str, str]
    grants: dict[str, frozenset[Grant]]
    operators_port: int

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Of all owners."""
        return tuple(engine for owner in self.owners for engine in owner.engines)

    @property
    def resources(self) -> tuple[str, ...]:
        """Every kind of GPU that somebody has."""
        return tuple(sorted({engine.deploy.resource for engine in self.engines}))

    def priority_class(self, engine: Engine) -> str:
        """What it may preempt, and be preempted by."""
        return BATCH if engine.deploy.batch else self.classes[engine.tier]


def endpoint_service(engine: Engine) -> Service:
    """What an endpoint's URL leads to."""
    return Service(engine.name, engine.namespace, {ENGINE: engine.name}, engine_labels(engine), engine.ports)


def engine_labels(engine: Engine) -> dict[str, str]:
    """Of the workload and its pods; `promptlane/tier` comes with the tier's component."""
    return {
        NAME: "vllm",
        PART: "engine",
        CLASS: "batch" if engine.deploy.batch else "online",
        TENANT: engine.owner,
        POOL: engine.pool,
        ROLE: engine.role.value,
        ENGINE: engine.name,
        **engine.labels,
    }


def prepull_labels(engine: Engine) -> dict[str, str]:
    """Of the pods that have a pool's image on the nodes before."""
    return {NAME: "prepull", PART: "prepull", TENANT: engine.owner, POOL: engine.pool}
