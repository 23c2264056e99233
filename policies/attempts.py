"""What a pool does about attempts at its endpoints: how long one may take, and what happens when it fails or is late.

Floor: `policies`, pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.first_byte import FirstByteLimit
from policies.hedge import HedgePolicy
from policies.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class AttemptPolicy:
    """`hold_back`: seconds for which the start of a stream that says nothing yet is kept from the client, so that a
    failure can still be retried; 0 keeps nothing. `hedge`: None where nothing is sent twice."""

    retry: RetryPolicy
    first_byte: FirstByteLimit
    hold_back: float
    hedge: HedgePolicy | None = None
