"""What the gateway needs of the API in which namespace: what its configuration uses, and nothing else.

Floor: reads a checked `Config`; Roles of it are made in `owners`, and held to it in `rules_bounds`.
"""

from __future__ import annotations

from typing import NamedTuple

from router.config import Config

# What `router.discovery.kubernetes` and `router.scaling` call.
FINDS = ("list", "watch")
SCALES = ("patch",)
_PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets"}


class Grant(NamedTuple):
    """One verb on one resource. `name`: of the one object, None for all of the namespace."""

    group: str
    resource: str
    name: str | None
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f' {self.name}' if self.name is not None else ''}"


def grants_of(config: Config) -> dict[str, frozenset[Grant]]:
    """By namespace, of all pools: also of those whose engines are not rendered."""
    needed: dict[str, set[Grant]] = {}
    for pool in config.pools.values():
        if pool.discovery is not None and (pods := pool.discovery.kubernetes) is not None:
            needed.setdefault(pods.namespace, set()).update(Grant("", "pods", None, verb) for verb in FINDS)
        for hook in (pool.standby.start, pool.standby.stop):
            if hook is not None and (scale := hook.scale) is not None:
                resource = f"{_PLURALS[scale.kind]}/scale"
                grants = (Grant("apps", resource, scale.name, verb) for verb in SCALES)
                needed.setdefault(scale.namespace, set()).update(grants)
    return {namespace: frozenset(grants) for namespace, grants in needed.items()}
