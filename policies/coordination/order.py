"""In which order requests of different replicas reach an engine: in that in which they were decided.

Floor: `policies`, pure. A ticket is on its way to its replica for a moment, while the owner sends its own at once. A
long prompt that so overtakes a short one keeps it waiting for all of its prefill. With 4 replicas and tickets of 1 ms
before 8 engines the short prompts' p99 was 2.0 s for that, and 1.4 s with one replica (`make bench-replicas`).
"""

from __future__ import annotations

from typing import NamedTuple

# A ticket's way within a data centre, and a turn of a busy loop at its end. A slower one is overtaken as before.
WAY_SECONDS = 0.005
# A prefill so short may overtake: nobody waits for it for longer than for a few steps of the engine.
SHORT_SECONDS = 0.05


class _Last(NamedTuple):
    """The last ticket for an endpoint: whose and when; `before`: when the last one of another replica was given."""

    replica: str
    at: float
    before: float


_NEVER = _Last("", float("-inf"), float("-inf"))


class LeavingOrder:
    """What the owner of one pool has told others to send, by endpoint. Times never fall."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, _Last] = {}

    def told(self, endpoint: str, replica: str, now: float) -> None:
        """Another replica is told to send a request there."""
        last = self._last.get(endpoint, _NEVER)
        self._last[endpoint] = _Last(replica, now, last.before if last.replica == replica else last.at)

    def pause(self, endpoint: str, replica: str, own_seconds: float, now: float) -> float:
        """Seconds after which `replica`'s request, decided now, may leave without overtaking. `own_seconds`: its
        predicted prefill. What goes to the same replica cannot overtake, and nobody pauses for longer than a way."""
        if own_seconds <= SHORT_SECONDS:
            return 0.0
        last = self._last.get(endpoint, _NEVER)
        at = last.before if last.replica == replica else last.at
        return min(WAY_SECONDS, max(0.0, at + WAY_SECONDS - now))
