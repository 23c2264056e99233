"""Which metrics and labels a PromQL expression names, and which there are.

Floor: tests only. Not a parser of PromQL (promtool is one): it finds names, as ours, vLLM's and DCGM's are unlike
functions and keywords.
"""

from __future__ import annotations

import re
from pathlib import Path

from router.metrics import HISTOGRAMS
from tests.docs import ALL_COUNTERS, ALL_GAUGES

ROOT = Path(__file__).parent.parent.parent
OBSERVABILITY = ROOT / "deploy" / "observability"
SCRAPED = frozenset({"job", "instance"})  # what Prometheus adds
_NAME = re.compile(r"\b((?:promptlane_|vllm:|process_|DCGM_|[a-z_]+:promptlane_)[A-Za-z0-9_:]*)(?:\{([^}]*)\})?")
_MATCHED = re.compile(r'([a-zA-Z_]+)\s*(?:=~|!~|!=|=)\s*"')
_GROUPED = re.compile(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^)]*)\)")


def used(expression: str) -> tuple[list[tuple[str, set[str]]], set[str]]:
    """Each metric with the labels by which it is selected; and the labels by which anything is grouped or matched."""
    grouped = {label.strip() for labels in _GROUPED.findall(expression) for label in labels.split(",")} - {""}
    return [(name, set(_MATCHED.findall(where))) for name, where in _NAME.findall(expression)], grouped


def problems(expression: str, known: dict[str, frozenset[str]]) -> list[str]:
    """What the expression names that does not exist; or that it names nothing."""
    found, grouped = used(expression)
    wrong = [f"no metric {name}" for name, _ in found if name not in known]
    wrong += [f"{name} has no label {one}" for name, where in found for one in where - known.get(name, frozenset())]
    there = frozenset().union(SCRAPED, *(known.get(name, frozenset()) for name, _ in found))
    wrong += [f"nothing has the label {one}" for one in grouped - there]
    return wrong if found else ["no metric is named"]


def exported() -> dict[str, frozenset[str]]:
    """All that can be scraped, with its labels: the gateway's own, vLLM's by its samples, DCGM's by our list."""
    ours = {f"{name}_total": labels for name, (labels, _) in ALL_COUNTERS.items()}
    ours |= {name: labels for name, (labels, _) in ALL_GAUGES.items()}
    for name, (labels, _) in HISTOGRAMS.items():
        ours |= {f"{name}_sum": labels, f"{name}_count": labels, f"{name}_bucket": (*labels, "le")}
    known = {name: SCRAPED | set(labels) for name, labels in ours.items()}
    for line in (ROOT / "tests/engine/samples/metric_names.txt").read_text().splitlines():
        name, _, labels = line.partition(" ")
        known[name] = SCRAPED | set(filter(None, labels.split(",")))
    fields = (OBSERVABILITY / "grafana/dcgm-fields.txt").read_text().splitlines()
    known |= {one: SCRAPED | {"gpu", "Hostname"} for one in fields if not one.startswith("#")}
    return known


def recorded(rules: list[dict[str, str]], known: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """With what recording rules add: each has the labels that its name says, which stand before the first colon."""
    names = {}
    for rule in rules:
        level = rule["record"].split(":")[0]
        labels = {label for labels in known.values() for label in labels if label in level.split("_")}
        names[rule["record"]] = frozenset(labels)
    return known | names
