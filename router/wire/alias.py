"""The alias in an answer: the engine's name for a model becomes the name that the client asked for.

Floor: sans-IO. Only the unescaped pair `"model":"engine-name"` changes (in a JSON string its quotes would be escaped),
in whatever chunks the answer comes: a chunk that ends inside the pair is held back by just those bytes. Where a line of
JSON has the pair more than once, only the answer's own changes, not the one in a tool call's input or in metadata.
"""

from __future__ import annotations

import re
from itertools import pairwise

import msgspec

# Strings, so that braces in them do not count, and braces.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}\[\]]', re.DOTALL)
# Events of the Responses and Messages APIs carry the answer below one of these.
_ENVELOPES = (b'"response"', b'"message"')


class AliasRewriter:
    """Rewrites one answer. Feed every chunk in order, then `flush`."""

    __slots__ = ("_alphabet", "_held", "_new", "_pair", "_prefixes")

    def __init__(self, engine_model: str, alias: str) -> None:
        old = msgspec.json.encode(engine_model)
        self._new = msgspec.json.encode(alias)
        self._pair = re.compile(rb'("model": ?)' + re.escape(old))
        self._prefixes = tuple(b'"model":' + gap + old for gap in (b"", b" "))
        self._alphabet = frozenset(self._prefixes[1])
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """The chunk as the client gets it; may be empty when it ends inside the pair."""
        if self._held:
            chunk, self._held = self._held + chunk, b""
        found = list(self._pair.finditer(chunk))
        end = found[-1].end() if found else 0
        keep = self._partial(chunk[end:]) if chunk and chunk[-1] in self._alphabet else 0
        if keep:
            chunk, self._held = chunk[:-keep], chunk[-keep:]
        return self._renamed(chunk, found) if found else chunk

    def flush(self) -> bytes:
        """What was held back when the answer ended."""
        held, self._held = self._held, b""
        return held

    def _renamed(self, chunk: bytes, found: list[re.Match[bytes]]) -> bytes:
        if len(found) > 1:
            found = [match for line in _by_line(chunk, found) for match in _own(chunk, line)]
        pieces: list[bytes] = []
        at = 0
        for match in found:
            pieces += (chunk[at : match.end(1)], self._new)
            at = match.end()
        return b"".join((*pieces, chunk[at:]))

    def _partial(self, tail: bytes) -> int:
        """How many bytes at the end of `tail` may be the beginning of a pair."""
        lengths = range(min(len(self._prefixes[1]) - 1, len(tail)), 0, -1)
        return next((n for n in lengths if any(old.startswith(tail[-n:]) for old in self._prefixes)), 0)


def _by_line(chunk: bytes, found: list[re.Match[bytes]]) -> list[list[re.Match[bytes]]]:
    """Pairs grouped by the line they stand in: an event's JSON, or a whole body's, is one line."""
    lines = [[found[0]]]
    for before, match in pairwise(found):
        if chunk.find(b"\n", before.end(), match.start()) >= 0:
            lines.append([])
        lines[-1].append(match)
    return lines


def _own(chunk: bytes, line: list[re.Match[bytes]]) -> list[re.Match[bytes]]:
    """Of several pairs in one line those that are the answer's: on its top level or that of an event's envelope.

    All of them where none is: then the line is a piece of one, and what came before it is not known here.
    """
    if len(line) == 1:
        return line
    begin = chunk.rfind(b"\n", 0, line[0].start()) + 1
    starts = {match.start(): match for match in line}
    own, keys, last = [], [b""], b""
    for token in _TOKEN.finditer(chunk, begin, line[-1].end()):
        text = token.group()
        if text in (b"{", b"["):
            keys.append(last)
        elif text in (b"}", b"]"):
            del keys[-1:]
        elif token.start() in starts and (len(keys) == 2 or (len(keys) == 3 and keys[-1] in _ENVELOPES)):
            own.append(starts[token.start()])
        last = text
    return own or line


def rename_in_error(body: bytes, engine_model: str, alias: str) -> bytes:
    """An engine's error body with the engine's name for the model replaced where it is quoted in the message."""
    return body.replace(f"`{engine_model}`".encode(), f"`{alias}`".encode())
