"""What `/readyz` says, from the live state.

Floor: with `router.assembly`.
"""

from __future__ import annotations

from policies.readiness import Readiness, ReadyWhen, readiness
from router.assembly import Runtime


def readiness_of(runtime: Runtime, serves: bool) -> Readiness:
    """`serves`: the process neither starts nor drains."""
    replicas = runtime.replicas
    return readiness(
        ReadyWhen(runtime.config.server.ready_when),
        serves=serves,
        reaches=not runtime.pools or any(pool.reaches_one() for pool in runtime.pools.values()),
        others_reach=replicas is not None and replicas.others_reach(),
    )
