"""The rules for answers, at one answer: whole, or in pieces.

Floor: an adapter; long answers are read off the event loop, and others may be asked about one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from router.errors import BadEngineResponse, PolicyError
from router.guards.asking import ask_presidio, ask_services
from router.guards.named_streams import MessagesScreen, ResponsesScreen
from router.guards.openai_streams import ChunkScreen
from router.guards.parts import Collector, Examiner, suspicious
from router.guards.rules import Findings, Rule, Search, Side
from router.guards.stream_asking import StreamAsker
from router.guards.streams import Screen
from router.wire.openai import ApiSpec
from router.wire.texts import Reader, Replacer, walked

# Bodies above this are examined off the event loop: a kB takes up to 0.6 ms with every rule that there is, and 5 ms is
# the most that other requests may wait for one (`make bench-guards`).
INLINE_BYTES: Final = 8 * 1024
# Where an answer has what was generated: the rest is about the request.
_SAID: Final = ("choices", "output", "output_text", "content")
_SCREENS: Final[dict[str, Callable[[Sequence[Search], Findings], Screen]]] = {
    "chat": partial(ChunkScreen, "delta"),
    "completions": partial(ChunkScreen, ""),
    "messages": MessagesScreen,
    "responses": ResponsesScreen,
}
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class AnswerGuard:
    """Of one answer. `findings`: what there was; `seconds`: what looking took, of a whole one. `asker`: of a stream
    that a service must see, piece by piece."""

    __slots__ = ("_clock", "_rules", "_searches", "_spec", "asker", "findings", "seconds")

    def __init__(
        self, spec: ApiSpec, rules: Sequence[Rule], found: Sequence[Search], clock: Callable[[], float]
    ) -> None:
        self._spec = spec
        self._rules = rules
        self._searches = found
        self._clock = clock
        self.findings = Findings(Side.OUTPUT)
        self.seconds: float | None = None
        self.asker: StreamAsker | None = None

    def stream(self) -> Screen:
        """For an answer that is a stream of events."""
        screen = _SCREENS[self._spec.name](self._searches, self.findings)
        services = [rule for rule in self._rules if rule.service is not None]
        if services:
            self.asker = StreamAsker(services, screen, self.findings)
        return screen

    @property
    def blocked(self) -> bool:
        """Whether nothing more may pass."""
        return self.findings.blocked_by is not None

    def refusal(self) -> PolicyError:
        """What a client is told that has seen nothing of it."""
        return self.findings.refusal("answer")

    async def whole(self, body: bytes) -> bytes:
        """What may pass of an answer in one piece. Raises PolicyError for nothing, BadEngineResponse for no JSON."""
        began = self._clock()
        try:
            passed = await self._whole(body)
        finally:
            self.seconds = self._clock() - began
        if self.blocked:
            raise self.refusal()
        return passed

    async def _whole(self, body: bytes) -> bytes:
        try:
            answer = _decode(body)
            if not isinstance(answer, dict):
                raise BadEngineResponse("The engine's answer is not an object.")
            said = {name: answer[name] for name in _SAID if name in answer}
            inline = len(body) <= INLINE_BYTES
            seen = self._searched(said) if inline else await asyncio.to_thread(self._searched, said)
            if not self.blocked:
                seen = await self._asked(seen)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadEngineResponse("The engine's answer is not valid JSON.") from None
        return body if seen is said else _encode({**answer, **seen})

    def _searched(self, said: Any) -> Any:
        if not self._searches:
            return said
        texts = Collector()
        walked(said, texts)
        if not suspicious([*texts.users, *texts.own, *texts.names, *texts.joined], self._searches):
            return said
        reader: Reader = Examiner(self._searches, self._searches, self.findings)
        return walked(said, reader)

    async def _asked(self, said: Any) -> Any:
        if not any(rule.service is not None or rule.people is not None for rule in self._rules):
            return said
        seen = Collector()
        walked(said, seen)
        texts = [*seen.users, *seen.own]
        await ask_services(self._rules, texts, self.findings)
        changed = await ask_presidio(self._rules, texts, self.findings)
        return walked(said, Replacer(changed)) if changed else said
