"""What must hold between values of pools that run in Kubernetes: who owns them, and that URLs lead into its namespace.

Floor: works on the raw tree, as `router.config.checks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from router.config.deploy import DEFAULT_PREFIX, DEFAULT_RESOURCE, TIME_SLICES
from router.config.problems import Place, Problem
from router.config.tree import Tree
from router.config.types import DNS_LABEL
from router.config.words import shown

MAX_NAMESPACE = 63  # characters of a DNS label
SHARED = "shared-"


def deploy_checks(tree: Tree) -> Iterator[Problem]:
    """Every mistake of pools with `deploy`. Values of a wrong type are skipped here: validation tells them."""
    said = tree.root.get("deploy")
    prefix = said.get("namespace_prefix", DEFAULT_PREFIX) if isinstance(said, dict) else DEFAULT_PREFIX
    gateway = said.get("gateway_namespace") if isinstance(said, dict) else None
    if not isinstance(prefix, str):
        return
    owners: dict[str, str] = {}  # namespace -> owner
    engines: dict[tuple[str, str], str] = {}  # namespace and workload -> url
    for pool, entry in tree.entries("pools"):
        deploy = entry.get("deploy")
        if not isinstance(deploy, dict):
            continue
        place: Place = ("pools", pool, "deploy")
        owner = owner_of(pool, tree.root)
        if owner is None:
            yield tree.problem(
                place, "expected one tenant that uses this pool, or shared: true: whose engines are these?"
            )
            continue
        namespace = prefix + owner
        if len(namespace) > MAX_NAMESPACE or namespace == (gateway or "promptlane"):
            yield tree.problem(place, f"expected a namespace of its own, of at most {MAX_NAMESPACE} characters; "
                                      f"got {namespace[:80]!r}")  # fmt: skip
        elif owners.setdefault(namespace, owner) != owner or _two_kinds(owner, tree.root):
            yield tree.problem(place, f"expected a namespace of its own; {namespace!r} is also a tenant's")
        yield from _slices(tree, place, deploy)
        yield from _urls(tree, pool, entry, namespace)
        yield from _twice(tree, pool, entry, engines)
        yield from _found(tree, pool, entry, namespace)
        yield from _own_names(tree, pool, entry, namespace, engines)
        yield from _scales(tree, pool, entry, namespace)


def owner_of(pool: str, root: Mapping[str, Any]) -> str | None:
    """Whose engines a pool's are: a tenant's id, or `shared-…`. None where nobody uses it."""
    pools = _mapping(root.get("pools"))
    users = _users(pool, root)
    for other, entry in pools.items():  # what serves instead of another pool is used by that one's tenants
        if _mapping(_mapping(_mapping(entry).get("standby")).get("degraded")).get("pool") == pool:
            users += _users(other, root)
    if _mapping(pools.get(pool)).get("shared") in (True, "true"):
        return SHARED + slug(pool)
    return users[0] if len(set(users)) == 1 else None


def slug(name: str) -> str:
    """A name of the configuration as Kubernetes may have it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def workload_name(pool: str, role: str) -> str:
    """The Deployment of a pool's engines that are found: one a role. Begins with a letter, as a Service's must."""
    name = slug(pool)
    name = (name if name[:1].isalpha() else f"p-{name}")[: MAX_NAMESPACE - len("-warm")].rstrip("-")
    return name if role == "hot" else f"{name}-{role}"


def service_name(pool: str, discovery: Mapping[str, Any]) -> str:
    """The headless Service of engines that are found: the one that is looked up, or called as the pool."""
    dns = _mapping(discovery.get("dns"))
    asked = str(dns.get("srv") or dns.get("name") or "")
    return re.sub(r"^_[^.]*\._[^.]*\.", "", asked).partition(".")[0] or workload_name(pool, "hot")


def _two_kinds(owner: str, root: Mapping[str, Any]) -> bool:
    return owner.startswith(SHARED) and owner in _mapping(root.get("tenants"))


def _users(pool: str, root: Mapping[str, Any]) -> list[str]:
    tenants = _mapping(root.get("tenants"))
    return [
        tenant
        for tenant, entry in tenants.items()
        if any(_mapping(model).get("pool") == pool for model in _mapping(_mapping(entry).get("models")).values())
    ]


def _slices(tree: Tree, place: Place, deploy: Mapping[str, Any]) -> Iterator[Problem]:
    resource = deploy.get("resource", DEFAULT_RESOURCE)
    if isinstance(resource, str) and resource.endswith(TIME_SLICES) and deploy.get("own_nodes") in (False, "false"):
        message = "expected true: who shares a GPU by time slices shares its memory's fate, and its failures"
        yield tree.problem((*place, "own_nodes"), f"{message}; got false")


