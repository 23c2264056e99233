"""Shares converge to the weights, nobody starves, and the rest of the order counts within a bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.fairness import SWEEP_AT, FairShare, work_seconds
from policies.cost import Rates

KAPPA = 0.05
SLACK = 1e-6  # of floats


@dataclass
class Client:
    """A tenant with always as many waiting requests as `depth`. `sizes`: their work in turn, seconds."""

    name: str
    weight: float
    sizes: Sequence[float]
    depth: int = 3
    offset: float = 0.0
    believed: Callable[[float], float] = float  # the work that is charged at dispatch
    work: float = 0.0
    waiting: list[tuple[float, float]] = field(default_factory=list)  # arrived, size

    def __post_init__(self) -> None:
        self._next = cycle(self.sizes)

    def fill(self, now: float) -> None:
        while len(self.waiting) < self.depth:
            self.waiting.append((now, next(self._next)))

    def best(self, now: float) -> tuple[float, int]:
        """The least key without lag, and whose it is."""
        return min((size + self.offset - KAPPA * (now - at), index) for index, (at, size) in enumerate(self.waiting))


class Server:
    """Serves one request at a time, the one with the least key."""

    def __init__(self, clients: Sequence[Client], c: float = 1.0) -> None:
        self.clients = clients
        self.c = c
        self.now = 0.0
        self.longest_wait = 0.0
        self.fair = FairShare()
        for client in clients:
            self.fair.joined(client.name, client.weight)
            client.fill(0.0)

    def serve(self) -> Client:
        now = self.now
        key = {client.name: client.best(now)[0] + self.c * self.fair.lag(client.name) for client in self.clients}
        client = min(self.clients, key=lambda one: key[one.name])
        at, size = client.waiting.pop(client.best(now)[1])
        charge = self.fair.charge(client.name, client.weight, client.believed(size))
        client.fill(now)
        self.now += size
        charge.settle(size)
        client.work += size
        self.longest_wait = max(self.longest_wait, now - at, *(now - one[0] for c in self.clients for one in c.waiting))
        return client

    @property
    def most(self) -> float:
        """Δ/c + s."""
        sizes = [size for client in self.clients for size in client.sizes]
        offsets = [client.offset for client in self.clients]
        spread = max(sizes) - min(sizes) + max(offsets) - min(offsets) + KAPPA * self.longest_wait
        return spread / self.c + max(sizes)


CLIENTS = st.lists(
    st.builds(
        Client,
        name=st.just(""),
        weight=st.sampled_from([0.1, 1.0, 2.0, 3.0, 50.0]),
        sizes=st.lists(st.floats(0.01, 13.0), min_size=1, max_size=4),
        depth=st.integers(1, 4),
        offset=st.sampled_from([0.0, 0.5, 1.0, 15.0]),
    ),
    min_size=2,
    max_size=5,
)


def named(clients: list[Client]) -> list[Client]:
    for number, client in enumerate(clients):
        client.name = f"t{number}"
    return clients


@given(CLIENTS, st.sampled_from([0.25, 1.0, 4.0]), st.integers(0, 150), st.integers(1, 150))
def test_work_is_in_proportion_to_weight_within_the_bound_over_every_interval(
    clients: list[Client], c: float, before: int, during: int
) -> None:
    server = Server(named(clients), c)
    for _ in range(before):
        server.serve()
    start = {client.name: client.work for client in clients}
    for _ in range(during):
        server.serve()
        assert all(server.fair.lag(client.name) <= server.most + SLACK for client in clients)
    done = {client.name: client.work - start[client.name] for client in clients}
    for one in clients:
        for other in clients:
            ahead = done[one.name] / one.weight - done[other.name] / other.weight
            assert ahead <= server.most / one.weight + server.most / other.weight + SLACK


@given(CLIENTS, st.sampled_from([0.25, 1.0, 4.0]), st.integers(0, 100))
def test_nobody_starves_whatever_the_tiers_and_weights(clients: list[Client], c: float, before: int) -> None:
    server = Server(named(clients), c)
    for _ in range(before):
        server.serve()
    *others, last = clients
    lag = server.fair.lag(last.name)
    done = {client.name: client.work for client in others}
    while server.serve() is not last:
        for one in others:
            most = server.most + max(1.0, one.weight / last.weight) * lag
            assert one.work - done[one.name] <= most + SLACK


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.01, 10.0), st.floats(0.0, 10.0)), max_size=60),
    st.lists(st.sampled_from("abcd"), max_size=60),
)
def test_the_least_served_of_those_that_wait_has_no_lag_and_nobody_has_a_negative_one(
    charges: list[tuple[str, float, float]], moves: list[str]
) -> None:
    fair, waiting, open_ = FairShare(), set(), []
    for index, (tenant, believed, real) in enumerate(charges):
        if index < len(moves):
            mover = moves[index]
            fair.left(mover) if mover in waiting else fair.joined(mover, 1.0)
            waiting ^= {mover}
        open_.append((fair.charge(tenant, 1.0, believed), real))
        if index % 3 == 2:
            charge, settled = open_.pop(0)
            charge.settle(settled)
        lags = [fair.lag(one) for one in sorted(waiting)]
        assert min(lags, default=0.0) == 0.0
        assert all(fair.lag(one) >= 0 for one in "abcd")
        assert waiting or not len(fair)


def test_three_tenants_of_weights_three_two_and_one_get_as_much_work() -> None:
    clients = [Client("a", 3.0, [0.1, 2.0]), Client("b", 2.0, [0.05]), Client("c", 1.0, [5.0])]
    server = Server(clients)
    while server.now < 6000:
        server.serve()
    assert [client.work / server.now for client in clients] == pytest.approx([3 / 6, 2 / 6, 1 / 6], abs=0.01)


def test_weights_count_by_their_relation_alone() -> None:
    def served(scale: float) -> list[str]:
        clients = [Client("a", 2.0 * scale, [0.3, 4.0]), Client("b", scale, [0.5])]
        server = Server(clients)
        return [server.serve().name for _ in range(300)]

    assert served(1.0) == served(64.0)


def test_a_better_tier_goes_first_until_it_is_ahead_by_what_the_tier_is_worth() -> None:
    platinum, silver = Client("platinum", 1.0, [0.1]), Client("silver", 1.0, [0.1], offset=1.0)
    server = Server([platinum, silver])
    first = [server.serve().name for _ in range(8)]
    assert first == ["platinum"] * 8
    while server.now < 100:
        server.serve()
    assert platinum.work - silver.work == pytest.approx(1.0, abs=0.25)


def test_short_prompts_go_before_the_long_one_of_a_tenant_with_an_equal_share_until_they_have_had_as_much() -> None:
    short, long = Client("short", 1.0, [0.05]), Client("long", 1.0, [13.0])
    server = Server([short, long])
    while server.serve() is short:
        pass
    assert 11.0 < short.work <= 13.0


def test_a_flood_of_one_tenant_hardly_delays_another() -> None:
    flood, light = Client("flood", 1.0, [0.1], depth=600), Client("light", 1.0, [0.1], depth=1)
    server = Server([flood])
    for _ in range(500):
        server.serve()
    assert server.longest_wait > 45
    server.clients = [flood, light]
    server.fair.joined("light", 1.0)
    light.fill(server.now)
    came = server.now
    while server.serve() is not light:
        pass
    assert server.now - came < KAPPA * server.longest_wait + 0.5


def test_a_tenant_that_was_idle_comes_back_level_and_not_with_credit() -> None:
    fair = FairShare()
    fair.joined("a", 1.0)
    fair.joined("b", 1.0)
    fair.left("b")
    fair.joined("c", 1.0)
    for _ in range(100):
        fair.charge("a", 1.0, 1.0)
        fair.charge("c", 1.0, 1.0)
    fair.joined("b", 1.0)
    assert (fair.lag("a"), fair.lag("b"), fair.lag("c")) == (0.0, 0.0, 0.0)


def test_work_while_nobody_else_waits_puts_nobody_ahead() -> None:
    fair = FairShare()
    fair.charge("a", 1.0, 50.0)
    fair.joined("a", 1.0)
    charge = fair.charge("a", 1.0, 100.0)
    fair.joined("b", 1.0)
    assert (fair.lag("a"), fair.lag("b")) == (0.0, 0.0)
    charge.settle(1.0)
    assert (fair.lag("a"), fair.lag("b")) == (0.0, 0.0), "credit for what was never held against it"


def test_a_correction_is_no_credit_towards_who_came_after_its_rivals_had_left() -> None:
    fair = FairShare()
    fair.joined("a", 1.0)
    fair.joined("b", 1.0)
    charge = fair.charge("a", 1.0, 10.0)
    fair.left("b")
    fair.joined("c", 1.0)
    charge.settle(1.0)
    assert (fair.lag("a"), fair.lag("c")) == (0.0, 0.0)


def test_who_has_left_and_was_charged_too_little_is_as_far_ahead_as_it_should_be() -> None:
    fair = FairShare()
    fair.joined("a", 1.0)
    fair.joined("b", 1.0)
    charge = fair.charge("a", 1.0, 1.0)
    fair.left("a")
    fair.charge("b", 1.0, 4.0)
    charge.settle(10.0)
    fair.joined("a", 1.0)
    assert fair.lag("a") == 6.0


def test_a_lead_is_kept_over_a_short_absence_and_is_gone_when_the_others_have_caught_up() -> None:
    fair = FairShare()
    fair.joined("a", 1.0)
    fair.joined("b", 1.0)
    fair.charge("a", 1.0, 10.0)
    fair.left("a")
    fair.charge("b", 1.0, 4.0)
    assert fair.lag("a") == 6.0
    fair.joined("a", 1.0)
    assert (fair.lag("a"), fair.lag("b")) == (6.0, 0.0)
    fair.left("a")
    fair.charge("b", 1.0, 7.0)
    fair.joined("a", 1.0)
    assert (fair.lag("a"), fair.lag("b")) == (0.0, 0.0)


def test_an_estimate_is_corrected_once() -> None:
    fair = FairShare()
    fair.joined("a", 2.0)
    fair.joined("b", 1.0)
    charge = fair.charge("a", 2.0, 10.0)
    assert fair.lag("a") == 10.0
    charge.settle(3.0)
    charge.settle(0.0)
    assert fair.lag("a") == 3.0
    fair.charge("a", 2.0, 5.0).settle(0.0)
    assert fair.lag("a") == 3.0


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("b", "a")])
def test_a_correction_reaches_over_what_others_were_given_meanwhile(one: str, other: str) -> None:
    fair = FairShare()
    fair.joined("a", 1.0)
    fair.joined("b", 1.0)
    charge = fair.charge(one, 1.0, 10.0)
    fair.charge(other, 1.0, 10.0)
    assert (fair.lag(one), fair.lag(other)) == (0.0, 0.0)
    charge.settle(1.0)
    assert (fair.lag(one), fair.lag(other)) == (0.0, 9.0)


@pytest.mark.parametrize("believed", [lambda size: 20 * size, lambda size: size / 20, lambda size: 5.0])
def test_wrong_estimates_do_not_shift_the_shares(believed: Callable[[float], float]) -> None:
    wrong, right = Client("wrong", 1.0, [0.2, 1.0], believed=believed), Client("right", 1.0, [0.2, 1.0])
    server = Server([wrong, right])
    while server.now < 1000:
        server.serve()
    assert abs(wrong.work - right.work) < 5


def test_a_correction_after_everybody_has_left_says_nothing() -> None:
    fair = FairShare()
    fair.joined("a", 1.0)
    fair.joined("b", 1.0)
    charge = fair.charge("a", 1.0, 1.0)
    fair.left("a")
    fair.left("b")
    fair.left("b")
    fair.joined("a", 1.0)
    fair.joined("b", 1.0)
    charge.settle(100.0)
    assert (fair.lag("a"), fair.lag("b")) == (0.0, 0.0)


def test_a_changed_weight_counts_from_now_on() -> None:
    fair = FairShare()
    fair.joined("a", 1.0)
    fair.joined("b", 1.0)
    fair.charge("a", 1.0, 4.0)
    fair.joined("a", 4.0)
    fair.charge("a", 4.0, 4.0)
    fair.charge("b", 1.0, 5.0)
    assert (fair.lag("a"), fair.lag("b")) == (0.0, 0.0)


def test_a_correction_is_made_at_the_weight_of_its_charge() -> None:
    fair = FairShare()
    fair.joined("a", 10.0)
    fair.joined("b", 1.0)
    charge = fair.charge("a", 10.0, 10.0)
    fair.joined("a", 1.0)
    charge.settle(0.0)
    assert (fair.lag("a"), fair.lag("b")) == (0.0, 0.0)


def test_tenants_that_neither_wait_nor_are_ahead_are_forgotten() -> None:
    fair = FairShare()
    fair.joined("busy", 1.0)
    fair.joined("other", 1.0)
    for number in range(10_000):
        tenant = f"t{number}"
        fair.joined(tenant, 1.0)
        fair.charge(tenant, 1.0, 1.0)
        fair.left(tenant)
        fair.charge("busy", 1.0, 0.5)
        fair.charge("other", 1.0, 0.5)
        assert len(fair) <= SWEEP_AT
    fair.left("busy")
    fair.left("other")
    assert len(fair) == 0


def test_a_lead_is_not_forgotten_when_others_are() -> None:
    fair = FairShare()
    fair.joined("a", 1.0)
    fair.joined("b", 1.0)
    fair.charge("ahead", 1.0, 5.0)
    for number in range(10 * SWEEP_AT):
        fair.joined(f"t{number}", 1.0)
        fair.left(f"t{number}")
    assert fair.lag("ahead") == 5.0


def test_work_is_prefill_and_a_part_of_every_step_of_the_answer() -> None:
    rates = Rates(prefill=1e-4, attention=0.0, decode=2e-5, context=1e-8, overhead=0.0)
    assert work_seconds(rates, 1000, 0, 0) == pytest.approx(0.1)
    assert work_seconds(rates, 0, 1000, 100) == pytest.approx(100 * (2e-5 + 1e-8 * 1050))
