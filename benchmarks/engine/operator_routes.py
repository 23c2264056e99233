"""The engine's routes that answer no prompt: health, metrics, sleep and wake, faults, and a look at what arrived.

Floor: as `app.py`, which owns one of these. The faults' own effects on requests are in `app.py` and `exchange.py`.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from benchmarks.engine.asgi import Request
from benchmarks.engine.errors import Refusal, failed_fields
from benchmarks.engine.faults import FaultKind, FaultOrder
from benchmarks.engine.prepare import VERSION
from benchmarks.engine.recorder import Recorder
from benchmarks.engine.runtime import Runtime

Handler = Callable[[Request], Awaitable[None]]

METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class _Order(BaseModel):
    """The query of `/sleep` and `/pause`."""

    level: Annotated[int, Field(ge=0, le=2)] = 1
    mode: Literal["abort", "wait", "keep"] = "abort"
    clear_cache: bool = True


class OperatorRoutes:
    """`on_change` is called when a fault begins or ends, `on_refuse` and `on_accept` close and open the main port."""

    def __init__(
        self,
        runtime: Runtime,
        recorder: Recorder,
        on_change: Callable[[], None],
        on_refuse: Callable[[], None],
        on_accept: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._recorder = recorder
        self._faults = runtime.faults
        self._on_change = on_change
        self._on_refuse = on_refuse
        self._on_accept = on_accept
        self._fault_timer: asyncio.TimerHandle | None = None
        self._started_at = int(time.time())

    def routes(self) -> dict[str, dict[str, Handler]]:
        return {
            "/v1/models": {"GET": self._models},
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": self._version},
            "/load": {"GET": self._load},
            "/metrics": {"GET": self._metrics},
            "/sleep": {"POST": self._sleep},
            "/wake_up": {"POST": self._wake_up},
            "/is_sleeping": {"GET": self._is_sleeping},
            "/pause": {"POST": self._pause},
            "/resume": {"POST": self._resume},
            "/is_paused": {"GET": self._is_paused},
            "/reset_prefix_cache": {"POST": self._reset_prefix_cache},
            "/fault": {"POST": self._fault},
            "/debug/requests": {"GET": self._debug_requests},
            "/debug/take": {"POST": self._debug_take},
            "/debug/clear": {"POST": self._debug_clear},
            "/debug/state": {"GET": self._debug_state},
        }

    async def _models(self, request: Request) -> None:
        permission = {
            "id": f"modelperm-{uuid.uuid4().hex[:16]}",
            "object": "model_permission",
            "created": self._started_at,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        model = {
            "id": self._runtime.config.model,
            "object": "model",
            "created": self._started_at,
            "owned_by": "vllm",
            "root": f"models/{self._runtime.config.model}",
            "parent": None,
            "max_model_len": self._runtime.config.context_limit,
            "permission": [permission],
        }
        await request.json(200, {"object": "list", "data": [model]})

    async def _health(self, request: Request) -> None:
        await request.whole(200, b"")

    async def _version(self, request: Request) -> None:
        await request.json(200, {"version": VERSION})

    async def _load(self, request: Request) -> None:
        await request.json(200, {"server_load": 0})

    async def _metrics(self, request: Request) -> None:
        await request.whole(200, self._runtime.metrics.render(self._runtime.model), METRICS_TYPE)

    async def _sleep(self, request: Request) -> None:
        order = _order(request)
        await self._runtime.sleep(order.level, order.mode)
        await request.json(200, {"status": "sleeping", "level": order.level})

    async def _wake_up(self, request: Request) -> None:
        tags = request.query.get("tags")
        awake = await self._runtime.wake(tags)
        await request.json(200, {"status": "awake" if awake else "sleeping", "tags": tags})

    async def _is_sleeping(self, request: Request) -> None:
        await request.json(200, {"is_sleeping": self._runtime.sleeping})

    async def _pause(self, request: Request) -> None:
        order = _order(request)
        await self._runtime.pause(order.mode, clear_cache=order.clear_cache)
        await request.json(200, {"status": "paused"})

    async def _resume(self, request: Request) -> None:
        self._runtime.resume()
        await request.json(200, {"status": "resumed"})

    async def _is_paused(self, request: Request) -> None:
        await request.json(200, {"is_paused": self._runtime.paused})

    async def _reset_prefix_cache(self, request: Request) -> None:
        await request.json(200, {"success": self._runtime.model.cache.reset()})

    async def _debug_requests(self, request: Request) -> None:
        await request.json(200, self._recorder.all())

    async def _debug_take(self, request: Request) -> None:
        await request.json(200, self._recorder.take())

    async def _debug_clear(self, request: Request) -> None:
        self._recorder.clear()
        await request.json(200, {"status": "cleared"})

    async def _debug_state(self, request: Request) -> None:
        runtime, cache = self._runtime, self._runtime.model.cache
        state = {
            "model": self._runtime.config.model,
            "running": runtime.model.running,
            "waiting": runtime.model.waiting,
            "held": runtime.held,
            "aborted_total": runtime.aborted_total,
            "finished_total": runtime.finished_total,
            "kv_used_blocks": cache.used,
            "kv_cached_blocks": cache.cached,
            "kv_evicted_total": cache.evicted_total,
            "sleeping": runtime.sleeping,
            "paused": runtime.paused,
            "fault": self._faults.describe(time.monotonic()),
        }
        await request.json(200, state)

    async def _fault(self, request: Request) -> None:
        try:
            order = FaultOrder.model_validate(json.loads(request.body))
        except json.JSONDecodeError as error:
            raise Refusal(400, str(error)) from None
        except ValidationError as error:
            raise failed_fields([dict(one) for one in error.errors(include_url=False)]) from None
        if self._fault_timer is not None:
            self._fault_timer.cancel()
        if order.seconds is not None:
            self._fault_timer = asyncio.get_running_loop().call_later(order.seconds, self._end_fault)
        now = time.monotonic()
        self._faults.set(order, now)
        self._apply_fault()
        await request.json(200, self._faults.describe(now))

    def _end_fault(self) -> None:
        """Its time is over, even if the loop's timer is a little early."""
        self._faults.set(FaultOrder(kind=FaultKind.NONE), time.monotonic())
        self._apply_fault()

    def _apply_fault(self) -> None:
        """The fault may have begun or ended: wake what hangs, close or open the port."""
        self._on_change()
        refused = self._faults.active(time.monotonic()) is FaultKind.REFUSE
        (self._on_refuse if refused else self._on_accept)()


def _order(request: Request) -> _Order:
    try:
        return _Order.model_validate({name: values[-1] for name, values in request.query.items()})
    except ValidationError as error:
        raise failed_fields([dict(one) for one in error.errors(include_url=False)], "query") from None
