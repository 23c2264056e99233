"""The Kubernetes API's answers, as far as endpoints are found by them: lists of pods, and the lines of a watch.

Floor: sans-IO. A watch is a stream of lines of JSON that arrive in any pieces. What of an object is not needed is not
read, and a pod that cannot be used is left out with its reason, as one must not hide all others.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec

from policies.discovery import Found
from policies.types import Role

LONGEST_LINE_BYTES = 8 * 1024 * 1024  # etcd keeps no object above 1.5 MiB; a line beyond this is none of the API's
EXPIRED = 410  # the version that was asked for is too old: list anew
_LONGEST_NAME = 128  # as with configured endpoints
_ENDED = frozenset({"Succeeded", "Failed"})


class Malformed(Exception):
    """What came is not what the API says. Its text is for the log, and quotes nothing."""


class Meta(msgspec.Struct, frozen=True):
    name: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    resourceVersion: str = ""  # the API's own names
    creationTimestamp: str | None = None
    deletionTimestamp: str | None = None


class Port(msgspec.Struct, frozen=True):
    containerPort: int = 0
    name: str = ""


class Container(msgspec.Struct, frozen=True):
    ports: list[Port] | None = None


class Spec(msgspec.Struct, frozen=True):
    containers: list[Container] | None = None
    initContainers: list[Container] | None = None  # a sidecar is one that stays


class Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""


class Status(msgspec.Struct, frozen=True):
    phase: str = ""
    podIP: str = ""
    conditions: list[Condition] | None = None


class Pod(msgspec.Struct, frozen=True):
    metadata: Meta = Meta()
    spec: Spec = Spec()
    status: Status = Status()


class ListMeta(msgspec.Struct, frozen=True, rename={"more": "continue"}):
    resourceVersion: str = ""
    more: str = ""


class PodList(msgspec.Struct, frozen=True):
    metadata: ListMeta
    items: list[Pod] | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class Refusal(msgspec.Struct, frozen=True):
    """The API's `Status` of a call that it refuses."""

    code: int = 0
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a watch. `kind`: ADDED, MODIFIED, DELETED, or BOOKMARK, in which only the version means something."""

    kind: str
    pod: Pod


class Ended(Exception):
    """The API says by an event that the watch cannot go on. `code`: as of HTTP."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message or refusal.reason)
        self.code = refusal.code


@dataclass(frozen=True, slots=True)
class PodRules:
    """How a pod becomes an endpoint of the pool. `port`: a number or a name."""

    pool: str
    port: str
    scheme: str
    role: Role
    weight: float
    role_label: str
    weight_annotation: str


class Lines:
    """Whole lines of a stream that comes in pieces; what is left of a broken one counts for nothing."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The lines that are complete now. Raises Malformed for one that never ends."""
        self._begun += piece
        while (end := self._begun.find(b"\n")) >= 0:
            line = bytes(self._begun[:end])
            del self._begun[: end + 1]
            if line.strip():
                yield line
        if len(self._begun) > LONGEST_LINE_BYTES:
            raise Malformed("a line of the watch is too long")


def read_list(data: bytes) -> PodList:
    """Raises Malformed."""
    try:
        return _read_list(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed("the list of pods cannot be read") from None


def read_event(line: bytes) -> Event:
    """Raises Malformed, and Ended for an event of type ERROR."""
    try:
        event = _read_event(line)
        if event.type == "ERROR":
            raise Ended(_read_refusal(event.object))
        return Event(event.type, _read_pod(event.object))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed("an event of the watch cannot be read") from None


def read_refusal(data: bytes) -> Refusal:
    """Of any body: one that says nothing is an empty refusal."""
    try:
        return _read_refusal(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Refusal()


def endpoint_of(pod: Pod, rules: PodRules) -> Found | str | None:
    """The endpoint that a pod is; None while it has no address or when it has ended, and a text where it cannot be
    used."""
    meta, status = pod.metadata, pod.status
    if not status.podIP or status.phase in _ENDED:
        return None
    port, role, weight = _port(pod, rules.port), _role(pod, rules), _weight(pod, rules)
    if port is None:
        return f"no container has a port named {rules.port}"
    if role is None:
        return f"its label {rules.role_label} is none of hot, warm, cold"
    if weight is None:
        return f"its annotation {rules.weight_annotation} is no number above 0"
    host = _host(status.podIP)
    if host is None:
        return "its address cannot be read"
    ready = any(one.type == "Ready" and one.status == "True" for one in status.conditions or ())
    standard = {"http": 80, "https": 443}[rules.scheme]  # equal URLs are equal texts, as in the configuration
    return Found(
        key=meta.uid or meta.name,
        name=endpoint_name(rules.pool, meta.name),
        url=f"{rules.scheme}://{host}{'' if port == standard else f':{port}'}",
        role=role,
        weight=weight,
        ready=ready,
        leaving=meta.deletionTimestamp is not None,
        since=_seconds(meta.creationTimestamp),
    )


def endpoint_name(pool: str, name: str) -> str:
    """`<pool>.<name>`, at most as long as a name may be."""
    text = f"{pool}.{name}"
    return (
        text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 17]}.{sha256(text.encode()).hexdigest()[:16]}"
    )


def _port(pod: Pod, wanted: str) -> int | None:
    if wanted.isdecimal():
        return int(wanted)
    containers = [*(pod.spec.containers or ()), *(pod.spec.initContainers or ())]
    ports = [port for container in containers for port in container.ports or ()]
    return next((port.containerPort for port in ports if port.name == wanted and 0 < port.containerPort < 65536), None)


def _role(pod: Pod, rules: PodRules) -> Role | None:
    said = (pod.metadata.labels or {}).get(rules.role_label)
    if said is None:
        return rules.role
    return Role(said) if said in set(Role) else None


def _weight(pod: Pod, rules: PodRules) -> float | None:
    said: Any = (pod.metadata.annotations or {}).get(rules.weight_annotation, rules.weight)
    try:
        weight = float(said)
    except ValueError:
        return None
    return weight if math.isfinite(weight) and 0 < weight <= 1e6 else None


def _host(address: str) -> str | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    return f"[{parsed}]" if parsed.version == 6 else str(parsed)


def _seconds(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text is not None else None
    except ValueError:
        return None


_read_list = msgspec.json.Decoder(PodList).decode
_read_event = msgspec.json.Decoder(_Event).decode
_read_pod = msgspec.json.Decoder(Pod).decode
_read_refusal = msgspec.json.Decoder(Refusal).decode
