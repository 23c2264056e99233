"""How much of the prompt an endpoint would have to compute.

Floor: `policies`, pure. A share, for profiles that weigh it against other shares; it knows neither the prompt's length
nor what is waiting. `predicted-ttft` knows both.
"""

from __future__ import annotations

from typing import ClassVar

from policies.view import View
from policies.waiting import Waiting


class UncachedShare:
    """1 where nothing of the prompt is predicted to be cached, near 0 where all is."""

    name: ClassVar[str] = "uncached-share"

    def score(self, waiting: Waiting, view: View) -> list[float]:
        tokens = max(1, waiting.request.prompt_tokens)
        return [1.0 - cached / tokens for cached in waiting.cached]
