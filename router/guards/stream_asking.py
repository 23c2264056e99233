"""A stream that a service must see: its events wait until the service has said that their text may pass.

Floor: an adapter. As many characters wait as the rule says, and the engine with them while the service thinks. It is
asked about them with as many that stood before, so that what lies over a border is seen as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.guards.asking import ask_services
from router.guards.rules import Findings, Rule
from router.guards.streams import Screen


class StreamAsker:
    """Of one stream. `keep` every piece that has passed the screen; when it says so, ask by `verdict`."""

    __slots__ = ("_before", "_findings", "_held", "_rules", "_screen", "_sees")

    def __init__(self, rules: Sequence[Rule], screen: Screen, findings: Findings) -> None:
        self._rules = rules
        self._screen = screen
        self._findings = findings
        self._sees = min(rule.service_sees for rule in rules)
        self._before = ""
        self._held = bytearray()
        screen.passed = []

    @property
    def held(self) -> int:
        """Characters that wait."""
        return sum(map(len, self._screen.passed or ()))

    def keep(self, events: bytes) -> bool:
        """Whether it is time to ask: events without text pass at once, if none with text wait."""
        self._held += events
        return bool(self._held) and (not self.held or self.held >= self._sees)

    async def verdict(self) -> bytes:
        """The events that waited, when their text may pass; nothing once something is blocked."""
        fresh = "".join(self._screen.passed or ())
        self._screen.passed = []
        events = bytes(self._held)
        self._held.clear()
        if fresh:
            await ask_services(self._rules, [self._before + fresh], self._findings)
            self._before = (self._before + fresh)[-self._sees :]
        return b"" if self._findings.blocked_by is not None else events

    async def last(self, events: bytes) -> bytes:
        """The same at the stream's end, with its last events."""
        self._held += events
        return await self.verdict()
