"""An engine that can be broken in every way and comes back at the same address.

Floor: tests only. Processes are real; what blocks (starting one, waiting for its end) happens off the loop.
"""

from __future__ import annotations

import asyncio
import urllib.request
from typing import Any

from benchmarks.engine.launch import Engine, start_engine
from tests.chaos.faults import COUNTED, ENGINE_ORDERS, Fault, HostSpec, Kind
from tests.chaos.wire import Wire
from tests.servers import free_port

CALL_SECONDS = 60.0


class Host:
    """`start` it, break it by `strike` and `mend` it again; `stop` at the end."""

    def __init__(self, spec: HostSpec, model: str, options: dict[str, Any]) -> None:
        self.spec = spec
        self._options = {"model": model, "port": free_port(), "control_port": free_port(), **options}
        self._engine: Engine | None = None
        self._wire = Wire(("127.0.0.1", int(self._options["port"]))) if spec.wired else None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def url(self) -> str:
        """What the gateway knows it by."""
        return self._wire.url if self._wire is not None else f"http://127.0.0.1:{self._options['port']}"

    @property
    def alive(self) -> bool:
        return self._engine is not None and self._engine.alive

    @property
    def engine(self) -> Engine:
        assert self._engine is not None
        return self._engine

    async def start(self) -> None:
        if self._wire is not None:
            await self._wire.start()
        await self._boot()

    async def stop(self) -> None:
        if self._wire is not None:
            await self._wire.stop()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.kill)

    async def state(self) -> dict[str, Any]:
        return await asyncio.to_thread(self.engine.state)

    async def requests(self) -> list[dict[str, Any]]:
        """What reached it since it was last asked, or started."""
        found = await asyncio.to_thread(self.engine.requests)
        await asyncio.to_thread(self.engine.clear)
        return found

    async def strike(self, fault: Fault) -> None:
        """The fault begins. For `restart` the engine runs again when this returns."""
        kind = fault.kind
        if kind in (Kind.KILL, Kind.RESTART):
            await asyncio.to_thread(self.engine.kill)
            if kind is Kind.RESTART:
                await self._boot()
        elif kind is Kind.TERM:
            await asyncio.to_thread(self.engine.stop)
        elif kind is Kind.STOP:
            self.engine.freeze()
        elif kind is Kind.PAUSE:
            await self._post("/pause?mode=keep")
        elif kind is Kind.CUT:
            self.wire.cut()
        elif kind is Kind.BLOCK:
            self.wire.block()
        else:
            order = ENGINE_ORDERS[kind] | ({"after_chunks": fault.chunks} if kind in COUNTED else {})
            await asyncio.to_thread(lambda: self.engine.fault(**order))  # type: ignore[arg-type]

    async def mend(self, fault: Fault) -> None:
        """The fault is over."""
        kind = fault.kind
        if kind in (Kind.KILL, Kind.TERM):
            await self._boot()
        elif kind is Kind.STOP:
            self.engine.thaw()
        elif kind is Kind.PAUSE:
            await self._post("/resume")
        elif kind in (Kind.CUT, Kind.BLOCK):
            await self.wire.mend()
        elif kind is not Kind.RESTART:
            await asyncio.to_thread(self.engine.fault, "none")

    @property
    def wire(self) -> Wire:
        assert self._wire is not None, f"{self.name} is behind no wire"
        return self._wire

    async def _boot(self) -> None:
        self._engine = await asyncio.to_thread(lambda: start_engine(**self._options))

    async def _post(self, path: str) -> None:
        def post() -> None:
            request = urllib.request.Request(self.engine.control_url + path, b"")  # noqa: S310 - our own URL
            with urllib.request.urlopen(request, timeout=CALL_SECONDS):  # noqa: S310 - our own URL
                pass

        await asyncio.to_thread(post)
