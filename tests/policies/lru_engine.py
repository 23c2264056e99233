"""An engine's prefix cache as it really is (blocks, least recently used first), and conversations that it serves."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import NamedTuple

from policies.cost import cached_tokens
from policies.endpoint_state import EndpointState
from policies.reservation import EngineReport, Reservation
from tests.policies.builders import make_request

ENGINE_BLOCK = 16  # tokens
OURS = 4  # engine blocks in one of our blocks


class LruCache:
    """Blocks of requests under way are kept; those of ended ones leave in the order in which they were last used."""

    def __init__(self, tokens: int) -> None:
        self.capacity = tokens // ENGINE_BLOCK
        self.held: Counter[int] = Counter()
        self.free: OrderedDict[int, None] = OrderedDict()

    def found(self, names: Sequence[int]) -> int:
        """How many leading blocks are there."""
        missing = (place for place, name in enumerate(names) if name not in self.held and name not in self.free)
        return next(missing, len(names))

    def begin(self, names: Sequence[int]) -> None:
        for name in names:
            self.free.pop(name, None)
        self.held.update(names)
        self._evict()

    def end(self, names: Sequence[int]) -> None:
        """The tail is free first, so that the beginning is the last to leave."""
        for name in reversed(names):
            self.held[name] -= 1
            if not self.held[name]:
                del self.held[name]
                self.free[name] = None
        self._evict()

    def _evict(self) -> None:
        while self.free and len(self.free) + len(self.held) > self.capacity:
            self.free.popitem(last=False)


class Turn(NamedTuple):
    """Tokens of one request: its prompt's, those that were predicted to be cached, and those that were."""

    prompt: int
    predicted: int
    found: int


@dataclass
class Served:
    """`state` in front of an engine of `tokens` that serves conversations: `live` times as many tokens as it holds,
    which begin with one of `groups` shared prompts and grow turn by turn. `reports`: answers tell what was cached."""

    state: EndpointState
    tokens: int
    rng: Random
    live: float = 2.0
    groups: int = 3
    shared_blocks: int = 60
    concurrency: int = 3
    reports: bool = True
    scrape_every: int = 0
    turns: list[Turn] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cache = LruCache(self.tokens)
        count = max(4, int(self.live * self.tokens / ENGINE_BLOCK / (self.shared_blocks + 150)))
        self._conversations = [self._begun() for _ in range(count)]
        self._flying: list[tuple[Reservation, list[int], Turn, int]] = []

    def serve(self, requests: int) -> None:
        for number in range(requests):
            if len(self._flying) >= self.concurrency:
                self._end()
            self._send(self.rng.randrange(len(self._conversations)))
            if self.scrape_every and number % self.scrape_every == 0:
                self.state.scraped_cache(
                    float(sum(turn.prompt for turn in self.turns)), float(sum(turn.found for turn in self.turns))
                )
        while self._flying:
            self._end()

    def _begun(self) -> list[int]:
        group = self.rng.randrange(self.groups)
        return [hash((group, place)) for place in range(self.shared_blocks)]

    def _send(self, which: int) -> None:
        if len(self._conversations[which]) > self.shared_blocks + 300:
            self._conversations[which] = self._begun()
        words = self._conversations[which]
        words += self._new(5, 30)
        names = list(accumulate(words, lambda above, word: hash((above, word))))
        tokens = len(words) * ENGINE_BLOCK + self.rng.randrange(ENGINE_BLOCK)
        request = make_request(prompt_tokens=tokens, blocks=tuple(names[OURS - 1 :: OURS]))
        predicted = cached_tokens(self.state, request)
        found = min(self.cache.found(names), (tokens - 1) // ENGINE_BLOCK) * ENGINE_BLOCK
        self.turns.append(Turn(tokens, predicted, found))
        answer = self._new(2, 18)
        words += answer  # part of the next turn's prompt
        whole = list(accumulate(answer, lambda above, word: hash((above, word)), initial=names[-1]))
        names += whole[1:]
        self.cache.begin(names)
        reservation = self.state.reserve(request, predicted, 0.1, 0.0)
        self._flying.append((reservation, names, self.turns[-1], len(answer) * ENGINE_BLOCK))

    def _end(self) -> None:
        reservation, names, turn, output = self._flying.pop(0)
        self.cache.end(names)
        reservation.first_token(0.0, seen=True)
        reservation.release(0.0, EngineReport(turn.prompt, turn.found if self.reports else None, output))

    def _new(self, least: int, most: int) -> list[int]:
        return [self.rng.getrandbits(60) for _ in range(self.rng.randrange(least, most))]
