"""The `standby` section: defaults that change nothing, and mistakes that are told before anything starts."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from policies.standby import StandbySettings
from policies.view import View
from router.assembly import build
from router.config import Config, ConfigError, StandbyConfig, loads
from router.metrics import Metrics
from router.process import Process
from tests.policies.builders import load as load_state
from tests.router.stack import COUNTER, SECRET, sha256


def configuration(**pools: Any) -> dict[str, Any]:
    """Pools `a` and `a2` are acme's, `g` is globex's and `s` is shared."""
    tenants = {
        name: {
            "api_keys": [{"id": "k", "sha256": sha256(name)}],
            "models": {f"m{number}": {"pool": pool} for number, pool in enumerate(used)},
        }
        for name, used in {"acme": ("a", "a2", "s"), "globex": ("g", "s")}.items()
    }
    made = {
        name: {
            "shared": name == "s",
            "endpoints": [
                {"name": f"{name}-0", "url": f"http://{name}:1"},
                {"name": f"{name}-1", "url": f"http://{name}:2", "role": "cold"},
            ],
        }
        for name in ("a", "a2", "g", "s")
    }
    for name, more in pools.items():
        made[name] |= more
    return {"tenants": tenants, "pools": made}


def load(config: dict[str, Any]) -> Config:
    return loads(yaml.safe_dump(config).encode(), {"PROMPTLANE_SECRET": "x" * 40})


def problems(config: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load(config)
    return [f"{one.path}: {one.message}" for one in refused.value.problems]


def test_the_defaults_are_those_of_the_policy() -> None:
    assert StandbyConfig().machine == StandbySettings()
    assert load(configuration()).pools["a"].standby == StandbyConfig()


def test_a_tier_holds_for_as_long_as_it_promises_to_recover_unless_it_says_otherwise() -> None:
    config = load(configuration() | {"tiers": {"gold": {"hold_seconds": 3}}})
    assert config.tiers["gold"].hold_seconds == 3
    assert config.tiers["platinum"].hold_seconds is None


@pytest.mark.parametrize("pool", ["a2", "s"])
def test_a_pool_is_degraded_to_a_shared_one_or_to_another_of_its_tenant(pool: str) -> None:
    degraded = load(configuration(a={"standby": {"degraded": {"pool": pool}}})).pools["a"].standby.degraded
    assert degraded is not None
    assert (degraded.pool, degraded.max_tokens, degraded.refuse_batch) == (pool, 512, True)


@pytest.mark.parametrize(
    ("user", "pool", "message"),
    [
        ("a", "g", "expected a pool with shared: true, or one that only this pool's tenant uses; got 'g'"),
        ("s", "a", "expected a pool with shared: true, or one that only this pool's tenant uses; got 'a'"),
        ("g", "g", "expected the name of another pool; got 'g'"),
        ("a", "nowhere", "expected the name of another pool; got 'nowhere'"),
    ],
)
def test_no_pool_is_degraded_to_another_tenants(user: str, pool: str, message: str) -> None:
    found = problems(configuration(**{user: {"standby": {"degraded": {"pool": pool}}}}))
    assert [one.partition(": ")[2] for one in found] == [message]
    assert found[0].startswith(f"pools.{user}.standby.degraded.pool: ")


def ends(name: str, role: str, url: str = "http://both:1") -> dict[str, Any]:
    return {
        "endpoints": [{"name": f"{name}-0", "url": f"http://{name}:1"}, {"name": f"{name}-1", "url": url, "role": role}]
    }


def test_pools_may_share_a_warm_engine_and_no_other() -> None:
    load(configuration(a=ends("a", "warm"), g=ends("g", "warm", "HTTP://both:1/")))
    for roles in (("warm", "hot"), ("cold", "cold"), ("hot", "warm")):
        found = problems(configuration(a=ends("a", roles[0]), g=ends("g", roles[1])))
        assert ["one engine serves one pool, unless as warm standby" in one for one in found] == [True]


def test_one_pool_has_an_engine_once_also_as_warm_standby() -> None:
    twice = ends("a", "warm")
    twice["endpoints"].append({"name": "a-2", "url": "http://both:1", "role": "warm"})
    assert len(problems(configuration(a=twice))) == 1


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({}, "expected command, url or scale, one of them"),
        ({"command": ["x"], "url": "http://x"}, "expected command, url or scale, one of them"),
        ({"command": []}, "expected null or a list of at least one"),
        ({"command": ["x"], "pass_env": ["PROMPTLANE_SECRET"]}, "none of PROMPTLANE_…"),
        ({"command": ["x"], "timeout": 0}, "expected a number above 0"),
    ],
)
def test_a_hook_is_one_thing_and_gets_no_secret(start: dict[str, Any], message: str) -> None:
    found = problems(configuration(a={"standby": {"start": start}}))
    assert len(found) == 1
    assert message in found[0]


def test_a_start_hook_has_something_to_start() -> None:
    found = problems(configuration(a={"standby": {"start": {"command": ["x"]}}, **ends("a", "warm")}))
    assert found == ["pools.a.standby.start: expected an endpoint with role: cold, to start"]


@pytest.mark.parametrize(("said", "enabled"), [(True, True), (False, False), ({"share": 0.5}, True)])
def test_overflow_is_yes_no_or_a_mapping(said: Any, enabled: bool) -> None:
    overflow = load(configuration(a={"standby": {"overflow": said}})).pools["a"].standby.overflow
    assert overflow is not None
    assert overflow.enabled is enabled


@pytest.mark.parametrize("overflow", [True, False])
def test_a_pool_with_overflow_lets_warm_endpoints_help_full_hot_ones(overflow: bool) -> None:
    both = ends("a", "warm")
    both["endpoints"][0]["max_in_flight"] = 1
    config = load(configuration(a={**both, "standby": {"overflow": overflow}}))
    pool = build(config, Process(SECRET, COUNTER, Metrics())).pools["a"]
    for state in pool.states:
        state.health.probe(True, 0.0)
    load_state(pool.states[0], 0.1)
    view = pool.profile.look(pool.states, 0.0)
    assert isinstance(view, View) is overflow, "without overflow full hot endpoints are waited for"
