"""Limits hold in every minute, a grant settles once, and a refusal says exactly when to come back."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from policies.admission.limit import Prices, Use
from policies.admission.limits import LimitGrant, LimitRules, LimitSnapshot, TenantLimits, in_memory
from policies.types import LimitSpec, Rejection, RejectReason, Weights

SPEC = LimitSpec(requests_per_minute=10, tokens_per_minute=1000, concurrency=4)

# Per step: seconds gone by, what to do, with which of the grants so far, and a number of tokens.
STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 30.0),
        st.sampled_from(["admit", "admit", "admit", "settle", "settle unknown", "cancel"]),
        st.integers(0, 50),
        st.integers(0, 1100),
    ),
    max_size=80,
)
Steps = list[tuple[float, str, int, int]]


def limits_of(spec: LimitSpec) -> TenantLimits:
    return TenantLimits(LimitRules(spec), in_memory(0.0))


@dataclass
class Entry:
    """One admitted request as the test knows it."""

    grant: LimitGrant
    at: float
    tokens: int
    requests: int = 1
    settled: bool = False


def finish(entry: Entry, action: str, now: float, tokens: int) -> None:
    if action == "cancel":
        entry.grant.cancel(now)
    else:
        entry.grant.settle(now, None if action == "settle unknown" else Use(tokens))
    if entry.settled:
        return
    entry.settled = True
    if action == "cancel":
        entry.requests = entry.tokens = 0
    elif action == "settle":
        entry.tokens = min(entry.tokens, tokens)  # an overrun is charged when it is learned


def drive(limits: TenantLimits, steps: Steps) -> tuple[list[Entry], float]:
    entries: list[Entry] = []
    now = 5000.0
    for elapsed, action, which, tokens in steps:
        now += elapsed
        if action == "admit":
            grant = limits.admit(now, Use(tokens))
            if isinstance(grant, LimitGrant):
                entries.append(Entry(grant, now, tokens))
        elif entries:
            finish(entries[which % len(entries)], action, now, tokens)
        assert 0 <= limits.in_flight == sum(not entry.settled for entry in entries) <= 4
    return entries, now


@given(STEPS)
def test_no_minute_ever_sees_more_than_the_limits(steps: Steps) -> None:
    entries, _ = drive(limits_of(SPEC), steps)
    for last in entries:
        minute = [one for one in entries if last.at - 60 + 1e-6 < one.at <= last.at]
        assert sum(one.requests for one in minute) <= 10
        assert sum(one.tokens for one in minute) <= 1000


@given(STEPS)
def test_concurrency_returns_to_zero_and_a_minute_later_everything_is_free(steps: Steps) -> None:
    limits = limits_of(SPEC)
    entries, now = drive(limits, steps)
    for entry in entries:
        entry.grant.settle(now, None)
    assert limits.in_flight == 0
    assert limits.snapshot(now + 61) == LimitSnapshot(10, 10, 0.0, 1000, 1000, 0.0)


@given(STEPS, st.integers(0, 3000), st.integers(0, 3000))
def test_settling_twice_is_settling_once(steps: Steps, actual: int, again: int) -> None:
    once, twice = limits_of(SPEC), limits_of(SPEC)
    entries, now = drive(once, steps)
    doubled, _ = drive(twice, steps)
    for one, two in zip(entries, doubled, strict=True):
        one.grant.settle(now, Use(actual))
        two.grant.settle(now, Use(actual))
        two.grant.settle(now, Use(again))
        two.grant.cancel(now)
    assert once.snapshot(now) == twice.snapshot(now)
    assert once.in_flight == twice.in_flight


@given(STEPS, st.integers(0, 1000))
def test_retry_after_is_exact_when_nothing_else_happens(steps: Steps, tokens: int) -> None:
    limits = limits_of(LimitSpec(requests_per_minute=10, tokens_per_minute=1000))
    now = flood(limits, steps)
    refused = limits.admit(now, Use(tokens))
    if isinstance(refused, LimitGrant):
        return
    assert refused.retry_after is not None
    assert refused.retry_after > 0
    if refused.retry_after > 0.001:
        assert isinstance(limits.admit(now + refused.retry_after - 0.001, Use(tokens)), Rejection)
    assert isinstance(limits.admit(now + refused.retry_after, Use(tokens)), LimitGrant)


def flood(limits: TenantLimits, steps: Steps) -> float:
    now = 5000.0
    for elapsed, _, _, tokens in steps:
        now += elapsed
        limits.admit(now, Use(tokens))
    return now


def admit(limits: TenantLimits, now: float, tokens: int) -> LimitGrant:
    grant = limits.admit(now, Use(tokens))
    assert isinstance(grant, LimitGrant)
    return grant


def refuse(limits: TenantLimits, now: float, tokens: int) -> Rejection:
    rejection = limits.admit(now, Use(tokens))
    assert isinstance(rejection, Rejection)
    return rejection


def test_a_tenant_without_limits_is_never_refused_and_shows_none() -> None:
    limits = limits_of(LimitSpec())
    for _ in range(1000):
        admit(limits, 0.0, 10**9)
    assert limits.snapshot(0.0) == LimitSnapshot()


def test_the_request_after_the_last_allowed_one_is_refused_until_the_first_leaves() -> None:
    limits = limits_of(LimitSpec(requests_per_minute=3))
    for number in range(3):
        admit(limits, number * 10.0, 5)
    rejection = refuse(limits, 25.0, 5)
    assert (rejection.reason, rejection.retry_after) == (RejectReason.REQUESTS_PER_MINUTE, 35.0)


def test_there_is_no_window_edge_at_which_twice_the_limit_passes() -> None:
    limits = limits_of(LimitSpec(requests_per_minute=100))
    passed = sum(isinstance(limits.admit(59.0 + number / 100, Use(1)), LimitGrant) for number in range(200))
    assert passed == 100


def test_tokens_are_charged_at_admission_so_parallel_requests_cannot_slip_through() -> None:
    limits = limits_of(LimitSpec(tokens_per_minute=1000))
    admit(limits, 0.0, 600)
    rejection = refuse(limits, 1.0, 600)
    assert (rejection.reason, rejection.retry_after) == (RejectReason.TOKENS_PER_MINUTE, 59.0)


def test_a_prompt_of_the_whole_minute_passes_when_nothing_was_used() -> None:
    limits = limits_of(SPEC)
    admit(limits, 0.0, 1000)
    assert limits.snapshot(0.0).remaining_tokens == 0


def test_more_tokens_than_a_minute_has_can_never_pass_and_the_refusal_says_so() -> None:
    rejection = refuse(limits_of(SPEC), 0.0, 1001)
    assert rejection.reason is RejectReason.TOKENS_PER_MINUTE
    assert rejection.retry_after is None
    assert "can never pass" in rejection.detail


def test_a_refusal_charges_nothing() -> None:
    limits = limits_of(SPEC)
    before = limits.snapshot(0.0)
    refuse(limits, 0.0, 1001)
    assert limits.snapshot(0.0) == before
    assert limits.in_flight == 0


def test_of_two_exhausted_limits_the_one_that_lasts_longer_is_told() -> None:
    limits = limits_of(LimitSpec(requests_per_minute=2, tokens_per_minute=1000))
    admit(limits, 0.0, 10)
    admit(limits, 20.0, 990)
    rejection = refuse(limits, 30.0, 500)
    assert (rejection.reason, rejection.retry_after) == (RejectReason.TOKENS_PER_MINUTE, 50.0)


def test_concurrency_has_no_known_end_and_frees_with_the_first_to_finish() -> None:
    limits = limits_of(LimitSpec(concurrency=1))
    grant = admit(limits, 0.0, 5)
    rejection = refuse(limits, 0.0, 5)
    assert (rejection.reason, rejection.retry_after) == (RejectReason.CONCURRENCY, None)
    grant.settle(1.0, None)
    admit(limits, 1.0, 5)


def test_unused_tokens_come_back_when_the_engine_has_counted() -> None:
    limits = limits_of(SPEC)
    admit(limits, 0.0, 900).settle(5.0, Use(60, 40))
    snapshot = limits.snapshot(5.0)
    assert (snapshot.remaining_tokens, snapshot.reset_tokens_seconds) == (900, 55.0)
    assert snapshot.remaining_requests == 9


def test_an_overrun_counts_from_when_it_is_known_even_after_the_minute_of_admission() -> None:
    limits = limits_of(SPEC)
    admit(limits, 0.0, 100).settle(100.0, Use(1500))
    snapshot = limits.snapshot(100.0)
    assert (snapshot.remaining_tokens, snapshot.reset_tokens_seconds) == (0, 60.0)
    assert refuse(limits, 100.0, 1).retry_after == 60.0


def test_cancelling_gives_back_the_request_and_its_tokens() -> None:
    limits = limits_of(SPEC)
    admit(limits, 0.0, 900).cancel(1.0)
    assert limits.snapshot(1.0) == LimitSnapshot(10, 10, 0.0, 1000, 1000, 0.0)


def test_settling_without_a_count_keeps_the_estimate() -> None:
    limits = limits_of(SPEC)
    admit(limits, 0.0, 300).settle(1.0, None)
    assert limits.snapshot(1.0).remaining_tokens == 700


# -- keys, models, days, money

RULES = LimitRules(
    LimitSpec(requests_per_minute=10),
    {"ci": LimitSpec(requests_per_minute=2)},
    {"big": LimitSpec(requests_per_minute=3, concurrency=3)},
)


def test_a_request_is_charged_to_its_tenant_its_key_and_its_model_or_to_none_of_them() -> None:
    limits = TenantLimits(RULES, in_memory(0.0))
    for _ in range(2):
        assert isinstance(limits.admit(0.0, Use(1), "ci", "big"), LimitGrant)
    by_key = limits.admit(1.0, Use(1), "ci", "big")
    assert isinstance(by_key, Rejection)
    assert (by_key.scope, by_key.reason, by_key.retry_after) == ("key", RejectReason.REQUESTS_PER_MINUTE, 59.0)
    assert isinstance(limits.admit(2.0, Use(1), "other", "big"), LimitGrant), "the refusal took nothing of the model"
    by_model = limits.admit(3.0, Use(1), "other", "big")
    assert isinstance(by_model, Rejection)
    assert by_model.scope == "model"
    assert [limits.snapshot(3.0, *who).remaining_requests for who in (("ci", ""), ("", "big"), ("", ""))] == [0, 0, 7]


def test_headers_show_the_limit_that_is_nearest_to_its_end() -> None:
    limits = TenantLimits(RULES, in_memory(0.0))
    assert limits.snapshot(0.0, "ci", "big").limit_requests == 2
    assert limits.snapshot(0.0, "other", "big").limit_requests == 3
    assert limits.snapshot(0.0, "other", "small").limit_requests == 10


def test_cached_tokens_count_what_they_are_said_to_count_once_the_engine_has_told() -> None:
    limits = limits_of(LimitSpec(tokens_per_minute=1000, weights=Weights(input=1, output=2, cached=0.1)))
    grant = limits.admit(0.0, Use(400, 100))
    assert isinstance(grant, LimitGrant)
    assert limits.snapshot(0.0).remaining_tokens == 400
    grant.settle(1.0, Use(400, 50, cached=300))
    assert limits.snapshot(1.0).remaining_tokens == 1000 - (100 + 30 + 100)


def test_a_day_is_the_last_24_hours_and_not_a_date() -> None:
    limits = limits_of(LimitSpec(tokens_per_day=1000))
    admit(limits, 0.0, 700)
    admit(limits, 40_000.0, 300)
    rejection = refuse(limits, 80_000.0, 500)
    assert (rejection.reason, rejection.retry_after) == (RejectReason.TOKENS_PER_DAY, 6400.0)
    admit(limits, 86_400.0, 500)


FEBRUARY = 1_770_000_000.0  # 2026-02-02T02:40:00Z
END_OF_FEBRUARY = 1_772_323_200.0


def test_money_is_counted_to_the_millionth_and_comes_back_with_the_month() -> None:
    rules = LimitRules(LimitSpec(money_per_month=1_000_000), prices={"big": Prices(2.5, 10.0, 0.25)})
    limits = TenantLimits(rules, in_memory(FEBRUARY))
    grant = limits.admit(0.0, Use(200_000, 50_000), model="big")
    assert isinstance(grant, LimitGrant), "0.5 for the prompt, 0.5 for the answer"
    refused = limits.admit(1.0, Use(1), model="big")
    assert isinstance(refused, Rejection)
    assert refused.reason is RejectReason.MONEY_PER_MONTH
    assert refused.retry_after == END_OF_FEBRUARY - FEBRUARY - 1.0
    assert isinstance(limits.admit(1.0, Use(1), model="free"), LimitGrant), "a model without prices costs nothing"
    grant.settle(2.0, Use(200_000, 0, cached=200_000))
    assert isinstance(limits.admit(3.0, Use(380_000), model="big"), LimitGrant), "0.95 are left"
    assert isinstance(limits.admit(4.0, Use(1), model="big"), Rejection)
    assert isinstance(limits.admit(END_OF_FEBRUARY - FEBRUARY, Use(400_000), model="big"), LimitGrant)


def test_what_is_settled_in_another_month_gives_nothing_back_to_it_but_charges_what_was_more() -> None:
    rules = LimitRules(LimitSpec(money_per_month=100), prices={"big": Prices(1.0, 1.0, 1.0)})
    limits, later = TenantLimits(rules, in_memory(FEBRUARY)), END_OF_FEBRUARY - FEBRUARY + 5
    less, more = (limits.admit(0.0, Use(50), model="big") for _ in range(2))
    assert isinstance(less, LimitGrant)
    assert isinstance(more, LimitGrant)
    less.settle(later, Use(10))
    more.settle(later, Use(80))
    assert isinstance(limits.admit(later, Use(71), model="big"), Rejection)
    assert isinstance(limits.admit(later, Use(70), model="big"), LimitGrant)


def test_a_shadow_counts_and_tells_but_refuses_nobody() -> None:
    limits = limits_of(LimitSpec(requests_per_minute=1, shadow=True))
    first, second = limits.admit(0.0, Use(1)), limits.admit(1.0, Use(1))
    assert isinstance(first, LimitGrant)
    assert isinstance(second, LimitGrant)
    assert not first.shadowed
    assert [one.reason for one in second.shadowed] == [RejectReason.REQUESTS_PER_MINUTE]
    assert limits.snapshot(1.0) == LimitSnapshot(), "clients are not told of a limit that does not hold"
