"""What becomes of a stream's events between the judge and the client: the usage taken out that the gateway alone had
asked for, the tenant's rules, the alias.

    usage -> screen (the tenant's rules) -> alias

Floor: an adapter without I/O, used by `router.relay`.
"""

from __future__ import annotations

from router.guards.streams import Screen
from router.wire.alias import AliasRewriter
from router.wire.stream_usage import UsageRemover


class Passage:
    """Of one answer; each stage is None where there is nothing to do. Feed every piece in order, then `rest`, or
    `give_up` if the stream broke."""

    __slots__ = ("_alias", "hidden", "screen")

    def __init__(self, hidden: UsageRemover | None, screen: Screen | None, alias: AliasRewriter | None) -> None:
        self.hidden = hidden
        self.screen = screen
        self._alias = alias

    @property
    def inside_event(self) -> bool:
        """Whether what came out so far ends within an event, if what came in does not."""
        return self.screen is None and self.hidden is not None and self.hidden.inside_event

    @property
    def plain(self) -> bool:
        """Whether it changes the length of nothing."""
        return self.screen is None and self.hidden is None and self._alias is None

    @property
    def stopped(self) -> bool:
        """The rules let nothing more pass: what comes out before `ending` is the last."""
        return self.screen is not None and self.screen.stopped

    def feed(self, data: bytes) -> bytes:
        """What may pass now."""
        if self.hidden is not None:
            data = self.hidden.feed(data)
        if self.screen is not None:
            data = self.screen.feed(data)
        return data if self._alias is None else self._alias.feed(data)

    def rest(self) -> bytes:
        """What was held back when the stream came to its end."""
        held = self.hidden.flush() if self.hidden is not None else b""
        if self.screen is not None:
            held = self.screen.feed(held) + self.screen.end()
        return held if self._alias is None else self._alias.feed(held) + self._alias.flush()

    def give_up(self) -> bytes:
        """The whole events that were held back when the stream broke."""
        held = self.hidden.give_up() if self.hidden is not None else b""
        if self.screen is not None:
            held = self.screen.feed(held) + self.screen.end()
        return held if self._alias is None else self._alias.feed(held)

    def ending(self) -> bytes:
        """The end of a stream that the rules have stopped."""
        end = self.screen.ending() if self.screen is not None else b""
        return end if self._alias is None else self._alias.feed(end) + self._alias.flush()
