"""What an engine is in Kubernetes: a Deployment and a Service; and a DaemonSet that has its image on every node before.

Floor: plan -> objects, plain mappings. A pod is of the restricted profile; it reaches nothing, as its models are on a
volume and its namespace lets nothing out.
"""

from __future__ import annotations

from typing import Any

from policies.types import Role
from router.deployment.names import ENGINE, PART, POOL, TENANT, TIER
from router.deployment.parts import Engine, Service, engine_labels, prepull_labels

Object = dict[str, Any]
ENGINE_USER = 10002
MODELS = "/models"
# Seconds that loading weights and capturing graphs may take; kubelet restarts nothing before.
START_SECONDS = 1800
RESTRICTED: Object = {
    "runAsNonRoot": True,
    "runAsUser": ENGINE_USER,
    "runAsGroup": ENGINE_USER,
    "fsGroup": ENGINE_USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
# Images with CUDA say "all", and NVIDIA's runtime believes them wherever the device plugin has said nothing.
NO_GPU: Object = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
_ONE_BY_ONE: Object = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
NO_RIGHTS: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def workload(engine: Engine) -> Object:
    """Its Deployment: nothing of a cold one runs until it is scaled."""
    own = {ENGINE: engine.name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": engine.name, "namespace": engine.namespace, "labels": engine_labels(engine)},
        "spec": {
            "replicas": 0 if engine.role is Role.COLD else engine.replicas,
            "revisionHistoryLimit": 3,
            # A further pod would need a further GPU, which the quota does not have.
            "strategy": {"type": "Recreate"} if not engine.found else _ONE_BY_ONE,
            "selector": {"matchLabels": own},
            "template": {"metadata": {"labels": engine_labels(engine)}, "spec": _pod(engine)},
        },
    }


def service(found: Service) -> Object:
    """What an endpoint's URL leads to, ready or not: the gateway's own probes decide, and see an engine that drains. A
    name that is looked up has the ready ones alone."""
    ports = [{"name": name, "port": port, "targetPort": name} for name, port in found.ports.items()]
    spec = {
        "type": "ClusterIP",
        **({"clusterIP": "None"} if found.headless else {}),
        "publishNotReadyAddresses": not found.headless,
        "selector": dict(found.chosen),
        "ports": ports,
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": found.name, "namespace": found.namespace, "labels": dict(found.labels)},
        "spec": spec,
    }


def prepull(engine: Engine) -> Object:
    """A pod on every node that may have the engine, which keeps its image there: a cold start loads weights only."""
    name = f"prepull-{engine.pool}"[:63].rstrip("-")
    labels = prepull_labels(engine)
    container = {
        "name": "image",
        "image": engine.deploy.image,
        "command": ["sleep", "infinity"],
        "env": [NO_GPU],
        "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"cpu": "10m", "memory": "32Mi"}},
        "securityContext": NO_RIGHTS,
    }
    pod = {**_placed(engine), "terminationGracePeriodSeconds": 1, "containers": [container]}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": engine.namespace, "labels": labels},
        "spec": {
            "selector": {"matchLabels": {PART: "prepull", POOL: engine.pool}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def placement(engine: Engine) -> tuple[str, str]:
    """The label of the nodes it may run on, which is their taint too: of its tenant, or of its tier."""
    return (TENANT, engine.owner) if engine.deploy.own_nodes else (TIER, engine.tier)


def _placed(engine: Engine) -> Object:
    key, value = placement(engine)
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "serviceAccountName": "engine",
        "nodeSelector": {key: value},
        "tolerations": [{"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}],
        "securityContext": RESTRICTED,
    }


def _pod(engine: Engine) -> Object:
    return {
        **_placed(engine),
        "terminationGracePeriodSeconds": engine.grace_seconds,
        "containers": [_container(engine)],
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "20Gi"}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
        ],
    }


def _container(engine: Engine) -> Object:
    deploy = engine.deploy
    given = {"cpu": deploy.cpu, "memory": deploy.memory, deploy.resource: str(deploy.count)}
    health = {"httpGet": {"path": "/health", "port": engine.port[0]}, "timeoutSeconds": 5}
    return {
        "name": "engine",
        "image": deploy.image,
        "command": ["vllm", "serve"],
        "args": arguments(engine),
        "env": _environment(engine),
        "ports": [{"name": name, "containerPort": port} for name, port in engine.ports.items()],
        # Limits of CPU would slow the process that feeds the GPU.
        "resources": {"requests": given, "limits": {key: given[key] for key in given if key != "cpu"}},
        "startupProbe": {**health, "periodSeconds": 5, "failureThreshold": START_SECONDS // 5},
        # Is the process there? Whether it works is found out by the gateway: a sleeping or hung one answers too.
        "livenessProbe": {**health, "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {**health, "periodSeconds": 5, "failureThreshold": 2},
        "securityContext": NO_RIGHTS,
        "volumeMounts": [
            {"name": "models", "mountPath": MODELS, "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - of the container
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }


def arguments(engine: Engine) -> list[str]:
    """Of `vllm serve`: what routing needs, then the pool's own."""
    said = [engine.model, "--served-model-name", *engine.served, f"--port={engine.port[1]}"]
    said += ["--enable-prefix-caching", "--enable-prompt-tokens-details", "--scheduling-policy=priority"]
    said += [f"--shutdown-timeout={engine.longest_seconds}"]
    said += ["--enable-sleep-mode"] if engine.role is Role.WARM else []
    said += [f"--kv-events-config={engine.kv_events}"] if engine.kv_events is not None else []
    said += [f"--tensor-parallel-size={engine.deploy.count}"] if engine.deploy.count > 1 else []
    return [*said, *engine.deploy.arguments]


def _environment(engine: Engine) -> list[Object]:
    said = {"HF_HOME": MODELS, "HF_HUB_OFFLINE": "1", "HOME": "/tmp", "USER": "vllm", "VLLM_NO_USAGE_STATS": "1"}  # noqa: S108
    if engine.role is Role.WARM:
        said["VLLM_SERVER_DEV_MODE"] = "1"  # /sleep and /wake_up, beside routes that nobody but the gateway reaches
    listed: list[Object] = [{"name": name, "value": value} for name, value in said.items()]
    if engine.needs_key:
        key = {"name": "engine-api-key", "key": "VLLM_API_KEY"}
        listed.append({"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": key}})
    return listed
