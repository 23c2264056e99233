"""What a profile answers: a ranking of endpoints, and on request why.

Floor: `policies`, pure. A decision is a ranking, so that failover needs no second one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from policies.endpoint_state import EndpointState


class Candidate(NamedTuple):
    """An endpoint that may take the request. A tuple, as every decision makes one per endpoint on the hot path.

    `cost`: lower is better; the weighted sum of the profile's scores. Times are predicted seconds. `scores` (by
    scorer's name, before weights) are empty unless somebody asked for an explanation.
    """

    state: EndpointState
    cost: float
    cached_tokens: int
    own_seconds: float
    ttft_seconds: float
    scores: tuple[tuple[str, float], ...] = ()


class Decision:
    """Where a request goes. `column`: the choice's place in the view; `profile`: whose decision it is.

    `ranked`: the choice, then the next best few, as they were when it was decided. Who never asks does not pay for it.
    """

    __slots__ = ("_others", "choice", "column", "profile")

    def __init__(
        self, choice: Candidate, profile: str, column: int, others: Callable[[], tuple[Candidate, ...]]
    ) -> None:
        self.choice = choice
        self.profile = profile
        self.column = column
        self._others: Callable[[], tuple[Candidate, ...]] | tuple[Candidate, ...] = others

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        others = self._others
        if not isinstance(others, tuple):
            others = self._others = others()
        return (self.choice, *others)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything a profile thinks of one endpoint. `verdicts`: filter's name and whether the endpoint passed it; after
    the first refusal the later filters were not asked. `candidate` has all scores, also for a refused endpoint.
    `at_once`: whether the gate would let the request go there now."""

    endpoint: str
    verdicts: tuple[tuple[str, bool], ...]
    candidate: Candidate
    at_once: bool = True

    @property
    def accepted(self) -> bool:
        return all(passed for _, passed in self.verdicts)
