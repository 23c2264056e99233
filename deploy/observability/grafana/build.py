"""Writes the dashboards as the JSON that Grafana loads: `make dashboards`."""

from __future__ import annotations

from pathlib import Path

from deploy.observability.grafana.cost import COST
from deploy.observability.grafana.engine import ENGINES
from deploy.observability.grafana.fleet import FLEET
from deploy.observability.grafana.model import written
from deploy.observability.grafana.tenant import TENANTS

FOLDER = Path(__file__).parent
DASHBOARDS = (FLEET, TENANTS, COST, ENGINES)

if __name__ == "__main__":
    for one in DASHBOARDS:
        (FOLDER / f"{one.uid}.json").write_text(written(one))
