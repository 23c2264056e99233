"""Which pods there are, where they may be, and what they are given.

Floor: plan and manifests -> findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from policies.types import Role
from router.deployment.engines import placement
from router.deployment.finding import Finding
from router.deployment.names import ENGINE, PART, TENANT, TIER
from router.deployment.objects import Manifests, Workload
from router.deployment.parts import Engine, Owner, Plan, Search
from router.wire.selectors import takes

_OUR_TAINTS = (TENANT, TIER)
# NVIDIA's runtime gives a container the GPUs that this names, whatever the scheduler has granted.
_GPU_VARIABLES = ("NVIDIA_VISIBLE_DEVICES", "NVIDIA_MIG_CONFIG_DEVICES", "NVIDIA_MIG_MONITOR_DEVICES")
_KINDS = ("Deployment", "ReplicaSet", "Pod")  # that an endpoint is, and what comes of it
_HOST = ("hostNetwork", "hostPID", "hostIPC")


def every_endpoint_runs(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """An endpoint of the configuration has its workload."""
    for engine in plan.engines:
        there = _workload(engine, found)
        if there is None:
            place = f"pool {engine.pool}" + (f", endpoint {engine.name}" if not engine.found else "")
            yield Finding(place, f"no Deployment {engine.namespace}/{engine.name}")
            continue
        most = engine.replicas if engine.role is not Role.COLD or found.live else 0
        scaled = engine.found and found.live  # by whoever scales what is found: never to none, which is what cold is
        least = 0 if engine.role is Role.COLD else 1 if scaled else engine.replicas
        if there.replicas is None or not least <= there.replicas <= most:
            wanted = str(most) if least == most else f"{least} or {most}" if most == least + 1 else f"{least} to {most}"
            what = f"a {engine.role.value} endpoint is" if not engine.found else f"{engine.role.value}, its pool has"
            yield Finding(there.where, f"has {there.replicas} replicas; {what} {wanted}")
        if there.spec.get("terminationGracePeriodSeconds", 30) <= engine.longest_seconds:
            yield Finding(there.where, f"may be killed before its longest stream ends ({engine.longest_seconds} s)")


def searches_find_their_own(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """What a pool looks for is what it has: all of its engines, and no other pod of the namespace."""
    for owner in plan.owners:
        for search in owner.searches:
            names, place = {engine.name for engine in search.engines}, f"pool {search.pool}, discovery"
            taken = [one for one in found.workloads(owner.namespace) if _is_found(search, one)]
            for one in taken:
                if one.labels.get(ENGINE, one.name) not in names:
                    yield Finding(one.where, f"is taken for an engine of pool {search.pool}, which looks for its own")
            missed = names - {one.name for one in taken if one.kind == "Deployment"}
            for name in sorted(missed):
                yield Finding(place, f"does not find {owner.namespace}/{name}: no such workload carries its labels")


def _is_found(search: Search, one: Workload) -> bool:
    if search.selector is None:
        return search.service.chosen.items() <= one.labels.items()
    return takes(search.selector, one.labels)


def nothing_else_runs(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """What runs as an engine, or has a GPU, is an endpoint of the configuration."""
    known = {(engine.namespace, engine.name) for engine in plan.engines}
    for owner in plan.owners:
        for one in found.workloads(owner.namespace):
            name = one.labels.get(ENGINE, one.name)
            is_engine = one.labels.get(PART) == "engine" or any(_devices(each) for each in one.containers)
            if is_engine and ((one.namespace, name) not in known or one.kind not in _KINDS):
                yield Finding(one.where, "is no endpoint of the configuration")
            elif is_engine and one.kind == "Deployment" and one.name != name:
                yield Finding(one.where, f"joins endpoint {name}, which has a Deployment of its own")


def namespaces_are_their_owners(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """A pod of a tenant is in the tenant's namespace, and what is there is the tenant's."""
    spaces = {owner.namespace: owner.name for owner in plan.owners}
    for one in found.workloads():
        said, owner = one.labels.get(TENANT), spaces.get(one.namespace)
        if said != owner and (owner is not None or said in spaces.values()):
            whose = f"of {said}" if said is not None else "of nobody"
            text = f"is {whose} and in a namespace of {owner}" if owner is not None else f"is {whose} and outside"
            yield Finding(one.where, text)


def gpus_are_their_owners(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """An engine has what its pool gives, and nothing in a namespace has a GPU of another kind."""
    for owner in plan.owners:
        for one in found.workloads(owner.namespace):
            engine = _engine(owner, one)
            for container in one.containers:
                is_engine = engine is not None and container.get("name") == "engine"
                wanted = {engine.deploy.resource: str(engine.deploy.count)} if engine and is_engine else {}
                if (given := _devices(container)) != wanted:
                    has = given or "no GPU"
                    text = f"container {container.get('name')} is given {has}; its pool has {wanted or 'none'}"
                    yield Finding(one.where, text)


def nodes_are_their_owners(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """A pod may be on nodes of its owner, or of its tier where the pool says so, and on no others."""
    for owner in plan.owners:
        for one in found.workloads(owner.namespace):
            allowed = {placement(engine) for engine in owner.engines}
            engine = _engine(owner, one)
            if engine is not None:
                allowed = {placement(engine)}
                key, value = placement(engine)
                if not _held(one, key, value):
                    yield Finding(one.where, f"is not held to nodes with {key}={value}")
            elif one.kind == "DaemonSet" and not any(_held(one, *place) for place in allowed):
                yield Finding(one.where, f"runs on every node, and not on those of {owner.name} alone")
            if one.node is None and one.spec.get("nodeName"):
                yield Finding(one.where, "chooses its node itself, past taints and quotas")
            yield from _tolerations(one, allowed)
    inside = {owner.namespace for owner in plan.owners}
    for one in found.workloads():
        chosen = set(_OUR_TAINTS) & set(one.spec.get("nodeSelector") or ())
        if one.namespace not in inside and chosen:
            yield Finding(one.where, "is held to nodes of a tenant, and is none of its pods")


def _held(one: Workload, key: str, value: str) -> bool:
    return bool((one.spec.get("nodeSelector") or {}).get(key) == value)


def _tolerations(one: Workload, allowed: set[tuple[str, str]]) -> Iterator[Finding]:
    for said in one.spec.get("tolerations") or ():
        key, operator = said.get("key"), said.get("operator", "Equal")
        if operator == "Exists" and (not key or key in _OUR_TAINTS):
            yield Finding(one.where, f"tolerates {'every taint' if not key else f'{key} of everybody'}")
        elif key in _OUR_TAINTS and (key, said.get("value")) not in allowed:
            yield Finding(one.where, f"tolerates {key}={said.get('value')}")


def nobody_gets_around(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """No pod of an owner's takes what the scheduler did not give it: by the host, by rights, by the runtime."""
    for owner in plan.owners:
        for one in found.workloads(owner.namespace):
            reasons = [key for key in _HOST if one.spec.get(key)]
            reasons += [
                f"hostPath {(v['hostPath'] or {}).get('path')}"
                for v in one.spec.get("volumes") or ()
                if "hostPath" in v
            ]
            reasons += [f"a claim of devices, {claim.get('name')}" for claim in one.spec.get("resourceClaims") or ()]
            if one.spec.get("automountServiceAccountToken") is not False:
                reasons.append("a token of the API server")
            for container in one.containers:
                reasons += _rights(container, one.spec.get("securityContext") or {})
            for reason in reasons:
                yield Finding(one.where, f"has {reason}")


