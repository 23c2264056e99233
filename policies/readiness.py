"""Whether a balancer should send to this replica.

Floor: pure. A replica that reaches no engine only makes errors, as long as others reach some; where none does, errors
are all that there is, and clients can read ours better than a balancer's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class ReadyWhen(StrEnum):
    """What makes a replica ready, beside that it serves."""

    SERVING = "serving"  # nothing
    ENGINES = "engines"  # that it reaches an engine
    COMPARED = "compared"  # that it reaches one, or no other replica does


class Readiness(NamedTuple):
    """`why` is one of few words, for operators."""

    ready: bool
    why: str


def readiness(when: ReadyWhen, *, serves: bool, reaches: bool, others_reach: bool) -> Readiness:
    """`serves`: neither starting nor draining; `reaches`: an engine of any pool answers probes; `others_reach`: a
    replica that this one is connected to says so of itself."""
    if not serves:
        return Readiness(False, "starting or draining")
    if reaches or when is ReadyWhen.SERVING:
        return Readiness(True, "serving" if reaches else "serving, reaches no engine")
    if when is ReadyWhen.ENGINES or others_reach:
        return Readiness(False, "reaches no engine")
    return Readiness(True, "serving, reaches no engine, nor does any other replica")
