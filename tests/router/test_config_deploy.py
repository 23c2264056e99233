"""`pools.<name>.deploy`: whose engines they are, and that URLs, GPUs and nodes say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from policies.types import Role
from router.cli import main
from router.config import Config, ConfigError, loads
from router.deployment.engines import arguments, workload
from router.deployment.parts import Plan
from router.deployment.plan import make_plan


def configuration(**pools: Any) -> dict[str, Any]:
    """acme has `chat` and `spare`, globex `other`, both the shared `everybody`."""
    own = {
        "chat": [{"name": "a0", "url": "http://a0.llm-acme.svc:8000"}],
        "spare": [{"name": "a1", "url": "http://a1.llm-acme.svc.cluster.local:8000"}],
        "other": [{"name": "g0", "url": "http://g0.llm-globex.svc:8000"}],
        "everybody": [{"name": "s0", "url": "http://s0.llm-shared-everybody.svc:8000"}],
    }
    made = {
        name: {"deploy": {}, "endpoints": endpoints, "shared": name == "everybody", **pools.get(name, {})}
        for name, endpoints in own.items()
    }
    models = {"acme": {"m": "chat", "n": "spare", "s": "everybody"}, "globex": {"m": "other", "s": "everybody"}}
    tenants = {
        name: {
            "tier": tier,
            "anonymous": True,
            "models": {model: {"pool": pool, "engine_model": f"served-{pool}"} for model, pool in models[name].items()},
        }
        for name, tier in (("acme", "gold"), ("globex", "silver"))
    }
    return {"server": {"base_domain": "llm.example.com"}, "tenants": tenants, "pools": made}


def config(said: dict[str, Any]) -> Config:
    return loads(yaml.safe_dump(said).encode(), {})


def plan(**pools: Any) -> Plan:
    return make_plan(config(configuration(**pools)))


def problems(said: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        config(said)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_engines_belong_to_their_pool_s_tenant_or_to_the_shared_pool() -> None:
    owned = {owner.name: [engine.name for engine in owner.engines] for owner in plan().owners}
    assert owned == {"acme": ["a0", "a1"], "globex": ["g0"], "shared-everybody": ["s0"]}
    spaces = {owner.namespace: owner.tier for owner in plan().owners}
    assert spaces == {"llm-acme": "gold", "llm-globex": "silver", "llm-shared-everybody": "gold"}


def test_a_pool_that_only_serves_instead_of_another_is_that_one_s_tenant_s() -> None:
    said = configuration(chat={"standby": {"degraded": {"pool": "spare", "engine_model": "small"}}})
    del said["tenants"]["acme"]["models"]["n"]
    made = make_plan(config(said))
    (engine,) = (one for one in made.engines if one.name == "a1")
    assert (engine.owner, engine.served) == ("acme", ("small",))


def test_pools_without_deploy_run_elsewhere() -> None:
    said = configuration()
    said["pools"]["other"] = {"endpoints": [{"name": "g0", "url": "http://10.0.0.1:8000"}]}
    assert {owner.name for owner in make_plan(config(said)).owners} == {"acme", "shared-everybody"}


def test_what_engines_serve_is_what_tenants_models_ask_for() -> None:
    (engine,) = (one for one in plan(chat={"deploy": {"model": "/models/big", "count": 4}}).engines if one.name == "a0")
    said = arguments(engine)
    assert said[:4] == ["/models/big", "--served-model-name", "served-chat", "--port=8000"]
    assert "--tensor-parallel-size=4" in said


def test_engines_with_a_key_get_it_from_a_secret_and_the_key_is_in_no_file() -> None:
    said = configuration(chat={"engine_api_key_env": "CHAT_KEY"})
    made = make_plan(loads(yaml.safe_dump(said).encode(), {"CHAT_KEY": "very-secret"}))
    text = yaml.safe_dump(workload(next(one for one in made.engines if one.name == "a0")))
    assert "very-secret" not in text
    assert "secretKeyRef" in text


def test_pools_of_a_tenant_may_share_a_warm_engine() -> None:
    warm = {"url": "http://w.llm-acme.svc:8000", "role": "warm"}
    said = configuration()
    for number, pool in enumerate(("chat", "spare")):
        said["pools"][pool]["endpoints"].append({"name": f"w{number}", **warm})
    made = make_plan(config(said))
    assert [engine.name for engine in made.engines if engine.role is Role.WARM] == ["w"]
    assert made.owners[0].resources == {"nvidia.com/gpu": 3}


@pytest.mark.parametrize(
    "url",
    [
        "http://a0.llm-globex.svc:8000",  # another tenant's
        "http://10.0.0.1:8000",
        "http://a0.llm-acme:8000",
        "http://a0.llm-acme.svc",  # no port
        "https://a0.llm-acme.svc:8000",
        "http://a0.llm-acme.svc:8000/v2",
    ],
)
def test_an_endpoint_is_a_service_of_its_owner_s_namespace(url: str) -> None:
    said = configuration()
    said["pools"]["chat"]["endpoints"][0]["url"] = url
    found = problems(said)
    assert list(found) == ["pools.chat.endpoints[0].url"]
    assert "expected http://NAME.llm-acme.svc:PORT" in found["pools.chat.endpoints[0].url"]


def test_two_names_of_one_service_are_one_engine() -> None:
    said = configuration()
    said["pools"]["spare"]["endpoints"][0]["url"] = "http://a0.llm-acme.svc.cluster.local:8000"
    assert "expected a Service of its own" in problems(said)["pools.spare.endpoints[0].url"]


@pytest.mark.parametrize("scale", [{"namespace": "llm-globex", "name": "c"}, {"namespace": "llm-acme", "name": "a0"}])
def test_a_hook_scales_a_cold_engine_of_its_own_pool(scale: dict[str, str]) -> None:
    said = configuration(chat={"standby": {"start": {"scale": {"namespace": "llm-acme", "name": "c"}}}})
    said["pools"]["chat"]["endpoints"].append({"name": "c", "url": "http://c.llm-acme.svc:8000", "role": "cold"})
    assert make_plan(config(said)).engines
    said["pools"]["chat"]["standby"]["start"]["scale"] = scale
    assert problems(said) == {"pools.chat.standby.start.scale": "expected a cold endpoint of this pool in llm-acme: c"}


PODS = {"namespace": "llm-acme", "selector": "promptlane/pool=chat,promptlane/part=engine", "port": "http"}


def finding(discovery: dict[str, Any], **more: Any) -> dict[str, Any]:
    """acme's `chat` finds its engines."""
    return configuration(chat={"endpoints": [], "discovery": discovery, **more})


