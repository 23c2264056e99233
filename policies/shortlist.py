"""In a large pool, the few endpoints that are worth a look for a request: those that hold the most of its prompt, and
those that would answer first a prompt of which nobody holds anything.

Floor: `policies`, pure. What a decision looks at costs time for each endpoint, and most of a large pool's have neither
the prompt nor less to do than others. Pools of up to `SMALL` endpoints have no shortlist: they are looked at whole.
Whoever may be sent to stands in rows in the profile's own order, kept up as endpoints change; a change costs a few
comparisons. What nobody tells (a circuit's time is over) is found as endpoints are looked at in turn, and wherever the
shortlist has nobody all are looked at: no request is refused by it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from xxhash import xxh3_64_intdigest

from policies.cost import wait_seconds
from policies.endpoint_state import EndpointState
from policies.holders import Holders, Watched
from policies.pickers import TIE
from policies.profile import Profile
from policies.rendezvous import affinity_key, ranks, session_key
from policies.rows import Entry, Row, first
from policies.types import InferenceRequest, Lane, Rejection, RejectReason
from policies.view import View, Whole
from policies.waiting import Waiting

# Endpoints of the largest pool that is looked at whole, and of the longest shortlist. A decision takes a third of a
# microsecond an endpoint (`make bench-decide`): with 64 it is still within its goal of 40 µs.
SMALL = 64

# Of a shortlist: with the least cost of a prompt that is not cached, and nearest to being free, by which a request is
# held back or not.
LEAST, FREEST = 16, 8

# With the prompt's beginning: all that hold the longest stretch of it, if they are no more than the first number; of
# those that hold less the second number of least cost, and of those that hold less still the third, of so many seen.
# Without the last two a prefix that all have would send requests to the few that have a little more of it.
HOLDERS = (8, 12, 8)
SEEN = 64

# A pass looks at up to 64 requests: those that go first by what they had on arrival choose whose holders are looked at.
# Several of them may go, so more endpoints are.
IN_LINE, HOLDERS_EACH, LEAST_IN_LINE = 16, (2, 2, 2), 24

# Endpoints in a session's own order that are found for it, so that it finds the next one where some are out or have too
# much, and sessions whose order is remembered: to find one anew takes a hash for each endpoint.
HOMES, SESSIONS = 16, 4096

# At every so many looks one endpoint is put into its row again though nobody has told of a change: a pool of 512 that
# gets a thousand requests a second has seen them all after two seconds.
IN_TURN = 4

# Seconds between two looks at all endpoints where the shortlist has nobody, because all are full: a pool under water
# would pay for every request what the shortlist is to save.
AGAIN_SECONDS = 0.05

_OPEN, _GENTLE, _FULL = range(3)
_FREE = -1.0  # before all that have something to do
_VERSIONS = 40  # bits of an index's version that count changes
_USUAL = InferenceRequest("", "", 0, "", "", Lane.SHORT, 2_000, 200, (), 0.0, True, 0.0, 0.0)
"""What endpoints are put in order by: a usual prompt, not cached anywhere."""


class Shortlist:
    """Of one pool. `serve` says whose; from then on they tell it of what changes, until `end`."""

    def __init__(self) -> None:
        self._states: Sequence[EndpointState] = ()
        self._numbers: dict[EndpointState, int] = {}
        self._dirty: set[EndpointState] = set()
        self._entries: dict[EndpointState, Entry] = {}
        self._rows: dict[tuple[int, int], Row] = {}
        self._held: Holders[EndpointState] = Holders()
        self._placed: Holders[EndpointState] = Holders()  # where engines have told which blocks they have
        self._homes: OrderedDict[tuple[int, int], list[EndpointState]] = OrderedDict()
        self._slots: list[EndpointState] = []
        self._next = self._turn = 0
        self._swept_at = 0.0
        self._waiting = Waiting(_USUAL)

    def serve(self, states: Sequence[EndpointState], profile: Profile) -> None:
        """These are the pool's endpoints from now on, and this is how it chooses."""
        for gone in self._numbers.keys() - set(states):
            self._leave(gone)
        for new in states:
            if new not in self._numbers:
                self._join(new)
        self._states, self._profile = tuple(states), profile
        self._numbers = {state: number for number, state in enumerate(states)}
        self._by_role, self._drawn, self._bounded = profile.by_role, profile.drawn, profile.bounded
        self._by_session, self._held_back = profile.by_session, profile.gate is not None
        self._rows, self._entries, self._slots = {}, {}, []
        self._waiting.forget()
        self.changed()

    def end(self) -> None:
        """Nobody tells it anything any more."""
        for state in self._numbers:
            self._leave(state)
        self._states, self._numbers = (), {}

    def changed(self, state: EndpointState | None = None) -> None:
        """Something about the endpoint, or about all, is another than it was. What requests change is told by them."""
        if state is not None:
            self._dirty.update({state} & self._numbers.keys())
        else:
            self._dirty.update(self._states)
            self._homes.clear()

    @property
    def whole(self) -> Whole:
        """All of the pool, as it was at the last look."""
        for row in self._rows.values():
            if row.open and row.by_cost:
                return Whole(self._states, row.in_flight, row.weight, row.busy / len(row.by_cost))
        return Whole(self._states, 0, 1.0, 0.0)

    def look(self, waiting: Waiting, now: float) -> View | Rejection:
        """As `Profile.look`, at the endpoints that are worth it for this request."""
        view = self._profile.look(self.of(waiting.request, now), now, waiting.excluded)
        if isinstance(view, Rejection):
            return self._whole(view, waiting.excluded, now)
        view.belongs(self.whole)
        return view

    def blocked(self, now: float, excluded: frozenset[str]) -> Rejection | None:
        """As `Profile.blocked`."""
        self._settle(now)
        verdict = self._profile.blocked(self._least(0), now, excluded)
        if verdict is None or (verdict.reason is RejectReason.POOL_BUSY and not excluded):
            return verdict
        return self._profile.blocked(self._states, now, excluded)

    def of(self, request: InferenceRequest, now: float) -> Sequence[EndpointState]:
        """Those for one request."""
        self._settle(now)
        if self._drawn:
            return list(dict.fromkeys(self._in_turn()))
        key = affinity_key(request)
        return list(dict.fromkeys([*self._near(request, HOLDERS), *self._least(key)]))

    def for_line(self, soonest: Iterable[Waiting], now: float) -> Sequence[EndpointState]:
        """Those for a pass over requests that wait. `soonest`: who hardly goes last. Whoever stays on the list keeps
        its column, so that what was predicted for it stays true."""
        self._settle(now)
        wanted = dict.fromkeys(self._in_turn() if self._drawn else self._least(0, LEAST_IN_LINE))
        if self._drawn or self._shut(now):
            return list(wanted)
        for waiting in soonest:
            wanted.update(dict.fromkeys(self._near(waiting.request, HOLDERS_EACH)))
            if len(wanted) >= SMALL:
                break
        wanted = dict.fromkeys(islice(wanted, SMALL))
        here = set(self._slots)
        new = [state for state in wanted if state not in here]
        unwanted = [column for column, state in enumerate(self._slots) if state not in wanted]
        for state in new:
            if len(self._slots) < SMALL:
                self._slots.append(state)
            else:
                self._slots[unwanted.pop()] = state
        return list(self._slots)

    # -- who stands where --------------------------------------------------------------------------------------------

    def _join(self, state: EndpointState) -> None:
        state.on_change = self._dirty.add
        index = state.index
        # A column may be another endpoint's in the next pass: no two must ever have the same version.
        unlike = xxh3_64_intdigest(state.endpoint.name_bytes) >> (64 - _VERSIONS)
        index.version = (unlike << _VERSIONS) + index.version % (1 << _VERSIONS)
        index.observe(Watched(self._held, state), Watched(self._placed, state))

    def _leave(self, state: EndpointState) -> None:
        state.on_change = None
        state.index.observe(None, None)
        self._dirty.discard(state)

    def _settle(self, now: float) -> None:
        """Puts whoever has changed into its row, and one in turn, of which nobody may have told what has."""
        dirty, entries, self._turn = self._dirty, self._entries, self._turn + 1
        if not self._turn % IN_TURN:
            dirty.add(self._states[self._turn // IN_TURN % len(self._states)])
        here = []
        for state in dirty:
            entry = entries.pop(state, None)
            if entry is not None:
                entry.row.take(entry)
            if state.available(now):
                here.append(state)
        dirty.clear()
        if not here:
            return
        costs = self._profile.standing(self._waiting, here, now)
        self._waiting.forget()
        for state, cost in zip(here, costs, strict=True):
            self._put(state, cost, now)

    def _put(self, state: EndpointState, cost: float, now: float) -> None:
        kind = _FULL if state.full else _GENTLE if state.gentle(now) else _OPEN
        name = (state.rank if self._by_role else 0, kind)
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = Row(open_=kind == _OPEN)
            self._rows = dict(sorted(self._rows.items()))
        number, weight, in_flight = self._numbers[state], state.endpoint.weight, state.in_flight
        wait = round(state.pending_prefill_seconds / (state.rates.slower * TIE)) if in_flight else _FREE
        entry = self._entries[state] = Entry(
            row,
            # Costs that differ by less than a tie are equal, and then others decide.
            (0 if self._drawn else round(cost / TIE), in_flight / weight if self._bounded else 0.0, number),
            (wait, 0.0, number),
            in_flight,
            weight,
            state.pending_prefills > 0,
        )
        row.put(entry)

    # -- who is worth a look -----------------------------------------------------------------------------------------

    def _least(self, key: int, most: int = LEAST) -> Sequence[EndpointState]:
        """The least costs of each rank, until there are enough, and the freest, who may be the same; of whoever cannot
        take anything now so many that a filter sees that they are there."""
        found, states, open_ = [], self._states, 0
        for (_, kind), row in self._rows.items():
            if kind == _OPEN:
                if open_ >= most:
                    break
                found += [one[-1] for one in first(row.by_cost, most - open_, key, in_turn=self._drawn)]
                open_ = len(found)
                if self._held_back:
                    found += [one[-1] for one in first(row.by_wait, FREEST, key)]
            elif open_ < most:
                found += [one[-1] for one in row.by_cost[: most // 2 if kind == _GENTLE else 1]]
        return [states[number] for number in found]

    def _in_turn(self) -> Sequence[EndpointState]:
        """As many as there may be, each as often as any other."""
        self._next += 1
        return self._least(self._next - 1, SMALL)

    def _near(self, request: InferenceRequest, most: tuple[int, int, int]) -> Iterator[EndpointState]:
        """Those that hold the most of the prompt, and the first ones of its session."""
        blocks = request.prefix_blocks
        if blocks:
            yield from self._holding(self._held, blocks, most)
            if len(self._placed):
                yield from self._holding(self._placed, blocks, most)
        if self._by_session:
            yield from self._homes_of(session_key(request))

    def _holding(
        self, held: Holders[EndpointState], blocks: Sequence[int], most: tuple[int, int, int]
    ) -> list[EndpointState]:
        few, many, more = most
        deep = held.depth(blocks, few)
        found = held.of(blocks[deep]) if deep < len(blocks) else []
        if deep:
            wide = held.depth(blocks[:deep], SEEN)
            if wide < deep:
                found += self._cheapest(held.of(blocks[wide]), many)
            if wide:
                rest = held.of(blocks[wide - 1])
                step = 1 + len(rest) // SEEN
                found += self._cheapest(rest[blocks[-1] % step :: step], more)
        return found

    def _cheapest(self, states: Iterable[EndpointState], most: int) -> list[EndpointState]:
        """Of these, by what a prompt costs there that is not cached; only those that may be sent to."""
        entries = [(state, self._entries.get(state)) for state in states]
        spots = sorted([entry.by_cost for _, entry in entries if entry is not None and entry.row.open])
        return [self._states[number] for _, _, number in spots[:most]]

    def _homes_of(self, session: int) -> Sequence[EndpointState]:
        best = next((rank for (rank, _), row in self._rows.items() if row.by_cost), 0)
        homes = self._homes.get((session, best))
        if homes is None:
            states = [state for state in self._states if not self._by_role or state.rank == best]
            order = ranks(states, session)
            homes = sorted(
                (state for state, rank in zip(states, order, strict=True) if rank < HOMES),
                key=self._numbers.__getitem__,
            )
            self._homes[session, best] = homes
            if len(self._homes) > SESSIONS:
                self._homes.popitem(last=False)
        else:
            self._homes.move_to_end((session, best))
        return homes

    def _shut(self, now: float) -> bool:
        """Whether a request would be held back everywhere."""
        gate = self._profile.gate
        if gate is None:
            return False
        for (_, kind), row in self._rows.items():
            if kind == _FULL:
                continue
            for _, _, number in row.by_wait[:FREEST]:
                state = self._states[number]
                if not state.in_flight or wait_seconds(state, now) < gate.wait_seconds * state.rates.slower:
                    return False
        return True

    def _whole(self, verdict: Rejection, excluded: frozenset[str], now: float) -> View | Rejection:
        """The shortlist has nobody: a look at all."""
        if verdict.reason is RejectReason.POOL_BUSY and not excluded and now - self._swept_at < AGAIN_SECONDS:
            return verdict
        self._swept_at = now
        self._dirty.update(self._states)
        return self._profile.look(self._states, now, excluded)


def fitted(before: Shortlist | None, states: Sequence[EndpointState], profile: Profile) -> Shortlist | None:
    """What a pool of these needs, `before` being what it had; None where it is to be looked at whole."""
    if len(states) <= SMALL or profile.judges_all:
        if before is not None:
            before.end()
        return None
    shortlist = before or Shortlist()
    shortlist.serve(states, profile)
    return shortlist
