"""A shortlist costs hardly a better choice, never one that there was, and keeps what each profile means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.admission.desk import Desk
from policies.admission.order import ShortestPrefillFirst
from policies.cost import Rates
from policies.decision import Decision
from policies.dispatch import SENT_OF_PART, plan
from policies.endpoint_state import EndpointState
from policies.exact_index import ExactIndex
from policies.overflow import Overflow
from policies.pickers import TIE
from policies.profile import Profile
from policies.registry import PartSpec, ProfileSpec, compose, make_profile
from policies.shortlist import AGAIN_SECONDS, IN_LINE, IN_TURN, SMALL, Shortlist, fitted
from policies.types import InferenceRequest, Rejection, RejectReason, Role
from policies.view import View
from policies.waiting import Waiting
from tests.policies.builders import learn_rates, load, make_fleet, make_request, make_state, rng
from tests.policies.kv_engine import KvEngine
from tests.policies.kv_engine import chain_of as chain_of_tokens

NOW = 100.0
MANY = 512
IDLE_AND_BUSY = (0, 1, 3, 6)


def shortlist_of(states: Sequence[EndpointState], profile: Profile) -> Shortlist:
    found = fitted(None, states, profile)
    assert found is not None
    return found


def chain(rng: Random, length: int) -> tuple[int, ...]:
    return tuple(rng.getrandbits(64) for _ in range(length))


class Scene(NamedTuple):
    """A pool, and documents that prompts begin with: some that hundreds of endpoints have, some that one has."""

    states: list[EndpointState]
    documents: list[tuple[int, ...]]

    def prompt(self, rng: Random) -> InferenceRequest:
        document, length = rng.choice(self.documents), rng.choice([2, 10, 40, 100])
        seen = rng.randint(0, min(length, len(document)))
        blocks = (*document[:seen], *chain(rng, length - seen))
        return make_request(str(rng.random()), prompt_tokens=64 * length + 10, blocks=blocks)


def scene(rng: Random, count: int = MANY, in_flight: Sequence[int] = IDLE_AND_BUSY, documents: int = 40) -> Scene:
    states = [make_state(f"e{number}", kv_capacity_tokens=200_000) for number in range(count)]
    found = Scene(states, [chain(rng, 100) for _ in range(documents)])
    for number, document in enumerate(found.documents):
        for state in rng.sample(states, max(1, count // (2 * number + 2))):
            state.index.touch(document[: rng.randint(1, 100)])
    for state in states:
        for _ in range(rng.choice(in_flight)):
            reservation = state.reserve(found.prompt(rng), 0, 0.8 * rng.random(), NOW - rng.random())
            if rng.random() < 0.6:
                reservation.first_token(NOW)
    return found


def chosen(profile: Profile, view: View | Rejection, request: InferenceRequest) -> tuple[EndpointState, list[float]]:
    """Where the request would go, and its costs in the view's order."""
    assert isinstance(view, View)
    waiting = Waiting(request)
    decision, _ = profile.preview(waiting, view)
    return decision.choice.state, profile._costs(waiting, view)


# -- how near to the full look ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "in_flight"),
    [
        ("prompt-aware", IDLE_AND_BUSY),
        ("prompt-aware", (0,)),
        ("prompt-aware", (2, 4, 8)),
        ("prompt-aware-at-once", IDLE_AND_BUSY),
        ("least-load", IDLE_AND_BUSY),
        ("least-outstanding", IDLE_AND_BUSY),
        ("least-in-flight", IDLE_AND_BUSY),
    ],
)
def test_the_choice_costs_what_the_best_of_all_does_nearly_always(profile: str, in_flight: Sequence[int]) -> None:
    rng = Random(3)
    here = scene(rng, in_flight=in_flight)
    policy = make_profile(profile, Random(1))
    short, worse, excess = shortlist_of(here.states, policy), 0, 0.0
    for _ in range(300):
        request = here.prompt(rng)
        best, costs = chosen(policy, policy.look(here.states, NOW), request)
        view = short.look(Waiting(request), NOW)
        assert isinstance(view, View)
        assert len(view.states) <= SMALL
        own, _ = chosen(policy, view, request)
        more = costs[here.states.index(own)] - costs[here.states.index(best)]
        worse += more > TIE
        excess += max(0.0, more)
        reservation = own.reserve(request, own.index.match(request.prefix_blocks) * 64, 0.3 * rng.random(), NOW)
        if rng.random() < 0.5:
            reservation.first_token(NOW)
    assert worse <= 300 * 0.03
    assert excess / 300 <= TIE


