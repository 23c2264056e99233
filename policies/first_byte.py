"""How long an engine may take to the first byte of its answer.

Floor: `policies`, pure. One limit for all would be that of the longest prompt, and a dead engine would keep the
shortest for as long. So it grows with what is predicted, between a least that no busy engine reaches and a most.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.types import InferenceRequest, Lane


@dataclass(frozen=True, slots=True)
class FirstByteLimit:
    """`most` and `least` in seconds; `factor`: times the predicted time to the first token."""

    most: float
    least: float
    factor: float

    def seconds(self, request: InferenceRequest, predicted: float) -> float:
        """For a request whose first token is predicted in so many seconds.

        An answer in one piece has its first byte when it is complete, and nobody knows how long it will be; and batch
        work waits inside engines that serve by priority for as long as anything else comes. Both have the most.
        """
        shows_first = request.stream or not request.max_output_tokens
        if not shows_first or request.lane is Lane.BATCH:
            return self.most
        return min(self.most, max(self.least, self.factor * predicted))
