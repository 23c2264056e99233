"""Figures of the ledger, made when somebody scrapes: its threads count in plain numbers of their own.

Floor: an adapter. Labels are closed sets of `policies.ledger` and `router.wire.record`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.ledger.books import Ledger

LEDGER_COUNTERS = {
    "promptlane_ledger_records": (
        ("kind",),
        "Records written through to the disk (kind=request|failover|recovery|drill|gap|endpoint).",
    ),
    "promptlane_ledger_lost": ((), "Records lost, as they could be written nowhere; a record of kind gap counts them."),
    "promptlane_ledger_write_errors": (
        ("cause",),
        "Writes to the spool that failed (cause=spool_full|disk_full|disk_error); they are tried again.",
    ),
    "promptlane_ledger_database_errors": ((), "Times that the database did not take records, or not delete them."),
    "promptlane_ledger_deleted": ((), "Records that this process has deleted by ledger.retention_days or max_rows."),
    "promptlane_ledger_damaged": ((), "Lines of the spool that were no records any more, and not moved."),
    "promptlane_ledger_faults": ((), "Faults of the gateway itself in writing or moving records."),
}
LEDGER_GAUGES = {
    "promptlane_ledger_waiting": ((), "Records that are in memory alone, and not on the disk yet."),
    "promptlane_ledger_spool_bytes": ((), "Bytes of this process's folder in ledger.spool_dir."),
    "promptlane_ledger_lag_seconds": ((), "Age of the oldest record that is not in the database; 0 where all are."),
    "promptlane_ledger_sequence": ((), "Number of the last record in this process's chain."),
    "promptlane_ledger_begun_anew": (
        (),
        "1 where the database that this process found at its start has no record of its chain, though some were moved "
        "to one before: it is new, or another.",
    ),
    "promptlane_ledger_intact": (
        (),
        "1 where this process found the end of its chain as it was written; 0: promptlane ledger verify says more.",
    ),
}


class LedgerCollector(Collector):
    """Of a process's ledger; None where there is none."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        if self._ledger is None:
            return
        values = _values(self._ledger)
        for name, (labels, text) in LEDGER_COUNTERS.items():
            yield _filled(CounterMetricFamily(name, text, labels=labels), values[name])
        for name, (labels, text) in LEDGER_GAUGES.items():
            yield _filled(GaugeMetricFamily(name, text, labels=labels), values[name])

    def describe(self) -> Iterable[Metric]:
        return ()


def _filled(
    family: CounterMetricFamily | GaugeMetricFamily, values: dict[tuple[str, ...], float]
) -> CounterMetricFamily | GaugeMetricFamily:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _values(ledger: Ledger) -> dict[str, dict[tuple[str, ...], float]]:
    writer, shipper, backlog = ledger.writer, ledger.shipper, ledger.writer.backlog
    single = {
        "lost": backlog.lost + backlog.dropped,
        "database_errors": shipper.database_errors,
        "deleted": shipper.pruned,
        "damaged": shipper.damaged,
        "faults": writer.faults + shipper.faults,
        "waiting": writer.waiting,
        "spool_bytes": ledger.spool.size,
        "lag_seconds": shipper.lag,
        "sequence": ledger.spool.mark.sequence,
        "begun_anew": int(shipper.begun_anew),
        "intact": int(ledger.intact),
    }
    found: dict[str, dict[tuple[str, ...], float]] = {
        f"promptlane_ledger_{name}": {(): float(value)} for name, value in single.items()
    }
    by_label = {"records": writer.written, "write_errors": writer.failures}
    for name, counted in by_label.items():
        found[f"promptlane_ledger_{name}"] = {(label,): float(count) for label, count in list(counted.items())}
    return found
