"""Whatever holds tenants apart in what is rendered is missed when it is left out: each object, and each key of it."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterator
from typing import Any

import pytest

from router.deployment.audit import audit
from router.deployment.objects import Manifests
from tests.deploy.broken import rendered
from tests.deploy.test_kubernetes import PLAN

SPACES = {owner.namespace for owner in PLAN.owners}
Path = tuple[str | int, ...]

# Not what isolates: an account without rights, a volume, images that are on nodes before.
NOT_MISSED = {"ServiceAccount", "PersistentVolumeClaim", "DaemonSet"}
# Without these it is the same, or less is allowed, or Kubernetes takes no such object: patterns of kind, name and path.
HARMLESS = [
    "Namespace * metadata.labels.promptlane/tier",
    "Namespace * metadata.labels.pod-security.kubernetes.io/audit",
    "Namespace * metadata.labels.pod-security.kubernetes.io/warn",
    "[!N]* metadata.labels*",  # of other objects than namespaces
    "NetworkPolicy * metadata.labels*",
    "NetworkPolicy nothing-in-or-out spec.podSelector",  # none is all
    "NetworkPolicy engines-from-gateway spec.podSelector*",  # the gateway may reach pods that pull images, too
    "NetworkPolicy engines-from-gateway spec.policyTypes*",  # Ingress is what a policy without egress has
    "NetworkPolicy engines-from-gateway spec.ingress.0.ports*",  # the gateway may reach other ports of engines, too
    "LimitRange * spec.limits.0.default*",
    "PriorityClass * description",
    "PriorityClass * globalDefault",
    "PriorityClass llm-online* preemptionPolicy",
    "RoleBinding * roleRef.apiGroup",
]
KINDS = ("Namespace", "NetworkPolicy", "ResourceQuota", "LimitRange", "PriorityClass", "Role", "RoleBinding")


def found(objects: list[dict[str, Any]]) -> bool:
    try:
        return any(audit(PLAN, Manifests(objects)).values())
    except (AttributeError, KeyError, TypeError, ValueError):  # which ends the command with 1, too
        return True


def ours() -> list[tuple[int, dict[str, Any]]]:
    """The objects of owners, and the cluster's that are for them."""
    return [
        (place, one)
        for place, one in enumerate(rendered())
        if {one["metadata"].get("namespace"), one["metadata"]["name"]} & SPACES or one["kind"] == "PriorityClass"
    ]


def named(one: dict[str, Any]) -> str:
    return f"{one['kind']} {one['metadata'].get('namespace', '')}/{one['metadata']['name']}"


OURS = ours()


@pytest.mark.parametrize(("place", "one"), OURS, ids=[named(one) for _, one in OURS])
def test_an_object_is_missed(place: int, one: dict[str, Any]) -> None:
    objects = rendered()
    del objects[place]
    assert found(objects) is (one["kind"] not in NOT_MISSED)


def keys(node: Any, above: Path = ()) -> Iterator[Path]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*above, key)
        yield from keys(value, (*above, key))


def without(one: dict[str, Any], path: Path) -> dict[str, Any]:
    changed = node = copy.deepcopy(one)
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return changed


def harmless(one: dict[str, Any], path: str) -> bool:
    text = f"{one['kind']} {one['metadata']['name']} {path}"
    return any(fnmatch.fnmatch(text, pattern) for pattern in HARMLESS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_missed(kind: str) -> None:
    objects, missed, not_missed = rendered(), 0, []
    for place, one in OURS:
        for path in keys(one) if one["kind"] == kind else ():
            text = ".".join(map(str, path))
            if path[0] in ("apiVersion", "kind") or text in ("metadata", "metadata.name", "metadata.namespace"):
                continue
            if harmless(one, text):
                continue
            missed += 1
            if not found([*objects[:place], without(one, path), *objects[place + 1 :]]):
                not_missed.append(f"{named(one)}: {text}")
    assert not_missed == []
    assert missed > 0