def test_slow_endpoints_stand_behind_quick_ones_that_are_busy_only_as_long_as_these_are_better() -> None:
    states = make_fleet(100)
    for state in states[:90]:
        load(state, 0.2, now=NOW)
    for state in states[90:]:
        learn_rates(state, Rates(prefill=1e-3))
    profile = make_profile("prompt-aware", rng())
    short = shortlist_of(states, profile)
    for tokens in (256, 20_000):
        request = make_request(prompt_tokens=tokens, blocks=())
        best, costs = chosen(profile, profile.look(states, NOW), request)
        own, _ = chosen(profile, short.look(Waiting(request), NOW), request)
        assert costs[states.index(own)] == pytest.approx(costs[states.index(best)], abs=TIE)


def test_an_idle_pool_is_used_as_a_whole_and_each_prompt_goes_to_the_same_endpoint() -> None:
    states, profile, rng = make_fleet(MANY), make_profile("prompt-aware", Random(1)), Random(5)
    short = shortlist_of(states, profile)
    requests = [make_request(str(number), blocks=chain(rng, 8)) for number in range(3_000)]
    first = [chosen(profile, short.look(Waiting(one), NOW), one)[0] for one in requests]
    assert len(set(first)) > 0.95 * MANY
    assert max(Counter(map(id, first)).values()) < 6 * 3_000 / MANY
    other = shortlist_of(states, profile)
    assert [chosen(profile, other.look(Waiting(one), NOW), one)[0] for one in requests] == first


def test_who_holds_a_prompt_by_the_engines_own_word_is_found() -> None:
    states, tokens = make_fleet(100), tuple(range(400))
    states[77].index = index = ExactIndex(2, "s")
    profile = make_profile("prompt-aware", rng())
    short = shortlist_of(states, profile)
    index.lost(complete=True)
    index.listen(True)
    blocks, engine = chain_of_tokens(tokens, 4), KvEngine(4)
    session = index.expect(blocks, len(tokens), 4.0)
    engine.run(session, tokens)
    for event in engine.tell():
        index.apply(event)
    index.settle(session, len(tokens), 0)
    request = make_request(prompt_tokens=25_600, blocks=blocks, tokens_per_block=256.0)
    assert chosen(profile, short.look(Waiting(request), NOW), request)[0] is states[77]


# -- nobody is overlooked --------------------------------------------------------------------------------------------

OPEN, CLOSED = ["open"], ["sleeping", "draining", "withdrawn", "sick", "full", "starting"]
STATUSES = st.lists(
    st.tuples(st.integers(0, 79), st.sampled_from(CLOSED + OPEN), st.sampled_from(list(Role))), max_size=12
)
FILTERS = [("available", "best-role", "seat"), ("available", "seat", "best-role"), ("available", "seat")]


def become(state: EndpointState, status: str) -> None:
    state.sleeping, state.draining = status == "sleeping", status == "draining"
    state.withdrawn = "unschedulable" if status == "withdrawn" else ""
    if status == "sick":
        state.health.probe(False, NOW)
        state.health.probe(False, NOW)
    elif status == "full":
        while not state.full:
            load(state, 0.01, now=NOW)
    elif status == "starting":
        state.health.slow_start.seconds = 1000.0
        state.health.slow_start.begin(NOW)
        for _ in range(4):
            load(state, 0.01, now=NOW)


