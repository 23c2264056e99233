"""What a value must look like, what must hold between values, and how a mistake is said.

Floor: works on the raw tree of `config_yaml` and on model classes handed in; imports none. So what holds between
values is checked even where single values are wrong, and everything is told at once. A message shows the value it
found unless that value could be a secret.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from router.config_yaml import Place, Problem, Tree, dotted

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_PORT = 8080
DEFAULT_ADMIN_PORT = 9090
DEFAULT_TIER = "silver"

MAX_SHOWN = 60  # characters of a wrong value that a message repeats
MAX_CANDIDATES = 200  # names searched for a near miss; the search is quadratic in what it compares
UNSAID = 2**40  # upper bounds from here on keep arithmetic exact and help nobody as part of a message
# Keys whose values, and everything below them, no message repeats. URLs of stores carry passwords; a person may paste
# the key itself where the name of its variable belongs.
HIDDEN = frozenset({"secret", "api_keys", "engine_api_key", "engine_api_key_env", "redis_url", "ledger_url"})
SHOWN_UNDER_HIDDEN = frozenset({"models", "apis", "expires"})

VARIABLE_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,255}"
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_URL_TEXT = re.compile(r"[\x21-\x7e]{1,2048}")  # `urlsplit` silently drops tabs and newlines: refuse them before


@dataclass(frozen=True, slots=True)
class Expect:
    """Stands in an `Annotated` type and says in a few words what it accepts; messages and the docs both print it."""

    text: str


# --- single values: each returns the normal form or raises ValueError, whose text nobody sees (see `Expect`) ---


def host_name(text: str) -> str:
    """A lower-case DNS name or IPv4 address, without port."""
    host = text.lower()
    if not _HOST.fullmatch(host):
        raise ValueError
    return host


def engine_url(text: str) -> str:
    """`http(s)://host[:port][/path]` in one spelling: equal URLs are equal texts. No query, fragment or user info."""
    if not _URL_TEXT.fullmatch(text):
        raise ValueError
    parts = urlsplit(text)
    host, port = parts.hostname or "", parts.port  # `port` raises ValueError on a bad number
    if parts.scheme not in ("http", "https") or "?" in text or "#" in text or "@" in parts.netloc or port == 0:
        raise ValueError
    name = f"[{ipaddress.IPv6Address(host)}]" if "[" in parts.netloc else host_name(host)
    standard = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{name}{'' if port in (None, standard) else f':{port}'}{parts.path.rstrip('/')}"


def origin(text: str) -> str:
    """What a browser sends as Origin, or `*`."""
    if text == "*":
        return text
    normal = engine_url(text)
    if urlsplit(text).path:
        raise ValueError
    return normal


def network(value: object) -> Network:
    """An IP network; one address is a network of one. Host bits that are set point to a typing error."""
    if not isinstance(value, str | ipaddress.IPv4Network | ipaddress.IPv6Network):
        raise ValueError
    return ipaddress.ip_network(value)


def moment(value: object) -> datetime | None:
    """An aware time; a bare date is its first moment, 00:00 UTC."""
    if value is None:
        return None
    if isinstance(value, str):
        value = date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(), UTC)
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ValueError
    return value


def no_bool(value: object) -> object:
    """YAML's `yes` is no number, though Python's True is 1."""
    if isinstance(value, bool):
        raise ValueError
    return value


# --- saying what is expected ---


def describe(hint: object) -> str:
    """A type in words: `a whole number from 0 to 65535`, `one of hot, warm, cold`, `null or text`."""
    kind, notes = _unwrap(hint)
    for note in notes:
        if isinstance(note, Expect):
            return note.text
    if get_origin(kind) in (Union, UnionType):
        return f"null or {' or '.join(describe(inner) for inner in get_args(kind) if inner is not type(None))}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        least = " of at least one" if any(isinstance(note, MinLen) for note in notes) else ""
        return f"a list{least}, each {describe(get_args(kind)[0])}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(member.value for member in kind)}"
    if kind in (int, float):
        return ("a whole number" if kind is int else "a number") + _bounds(notes)
    if get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return "a mapping"
    return "true or false" if kind is bool else "text"


def _unwrap(hint: object) -> tuple[object, tuple[object, ...]]:
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        return kind, tuple(notes)
    return hint, ()


def _bounds(notes: Iterable[object]) -> str:
    words = []
    for note in notes:
        if isinstance(note, Ge):
            words.append(f"from {note.ge:.15g}")
        elif isinstance(note, Gt):
            words.append(f"above {note.gt:.15g}")
        elif isinstance(note, Le) and isinstance(note.le, int | float) and note.le < UNSAID:
            words.append(f"to {note.le:.15g}")
    return f" {' '.join(words)}" if words else ""


def hint_at(model: object, place: Place) -> object:
    """The type that the schema gives to `place`; None where the schema has no such place."""
    hint = model
    for part in place:
        kind, _ = _unwrap(hint)
        inner = [_unwrap(choice)[0] for choice in get_args(kind) if choice is not type(None)]
        if get_origin(kind) in (Union, UnionType) and len(inner) == 1:
            kind = inner[0]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found = kind.model_fields.get(str(part))
            hint = found.rebuild_annotation() if found else None
        elif get_origin(kind) is dict:
            hint = get_args(kind)[0 if part == "[key]" else 1]
        else:
            hint = get_args(kind)[0] if get_origin(kind) is tuple else None
    return hint


def explain(error: ValidationError, model: type[BaseModel], tree: Tree) -> list[Problem]:
    """Every error of a validation, in our words.

    A list that has items is no short one: pydantic counts only the valid ones, and the others are told themselves.
    """
    errors = error.errors(include_url=False, include_context=False)
    return [_explain_one(one, model, tree) for one in errors if one["type"] != "too_short" or not one["input"]]


def _explain_one(error: ErrorDetails, model: type[BaseModel], tree: Tree) -> Problem:
    place = error["loc"]
    if error["type"] == "extra_forbidden":
        return tree.problem(place, _unknown_key(str(place[-1]), hint_at(model, place[:-1])))
    if place and place[-1] == "[key]":
        expected = describe(_key_hint(model, place[:-2]))
        return tree.problem(place[:-1], f"expected {expected}; got {shown((), error['input'])}")
    expected = describe(hint_at(model, place))
    if error["type"] == "missing":
        return tree.problem(place, f"missing; expected {expected}")
    return tree.problem(place, f"expected {expected}; got {shown(place, error['input'], expected)}")


def _key_hint(model: type[BaseModel], place: Place) -> object:
    kind, _ = _unwrap(hint_at(model, place))
    return get_args(kind)[0] if get_origin(kind) is dict else str


def _unknown_key(key: str, parent: object) -> str:
    kind, _ = _unwrap(parent)
    models = [part for part in (kind, *get_args(kind)) if isinstance(part, type) and issubclass(part, BaseModel)]
    known = list(models[0].model_fields) if models else []
    return "unknown key" + (did_you_mean(key, known) or f"; expected one of {', '.join(known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'port'?`, or nothing where no known name is near or there are too many to search."""
    candidates = list(known)
    if len(candidates) > MAX_CANDIDATES or len(name) > MAX_SHOWN:
        return ""
    near = difflib.get_close_matches(name, candidates, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def shown(place: Place, value: object, expected: str = "") -> str:
    """A found value for a message. Hidden: what stands at a secret's place, or has a URL's user info or query."""
    kind = _kind(value)
    if not isinstance(value, str | int | float | date):
        return kind
    words = [part for part in place if isinstance(part, str)]
    private = any(word in HIDDEN for word in words) and words[-1] not in SHOWN_UNDER_HIDDEN
    if private or (isinstance(value, str) and re.search("[@?]", value)):
        return f"{kind} (not shown)"
    if re.match("(null or )?a (list|mapping)", expected):
        return kind  # the shape is wrong; what a whole section's place holds may be anything
    text = str(value) if isinstance(value, date) else repr(value)
    text = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    return text.encode("utf-8", "backslashreplace").decode()


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if value == []:
        return "an empty list"
    for kind, words in ((str, "text"), (bool, "true or false"), (int | float, "a number"), (list, "a list")):
        if isinstance(value, kind):
            return words
    return "a mapping" if isinstance(value, dict) else "a date"


# --- what must hold between values ---


def cross_check(tree: Tree, default_tiers: Iterable[str]) -> list[Problem]:
    """Every mistake that no single value shows. Values of a wrong type are skipped here: validation tells them."""
    root = tree.root
    tiers = [*default_tiers, *(name for name in _mapping(root.get("tiers")) if name not in set(default_tiers))]
    checks = (_server(tree), _tiers(tree, tiers), _hosts(tree), _access(tree), _keys(tree))
    return [problem for check in (*checks, _scopes(tree), _pools(tree), _endpoints(tree)) for problem in check]


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


def _entries(tree: Tree, section: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, entry in _mapping(tree.root.get(section)).items():
        if isinstance(entry, dict):
            yield name, entry


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


def _tiers(tree: Tree, tiers: list[str]) -> Iterator[Problem]:
    for tenant, entry in _entries(tree, "tenants"):
        tier = entry.get("tier", DEFAULT_TIER)
        if isinstance(tier, str) and tier not in tiers:
            place = ("tenants", tenant, "tier")
            yield tree.problem(place, f"expected one of {', '.join(tiers)}; got {shown(place, tier)}")


def _hosts(tree: Tree) -> Iterator[Problem]:
    """A host belongs to one tenant. `<id>.<base_domain>` is claimed first: it is nobody else's whatever the order."""
    base = _mapping(tree.root.get("server")).get("base_domain")
    owners: dict[str, str] = {}
    if isinstance(base, str):
        owners = {f"{tenant}.{base}".lower(): tenant for tenant, _ in _entries(tree, "tenants")}
    for tenant, entry in _entries(tree, "tenants"):
        for index, host in enumerate(_list(entry.get("hosts"))):
            if isinstance(host, str) and (owner := owners.setdefault(host.lower(), tenant)) != tenant:
                place = ("tenants", tenant, "hosts", index)
                yield tree.problem(place, f"expected a host of this tenant alone; {shown(place, host)} is {owner}'s")


def _access(tree: Tree) -> Iterator[Problem]:
    reachable = _mapping(tree.root.get("server")).get("base_domain") is not None
    for tenant, entry in _entries(tree, "tenants"):
        anonymous = _true(entry.get("anonymous"))
        if not anonymous and entry.get("api_keys") in (None, []):
            message = "expected api_keys (promptlane keys create makes one) or anonymous: true; nobody could use it"
            yield tree.problem(("tenants", tenant), message)
        if anonymous and not reachable and entry.get("hosts") in (None, []):
            place = ("tenants", tenant, "anonymous")
            yield tree.problem(place, "expected hosts, or server.base_domain: without a key only a host names a tenant")


def _all_keys(tree: Tree) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    for tenant, entry in _entries(tree, "tenants"):
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


def _pools(tree: Tree) -> Iterator[Problem]:
    pools = _mapping(tree.root.get("pools"))
    users: dict[str, dict[str, None]] = {}  # a mapping keeps the order that a set loses
    for tenant, entry in _entries(tree, "tenants"):
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
    for pool, entry in _entries(tree, "pools"):
        for index, endpoint in enumerate(_list(entry.get("endpoints"))):
            place: Place = ("pools", pool, "endpoints", index)
            name, url = _mapping(endpoint).get("name"), _mapping(endpoint).get("url")
            if isinstance(name, str) and (first := names.setdefault(name, place)) != place:
                yield tree.problem((*place, "name"), f"expected a name of its own; {dotted(first)} has the same")
            if isinstance(url, str) and (first := urls.setdefault(_one_spelling(url), place)) != place:
                message = f"expected an engine of its own; {dotted(first)} has the same url"
                yield tree.problem((*place, "url"), f"{message}: one engine serves one pool, as one endpoint")


def _one_spelling(url: str) -> str:
    try:
        return engine_url(url)
    except ValueError:
        return url


def fill_engine_keys(tree: Tree, environ: Mapping[str, str]) -> list[Problem]:
    """Reads each `engine_api_key_env` into its pool's `engine_api_key`; a variable that is not set is a mistake."""
    problems = []
    for pool, entry in _entries(tree, "pools"):
        place, variable = ("pools", pool, "engine_api_key_env"), entry.get("engine_api_key_env")
        if not isinstance(variable, str) or not re.fullmatch(VARIABLE_NAME, variable):
            continue
        if entry.get("engine_api_key") is not None:
            problems.append(tree.problem(place, "expected engine_api_key or engine_api_key_env, not both"))
        elif environ.get(variable):
            tree.put(("pools", pool, "engine_api_key"), environ[variable], variable)
        else:
            problems.append(tree.problem(place, "expected the name of an environment variable that is set"))
    return problems
