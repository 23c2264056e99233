"""The README's tables that are made from the code; `python -m tests.docs` (`make docs`) writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from router.config import documented_keys
from router.metrics import COUNTERS, GAUGES, HISTOGRAMS

README = Path(__file__).parent.parent / "README.md"


def config_rows() -> Iterator[str]:
    for key in documented_keys():
        kind, default, text = map(_cell, (key.type, key.default, key.description))
        yield f"| `{key.path}` | {kind} | {default} | {text} |"


def metric_rows() -> Iterator[str]:
    families = [(f"{name}_total", row) for name, row in COUNTERS.items()]
    families += [*HISTOGRAMS.items(), *GAUGES.items()]
    for name, (labels, text) in families:
        yield f"| `{name}` | {', '.join(labels)} | {_cell(text)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


ROWS = {"config": config_rows, "metrics": metric_rows}


def written(text: str) -> str:
    """The README with its tables as the code has them."""
    for name, rows in ROWS.items():
        pattern = rf"(<!-- {name}: [^\n]*\n\|[^\n]*\n\|[^\n]*\n)(?:\|[^\n]*\n)*(<!-- {name} end -->)"
        table = "".join(row + "\n" for row in rows())
        text = re.sub(pattern, lambda found, table=table: found[1] + table + found[2], text)
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
