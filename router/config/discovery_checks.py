"""What must hold between values where endpoints are found at run time.

Floor: works on the raw tree, as `router.config.checks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router.config.problems import Place, Problem
from router.config.tree import Tree


def discovery_checks(tree: Tree) -> Iterator[Problem]:
    """A pool has endpoints or finds them, by one source that no other pool has."""
    sources: dict[tuple[object, ...], str] = {}
    finding = [pool for pool, entry in tree.entries("pools") if isinstance(entry.get("discovery"), dict)]
    for pool, entry in tree.entries("pools"):
        discovery = entry.get("discovery")
        if entry.get("endpoints") in (None, [], ()) and discovery is None:
            yield tree.problem(("pools", pool, "endpoints"), "missing; expected at least one, or discovery")
        yield from _names(tree, pool, entry, finding)
        if not isinstance(discovery, dict):
            continue
        yield from _one_source(tree, pool, entry, discovery)
        source = _source(discovery)
        if source is not None and (first := sources.setdefault(source, pool)) != pool:
            message = f"expected a source of its own; pools.{first}.discovery is the same"
            yield tree.problem(("pools", pool, "discovery"), message)


def _one_source(tree: Tree, pool: str, entry: Mapping[str, Any], discovery: Mapping[str, Any]) -> Iterator[Problem]:
    if (discovery.get("dns") is None) == (discovery.get("kubernetes") is None):
        yield tree.problem(("pools", pool, "discovery"), "expected dns or kubernetes, one of them")
    yield from _by_dns(tree, pool, discovery.get("dns"))
    ports = [discovery.get(key) for key in ("kv_events_port", "kv_replay_port")]
    if entry.get("kv_events") in (True, "true", "on", "yes", 1) and ports[0] is None:
        place: Place = ("pools", pool, "discovery", "kv_events_port")
        yield tree.problem(place, f"missing; expected one, as pools.{pool}.kv_events is on")
    if ports[0] is not None and str(ports[0]) == str(ports[1]):
        yield tree.problem(("pools", pool, "discovery", "kv_replay_port"), "expected a port of its own")


def _by_dns(tree: Tree, pool: str, dns: object) -> Iterator[Problem]:
    """Addresses and a port, or records that say both."""
    if not isinstance(dns, dict):
        return
    place: Place = ("pools", pool, "discovery", "dns")
    given = [dns.get(key) is not None for key in ("name", "port", "srv")]
    if given not in ([True, True, False], [False, False, True]):
        yield tree.problem(place, "expected name and port, or srv")
    if dns.get("server") is not None and not given[2]:
        yield tree.problem((*place, "server"), "expected srv: names are asked of the system's resolver")


def _names(tree: Tree, pool: str, entry: Mapping[str, Any], finding: list[str]) -> Iterator[Problem]:
    """Those that are found are called `<pool>.<what was found>`."""
    endpoints = entry.get("endpoints")
    for index, endpoint in enumerate(endpoints if isinstance(endpoints, list) else []):
        name = endpoint.get("name") if isinstance(endpoint, dict) else None
        for other in finding:
            if isinstance(name, str) and name.startswith(f"{other}."):
                place = ("pools", pool, "endpoints", index, "name")
                yield tree.problem(place, f"expected another beginning: those that pools.{other} finds have this one")


def _source(discovery: Mapping[str, Any]) -> tuple[object, ...] | None:
    dns, kubernetes = discovery.get("dns"), discovery.get("kubernetes")
    if isinstance(dns, dict) and kubernetes is None:
        return ("dns", *(str(dns.get(key)).lower() for key in ("name", "port", "srv", "server")))
    if isinstance(kubernetes, dict) and dns is None:
        return ("kubernetes", *(str(kubernetes.get(key)) for key in ("namespace", "selector", "port")))
    return None
