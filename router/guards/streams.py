"""A stream of events through the rules for answers: whole events in, and out what may pass of them.

Floor: sans-IO. Each text of a stream (of a choice or a block: content, reasoning, a tool's arguments) has a window of
its own. An event goes out with the text that left its window; one with nothing left in it does not go out. What a
window still has when its text ends goes out in an event of its own before the one that ends it.

Where no rule acts, events pass as they came, and are only looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from router.guards.parts import suspicious
from router.guards.rules import Findings, Search
from router.guards.window import Window
from router.wire.sse import EventSplitter, event_name

# Bytes of one event that are kept until it is whole: the last one of Responses has all that was said before.
EVENT_BYTES: Final = 8 * 1024 * 1024
# Texts of one stream that are watched at once; an engine that begins more has gone mad.
MOST_TEXTS: Final = 1024
# Members of an event that are no text of the answer.
_MARKS: Final = frozenset(
    {"role", "id", "type", "object", "finish_reason", "stop_reason", "item_id", "call_id", "status", "signature"}
)
# Texts that are JSON.
_JSON: Final = frozenset({"arguments", "partial_json", "response.function_call_arguments.delta"})
Key = tuple[Any, ...]
Leaf = tuple[Any, Any, Key]
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Text:
    """One text of a stream. `piece`: makes the event's data that brings more of it. `came`, `left`: of a stream that
    repeats its texts, what the engine said and what left."""

    __slots__ = ("came", "left", "piece", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self.piece: Callable[[str], dict[str, Any]] | None = None
        self.came: list[str] = []
        self.left: list[str] = []


class Screen:
    """Feed every piece in order, then `end`. `stopped`: something that blocks was found; then `ending` is what the
    client gets as the stream's end. Each API has a subclass, for the shape of its events."""

    def __init__(self, searches: Sequence[Search], findings: Findings) -> None:
        self._searches = searches
        self._findings = findings
        self._acts = any(search.rule.acts for search in searches)
        self._events = EventSplitter()
        self._texts: dict[Key, Text] = {}
        self._wholes: dict[str, str] | None = None  # of texts that are over, where they will be repeated
        self.passed: list[str] | None = None  # texts that have left, where somebody wants to see them

    @property
    def stopped(self) -> bool:
        return self._findings.blocked_by is not None

    @property
    def held(self) -> int:
        """Characters that are kept from the client now."""
        return sum(text.window.held for text in self._texts.values())

    def feed(self, piece: bytes) -> bytes:
        """What may pass of whole events; parts of one are kept until it is whole."""
        out = []
        for event in self._events.feed(piece):
            if self.stopped:
                break
            out.append(self._event(event))
        if len(self._events.part) > EVENT_BYTES:
            self._too_long()
        return b"".join(out)

    def end(self) -> bytes:
        """What is still held when the stream ends."""
        rest = self._events.rest()
        out = self._event(rest + b"\n\n") if rest.strip() and not self.stopped else b""
        return out if self.stopped else out + self._flushed()

    def ending(self) -> bytes:
        """The end of a stream that is stopped, in the words of its API."""
        return b""

    # -- for the APIs --------------------------------------------------------------------------------------------------

    def _data(self, data: dict[str, Any], event: bytes) -> bytes:
        """What goes out for an event with this data."""
        raise AssertionError(f"{type(self).__name__} has no events")  # pragma: no cover

    def _flushed(self, belongs: Callable[[Key], bool] = lambda _: True) -> bytes:
        """The events with what the windows of these texts still have: the texts are over."""
        out = []
        for key in [key for key in self._texts if belongs(key)]:
            if self.stopped:
                break
            text = self._texts.pop(key)
            rest = self._seen(text.window.feed("", final=True))
            if self._wholes is not None:
                self._wholes["".join(text.came)] = "".join((*text.left, rest))
            if rest and text.piece is not None and self._acts:
                out.append(self._written(text.piece(rest)))
        return b"".join(out)

    def _before(self, event: bytes, belongs: Callable[[Key], bool] = lambda _: True) -> bytes:
        """The event, and before it what the windows of these texts still have."""
        rest = self._flushed(belongs)
        return rest if self.stopped else rest + event

    def _passed(self, key: Key, piece: str, again: Callable[[str], dict[str, Any]]) -> str:
        """What may leave of one text now. `again`: makes the data of an event that brings more of it."""
        text = self._texts.get(key)
        if text is None:
            quotes = any(part in _JSON for part in key)
            text = self._texts[key] = Text(Window(self._searches, self._findings, quotes=quotes))
            if len(self._texts) > MOST_TEXTS:
                self._too_long()
        text.piece = again
        out = self._seen(text.window.feed(piece))
        if self._wholes is not None:
            text.came.append(piece)
            text.left.append(out)
        return out

    def _seen(self, passed: str) -> str:
        if self.passed is not None and passed:
            self.passed.append(passed)
        return passed

    def _at_once(self, piece: str) -> str:
        """What may stay of a text that comes in one piece."""
        return self._seen(Window(self._searches, self._findings).feed(piece, final=True))

    def _written(self, data: dict[str, Any]) -> bytes:
        return b"data: " + _encode(data) + b"\n\n"

    # -- any event -----------------------------------------------------------------------------------------------------

    def _event(self, event: bytes) -> bytes:
        if event.startswith(b":"):
            return event
        raw = _data_of(event)
        if raw.strip() == b"[DONE]":
            return self._before(event)
        try:
            data = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            data = None
        if not isinstance(data, dict):
            return self._unknown(event)
        if data.get("error") is not None:
            return self._before(event)
        return self._data(data, event)

    def _unknown(self, event: bytes) -> bytes:
        """An event that is none of its API: nothing in it may be what a rule forbids."""
        if suspicious([event.decode("utf-8", "replace")], self._searches):
            for search in self._searches:
                if search.rule.acts:
                    self._findings.fail(search.rule, "nonsense")
            return b"" if self._acts else event
        return event

    def _too_long(self) -> None:
        """More than is kept: what cannot be examined does not pass, whatever the rules say of services."""
        self._events.rest()
        for search in self._searches:
            self._findings.fail(search.rule, "size")
            if self._findings.blocked_by is None and search.rule.acts:
                self._findings.blocked_by = search.rule


def leaves(node: dict[str, Any], above: Key = ()) -> Iterator[Leaf]:
    """The texts in an event's part: what holds each, under which name or number, and a key that is the same in the next
    event."""
    for name, value in node.items():
        if isinstance(value, str) and name not in _MARKS:
            yield node, name, (*above, name)
        elif isinstance(value, dict):
            yield from leaves(value, (*above, name))
        elif isinstance(value, list):
            for place, item in enumerate(value):
                if isinstance(item, dict):
                    yield from leaves(item, (*above, name, item.get("index", place)))
                elif isinstance(item, str):
                    yield value, place, (*above, name, place)


def comes_whole(name: Any) -> bool:
    """Whether a text comes in one piece: a function's name, or one of a list."""
    return name == "name" or isinstance(name, int)


def nested(key: Key, text: str) -> dict[str, Any]:
    """An event's part with nothing but this text at its place."""
    node: Any = text
    for step in reversed(key):
        node = [{"index": step, **node}] if isinstance(step, int) else {step: node}
    part: dict[str, Any] = node
    return part


def _data_of(event: bytes) -> bytes:
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


def named(event: bytes) -> str:
    """The name of an event."""
    return event_name(event).decode("utf-8", "replace")
