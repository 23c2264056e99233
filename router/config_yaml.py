"""Where configuration comes from: one YAML file and the environment, as one tree that knows where each value stands.

Floor: bytes and variables in, plain dicts and lists out. Knows no schema (the environment reader is handed one) and
never stops at the first mistake: what cannot be read becomes a `Problem` and the rest is read on. No message repeats
a value of the file, so none can leak a secret.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

MAX_FILE_BYTES = 16 * 1024 * 1024  # a log or an image named by mistake must not fill the memory
MAX_NODES = 500_000  # about 7,000 tenants with a pool each; aliases count as often as they are used (billion laughs)
MAX_DEPTH = 64  # the schema needs 7; far below the interpreter's recursion limit
MAX_KEY_SHOWN = 80  # characters of a key that a message repeats
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

Place = tuple[str | int, ...]  # ("pools", "a", "endpoints", 1, "url")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same reader in C, about ten times as fast
_MAP, _SEQUENCE, _MERGE = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:merge")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `path` is a dotted path, a variable or a file; `line` counts from 1, None outside the file."""

    path: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        where = self.path if self.line is None else f"{self.path} (line {self.line})"
        return f"{where}: {self.message}"


def dotted(place: Place) -> str:
    """`pools.a.endpoints[1].url`. Keys are cut and escaped where a terminal could not show them."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = part if part.isprintable() and 0 < len(part) <= MAX_KEY_SHOWN else ascii(part[:MAX_KEY_SHOWN])
            text += f".{plain}" if text else plain
    return text


@dataclass(slots=True)
class Tree:
    """Everything that was said, before anybody asks whether it makes sense. `load` owns and changes it."""

    name: str
    root: dict[str, Any] = field(default_factory=dict)
    lines: dict[Place, int] = field(default_factory=dict)
    variables: dict[Place, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)  # paths told already; what validation says there is an echo
    readable: bool = True

    def problem(self, place: Place, message: str) -> Problem:
        """The problem at `place`, named by the nearest source above it: a variable, or a path and its line."""
        for length in range(len(place), 0, -1):
            above = place[:length]
            if variable := self.variables.get(above):
                return Problem(dotted((variable, *place[length:])), message)
            if line := self.lines.get(above):
                return Problem(dotted(place), message, line)
            if variable := next((name for set_, name in self.variables.items() if set_[:length] == above), None):
                return Problem(variable, f"{dotted(place)}: {message}")
        return Problem(dotted(place) or self.name, message)

    def refuse(self, place: Place, message: str, line: int) -> None:
        """Notes a mistake of the text itself; later mistakes at or below `place` follow from it and are dropped."""
        self.refused.add(dotted(place))
        self.problems.append(Problem(dotted(place) or self.name, message, line))

    def put(self, place: Place, value: object, variable: str) -> None:
        """Sets a value from the environment. Where the file has a scalar for a section, its own mistake stands.

        `variable` is how messages call the value's source.
        """
        *sections, last = place
        node, real = self.root, []
        for part in sections:
            key = _same_key(str(part), node)
            if node.get(key) is None:
                node[key] = {}
            node = node[key]
            real.append(key)
            if not isinstance(node, dict):
                return
        key = _same_key(str(last), node)
        there = (*real, key)
        if isinstance(node.get(key), dict | list):  # lines of what is replaced say nothing of what replaces it
            self.lines = {known: line for known, line in self.lines.items() if known[: len(there)] != there}
        node[key] = value
        self.variables[there] = variable


class _Unreadable(Exception):
    """The file as a whole cannot be used."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def read_file(path: Path) -> bytes | Problem:
    """The file's bytes, at most `MAX_FILE_BYTES` of them, or why there are none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return Problem(str(path), f"cannot read the file: {error.strerror or type(error).__name__}")
    except ValueError:  # a NUL character in the name
        return Problem(ascii(str(path)), "cannot read the file: not a file name")
    if len(data) > MAX_FILE_BYTES:
        return Problem(str(path), f"the file is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")
    return data


def parse(data: bytes, name: str) -> Tree:
    """YAML to a tree. Mistakes are in `tree.problems`; not `tree.readable`: the file cannot be used at all."""
    tree = Tree(name)
    try:
        root = _compose(data)
        if not isinstance(root, yaml.MappingNode):
            raise _Unreadable(f"expected a mapping of server, tenants, pools, …; got {_kind(root)}", _line(root))
        _Reader(tree).read(root)
    except _Unreadable as error:
        tree.readable = False
        tree.problems.append(Problem(name, error.message, error.line))
    return tree


def _compose(data: bytes) -> yaml.Node:
    """One document's nodes, with a bounded count and depth; raises `_Unreadable`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unreadable("the file is not UTF-8 text", data.count(b"\n", 0, error.start) + 1) from None
    try:
        _bound(text)
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise _Unreadable(f"not valid YAML: {_told(error)}", line) from None
    except yaml.reader.ReaderError as error:
        # The C reader counts bytes and the Python one characters: the line is right for ASCII and close otherwise.
        raise _Unreadable("not valid YAML: a control character", text.count("\n", 0, error.position) + 1) from None
    if node is None:
        raise _Unreadable("the file is empty")
    return node


