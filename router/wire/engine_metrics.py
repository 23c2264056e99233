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
# Field of a reading -> its family's names, the newest first. An engine may write an old name beside the new one, so one
# of them counts. Counters end in _total on the wire, but not with every version of the library that writes them.
_COUNTERS = {
    "prefix_queries": ("prefix_cache_queries", "gpu_prefix_cache_queries"),
    "prefix_hits": ("prefix_cache_hits", "gpu_prefix_cache_hits"),
    "prompt_tokens": ("prompt_tokens",),
    "generation_tokens": ("generation_tokens",),
    "preemptions": ("num_preemptions",),
}
_SPELLINGS = {
    field: tuple(name + end for name in names for end in ("_total", "")) for field, names in _COUNTERS.items()
}
_SUMMED = frozenset(
    {
        "num_requests_running",
        "num_requests_waiting",
        *_USAGE,
        *(name for names in _SPELLINGS.values() for name in names),
    }
)


@dataclass(frozen=True, slots=True)
class EngineReading:
    """One scrape; None where the engine does not say. Several data-parallel ranks count as one engine.

    `kv_usage` is 0 to 1, `kv_capacity_tokens` what the cache holds (`kv_blocks` blocks of `block_size` tokens),
    `started_at` Unix seconds. The others count since the engine's start: tokens looked up in the prefix cache
    (`prefix_queries`) and found there (`prefix_hits`), tokens of prompts and of answers, and requests that lost their
    place to others (`preemptions`).
    """

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    kv_capacity_tokens: int | None = None
    asleep: bool | None = None
    started_at: float | None = None
    block_size: int | None = None
    kv_blocks: int | None = None
    prefix_queries: float | None = None
    prefix_hits: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    preemptions: float | None = None


@dataclass(frozen=True, slots=True)
class EngineRun:
    """What tells one run of an engine from the next: when it began, and what only grows while it lasts."""

    started_at: float | None = None
    prefix_queries: float | None = None
    prompt_tokens: float | None = None

    def followed_by(self, reading: EngineReading) -> tuple[EngineRun, bool]:
        """What is known after a further reading, and whether that is of another run, whose cache began empty."""
        restarted = (
            _differs(self.started_at, reading.started_at)
            or _fell(self.prefix_queries, reading.prefix_queries)
            or _fell(self.prompt_tokens, reading.prompt_tokens)
        )
        before = EngineRun() if restarted else self
        return EngineRun(
            _latest(before.started_at, reading.started_at),
            _latest(before.prefix_queries, reading.prefix_queries),
            _latest(before.prompt_tokens, reading.prompt_tokens),
        ), restarted


def read_engine_metrics(text: str) -> EngineReading:
    """Reads the Prometheus text of a vLLM server (old and new names)."""
    values: dict[str, list[float]] = {}
    sizes: list[tuple[int, int]] = []
    awake: list[bool] = []
    for name, labels, figure in _LINE.findall(text):
        value = _number(figure)
        if value is None:
            continue
        if name in _SUMMED:
            values.setdefault(name, []).append(value)
        elif name == "cache_config_info":
            sizes += _cache_size(dict(_LABEL.findall(labels)))
        elif name == "engine_sleep_state" and 'sleep_state="awake"' in labels:
            awake.append(value > 0)
    usage = values.get(_USAGE[0]) or values.get(_USAGE[1])
    started = _START.search(text)
    return EngineReading(
        running=_total(values, "num_requests_running"),
        waiting=_total(values, "num_requests_waiting"),
        kv_usage=sum(usage) / len(usage) if usage else None,
        kv_capacity_tokens=sum(blocks * size for blocks, size in sizes) or None,
        asleep=not all(awake) if awake else None,
        started_at=_number(started.group(1)) if started else None,
        block_size=sizes[0][1] if sizes else None,  # ranks are configured alike
        kv_blocks=sum(blocks for blocks, _ in sizes) or None,
        **{field: _total(values, *names) for field, names in _SPELLINGS.items()},
    )


def _number(text: str) -> float | None:
    """A finite number; None for NaN, infinity and anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _total(values: dict[str, list[float]], *names: str) -> float | None:
    """The sum over ranks of the first family that is there."""
    found = next((values[name] for name in names if name in values), None)
    return None if found is None else sum(found)


def _cache_size(labels: dict[str, str]) -> list[tuple[int, int]]:
    """Blocks and tokens per block; nothing where either is unknown or 0."""
    blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    # Nine digits: more blocks than any cache has, and no bill for converting a million digits.
    if not re.fullmatch(r"[0-9]{1,9} [0-9]{1,9}", f"{blocks} {size}") or not int(blocks) * int(size):
        return []
    return [(int(blocks), int(size))]


def _differs(before: float | None, now: float | None) -> bool:
    return before is not None and now is not None and before != now


def _fell(before: float | None, now: float | None) -> bool:
    return before is not None and now is not None and now < before


def _latest(before: float | None, now: float | None) -> float | None:
    return before if now is None else now
