"""What must hold between values: ports, hosts, keys, names and engines that meet only in the whole.

Floor: works on the raw tree, not on models, so it runs even where single values are wrong and everything is told at
once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from policies.parts import COSTLESS, PICKERS
from policies.registry import DEFAULT_PICKER
from router.config.deploy_checks import deploy_checks
from router.config.discovery_checks import discovery_checks
from router.config.lanes import LanesConfig
from router.config.problems import Place, Problem, dotted
from router.config.server import DEFAULT_ADMIN_PORT, DEFAULT_PORT
from router.config.tenants import DEFAULT_TIER, DEFAULT_TIERS
from router.config.tree import Tree
from router.config.types import KNOWN_PROFILES, engine_url
from router.config.words import did_you_mean, shown

_LAST_PORT = 65535


def cross_check(tree: Tree) -> list[Problem]:
    """Every mistake that no single value shows. Values of a wrong type are skipped here: validation tells them."""
    root = tree.root
    tiers = [*DEFAULT_TIERS, *(name for name in _mapping(root.get("tiers")) if name not in DEFAULT_TIERS)]
    checks = (_server(tree), _tiers(tree, tiers), _hosts(tree), _access(tree), _keys(tree), deploy_checks(tree))
    more = (_scopes(tree), _pools(tree), _endpoints(tree), _profiles(tree), _costs(tree), _lanes(tree))
    last = (
        _kv_events(tree),
        _standbys(tree),
        _hooks(tree),
        _money(tree),
        _links(tree),
        discovery_checks(tree),
        _caches(tree),
    )
    return [problem for check in (*checks, *more, *last) for problem in check]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _true(value: object) -> bool:
    return (
        value is True
        or value == 1
        or (isinstance(value, str) and value.lower() in ("true", "1", "yes", "y", "on", "t"))
    )


def _server(tree: Tree) -> Iterator[Problem]:
    server = _mapping(tree.root.get("server"))
    port, admin_port = str(server.get("port", DEFAULT_PORT)), str(server.get("admin_port", DEFAULT_ADMIN_PORT))
    if port == admin_port and port.isdecimal() and port != "0":
        here, other = ("admin_port", "port") if "admin_port" in server else ("port", "admin_port")
        yield tree.problem(
            ("server", here), f"expected another port than server.{other}; got {shown((), port)} for both"
        )
    cors = _mapping(server.get("cors"))
    if "*" in _list(cors.get("allow_origins")) and _true(cors.get("allow_credentials")):
        message = "expected false, or origins by name: browsers refuse credentials for '*'"
        yield tree.problem(("server", "cors", "allow_credentials"), message)


def _links(tree: Tree) -> Iterator[Problem]:
    """Each worker that is a replica through Redis has a port of its own, counted up from the first."""
    workers = _number(_mapping(tree.root.get("server")).get("workers", 1))
    if workers is None or _mapping(tree.root.get("state")).get("redis_url") is None:
        return
    replicas = _mapping(tree.root.get("replicas"))
    for key in ("listen", "advertise"):
        port = str(replicas.get(key, "")).rpartition(":")[2]
        if port.isdecimal() and 0 < int(port) <= _LAST_PORT < int(port) + workers - 1:
            place: Place = ("replicas", key)
            message = f"expected a port of at most {_LAST_PORT + 1 - int(workers)}: each of server.workers has the next"
            yield tree.problem(place, f"{message}; got {shown(place, replicas[key])}")


def _caches(tree: Tree) -> Iterator[Problem]:
    if _mapping(tree.root.get("state")).get("redis_url") is not None:
        return
    for tenant, entry in tree.entries("tenants"):
        if _mapping(entry.get("cache")).get("store") == "redis":
            place: Place = ("tenants", tenant, "cache", "store")
            yield tree.problem(place, "expected memory, or state.redis_url: there is no Redis")


def _tiers(tree: Tree, tiers: list[str]) -> Iterator[Problem]:
    for tenant, entry in tree.entries("tenants"):
        tier = entry.get("tier", DEFAULT_TIER)
        if isinstance(tier, str) and tier not in tiers:
            place = ("tenants", tenant, "tier")
            yield tree.problem(place, f"expected one of {', '.join(tiers)}; got {shown(place, tier)}")


def _hosts(tree: Tree) -> Iterator[Problem]:
    """A host belongs to one tenant. `<id>.<base_domain>` is claimed first: it is nobody else's whatever the order."""
    base = _mapping(tree.root.get("server")).get("base_domain")
    owners: dict[str, str] = {}
    if isinstance(base, str):
        owners = {f"{tenant}.{base}".lower(): tenant for tenant, _ in tree.entries("tenants")}
    for tenant, entry in tree.entries("tenants"):
        for index, host in enumerate(_list(entry.get("hosts"))):
            if isinstance(host, str) and (owner := owners.setdefault(host.lower(), tenant)) != tenant:
                place = ("tenants", tenant, "hosts", index)
                yield tree.problem(place, f"expected a host of this tenant alone; {shown(place, host)} is {owner}'s")


