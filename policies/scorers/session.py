"""How far an endpoint is from the session's own one.

Floor: `policies`, pure. The order is the session's for ever (`policies/rendezvous.py`): nothing is remembered, all
replicas agree, and a session whose endpoint is gone has the same second choice every time.
"""

from __future__ import annotations

from typing import ClassVar

from policies.rendezvous import ranks, session_key
from policies.view import View
from policies.waiting import Waiting


class SessionRank:
    """The endpoint's place in the session's order: 0 at its own, 1 at the next."""

    name: ClassVar[str] = "session"

    def score(self, waiting: Waiting, view: View) -> list[float]:
        return [float(rank) for rank in ranks(view.states, session_key(waiting.request))]
