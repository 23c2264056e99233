"""Chunks of chat and completions through the rules for answers.

Floor: sans-IO.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from router.guards.rules import Findings, Search
from router.guards.streams import Key, Screen, comes_whole, leaves, nested

_HEAD = ("id", "object", "created", "model", "system_fingerprint", "service_tier")


class ChunkScreen(Screen):
    """Of chat (`within`: "delta") or completions (`within`: "")."""

    def __init__(self, within: str, searches: Sequence[Search], findings: Findings) -> None:
        super().__init__(searches, findings)
        self._within = within
        self._head: dict[str, Any] = {}
        self._open: dict[int, None] = {}  # choices that have begun and not ended, in order

    def ending(self) -> bytes:
        """A last chunk for each choice that was under way, and `[DONE]`."""
        body: dict[str, Any] = {"delta": {}} if self._within else {"text": ""}
        chunks = [
            self._written(
                _chunk(self._head, {"index": index, **body, "logprobs": None, "finish_reason": "content_filter"})
            )
            for index in (self._open or {0: None})
        ]
        return b"".join((*chunks, b"data: [DONE]\n\n"))

    def _data(self, data: dict[str, Any], event: bytes) -> bytes:
        choices = data.get("choices")
        if not isinstance(choices, list) or not choices:
            return event
        if not self._head:
            self._head = {name: data[name] for name in _HEAD if name in data}
        before, changed, empty = b"", False, True
        for choice in choices:
            if not isinstance(choice, dict):
                return self._unknown(event)
            ended, touched, says = self._choice(choice)
            before, changed, empty = before + ended, changed or touched, empty and not says
        if not self._acts:
            return event
        if self.stopped:
            for choice in choices:
                choice["finish_reason"] = None
            changed, empty = True, not any(map(self._says, choices))
        if changed and empty and data.get("usage") is None:
            return before
        return before + (self._written(data) if changed else event)

    def _choice(self, choice: dict[str, Any]) -> tuple[bytes, bool, bool]:
        """The events before it, whether anything of it is changed, and whether it still says something."""
        index = choice.get("index", 0)
        node = choice.get(self._within) if self._within else choice
        self._open[index] = None
        changed = False
        for holder, name, path in leaves(node) if isinstance(node, dict) else ():
            said = holder[name]
            if not said:
                continue
            if comes_whole(name):
                passed = self._at_once(said)
            else:
                passed = self._passed((index, *path), said, partial(_more, self._head, self._within, index, path))
            changed = changed or passed != said
            holder[name] = passed
        before = b""
        if choice.get("finish_reason") is not None and not self.stopped:
            before = self._flushed(lambda key: key[0] == index)
            if not self.stopped:
                del self._open[index]
        return before, changed, self._says(choice)

    def _says(self, choice: dict[str, Any]) -> bool:
        """Whether a client can see anything in it."""
        node = choice.get(self._within) if self._within else choice
        if choice.get("finish_reason") is not None or not isinstance(node, dict):
            return True
        if self._within and (node.get("role") is not None or _has_marks(node)):
            return True
        return any(holder[name] for holder, name, _ in leaves(node))


def _more(head: dict[str, Any], within: str, index: int, path: Key, text: str) -> dict[str, Any]:
    """A chunk that brings more of one text. No method: a screen whose texts refer to it would wait for the garbage
    collector."""
    part = nested(path, text)
    body = {within: part} if within else part
    return _chunk(head, {"index": index, **body, "logprobs": None, "finish_reason": None})


def _chunk(head: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    return {**head, "choices": [choice]}


def _has_marks(node: dict[str, Any]) -> bool:
    """Whether a tool call begins here: its id and name are seen even without arguments."""
    calls = node.get("tool_calls")
    return isinstance(calls, list) and any(isinstance(call, dict) and call.get("id") for call in calls)
