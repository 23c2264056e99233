"""May a failed attempt be tried again, elsewhere, and when?

Floor: `policies`, pure. Three rules. Nothing after the first byte reached the client. Only failures that the request
did not cause, or one poisonous request would visit every engine of its pool. And within a budget: where engines fail
because they have too much to do, repeating all of it makes a bad minute an outage.
"""

from __future__ import annotations

from enum import Enum
from random import Random

from policies.sliding import SlidingCount
from policies.types import FailureCause, Outcome

# An engine whose limit passed has been given up: its connection is closed, which ends the request there too if the
# engine can hear it at all. What that adds to the load is what the budget bounds.
RETRYABLE_CAUSES = frozenset(FailureCause) - {FailureCause.STATUS}

# A vLLM that shuts down answers 500 to new requests and one that is full 503 (facts/vllm.md). 504 is a timeout, 501
# is about the request, and everything below 500 is an answer.
RETRYABLE_STATUSES = frozenset({500, 502, 503})

# Over so many seconds traffic and retries are compared: long enough for a share of little traffic to be whole requests,
# short enough that what an outage has used up is there again for the next one.
WINDOW_SECONDS = 30.0

# Seconds before a second and a later retry: the double of the one before, up to the most, and by chance a part of it
# less, so that those who failed together do not come back together.
FIRST_DELAY = 0.05
FIRST_RETURN = 0.2  # to endpoints that have failed already: a process that is restarted needs its time
MOST_DELAY = 1.0


def may_retry(outcome: Outcome, attempts: int, limit: int, now: float, deadline: float) -> bool:
    """Whether another attempt makes sense. `attempts`: made so far, this one included; `limit`: the most in all."""
    if outcome.started or attempts >= limit or now >= deadline:
        return False
    if outcome.failure is None or outcome.failure is FailureCause.STATUS:
        return outcome.status in RETRYABLE_STATUSES
    return outcome.failure in RETRYABLE_CAUSES


class Verdict(Enum):
    """What to do about a failed attempt. OVERDRAWN: it would be repeated, but for the budget."""

    RETRY = "retry"
    NO = "no"
    OVERDRAWN = "overdrawn"


class Budget:
    """What may be sent twice: at most a share of the traffic of the last `WINDOW_SECONDS`, and `reserve` besides.

    The reserve is for the sudden death of an engine: all that it had in flight fails in the same moment, however little
    traffic there was before. Times never fall.
    """

    __slots__ = ("_requests", "_taken", "reserve", "share")

    def __init__(self, share: float, reserve: int) -> None:
        self.share = share
        self.reserve = reserve
        self._requests = SlidingCount(WINDOW_SECONDS)
        self._taken = SlidingCount(WINDOW_SECONDS)

    def note(self, now: float) -> None:
        """A request was sent for the first time."""
        self._requests.add(now)

    def left(self, now: float) -> bool:
        """Whether there is one to take."""
        return self._taken.total(now) < self.reserve + self.share * self._requests.total(now)

    def take(self, now: float) -> bool:
        """Takes one from the budget; False where nothing is left."""
        if not self.left(now):
            return False
        self._taken.add(now)
        return True


class RetryPolicy:
    """What one pool does about failed attempts. `retries`: further attempts that reach an engine; `return_seconds`: for
    how long a request that every endpoint has failed waits for one to come back."""

    __slots__ = ("_random", "budget", "limit", "return_seconds")

    def __init__(self, retries: int, budget: Budget, return_seconds: float, random: Random) -> None:
        self.limit = retries + 1
        self.budget = budget
        self.return_seconds = return_seconds
        self._random = random

    def judge(self, outcome: Outcome, attempts: int, now: float, delay: float, deadline: float) -> Verdict:
        """About an attempt that has just failed; what is to be repeated has been taken from the budget. `attempts`:
        made so far that `reached` an engine, this one included; `delay`: seconds before the next one."""
        if self.limit == 1 or not may_retry(outcome, attempts, self.limit, now + delay, deadline):
            return Verdict.NO
        return Verdict.RETRY if not reached(outcome) or self.budget.take(now) else Verdict.OVERDRAWN

    def delay(self, retries: int) -> float:
        """Seconds before a retry at an endpoint that has not failed this request. `retries`: made so far.

        None before the first: what failed was one endpoint, another has nothing to recover from, and a client waits.
        When two have failed it may be all of them.
        """
        return self._jittered(FIRST_DELAY * 2.0 ** min(retries - 1, 10)) if retries else 0.0

    def return_delay(self, rounds: int, since: float, now: float, deadline: float) -> float | None:
        """Seconds until a request may go back to endpoints that have all failed it; None: no more, tell the client.
        `rounds`: times that it did before; `since`: when all had failed it for the first time."""
        delay = self._jittered(FIRST_RETURN * 2.0 ** min(rounds, 10))
        return delay if self.limit > 1 and now + delay < min(since + self.return_seconds, deadline) else None

    def _jittered(self, seconds: float) -> float:
        return min(seconds, MOST_DELAY) * (1.0 - 0.5 * self._random.random())


def reached(outcome: Outcome) -> bool:
    """Whether the attempt cost an engine anything. A refused connection did not: it counts neither as one of the
    attempts nor against the budget, or a pool where most are down would give up before it found the one that is up."""
    return outcome.failure is not FailureCause.CONNECT
