"""For how much longer than it should an endpoint has said nothing: the engine that is healthy and does not answer.

Floor: `policies`, pure. `/health` says that a process answers, not that its engine computes (vLLM's stays 200 when it
hangs, facts/vllm.md), and a connection may stay open and silent for minutes. What is predicted of an endpoint becomes
less believable with every second that it owes a sign of life: such seconds are added to what sending there costs, so
what could go elsewhere does, long before a timeout says what is wrong. They close nothing: where all are late nobody is
held back for it, as a prediction may be what is wrong.
"""

from __future__ import annotations

# What was predicted to take so many seconds may take that much longer: rates that are still to be learned are off by
# more, answers in one piece are often twice as long as expected, and who has got no first token for two seconds only
# loses a little affinity by going elsewhere.
PATIENCE = 2.0
GRACE_SECONDS = 2.0


class Silence:
    """Of one endpoint. Keys are the caller's; unknown ones do nothing. Times never fall."""

    __slots__ = ("_due", "_heard_at")

    def __init__(self) -> None:
        self._due: dict[int, float] = {}
        self._heard_at = 0.0

    def __len__(self) -> int:
        """Requests that owe a sign."""
        return len(self._due)

    def expects(self, key: int, seconds: float, now: float) -> None:
        """Something was sent: its first token, or its end where that is all that shows, is predicted in `seconds`."""
        if not self._due:
            self._heard_at = now  # nothing was owed until now
        self._due[key] = now + PATIENCE * seconds + GRACE_SECONDS

    def heard(self, key: int, now: float) -> None:
        """A sign came, by this request."""
        self._due.pop(key, None)
        self._heard_at = now

    def left(self, key: int) -> None:
        """It owes nothing any more, and nothing is known."""
        self._due.pop(key, None)

    def overdue(self, now: float) -> float:
        """Seconds since which something should have been heard; 0 while all is as it should be."""
        quiet = now - self._heard_at - GRACE_SECONDS
        if quiet <= 0 or not self._due:
            return 0.0
        return max(0.0, min(quiet, now - min(self._due.values())))
