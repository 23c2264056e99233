"""One YAML file to a tree with its lines, whatever stands in the file.

Floor: bytes in, a `Tree` out. Knows no schema and never stops at the first mistake: what cannot be read becomes a
`Problem` and the rest is read on. Size, nesting and aliases are bounded before anything is built. No message repeats
a value of the file, so none can leak a secret.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from router.config.problems import Place, Problem, dotted
from router.config.tree import Tree

MAX_FILE_BYTES = 16 * 1024 * 1024  # a log or an image named by mistake must not fill the memory
MAX_NODES = 500_000  # about 7,000 tenants with a pool each; aliases count as often as they are used (billion laughs)
MAX_DEPTH = 64  # the schema needs 7; far below the interpreter's recursion limit

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same reader in C, about ten times as fast
_MAP, _SEQUENCE, _MERGE = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:merge")


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
