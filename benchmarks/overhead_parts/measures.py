"""What a full run measures besides the table: longer prompts, a growing conversation, more connections and streams."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.overhead_parts.traffic import Scenario

REQUESTS_NAME = "32 connections"


@dataclass(frozen=True)
class Measure:
    """One shape of load, by name. `heavy`: a gateway that takes milliseconds for a request would need minutes.
    `waves`: of streams; 0: as many as fill the time."""

    name: str
    scenario: Scenario
    heavy: bool = False
    waves: int = 0


CONVERSATION = "conversation to 32,000 characters"
PROMPTS = {4_000: "prompt of 4,000 characters", 32_000: "prompt of 32,000", 500_000: "prompt of 500,000"}
FULL = (
    Measure("256 connections", Scenario(256)),
    *(Measure(name, Scenario(32 if size < 100_000 else 4, size), size > 100_000) for size, name in PROMPTS.items()),
    Measure(CONVERSATION, Scenario(32, 32_000, turns=16)),
    *(
        Measure(f"64 streams, {name}", Scenario(64, size, chunks=64), size > 100_000, waves=1)
        for size, name in PROMPTS.items()
    ),
    Measure("1,000 streams", Scenario(1_000, chunks=64), heavy=True, waves=1),
)


def figures(name: str, usage: Mapping[str, Any]) -> dict[str, float]:
    """Of one measurement, by name and unit; all but requests/s are better when lower."""
    if usage["chunks"]:
        return {
            f"{name}: µs/chunk": usage["cpu_seconds"] / usage["chunks"] * 1e6,
            f"{name}: first byte ms": usage["first_byte_p50_ms"],
            f"{name}: RSS MB": usage["rss_mb"],
        }
    return {
        f"{name}: µs/request": usage["cpu_seconds"] / usage["answers"] * 1e6,
        f"{name}: p50 ms": usage["p50_ms"],
        f"{name}: p99 ms": usage["p99_ms"],
        f"{name}: requests/s": usage["answers"] / usage["seconds"],
    }
