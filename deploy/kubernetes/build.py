"""The rules of Prometheus as Kubernetes has them; `make dashboards` writes them."""

from __future__ import annotations

from pathlib import Path

import yaml

HERE = Path(__file__).parent
RULES = HERE / "base" / "rules.yaml"
SOURCES = [HERE.parent / "observability" / "prometheus" / name for name in ("recording.yaml", "alerts.yaml")]


def rules() -> str:
    """One PrometheusRule with the groups of all files."""
    groups = [group for path in SOURCES for group in yaml.safe_load(path.read_text())["groups"]]
    made = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "promptlane"},
        "spec": {"groups": groups},
    }
    head = "# Written by `make dashboards` from ../../observability/prometheus: change those files, not this one.\n"
    return head + yaml.safe_dump(made, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    RULES.write_text(rules())
