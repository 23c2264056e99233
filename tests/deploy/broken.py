"""What breaks each rule of isolation: changes to what is rendered for the example."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tests.deploy.test_kubernetes import EXAMPLE
from tests.deploy.tools import kustomize

Objects = list[dict[str, Any]]
Change = Callable[[Objects], None]


@cache
def _rendered() -> str:
    return json.dumps(kustomize(EXAMPLE))


def rendered() -> Objects:
    """A copy of one's own, to break."""
    found: Objects = json.loads(_rendered())
    return found


def one(objects: Objects, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
    return next(
        found
        for found in objects
        if found["kind"] == kind
        and found["metadata"]["name"] == name
        and namespace in (None, found["metadata"].get("namespace"))
    )


def removed(kind: str, name: str, namespace: str | None = None) -> Change:
    return lambda objects: objects.remove(one(objects, kind, name, namespace))


def changed(kind: str, name: str, change: Callable[[dict[str, Any]], object], namespace: str | None = None) -> Change:
    def do(objects: Objects) -> None:
        change(one(objects, kind, name, namespace))

    return do


def pod(name: str, change: Callable[[dict[str, Any]], object], kind: str = "Deployment") -> Change:
    return changed(kind, name, lambda found: change(found["spec"]["template"]["spec"]))


def container(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    return pod(name, lambda spec: change(spec["containers"][0]))


def added(**more: Any) -> Change:
    """An object, by default in acme's namespace."""
    return lambda objects: objects.append({"metadata": {"name": "new", "namespace": "llm-acme"}, **more})


def moved(name: str, namespace: str) -> Change:
    return changed("Deployment", name, lambda found: found["metadata"].update(namespace=namespace))


def copied(kind: str, name: str, namespace: str, as_: str) -> Change:
    def do(objects: Objects) -> None:
        more = copy.deepcopy(one(objects, kind, name))
        more["metadata"].update(name=as_, namespace=namespace)
        objects.append(more)

    return do


def both(*changes: Change) -> Change:
    def do(objects: Objects) -> None:
        for change in changes:
            change(objects)

    return do


def policy(**spec: Any) -> Change:
    return added(kind="NetworkPolicy", spec={"podSelector": {}, **spec})


def entered(change: Callable[[dict[str, Any]], object]) -> Change:
    return changed("NetworkPolicy", "engines-from-gateway", lambda p: change(p["spec"]["ingress"][0]), "llm-acme")


def operators(change: Callable[[dict[str, Any]], object]) -> Change:
    """Of the rule by which Prometheus reaches the operators' port."""

    def do(found: dict[str, Any]) -> None:
        (rule_,) = (each for each in found["spec"]["ingress"] if each["ports"][0]["port"] == 9090)
        change(rule_)

    return changed("NetworkPolicy", "gateway", do)


def quota(change: Callable[[dict[str, Any]], object]) -> Change:
    return changed("ResourceQuota", "engines", lambda found: change(found["spec"]["hard"]), "llm-acme")


def rule(change: Callable[[dict[str, Any]], object], role: str = "scale-cold-engines") -> Change:
    """acme's Role for scaling, or another one: globex alone finds pods."""
    space = "llm-acme" if role == "scale-cold-engines" else "llm-globex"
    return changed("Role", role, lambda found: change(found["rules"][0]), space)


def subject(**said: str) -> Change:
    """A binding in acme's namespace to somebody."""
    return added(kind="RoleBinding", subjects=[said], roleRef={"kind": "Role", "name": "scale-cold-engines"})


def labelled(name: str, kind: str = "Deployment", **labels: str | None) -> Change:
    """Its pods' labels under `promptlane/`, None for none."""

    def do(found: dict[str, Any]) -> None:
        there = found["spec"]["template"]["metadata"]["labels"]
        for key, value in labels.items():
            there.pop(f"promptlane/{key}", None)
            there.update({f"promptlane/{key}": value} if value is not None else {})

    return changed(kind, name, do)


def binding(kind: str, name: str, namespace: str, role: str = "Role") -> Change:
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    return added(kind=kind, subjects=[subject], roleRef={"kind": role, "name": "scale-cold-engines"})


GPU = "nvidia.com/gpu"
WITH_GPU = {"name": "x", "resources": {"limits": {GPU: 1}}}
ANY_SPACE = {"namespaceSelector": {}}
OTHER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "llm-globex"}}}
CONTROLLER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "promptlane"}}}

