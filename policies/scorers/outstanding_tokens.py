"""The work an endpoint has still to do, in tokens.

Floor: `policies`, pure. Blind to caches, but better than counting requests: prompts differ by a
factor of 1000.
"""

from __future__ import annotations

from typing import ClassVar

from policies.cost import expected_output
from policies.view import View
from policies.waiting import Waiting


class OutstandingTokens:
    """Tokens outstanding once this request is there, per unit of the endpoint's weight."""

    name: ClassVar[str] = "outstanding-tokens"

    def score(self, waiting: Waiting, view: View) -> list[float]:
        added = waiting.request.prompt_tokens + expected_output(waiting.request)
        return [(state.outstanding_tokens + added) / state.endpoint.weight for state in view.states]
