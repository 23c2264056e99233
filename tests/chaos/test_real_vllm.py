"""The same promises on two real vLLM servers: one is paused, stopped, told to end and killed while it answers.

Floor: tests only. What is right is what an unbroken server has said to the same prompt, byte for byte.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.ask import Seen
from tests.chaos.faults import Fault, HostSpec, Kind
from tests.chaos.host import Host
from tests.chaos.judge import Ending, judge
from tests.chaos.rules import EXPECT, Spell, is_known_lie, must_succeed
from tests.chaos.world import MODEL, World, running_world, until
from tests.e2e.stack import ENGINE_MODEL
from tests.real_vllm.asks import Decoding, RealAsk, asks
from tests.real_vllm.engine import RealEngine

pytestmark = pytest.mark.real_vllm

TENANT, TIER = "acme", "platinum"
SPECS = (HostSpec("acme-0", TENANT), HostSpec("acme-1", TENANT))
KINDS = (Kind.PAUSE, Kind.STOP, Kind.TERM, Kind.KILL)
TIMEOUTS = {"connect": 5.0, "first_byte": 30.0, "idle": 15.0, "total": 120.0}
"""Two servers share two cores with all else: what is well may be slow."""
SIGNALS = {Kind.STOP: signal.SIGSTOP, Kind.TERM: signal.SIGTERM, Kind.KILL: signal.SIGKILL}
RETURN_SECONDS = 300.0
"""Beside the gateway's patience with one that has failed, a server that begins anew is slow at first."""


class RealHost(Host):
    """A vLLM server in development mode, which can be paused."""

    def __init__(self, spec: HostSpec) -> None:
        super().__init__(spec, ENGINE_MODEL, {})
        self._real = RealEngine()

    @property
    def url(self) -> str:
        return self._real.url

    @property
    def alive(self) -> bool:
        return self._real.alive

    async def start(self) -> None:
        self._real.launch()
        await asyncio.to_thread(self._real.wait)

    async def stop(self) -> None:
        await asyncio.to_thread(self._real.stop)

    async def state(self) -> dict[str, Any]:
        running, waiting, usage = await self._real.figures(
            "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"
        )
        return {"running": running, "waiting": waiting, "held": 0, "kv_used_blocks": usage}

    async def strike(self, fault: Fault) -> None:
        if fault.kind is Kind.PAUSE:
            await self._real.order("/pause?mode=keep")
        else:
            self._real.signal(SIGNALS[fault.kind])

    async def mend(self, fault: Fault) -> None:
        if fault.kind is Kind.PAUSE:
            await self._real.order("/resume")
        elif fault.kind is Kind.STOP:
            self._real.signal(signal.SIGCONT)
        else:
            await self.stop()
            await self.start()


async def struck(world: World, kind: Kind, requests: Sequence[RealAsk]) -> tuple[list[Seen], Spell]:
    """All requests at once; one server breaks while it answers some of them, until all have ended."""
    decoding = Decoding(requests)
    tasks = [asyncio.create_task(world.client.send(one, heard=decoding.heard)) for one in requests]
    await decoding.all_are()
    sent = {name: one["in_flight"] for name, one in (await world.endpoints()).items()}
    assert any(sent.values()), sent
    host = world.hosts[max(sent, key=lambda name: sent[name])]
    fault = Fault(kind, host.name, TENANT, 0.0, 0.0)
    spell = Spell(host.name, TENANT, kind, asyncio.get_running_loop().time())
    await host.strike(fault)
    seen = await asyncio.gather(*tasks)
    await host.mend(fault)
    small = [replace(one, max_tokens=2, prompt=f"{kind} {number}") for number, one in enumerate(requests[:4])]

    async def well() -> bool:
        """A circuit closes by requests that succeed."""
        await asyncio.gather(*(world.client.send(one) for one in small))
        return await world.is_well("acme-0", "acme-1")

    await until(f"it is well again after {kind}", well, RETURN_SECONDS)
    return seen, spell


def problems(seen: Sequence[Seen], spell: Spell) -> list[str]:
    found = []
    for one in seen:
        verdict = judge(one)
        if is_known_lie(verdict, [spell], one, EXPECT):
            continue
        saved = must_succeed(one, verdict, TIER, [spec.name for spec in SPECS], [spell], EXPECT)
        if verdict.ending is Ending.LIE or (verdict.ending is Ending.ERROR and saved):
            what = f"{one.ask.api}{' stream' if one.ask.stream else ''} at {one.endpoint}"
            said = f"{verdict.ending}: {verdict.why} after {verdict.content} events with text"
            found.append(f"{spell.kind}: {what}: {said}")
    return found


async def test_what_clients_are_promised_holds_when_a_real_server_breaks() -> None:
    async with running_world([RealHost(spec) for spec in SPECS], {TENANT: TIER}, TIMEOUTS) as world:
        found: list[str] = []
        for kind in KINDS:
            requests = await asks(world.hosts["acme-1"].url, TENANT, MODEL, kind)
            seen, spell = await struck(world, kind, requests)
            endings = [judge(one).ending.value for one in seen]
            print(f"{kind}: {', '.join(endings)}")
            found += problems(seen, spell)
            await world.until_settled()
        assert found == []