def _access(tree: Tree) -> Iterator[Problem]:
    reachable = _mapping(tree.root.get("server")).get("base_domain") is not None
    at_run_time = _mapping(tree.root.get("keys")).get("at_run_time")
    makes_keys = _true(at_run_time) or (
        at_run_time is None and _mapping(tree.root.get("state")).get("ledger_url") is not None
    )
    for tenant, entry in tree.entries("tenants"):
        anonymous = _true(entry.get("anonymous"))
        if not anonymous and not makes_keys and entry.get("api_keys") in (None, []):
            message = "expected api_keys (promptlane keys create makes one) or anonymous: true; nobody could use it"
            yield tree.problem(("tenants", tenant), message)
        if anonymous and not reachable and entry.get("hosts") in (None, []):
            place = ("tenants", tenant, "anonymous")
            yield tree.problem(place, "expected hosts, or server.base_domain: without a key only a host names a tenant")


def _all_keys(tree: Tree) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    for tenant, entry in tree.entries("tenants"):
        for index, key in enumerate(_list(entry.get("api_keys"))):
            if isinstance(key, dict):
                yield ("tenants", tenant, "api_keys", index), key


def _keys(tree: Tree) -> Iterator[Problem]:
    hashes: dict[str, Place] = {}
    ids: dict[tuple[Any, str], Place] = {}
    for place, key in _all_keys(tree):
        digest, name = key.get("sha256"), key.get("id")
        if isinstance(digest, str) and (first := hashes.setdefault(digest.lower(), place)) != place:
            yield tree.problem((*place, "sha256"), f"expected a key of its own; {dotted(first)} is the same key")
        if isinstance(name, str) and (first := ids.setdefault((place[1], name), place)) != place:
            yield tree.problem((*place, "id"), f"expected an id of its own; {dotted(first)} has the same")


def _scopes(tree: Tree) -> Iterator[Problem]:
    for place, key in _all_keys(tree):
        models = _mapping(_mapping(tree.root["tenants"]).get(str(place[1]), {}).get("models"))
        for index, model in enumerate(_list(key.get("models"))):
            if isinstance(model, str) and model not in models:
                here = (*place, "models", index)
                near = did_you_mean(model, models)
                yield tree.problem(here, f"expected a model of this tenant; got {shown(here, model)}{near}")


def _money(tree: Tree) -> Iterator[Problem]:
    """A limit of money counts by prices or by the engines' time: a model without either would be free."""
    for tenant, entry in tree.entries("tenants"):
        models = {name: _mapping(model) for name, model in _mapping(entry.get("models")).items()}
        keys = [(("api_keys", at), _mapping(key)) for at, key in enumerate(_list(entry.get("api_keys")))]
        owners: list[tuple[Place, Mapping[str, Any], list[str]]] = [((), entry, list(models))]
        owners += [(place, key, _list(key.get("models")) or list(models)) for place, key in keys]
        owners += [(("models", name), model, [name]) for name, model in models.items()]
        for above, owner, counted in owners:
            if _mapping(owner.get("limits")).get("money_per_month") is None:
                continue
            for name in counted:
                if (
                    name in models
                    and models[name].get("prices") is None
                    and not _has_costs(tree, models[name].get("pool"))
                ):
                    place = ("tenants", tenant, *above, "limits", "money_per_month")
                    yield tree.problem(
                        place,
                        f"expected prices of model {name}, or an hourly_cost of all endpoints of its pool: without "
                        "either it costs nothing",
                    )


