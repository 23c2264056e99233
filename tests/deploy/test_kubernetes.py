"""What is rendered for Kubernetes: built by kubectl alone, valid by its own schemas, the same as the example."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.kubernetes import build
from policies.types import Role
from router.cli import main
from router.config import Config, load, warnings
from router.deployment.engines import workload
from router.deployment.objects import Manifests, selects
from router.deployment.parts import Engine, Plan
from router.deployment.plan import make_plan
from router.deployment.render import HEAD, files
from tests.deploy.tools import DEPLOY, kustomize
from tests.node import commands, installed

KUBERNETES = DEPLOY / "kubernetes"
EXAMPLE = KUBERNETES / "example"
CONFIG: Config = load(EXAMPLE / "promptlane.yaml", environ={})
PLAN: Plan = make_plan(CONFIG)
CRDS = {"ServiceMonitor", "PrometheusRule", "Gateway", "HTTPRoute", "ScaledObject"}


@cache
def built() -> Manifests:
    return Manifests(kustomize(EXAMPLE))


def gateway() -> dict[str, Any]:
    found = built().one("Deployment", "promptlane", "promptlane")
    assert found is not None
    return found


def test_the_example_is_what_the_command_renders_now(tmp_path: Path) -> None:
    out = tmp_path / "tenants"
    assert main(["render", "kubernetes", "--config", str(EXAMPLE / "promptlane.yaml"), "--out", str(out)]) == 0
    now = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    there = {
        str(path.relative_to(EXAMPLE / "tenants")): path.read_text()
        for path in (EXAMPLE / "tenants").rglob("*")
        if path.is_file()
    }
    assert there == now, "run: promptlane render kubernetes --config promptlane.yaml --out tenants"
    assert len(now) > 20


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_everything_is_valid_by_kubernetes_own_schemas(version: str) -> None:
    checked = 0
    for one in [*built().objects, *examples()]:
        if one["kind"] not in CRDS:
            kubernetes_validate.validate(one, version, strict=True)
            checked += 1
    assert checked > 60


def custom_resources(objects: list[dict[str, Any]]) -> list[list[str]]:
    """What is wrong with each, by the schemas and the types of their definitions."""
    folder = installed("crds")
    argv = [*commands()[0], "check.mjs"]
    text = json.dumps(objects)
    done = subprocess.run(argv, cwd=folder, input=text, capture_output=True, text=True, timeout=120.0)
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


def test_custom_resources_are_valid_by_their_definitions() -> None:
    objects = [one for one in [*built().objects, *examples()] if one["kind"] in CRDS]
    assert {one["kind"] for one in objects} == CRDS
    wrong = zip(objects, custom_resources(objects), strict=True)
    assert {f"{one['kind']} {one['metadata']['name']}": found for one, found in wrong if found} == {}


def test_their_definitions_would_find_something() -> None:
    one = next(one for one in examples() if one["kind"] == "ScaledObject")
    misspelt = {**one, "spec": {**one["spec"], "minReplicas": 1}}
    mistyped = {**one, "spec": {**one["spec"], "minReplicaCount": "one"}}
    assert [bool(found) for found in custom_resources([one, misspelt, mistyped])] == [False, True, True]


def test_the_schemas_would_find_something() -> None:
    bad = workload(PLAN.engines[0])
    bad["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(bad, "1.37", strict=True)


def examples() -> list[dict[str, Any]]:
    """What the overlay does not build: to be applied by hand, or to be copied."""
    paths = [EXAMPLE / "fetch-models.yaml", EXAMPLE / "autoscaling.yaml"]
    return [one for path in paths for one in yaml.safe_load_all(path.read_text())]


def test_autoscalers_scale_what_is_rendered_within_its_quota() -> None:
    engines = {(engine.namespace, engine.name): engine.replicas for engine in PLAN.engines}
    scalers = [one for one in examples() if one["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")]
    assert len(scalers) >= 3
    for one in scalers:
        spec = one["spec"]
        most = engines[one["metadata"]["namespace"], spec["scaleTargetRef"]["name"]]
        assert spec.get("maxReplicaCount", spec.get("maxReplicas")) == most


def test_the_gateway_has_nothing_to_warn_of_in_the_example() -> None:
    config = load(EXAMPLE / "promptlane.yaml", {"PROMPTLANE_SECRET": "x" * 40})
    assert warnings(config, datetime.now(UTC)) == []


def test_rules_and_dashboards_are_those_of_the_folder_observability() -> None:
    assert build.RULES.read_text() == build.rules(), "run: make dashboards"
    dashboards = built().one("ConfigMap", "promptlane-dashboards", "promptlane")
    assert dashboards is not None
    folder = DEPLOY / "observability" / "grafana"
    assert dashboards["data"] == {path.name: path.read_text() for path in folder.glob("*.json")}


def test_the_gateway_reads_the_configuration_that_the_tenants_were_rendered_from() -> None:
    (maps,) = (one for one in built().of("ConfigMap") if one["metadata"]["name"].startswith("promptlane-config-"))
    assert maps["data"] == {"promptlane.yaml": (EXAMPLE / "promptlane.yaml").read_text()}
    volumes = {one["name"]: one for one in gateway()["spec"]["template"]["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == maps["metadata"]["name"], "another configuration, other pods"


def test_the_gateway_has_two_pods_and_loses_one_at_a_time() -> None:
    spec = gateway()["spec"]
    assert spec["replicas"] >= 2
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    (budget,) = built().of("PodDisruptionBudget")
    assert selects(budget["spec"]["selector"], spec["template"]["metadata"]["labels"])
    assert budget["spec"]["maxUnavailable"] == 1
    (scaler,) = built().of("HorizontalPodAutoscaler")
    assert scaler["spec"]["minReplicas"] >= 2
    assert {one["type"] for one in scaler["spec"]["metrics"]} == {"Resource", "Pods"}


def test_the_gateway_has_longer_to_end_than_it_gives_requests() -> None:
    server, pod = CONFIG.server, gateway()["spec"]["template"]["spec"]
    assert server.shutdown_delay > 0, "ingresses notice late"
    assert pod["terminationGracePeriodSeconds"] > server.shutdown_delay + server.shutdown_grace


def test_the_gateway_is_restricted_and_its_secrets_are_references() -> None:
    pod = gateway()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {one["name"] for one in container["env"] if "value" not in one} == {
        "PROMPTLANE_SECRET",
        "PROMPTLANE_STATE__REDIS_URL",
        "PROMPTLANE_STATE__LEDGER_URL",
    }
    assert not list(built().of("Secret"))
    assert all(
        "latest" not in one["image"] and ":" in one["image"] for w in built().workloads() for one in w.containers
    )


def test_the_gateway_may_scale_the_cold_engines_find_pods_where_it_looks_for_them_and_nothing_else() -> None:
    cold = {(engine.namespace, engine.name) for engine in PLAN.engines if engine.role is Role.COLD}
    roles = {name: [one for one in built().of("Role") if one["metadata"]["name"] == name] for name in
             ("scale-cold-engines", "find-engines")}  # fmt: skip
    assert sum(map(len, roles.values())) == len(list(built().of("Role")))
    rules = {
        (one["metadata"]["namespace"], name): rule
        for one in roles["scale-cold-engines"]
        for rule in one["rules"]
        for name in rule["resourceNames"]
    }
    assert set(rules) == cold
    assert cold
    assert all((rule["resources"], rule["verbs"]) == (["deployments/scale"], ["patch"]) for rule in rules.values())
    (finds,) = roles["find-engines"]
    assert finds["metadata"]["namespace"] == "llm-globex"
    assert finds["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
    assert gateway()["spec"]["template"]["spec"]["automountServiceAccountToken"] is True
    subjects = [subject["name"] for one in built().of("ClusterRoleBinding") for subject in one["subjects"]]
    assert subjects == ["promptlane-audit"], "which lists, and is nobody that serves"


def test_the_audit_may_list_and_reaches_no_engine() -> None:
    (role,) = built().of("ClusterRole")
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"list"}
    assert not [rule for rule in role["rules"] if {"secrets", "configmaps", "*"} & set(rule["resources"])]
    (job,) = (one for one in built().workloads("promptlane") if one.kind == "CronJob")
    policies = built().of("NetworkPolicy", "llm-acme")
    gateways = [
        peer["podSelector"] for one in policies for rule in one["spec"].get("ingress", ()) for peer in rule["from"]
    ]
    assert gateways
    assert not any(selects(one, job.labels) for one in gateways)
    assert job.spec["volumes"][0]["configMap"]["name"].startswith("promptlane-config-")


def test_tenants_hosts_come_in_by_tls_and_only_to_their_apis() -> None:
    (ingress,), (route,), (listener,) = built().of("Ingress"), built().of("HTTPRoute"), built().of("Gateway")
    wildcard = f"*.{CONFIG.server.base_domain}"
    assert [one["hosts"] for one in ingress["spec"]["tls"]] == [[wildcard]]
    paths = {path["path"] for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]}
    assert paths == {"/v1", "/tokenize", "/detokenize"}, "operators' paths stay inside"
    assert {m["path"]["value"] for rule in route["spec"]["rules"] for m in rule["matches"]} == paths
    assert route["spec"]["hostnames"] == [wildcard]
    assert [one["hostname"] for one in listener["spec"]["listeners"] if one["protocol"] == "HTTPS"] == [wildcard]
    ports = {
        one["metadata"]["name"]: [p["port"] for p in one["spec"]["ports"]]
        for one in built().of("Service", "promptlane")
    }
    assert ports == {"promptlane": [80], "promptlane-admin": [9090]}


def test_the_gateway_is_reached_at_each_port_by_who_needs_it_alone() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in built().of("NetworkPolicy", "promptlane")}
    assert policies["nothing-in-or-out"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    entered = {
        port["port"]: [(peer.get("namespaceSelector") or {}).get("matchLabels") for peer in rule["from"]]
        for rule in policies["gateway"]["ingress"]
        for port in rule["ports"]
    }
    assert entered == {
        8080: [{"kubernetes.io/metadata.name": "ingress-nginx"}],
        9090: [{"kubernetes.io/metadata.name": "monitoring"}],
        8090: [None],
    }
    labels = gateway()["spec"]["template"]["metadata"]["labels"]
    assert selects(policies["gateway"]["podSelector"], labels)


def test_prometheus_finds_the_gateway() -> None:
    (monitor,) = built().of("ServiceMonitor")
    admin = built().one("Service", "promptlane-admin", "promptlane")
    assert admin is not None
    assert selects(monitor["spec"]["selector"], admin["metadata"]["labels"])
    assert [one["port"] for one in monitor["spec"]["endpoints"]] == [port["name"] for port in admin["spec"]["ports"]]


@pytest.mark.parametrize("engine", PLAN.engines, ids=lambda engine: engine.name)
def test_an_engine_has_what_its_role_needs(engine: Engine) -> None:
    made = built().one("Deployment", engine.name, engine.namespace)
    assert made is not None
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert made["spec"]["replicas"] == (0 if engine.role is Role.COLD else engine.replicas)
    assert ("--enable-sleep-mode" in container["args"]) is (engine.role is Role.WARM)
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert (environment.get("VLLM_SERVER_DEV_MODE") == "1") is (engine.role is Role.WARM)
    assert {"--enable-prefix-caching", "--enable-prompt-tokens-details"} <= set(container["args"])
    pool = CONFIG.pools[engine.pool]
    assert pod["terminationGracePeriodSeconds"] > pool.timeouts.total
    assert f"--shutdown-timeout={round(pool.timeouts.total)}" in container["args"]
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
    assert made["spec"]["template"]["metadata"]["labels"]["promptlane/tier"] == CONFIG.tenants[engine.owner].tier


def test_tiers_differ_in_priority_and_batch_work_gives_way() -> None:
    classes = {one["metadata"]["name"]: one for one in built().of("PriorityClass")}
    assert classes["llm-online-high"]["value"] > classes["llm-online"]["value"] > classes["llm-batch"]["value"]
    assert classes["llm-batch"]["preemptionPolicy"] == "Never"
    given = {one.name: one.spec.get("priorityClassName") for one in built().workloads() if one.kind == "Deployment"}
    assert given["acme-0"] == "llm-online-high"
    assert given["globex-0"] == given["initech-0"] == "llm-online"
    assert given["acme-batch-0"] == "llm-batch"


def test_kv_events_go_to_the_gateway_s_ports_and_nothing_else_opens_some() -> None:
    policy = built().one("NetworkPolicy", "engines-from-gateway", "llm-acme")
    assert policy is not None
    assert [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]] == [5557, 5558, 8000]
    (container,) = next(one for one in built().workloads("llm-acme") if one.name == "acme-0").containers
    (said,) = (word for word in container["args"] if word.startswith("--kv-events-config="))
    assert '"endpoint":"tcp://*:5557"' in said
    assert '"replay_endpoint":"tcp://*:5558"' in said


def test_the_models_image_is_on_the_nodes_before_a_cold_start() -> None:
    pulled = {
        (one.namespace, c["image"]) for one in built().workloads() if one.kind == "DaemonSet" for c in one.containers
    }
    assert pulled == {(engine.namespace, engine.deploy.image) for engine in PLAN.engines}


def test_a_tenant_that_is_gone_leaves_no_file(tmp_path: Path) -> None:
    config = tmp_path / "promptlane.yaml"
    text = (EXAMPLE / "promptlane.yaml").read_text()
    config.write_text(text)
    out = ["--config", str(config), "--out", str(tmp_path / "out")]
    assert main(["render", "kubernetes", *out]) == 0
    said = yaml.safe_load(text)
    del said["tenants"]["globex"], said["pools"]["globex-chat"], said["pools"]["globex-code"]
    config.write_text(yaml.safe_dump(said))
    assert main(["render", "kubernetes", *out]) == 0
    left = {path.name for path in (tmp_path / "out" / "tenants").iterdir()}
    assert left == {"acme", "initech"}
    assert not (tmp_path / "out" / "tiers" / "gold").exists()


def test_a_folder_with_files_of_others_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("kind: Secret\n")
    command = ["render", "kubernetes", "--config", str(EXAMPLE / "promptlane.yaml"), "--out", str(tmp_path)]
    assert main(command) == 1
    assert "not written by this command" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_configuration_without_pools_to_deploy_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(DEPLOY / "compose" / "promptlane.yaml")
    assert main(["render", "kubernetes", "--config", config, "--out", "/nonexistent"]) == 1
    assert "No pool of the configuration has `deploy`" in capsys.readouterr().err


def test_every_file_says_where_it_comes_from() -> None:
    assert all(text.startswith(HEAD) for text in files(PLAN).values())
