"""How much an owner may have.

Floor: plan and manifests -> findings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from router.deployment.finding import Finding
from router.deployment.names import BATCH, ONLINE, ONLINE_HIGH, POD_SECURITY, TENANT, WAYS_IN
from router.deployment.objects import Manifests, Object, labels, meta, where
from router.deployment.parts import Plan


def namespaces(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """Each owner has its namespace, marked as its own, which admits restricted pods only; nobody else is marked."""
    for owner in plan.owners:
        space = found.one("Namespace", owner.namespace)
        if space is None:
            yield Finding(f"Namespace {owner.namespace}", f"is missing; it is {owner.name}'s")
            continue
        if labels(space).get(TENANT) != owner.name:
            yield Finding(where(space), f"is not marked as {owner.name}'s ({TENANT})")
        if labels(space).get(f"{POD_SECURITY}/enforce") != "restricted":
            yield Finding(where(space), f"admits pods that are not restricted ({POD_SECURITY}/enforce)")
    known = {owner.namespace for owner in plan.owners}
    for space in found.of("Namespace"):
        if TENANT in labels(space) and meta(space).get("name") not in known:
            yield Finding(
                where(space), f"is marked as {labels(space)[TENANT]}'s, who has no engines in the configuration"
            )


def quotas(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """As many GPUs as the pools, exactly: more could be taken, fewer would stop an endpoint. None of other kinds."""
    for owner in plan.owners:
        hards = [
            (quota.get("spec") or {}).get("hard") or {}
            for quota in found.of("ResourceQuota", owner.namespace)
            if not _scoped(quota)
        ]
        for resource in plan.resources:
            key, wanted = f"requests.{resource}", owner.resources.get(resource, 0)
            bounds = [_count(hard[key]) for hard in hards if key in hard]
            place = f"Namespace {owner.namespace}"
            if not bounds:
                yield Finding(place, f"no ResourceQuota bounds {resource}; its pools have {wanted}")
            elif min(bounds) != wanted:
                yield Finding(place, f"its ResourceQuota has {min(bounds)} of {resource}; its pools have {wanted}")
        for way in WAYS_IN:
            if 0 not in (_count(hard.get(way)) for hard in hards):
                yield Finding(f"Namespace {owner.namespace}", f"no ResourceQuota forbids {way}, which no policy sees")


def limit_ranges(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """No container has more than the largest engine."""
    for owner in plan.owners:
        for resource in owner.resources:
            most = max(engine.deploy.count for engine in owner.engines if engine.deploy.resource == resource)
            bounds = [
                _count(limit["max"][resource])
                for one in found.of("LimitRange", owner.namespace)
                for limit in (one.get("spec") or {}).get("limits") or ()
                if limit.get("type") == "Container" and resource in (limit.get("max") or {})
            ]
            if not bounds or min(bounds) != most:
                text = f"no LimitRange holds containers to {most} of {resource}, which its largest engine has"
                yield Finding(f"Namespace {owner.namespace}", text)


def priorities(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """The classes are there; batch work is below all others and preempts nobody."""
    values: dict[str, Any] = {}
    for name in sorted({plan.priority_class(engine) for engine in plan.engines}):
        one = found.one("PriorityClass", name)
        if one is None:
            yield Finding(f"PriorityClass {name}", "is missing")
        else:
            values[name] = one.get("value")
            if name == BATCH and one.get("preemptionPolicy") != "Never":
                yield Finding(where(one), "preempts others")
    above = [values[name] for name in (ONLINE_HIGH, ONLINE) if name in values]
    if BATCH in values and above and values[BATCH] >= min(above):
        yield Finding(f"PriorityClass {BATCH}", "is not below those of engines that people wait for")


def _count(quantity: object) -> int:
    """Of things that are counted whole; -1, which nothing has, where it is written in another way."""
    text = str(quantity)
    return int(text) if text.isdecimal() else -1


def _scoped(quota: Object) -> bool:
    """One that holds for some pods only."""
    spec = quota.get("spec") or {}
    return bool(spec.get("scopes") or spec.get("scopeSelector"))
