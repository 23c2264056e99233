"""What is still held when no request is under way: in the engines, in the gateway's books, in its process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from benchmarks.overhead_parts.gateways import fetch
from benchmarks.soak_parts.stack import Stack, metric_sum

SETTLE_SECONDS = 5.0
"""For what ends a moment after its client: longer is a leak."""
_POLL_SECONDS = 0.05
_SPARE_FILES = 8
"""Descriptors that come and go by themselves: connections of probes and of this check, a ledger's files."""
_ENGINE_GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_ENGINE_STATE = ("running", "waiting", "held", "kv_used_blocks")
_ENDPOINT_STATE = ("in_flight", "outstanding_tokens", "pending_prefill_seconds")


def left_behind(stack: Stack, vanished: int = 0) -> list[str]:
    """One line for each thing that is still held after `SETTLE_SECONDS`; none as soon as nothing is.

    `vanished`: clients that have left in the middle so far. Engines must have aborted as many requests, and no more.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    while (found := held(stack, vanished)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return found


def held(stack: Stack, vanished: int = 0) -> list[str]:
    """One line for each thing that is held now."""
    found, aborted = [], 0
    for name, engine in stack.engines.items():
        gauges = fetch(f"{engine.control_url}/metrics") or b""
        seen: dict[str, float] = {gauge: metric_sum(gauges, gauge) for gauge in _ENGINE_GAUGES}
        state = engine.state()
        aborted += state["aborted_total"]
        found += of_engine(name, seen | {key: state[key] for key in _ENGINE_STATE})
    if aborted != vanished:
        found.append(f"engines: {aborted} requests aborted for {vanished} clients that left")
    pool = stack.gateway.pool()
    found += of_pool(pool)
    if len(pool["endpoints"]) != len(stack.engines):
        found.append("gateway: /admin/state does not show every endpoint")
    idle = sum(one["connections"]["idle"] for one in pool["endpoints"])
    return found + of_process(stack, idle)


def of_engine(name: str, figures: Mapping[str, float]) -> list[str]:
    """What is not 0 of an engine's figures."""
    return [f"engine {name}: {what} {value:g}" for what, value in figures.items() if value]


def of_pool(pool: Mapping[str, Any]) -> list[str]:
    """What is not 0, or not healthy, in `/admin/state`."""
    found = [f"gateway: {pool['waiting']} requests wait"] if pool["waiting"] else []
    for endpoint in pool["endpoints"]:
        figures = {what: endpoint[what] for what in _ENDPOINT_STATE}
        figures["busy connections"] = endpoint["connections"]["busy"]
        found += [f"gateway: {endpoint['name']}: {what} {value:g}" for what, value in figures.items() if value]
        if not endpoint["healthy"]:
            found.append(f"gateway: {endpoint['name']}: not healthy")
    return found


def of_process(stack: Stack, idle_connections: int) -> list[str]:
    """File descriptors beyond the idle connections to engines, faults that were counted, and what the log tells."""
    gateway, found = stack.gateway, []
    spare = gateway.open_files - idle_connections - stack.files_at_start
    if spare > _SPARE_FILES:
        found.append(f"gateway: {spare} file descriptors more than at the start")
    if faults := gateway.counter("promptlane_internal_errors_total"):
        found.append(f"gateway: {faults:.0f} internal errors")
    if lines := gateway.trouble():
        found.append(f"gateway: {len(lines)} lines of trouble in its log, the first: {lines[0]}")
    return found
