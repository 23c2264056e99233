"""A decision of a pool as it is told to a follower, and back: tickets, refusals, what is under way.

Floor: an adapter, without I/O: it knows pools and frames, and waits for nothing.
"""

from __future__ import annotations

from policies.waiting import Waiting
from router.coordination.asked import AskedRequest
from router.coordination.frames import Aside, Bound, CarriedSeat, NotMine, Ranked, Refused
from router.elsewhere import Elsewhere, Other, Told
from router.errors import GatewayError, NoEndpoint, Overloaded, QueueFull
from router.keeper import Detour
from router.pools import Pool
from router.tickets import Ticket


def bound(number: int, term: int, ticket: Ticket, pause: float) -> Bound:
    """What a follower is told of its ticket. `pause`: seconds."""
    choice, *others = ticket.decision.ranked
    return Bound(
        number,
        term,
        ticket.endpoint,
        choice.cached_tokens,
        choice.own_seconds,
        choice.ttft_seconds,
        ticket.queued_seconds,
        ticket.ahead,
        ticket.priority,
        ticket.session,
        tuple([Ranked(one.state.endpoint.name, *one[1:5]) for one in others]),
        pause,
    )


def told(frame: Bound) -> Told:
    """What the follower's pool makes a ticket of."""
    return Told(
        frame.endpoint,
        frame.cached,
        frame.own_seconds,
        frame.ttft_seconds,
        frame.queued_seconds,
        frame.ahead,
        frame.priority,
        frame.session,
        tuple([Other(one.endpoint, one.cost, one.cached, one.own_seconds, one.ttft_seconds) for one in frame.ranked]),
    )


def refused(number: int, pool: str, term: int, why: GatewayError | Detour | Elsewhere) -> Refused | Aside | NotMine:
    """Why there is no ticket."""
    if isinstance(why, Detour):
        return Aside(number)
    if isinstance(why, Elsewhere):
        return NotMine(number, pool, term)
    return Refused(number, why.code, why.message, why.retry_after, why.status, why.final)


def error(frame: Refused) -> GatewayError:
    """The error that a pool of this replica would have raised: nobody's client sees who has decided."""
    if frame.status == QueueFull.status:
        return QueueFull(frame.message, retry_after=frame.retry_after)
    kind = NoEndpoint if frame.code == NoEndpoint.code else Overloaded
    return kind(frame.message, code=frame.code, retry_after=frame.retry_after, final=frame.final)


def carried(number: int, ticket: Ticket, now: float) -> CarriedSeat:
    """A request under way, for a new owner."""
    choice = ticket.choice
    return CarriedSeat(
        number,
        AskedRequest.of(ticket.request, now),
        ticket.endpoint,
        choice.cached_tokens,
        choice.own_seconds,
        max(0.0, now - ticket.sent_at),
        ticket.prefilled,
    )


def taken_over(pool: Pool, seat: CarriedSeat, now: float) -> Ticket | None:
    """The account of a request that another replica has under way; None where its endpoint is unknown here."""
    left = 0.0 if seat.prefilled else max(0.0, seat.own_seconds - seat.sent_ago)
    ticket = pool.bind(Waiting(seat.request.request(now)), Told(seat.endpoint, seat.cached, seat.own_seconds, left))
    if ticket is not None:
        ticket.was_sent_before(prefilled=seat.prefilled)
    return ticket
