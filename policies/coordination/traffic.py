"""Where a pool's requests come in: an ingress that sends a host's requests to one replica makes it the pool's home.

Floor: `policies`, pure. Who owns a pool at its home needs no ticket for its requests.
"""

from __future__ import annotations

from typing import Final

# Requests are counted in windows of so many seconds, of which the last full one and the present one count.
_WINDOW_SECONDS: Final = 30.0
# Of at least so many requests this share has to come in at one replica. Where an ingress spreads them at random over
# two replicas, 48 of 60 come in at one of them about twice in a million windows.
_LEAST: Final = 60
_SHARE: Final = 0.8


class Traffic:
    """One pool's requests by the replica that got them, as its owner sees them."""

    def __init__(self) -> None:
        self._present: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._until: float | None = None

    def note(self, replica: str) -> None:
        """A request that came in there."""
        self._present[replica] = self._present.get(replica, 0) + 1

    def home(self, now: float) -> str | None:
        """The replica at which nearly all come in; None where there is none, or too few to tell. To be asked often."""
        if self._until is None or now >= self._until + _WINDOW_SECONDS:  # nobody asked: what was counted is older
            self._present, self._before, self._until = {}, {}, now + _WINDOW_SECONDS
        elif now >= self._until:
            self._before, self._present, self._until = self._present, {}, now + _WINDOW_SECONDS
        total = sum(self._before.values()) + sum(self._present.values())
        if total < _LEAST:
            return None
        most = max({**self._before, **self._present}, key=self._count)
        return most if self._count(most) >= _SHARE * total else None

    def clear(self) -> None:
        """What was counted says nothing any more."""
        self._present, self._before, self._until = {}, {}, None

    def _count(self, replica: str) -> int:
        return self._before.get(replica, 0) + self._present.get(replica, 0)
