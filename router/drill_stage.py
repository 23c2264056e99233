"""What an order for a drill means on the running gateway: which endpoints fail, who could take over, who else suffers.

Floor: assembles, beside `router.drill`; nothing happens here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from policies.drill import DrillFault, Member, Plan, plan
from policies.types import Role, Tenant
from router.assembly import Runtime
from router.errors import BadRequest
from router.pools import Place, Pool

DEFAULT_EXTRA_SECONDS = 5.0  # beyond the tier's target, so that a recovery just in time is still seen
MAX_SECONDS = 600.0


class DrillOrder(BaseModel):
    """The body of `POST /admin/drill`. `seconds` None: the tier's target and a little more."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    tenant: str
    model: str | None = None
    endpoint: str | None = None
    fault: DrillFault = DrillFault.KILL
    seconds: Annotated[float, Field(ge=1, le=MAX_SECONDS)] | None = None
    dry_run: bool = False
    real: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """What an order means on the running gateway. `others`: tenants that share the pool."""

    order: DrillOrder
    tenant: Tenant
    model: str
    pool: Pool
    plan: Plan
    others: tuple[str, ...]
    hook: tuple[str, ...]

    @property
    def seconds(self) -> float:
        asked = self.order.seconds
        return min(MAX_SECONDS, self.tenant.tier.rto_seconds + DEFAULT_EXTRA_SECONDS) if asked is None else asked

    @property
    def struck(self) -> list[Place]:
        return [place for place in self.pool.places if place.state.endpoint.name in self.plan.struck]

    def problems(self) -> list[str]:
        """Why it would be unwise. Raises BadRequest for what cannot be done at all."""
        found = []
        if not self.plan.left:
            found.append(f"Pool '{self.pool.name}' has no other endpoint that could take over.")
        if self.others:
            found.append(f"Tenants {_names(self.others)} share the pool and would suffer it too.")
        if self.order.real and not self.hook:
            raise BadRequest(f"pools.{self.pool.name}.drill_hook is not configured: it says how to break an engine.")
        return found

    def describe(self) -> dict[str, Any]:
        return {
            "tenant": self.tenant.id,
            "tier": self.tenant.tier.name,
            "model": self.model,
            "pool": self.pool.name,
            "shared_with": list(self.others),
            "fault": self.order.fault.value,
            "real": self.order.real,
            "seconds": self.seconds,
            "endpoints": list(self.plan.struck),
            "left": list(self.plan.left),
            "target_seconds": self.tenant.tier.rto_seconds,
        }


def stage_of(order: DrillOrder, runtime: Runtime) -> Stage:
    """Raises BadRequest, for the operator, for what is not there."""
    tenants = runtime.gateway.directory.by_id
    tenant = tenants.get(order.tenant)
    if tenant is None:
        raise BadRequest(f"There is no tenant '{order.tenant}'. Known: {_names(sorted(tenants))}")
    model = _model(tenant, order.model)
    pool = runtime.pools[tenant.models[model].pool]
    try:
        chosen = plan(_members(pool), order.endpoint)
    except ValueError as error:
        raise BadRequest(f"Pool '{pool.name}': {error}") from None
    users = [one for one in tenants.values() if pool.name in {route.pool for route in one.models.values()}]
    others = tuple(one.id for one in users if one is not tenant)
    return Stage(order, tenant, model, pool, chosen, others, runtime.config.pools[pool.name].drill_hook)


def _model(tenant: Tenant, wanted: str | None) -> str:
    """The model whose pool is meant; none need be named where all are served by one pool."""
    if wanted is not None:
        if wanted not in tenant.models:
            raise BadRequest(f"Tenant '{tenant.id}' has no model '{wanted}'. Known: {_names(sorted(tenant.models))}")
        return wanted
    pools = {route.pool for route in tenant.models.values()}
    if len(pools) != 1:
        known = _names(sorted(tenant.models)) or "none"
        raise BadRequest(f"Tenant '{tenant.id}' has {len(pools)} pools: name a model. Known: {known}")
    return next(iter(tenant.models))


def _members(pool: Pool) -> list[Member]:
    """A standby may be asleep or not started yet, and take over all the same."""
    now = pool.clock()
    members = ((place.state.endpoint, place.available(now)) for place in pool.places)
    return [Member(one.name, one.role, available or one.role is not Role.HOT) for one, available in members]


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)
