"""A drill's result in words, for the command line.

Floor: pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def report_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Of `POST /admin/drill`'s answer: a plan or a result."""
    how = f"{'real ' if result['real'] else ''}{result['fault']} of {', '.join(result['endpoints'])}"
    yield f"{'tenant':<13}{result['tenant']} ({result['tier']}), model {result['model']}, pool {result['pool']}"
    yield f"{'fault':<13}{how} for {result['seconds']:g} s"
    yield f"{'left':<13}{', '.join(result['left']) or 'nobody'}"
    yield from _plan(result) if result["status"] == "planned" else _result(result)


def _plan(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'target':<13}{result['target_seconds']:g} s"
    for problem in result["problems"]:
        yield f"{'problem':<13}{problem}"
    yield f"{'verdict':<13}nothing was done (--dry-run)"


def _result(result: Mapping[str, Any]) -> Iterator[str]:
    took, target = result["rto_seconds"], result["target_seconds"]
    met = "met" if result["met"] else "MISSED"
    yield f"{'recovery':<13}{'never' if took is None else f'{took:.2f} s'} (target {target:g} s: {met})"
    yield f"{'lost':<13}{result['probes_lost']} of {result['probes']} probes{_counts(result['reasons'])}"
    yield f"{'':<13}{result['clients_lost']} of {result['clients_requests']} requests of clients"
    yield f"{'answered by':<13}{_counts(result['answered_by'])[2:] or 'nobody'}"
    back = result["back_seconds"]
    yield f"{'back':<13}{'not yet' if back is None else f'{back:.2f} s after the fault'}"
    yield f"{'verdict':<13}{result['status']}"


def _counts(counts: Mapping[str, int]) -> str:
    return ": " + ", ".join(f"{name} {count}" for name, count in counts.items()) if counts else ""
