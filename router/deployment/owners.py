"""What an owner of engines is in Kubernetes: a namespace that nothing leaves and only the gateway enters, with as many
GPUs as its pools have.

Floor: plan -> objects, plain mappings.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.deployment.engines import Object
from router.deployment.grants import Grant
from router.deployment.names import (
    BATCH,
    GATEWAY,
    GATEWAY_ACCOUNT,
    NAMESPACE_NAME,
    ONLINE,
    ONLINE_HIGH,
    PART,
    POD_SECURITY,
    TENANT,
    WAYS_IN,
)
from router.deployment.parts import Owner, Plan

# Batch work preempts nobody; everything that is asked online may take its place.
CLASSES = {
    ONLINE_HIGH: (1_000_000, "PreemptLowerPriority", "Engines of the best tier."),
    ONLINE: (100_000, "PreemptLowerPriority", "Engines that people wait for."),
    BATCH: (-10, "Never", "Engines for batch work: preempted when others need their GPU."),
}


def priority_classes() -> list[Object]:
    """The cluster's."""
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "preemptionPolicy": policy,
            "globalDefault": False,
            "description": text,
        }
        for name, (value, policy, text) in CLASSES.items()
    ]


def namespace(owner: Owner) -> list[Object]:
    """The namespace, and an account without rights for its pods."""
    profile = {f"{POD_SECURITY}/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    labels = {TENANT: owner.name, **profile}
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "engine", "namespace": owner.namespace},
        "automountServiceAccountToken": False,
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": owner.namespace, "labels": labels}},
        account,
    ]


def quota(plan: Plan, owner: Owner) -> list[Object]:
    """As many GPUs as its pools have, none of another kind; and no engine with more than its pool gives."""
    hard = {f"requests.{resource}": str(owner.resources.get(resource, 0)) for resource in plan.resources}
    hard |= dict.fromkeys(WAYS_IN, "0")
    most: dict[str, str] = {}
    for resource in owner.resources:
        counts = [engine.deploy.count for engine in owner.engines if engine.deploy.resource == resource]
        most[resource] = str(max(counts))
    limit = {
        "type": "Container",
        "max": most,
        "default": {"memory": "1Gi"},
        "defaultRequest": {"cpu": "100m", "memory": "256Mi"},
    }
    return [
        _of(owner, "v1", "ResourceQuota", "engines", {"hard": hard}),
        _of(owner, "v1", "LimitRange", "engines", {"limits": [limit]}),
    ]


def network(plan: Plan, owner: Owner) -> list[Object]:
    """Nothing in or out, but the gateway to the engines' ports."""
    ports = sorted({port for engine in owner.engines for port in engine.ports.values()})
    gateway = {
        "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: plan.gateway_namespace}},
        "podSelector": {"matchLabels": GATEWAY},
    }
    allowed = {"from": [gateway], "ports": [{"protocol": "TCP", "port": port} for port in ports]}
    nothing: Object = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    entered = {"podSelector": {"matchLabels": {PART: "engine"}}, "policyTypes": ["Ingress"], "ingress": [allowed]}
    return [
        _of(owner, "networking.k8s.io/v1", "NetworkPolicy", "nothing-in-or-out", nothing),
        _of(owner, "networking.k8s.io/v1", "NetworkPolicy", "engines-from-gateway", entered),
    ]


def models(owner: Owner) -> list[Object]:
    """The volume that models are read from; example/fetch-models.yaml fills it."""
    sizes = sorted({engine.deploy.models_volume for engine in owner.engines}, key=_bytes)
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": sizes[-1]}}}
    return [_of(owner, "v1", "PersistentVolumeClaim", "models", claim)]


def rights(plan: Plan, owner: Owner) -> list[Object]:
    """What the gateway may do here: find pods, and scale the engines that hooks name; each where it is used."""
    granted = plan.grants.get(owner.namespace, frozenset())
    found: list[Object] = []
    for name, scales in (("find-engines", False), ("scale-cold-engines", True)):
        if some := sorted(grant for grant in granted if (grant.name is not None) is scales):
            found += _bound(plan, owner, name, some)
    return found


def _bound(plan: Plan, owner: Owner, name: str, granted: Sequence[Grant]) -> list[Object]:
    group, meta = "rbac.authorization.k8s.io", {"name": name, "namespace": owner.namespace}
    names = sorted({grant.name for grant in granted if grant.name is not None})
    rule = {
        "apiGroups": sorted({grant.group for grant in granted}),
        "resources": sorted({grant.resource for grant in granted}),
        **({"resourceNames": names} if names else {}),
        "verbs": sorted({grant.verb for grant in granted}),
    }
    subject = {"kind": "ServiceAccount", "name": GATEWAY_ACCOUNT, "namespace": plan.gateway_namespace}
    role = {"apiGroup": group, "kind": "Role", "name": name}
    return [
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": [rule]},
        {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": meta, "roleRef": role, "subjects": [subject]},
    ]


def _of(owner: Owner, version: str, kind: str, name: str, spec: Object) -> Object:
    meta = {"name": name, "namespace": owner.namespace}
    return {"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec}


def _bytes(quantity: str) -> int:
    units = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return int(quantity[:-2]) * units[quantity[-2:]] if quantity[-2:] in units else int(quantity.rstrip("m"))