def _told(error: yaml.MarkedYAMLError) -> str:
    """The reader's words without names of the file: what looks like an alias may be an unquoted secret."""
    words = ", ".join(part for part in (error.context, error.problem) if part)
    return re.sub(r"((?:undefined alias|duplicate anchor|tag handle)).*", r"\1", words)


def _bound(text: str) -> None:
    """Events are read without recursion, so this is safe on any nesting and comes before anything that recurses."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _Unreadable(f"nested deeper than {MAX_DEPTH} levels", _line(event))
        if count > 2 * MAX_NODES:
            raise _Unreadable(f"more than {MAX_NODES} values", _line(event))


class _Reader:
    """Turns composed nodes into values and remembers their lines."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._constructor = yaml.constructor.SafeConstructor()
        self._sizes: dict[int, tuple[int, int]] = {}  # id(node) -> values and depth with every alias written out
        self._open: set[int] = set()

    def read(self, root: yaml.MappingNode) -> None:
        size, depth = self._survey(root, ())
        if size > MAX_NODES or depth > MAX_DEPTH:
            raise _Unreadable(f"aliases write out to more than {MAX_NODES} values or {MAX_DEPTH} levels")
        self._tree.root = self._mapping(root, ())

    def _survey(self, node: yaml.Node, place: Place) -> tuple[int, int]:
        """Size and depth of what `node` writes out to; finds cycles and keys that stand twice, before merging."""
        if id(node) in self._open:
            raise _Unreadable("an alias contains itself", _line(node))
        if id(node) not in self._sizes:
            self._open.add(id(node))
            inside = [self._survey(child, below) for child, below in self._children(node, place)]
            self._open.discard(id(node))
            size = 1 + sum(size for size, _ in inside)
            self._sizes[id(node)] = (size, 1 + max((depth for _, depth in inside), default=0))
        return self._sizes[id(node)]

    def _children(self, node: yaml.Node, place: Place) -> Iterator[tuple[yaml.Node, Place]]:
        if isinstance(node, yaml.SequenceNode):
            yield from ((child, (*place, index)) for index, child in enumerate(node.value))
        elif isinstance(node, yaml.MappingNode):
            self._find_duplicates(node, place)
            for key, value in node.value:
                below = (*place, str(key.value)) if isinstance(key, yaml.ScalarNode) else place
                yield key, below
                yield value, below

    def _find_duplicates(self, node: yaml.MappingNode, place: Place) -> None:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if key.value in first:
                message = f"the key stands twice; first on line {first[key.value]}"
                self._tree.problems.append(Problem(dotted((*place, key.value)), message, _line(key)))
            else:
                first[key.value] = _line(key)

    def _value(self, node: yaml.Node, place: Place) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQUENCE:
            return self._sequence(node, place)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        self._tree.refuse(place, "a YAML tag that has no meaning here", _line(node))
        return None

    def _sequence(self, node: yaml.SequenceNode, place: Place) -> list[Any]:
        values = []
        for index, child in enumerate(node.value):
            below = (*place, index)
            self._tree.lines[below] = _line(child)
            values.append(self._value(child, below))
        return values

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        try:
            self._constructor.flatten_mapping(node)
        except yaml.MarkedYAMLError:
            self._tree.refuse(place, "expected a mapping, or a list of mappings, to merge with <<", _line(node))
            return {}
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, place)
            if key is not None:
                below = (*place, key)
                self._tree.lines[below] = _line(key_node)
                values[key] = self._value(value_node, below)
        return values

    def _key(self, node: yaml.Node, place: Place) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._tree.refuse(place, f"expected text as a key; got {_kind(node)}", _line(node))
            return None
        below = (*place, str(node.value))
        key = self._scalar(node, below)
        if isinstance(key, str):
            return key
        if dotted(below) not in self._tree.refused:
            self._tree.refuse(below, "expected text as a key: put it in quotes", _line(node))
        return None

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> str | int | float | bool | date | None:
        """YAML 1.1's value. A text that looks like a date or a number and is none is a mistake, not a traceback."""
        try:
            value: Hashable = self._constructor.construct_object(node)
            if isinstance(value, str):
                value.encode()
        except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, OverflowError):
            value = NotImplemented
        if isinstance(value, int) and value.bit_length() > 64:
            value = NotImplemented  # beyond every bound of the schema, and slow to turn into text
        if value is None or isinstance(value, str | int | float | date):
            return value
        self._tree.refuse(place, "cannot be read as YAML text, number or date: put it in quotes", _line(node))
        return None


def _line(part: yaml.Node | yaml.Event) -> int:
    return part.start_mark.line + 1 if part.start_mark else 1


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


def _same_key(wanted: str, node: Mapping[str, Any]) -> str:
    """The key of `node` that a variable means: names of variables know neither case nor `-`, `.` and `/`."""
    if wanted in node:
        return wanted
    alike = [key for key in node if _spoken(key) == _spoken(wanted)]
    return alike[0] if len(alike) == 1 else wanted


def _spoken(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", key.lower())


def overlay(tree: Tree, settings: type[BaseSettings], environ: Mapping[str, str]) -> None:
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
            _overlay_one(tree, settings, name, environ[name])
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


def _overlay_one(tree: Tree, settings: type[BaseSettings], name: str, value: str) -> None:
    source = EnvSettingsSource(settings)
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