def classes_are_their_tiers(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """Engines have the priority of their tier, and batch work one that others may preempt."""
    for owner in plan.owners:
        for one in found.workloads(owner.namespace):
            engine = _engine(owner, one)
            said = one.spec.get("priorityClassName")
            if engine is not None and said != plan.priority_class(engine):
                yield Finding(one.where, f"has priority class {said}; its pool has {plan.priority_class(engine)}")


def pods_are_on_their_nodes(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """Where pods really are: on nodes of their owner, whose taint keeps others away. Only a cluster can say."""
    nodes = {str(one["metadata"]["name"]): one for one in found.of("Node")}
    spaces = {owner.namespace: owner for owner in plan.owners}
    for name, node in nodes.items():
        marked = {key: value for key, value in (node["metadata"].get("labels") or {}).items() if key in _OUR_TAINTS}
        taints = {(t.get("key"), t.get("value")) for t in (node.get("spec") or {}).get("taints") or ()
                  if t.get("effect") in ("NoSchedule", "NoExecute")}  # fmt: skip
        for key, value in marked.items():
            if (key, value) not in taints and (key == TENANT or TENANT not in marked):
                yield Finding(f"Node {name}", f"is {value}'s ({key}) without a taint that keeps others away")
    for one in found.workloads():
        if one.node is None or one.node not in nodes or not any(_devices(each) for each in one.containers):
            continue
        mark = nodes[one.node]["metadata"].get("labels") or {}
        owner = spaces.get(one.namespace)
        if mark.get(TENANT) is not None and mark[TENANT] != (owner.name if owner is not None else None):
            yield Finding(one.where, f"has a GPU of {mark[TENANT]}'s node {one.node}")
        elif owner is not None and not any(mark.get(k) == v for k, v in map(placement, owner.engines)):
            yield Finding(one.where, f"is on node {one.node}, which is neither {owner.name}'s nor its tier's")


def _workload(engine: Engine, found: Manifests) -> Workload | None:
    there = found.workloads(engine.namespace)
    return next((one for one in there if one.kind == "Deployment" and one.name == engine.name), None)


def _engine(owner: Owner, one: Workload) -> Engine | None:
    """Which of its engines this is: by the label that its Service selects, or its name."""
    name = one.labels.get(ENGINE, one.name)
    return next((engine for engine in owner.engines if engine.name == name), None)


def _devices(container: Mapping[str, Any]) -> dict[str, str]:
    """Extended resources: those with a domain, in requests and limits alike."""
    given: dict[str, str] = {}
    for kind in ("requests", "limits"):
        given |= {
            name: str(count)
            for name, count in ((container.get("resources") or {}).get(kind) or {}).items()
            if "/" in name and str(count) != "0"
        }
    return given


def _rights(container: Mapping[str, Any], pod: Mapping[str, Any]) -> Iterator[str]:
    context = container.get("securityContext") or {}
    name = container.get("name")
    if context.get("privileged"):
        yield f"a privileged container {name}"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"a container {name} that may gain rights"
    if (context.get("capabilities") or {}).get("add"):
        yield f"a container {name} with capabilities"
    if not context.get("runAsNonRoot", pod.get("runAsNonRoot")):
        yield f"a container {name} that may be root"
    yield from _visible(container)


def _visible(container: Mapping[str, Any]) -> Iterator[str]:
    """The scheduler's word where there is a GPU, and `void` where there is none: images with CUDA say `all`."""
    name, said = container.get("name"), {one["name"]: one.get("value") for one in container.get("env") or ()}
    if container.get("envFrom"):
        yield f"variables of container {name} that stand elsewhere (envFrom), and may name GPUs"
    wanted = {} if _devices(container) else {_GPU_VARIABLES[0]: "void"}
    given = {variable: said[variable] for variable in _GPU_VARIABLES if variable in said}
    if given != wanted:
        only = "the scheduler alone says which" if not wanted else "an image with CUDA sees all unless it is void"
        yield f"{given or 'no NVIDIA_VISIBLE_DEVICES'} in container {name}: {only}"
