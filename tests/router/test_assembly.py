"""Configuration to objects, and what of them a reload takes over."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from policies.admission.engine_time import engine_cost
from policies.admission.limit import Prices, Use
from policies.types import Alone, LimitSpec, Weights
from router.assembly import Runtime, build
from router.config import ConfigError, loads
from router.metrics import Metrics
from router.process import Process
from router.secret import cache_salt
from tests.router.builders import request
from tests.router.stack import COUNTER, SECRET, sha256

CONFIG: dict[str, Any] = {
    "server": {"base_domain": "llm.test"},
    "tenants": {
        "acme": {
            "tier": "platinum",
            "hosts": ["llm.acme.example"],
            "api_keys": [{"id": "main", "sha256": sha256("acme-key")}],
            "limits": {"requests_per_minute": 5, "concurrency": 2},
            "models": {"big": {"pool": "one", "engine_model": "tiny"}, "small": {"pool": "two"}},
        },
        "globex": {"api_keys": [{"id": "main", "sha256": sha256("globex-key")}], "models": {}},
    },
    "pools": {
        "one": {"endpoints": [{"name": f"one-{n}", "url": f"http://127.0.0.1:{n + 1}"} for n in range(2)]},
        "two": {"endpoints": [{"name": "two-0", "url": "http://127.0.0.1:9"}]},
    },
}


def changed(**places: Any) -> dict[str, Any]:
    """CONFIG with values at dotted places, written with two underscores; None removes."""
    config = copy.deepcopy(CONFIG)
    for place, value in places.items():
        *above, last = place.split("__")
        section: Any = config
        for part in above:
            section = section[int(part)] if part.isdigit() else section.setdefault(part, {})
        if value is None:
            del section[last]
        else:
            section[last] = value
    return config


def process() -> Process:
    return Process(SECRET, COUNTER, Metrics(), clock=lambda: 100.0)


def built(config: dict[str, Any], one: Process | None = None, previous: Runtime | None = None) -> Runtime:
    return build(loads(yaml.safe_dump(config).encode(), {}), one or process(), previous)


def reloaded(config: dict[str, Any]) -> tuple[Runtime, Runtime]:
    """CONFIG as it runs (endpoints well, one request in flight, something learned), and `config` after it."""
    one = process()
    before = built(CONFIG, one)
    for pool in before.pools.values():
        for state in pool.states:
            state.health.probe(True, 100.0)
            state.index.touch((1, 2, 3))
    before.gateway.models["acme"]["big"].estimator.observe(1000, 500)
    return before, built(config, one, before)


# -- building


def test_tenants_get_their_salt_tier_routes_and_limits() -> None:
    runtime = built(CONFIG)
    acme = runtime.gateway.directory.by_id["acme"]
    assert (acme.cache_salt, acme.tier.name, acme.tier.priority) == (cache_salt(SECRET, "acme"), "platinum", 0)
    assert (acme.models["big"].engine_model, acme.models["small"].engine_model) == ("tiny", "small")
    assert acme.limits == LimitSpec(requests_per_minute=5, concurrency=2)
    assert set(runtime.gateway.limits) == {"acme"}, "a tenant without limits costs nothing"


@pytest.mark.parametrize("host", ["acme.llm.test", "llm.acme.example"])
def test_hosts_name_their_tenant(host: str) -> None:
    directory = built(CONFIG).gateway.directory
    assert directory.identify(host, b"acme-key", 0.0).tenant.id == "acme"


def test_two_tenants_of_one_shared_pool_have_prefixes_apart() -> None:
    config = changed(tenants__globex__models={"big": {"pool": "one", "engine_model": "tiny"}}, pools__one__shared=True)
    models = built(config).gateway.models
    assert models["acme"]["big"].pool is models["globex"]["big"].pool
    assert models["acme"]["big"].root != models["globex"]["big"].root
    assert models["acme"]["big"].shared


def test_the_index_is_bounded_by_the_configured_capacity() -> None:
    config = changed(routing={"index_share": 0.5, "block_bytes": 256, "default_kv_tokens": 6400})
    config["pools"]["two"]["endpoints"][0]["kv_capacity_tokens"] = 12_800
    pools = built(config).pools
    assert [state.index.capacity for state in pools["one"].states] == [50, 50]
    assert [state.index.capacity for state in pools["two"].states] == [100]


def test_a_ca_file_that_cannot_be_used_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    not_pem = tmp_path / "ca.pem"
    not_pem.write_text("nothing")
    for file in (tmp_path / "missing.pem", not_pem):
        config = changed(pools__two__tls={"ca_file": str(file)})
        config["pools"]["two"]["endpoints"][0]["url"] = "https://127.0.0.1:9"
        with pytest.raises(ConfigError) as refused:
            built(config)
        assert [problem.path for problem in refused.value.problems] == ["pools.two.tls.ca_file"]
        assert str(file) not in str(refused.value)


def test_a_good_ca_file_is_used(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    config = changed(pools__two__tls={"ca_file": str(file)})
    config["pools"]["two"]["endpoints"][0]["url"] = "https://127.0.0.1:9"
    assert built(config).pools["two"].states


# -- reloading


def test_what_did_not_change_is_taken_over_as_it_is() -> None:
    before, after = reloaded(changed(tenants__acme__tier="gold", server__routing_headers=False))
    assert dict(after.pools) == dict(before.pools)
    assert after.gateway.limits["acme"] is before.gateway.limits["acme"]
    assert after.gateway.models["acme"]["big"].estimator is before.gateway.models["acme"]["big"].estimator
    assert after.gateway.directory.by_id["acme"].tier.name == "gold"


def test_the_endpoints_of_a_changed_pool_keep_load_affinity_and_connections() -> None:
    more = [*CONFIG["pools"]["one"]["endpoints"], {"name": "one-2", "url": "http://127.0.0.1:3"}]
    before, after = reloaded(changed(pools__one__endpoints=more, pools__one__retries=1))
    old, new = before.pools["one"].places, after.pools["one"].places
    assert [place.state is known.state for place, known in zip(new, old, strict=False)] == [True, True]
    assert [place.upstream is known.upstream for place, known in zip(new, old, strict=False)] == [True, True]
    assert len(new) == 3
    assert after.pools["two"] is before.pools["two"]


def test_an_endpoint_that_moved_is_another_endpoint() -> None:
    config = copy.deepcopy(CONFIG)
    config["pools"]["one"]["endpoints"][0]["url"] = "http://127.0.0.1:99"
    before, after = reloaded(config)
    moved, kept = after.pools["one"].places
    assert moved.state is not before.pools["one"].places[0].state
    assert len(moved.state.index) == 0
    assert kept == before.pools["one"].places[1]


async def test_endpoints_that_change_names_keep_their_engines_before_and_after() -> None:
    names = {"pools__one__endpoints__0__name": "one-1", "pools__one__endpoints__1__name": "other"}
    before, after = reloaded(changed(**names))
    for runtime in (before, after):
        pool = runtime.pools["one"]
        upstreams = {place.state.endpoint.name: place.upstream for place in pool.places}
        assert set(upstreams) == {"one-1", "other"}
        tickets = [await pool.dispatch(request(blocks=())) for _ in range(4)]
        assert {ticket.endpoint for ticket in tickets} == set(upstreams)
        assert all(ticket.upstream is upstreams[ticket.endpoint] for ticket in tickets)
        for ticket in tickets:
            ticket.settle(None)


@pytest.mark.parametrize(
    "uses",
    [
        {"routing": {"hold": False}},
        {"pools__two__kv_events": True, "pools__two__endpoints__0__kv_events_url": "tcp://127.0.0.1:5557"},
    ],
    ids=["engine priorities", "KV events"],
)
async def test_reloads_leave_nothing_of_what_served_before_behind(uses: dict[str, Any]) -> None:
    one = process()
    runtime, old = built(changed(**uses), one), []
    for retries in (1, 2, 3):
        old.append(weakref.ref(runtime))
        runtime = built(changed(**uses, pools__one__retries=retries, pools__two__retries=retries), one, runtime)
        for pool in runtime.pools.values():
            pool.run_pass()
    gc.collect()
    assert [ref() for ref in old] == [None, None, None]


@pytest.mark.parametrize(
    "change",
    [
        {"pools__one__timeouts": {"idle": 30}},
        {"pools__one__health": {"interval": 1}},
        {"routing": {"ageing": 0.1}},
        {"lanes": {"batch": {"max_wait": 30}}},
        {"pools__one__endpoints__0__max_in_flight": 8, "pools__one__endpoints__1__weight": 2},
    ],
    ids=["timeouts", "health", "routing", "lanes", "an endpoint's own"],
)
def test_a_changed_setting_does_not_take_healthy_endpoints_out_of_service(change: dict[str, Any]) -> None:
    before, after = reloaded(changed(**change))
    assert all(place.available(100.0) for place in before.pools["one"].places)
    assert all(place.available(100.0) for place in after.pools["one"].places), "503 until the next probe"


def test_a_new_key_or_price_frees_nothing_of_what_was_used() -> None:
    keys = [{"id": "main", "sha256": sha256("acme-key")}, {"id": "new", "sha256": sha256("another-key")}]
    before, after = reloaded(
        changed(tenants__acme__api_keys=keys, tenants__acme__models__small__prices={"input": 1, "output": 2})
    )
    assert after.gateway.limits["acme"] is before.gateway.limits["acme"]


def test_keys_models_prices_and_ways_without_redis_reach_the_limits() -> None:
    limits = {
        "money_per_month": 12.5,
        "tokens_per_day": 7,
        "without_redis": "refuse",
        "shadow": True,
        "count_tokens": {"cached": 0.1},
    }
    prices = {"input": 0.5, "output": 2}
    models = {"big": {"pool": "one", "prices": prices, "limits": {"concurrency": 3}}}
    keys = [{"id": "main", "sha256": sha256("acme-key"), "limits": {"requests_per_minute": 2}}]
    config = changed(tenants__acme__limits=limits, tenants__acme__models=models, tenants__acme__api_keys=keys)
    rules = built(config).gateway.limits["acme"].limits.rules
    assert rules.tenant == LimitSpec(
        tokens_per_day=7,
        money_per_month=12_500_000,
        weights=Weights(cached=0.1),
        without_redis=Alone.REFUSE,
        shadow=True,
    )
    assert rules.keys == {"main": LimitSpec(requests_per_minute=2)}
    assert rules.models == {"big": LimitSpec(concurrency=3)}
    assert rules.prices == {"big": Prices(0.5, 2.0, 0.5)}


def test_money_needs_prices_of_every_model_that_it_counts() -> None:
    with pytest.raises(ConfigError, match=r"tenants\.acme\.limits\.money_per_month .*: expected prices of model big"):
        built(changed(tenants__acme__limits={"money_per_month": 5}))


def test_money_counts_the_time_of_engines_whose_model_has_no_prices() -> None:
    costs = {"pools__one__endpoints__0__hourly_cost": 3.6, "pools__one__endpoints__1__hourly_cost": 7.2}
    models = {"big": {"pool": "one"}, "small": {"pool": "one", "prices": {"input": 1, "output": 2}}}
    limits = {"money_per_month": 5}
    runtime = built(changed(tenants__acme__limits=limits, tenants__acme__models=models, **costs))
    served = runtime.gateway.models["acme"]
    assert (served["big"].metered, served["small"].metered) == (True, False)
    use = Use(1000, 100)
    cost = served["big"].priced(use).engine_cost
    assert cost == engine_cost(served["big"].pool.states[1], use), "before one is chosen, by the dearest"
    assert served["small"].priced(use) is use
    free = built(changed(tenants__acme__models=models, **costs)).gateway.models["acme"]["big"]
    assert free.priced(use) is use, "nobody counts it"


async def test_limits_are_shared_where_there_is_a_redis_and_its_url_is_never_shown() -> None:
    config = {**CONFIG, "state": {"redis_url": "redis://:hidden@127.0.0.1:1/0"}}
    one = process()
    before = built(config, one)
    after = built(config, one, before)
    assert before.gateway.limits["acme"].book is not None
    assert after.shared_limits is before.shared_limits
    assert after.gateway.limits["acme"] is before.gateway.limits["acme"]
    assert built(CONFIG, one, after).gateway.limits["acme"].book is None
    with pytest.raises(ConfigError) as refused:
        built({**CONFIG, "state": {"redis_url": "redis://:hidden@host:port/0"}})
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis+sentinel://127.0.0.1:1/main", "redis+cluster://127.0.0.1:1"])
async def test_limits_are_shared_by_every_kind_of_redis_that_replicas_are(url: str) -> None:
    assert built({**CONFIG, "state": {"redis_url": url}}).gateway.limits["acme"].book is not None


def test_changed_limits_begin_anew_and_removed_ones_are_gone() -> None:
    before, after = reloaded(changed(tenants__acme__limits={"requests_per_minute": 6}))
    assert after.gateway.limits["acme"] is not before.gateway.limits["acme"]
    assert "acme" not in reloaded(changed(tenants__acme__limits=None))[1].gateway.limits


def test_tenants_and_pools_come_and_go() -> None:
    config = changed(
        tenants__globex=None, pools__three={"endpoints": [{"name": "three-0", "url": "http://127.0.0.1:77"}]}
    )
    _, after = reloaded(config)
    assert set(after.gateway.directory.by_id) == {"acme"}
    assert set(after.pools) == {"one", "two", "three"}


def test_a_broken_file_of_a_new_configuration_changes_nothing_of_the_old(tmp_path: Path) -> None:
    one = process()
    before = built(CONFIG, one)
    states = [state for pool in before.pools.values() for state in pool.states]
    config = changed(pools__two__tls={"ca_file": str(tmp_path / "missing.pem")})
    config["pools"]["two"]["endpoints"][0]["url"] = "https://127.0.0.1:9"
    with pytest.raises(ConfigError):
        built(config, one, before)
    assert [state for pool in before.pools.values() for state in pool.states] == states
