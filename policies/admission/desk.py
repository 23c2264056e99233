"""Who of a pool may wait, who goes next, and what each has had: queue, lanes, tenants' shares and drain rates as one.

Floor: `policies`, pure. The pool (and the replay) tells of every request that begins to wait, is sent, gives up or
ends; the desk keeps all accounts of it, so that none can be forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from policies.admission.drain import PRIOR_RATE, DrainRate
from policies.admission.fairness import Charge, FairShare, work_seconds
from policies.admission.order import ShortestPrefillFirst
from policies.admission.queue import Entry, Queue
from policies.admission.saturation import DEFAULT_POLICIES, Door, LaneGate, LanePolicy
from policies.cost import Rates, expected_output
from policies.endpoint_state import EndpointState
from policies.types import InferenceRequest, Lane, Rejection, RejectReason
from policies.view import View
from policies.waiting import Waiting

# How many requests of a lane may wait where nothing is configured.
WAITING_BOUNDS = {Lane.SHORT: 1024, Lane.LONG: 1024, Lane.BATCH: 4096}

# Seconds of prefill that a second of lag is worth in the order: tenants drift apart by what the rest of the key is
# worth, and no further (`fairness` states the bound). More is fairer within a minute and costs latency, as it delays
# short prompts: in simulation a light tenant beside a flooding one has a p99 of 0.5 s at 1, 1.4 at .25, 60 at 0.
LAG_WORTH = 0.25

_INTERACTIVE = (Lane.SHORT, Lane.LONG)
_BATCH = (Lane.BATCH,)


class Turn:
    """A request that was sent, on the desk's books until `Desk.ended`."""

    __slots__ = ("_charge", "lane", "tokens")

    def __init__(self, charge: Charge, lane: Lane, tokens: float) -> None:
        self._charge = charge
        self.lane = lane
        self.tokens = tokens

    def worked(self, seconds: float) -> None:
        """The work it really was; the first call counts."""
        self._charge.settle(seconds)


class Desk:
    """One per pool. `lanes`: what each may use; `bounds`: how many requests of each may wait; `endpoints`: how many
    there are, for a first guess of how fast the queue empties."""

    def __init__(
        self,
        order: ShortestPrefillFirst,
        lanes: Mapping[Lane, LanePolicy] = DEFAULT_POLICIES,
        bounds: Mapping[Lane, int] = WAITING_BOUNDS,
        endpoints: int = 1,
    ) -> None:
        self.queue = Queue(order)
        self.gate = LaneGate(lanes)
        self.drain = {lane: DrainRate(PRIOR_RATE * max(1, endpoints)) for lane in Lane}
        self.shares = {_INTERACTIVE: FairShare(), _BATCH: FairShare()}
        self._door = Door(bounds)
        self._guarantee = order.batch_seconds

    def __len__(self) -> int:
        return len(self.queue)

    def inherit(self, before: Desk) -> None:
        """Go on with the books of the desk that a reload replaces: both serve the same endpoints for a while."""
        self.gate.tokens, self.gate.requests = before.gate.tokens, before.gate.requests
        self.drain, self.shares = before.drain, before.shares

    def enter(self, waiting: Waiting, states: Sequence[EndpointState], now: float) -> int | Rejection:
        """A request begins to wait; how many stand before it, or why it may not."""
        request = waiting.request
        lane = request.lane
        full = self._door.shut_by(lane, self.queue.waiting)
        if full:
            count = sum([self.queue.waiting[one] for one in full])
            after = max([self.retry_after(one, now) for one in full])
            return Rejection(RejectReason.QUEUE_FULL, after, f"{count} requests wait")
        self._share(lane).joined(request.tenant, request.weight)
        ahead = self.queue.add(waiting, states)
        self.drain[lane].note(now, self.queue.waiting[lane])
        return ahead

    def makes_room(self, request: InferenceRequest) -> Waiting | None:
        """Who has to leave its lane's full queue for a request of a better tier; None where nobody has to."""
        if self._door.shut_by(request.lane, self.queue.waiting) != [request.lane]:
            return None
        return self.queue.last_of_worse(request.lane, request.tier_priority)

    def leave(self, waiting: Waiting, now: float) -> None:
        """A request gives up or is turned away; nothing where it does not wait."""
        if self.queue.remove(waiting):
            self._left(waiting.request, now, sent=0)

    def next(self, view: View, window: int) -> Sequence[Waiting]:
        """At most `window` of the requests that may be sent now, the next one first."""
        self.begin(view)
        return self.queue.next(view, window, self._offset)

    def again(self, view: View, window: int) -> Sequence[Waiting]:
        """At most `window` of those that have failed at an endpoint, the one that came first first."""
        retries = self.queue.retries
        if not retries:
            return ()
        self.begin(view)
        return list(retries.values())[:window]

    def begin(self, view: View) -> None:
        """A pass begins: lanes are measured anew."""
        self.gate.begin(view.states if view.whole is None else view.whole.states, view.now)

    def allows(self, waiting: Waiting) -> bool:
        """Whether the request's lane has room for it in this pass."""
        return self.gate.allows(waiting.request.lane, _tokens(waiting.request))

    def sent(self, waiting: Waiting, rates: Rates, cached: int, now: float) -> Turn:
        """A request was sent, from the queue or past an empty one, and its reservation charged."""
        request = waiting.request
        tokens = _tokens(request)
        uncached = max(0, request.prompt_tokens - cached)
        seconds = work_seconds(rates, uncached, cached, expected_output(request))
        turn = Turn(self._share(request.lane).charge(request.tenant, request.weight, seconds), request.lane, tokens)
        self.gate.sent(request.lane, tokens)
        if self.queue.remove(waiting):
            self._left(request, now, sent=1)
        return turn

    def ended(self, turn: Turn) -> None:
        """The request has left its endpoint."""
        self.gate.ended(turn.lane, turn.tokens)

    def retry_after(self, lane: Lane, now: float) -> float:
        """Seconds until those that wait in the lane now will have been sent."""
        return self.drain[lane].retry_after(self.queue.waiting[lane], now)

    def _left(self, request: InferenceRequest, now: float, sent: int) -> None:
        lane = request.lane
        self.drain[lane].note(now, self.queue.waiting[lane], sent)
        if not self.queue.has_line(request.tenant, _class(lane)):
            self._share(lane).left(request.tenant)

    def _offset(self, tenant: str, line: Sequence[Entry]) -> float | None:
        request = line[0].waiting.request
        if not self.gate.allows(request.lane, _tokens(request)):
            return None
        added = LAG_WORTH * self._share(request.lane).lag(tenant)
        if self.gate.below_minimum(request.lane):
            added -= self._guarantee  # the lane is owed something: batch stands level with others, these before them
        return added

    def _share(self, lane: Lane) -> FairShare:
        return self.shares[_class(lane)]


def _class(lane: Lane) -> tuple[Lane, ...]:
    """Batch work is what others leave: it counts neither for nor against a tenant's interactive share."""
    return _BATCH if lane is Lane.BATCH else _INTERACTIVE


def _tokens(request: InferenceRequest) -> float:
    return request.prompt_tokens + expected_output(request)