@given(
    st.sampled_from(CLOSED + OPEN),
    STATUSES,
    STATUSES,
    st.sampled_from(FILTERS),
    st.frozensets(st.integers(0, 79), max_size=4),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_it_refuses_only_where_the_full_look_does_and_sends_only_where_that_would(
    most: str,
    before: list[tuple[int, str, Role]],
    after: list[tuple[int, str, Role]],
    filters: tuple[str, ...],
    failed: frozenset[int],
    gated: bool,
) -> None:
    """Most endpoints are of one kind, a few are not; some change without a word."""
    spec = ProfileSpec("", ((PartSpec("predicted-ttft"), 1.0),), filters=filters)
    profile = compose("p", spec, Random(1)) if not gated else make_profile("prompt-aware", Random(1))
    states = make_fleet(80, max_in_flight=5)
    for state in states:
        become(state, most)
    for number, status, role in before:
        states[number].rank = list(Role).index(role)
        become(states[number], status)
    short = shortlist_of(states, profile)
    exclude = frozenset(f"e{number}" for number in failed)
    for now in (NOW, NOW + 2 * AGAIN_SECONDS):
        waiting = Waiting(make_request(), exclude)
        found, full = short.look(waiting, now), profile.look(states, now, exclude)
        blocked = short.blocked(now, exclude)
        if isinstance(full, Rejection):
            assert (found, blocked) == (full, full)
        else:
            assert isinstance(found, View)
            assert blocked is None
            assert {id(found.states[one]) for one in found.open} <= {id(states[one]) for one in full.open}
        for number, status, role in after:
            states[number].rank = list(Role).index(role)
            become(states[number], status)
            short.changed(states[number])


@pytest.mark.parametrize("profile", ["prompt-aware", "session-affinity", "round-robin", "power-of-two"])
def test_the_only_one_that_can_take_anything_is_found_though_nobody_has_told(profile: str) -> None:
    states = make_fleet(300)
    policy = make_profile(profile, rng())
    for state in states:
        state.sleeping = True
    short = shortlist_of(states, policy)
    assert short.look(Waiting(make_request()), NOW) == Rejection(RejectReason.NO_ENDPOINT, detail="available")
    states[211].sleeping = False
    assert chosen(policy, short.look(Waiting(make_request()), NOW), make_request())[0] is states[211]


def test_a_full_pool_is_looked_at_again_after_a_while_and_at_once_when_a_seat_is_given_back() -> None:
    states = make_fleet(100, max_in_flight=1)
    held = [state.reserve(make_request(blocks=()), 0, 0.1, NOW) for state in states]
    short = shortlist_of(states, make_profile("prompt-aware", rng()))
    assert isinstance(short.look(Waiting(make_request()), NOW), Rejection)
    held[63].release(NOW)
    view = short.look(Waiting(make_request()), NOW)
    assert isinstance(view, View)
    assert [view.states[column] for column in view.open] == [states[63]]


def test_whoever_is_back_is_found_in_turn_though_others_serve_and_nobody_has_told() -> None:
    states = make_fleet(100)
    for state in states:
        if state is not states[50]:
            load(state, 0.2, now=NOW)
    states[50].draining = True
    short, request = shortlist_of(states, make_profile("prompt-aware", rng())), make_request(blocks=())
    assert states[50] not in short.of(request, NOW)
    states[50].draining = False
    looks = [states[50] in short.of(request, NOW) for _ in range(100 * IN_TURN)]
    assert (looks[0], looks[-1]) == (False, True)


# -- what profiles mean ----------------------------------------------------------------------------------------------


def send_all(
    short: Shortlist, profile: Profile, requests: Sequence[InferenceRequest], *, stay: bool = False
) -> list[EndpointState]:
    went = []
    for request in requests:
        view = short.look(Waiting(request), NOW)
        assert isinstance(view, View)
        decision = profile.place(Waiting(request), view)
        assert decision is not None
        went.append(decision.choice.state)
        reservation = decision.choice.state.reserve(request, 0, 0.1, NOW)
        if not stay:
            reservation.release(NOW)
    return went


def sessions(count: int) -> list[InferenceRequest]:
    return [replace(make_request(str(number)), session=f"s{number}") for number in range(count)]


def test_a_session_has_the_endpoint_that_it_has_when_all_are_looked_at() -> None:
    states, profile = make_fleet(200), make_profile("session-affinity", rng())
    for state in states[:40]:
        load(state, 0.3, now=NOW)
    states[3].draining = True
    short = shortlist_of(states, profile)
    for request in sessions(150):
        expected, _ = chosen(profile, profile.look(states, NOW), request)
        assert chosen(profile, short.look(Waiting(request), NOW), request)[0] is expected


def test_a_session_whose_endpoint_has_more_than_its_share_goes_to_the_next_as_when_all_are_looked_at() -> None:
    states, profile, request = make_fleet(200), make_profile("session-affinity", rng()), sessions(1)[0]
    own, _ = chosen(profile, profile.look(states, NOW), request)
    for state in states[:100]:
        load(state, 0.1, now=NOW)
    for _ in range(9):
        load(own, 0.1, now=NOW)
    expected, _ = chosen(profile, profile.look(states, NOW), request)
    assert expected is not own
    assert chosen(profile, shortlist_of(states, profile).look(Waiting(request), NOW), request)[0] is expected


def test_a_session_has_another_endpoint_as_soon_as_its_own_is_gone_or_is_a_standby() -> None:
    states, profile, request = make_fleet(200), make_profile("session-affinity", rng()), sessions(1)[0]
    short = shortlist_of(states, profile)
    own, _ = chosen(profile, short.look(Waiting(request), NOW), request)
    own.rank = 1
    short.changed(own)
    second, _ = chosen(profile, short.look(Waiting(request), NOW), request)
    assert second is chosen(profile, profile.look(states, NOW), request)[0] is not own
    left = [state for state in states if state is not second]
    assert fitted(short, left, profile) is short
    third, _ = chosen(profile, short.look(Waiting(request), NOW), request)
    assert third is chosen(profile, profile.look(left, NOW), request)[0] is not second


def test_round_robin_gives_each_its_turn() -> None:
    states, profile = make_fleet(100), make_profile("round-robin", rng())
    went = send_all(shortlist_of(states, profile), profile, [make_request(str(one)) for one in range(200)])
    assert went[:100] == states
    assert went[100:] == states


@pytest.mark.parametrize(
    ("profile", "ratio", "slack"),
    [("round-robin", 3.0, 0.05), ("random", 3.0, 0.15), ("power-of-two", 15.0, 0.15)],  # of two one is light: 1 in 16
)
def test_weights_say_how_often_each_is_taken(profile: str, ratio: float, slack: float) -> None:
    states = [make_state(f"e{number}", weight=1.0 + 2.0 * (number % 2)) for number in range(80)]
    policy = make_profile(profile, Random(2))
    went = send_all(shortlist_of(states, policy), policy, [make_request(str(one), blocks=()) for one in range(8_000)])
    heavy = sum(state.endpoint.weight > 1 for state in went)
    assert heavy / (8_000 - heavy) == pytest.approx(ratio, rel=slack)
    assert len(set(went)) == 80


def test_two_at_random_are_any_two() -> None:
    """One endpoint is nearly idle: all would go there were the cheaper one taken of as many as a shortlist has."""
    states, profile = make_fleet(100), make_profile("power-of-two", Random(4))
    for state in states[1:]:
        load(state, 0.1, tokens=1_000_000, now=NOW)
    went = send_all(shortlist_of(states, profile), profile, [make_request(str(one), blocks=()) for one in range(2_000)])
    assert Counter(map(id, went))[id(states[0])] < 0.06 * 2_000


def test_where_a_filter_judges_all_together_all_are_looked_at() -> None:
    profile = make_profile("prompt-aware", rng())
    profile.replace_filter(Overflow(0.2, 0.8))
    assert fitted(None, make_fleet(100), profile) is None


# -- what serves -----------------------------------------------------------------------------------------------------


def test_small_pools_have_none() -> None:
    profile, states = make_profile("prompt-aware", rng()), make_fleet(SMALL + 1)
    short = fitted(None, states, profile)
    assert short is not None
    assert fitted(short, states[:SMALL], profile) is None
    assert all(state.on_change is None and state.index.watch is None for state in states)


def test_endpoints_that_have_come_are_found_and_those_that_are_gone_are_not() -> None:
    states, profile, rng_ = make_fleet(100), make_profile("prompt-aware", rng()), Random(6)
    document = chain(rng_, 50)
    short = shortlist_of(states[:80], profile)
    states[0].index.touch(document)
    states[90].index.touch(document)
    request = make_request(prompt_tokens=3_300, blocks=document)
    assert chosen(profile, short.look(Waiting(request), NOW), request)[0] is states[0]
    assert fitted(short, states[10:], profile) is short
    assert chosen(profile, short.look(Waiting(request), NOW), request)[0] is states[90]
    assert states[0].on_change is None


def test_no_two_endpoints_are_ever_taken_for_each_other() -> None:
    """A column of a pass may be another endpoint's in the next: what was predicted is known by the version alone."""
    states = make_fleet(100)
    for state in states:
        state.index.version = 7
    short = shortlist_of(states, make_profile("prompt-aware", rng()))
    versions = [state.index.version for state in states]
    assert len(set(versions)) == 100
    fitted(short, states[1:], make_profile("prompt-aware", rng()))
    assert [state.index.version for state in states] == versions


class Pass:
    """A pool with requests that wait, and passes over them."""

    def __init__(self, here: Scene, profile: Profile, requests: Sequence[InferenceRequest], *, whole: bool) -> None:
        self.profile, self.states = profile, here.states
        self.short = None if whole else shortlist_of(here.states, profile)
        self.desk = Desk(ShortestPrefillFirst())
        self.costs: list[float] = []
        for request in requests:
            waiting = Waiting(request)
            states = here.states if self.short is None else self.short.of(request, NOW)
            self.desk.enter(waiting, states, NOW)

    def run(self, now: float, check: Callable[[Sequence[EndpointState]], None] = lambda states: None) -> int:
        if self.short is None:
            return plan(self.desk, self.states, self.profile, now, self.commit)
        states = self.short.for_line(self.desk.queue.soonest(IN_LINE), now)
        assert len(states) <= SMALL
        assert len(set(states)) == len(states)
        sent = plan(self.desk, states, self.profile, now, self.commit, whole=self.short.whole)
        check(states)
        return sent if sent < SENT_OF_PART else sent + self.run(now, check)

    def commit(self, waiting: Waiting, decision: Decision) -> None:
        choice = decision.choice
        self.costs.append(choice.cost)
        choice.state.reserve(waiting.request, choice.cached_tokens, choice.own_seconds, NOW)
        self.desk.sent(waiting, choice.state.rates, choice.cached_tokens, NOW)


def test_a_pass_sends_as_many_as_a_look_at_all_does_and_as_well() -> None:
    passes = []
    for whole in (True, False):
        rng = Random(8)
        here = scene(rng, count=300, in_flight=(1, 2, 3))
        requests = [here.prompt(rng) for _ in range(64)]
        passes.append(Pass(here, make_profile("prompt-aware", Random(1)), requests, whole=whole))
        passes[-1].run(NOW)
    full, short = passes
    assert len(short.costs) >= 0.95 * len(full.costs) > 50
    assert sum(short.costs) / len(short.costs) <= 1.1 * sum(full.costs) / len(full.costs)


def test_whoever_waits_is_sent_as_endpoints_become_free_and_what_is_known_of_it_stays_right() -> None:
    rng = Random(9)
    here = scene(rng, count=200, in_flight=(2, 3))
    busy = [state.reserve(make_request(blocks=()), 0, 2.0, NOW) for state in here.states]
    passing = Pass(here, make_profile("prompt-aware", Random(1)), [here.prompt(rng) for _ in range(64)], whole=False)

    def is_right(states: Sequence[EndpointState]) -> None:
        versions = tuple([state.index.version for state in states])
        for waiting in passing.desk.queue:
            if waiting.versions == versions:
                fresh = Waiting(waiting.request)
                fresh.predict(states, versions, range(len(states)))
                assert (waiting.cached, waiting.own) == (fresh.cached, fresh.own)

    now, sent = NOW, passing.run(NOW, is_right)
    rng.shuffle(busy)
    for reservation in busy:
        now += 0.05
        reservation.release(now)
        for other in here.states:
            if other is reservation.state:
                other.pending_prefill_seconds = 0.0
        sent += passing.run(now, is_right)
    assert sent == 64


@pytest.mark.parametrize("profile", ["prompt-aware", "session-affinity"])
def test_a_list_for_many_that_have_nothing_in_common_is_no_longer_than_one_for_few(profile: str) -> None:
    states, rng_ = make_fleet(300), Random(10)
    short = shortlist_of(states, make_profile(profile, rng()))
    for _ in range(20):
        soonest = [Waiting(replace(one, prefix_blocks=chain(rng_, 4))) for one in sessions(IN_LINE)]
        for waiting in soonest:
            for state in rng_.sample(states, 6):
                state.index.touch(waiting.request.prefix_blocks)
        found = short.for_line(soonest, NOW)
        assert len(set(found)) == len(found) <= SMALL


def test_the_idle_are_seen_where_a_pass_holds_back_for_all_that_are_busy() -> None:
    """Slow endpoints are far behind in the order of costs, but one that is idle takes what others would wait for."""
    states = make_fleet(100)
    for state in states[:99]:
        for _ in range(3):
            load(state, 0.3, now=NOW)
    learn_rates(states[99], Rates(prefill=2e-2))
    profile = make_profile("prompt-aware", rng())
    short = shortlist_of(states, profile)
    assert states[99] in short.for_line([], NOW)
    assert states[99] in short.of(make_request(), NOW)