def _urls(tree: Tree, pool: str, entry: Mapping[str, Any], namespace: str) -> Iterator[Problem]:
    """A pool's endpoints are Services of its owner's namespace; the first label is the workload's name too."""
    for index, endpoint in enumerate(entry.get("endpoints") or ()):
        url = endpoint.get("url") if isinstance(endpoint, dict) else None
        if not isinstance(url, str):
            continue
        place = ("pools", pool, "endpoints", index, "url")
        if not re.fullmatch(rf"http://{DNS_LABEL}\.{namespace}\.svc(\.[a-z0-9.-]+)?:[0-9]+/?", url):
            message = f"expected http://NAME.{namespace}.svc:PORT, as pools.{pool}.deploy is given"
            yield tree.problem(place, f"{message}; got {shown(place, url)}")
        for key in ("kv_events_url", "kv_replay_url"):
            other = endpoint.get(key)
            if isinstance(other, str) and (urlsplit(other).hostname or "") != (urlsplit(url).hostname or ""):
                yield tree.problem((*place[:-1], key), f"expected the host of its url; got {shown(place, other)}")


def _twice(tree: Tree, pool: str, entry: Mapping[str, Any], engines: dict[tuple[str, str], str]) -> Iterator[Problem]:
    """One Service has several names (`.svc`, `.svc.cluster.local`) and ports: it is one engine all the same."""
    for index, endpoint in enumerate(entry.get("endpoints") or ()):
        url = endpoint.get("url") if isinstance(endpoint, dict) else None
        name, _, rest = (urlsplit(url).hostname or "").partition(".") if isinstance(url, str) else ("", "", "")
        if name and engines.setdefault((rest.partition(".")[0], name), str(url)) != url:
            place = ("pools", pool, "endpoints", index, "url")
            yield tree.problem(place, f"expected a Service of its own; another endpoint is {name} too")


def _found(tree: Tree, pool: str, entry: Mapping[str, Any], namespace: str) -> Iterator[Problem]:
    """What is found is looked for in the owner's namespace, where it is rendered."""
    discovery, place = _mapping(entry.get("discovery")), ("pools", pool, "discovery")
    if not discovery:
        if _mapping(entry.get("deploy")).get("engines") is not None:
            yield tree.problem(("pools", pool, "deploy", "engines"), "expected discovery: an endpoint is one engine")
        return
    if discovery.get("scheme") == "https":
        yield tree.problem((*place, "scheme"), "expected http, which the engines of `deploy` speak")
    said = _mapping(discovery.get("kubernetes")).get("namespace")
    if isinstance(said, str) and said != namespace:
        message = f"expected {namespace}, as pools.{pool}.deploy is given; got {said!r}"
        yield tree.problem((*place, "kubernetes", "namespace"), message)
    dns = _mapping(discovery.get("dns"))
    for key, before in (("name", ""), ("srv", "_http._tcp.")):
        name, there = dns.get(key), rf"{before}[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?\.{namespace}\.svc(\.[a-z0-9.-]+)?"
        if isinstance(name, str) and not re.fullmatch(there, name):
            message = f"expected {before}NAME.{namespace}.svc.CLUSTER-DOMAIN, as pools.{pool}.deploy is given"
            yield tree.problem((*place, "dns", key), f"{message}; got {name!r}")


def _own_names(
    tree: Tree, pool: str, entry: Mapping[str, Any], namespace: str, engines: dict[tuple[str, str], str]
) -> Iterator[Problem]:
    discovery, owner = _mapping(entry.get("discovery")), f"pools.{pool}.discovery"
    if not discovery:
        return
    names = [service_name(pool, discovery), *(workload_name(pool, role) for role in ("hot", "warm", "cold"))]
    for name in dict.fromkeys(names):
        if (other := engines.setdefault((namespace, name), owner)) != owner:
            text = f"expected names of its own; {name} of {namespace} is {other}'s"
            yield tree.problem(("pools", pool, "discovery"), text)
            return


def _scales(tree: Tree, pool: str, entry: Mapping[str, Any], namespace: str) -> Iterator[Problem]:
    """A hook scales what the gateway gets the right for: the pool's own cold engines."""
    endpoints = [one for one in entry.get("endpoints") or () if isinstance(one, dict) and one.get("role") == "cold"]
    cold = {(urlsplit(str(one.get("url"))).hostname or "").partition(".")[0] for one in endpoints}
    if entry.get("discovery") is not None:
        cold.add(workload_name(pool, "cold"))
    for hook in ("start", "stop"):
        scale = _mapping(_mapping(entry.get("standby")).get(hook)).get("scale")
        said = _mapping(scale)
        if scale is not None and (said.get("namespace") != namespace or said.get("name") not in cold
                                  or said.get("kind", "Deployment") != "Deployment"):  # fmt: skip
            place = ("pools", pool, "standby", hook, "scale")
            names = " or ".join(sorted(cold)) or "nothing, as none is cold"
            yield tree.problem(place, f"expected a cold endpoint of this pool in {namespace}: {names}")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
