"""Conversations about documents: who says what, when, and what one infinite cache would save.

Floor: benchmarks; pure. The text is the help of Python's own `pydoc`, which the model's tokenizer was trained on. The
assistant's former answers are written beforehand, so that every profile gets the very same prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pydoc_data.topics import topics
from random import Random

from benchmarks.engine.cache import BlockHasher
from benchmarks.overhead_parts.answers import MODEL

CHARACTERS_PER_TOKEN = 3.8
"""Of this text under that tokenizer, about: only the documents' lengths depend on it, and they are counted exactly."""
ANSWER_TOKENS = 24
"""Of each real answer: enough for a few decodes beside other prefills, and little beside a prefill."""
TURN_CHARACTERS = (150, 500)
"""Of a question, and of a former answer, evenly between these: about 40 to 120 tokens."""
GAP_SPREAD = 0.5
"""A conversation's turns come after gaps of 1 ± spread, evenly. All begin within one mean gap."""

Message = dict[str, str]


@dataclass(frozen=True)
class Turn:
    """One request: number `turn` of a conversation, due `at` mean gaps after the run's beginning, not before the answer
    to the turn before it is there."""

    conversation: int
    turn: int
    at: float
    messages: tuple[Message, ...]

    @property
    def about_tokens(self) -> int:
        """Of the prompt, before anybody has counted."""
        return int(sum(len(message["content"]) for message in self.messages) / CHARACTERS_PER_TOKEN)

    def body(self) -> bytes:
        return json.dumps(
            {
                "model": MODEL,
                "messages": self.messages,
                "max_tokens": ANSWER_TOKENS,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()


@dataclass(frozen=True)
class Shape:
    """What is talked about: documents of `shortest` to `longest` tokens. Times are in mean gaps between two turns."""

    conversations: int = 8
    turns: int = 14
    shortest: int = 1_000
    longest: int = 2_000
    seed: int = 1


class Pages:
    """One long text, taken piece by piece; begun again when it is at its end."""

    def __init__(self) -> None:
        self._text = "\n".join(topics[name] for name in sorted(topics))
        self._at = 0

    def take(self, characters: int) -> str:
        start, self._at = self._at, (self._at + characters) % len(self._text)
        return (self._text[start:] + self._text)[:characters] if start else self._text[:characters]


def make_turns(shape: Shape) -> list[Turn]:
    """All turns in the order in which they are due. The same shape gives the same turns."""
    rng = Random(f"conversations {shape.seed}")
    pages = Pages()
    made = [turn for number in range(shape.conversations) for turn in _conversation(number, shape, rng, pages)]
    return sorted(made, key=lambda turn: turn.at)


def _conversation(number: int, shape: Shape, rng: Random, pages: Pages) -> Iterator[Turn]:
    """The documents' lengths are spread evenly over the conversations."""
    share = number / max(1, shape.conversations - 1)
    length = (shape.shortest + share * (shape.longest - shape.shortest)) * CHARACTERS_PER_TOKEN
    system = f"Document {number}. Answer questions about it.\n{pages.take(int(length))}"
    messages: list[Message] = [{"role": "system", "content": system}]
    at = rng.uniform(0, 1)
    for turn in range(shape.turns):
        messages.append({"role": "user", "content": pages.take(rng.randint(*TURN_CHARACTERS))})
        yield Turn(number, turn, at, tuple(messages))
        messages.append({"role": "assistant", "content": pages.take(rng.randint(*TURN_CHARACTERS))})
        at += rng.uniform(1 - GAP_SPREAD, 1 + GAP_SPREAD)


def ideal_hits(prompts: Sequence[Sequence[int]], block: int) -> tuple[int, int]:
    """Tokens that one infinite cache of blocks of `block` tokens would find, and all tokens, over prompts in order.

    Answers count for nothing, as nobody goes on from a real one here; a prompt's last token is always computed.
    """
    seen: set[int] = set()
    found = total = 0
    for prompt in prompts:
        chain = BlockHasher(block).extend(prompt)
        known = takewhile(seen.__contains__, chain[: (len(prompt) - 1) // block])
        found += block * sum(1 for _ in known)
        seen.update(chain)
        total += len(prompt)
    return found, total


def needed_tokens(turns: Sequence[Turn], tokens: Sequence[int]) -> int:
    """Tokens of all conversations at their ends: what caches must hold so that nothing is computed twice. `tokens`: of
    each turn's prompt."""
    last: dict[int, int] = {}
    for turn, count in zip(turns, tokens, strict=True):
        last[turn.conversation] = max(count, last.get(turn.conversation, 0))
    return sum(last.values())
