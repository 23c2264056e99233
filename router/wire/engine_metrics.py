"""What an engine's `/metrics` says that routing needs.

Floor: sans-IO. Only lines of a few families are looked at; a page of 600 lines costs well under a millisecond.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_LINE = re.compile(r"^vllm:([a-z_]+)(?:\{([^}]*)\})? (\S+)", re.MULTILINE)
_LABEL = re.compile(r'([a-zA-Z_]+)="([^"]*)"')
_START = re.compile(r"^process_start_time_seconds (\S+)", re.MULTILINE)
# Both spellings: engines before 0.10 said gpu_cache_usage_perc.
_USAGE = ("kv_cache_usage_perc", "gpu_cache_usage_perc")


@dataclass(frozen=True, slots=True)
class EngineReading:
    """One scrape; None where the engine does not say. Several data-parallel ranks count as one engine.

    `kv_usage` is 0 to 1, `kv_capacity_tokens` what the cache holds, `started_at` Unix seconds.
    """

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    kv_capacity_tokens: int | None = None
    asleep: bool | None = None
    started_at: float | None = None


def read_engine_metrics(text: str) -> EngineReading:
    """Reads the Prometheus text of a vLLM server (old and new names)."""
    values: dict[str, list[float]] = {}
    capacity = 0
    awake: list[bool] = []
    for name, labels, figure in _LINE.findall(text):
        value = _number(figure)
        if value is None:
            continue
        if name in ("num_requests_running", "num_requests_waiting", *_USAGE):
            values.setdefault(name, []).append(value)
        elif name == "cache_config_info":
            capacity += _capacity(dict(_LABEL.findall(labels)))
        elif name == "engine_sleep_state" and 'sleep_state="awake"' in labels:
            awake.append(value > 0)
    usage = values.get(_USAGE[0]) or values.get(_USAGE[1])
    started = _START.search(text)
    return EngineReading(
        running=_total(values.get("num_requests_running")),
        waiting=_total(values.get("num_requests_waiting")),
        kv_usage=sum(usage) / len(usage) if usage else None,
        kv_capacity_tokens=capacity or None,
        asleep=not all(awake) if awake else None,
        started_at=_number(started.group(1)) if started else None,
    )


def _number(text: str) -> float | None:
    """A finite number; None for NaN, infinity and anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _total(values: list[float] | None) -> float | None:
    return sum(values) if values else None


def _capacity(labels: dict[str, str]) -> int:
    blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    # Nine digits: more blocks than any cache has, and no bill for converting a million digits.
    return int(blocks) * int(size) if re.fullmatch(r"[0-9]{1,9} [0-9]{1,9}", f"{blocks} {size}") else 0
