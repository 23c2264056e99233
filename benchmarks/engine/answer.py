"""One request for text while it is being answered: its prompts, its choices, and what each token adds to them.

Floor: pure. The model says *that* a token is there, the reply says *which*, and this joins them: text, stop strings,
finish reasons, and the hashes of the blocks that the answer fills. `wire.py` and `dialects.py` write it down.
"""

from __future__ import annotations

from collections.abc import Sequence as Row
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.engine.cache import BlockHasher
from benchmarks.engine.model import Sequence
from benchmarks.engine.text import END, Reply, token_text


@dataclass(frozen=True, slots=True)
class StopRules:
    """When a choice ends before its length: at one of these strings or token ids (shown or not), but not within its
    first `min_tokens`."""

    strings: tuple[str, ...] = ()
    tokens: frozenset[int] = frozenset()
    show: bool = False
    min_tokens: int = 0

    @property
    def held(self) -> int:
        """Characters that are not shown yet, as they may become part of a stop string."""
        return 0 if self.show else max(map(len, self.strings), default=1) - 1


class Piece(NamedTuple):
    """What one token adds: `text` may be empty (held back, or the end token); `finish` is set on a choice's last."""

    choice: Choice
    token: int
    text: str
    finish: str | None
    stop: str | int | None


@dataclass(slots=True, eq=False)
class Choice:
    """One sequence of the answer."""

    index: int
    prompt: list[int]
    sequence: Sequence
    reply: Reply
    hasher: BlockHasher
    rules: StopRules
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: str | None = None
    stop: str | int | None = None
    first_at: float = 0.0
    last_at: float = 0.0
    _raw: str = ""

    def advance(self, last: bool) -> Piece:
        """The next token is there; `last`: it is the last one that was asked for."""
        token = self.reply.next()
        self.ids.append(token)
        self.sequence.block_hashes.extend(self.hasher.extend((token,)))
        self._finish_by_token(token, last)
        before = len(self._raw)
        if self.finish != "stop" or self.rules.show:
            self._raw += token_text(token)
        if len(self.ids) > self.rules.min_tokens:
            self._finish_by_string(before)
        shown = self._shown()
        text, self.text = shown[len(self.text) :], shown
        return Piece(self, token, text, self.finish, self.stop)

    def end(self, reason: str) -> Piece:
        """End it now, with no further token."""
        self.finish = reason
        shown = self._raw
        text, self.text = shown[len(self.text) :], shown
        return Piece(self, -1, text, reason, None)

    def _finish_by_token(self, token: int, last: bool) -> None:
        if token in self.rules.tokens and len(self.ids) > self.rules.min_tokens:
            self.finish, self.stop = "stop", token
        elif token == END:
            self.finish = "stop"
        elif last:
            self.finish = "length"

    def _finish_by_string(self, before: int) -> None:
        """By the one that is complete first, of those that were not within the first `before` characters."""
        found = [
            (at + len(string), string)
            for string in self.rules.strings
            if (at := self._raw.find(string, max(0, before - len(string) + 1))) >= 0
        ]
        if found:
            end, string = min(found, key=lambda one: one[0])
            self._raw = self._raw[: end if self.rules.show else end - len(string)]
            self.finish, self.stop = "stop", string

    def _shown(self) -> str:
        if self.finish is not None:
            return self._raw
        return self._raw[: max(len(self.text), len(self._raw) - self.rules.held)]


@dataclass(slots=True)
class Answer:
    """The whole answer. `id` has no prefix (`chatcmpl-` and so on); `created` is in Unix seconds.

    `tool`: the name of the function that the choices call. `logprobs`: how many alternatives, None for no logprobs.
    """

    id: str
    model: str
    created: int
    fingerprint: str
    block_size: int
    prompts: Row[list[int]]
    choices: list[Choice]
    role: str = "assistant"
    include_usage: bool = False
    continuous_usage: bool = False
    return_token_ids: bool = False
    echo: bool = False
    logprobs: int | None = None
    tool: str | None = None
    required_tool: bool = False

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    @property
    def completion_tokens(self) -> int:
        return sum(len(choice.ids) for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        """Each prompt counts once, however many choices it has."""
        step = max(1, len(self.choices) // max(1, len(self.prompts)))
        return sum(choice.sequence.cached_tokens for choice in self.choices[::step])

    @property
    def created_tokens(self) -> int:
        """Tokens of the full prompt blocks that were not cached before."""
        full = sum(len(prompt) - len(prompt) % self.block_size for prompt in self.prompts)
        return max(0, full - self.cached_tokens)

    def finish_of(self, reason: str | None) -> str | None:
        """`tool_calls` where the client required a call and the model made it to the end."""
        return "tool_calls" if self.required_tool and reason == "stop" else reason