def _has_costs(tree: Tree, pool: object) -> bool:
    """Whether every endpoint of the pool has an hourly cost."""
    found = _mapping(tree.root.get("pools")).get(pool) if isinstance(pool, str) else None
    endpoints = _list(_mapping(found).get("endpoints"))
    discovery = _mapping(found).get("discovery")
    sources = [*endpoints, *([discovery] if discovery is not None else [])]
    return bool(sources) and all(_mapping(one).get("hourly_cost") for one in sources)


def _pools(tree: Tree) -> Iterator[Problem]:
    pools = _mapping(tree.root.get("pools"))
    users: dict[str, dict[str, None]] = {}  # a mapping keeps the order that a set loses
    for tenant, entry in tree.entries("tenants"):
        for model, route in _mapping(entry.get("models")).items():
            pool = _mapping(route).get("pool")
            if not isinstance(pool, str):
                continue
            users.setdefault(pool, {})[tenant] = None
            if pool not in pools:
                place = ("tenants", tenant, "models", model, "pool")
                near = did_you_mean(pool, pools)
                yield tree.problem(place, f"expected the name of a pool; got {shown(place, pool)}{near}")
    for pool, tenants in users.items():
        if len(tenants) > 1 and pool in pools and not _true(_mapping(pools[pool]).get("shared")):
            message = f"expected one tenant, or shared: true; tenants {', '.join(tenants)} name this pool"
            yield tree.problem(("pools", pool), message)


def _endpoints(tree: Tree) -> Iterator[Problem]:
    """Names are unique everywhere, being metric labels; an engine stands in one pool, once: its load is one number."""
    names: dict[str, Place] = {}
    urls: dict[str, Place] = {}
    for pool, entry in tree.entries("pools"):
        for index, endpoint in enumerate(_list(entry.get("endpoints"))):
            place: Place = ("pools", pool, "endpoints", index)
            name, url = _mapping(endpoint).get("name"), _mapping(endpoint).get("url")
            if isinstance(name, str) and (first := names.setdefault(name, place)) != place:
                yield tree.problem((*place, "name"), f"expected a name of its own; {dotted(first)} has the same")
            if isinstance(url, str) and (first := urls.setdefault(_one_spelling(url), place)) != place:
                if first[1] != pool and _warm(tree, first) and _warm(tree, place):
                    continue  # pools may share it: one has it at a time
                message = f"expected an engine of its own; {dotted(first)} has the same url"
                yield tree.problem((*place, "url"), f"{message}: one engine serves one pool, unless as warm standby")


def _warm(tree: Tree, place: Place) -> bool:
    pool = _mapping(_mapping(tree.root["pools"]).get(str(place[1])))
    return _mapping(_list(pool.get("endpoints"))[int(place[3])]).get("role") == "warm"


def _standbys(tree: Tree) -> Iterator[Problem]:
    """What serves instead of a pool is nobody else's: a shared pool, or one of the same tenant."""
    pools = _mapping(tree.root.get("pools"))
    users: dict[str, set[str]] = {}
    for tenant, entry in tree.entries("tenants"):
        for route in _mapping(entry.get("models")).values():
            users.setdefault(str(_mapping(route).get("pool")), set()).add(tenant)
    for pool, entry in tree.entries("pools"):
        other = _mapping(_mapping(entry.get("standby")).get("degraded")).get("pool")
        if not isinstance(other, str):
            continue
        place: Place = ("pools", pool, "standby", "degraded", "pool")
        if other == pool or other not in pools:
            near = did_you_mean(other, [name for name in pools if name != pool])
            yield tree.problem(place, f"expected the name of another pool; got {shown(place, other)}{near}")
        elif (
            not _true(_mapping(pools[other]).get("shared"))
            and len(users.get(pool, set()) | users.get(other, set())) > 1
        ):
            message = "expected a pool with shared: true, or one that only this pool's tenant uses"
            yield tree.problem(place, f"{message}; got {shown(place, other)}")


