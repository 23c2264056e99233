"""What a dashboard is here: rows of panels with their queries, and the JSON that Grafana loads of it.

The JSON loads as it is: the data source is a variable, and nothing in it belongs to one installation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24  # of Grafana's grid
WINDOW = "$__rate_interval"
TENANT = 'tenant=~"$tenant"'
POOL = 'pool=~"$pool"'
TIMED = ("timeseries", "state-timeline")

Query = tuple[str, str]  # an expression and the legend of what it gives


@dataclass(frozen=True, slots=True)
class Panel:
    """`unit`: Grafana's name of it. `width`: of 24 columns."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    text: str = ""
    kind: str = "timeseries"
    width: int = 8

    @property
    def height(self) -> int:
        return 4 if self.kind == "stat" else 8


@dataclass(frozen=True, slots=True)
class Dashboard:
    """`rows`: heading and panels. `variables`: name, label and the metric whose values of that label it lists."""

    uid: str
    title: str
    text: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    variables: tuple[tuple[str, str, str], ...]


def one(title: str, unit: str, expression: str, legend: str = "", text: str = "", **more: Any) -> Panel:
    """A panel of one query."""
    return Panel(title, unit, ((expression, legend),), text, **more)


def stat(title: str, unit: str, expression: str, text: str = "", width: int = 4, legend: str = "") -> Panel:
    """One number."""
    return Panel(title, unit, ((expression, legend),), text, "stat", width)


def rate(title: str, unit: str, metric: str, by: str, where: str, text: str = "", **more: Any) -> Panel:
    """A counter per second, summed by labels that are the legend too."""
    return Panel(title, unit, (rated(metric, by, where),), text, **more)


def rated(metric: str, by: str, where: str, prefix: str = "") -> Query:
    """The query of such a panel."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[{WINDOW}]))", f"{prefix} {legend(by)}".strip()


def spread(title: str, metric: str, by: str, where: str, text: str = "", *, shares: str = "0.5 0.95") -> Panel:
    """Quantiles of a histogram of seconds."""
    queries = tuple(
        (
            f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket{{{where}}}[{WINDOW}])))",
            f"p{float(share) * 100:g} {legend(by)}",
        )
        for share in shares.split()
    )
    return Panel(title, "s", queries, text)


def legend(by: str) -> str:
    """The labels' values, one after the other."""
    return " ".join(f"{{{{{label}}}}}" for label in by.split(", "))


def written(dashboard: Dashboard) -> str:
    """Grafana's file of it."""
    rendered = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.text,
        "tags": ["promptlane"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "title": "Promptlane",
                "tags": ["promptlane"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": [_source(), *(_variable(*one) for one in dashboard.variables)]},
        "panels": list(_panels(dashboard)),
    }
    return json.dumps(rendered, indent=1) + "\n"


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for title, panels in dashboard.rows:
        number += 1
        place = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        top, left, tallest = top + 1, 0, 0
        for panel in panels:
            number += 1
            if left + panel.width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            yield _panel(number, panel, left, top)
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest


def _panel(number: int, panel: Panel, left: int, top: int) -> dict[str, Any]:
    timed = panel.kind in TIMED
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": left, "y": top},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if timed else {},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": named or "__auto",
                "range": timed,
                "instant": not timed,
                **({"exemplar": True} if timed and "_bucket" in expression else {}),
            }
            for index, (expression, named) in enumerate(panel.queries)
        ],
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}


def _variable(name: str, label: str, metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, {label})"
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }
