"""Reports: what endpoints cost is borne to the last micro-unit, and days are what is asked for.

Floor: tests only.
"""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.limit import Prices
from router.config import loads
from router.ledger.usage import EndpointTime, Usage
from router.usage_report import BadSpan, Served, bought, cost_lines, cost_row, served, span, total, usage_lines
from tests.router.stack import SECRET

HOUR = 3_600_000_000
TODAY = date(2027, 3, 15)

amounts = st.integers(0, 2**50)
pools = st.sampled_from(["shared", "acme", "gone"])
usages = st.builds(
    Usage,
    day=st.integers(20_000, 20_003),
    tenant=st.sampled_from(["acme", "globex"]),
    model=st.sampled_from(["big", "small", ""]),
    pool=pools,
    **dict.fromkeys(Usage._fields[4:], amounts),
)
times = st.builds(
    EndpointTime,
    day=st.integers(20_000, 20_003),
    pool=pools,
    endpoint=st.sampled_from(["e0", "e1"]),
    role=st.just("hot"),
    **dict.fromkeys(EndpointTime._fields[4:], amounts),
)
POOLS = {
    "shared": Served(False, {("acme", "big"): 2.0, ("globex", "big"): 1.0}),
    "acme": Served(True, {("acme", "small"): 1.0}),
}


@given(
    used=st.lists(usages, max_size=12, unique_by=lambda one: one[:4]),
    kept=st.lists(times, max_size=12, unique_by=lambda one: one[:4]),
    by_day=st.booleans(),
)
def test_all_that_endpoints_cost_is_borne_and_all_that_was_used_is_told(
    used: list[Usage], kept: list[EndpointTime], by_day: bool
) -> None:
    lines = cost_lines(used, kept, POOLS, by_day=by_day)
    whole = total(lines.values())
    assert whole.cost == sum(one.cost_micro for one in kept)
    assert whole.time == sum(one.engine_micro_seconds for one in kept)
    assert whole.billed == sum(one.cost_micro for one in used)
    assert whole.requests == sum(one.requests for one in used)
    assert whole.prompt_tokens == sum(one.prompt_tokens for one in used)
    assert whole == total(cost_lines(used, kept, POOLS, by_day=not by_day).values())
    told = total(usage_lines(used, by_day=by_day).values())
    assert (told.billed, told.work) == (whole.billed, whole.work)


def use(tenant: str, pool: str, hours: float, **more: int) -> Usage:
    fields = {**dict.fromkeys(Usage._fields[4:], 0), **more, "engine_micro_seconds": int(hours * HOUR)}
    return Usage(20_000, tenant, "big", pool, **fields)


def day_of(pool: str, cost: int) -> EndpointTime:
    return EndpointTime(20_000, pool, "e0", "hot", 24 * HOUR, 0, 0, 24 * HOUR, cost)


def test_a_shared_pool_is_borne_by_work_with_its_idle_time_and_a_dedicated_one_by_its_tenant() -> None:
    used = [use("acme", "shared", 3), use("globex", "shared", 9), use("globex", "acme", 5)]
    lines = cost_lines(used, [day_of("shared", 24_000_000), day_of("acme", 10_000_000)], POOLS, by_day=False)
    assert lines.of(0, "acme", "big").cost == 6_000_000
    assert lines.of(0, "globex", "big").cost == 18_000_000, "and nothing of acme's own pool"
    assert lines.of(0, "acme", "small").cost == 10_000_000
    assert lines.of(0, "globex", "big").time == 18 * HOUR


def test_realised_cost_floor_and_break_even_of_one_tenant() -> None:
    used = [use("acme", "shared", 6, prompt_tokens=30_000_000, cached_tokens=10_000_000, completion_tokens=10_000_000)]
    (line,) = cost_lines(used, [day_of("shared", 24_000_000)], POOLS, by_day=False).only("acme")
    row = cost_row(line, Prices(0.1, 0.8, 0.05))
    assert (row["endpoint_hours"], row["work_hours"], row["utilisation"]) == (24.0, 6.0, 0.25)
    assert (row["micro_usd_per_million_tokens"], row["floor_micro_usd_per_million_tokens"]) == (600_000, 150_000)
    assert row["api_micro_usd"] == 2_000_000 + 500_000 + 8_000_000
    assert row["break_even_tokens"] == pytest.approx(40_000_000 * 24 / 10.5, abs=1)
    assert row["break_even_utilisation"] == pytest.approx(0.25 * 24 / 10.5)
    assert bought(line, Prices(0.0, 0.0, 0.0)).tokens is None


def test_whom_a_pool_is_for_is_what_the_configuration_says() -> None:
    text = """
    server: {base_domain: llm.test}
    tenants:
      acme: {anonymous: true, weight: 2, models: {big: {pool: shared}, small: {pool: shared}, own: {pool: own}}}
      globex: {anonymous: true, models: {big: {pool: shared}}}
    pools:
      shared: {shared: true, endpoints: [{name: s0, url: "http://127.0.0.1:1"}]}
      own: {endpoints: [{name: o0, url: "http://127.0.0.1:2"}]}
    """
    found = served(loads(text.encode(), {"PROMPTLANE_SECRET": SECRET.decode()}))
    assert found["shared"] == Served(False, {("acme", "big"): 1.0, ("acme", "small"): 1.0, ("globex", "big"): 1.0})
    assert found["own"] == Served(True, {("acme", "own"): 2.0})


def test_without_days_it_is_this_month_with_today() -> None:
    asked = span(None, None, TODAY)
    assert (asked.since, asked.until) == (date(2027, 3, 1), date(2027, 3, 16))
    assert span("1970-01-02", "1970-01-05", TODAY).days == (1, 4)
    assert span(None, "2027-02-01", TODAY).days == span("2027-02-01", "2027-02-01", TODAY).days, "no day at all"


@pytest.mark.parametrize(
    ("since", "until", "field"),
    [("soon", None, "from"), (None, "2027-13-01", "to"), ("2027-03-02", "2027-03-01", "to"), ("", None, "from")],
)
def test_what_is_no_span_is_refused_by_its_field(since: str | None, until: str | None, field: str) -> None:
    with pytest.raises(BadSpan) as refused:
        span(since, until, TODAY)
    assert refused.value.field == field
