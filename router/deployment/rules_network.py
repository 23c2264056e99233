"""Who reaches engines, and what they reach.

Floor: plan and manifests -> findings. Network policies add up: a pod is open to all until one selects it, and to the
union of what the ones that do allow. So each is asked about each engine's labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router.deployment.finding import Finding
from router.deployment.names import ENGINE, GATEWAY, NAMESPACE_NAME, POOL, TENANT, TIER
from router.deployment.objects import Manifests, Object, meta, selects, where
from router.deployment.parts import Engine, Plan, engine_labels

# What leads into a namespace beside Services: by an ingress controller or a Gateway, which no policy of ours names.
_WAYS_IN = ("Ingress", "Gateway", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute", "ReferenceGrant")


def default_deny(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """Everything in an owner's namespace is closed both ways, also what nobody thought of."""
    for owner in plan.owners:
        closed = {
            direction
            for policy in found.of("NetworkPolicy", owner.namespace)
            if _selector(policy) == {}
            for direction in _directions(policy)
        }
        for direction in sorted({"Ingress", "Egress"} - closed):
            yield Finding(f"Namespace {owner.namespace}", f"no NetworkPolicy closes {direction} for all its pods")


def only_the_gateway(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """Nobody but the gateway may reach an engine."""
    for engine in plan.engines:
        for policy in _of(engine, found):
            if "Ingress" not in _directions(policy):
                continue
            for rule in (policy.get("spec") or {}).get("ingress") or ():
                peers = rule.get("from") or []
                if not peers:
                    yield Finding(where(policy), f"lets everybody reach engine {engine.name}")
                for peer in peers:
                    if not _is_gateway(peer, plan):
                        yield Finding(where(policy), f"lets others than the gateway reach engine {engine.name}: {peer}")


def gateway_gets_in(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """The gateway may: at every port that its configuration names."""
    for engine in plan.engines:
        rules = [
            rule
            for policy in _of(engine, found)
            for rule in (policy.get("spec") or {}).get("ingress") or ()
            if any(_is_gateway(peer, plan) for peer in rule.get("from") or ())
        ]
        for name, port in engine.ports.items():
            if not any(_allows(rule, name, port) for rule in rules):
                text = f"no NetworkPolicy lets the gateway reach port {port} of engine {engine.name}"
                yield Finding(f"Namespace {engine.namespace}", text)


def nothing_out(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """An engine reaches nothing: what it has seen of prompts stays with it."""
    for engine in plan.engines:
        for policy in _of(engine, found):
            if "Egress" in _directions(policy) and (policy.get("spec") or {}).get("egress"):
                yield Finding(where(policy), f"lets engine {engine.name} reach something")


def operators_are_apart(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """The gateway is closed both ways but for what policies name, and its operators' port to everybody and to engines.
    Asked where the gateway is among the objects: the tenants' overlays alone do not have it."""
    for one in found.workloads(plan.gateway_namespace):
        if not GATEWAY.items() <= one.labels.items():
            continue
        policies = [each for each in found.of("NetworkPolicy", one.namespace) if selects(_selector(each), one.labels)]
        closed = {direction for policy in policies for direction in _directions(policy)}
        for direction in sorted({"Ingress", "Egress"} - closed):
            yield Finding(one.where, f"no NetworkPolicy closes {direction}")
        ports = [port for container in one.containers for port in container.get("ports") or ()]
        names = [str(port.get("name")) for port in ports if port.get("containerPort") == plan.operators_port]
        for policy in policies:
            for rule in (policy.get("spec") or {}).get("ingress") or ():
                peers = rule.get("from") or [{"namespaceSelector": {}}]
                if any(_allows(rule, name, plan.operators_port) for name in names or [""]):
                    yield from (Finding(where(policy), text) for peer in peers for text in _strangers(peer, plan))


def _strangers(peer: Mapping[str, Any], plan: Plan) -> Iterator[str]:
    """Who must not reach operators' ports, among those that a peer means."""
    if peer.get("namespaceSelector") == {} or str((peer.get("ipBlock") or {}).get("cidr")).endswith("/0"):
        yield "lets everybody reach the operators' port"
        return
    for owner in plan.owners:
        if selects(peer.get("namespaceSelector"), {NAMESPACE_NAME: owner.namespace, TENANT: owner.name}):
            yield f"lets pods of {owner.name} reach the operators' port"


def services_stay_inside(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """A Service of an owner's leads to one engine or one pool's, from inside the cluster; nothing else leads in."""
    wanted = {(one.namespace, one.name): one for owner in plan.owners for one in owner.services}
    spaces = {owner.namespace for owner in plan.owners}
    for service in found.of("Service"):
        place, spec = (str(meta(service).get("namespace")), str(meta(service).get("name"))), service.get("spec") or {}
        if place[0] not in spaces:
            continue
        if spec.get("type", "ClusterIP") != "ClusterIP" or spec.get("externalIPs"):
            yield Finding(where(service), "leads in from outside the cluster")
        if place not in wanted:
            yield Finding(where(service), "is no endpoint of the configuration")
            continue
        one = wanted[place]
        if spec.get("selector") != dict(one.chosen):
            whose = f"engine {place[1]}" if not one.headless else f"the engines of pool {one.chosen[POOL]}"
            yield Finding(where(service), f"does not select {whose} alone")
        elif missing := set(one.ports.values()) - {port.get("port") for port in spec.get("ports") or ()}:
            yield Finding(where(service), f"lacks port {min(missing)} of the configuration")
        if one.headless and (spec.get("clusterIP") != "None" or spec.get("publishNotReadyAddresses")):
            yield Finding(where(service), "does not tell the addresses of its ready engines, one by one (headless)")
    for kind in _WAYS_IN:
        for one_way in found.of(kind):
            if spaces & {str(meta(one_way).get("namespace")), *_referred(one_way)}:
                yield Finding(where(one_way), "leads into a namespace of engines")


def services_are_there(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """Every endpoint's URL, and every name that is looked up, has a Service."""
    for owner in plan.owners:
        for one in owner.services:
            if found.one("Service", one.name, one.namespace) is None:
                what = f"pool {one.labels[POOL]}" + (f", endpoint {one.name}" if not one.headless else "")
                yield Finding(what, f"no Service {one.namespace}/{one.name}")


def _referred(one: Object) -> Iterator[str]:
    """Namespaces that a route's backends are in."""
    for rule in (one.get("spec") or {}).get("rules") or ():
        for backend in rule.get("backendRefs") or ():
            yield str(backend.get("namespace"))


def _selector(policy: Object) -> Mapping[str, Any]:
    """One without terms is {}, however it is written."""
    said = (policy.get("spec") or {}).get("podSelector") or {}
    return {key: value for key, value in said.items() if value}


def _directions(policy: Object) -> set[str]:
    """As the API server fills them in: Ingress always, Egress where rules for it are given."""
    spec = policy.get("spec") or {}
    return set(spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]))


def _of(engine: Engine, found: Manifests) -> list[Object]:
    """The policies that select its pods: as they are made, and as they are found."""
    made = {**engine_labels(engine), TIER: engine.tier}
    sets = [made, *(one.labels for one in found.workloads(engine.namespace) if one.labels.get(ENGINE) == engine.name)]
    policies = found.of("NetworkPolicy", engine.namespace)
    return [policy for policy in policies if any(selects(_selector(policy), given) for given in sets)]


def _is_gateway(peer: Mapping[str, Any], plan: Plan) -> bool:
    space = (peer.get("namespaceSelector") or {}).get("matchLabels") or {}
    pods = (peer.get("podSelector") or {}).get("matchLabels") or {}
    return (
        space.get(NAMESPACE_NAME) == plan.gateway_namespace
        and GATEWAY.items() <= pods.items()
        and peer.get("ipBlock") is None
    )


def _allows(rule: Mapping[str, Any], name: str, port: int) -> bool:
    ports = rule.get("ports") or []
    return not ports or any(
        one.get("protocol", "TCP") == "TCP"
        and (one.get("port") in (None, name, port) or _within(port, one.get("port"), one.get("endPort")))
        for one in ports
    )


def _within(port: int, first: object, last: object) -> bool:
    return isinstance(first, int) and isinstance(last, int) and first <= port <= last