def engines(said: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Of acme's `chat`: role and how many."""
    made = make_plan(config(said)).engines
    return {one.name: (one.role.value, one.replicas) for one in made if one.pool == "chat"}


def test_a_pool_that_finds_its_engines_has_as_many_as_it_or_its_tier_says() -> None:
    said = finding({"kubernetes": PODS})
    assert engines(said) == {"chat": ("hot", 1)}
    said["tiers"] = {"gold": {"priority": 10, "rto_seconds": 15, "engines": {"hot": 2, "warm": 1}}}
    assert engines(said) == {"chat": ("hot", 2), "chat-warm": ("warm", 1)}
    said["pools"]["chat"]["deploy"]["engines"] = {"hot": 3, "cold": 2}
    assert engines(said) == {"chat": ("hot", 3), "chat-cold": ("cold", 2)}
    (owner,) = (one for one in make_plan(config(said)).owners if one.name == "acme")
    assert owner.resources == {"nvidia.com/gpu": 6}, "five of chat, one of spare"


def test_pods_have_the_labels_that_the_selector_and_the_role_ask_for() -> None:
    pods = PODS | {"selector": "app=llm, model in (big, old), gpu, !canary, stage!=test", "role_label": "my/role"}
    made = make_plan(config(finding({"kubernetes": pods}, deploy={"engines": {"hot": 1, "warm": 1}})))
    for name, role in (("chat", "hot"), ("chat-warm", "warm")):
        (engine,) = (one for one in made.engines if one.name == name)
        labels = workload(engine)["spec"]["template"]["metadata"]["labels"]
        wanted = {"app": "llm", "model": "big", "gpu": "true", "my/role": role, "promptlane/pool": "chat"}
        assert wanted.items() <= labels.items()
        assert not {"canary", "stage"} & set(labels)


@pytest.mark.parametrize(("port", "named"), [("http", ("http", 8000)), ("api", ("api", 8000)), (9000, ("http", 9000))])
def test_the_container_s_port_is_the_one_that_pods_are_asked_at(port: str | int, named: tuple[str, int]) -> None:
    made = make_plan(config(finding({"kubernetes": PODS | {"port": port}, "kv_events_port": 5557})))
    (engine,) = (one for one in made.engines if one.name == "chat")
    (container,) = workload(engine)["spec"]["template"]["spec"]["containers"]
    assert container["ports"][0] == {"name": named[0], "containerPort": named[1]}
    assert container["readinessProbe"]["httpGet"]["port"] == named[0]
    assert f"--port={named[1]}" in container["args"]
    assert any(word.startswith("--kv-events-config=") and "tcp://*:5557" in word for word in container["args"])


def test_by_dns_the_service_that_is_looked_up_is_made() -> None:
    for dns in ({"name": "llms.llm-acme.svc", "port": 8001}, {"srv": "_http._tcp.llms.llm-acme.svc.cluster.local"}):
        made = make_plan(config(finding({"dns": dns, "role": "warm"}, deploy={"engines": {"hot": 0, "warm": 2}})))
        (search,) = (one for owner in made.owners for one in owner.searches)
        assert (search.service.name, search.service.headless) == ("llms", True)
        assert dict(search.service.ports) == {"http": dns.get("port", 8000)}
        assert [(one.name, one.replicas) for one in search.engines] == [("chat-warm", 2)]
        assert "llm-acme" not in made.grants, "a name asks for no right"


def test_a_found_cold_engine_may_be_scaled_and_the_right_is_for_it_alone() -> None:
    hook = {"scale": {"namespace": "llm-acme", "name": "chat-cold"}}
    said = finding({"kubernetes": PODS}, standby={"start": hook}, deploy={"engines": {"hot": 1, "cold": 1}})
    granted = make_plan(config(said)).grants["llm-acme"]
    assert sorted(map(str, granted)) == ["list pods", "patch deployments/scale chat-cold", "watch pods"]
    hook["scale"]["kind"] = "StatefulSet"
    assert "expected a cold endpoint of this pool" in problems(said)["pools.chat.standby.start.scale"]


@pytest.mark.parametrize(
    ("discovery", "more", "path", "expected"),
    [
        ({"kubernetes": PODS | {"namespace": "llm-globex"}}, {}, "discovery.kubernetes.namespace", "expected llm-acme"),
        ({"kubernetes": PODS, "scheme": "https"}, {}, "discovery.scheme", "expected http"),
        ({"dns": {"name": "x.llm-globex.svc", "port": 1}}, {}, "discovery.dns.name", "expected NAME.llm-acme.svc."),
        ({"dns": {"srv": "_grpc._tcp.x.llm-acme.svc"}}, {}, "discovery.dns.srv", "expected _http._tcp.NAME.llm-acme"),
        ({"dns": {"name": "x.llm-acme.svc", "port": 1}}, {"deploy": {"engines": {"warm": 1}}}, "deploy.engines",
         "expected hot ones only"),
        ({"kubernetes": PODS}, {"deploy": {"engines": {"hot": 0}}}, "deploy.engines", "expected at least one"),
        ({"kubernetes": PODS | {"selector": "promptlane/pool=other"}}, {}, "discovery.kubernetes.selector",
         "expected one that takes this pool's engines"),
        ({"kubernetes": PODS | {"selector": "promptlane/pool=chat"}}, {}, "discovery.kubernetes.selector",
         "expected one that takes engines only, by promptlane/part=engine"),
        ({"kubernetes": PODS}, {"standby": {"start": {"scale": {"namespace": "llm-acme", "name": "chat-cold"}}}},
         "standby.start.scale", "expected at most deploy.engines.cold, which is 0"),
        ({"kubernetes": PODS},
         {"standby": {"start": {"scale": {"namespace": "llm-acme", "name": "chat-cold", "replicas": 3}}},
          "deploy": {"engines": {"cold": 2}}},
         "standby.start.scale", "expected at most deploy.engines.cold, which is 2"),
        ({"kubernetes": PODS | {"port": "kv-events"}, "kv_events_port": 1}, {}, "discovery.kv_events_port",
         "expected a port and a name of its own"),
    ],
)  # fmt: skip
def test_what_a_pool_looks_for_is_what_is_made_for_it(
    discovery: dict[str, Any], more: dict[str, Any], path: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(config(finding(discovery, **more)))
    found = {problem.path: problem.message for problem in caught.value.problems}
    assert expected in found[f"pools.chat.{path}"]


def test_check_tells_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "promptlane.yaml"
    file.write_text(yaml.safe_dump(finding({"kubernetes": PODS | {"selector": "promptlane/pool=other"}})))
    assert main(["check", "--config", str(file)]) == 1
    assert "pools.chat.discovery.kubernetes.selector: expected one that takes" in capsys.readouterr().err
    file.write_text(yaml.safe_dump(finding({"kubernetes": PODS})))
    assert main(["check", "--config", str(file)]) == 0


def test_endpoints_are_one_engine_each() -> None:
    found = problems(configuration(chat={"deploy": {"engines": {"hot": 2}}}))
    assert found == {"pools.chat.deploy.engines": "expected discovery: an endpoint is one engine"}


def test_two_pools_with_one_name_in_kubernetes_are_a_mistake() -> None:
    said = finding({"kubernetes": PODS})
    said["tenants"]["acme"]["models"]["t"] = {"pool": "Chat", "engine_model": "x"}
    said["pools"]["Chat"] = {"deploy": {}, "discovery": {"kubernetes": PODS | {"selector": "a=b"}}}
    assert "expected names of its own; chat of llm-acme is pools.Chat" in problems(said)["pools.chat.discovery"]
    del said["pools"]["Chat"], said["tenants"]["acme"]["models"]["t"]
    said["pools"]["chat"]["discovery"] = {"dns": {"name": "a1.llm-acme.svc", "port": 1}}
    assert "expected a Service of its own; another endpoint is a1" in problems(said)["pools.spare.endpoints[0].url"]


def test_kv_events_come_from_the_same_host() -> None:
    said = configuration()
    said["pools"]["chat"]["endpoints"][0]["kv_events_url"] = "tcp://g0.llm-globex.svc:5557"
    assert "expected the host of its url" in problems(said)["pools.chat.endpoints[0].kv_events_url"]


@pytest.mark.parametrize(
    ("deploy", "path", "expected"),
    [
        ({"resource": "gpu"}, "resource", "a resource such as nvidia.com/gpu"),
        ({"resource": "nvidia.com/gpu.shared", "own_nodes": False}, "own_nodes", "expected true: who shares a GPU"),
        ({"count": 0}, "count", "from 1 to 64"),
        ({"image": "vllm/vllm-openai"}, "image", "with its tag or digest"),
        ({"memory": "32GB"}, "memory", "a quantity such as"),
        ({"gpus": 1}, "gpus", "unknown key"),
    ],
)
def test_mistakes_are_told_with_their_path(deploy: dict[str, Any], path: str, expected: str) -> None:
    found = problems(configuration(chat={"deploy": deploy}))
    assert expected in found[f"pools.chat.deploy.{path}"]


def test_a_pool_that_nobody_uses_has_no_owner() -> None:
    said = configuration()
    del said["tenants"]["globex"]["models"]["m"]
    assert "whose engines are these?" in problems(said)["pools.other.deploy"]


@pytest.mark.parametrize(
    ("deploy", "tenant", "expected"),
    [
        ({"gateway_namespace": "llm-acme"}, "acme", "expected a namespace of its own"),
        ({"namespace_prefix": "x" * 31}, "a" * 60, "at most 63 characters"),
        ({"namespace_prefix": "Bad_"}, "acme", "the beginning of a namespace's name"),
    ],
)
def test_namespaces_are_apart_and_have_names_that_kubernetes_takes(
    deploy: dict[str, Any], tenant: str, expected: str
) -> None:
    said = configuration()
    said["deploy"] = deploy
    said["tenants"][tenant] = said["tenants"].pop("acme")
    assert any(expected in message for message in problems(said).values())


def test_a_tenant_called_as_a_shared_pool_s_namespace_is_a_mistake() -> None:
    said = configuration()
    said["tenants"]["shared-everybody"] = said["tenants"].pop("globex")
    said["pools"]["other"]["endpoints"][0]["url"] = "http://g0.llm-shared-everybody.svc:8000"
    assert "is also a tenant's" in problems(said)["pools.everybody.deploy"]