# rule -> what breaks it
BROKEN: dict[str, dict[str, Change]] = {
    "namespaces": {
        "the namespace is missing": removed("Namespace", "llm-acme"),
        "it is marked as another's": changed(
            "Namespace", "llm-acme", lambda found: found["metadata"]["labels"].update({"promptlane/tenant": "globex"})
        ),
        "it admits any pod": changed(
            "Namespace", "llm-acme", lambda found: found["metadata"]["labels"].pop("pod-security.kubernetes.io/enforce")
        ),
        "it admits baseline pods": changed(
            "Namespace",
            "llm-acme",
            lambda found: found["metadata"]["labels"].update({"pod-security.kubernetes.io/enforce": "baseline"}),
        ),
        "a namespace is marked that nobody has": lambda objects: objects.append(
            {"kind": "Namespace", "metadata": {"name": "llm-gone", "labels": {"promptlane/tenant": "gone"}}}
        ),
    },
    "quotas": {
        "no quota": removed("ResourceQuota", "engines", "llm-acme"),
        "more than the pools": quota(lambda hard: hard.update({f"requests.{GPU}": "8"})),
        "less than the pools": quota(lambda hard: hard.update({f"requests.{GPU}": "6"})),
        "written in a way that nobody counts": quota(lambda hard: hard.update({f"requests.{GPU}": "7k"})),
        "another kind is free": quota(lambda hard: hard.pop("requests.nvidia.com/mig-3g.40gb")),
        "ports of every node": quota(lambda hard: hard.pop("services.nodeports")),
        "balancers": quota(lambda hard: hard.update({"services.loadbalancers": "1"})),
        "it holds for some pods only": changed(
            "ResourceQuota", "engines", lambda found: found["spec"].update(scopes=["NotTerminating"]), "llm-acme"
        ),
    },
    "limit-ranges": {
        "none": removed("LimitRange", "engines", "llm-globex"),
        "higher than the largest engine": changed(
            "LimitRange", "engines", lambda found: found["spec"]["limits"][0]["max"].update({GPU: "8"}), "llm-acme"
        ),
        "for pods instead": changed(
            "LimitRange", "engines", lambda found: found["spec"]["limits"][0].update(type="Pod"), "llm-acme"
        ),
    },
    "priorities": {
        "a class is missing": removed("PriorityClass", "llm-online"),
        "batch preempts": changed("PriorityClass", "llm-batch", lambda found: found.update(preemptionPolicy="X")),
        "batch is as high": changed("PriorityClass", "llm-batch", lambda found: found.update(value=100_000)),
    },
    "rights": {
        "engines have rights": binding("RoleBinding", "engine", "llm-acme"),
        "engines have the cluster's": binding("ClusterRoleBinding", "engine", "llm-globex", "ClusterRole"),
        "the gateway has the cluster's": binding("ClusterRoleBinding", "promptlane", "promptlane", "ClusterRole"),
        "the gateway has a cluster role": binding("RoleBinding", "promptlane", "promptlane", "ClusterRole"),
        "the gateway scales anything": rule(lambda found: found.pop("resourceNames")),
        "the gateway reads secrets": rule(lambda found: found.update(resources=["secrets"], verbs=["get"])),
        "the gateway deletes": rule(lambda found: found.update(verbs=["get", "delete"])),
        "the gateway scales another one": rule(lambda found: found["resourceNames"].append("acme-0")),
        "the gateway reads what it scales": rule(lambda found: found["verbs"].append("get")),
        "the gateway may do anything": rule(lambda found: found.update(verbs=["*"])),
        "the gateway reads single pods": rule(lambda found: found["verbs"].append("get"), "find-engines"),
        "the gateway reads pods' logs": rule(lambda found: found["resources"].append("pods/log"), "find-engines"),
        "the gateway finds where it need not": both(
            copied("Role", "find-engines", "llm-initech", "find-engines"),
            copied("RoleBinding", "find-engines", "llm-initech", "find-engines"),
        ),
        "a group of the engines' accounts": subject(kind="Group", name="system:serviceaccounts:llm-acme"),
        "all accounts of the gateway's namespace": subject(kind="Group", name="system:serviceaccounts:promptlane"),
        "everybody": subject(kind="Group", name="system:authenticated"),
        "an engine's account, as a user": subject(kind="User", name="system:serviceaccount:llm-acme:engine"),
    },
    "gateway-rights": {
        "no Role to scale": removed("Role", "scale-cold-engines", "llm-acme"),
        "no binding to scale": removed("RoleBinding", "scale-cold-engines", "llm-acme"),
        "no Role to find": removed("Role", "find-engines"),
        "no binding to find": removed("RoleBinding", "find-engines"),
        "it may list and not watch": rule(lambda found: found["verbs"].remove("watch"), "find-engines"),
        "it may scale another one": rule(lambda found: found.update(resourceNames=["acme-0"])),
        "another account has it": changed(
            "RoleBinding", "find-engines", lambda found: found["subjects"][0].update(name="default")
        ),
    },
    "default-deny": {
        "none": removed("NetworkPolicy", "nothing-in-or-out", "llm-acme"),
        "out is open": changed(
            "NetworkPolicy", "nothing-in-or-out", lambda p: p["spec"].update(policyTypes=["Ingress"]), "llm-acme"
        ),
        "it holds for engines only": changed(
            "NetworkPolicy",
            "nothing-in-or-out",
            lambda p: p["spec"].update(podSelector={"matchLabels": {"promptlane/part": "engine"}}),
            "llm-acme",
        ),
    },
    "only-the-gateway": {
        "everybody": entered(lambda allowed: allowed.pop("from")),
        "any namespace": entered(lambda allowed: allowed["from"].append(ANY_SPACE)),
        "another tenant": entered(lambda allowed: allowed["from"].append(OTHER)),
        "all pods of the gateway's namespace": entered(lambda allowed: allowed["from"].append(CONTROLLER)),
        "an address": entered(lambda allowed: allowed["from"].append({"ipBlock": {"cidr": "10.0.0.0/8"}})),
        "a policy beside": policy(ingress=[{"from": [OTHER]}]),
        "a policy for hot engines": policy(
            podSelector={"matchExpressions": [{"key": "promptlane/role", "operator": "In", "values": ["hot"]}]},
            ingress=[{}],
        ),
    },
    "gateway-gets-in": {
        "no policy": removed("NetworkPolicy", "engines-from-gateway", "llm-acme"),
        "another port": entered(lambda allowed: allowed.update(ports=[{"protocol": "TCP", "port": 8001}])),
        "another pod": changed(
            "NetworkPolicy",
            "engines-from-gateway",
            lambda p: p["spec"].update(podSelector={"matchLabels": {"promptlane/part": "other"}}),
            "llm-acme",
        ),
    },
    "nothing-out": {
        "out to names": policy(policyTypes=["Egress"], egress=[{"ports": [{"protocol": "UDP", "port": 53}]}]),
        "out, as the type is implied": policy(egress=[{"to": [OTHER]}]),
    },
    "operators-apart": {
        "in is open": both(
            removed("NetworkPolicy", "nothing-in-or-out", "promptlane"), removed("NetworkPolicy", "gateway")
        ),
        "out is open": both(
            removed("NetworkPolicy", "nothing-in-or-out", "promptlane"),
            changed("NetworkPolicy", "gateway", lambda p: p["spec"].update(policyTypes=["Ingress"], egress=[])),
        ),
        "to everybody": operators(lambda allowed: allowed.pop("from")),
        "to any namespace": operators(lambda allowed: allowed["from"].append(ANY_SPACE)),
        "to any address": operators(lambda allowed: allowed["from"].append({"ipBlock": {"cidr": "0.0.0.0/0"}})),
        "to a tenant's engines": operators(lambda allowed: allowed["from"].append(OTHER)),
        "to all tenants' engines": operators(
            lambda allowed: allowed["from"].append(
                {"namespaceSelector": {"matchExpressions": [{"key": "promptlane/tenant", "operator": "Exists"}]}}
            )
        ),
        "by a rule for all ports": changed(
            "NetworkPolicy", "gateway", lambda p: p["spec"]["ingress"].append({"from": [OTHER]})
        ),
        "by the port's name": changed(
            "NetworkPolicy", "gateway", lambda p: p["spec"]["ingress"].append({"ports": [{"port": "admin"}]})
        ),
    },
    "services-inside": {
        "a port of every node": changed("Service", "acme-0", lambda found: found["spec"].update(type="NodePort")),
        "a balancer": changed("Service", "acme-0", lambda found: found["spec"].update(type="LoadBalancer")),
        "an outside address": changed(
            "Service", "acme-0", lambda found: found["spec"].update(externalIPs=["192.0.2.1"])
        ),
        "it selects all engines": changed(
            "Service", "acme-0", lambda found: found["spec"].update(selector={"promptlane/part": "engine"})
        ),
        "a port is missing": changed("Service", "acme-0", lambda found: found["spec"]["ports"].pop(0)),
        "a name has all of the namespace": changed(
            "Service", "drafts", lambda found: found["spec"].update(selector={"promptlane/part": "engine"})
        ),
        "a name has one address for all": changed("Service", "drafts", lambda found: found["spec"].pop("clusterIP")),
        "a name has those that are not ready": changed(
            "Service", "drafts", lambda found: found["spec"].update(publishNotReadyAddresses=True)
        ),
        "another service": copied("Service", "acme-0", "llm-acme", "acme-other"),
        "an ingress there": added(kind="Ingress", spec={}),
        "a route from elsewhere": changed(
            "HTTPRoute",
            "promptlane",
            lambda found: found["spec"]["rules"][0]["backendRefs"].append({"name": "acme-0", "namespace": "llm-acme"}),
        ),
        "a grant for routes": added(kind="ReferenceGrant", spec={}),
    },
    "services": {
        "a service is missing": removed("Service", "acme-0"),
        "the name that is looked up is missing": removed("Service", "drafts"),
    },
    "found": {
        "nothing runs": removed("Deployment", "globex-code"),
        "it has other labels": labelled("globex-code", pool="globex"),
        "a cold one has other labels": labelled("globex-code-cold", part="cold"),
        "another pool's engine has them": labelled("globex-0", pool="globex-code"),
        "the pods that pull images have them": labelled("prepull-globex-code", "DaemonSet", part="engine"),
        "by a name, nothing runs": removed("Deployment", "initech-drafts"),
        "by a name, another pool's engine": labelled("initech-0", pool="initech-drafts"),
    },
    "endpoints-run": {
        "a workload is missing": removed("Deployment", "acme-0"),
        "it has two": changed("Deployment", "acme-0", lambda found: found["spec"].update(replicas=2)),
        "it has none": changed("Deployment", "acme-warm", lambda found: found["spec"].update(replicas=0)),
        "a cold one runs": changed("Deployment", "acme-cold", lambda found: found["spec"].update(replicas=1)),
        "more than the pool has": changed("Deployment", "globex-code", lambda found: found["spec"].update(replicas=3)),
        "fewer than the pool has": changed("Deployment", "globex-code", lambda found: found["spec"].update(replicas=1)),
        "it is killed early": pod("acme-0", lambda spec: spec.update(terminationGracePeriodSeconds=3600)),
        "the default is early": pod("acme-0", lambda spec: spec.pop("terminationGracePeriodSeconds")),
    },
    "nothing-else": {
        "an engine that no endpoint names": changed(
            "Deployment",
            "acme-0",
            lambda found: found["spec"]["template"]["metadata"]["labels"].update({"promptlane/engine": "acme-x"}),
        ),
        "a second one that joins an endpoint": copied("Deployment", "acme-0", "llm-acme", "acme-1"),
        "another kind that joins an endpoint": changed(
            "Deployment", "acme-0", lambda found: found.update(kind="StatefulSet")
        ),
        "a pod with a GPU": added(
            kind="Pod",
            spec={"containers": [{"name": "x", "resources": {"limits": {GPU: 1}}}]},
        ),
        "a job for batches": added(
            kind="CronJob",
            spec={"jobTemplate": {"spec": {"template": {"spec": {"containers": [WITH_GPU]}}}}},
        ),
    },
    "own-namespace": {
        "an engine in another's namespace": moved("acme-0", "llm-globex"),
        "an engine in the gateway's": moved("acme-0", "promptlane"),
        "a pod of nobody": changed(
            "DaemonSet",
            "prepull-acme-chat",
            lambda found: found["spec"]["template"]["metadata"]["labels"].pop("promptlane/tenant"),
        ),
        "a pod that says it is another's": changed(
            "Deployment",
            "acme-0",
            lambda found: found["spec"]["template"]["metadata"]["labels"].update({"promptlane/tenant": "globex"}),
        ),
    },
    "own-gpus": {
        "more": container("acme-0", lambda found: found["resources"]["limits"].update({GPU: "4"})),
        "none": container("acme-0", lambda found: found.pop("resources")),
        "another kind besides": container(
            "globex-0", lambda found: found["resources"]["limits"].update({"nvidia.com/mig-1g.10gb": "1"})
        ),
        "another container has one": pod(
            "acme-0",
            lambda spec: spec["containers"].append({"name": "x", "resources": {"limits": {GPU: "1"}}}),
        ),
        "an init container has one": pod(
            "acme-0", lambda spec: spec.update(initContainers=[{"name": "x", "resources": {"limits": {GPU: "1"}}}])
        ),
    },
    "own-nodes": {
        "any node": pod("acme-0", lambda spec: spec.pop("nodeSelector")),
        "another's node": pod("acme-0", lambda spec: spec.update(nodeSelector={"promptlane/tenant": "globex"})),
        "it tolerates another's": pod(
            "acme-0", lambda spec: spec["tolerations"].append({"key": "promptlane/tenant", "value": "globex"})
        ),
        "it tolerates everything": pod("acme-0", lambda spec: spec["tolerations"].append({"operator": "Exists"})),
        "it tolerates every tenant's": pod(
            "globex-0", lambda spec: spec["tolerations"].append({"key": "promptlane/tenant", "operator": "Exists"})
        ),
        "it names its node": pod("acme-0", lambda spec: spec.update(nodeName="gpu-7")),
        "the gateway is held to a tenant's node": pod(
            "promptlane", lambda spec: spec.update(nodeSelector={"promptlane/tenant": "acme"})
        ),
        "a pulled image on every node": pod(
            "prepull-acme-chat", lambda spec: spec.pop("nodeSelector"), "DaemonSet"
        ),
        "a pulled image elsewhere": pod(
            "prepull-acme-chat", lambda spec: spec.update(tolerations=[{"operator": "Exists"}]), "DaemonSet"
        ),
    },
    "no-way-around": {
        "the host's network": pod("acme-0", lambda spec: spec.update(hostNetwork=True)),
        "the host's processes": pod("acme-0", lambda spec: spec.update(hostPID=True)),
        "the host's memory": pod("acme-0", lambda spec: spec.update(hostIPC=True)),
        "the host's files": pod(
            "acme-0", lambda spec: spec["volumes"].append({"name": "dev", "hostPath": {"path": "/dev"}})
        ),
        "a token": pod("acme-0", lambda spec: spec.pop("automountServiceAccountToken")),
        "all rights": container("acme-0", lambda found: found["securityContext"].update(privileged=True)),
        "rights to gain": container("acme-0", lambda found: found.pop("securityContext")),
        "capabilities": container(
            "acme-0", lambda found: found["securityContext"].update(capabilities={"add": ["SYS_ADMIN"]})
        ),
        "root": pod("acme-0", lambda spec: spec["securityContext"].pop("runAsNonRoot")),
        "a claim of devices": pod("acme-0", lambda spec: spec.update(resourceClaims=[{"name": "gpu"}])),
        "variables that stand elsewhere": container(
            "acme-0", lambda found: found.update(envFrom=[{"configMapRef": {"name": "x"}}])
        ),
        "an image that sees all": pod(
            "prepull-acme-chat", lambda spec: spec["containers"][0].pop("env"), "DaemonSet"
        ),
        "GPUs by the runtime": container(
            "acme-0", lambda found: found["env"].append({"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"})
        ),
    },
    "classes": {
        "none": pod("acme-0", lambda spec: spec.pop("priorityClassName")),
        "another tier's": pod("globex-0", lambda spec: spec.update(priorityClassName="llm-online-high")),
        "batch work as high": pod("acme-batch-0", lambda spec: spec.update(priorityClassName="llm-online-high")),
    },
}  # fmt: skip
TAINT = {"key": "promptlane/tenant", "value": "acme", "effect": "NoSchedule"}


