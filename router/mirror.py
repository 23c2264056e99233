"""Some of a pool's prompts, sent to a standby as well, so that it is warm when it is needed: its caches above all.

Floor: an adapter. A copy is asked for one token, its answer is dropped and billed to nobody; it never delays or fails
the request that it is a copy of. It goes with the tenant's own salt, as it is that tenant's prefixes that are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import msgspec

from policies.cost import own_seconds
from policies.types import InferenceRequest, Lane, Role
from router.errors import EngineError
from router.metrics import Metrics
from router.pools import Place, Pool
from router.relay import WHOLE_BYTES
from router.wire.fields import Fields
from router.wire.http import Header, request_headers
from router.wire.openai import ApiSpec

_fields = msgspec.json.Decoder(Fields)
# Of these an answer has no effect but on caches. `/v1/responses` may store what it answers.
_MIRRORED = frozenset({"chat", "completions", "messages"})


class Mirror:
    """Copies `share` (0..1) of the short and long requests; at most `most` at once, others are not copied."""

    def __init__(
        self, pool: Pool, share: float, most: int, shared: frozenset[str], metrics: Metrics, rng: Random
    ) -> None:
        self._pool = pool
        self._share = share
        self._most = most
        self._shared = shared
        self._metrics = metrics
        self._rng = rng
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, spec: ApiSpec, request: InferenceRequest, body: bytes) -> None:
        """A request that was sent; perhaps a copy of it is, too. `body`: what the engine got."""
        if request.lane is Lane.BATCH or spec.name not in _MIRRORED or self._rng.random() >= self._share:
            return
        place = self._idle_standby()
        if place is None or len(self._tasks) >= self._most:
            self._metrics.add("promptlane_mirrored", self._pool.name, "skipped")
            return
        task = asyncio.create_task(self._copy(place, spec, request, body), name=f"mirror {self._pool.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Ends the copies under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _idle_standby(self) -> Place | None:
        """An awake one of this pool alone that does not serve now."""
        now, serving = self._pool.clock(), min([state.rank for state in self._pool.states], default=0)
        standbys: Sequence[Place] = [
            place
            for place in self._pool.places
            if place.state.endpoint.role is not Role.HOT
            and place.state.rank > serving
            and place.state.endpoint.url not in self._shared
            and place.available(now)
        ]
        return min(standbys, key=lambda place: place.state.in_flight, default=None)

    async def _copy(self, place: Place, spec: ApiSpec, request: InferenceRequest, body: bytes) -> None:
        clock, state = self._pool.clock, place.state
        cached = min(int(state.index.match(request.prefix_blocks) * request.tokens_per_block), request.prompt_tokens)
        own = own_seconds(state.rates, request.prompt_tokens - cached, cached)
        reservation = state.reserve(request, cached, own, clock())
        result = "failed"
        try:
            headers: list[Header] = request_headers([], f"mirror-{request.id}"[:128].encode())
            response = await place.upstream.send(b"POST", spec.path.encode(), headers, one_token(spec, body))
            try:
                await response.read(WHOLE_BYTES)
                if response.status < 400:
                    result = "answered"
                    reservation.first_token(clock())  # its prefix is in the cache now
            finally:
                response.abort()
        except EngineError:
            pass  # probes will find out what is wrong with it
        finally:
            reservation.release(clock(), None)
            self._metrics.add("promptlane_mirrored", self._pool.name, result)


def one_token(spec: ApiSpec, body: bytes) -> bytes:
    """The same prompt, for an answer of one token in one piece."""
    fields: dict[str, object] = dict(_fields.decode(body))
    for name in (*spec.output_fields, "stream", "stream_options", "min_tokens", "n", "best_of"):
        fields.pop(name, None)
    fields[spec.output_fields[-1]] = 1
    return msgspec.json.encode(fields)
