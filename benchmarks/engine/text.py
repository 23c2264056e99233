"""Tokens and words: a tokenizer that needs no vocabulary file, the chat template, and the deterministic reply.

Floor: pure. A token is a short piece of text and its id *is* the piece, packed into a number below 2^31: every engine
agrees on all ids without sharing a table, and `decode(encode(text)) == text` for any text.

A reply's next word depends on all token ids before it and on nothing else. So an answer that is continued, from its
text (`continue_final_message`) or from its ids, goes on exactly as the unbroken one did. Every word of a reply starts
with a space, which always starts a piece: text cut between two words re-tokenizes to the same ids.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import xxhash

START, END, IMAGE = 1, 2, 3
SPECIALS = {b"<|pad|>": 0, b"<|start|>": START, b"<|end|>": END, b"<|image|>": IMAGE}
SPECIAL_TEXT = {number: text for text, number in SPECIALS.items()}

PIECES = re.compile(
    rb"<\|(?:pad|start|end|image)\|>"
    rb"| ?[a-z]{1,6}"  # most English words with their space: about 4 bytes a token
    rb"| ?(?:[^ a-z<\x80-\xff]|<(?!\|)){1,3}"  # capitals, digits, punctuation; never the start of a special token
    rb"| {2,16}"  # indentation
    rb"|[\x80-\xff]{1,3}"  # other scripts
    rb"|[ <]"
)
LETTERS_AT = 16
ASCII_AT = LETTERS_AT + 2 * 27**6
BYTES_AT = ASCII_AT + 2 * 129**3
LIMIT = BYTES_AT + 257**3
"""Where each kind of piece begins: digits are 1-based, so that pieces of different lengths never collide."""

WORDS = """
able about after again air all along also always and any area around ask away back base be been before best
body book both bring build but by call can case change city class clear close cold come could cover cut day
deep do down draw each early earth east end even every eye face fact fall far fast few field find fire first
five fly follow food for form four free friend from full game gave get give go gold good got great green
ground group grow half hand hard has have head hear heat help here high hold home hot hour house how idea if
inch into island it just keep kind king know land large last late lay lead learn leave left less let life
light like line list listen little live long look low made make many map mark may mean might mile mind moon
more most move much music must name near need never new next night north not note now number of off often old
on once one only open or order other our out over own page paper part pass
"""
"""What the model can say: at most six letters each, so that a word with its space is one token."""


def _pack(piece: bytes, low: int, base: int) -> int:
    number = 0
    for byte in piece:
        number = number * base + byte - low + 1
    return number


def _unpack(number: int, low: int, base: int) -> bytes:
    piece = bytearray()
    while number:
        number, digit = divmod(number, base)
        piece.append(digit - 1 + low)
    return bytes(reversed(piece))


@lru_cache(maxsize=1 << 16)
def piece_id(piece: bytes) -> int:
    """The id of one piece as `PIECES` finds it."""
    if piece in SPECIALS:
        return SPECIALS[piece]
    body = piece[1:] if len(piece) > 1 and piece[0] == 0x20 and piece[1] != 0x20 else piece
    spaced = len(piece) - len(body)
    if 0x61 <= body[0] <= 0x7A:
        return LETTERS_AT + 2 * _pack(body, 0x61, 27) + spaced
    if body[0] < 0x80 and body[0] != 0x20:
        return ASCII_AT + 2 * _pack(body, 0, 129) + spaced
    if len(body) > 1 and body[0] == 0x20:
        return LIMIT + len(body)
    return BYTES_AT + _pack(body, 0, 257)


@lru_cache(maxsize=1 << 16)
def id_bytes(token: int) -> bytes:
    """The piece behind an id; ValueError when no text has this id."""
    if token in SPECIAL_TEXT:
        return SPECIAL_TEXT[token]
    try:
        piece = _unpack_id(token)
    except (ValueError, OverflowError):
        piece = b""
    if not piece or piece_id(piece) != token:
        raise ValueError(f"token id {token} is out of vocabulary")
    return piece


def _unpack_id(token: int) -> bytes:
    if token > LIMIT:
        return b" " * min(token - LIMIT, 17)
    if token >= BYTES_AT:
        return _unpack(token - BYTES_AT, 0, 257)
    low, base, at = (0, 129, ASCII_AT) if token >= ASCII_AT else (0x61, 27, LETTERS_AT)
    number, spaced = divmod(token - at, 2)
    return b" " * spaced + _unpack(max(number, 0), low, base)


def encode(text: str) -> list[int]:
    """Lone surrogates, which JSON allows, become `?`: they have no bytes."""
    return [piece_id(piece) for piece in PIECES.findall(text.encode("utf-8", "replace"))]


def decode(tokens: Iterable[int]) -> str:
    """ValueError for an id that stands for no text."""
    return b"".join(map(id_bytes, tokens)).decode("utf-8", "replace")


def token_text(token: int) -> str:
    """What one token shows by itself: the end token shows nothing."""
    return "" if token == END else id_bytes(token).decode("utf-8", "replace")


WORD_IDS = tuple(piece_id(b" " + word.encode()) for word in WORDS.split())
HEADER = "<|start|>assistant\n"
HEADER_IDS = encode(HEADER)


def part_text(part: Any) -> str:
    """One content part as the template sees it; an image is known by its digest."""
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return json.dumps(part)
    for field in ("text", "content", "output", "thinking"):
        if isinstance(part.get(field), str):
            return str(part[field])
    digest = xxhash.xxh3_64_hexdigest(json.dumps(part, sort_keys=True).encode())
    return f"<|image|>{digest}" if "image" in str(part.get("type", "")) else json.dumps(part)


def content_text(content: Any) -> str:
    if content is None:
        return ""
    return content if isinstance(content, str) else "\n".join(part_text(part) for part in content)


def render_chat(
    messages: Sequence[Mapping[str, Any]], *, tools: Any = None, header: bool = True, open_end: bool = False
) -> str:
    """The chat template. `header`: begin the assistant's turn; `open_end`: the last message is not over."""
    text = f"<|start|>tools\n{json.dumps(tools)}<|end|>\n" if tools else ""
    for message in messages:
        calls = message.get("tool_calls")
        body = content_text(message.get("content")) + (json.dumps(calls) if calls else "")
        text += f"<|start|>{message.get('role')}\n{body}<|end|>\n"
    if open_end:
        text = text.removesuffix("<|end|>\n")
    return text + HEADER if header else text


