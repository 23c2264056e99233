"""The documents' tables that are made from the code; `python -m tests.docs` (`make docs`) writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from policies.parts import FILTERS, PICKERS, SCORERS
from policies.registry import DEFAULT_FILTERS, PROFILES, PartSpec
from router.access_log import ACCESS_COUNTERS
from router.config import documented_keys
from router.discovery_metrics import DISCOVERY_COUNTERS, DISCOVERY_GAUGES
from router.key_metrics import KEY_GAUGES
from router.learned_metrics import LEARNED
from router.ledger_metrics import LEDGER_COUNTERS, LEDGER_GAUGES
from router.metrics import COUNTERS, HISTOGRAMS
from router.output_metrics import OUTPUT_COUNTERS, OUTPUT_GAUGES
from router.pool_metrics import GAUGES
from router.service_metrics import SERVICE_GAUGES
from router.workers.metrics import WORKER_COUNTERS, WORKER_GAUGES

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
METRICS = ROOT / "deploy" / "observability" / "README.md"
ROUTING = ROOT / "policies" / "README.md"
CONFIGURATION = ROOT / "router" / "config" / "README.md"
DOCUMENTS = (
    README,
    METRICS,
    ROUTING,
    CONFIGURATION,
    ROOT / "deploy" / "README.md",
    ROOT / "deploy" / "CAPACITY.md",
    ROOT / "deploy" / "kubernetes" / "README.md",
    ROOT / "router" / "README.md",
    ROOT / "router" / "guards" / "README.md",
    ROOT / "router" / "ledger" / "README.md",
    ROOT / "benchmarks" / "README.md",
)


ALL_COUNTERS = COUNTERS | LEDGER_COUNTERS | OUTPUT_COUNTERS | ACCESS_COUNTERS | WORKER_COUNTERS | DISCOVERY_COUNTERS
ALL_GAUGES = (
    GAUGES | SERVICE_GAUGES | KEY_GAUGES | LEDGER_GAUGES | OUTPUT_GAUGES | LEARNED | WORKER_GAUGES | DISCOVERY_GAUGES
)


def config_rows() -> Iterator[str]:
    for key in documented_keys():
        kind, default, text = map(_cell, (key.type, key.default, key.description))
        yield f"| `{key.path}` | {kind} | {default} | {text} |"


def metric_rows() -> Iterator[str]:
    families = [(f"{name}_total", row) for name, row in ALL_COUNTERS.items()]
    families += [*HISTOGRAMS.items(), *ALL_GAUGES.items()]
    for name, (labels, text) in families:
        yield f"| `{name}` | {', '.join(labels)} | {_cell(text)} |"


def profile_rows() -> Iterator[str]:
    for name, spec in PROFILES.items():
        assert spec.filters == DEFAULT_FILTERS, "the document says that all have the same"
        scorers = ", ".join(_part(part) for part, _ in spec.scorers)
        held = "yes" if spec.gate is not None else "no, `priority`" if spec.engine_priority else "no"
        yield f"| `{name}` | {_cell(spec.text)} | {scorers} | {_part(spec.picker)} | {held} |"


def part_rows() -> Iterator[str]:
    for kind, table in (("filter", FILTERS), ("scorer", SCORERS), ("picker", PICKERS)):
        for name, part in table.items():
            given = ", ".join(
                f"`{key}` {one.default:g} ({one.least:g} to {one.most:g})" for key, one in part.parameters.items()
            )
            yield f"| {kind} | `{name}` | {_cell(part.text)} | {given} |"


def _part(spec: PartSpec) -> str:
    given = ", ".join(f"{key} {value:g}" for key, value in spec.parameters.items())
    return f"`{spec.name}`" + (f" ({given})" if given else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


ROWS = {"config": config_rows, "metrics": metric_rows, "profiles": profile_rows, "parts": part_rows}


def written(text: str) -> str:
    """A document with its tables as the code has them."""
    for name, rows in ROWS.items():
        pattern = rf"(<!-- {name}: [^\n]*\n\|[^\n]*\n\|[^\n]*\n)(?:\|[^\n]*\n)*(<!-- {name} end -->)"
        table = "".join(row + "\n" for row in rows())
        text = re.sub(pattern, lambda found, table=table: found[1] + table + found[2], text)
    return text


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(written(document.read_text()))
