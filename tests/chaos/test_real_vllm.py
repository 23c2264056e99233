"""The same promises on two real vLLM servers: one is paused, stopped, told to end and killed while it answers.

Floor: tests only. What is right is what an unbroken server has said to the same prompt, byte for byte.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import pytest

from tests.chaos.ask import PATHS, Ask, Expected, Seen
from tests.chaos.faults import Fault, HostSpec, Kind
from tests.chaos.host import Host
from tests.chaos.judge import Ending, judge
from tests.chaos.rules import EXPECT, Spell, is_known_lie, must_succeed
from tests.chaos.world import ENGINE_MODEL, MODEL, World, running_world, until
from tests.real_vllm.servers import launch_vllm, wait_healthy
from tests.servers import Server, free_port

pytestmark = pytest.mark.real_vllm

TENANT, TIER = "acme", "platinum"
SPECS = (HostSpec("acme-0", TENANT), HostSpec("acme-1", TENANT))
KINDS = (Kind.PAUSE, Kind.STOP, Kind.TERM, Kind.KILL)
TIMEOUTS = {"connect": 5.0, "first_byte": 30.0, "idle": 15.0, "total": 120.0}
"""Two servers share two cores with all else: what is well may be slow."""
TOKENS = 300
"""Some seconds of decoding: long enough to be struck in the middle."""
AT_ONCE = 8
RETURN_SECONDS = 120.0
"""Beside the gateway's patience with one that has failed, a server that begins anew is slow at first."""


class RealHost(Host):
    """A vLLM server in development mode, which can be paused."""

    def __init__(self, spec: HostSpec) -> None:
        super().__init__(spec, ENGINE_MODEL, {})
        self._port = free_port()
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def alive(self) -> bool:
        return self._server is not None and self._server.process.poll() is None

    async def start(self) -> None:
        self._server = launch_vllm(self._port, env={"VLLM_SERVER_DEV_MODE": "1"})
        await asyncio.to_thread(wait_healthy, self._server)

    async def stop(self) -> None:
        if self._server is not None:
            self._signal(signal.SIGCONT)
            await asyncio.to_thread(self._server.stop)

    async def state(self) -> dict[str, Any]:
        async with httpx2.AsyncClient(base_url=self.url, timeout=30.0, trust_env=False) as http:
            page = (await http.get("/metrics")).text

        def gauge(name: str) -> float:
            return sum(float(value) for value in re.findall(rf"^vllm:{name}{{.*}} (\S+)$", page, re.MULTILINE))

        return {"running": gauge("num_requests_running"), "waiting": gauge("num_requests_waiting")} | {
            "held": 0,
            "kv_used_blocks": gauge("kv_cache_usage_perc"),
        }

    async def strike(self, fault: Fault) -> None:
        if fault.kind is Kind.PAUSE:
            await self._order("/pause?mode=keep")
        elif fault.kind is Kind.STOP:
            self._signal(signal.SIGSTOP)
        else:
            self._signal(signal.SIGTERM if fault.kind is Kind.TERM else signal.SIGKILL)

    async def mend(self, fault: Fault) -> None:
        if fault.kind is Kind.PAUSE:
            await self._order("/resume")
        elif fault.kind is Kind.STOP:
            self._signal(signal.SIGCONT)
        else:
            await self.stop()
            await self.start()

    def _signal(self, number: signal.Signals) -> None:
        if self.alive and self._server is not None:
            os.killpg(self._server.process.pid, number)

    async def _order(self, path: str) -> None:
        async with httpx2.AsyncClient(base_url=self.url, timeout=30.0, trust_env=False) as http:
            assert (await http.post(path)).status_code == 200, path


@dataclass(frozen=True)
class RealAsk(Ask):
    """`right`: what an unbroken server has said."""

    right: Expected | None = None

    @property
    def expected(self) -> Expected:  # type: ignore[override]
        assert self.right is not None
        return self.right


async def asks(host: Host, kind: Kind) -> list[RealAsk]:
    """Streams and whole answers, chats and completions, each asked of an unbroken server first. The prompts are this
    kind's own, or affinity would send them all to one server."""
    found = []
    async with httpx2.AsyncClient(base_url=host.url, timeout=120.0, trust_env=False) as http:
        for number in range(AT_ONCE):
            api, stream = ("completions", "chat")[number % 4 > 0], number % 4 != 3
            prompt = f"{kind} {number} return the value of the object when the list is called with name"
            one = RealAsk(TENANT, api, stream, stream and number % 2 == 0, prompt, TOKENS, MODEL, ENGINE_MODEL)
            body = {**one.body, "model": ENGINE_MODEL, "stream": False}
            body.pop("stream_options", None)
            answer = (await http.post(PATHS[api], json=body)).json()
            (choice,), usage = answer["choices"], answer["usage"]
            text = choice["message"]["content"] if api == "chat" else choice["text"]
            counts = usage["prompt_tokens"], usage["completion_tokens"]
            found.append(replace(one, right=Expected(text, choice["finish_reason"], *counts)))
    return found


async def struck(world: World, kind: Kind, requests: Sequence[RealAsk]) -> tuple[list[Seen], Spell]:
    """All requests at once; one server breaks while it answers some of them, until all have ended."""
    tasks = [asyncio.create_task(world.client.send(one)) for one in requests]
    sent: dict[str, int] = {}

    async def under_way() -> bool:
        sent.update({name: one["in_flight"] for name, one in (await world.endpoints()).items()})
        return sum(sent.values()) == len(requests)

    await until("all requests are under way", under_way)
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
            requests = await asks(world.hosts["acme-1"], kind)
            seen, spell = await struck(world, kind, requests)
            endings = [judge(one).ending.value for one in seen]
            print(f"{kind}: {', '.join(endings)}")
            found += problems(seen, spell)
            await world.until_settled()
        assert found == []
