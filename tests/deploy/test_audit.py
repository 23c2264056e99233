"""Each rule of isolation finds what breaks it, and nothing in what is rendered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from router.cli import main
from router.config import loads
from router.deployment.audit import RULES, audit
from router.deployment.objects import Manifests
from router.deployment.plan import make_plan
from tests.deploy.broken import ACMES, BROKEN, GOLDS, Objects, both, copied, one, removed, rendered, running, subject
from tests.deploy.test_kubernetes import EXAMPLE, PLAN
from tests.deploy.tools import ROOT, tool


def findings(objects: Objects, *, live: bool = False) -> dict[str, list[str]]:
    found = audit(PLAN, Manifests(objects, live=live))
    return {name: [f"{one.where}: {one.text}" for one in all_] for name, all_ in found.items() if all_}


def test_what_is_rendered_breaks_no_rule() -> None:
    assert findings(rendered()) == {}


def test_every_rule_has_something_that_breaks_it() -> None:
    assert set(BROKEN) == set(RULES)


@pytest.mark.parametrize(
    ("name", "what"), [(name, what) for name, changes in BROKEN.items() for what in changes], ids=lambda text: text
)
def test_a_rule_finds_what_breaks_it(name: str, what: str) -> None:
    objects = rendered()
    BROKEN[name][what](objects)
    assert findings(objects).get(name), findings(objects)


def test_pods_on_their_own_nodes_and_finished_ones_are_well() -> None:
    objects = rendered()
    both(ACMES, GOLDS, running("acme-0", "n1"), running("globex-0", "n2"))(objects)
    ended = {"kind": "Pod", "metadata": {"name": "old", "namespace": "llm-acme"}, "status": {"phase": "Failed"}}
    assert findings([*objects, ended], live=True) == {}


def test_in_a_cluster_a_cold_engine_may_run_but_not_twice() -> None:
    objects = rendered()
    one(objects, "Deployment", "acme-cold")["spec"]["replicas"] = 1
    assert findings(objects, live=True) == {}
    one(objects, "Deployment", "acme-cold")["spec"]["replicas"] = 2
    assert set(findings(objects, live=True)) == {"endpoints-run"}


def test_what_is_found_may_be_scaled_in_a_cluster_and_not_to_none() -> None:
    objects = rendered()
    for replicas, expected in ((1, set()), (2, set()), (0, {"endpoints-run"}), (3, {"endpoints-run"})):
        one(objects, "Deployment", "globex-code")["spec"]["replicas"] = replicas
        assert set(findings(objects, live=True)) == expected


def test_what_every_cluster_gives_everybody_and_people_s_own_rights_are_no_findings() -> None:
    objects = rendered()
    everybody = {"kind": "Group", "name": "system:authenticated"}
    objects.append({"kind": "ClusterRoleBinding", "metadata": {"name": "discovery"}, "subjects": [everybody]})
    subject(kind="User", name="somebody@example.com")(objects)
    subject(kind="Group", name="operators")(objects)
    assert findings(objects) == {}


def test_the_gateway_s_rights_elsewhere_are_those_that_its_configuration_uses() -> None:
    """Of a pool that finds engines which are not rendered."""
    said = yaml.safe_load((EXAMPLE / "promptlane.yaml").read_text())
    pods = {"namespace": "elsewhere", "selector": "app=vllm", "port": 8000}
    said["pools"]["other"] = {"discovery": {"kubernetes": pods}}
    plan = make_plan(loads(yaml.safe_dump(said).encode(), {}))
    objects = rendered()
    for kind in ("Role", "RoleBinding"):
        copied(kind, "find-engines", "elsewhere", "find-engines")(objects)
    assert not any(audit(plan, Manifests(objects)).values())
    assert set(findings(objects)) == {"rights"}


def test_fetching_models_by_hand_is_no_finding() -> None:
    more = list(yaml.safe_load_all((EXAMPLE / "fetch-models.yaml").read_text()))
    assert findings([*rendered(), *more]) == {}


def audited(capsys: pytest.CaptureFixture[str], config: Path, path: Path, *more: str) -> tuple[int, str]:
    status = main(["audit", "--config", str(config), "--manifests", str(path), *more])
    out = capsys.readouterr()
    return status, out.out + out.err


CONFIG = EXAMPLE / "promptlane.yaml"


def test_the_command_builds_a_kustomization_and_says_that_all_is_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(tool("kubectl")).parent))
    status, said = audited(capsys, CONFIG, EXAMPLE)
    assert (status, said) == (
        0,
        f"tenants are kept apart ({len(RULES)} rules, 11 engines, {len(rendered())} objects)\n",
    )


def test_the_command_says_what_is_missing_without_kubectl(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    status, said = audited(capsys, CONFIG, EXAMPLE)
    assert status == 1
    assert "there is no kubectl" in said


def test_the_command_reads_built_files_and_ends_with_1_for_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = rendered()
    removed("NetworkPolicy", "nothing-in-or-out", "llm-acme")(objects)
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(objects))
    status, said = audited(capsys, CONFIG, tmp_path)
    assert status == 1
    assert said.splitlines()[0] == "default-deny: Namespace llm-acme: no NetworkPolicy closes Egress for all its pods"
    status, said = audited(capsys, CONFIG, tmp_path / "all.yaml", "--json")
    assert (status, [rule for rule, found in json.loads(said).items() if found]) == (1, ["default-deny"])


def test_the_configuration_and_what_runs_cannot_drift_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(rendered()))
    said = yaml.safe_load(CONFIG.read_text())
    said["pools"]["globex-chat"]["endpoints"].append({"name": "globex-2", "url": "http://globex-2.llm-globex.svc:8000"})
    said["pools"]["initech-chat"]["endpoints"][0].update(name="other", url="http://other.llm-initech.svc:8000")
    config = tmp_path / "promptlane.yml"
    config.write_text(yaml.safe_dump(said))
    status, text = audited(capsys, config, tmp_path / "all.yaml")
    assert status == 1
    for line in (
        "endpoints-run: pool globex-chat, endpoint globex-2: no Deployment llm-globex/globex-2",
        "nothing-else: Deployment llm-initech/initech-0: is no endpoint of the configuration",
        "quotas: Namespace llm-globex: its ResourceQuota has 6 of nvidia.com/mig-3g.40gb; its pools have 7",
    ):
        assert line in text


def test_what_kubectl_prints_is_read_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "all.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": rendered()}))
    assert audited(capsys, CONFIG, tmp_path)[0] == 0
    (tmp_path / "all.json").write_text(json.dumps({"kind": "List", "items": rendered()[20:]}))
    assert audited(capsys, CONFIG, tmp_path)[0] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "is no YAML"),
        (None, "No such file"),
        ("kind: Deployment\nspec: 5\n", "not shaped as Kubernetes has it"),
        ("kind: Service\nmetadata: {namespace: llm-acme}\nspec: {ports: 3}\n", "Service llm-acme/None"),
    ],
)
def test_files_that_cannot_be_read_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, expected: str
) -> None:
    if text is not None:
        (tmp_path / "all.yaml").write_text(text)
    status, said = audited(capsys, CONFIG, tmp_path / "all.yaml")
    assert status == 1
    assert expected in said


def test_every_rule_is_documented() -> None:
    table = (ROOT / "deploy" / "kubernetes" / "README.md").read_text()
    assert [name for name in RULES if f"| `{name}` |" not in table] == []