def spoken_tokens(prompt: Sequence[int]) -> int | None:
    """How much of the assistant's last turn the prompt already holds; None when it ends in no such turn."""
    back = prompt[::-1]
    if START not in back:
        return None
    begin = len(prompt) - list(back).index(START) - 1
    end = begin + len(HEADER_IDS)
    return len(prompt) - end if list(prompt[begin:end]) == HEADER_IDS else None


class Reply:
    """The answer to a prompt, token by token. `script`: say these ids (a tool call) and not the usual words.

    `ends_after`: the end token is number `ends_after` (1-based); None: it never ends by itself.
    """

    def __init__(
        self, voice: str, prompt: Sequence[int], *, ends_after: int | None, script: Sequence[int] = ()
    ) -> None:
        self._state = xxhash.xxh3_64(array("I", prompt).tobytes(), seed=xxhash.xxh3_64_intdigest(voice.encode()))
        self._script = script
        self._ends_after = ends_after
        self._said = 0

    def next(self) -> int:
        self._said += 1
        if self._said == self._ends_after:
            return END
        if self._script:
            return self._script[min(self._said, len(self._script)) - 1]
        token = WORD_IDS[self._state.intdigest() % len(WORD_IDS)]
        self._state.update(token.to_bytes(4, "little"))
        return token


def example_of(schema: Any) -> Any:
    """The plainest value a JSON schema allows: what the simulated model puts into a tool call."""
    if not isinstance(schema, Mapping):
        return "word"
    for field in ("const", "default"):
        if field in schema:
            return schema[field]
    if schema.get("enum"):
        return schema["enum"][0]
    for field in ("anyOf", "oneOf", "allOf"):
        if schema.get(field):
            return example_of(schema[field][0])
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return {name: example_of(inner) for name, inner in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [example_of(schema.get("items"))] * int(schema.get("minItems", 1))
    return {"integer": 1, "number": 1.5, "boolean": True, "null": None}.get(kind, "word")