def _hooks(tree: Tree) -> Iterator[Problem]:
    """A hook is a command or a URL, and starts something."""
    for pool, entry in tree.entries("pools"):
        standby = _mapping(entry.get("standby"))
        for name in ("start", "stop"):
            hook = standby.get(name)
            ways = [_mapping(hook).get(way) for way in ("command", "url", "scale")]
            if isinstance(hook, dict) and ways.count(None) != len(ways) - 1:
                yield tree.problem(("pools", pool, "standby", name), "expected command, url or scale, one of them")
        roles = {_mapping(one).get("role") for one in _list(entry.get("endpoints"))}
        found = _mapping(entry.get("discovery"))
        if found.get("kubernetes") is not None or found.get("role") == "cold":
            continue  # the one that is started is found
        if standby.get("start") is not None and "cold" not in roles:
            yield tree.problem(("pools", pool, "standby", "start"), "expected an endpoint with role: cold, to start")


def _kv_events(tree: Tree) -> Iterator[Problem]:
    """A pool that goes by KV events hears each of its engines, and nobody takes another's cache for its own."""
    heard: dict[str, Place] = {}
    for pool, entry in tree.entries("pools"):
        for index, endpoint in enumerate(_list(entry.get("endpoints"))):
            place: Place = ("pools", pool, "endpoints", index)
            if _true(entry.get("kv_events")) and isinstance(endpoint, dict) and endpoint.get("kv_events_url") is None:
                yield tree.problem((*place, "kv_events_url"), f"missing; expected one, as pools.{pool}.kv_events is on")
            for key in ("kv_events_url", "kv_replay_url"):
                url = _mapping(endpoint).get(key)
                if isinstance(url, str) and (first := heard.setdefault(url.lower(), (*place, key))) != (*place, key):
                    yield tree.problem((*place, key), f"expected an address of its own; {dotted(first)} is the same")


def _lanes(tree: Tree) -> Iterator[Problem]:
    """A lane's least share is no more than its largest; one that is not given has its default."""
    for lane, entry in tree.entries("lanes"):
        field = LanesConfig.model_fields.get(lane)
        if field is None:
            continue
        least, most = (_number(entry.get(key, getattr(field.default, key))) for key in ("min_share", "max_share"))
        if least is not None and most is not None and least > most:
            here, other = ("min_share", "max_share") if "min_share" in entry else ("max_share", "min_share")
            relation, bound = ("at most", most) if here == "min_share" else ("at least", least)
            place = ("lanes", lane, here)
            message = f"expected {relation} {other}, which is {bound:.15g}; got {shown(place, entry[here])}"
            yield tree.problem(place, message)


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, str | int | float) else None
    except (ValueError, OverflowError):
        return None


def _profiles(tree: Tree) -> Iterator[Problem]:
    """Whoever names a profile means one of ours or one of the file's own; none has two meanings."""
    own = _own_profiles(tree)
    known = list(dict.fromkeys([*KNOWN_PROFILES, *own]))
    for name in own:
        if name in KNOWN_PROFILES:
            yield tree.problem(("routing", "profiles", name), "expected a name of its own; this one is Promptlane's")
    places: list[tuple[Place, Mapping[str, Any]]] = [(("routing",), _mapping(tree.root.get("routing")))]
    places += [(("pools", pool), entry) for pool, entry in tree.entries("pools")]
    for above, section in places:
        place, said = (*above, "profile"), section.get("profile")
        if isinstance(said, str) and said not in known:
            near = did_you_mean(said, known)
            yield tree.problem(place, f"expected one of {', '.join(known)}; got {shown(place, said)}{near}")


def _costs(tree: Tree) -> Iterator[Problem]:
    """A picker that chooses by cost needs some. Which pickers there are is told by validation."""
    for name, entry in _own_profiles(tree).items():
        picker = _mapping(entry).get("picker", DEFAULT_PICKER)
        names = [picker] if isinstance(picker, str) else list(_mapping(picker))
        costly = names and names[0] in PICKERS and names[0] not in COSTLESS
        if costly and isinstance(entry, dict) and not entry.get("scorers"):
            place = ("routing", "profiles", name, "scorers")
            yield tree.problem(place, f"missing; expected at least one: {names[0]} chooses by cost")


def _own_profiles(tree: Tree) -> Mapping[str, Any]:
    return _mapping(_mapping(tree.root.get("routing")).get("profiles"))


def _one_spelling(url: str) -> str:
    try:
        return engine_url(url)
    except ValueError:
        return url
