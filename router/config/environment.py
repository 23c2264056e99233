"""What the environment says, laid over the file's tree: it wins, and each value is known by its variable.

Floor: variables in, changes of a `Tree` out; reads no variable but those handed in. A variable that cannot be read
becomes a `Problem` and the rest is read on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from router.config.models import Config
from router.config.problems import Place, Problem, dotted
from router.config.tree import Tree
from router.config.types import VARIABLE_NAME

MAX_VARIABLE_NAME = 256  # characters; bounds the nesting that a variable's name can ask for

PREFIX = "PROMPTLANE_"
NESTING = "__"
SHORT_VARIABLES = {"PROMPT_TOKEN_THRESHOLD": ("classify", "long_prompt_tokens")}
SECRET_VARIABLE = "PROMPTLANE_SECRET"  # noqa: S105 - the name of a variable, not a secret
SECRET_PATH = ("server", "secret")
AWARE_VARIABLE = "ENABLE_KV_AWARE_ROUTING"
PROFILE_PATH = ("routing", "profile")
BLIND_PROFILE = "least-outstanding"
NOT_KEYS = frozenset({SECRET_VARIABLE, "PROMPTLANE_CONFIG"})  # read elsewhere: below, and by the command line

# Kubernetes sets these in every pod beside a Service called `promptlane`; they are no attempt to configure us.
SERVICE_LINK = re.compile(r"PROMPTLANE(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT\w*|PORT_\d+_(TCP|UDP|SCTP)\w*)")
SERVICE_LINK_URL = re.compile(r"(tcp|udp|sctp)://")


class _Environment(BaseSettings, Config):
    """Names the keys for the environment reader; never instantiated, so no variable is read behind `load`'s back."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=NESTING)


def overlay(tree: Tree, environ: Mapping[str, str]) -> None:
    """Lays the environment over the file: the short variables first, then `PROMPTLANE_…`, longer names later.

    So the more exact name wins. An empty variable counts as unset, as Compose writes `${UNSET:-}`. Each variable is
    read on its own: one that is broken hides no other, and each value is known by the variable that set it.
    """
    for name, place in SHORT_VARIABLES.items():
        if value := environ.get(name):
            tree.put(place, value, name)
    _overlay_awareness(tree, environ.get(AWARE_VARIABLE, ""))
    ours = [name for name, value in environ.items() if value and name.upper().startswith(PREFIX)]
    for name in sorted(ours, key=lambda name: (name.count(NESTING), name)):
        if name.upper() not in NOT_KEYS and not _is_service_link(name, environ[name]):
            _overlay_one(tree, name, environ[name])
    if secret := environ.get(SECRET_VARIABLE):
        tree.put(SECRET_PATH, secret, SECRET_VARIABLE)


def _overlay_awareness(tree: Tree, value: str) -> None:
    word = value.strip().lower()
    if word in ("false", "0", "no", "off"):
        tree.put(PROFILE_PATH, BLIND_PROFILE, AWARE_VARIABLE)
    elif word not in ("", "true", "1", "yes", "on"):
        tree.problems.append(Problem(AWARE_VARIABLE, "expected true or false"))


def _is_service_link(name: str, value: str) -> bool:
    if NESTING in name:
        return False
    return bool(SERVICE_LINK.fullmatch(name) or (name.endswith("_PORT") and SERVICE_LINK_URL.match(value)))


def _overlay_one(tree: Tree, name: str, value: str) -> None:
    source = EnvSettingsSource(_Environment)
    source.env_vars = {name.lower(): value}
    try:
        said = source() if len(name) <= MAX_VARIABLE_NAME else {}
    except (SettingsError, RecursionError):
        tree.problems.append(Problem(name, 'expected JSON: a list as ["a", "b"], a mapping as {"key": 1}'))
        return
    if not said:
        tree.problems.append(Problem(dotted((name,)), "unknown variable: no key has this name"))
    for place, leaf in _leaves(said, ()):
        if place == SECRET_PATH:
            tree.problems.append(Problem(name, f"the secret is read from {SECRET_VARIABLE} only"))
        else:
            tree.put(place, None if leaf == "null" else leaf, dotted((name, *place[name.count(NESTING) + 1 :])))


def _leaves(node: Mapping[str, Any], place: Place) -> Iterator[tuple[Place, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*place, key))
        else:
            yield (*place, key), value


def fill_engine_keys(tree: Tree, environ: Mapping[str, str]) -> list[Problem]:
    """Reads each `engine_api_key_env` into its pool's `engine_api_key`; a variable that is not set is a mistake."""
    problems = []
    for pool, entry in tree.entries("pools"):
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


def fill_guard_keys(tree: Tree, environ: Mapping[str, str]) -> list[Problem]:
    """Reads each `api_key_env` of a guard's service into its `api_key`; a variable that is not set is a mistake."""
    problems = []
    for tenant, entry in tree.entries("tenants"):
        guards = entry.get("guards")
        for index, guard in enumerate(guards if isinstance(guards, list) else ()):
            service = guard.get("service") if isinstance(guard, dict) else None
            if not isinstance(service, dict):
                continue
            place: Place = ("tenants", tenant, "guards", index, "service")
            if service.get("api_key") is not None:
                problems.append(tree.problem((*place, "api_key"), "expected api_key_env: no key stands in the file"))
            variable = service.get("api_key_env")
            if not isinstance(variable, str) or not re.fullmatch(VARIABLE_NAME, variable):
                continue
            if environ.get(variable):
                service["api_key"] = environ[variable]
                tree.variables[(*place, "api_key")] = variable
            else:
                message = "expected the name of an environment variable that is set"
                problems.append(tree.problem((*place, "api_key_env"), message))
    return problems
