"""Events of Messages and of Responses through the rules for answers.

Floor: sans-IO.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from router.guards.parts import Examiner
from router.guards.rules import Findings, Search
from router.guards.streams import Key, Screen, comes_whole, leaves
from router.wire.texts import Reader, walked

_encode = msgspec.json.Encoder().encode


class MessagesScreen(Screen):
    """Of Anthropic's API: blocks that begin, go on and stop."""

    def __init__(self, searches: Sequence[Search], findings: Findings) -> None:
        super().__init__(searches, findings)
        self._block: int | None = None
        self._pieces = 0

    def ending(self) -> bytes:
        """The block under way is closed, and the message was refused."""
        events: list[dict[str, Any]] = []
        if self._block is not None:
            events.append({"type": "content_block_stop", "index": self._block})
        stop = {"stop_reason": "refusal", "stop_sequence": None}
        # Engines send a token with each piece; what it really counted it did not live to say.
        events.append({"type": "message_delta", "delta": stop, "usage": {"output_tokens": self._pieces}})
        events.append({"type": "message_stop"})
        return b"".join(map(self._written, events))

    def _written(self, data: dict[str, Any]) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (str(data.get("type")).encode(), _encode(data))

    def _data(self, data: dict[str, Any], event: bytes) -> bytes:
        kind, index = data.get("type"), data.get("index", 0)
        if kind == "content_block_delta":
            return self._delta(data, index, event)
        if kind == "content_block_start":
            self._block = index
            return self._start(data, index, event)
        if kind == "content_block_stop":
            out = self._before(event, lambda key: key[0] == index)
            self._block = self._block if self.stopped else None
            return out
        if kind in ("message_delta", "message_stop"):
            return self._before(event)
        return event

    def _delta(self, data: dict[str, Any], index: int, event: bytes) -> bytes:
        delta, changed, says = data.get("delta"), False, False
        self._pieces += 1
        for holder, name, path in leaves(delta) if isinstance(delta, dict) else ():
            said = holder[name]
            if comes_whole(name):
                passed = self._at_once(said)
            else:
                passed = self._passed((index, *path), said, partial(_with, data, path))
            changed, says = changed or passed != said, says or bool(passed)
            holder[name] = passed
        if not changed or not self._acts:
            return event
        return self._written(data) if says else b""

    def _start(self, data: dict[str, Any], index: int, event: bytes) -> bytes:
        block, changed = data.get("content_block"), False
        for holder, name, _ in leaves(block) if isinstance(block, dict) else ():
            said = holder[name]
            if name in _DELTAS:  # what follows goes on with it
                passed = self._passed((index, name), said, partial(_block_delta, index, name))
            else:
                passed = self._at_once(said)
            changed = changed or passed != said
            holder[name] = passed
        return self._written(data) if changed and self._acts else event


class _Again:
    """Reads texts that have been examined in pieces by what was left of them then, and others as `reader` does."""

    def __init__(self, reader: Reader, wholes: Mapping[str, str]) -> None:
        self._reader = reader
        self._wholes = wholes

    def text(self, text: str, *, own: bool = False) -> str:
        left = self._wholes.get(text)
        return left if left is not None else self._reader.text(text, own=own)

    def name(self, name: str, *, own: bool = False) -> str:
        return self._reader.name(name, own=own)

    def parts(self, texts: Sequence[str], *, own: bool = False) -> Sequence[str]:
        return self._reader.parts(texts, own=own)


class ResponsesScreen(Screen):
    """Of OpenAI's Responses: pieces, and what repeats them (`*.done`, the items, the whole answer at the end)."""

    def __init__(self, searches: Sequence[Search], findings: Findings) -> None:
        super().__init__(searches, findings)
        self._response: dict[str, Any] = {}
        self._number = -1
        if self._acts:
            self._wholes = {}

    def ending(self) -> bytes:
        """The answer is incomplete, for its content."""
        details = {"reason": "content_filter"}
        response = {**self._response, "status": "incomplete", "incomplete_details": details, "output": []}
        return self._written({"type": "response.incomplete", "response": response})

    def _written(self, data: dict[str, Any]) -> bytes:
        """With the next number: events that do not go out leave no gap, and others come between."""
        self._number += 1
        numbered = {**data, "sequence_number": self._number}
        return b"event: %b\ndata: %b\n\n" % (str(data.get("type")).encode(), _encode(numbered))

    def _data(self, data: dict[str, Any], event: bytes) -> bytes:
        kind, number = str(data.get("type", "")), data.get("sequence_number")
        if not self._acts and isinstance(number, int):
            self._number = number
        response = data.get("response")
        if isinstance(response, dict) and not self._response:
            self._response = {name: value for name, value in response.items() if name != "output"}
        if kind.endswith(".delta") and isinstance(data.get("delta"), str):
            return self._delta(kind, data, event)
        before = b""
        if kind.endswith(".done"):
            place = _place(kind.removesuffix(".done") + ".delta", data)
            over = kind == "response.output_item.done"
            before = self._flushed(lambda key: key == place or (over and key[1:3] == place[1:3]))
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            before = self._flushed()
        if self.stopped:
            return before
        repeated = self._repeated(data)
        if self.stopped:
            return before
        return before + (self._written(repeated) if self._acts else event)

    def _delta(self, kind: str, data: dict[str, Any], event: bytes) -> bytes:
        said = data["delta"]
        passed = self._passed(_place(kind, data), said, partial(_with, data, ("delta",)))
        if not self._acts:
            return event
        return self._written({**data, "delta": passed}) if passed or not said else b""

    def _repeated(self, data: dict[str, Any]) -> dict[str, Any]:
        """An event with texts as wholes. What they have was counted when it came in pieces."""
        if not self._acts:
            return data
        again = Findings(self._findings.side)
        reader = _Again(Examiner(self._searches, self._searches, again), self._wholes or {})
        out = dict(data)
        for name in _WHOLES:
            if name in data:
                out[name] = walked(data[name], reader, key=name)
        response = data.get("response")
        if isinstance(response, dict) and "output" in response:
            out["response"] = {**response, "output": walked(response["output"], reader)}
        if again.blocked_by is not None:  # nobody had said it in pieces
            self._findings.add(again.blocked_by)
        return out


# Texts of a block that may begin with it, and the kind of event that goes on with each.
_DELTAS: Final = {"text": "text_delta", "thinking": "thinking_delta"}
# Members of events that have texts as wholes.
_WHOLES: Final = ("text", "refusal", "arguments", "item", "part", "input", "code", "annotation")


def _block_delta(index: int, name: str, text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": _DELTAS[name], name: text}}


def _place(kind: str, data: dict[str, Any]) -> Key:
    return (
        kind, data.get("item_id"), data.get("output_index"), data.get("content_index"), data.get("summary_index"),
    )  # fmt: skip


def _with(data: dict[str, Any], path: Key, text: str) -> dict[str, Any]:
    """An event's data with another text at the same place."""
    again = copy.deepcopy(data)
    node = again if path[0] == "delta" else again["delta"]
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = text
    return again