def running(name: str, node: str) -> Change:
    """Its pod, as it runs."""

    def do(objects: Objects) -> None:
        template = copy.deepcopy(one(objects, "Deployment", name))
        made = template["spec"]["template"]
        made["metadata"] |= {"name": f"{name}-1", "namespace": template["metadata"]["namespace"]}
        objects.append({"kind": "Pod", **made, "spec": {**made["spec"], "nodeName": node}})

    return do


def node(name: str, labels: dict[str, str], *taints: dict[str, str]) -> Change:
    return lambda objects: objects.append(
        {"kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {"taints": list(taints)}}
    )


ACMES = node("n1", {"promptlane/tenant": "acme"}, TAINT)
GOLDS = node("n2", {"promptlane/tier": "gold"}, {**TAINT, "key": "promptlane/tier", "value": "gold"})
BROKEN["on-own-nodes"] = {
    "on another's node": both(ACMES, running("globex-0", "n1")),
    "on nobody's node": both(node("n3", {}), running("acme-0", "n3")),
    "on another tier's node": both(GOLDS, running("acme-0", "n2")),
    "a stranger on a tenant's node": both(
        ACMES,
        lambda objects: objects.append({
            "kind": "Pod",
            "metadata": {"name": "x", "namespace": "research"},
            "spec": {"nodeName": "n1", "containers": [{"name": "x", "resources": {"limits": {GPU: 1}}}]},
        }),
    ),
    "a node that others may use": node("n1", {"promptlane/tenant": "acme"}),
    "a node with another's taint": node("n1", {"promptlane/tenant": "acme"}, {**TAINT, "value": "globex"}),
    "a node that is only preferred": node("n1", {"promptlane/tenant": "acme"}, {**TAINT, "effect": "PreferNoSchedule"}),
}  # fmt: skip
