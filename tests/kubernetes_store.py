"""The objects of a Kubernetes API server: one version for all, a history, selectors, pages.

Floor: tests only; pure. `tests.kubernetes_api` speaks for it.
"""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

_TERM = re.compile(r"\s*(?:(!?)([\w./-]+)|([\w./-]+)\s*(=|==|!=)\s*([\w.-]*)|([\w./-]+)\s+(in|notin)\s+\(([^)]*)\))\s*")
Labels = dict[str, str]
Object = dict[str, Any]
Collection = tuple[str, str]  # such as ("/api/v1", "pods")


class Refused(Exception):
    """As the API refuses."""

    def __init__(self, code: int, reason: str, message: str, headers: str = "") -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.headers = code, reason, message, headers


@dataclass
class Change:
    """What became of an object."""

    version: int
    before: Object | None
    after: Object | None


class Store:
    """`page`: objects in one answer at most; `on_change` is called after each change."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.page = 500
        self.version = 1000
        self.oldest = 1000
        self.objects: dict[Collection, dict[tuple[str, str], Object]] = {}
        self._history: dict[Collection, list[Change]] = {}
        self._on_change = on_change

    def since(self, collection: Collection, version: int) -> Iterator[Change]:
        """What has changed after that version, the oldest first."""
        yield from [one for one in self._history.get(collection, []) if one.version > version]

    def compact(self) -> None:
        """What lies behind cannot be asked for any more; a watch that is open has it still."""
        self.version += 1
        self.oldest = self.version

    def delete(self, collection: Collection, namespace: str, name: str) -> None:
        before = self.objects[collection].pop((namespace, name))
        self._changed(collection, before, None)

    def merge(self, collection: Collection, namespace: str, name: str, patch: Object, *, make: bool = False) -> Object:
        """Patches an object; `make`: makes it where there is none."""
        kept = self.objects.setdefault(collection, {})
        before = kept.get((namespace, name))
        if before is None and not make:
            raise Refused(404, "NotFound", f'{collection[1]} "{name}" not found')
        new = {"metadata": {"uid": str(uuid.uuid4()), "creationTimestamp": stamp(len(kept)), "namespace": namespace}}
        after = _merged(before if before is not None else new, patch)
        self.version += 1
        after["metadata"]["resourceVersion"] = str(self.version)
        kept[namespace, name] = after
        self._changed(collection, before, after)
        return copy.deepcopy(after)

    def _changed(self, collection: Collection, before: Object | None, after: Object | None) -> None:
        if after is None and before is not None:
            self.version += 1
            before = copy.deepcopy(before)
            before["metadata"]["resourceVersion"] = str(self.version)
        self._history.setdefault(collection, []).append(Change(self.version, before, after))
        self._on_change()

    def _selected(self, collection: Collection, namespace: str | None, selector: str) -> list[Object]:
        return [
            one
            for (where, _), one in sorted(self.objects.get(collection, {}).items(), key=lambda kept: "/".join(kept[0]))
            if namespace in (None, where) and matches(selector, one["metadata"].get("labels", {}))
        ]

    def list(self, params: Labels, collection: Collection, namespace: str | None) -> Object:
        """One page."""
        version, after = self.version, ""
        if "continue" in params:
            said, _, after = params["continue"].partition(" ")
            version = int(said)
            if version < self.oldest:
                raise Refused(410, "Expired", "The provided continue parameter is too old")
        items = self._selected(collection, namespace, params.get("labelSelector", ""))
        items = [one for one in items if _place(one) > after]  # by name: what is deleted between two pages hides nobody
        limit = min(self.page, int(params.get("limit", self.page)))
        meta = {"resourceVersion": str(version)}
        if len(items) > limit:
            meta["continue"] = f"{version} {_place(items[limit - 1])}"
        return {"kind": "List", "metadata": meta, "items": items[:limit]}


def matches(selector: str, labels: Labels) -> bool:
    """As the API server selects."""
    return all(_term(one, labels) for one in re.split(r",(?![^(]*\))", selector) if one.strip())


def _place(one: Object) -> str:
    return f"{one['metadata']['namespace']}/{one['metadata']['name']}"


def _term(text: str, labels: Labels) -> bool:
    found = _TERM.fullmatch(text)
    if found is None:
        raise ValueError(text)
    no, exists, key, sign, value, set_key, among, values = found.groups()
    if exists:
        return (exists in labels) is not bool(no)
    if key:
        return (labels.get(key) == value) is not (sign == "!=")
    return (labels.get(set_key) in [one.strip() for one in values.split(",")]) is (among == "in")


def event(change: Change, namespace: str | None, selector: str) -> Object | None:
    """What a watch of this namespace (None: all) and selector is told of a change; None for nothing."""

    def selected(one: Object | None) -> bool:
        if one is None or namespace not in (None, one["metadata"]["namespace"]):
            return False
        return matches(selector, one["metadata"].get("labels", {}))

    was, now = selected(change.before), selected(change.after)
    if not was and not now:
        return None
    kind = "MODIFIED" if was and now else "ADDED" if now else "DELETED"
    told = copy.deepcopy(change.after if now or change.after is not None else change.before)
    assert told is not None
    told["metadata"]["resourceVersion"] = str(change.version)
    return {"type": kind, "object": told}


def _merged(before: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(before) if isinstance(before, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def stamp(later: int) -> str:
    """A moment as the API writes it, so many seconds from now."""
    return (datetime.now(UTC) + timedelta(seconds=later)).strftime("%Y-%m-%dT%H:%M:%SZ")
