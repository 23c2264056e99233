"""Which modules are compiled: what runs for each request and each chunk, and what decides.

The rest stays interpreted: configuration and migrations are read by libraries that look into Python classes and
functions, and what runs once a second or at the start would only make the build longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("policies", "router")
"""What is copied."""
WHOLE_FOLDERS = ("policies", "router/wire")
INTERPRETED = (
    "policies/interface.py", "policies/parts.py", "policies/registry.py", "policies/governance/drift.py",
    "router/wire/draft.py", "router/wire/errors.py", "router/wire/kubernetes.py", "router/wire/kv_events.py",
    "router/wire/record.py", "router/wire/shapes.py",
)  # fmt: skip
"""Of those folders: Protocols alone, constructors that are looked into for their parameters, and what msgspec decodes
into: of a compiled class it would see neither the keywords (`gc=False`) nor that a field is `str | None`."""
ROUTER = (
    "app", "attempts", "calls", "charging", "client", "connection", "exchange", "gateway", "guarded", "lanes", "limits",
    "measure", "metrics", "origin", "passage", "pools", "relay", "request_records", "response", "routing_headers",
    "tenants", "tickets", "timeouts", "tracing", "upstream",
)  # fmt: skip


def compiled_files(root: Path) -> Iterator[str]:
    """Paths below `root`, which holds the packages, in order."""
    for folder in WHOLE_FOLDERS:
        paths = (str(path.relative_to(root)) for path in sorted((root / folder).rglob("*.py")))
        yield from (path for path in paths if not path.endswith("__init__.py") and path not in INTERPRETED)
    yield from (f"router/{name}.py" for name in ROUTER)
