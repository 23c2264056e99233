"""Rules and dashboards name what exists, load as they are, and alerts fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.observability.grafana.build import DASHBOARDS, FOLDER
from deploy.observability.grafana.model import written
from router.metrics import COUNTERS, HISTOGRAMS
from router.pool_metrics import GAUGES
from router.service_metrics import SERVICE_GAUGES
from tests.deploy.expressions import OBSERVABILITY, exported, problems, recorded

plugins.register_default_plugins()
PROMETHEUS = OBSERVABILITY / "prometheus"
BOARDS = sorted(FOLDER.glob("*.json"))


def rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDING, ALERTS = rules("recording.yaml"), rules("alerts.yaml")
KNOWN = recorded(RECORDING, exported())


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (panel for panel in board["panels"] if panel["type"] != "row")


def expressions(board: dict[str, Any]) -> list[str]:
    """Of all panels, and the metrics that variables list labels of."""
    found = [target["expr"] for panel in panels(board) for target in panel["targets"]]
    listed = [one["definition"] for one in board["templating"]["list"] if one["type"] == "query"]
    return found + [f"count by ({label}) ({metric})" for metric, label in (one[13:-1].split(", ") for one in listed)]


@pytest.mark.parametrize("rule", [*RECORDING, *ALERTS], ids=lambda rule: rule.get("record") or rule["alert"])
def test_rules_name_what_exists(rule: dict[str, Any]) -> None:
    assert problems(rule["expr"], KNOWN) == []


@pytest.mark.parametrize("file", BOARDS, ids=lambda file: file.stem)
def test_dashboards_name_what_exists(file: Path) -> None:
    board = json.loads(file.read_text())
    assert {one: wrong for one in expressions(board) if (wrong := problems(one, KNOWN))} == {}
    for panel in panels(board):
        for target in panel["targets"]:
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert shown <= frozenset().union(*(KNOWN[name] for name in KNOWN if name in target["expr"])), panel[
                "title"
            ]


def test_what_does_not_exist_is_found() -> None:
    assert problems("rate(promptlane_request_total[5m])", KNOWN) == ["no metric promptlane_request_total"]
    assert problems('promptlane_waiting{tenant="a"}', KNOWN) == ["promptlane_waiting has no label tenant"]
    assert problems("sum by (tenant) (promptlane_waiting)", KNOWN) == ["nothing has the label tenant"]
    assert problems("sum(1)", KNOWN) == ["no metric is named"]
    assert problems("sum by (tenant) (pool:promptlane_endpoint_available:count)", KNOWN) != []


def test_dashboards_are_as_they_are_built() -> None:
    assert [f"{one.uid}.json" for one in sorted(DASHBOARDS, key=lambda one: one.uid)] == [file.name for file in BOARDS]
    for one in DASHBOARDS:
        assert (FOLDER / f"{one.uid}.json").read_text() == written(one), "run: make dashboards"


@pytest.mark.parametrize("file", BOARDS, ids=lambda file: file.stem)
def test_grafanas_own_sdk_reads_all_of_a_dashboard(file: Path) -> None:
    """What it does not know, or is of another type, it would leave out or not read at all."""
    board = json.loads(file.read_text())
    known = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    for variable in board["templating"]["list"]:
        variable.pop("definition", None)  # what a query's variable shows in the editor: Grafana's, but not its schema's
    assert missing(board, known) == []
    board["panels"][1]["fieldConfig"]["defaults"]["unitt"] = "s"
    assert missing(board, known) == [".panels[1].fieldConfig.defaults.unitt"]


def missing(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Where `found` is not what `wanted` says."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [one for key in wanted for one in missing(wanted[key], found.get(key), f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return [one for at, pair in pairs for one in missing(*pair, f"{path}[{at}]")]
    return [] if wanted == found else [path]


@pytest.mark.parametrize("file", BOARDS, ids=lambda file: file.stem)
def test_a_dashboard_loads_without_edits(file: Path) -> None:
    text = file.read_text()
    board = json.loads(text)
    assert board["uid"] == file.stem
    assert "__inputs" not in board, "nothing is asked for"
    assert {json.dumps(source) for source in _sources(board)} == {'{"type": "prometheus", "uid": "${datasource}"}'}
    variables = {one["name"] for one in board["templating"]["list"]}
    assert "datasource" in variables
    asked = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"}
    assert asked == variables, "each variable is used, and each that is used exists"
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    cells = [
        (x, y)
        for panel in board["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "no panel lies over another"
    assert max(x for x, _ in cells) < 24
    for panel in panels(board):
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == list("ABC"[: len(letters)])


def _sources(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        yield from ([node["datasource"]] if "datasource" in node else [])
        for value in node.values():
            yield from _sources(value)
    elif isinstance(node, list):
        for value in node:
            yield from _sources(value)


def test_dashboards_have_names_of_their_own() -> None:
    boards = [json.loads(file.read_text()) for file in BOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards) == 4


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do_and_has_a_test(rule: dict[str, Any]) -> None:
    assert set(rule["annotations"]) == {"summary", "description"}
    assert all(len(text) > 15 for text in rule["annotations"].values())
    assert rule["labels"]["severity"] in ("page", "ticket")
    tests = "".join(file.read_text() for file in (PROMETHEUS / "tests").glob("*.test.yaml"))
    assert f'{{labels: \'ALERTS{{alertname="{rule["alert"]}", alertstate="firing"' in tests


def test_names_of_alerts_and_records_are_used_once() -> None:
    for key, found in (("alert", ALERTS), ("record", RECORDING)):
        names = [rule[key] for rule in found]
        assert len(set(names)) == len(names) > 15


def run(*argv: str, cwd: Path = PROMETHEUS) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules(promtool: str) -> None:
    run(promtool, "check", "rules", "--lint-fatal", "recording.yaml", "alerts.yaml")


@pytest.mark.parametrize("file", sorted((PROMETHEUS / "tests").glob("*.test.yaml")), ids=lambda file: file.stem)
def test_rules_do_as_their_tests_say(promtool: str, file: Path) -> None:
    run(promtool, "test", "rules", str(file))


def test_prometheus_takes_the_expressions_of_dashboards(promtool: str, tmp_path: Path) -> None:
    found = [one for file in BOARDS for one in expressions(json.loads(file.read_text()))]
    ready = [one.replace("$__rate_interval", "5m") for one in found]
    rule = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(ready)]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rule}]}))
    run(promtool, "check", "rules", str(file), cwd=tmp_path)


def test_metrics_have_units_in_their_names_and_bounded_labels() -> None:
    for name in HISTOGRAMS:
        assert name.endswith("_seconds"), name
    bounded = {
        "action", "api", "by", "cause", "endpoint", "fault", "kind", "lane", "limit", "mode", "model", "objective",
        "part", "pool", "reason", "result", "role", "rule", "scope", "side", "state", "status", "tenant", "tier", "to",
        "version", "way", "where",
    }  # fmt: skip
    for name, (labels, _) in (COUNTERS | HISTOGRAMS | GAUGES | SERVICE_GAUGES).items():
        assert set(labels) <= bounded, f"{name}: is {set(labels) - bounded} bounded by the configuration?"
        assert re.fullmatch(r"promptlane(_[a-z]+)+", name), name
        assert not name.endswith(("_total", "_ms", "_count", "_sum")), name
