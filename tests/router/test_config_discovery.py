"""Where endpoints are found is checked before anybody is asked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from router.cli import main
from router.config import Config, ConfigError, loads, warnings
from tests.router.stack import sha256

PODS = {"namespace": "acme", "selector": "app=vllm", "port": "http"}


def config(pool: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "tenants": {
            "acme": {"api_keys": [{"id": "a", "sha256": sha256("k")}], "models": {"m": {"pool": "p"}}},
        },
        "pools": {"p": pool, **more},
    }


def load(pool: dict[str, Any], **more: Any) -> Config:
    return loads(yaml.safe_dump(config(pool, **more)).encode(), {})


def refused(pool: dict[str, Any], **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(pool, **more)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def test_a_pool_may_find_all_or_some_of_its_endpoints() -> None:
    both = load({"discovery": {"kubernetes": PODS}, "endpoints": [{"name": "e0", "url": "http://e0", "role": "cold"}]})
    assert both.pools["p"].discovery is not None
    assert [one.name for one in both.pools["p"].endpoints] == ["e0"]
    assert warnings(both, datetime(2026, 1, 1, tzinfo=UTC)) == []
    assert load({"discovery": {"dns": {"name": "engines", "port": 8000}}}).pools["p"].endpoints == ()


@pytest.mark.parametrize("selector", ["app", "!old", "a/b.c=d", "a==b, c!=d", "tier in (gold, silver),x notin (y)"])
def test_selectors_are_those_of_kubernetes(selector: str) -> None:
    assert load({"discovery": {"kubernetes": PODS | {"selector": selector}}})


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({}, "pools.p.endpoints: missing; expected at least one, or discovery"),
        ({"discovery": {}}, "pools.p.discovery: expected dns or kubernetes, one of them"),
        (
            {"discovery": {"dns": {"name": "a", "port": 1}, "kubernetes": PODS}},
            "pools.p.discovery: expected dns or kubernetes, one of them",
        ),
        (
            {"discovery": {"kubernetes": PODS | {"selector": " "}}},
            "pools.p.discovery.kubernetes.selector: expected a label selector such as app=vllm,model!=old,tier in "
            "(gold,silver); got ' '",
        ),
        (
            {"discovery": {"kubernetes": PODS | {"selector": "a=b=c"}}},
            "pools.p.discovery.kubernetes.selector: expected a label selector such as app=vllm,model!=old,tier in "
            "(gold,silver); got 'a=b=c'",
        ),
        (
            {"discovery": {"kubernetes": {key: PODS[key] for key in ("selector", "port")}}},
            "pools.p.discovery.kubernetes.namespace: missing; expected the name of a namespace",
        ),
        (
            {"discovery": {"kubernetes": PODS | {"port": 70000}}},
            "pools.p.discovery.kubernetes.port: expected a port's number, or its name in the containers; got 70000",
        ),
        (
            {"discovery": {"kubernetes": PODS}, "endpoints": [{"name": "p.x", "url": "http://x"}]},
            "pools.p.endpoints[0].name: expected another beginning: those that pools.p finds have this one",
        ),
        (
            {"discovery": {"kubernetes": PODS}, "kv_events": True},
            "pools.p.discovery.kv_events_port: missing; expected one, as pools.p.kv_events is on",
        ),
        (
            {"discovery": {"kubernetes": PODS, "kv_events_port": 5557, "kv_replay_port": 5557}},
            "pools.p.discovery.kv_replay_port: expected a port of its own",
        ),
        ({"discovery": {"dns": {"name": "a"}}}, "pools.p.discovery.dns: expected name and port, or srv"),
        (
            {"discovery": {"dns": {"name": "a", "port": 1, "srv": "_http._tcp.a"}}},
            "pools.p.discovery.dns: expected name and port, or srv",
        ),
        (
            {"discovery": {"dns": {"name": "a", "port": 1, "server": "10.0.0.1"}}},
            "pools.p.discovery.dns.server: expected srv: names are asked of the system's resolver",
        ),
        (
            {"discovery": {"dns": {"srv": "a.b"}}},
            "pools.p.discovery.dns.srv: expected null or a name of SRV records such as "
            "_http._tcp.vllm.llm-acme.svc.cluster.local; got 'a.b'",
        ),
        (
            {"discovery": {"dns": {"srv": "_http._tcp.a", "server": "10.0.0.1:0"}}},
            "pools.p.discovery.dns.server: expected null or an IP address, with a port where that is not 53; "
            "got '10.0.0.1:0'",
        ),
        (
            {"discovery": {"kubernetes": PODS}, "standby": {"start": {"scale": {"namespace": "a", "name": "b"}, "url": "http://x"}}},
            "pools.p.standby.start: expected command, url or scale, one of them",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_path(pool: dict[str, Any], message: str) -> None:
    assert refused(pool) == [message]


def test_two_pools_never_have_one_source() -> None:
    problems = refused({"discovery": {"kubernetes": PODS}}, q={"discovery": {"kubernetes": PODS}})
    assert problems == ["pools.q.discovery: expected a source of its own; pools.p.discovery is the same"]
    assert load({"discovery": {"kubernetes": PODS}}, q={"discovery": {"kubernetes": PODS | {"namespace": "globex"}}})


def test_check_and_explain_need_no_api(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file, body = tmp_path / "c.yaml", tmp_path / "body.json"
    file.write_text(yaml.safe_dump(config({"discovery": {"kubernetes": PODS}})))
    body.write_text('{"model": "m", "messages": [{"role": "user", "content": "hello"}]}')
    assert main(["check", "--config", str(file)]) == 0
    assert "1 tenants, 1 pools, 0 endpoints, pools that find endpoints at run time: 1" in capsys.readouterr().out
    assert main(["explain", "--config", str(file), "--tenant", "acme", "--body", str(body)]) == 0
    said = capsys.readouterr().out
    assert "those that only a running gateway finds (--live): pods app=vllm in namespace acme" in said
    assert "choice     none: no_endpoint" in said
