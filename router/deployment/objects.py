"""Objects of Kubernetes by kind and namespace, and what rules ask of them.

Floor: plain mappings in, questions answered; nothing is fetched, nothing judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
_TEMPLATED = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job")
_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Workload:
    """Whatever makes pods, or a pod. `node`: where a pod is, once it is somewhere."""

    kind: str
    name: str
    namespace: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    replicas: int | None = None
    node: str | None = None

    @property
    def where(self) -> str:
        """As findings name it."""
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def containers(self) -> list[Object]:
        """All kinds of them."""
        kinds = ("initContainers", "containers", "ephemeralContainers")
        return [one for kind in kinds for one in self.spec.get(kind) or ()]


@dataclass(slots=True)
class Manifests:
    """`live`: whether they come from a cluster, where cold engines may run and pods are on nodes."""

    objects: Sequence[Object]
    live: bool = False
    _workloads: list[Workload] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._workloads = [one for one in map(_workload, self.objects) if one is not None]

    def of(self, kind: str, namespace: str | None = None) -> Iterator[Object]:
        """The objects of a kind, in a namespace or all."""
        for one in self.objects:
            if one.get("kind") == kind and namespace in (None, meta(one).get("namespace")):
                yield one

    def one(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """By its name."""
        return next((found for found in self.of(kind, namespace) if meta(found).get("name") == name), None)

    def workloads(self, namespace: str | None = None) -> Iterator[Workload]:
        """Of a namespace, or all."""
        yield from (one for one in self._workloads if namespace in (None, one.namespace))


def meta(one: Object) -> Mapping[str, Any]:
    """Its metadata."""
    return one.get("metadata") or {}


def labels(one: Object) -> Mapping[str, str]:
    """Its labels."""
    return meta(one).get("labels") or {}


def where(one: Object) -> str:
    """As findings name it."""
    namespace = meta(one).get("namespace")
    return f"{one.get('kind')} {f'{namespace}/' if namespace else ''}{meta(one).get('name')}"


def selects(selector: Mapping[str, Any] | None, given: Mapping[str, str]) -> bool:
    """Whether a label selector takes what has these labels; an empty one takes all."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    terms = selector.get("matchExpressions") or ()
    return all(given.get(key) == value for key, value in wanted.items()) and all(_term(one, given) for one in terms)


def _term(term: Mapping[str, Any], given: Mapping[str, str]) -> bool:
    value, values = given.get(term["key"]), term.get("values") or ()
    answers = {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    return answers[term["operator"]]


def _workload(one: Object) -> Workload | None:
    kind, spec, node, replicas = one.get("kind"), one.get("spec") or {}, None, None
    if kind == "Pod":
        if (one.get("status") or {}).get("phase") in _ENDED:
            return None
        node, template = spec.get("nodeName"), one
    elif kind in _TEMPLATED:
        template = spec.get("template") or {}
        replicas = spec.get("replicas", 1) if kind != "DaemonSet" else None
    elif kind == "CronJob":
        template = ((spec.get("jobTemplate") or {}).get("spec") or {}).get("template") or {}
    else:
        return None
    place = meta(one)
    name, namespace = str(place.get("name")), str(place.get("namespace", "default"))
    return Workload(str(kind), name, namespace, labels(template), template.get("spec") or {}, replicas, node)
