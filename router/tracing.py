"""Traces of requests by OpenTelemetry: one span each, below the client's and above the engine's.

Floor: an adapter. The library is imported only where traces are configured, and what it sends waits in a bounded queue
for a thread of its own: a collector that is slow or gone costs spans, never a request. A span holds names of the
configuration, figures and times; no text, no key.
"""

from __future__ import annotations

from collections.abc import Callable
from random import getrandbits
from typing import Final

from router.calls import CLIENT_CLOSED, Call
from router.spans import Ended, Event, Kind, Spans
from router.wire.http import Header

_BILLION: Final = 1_000_000_000
_ID_LIMIT: Final = 2**64 - 1  # of a trace's id, the part by which it is chosen
_SAMPLED: Final = 0x01  # of the flags of W3C Trace Context
_RANDOM: Final = 0x02  # level 2: the id was drawn


class TracingUnusable(Exception):
    """The library that `tracing` needs is not installed, or a certificate cannot be read."""


class Trace:
    """Of one request, of which nobody will see more than its context. `headers`: what engines get, so that their spans
    are below its own."""

    __slots__ = ("headers",)
    sampled: bool = False

    def __init__(self, headers: list[Header]) -> None:
        self.headers = headers

    @property
    def id(self) -> str:
        """The trace's, 32 hexadecimal digits."""
        return self.headers[0][1][3:35].decode()

    def event(self, name: str, at: float, **attributes: str | float) -> None:
        """A step of the request, at this monotonic second."""

    def finished(self, call: Call, now: float) -> None:
        """The request has ended."""


class _SeenTrace(Trace):
    """One whose span is sent. It is made when the request ends, with all that is to be said of it."""

    __slots__ = ("_began", "_events", "_ids", "_offset", "_parent", "_spans")
    sampled = True

    def __init__(
        self,
        spans: Spans,
        began: tuple[float, float],
        ids: tuple[int, int],
        flags: int,
        parent: int,
        state: bytes | None,
    ) -> None:
        """`began`: the monotonic second, and what Unix seconds are ahead of these. `ids`: the trace's, and its own.
        `parent`: the client's span, 0 where there is none."""
        super().__init__(_headers(ids, flags, state))
        self._spans, self._ids, self._parent = spans, ids, parent
        self._began, self._offset = began
        self._events: list[Event] = []

    def event(self, name: str, at: float, **attributes: str | float) -> None:
        self._events.append((name, self._nanoseconds(at), attributes))

    def finished(self, call: Call, now: float) -> None:
        request = call.measured.request if call.measured is not None else None
        usage, ticket = call.usage, call.ticket
        if ticket is not None and call.sent_at:
            self.event("sent", call.sent_at, endpoint=ticket.endpoint, queue_seconds=ticket.queued_seconds)
        if call.first_byte_at is not None:
            self.event("first byte", call.first_byte_at)
        self._spans.send(
            Ended(
                _kind(call),
                self._ids,
                self._parent,
                self._nanoseconds(self._began),
                self._nanoseconds(now),
                call.id,
                usage.prompt_tokens if usage is not None else None,
                usage.completion_tokens if usage is not None else None,
                usage.cached_tokens if usage is not None else None,
                request.prompt_tokens if request is not None else None,
                ticket.choice.cached_tokens if ticket is not None else None,
                ticket.choice.ttft_seconds if ticket is not None else None,
                self._events,
            )
        )

    def _nanoseconds(self, at: float) -> int:
        return int((at + self._offset) * _BILLION)


def _headers(ids: tuple[int, int], flags: int, state: bytes | None) -> list[Header]:
    """`flags`: as the W3C's `traceparent` has them."""
    headers = [(b"traceparent", b"00-%032x-%016x-%02x" % (*ids, flags))]
    return headers if state is None else [*headers, (b"tracestate", state)]


def _kind(call: Call) -> Kind:
    request = call.measured.request if call.measured is not None else None
    model, tenant = call.model, call.tenant
    return Kind(
        call.spec.name,
        model.route.name if model is not None else None,
        call.status,
        "client_left" if call.status == CLIENT_CLOSED else call.error_code,
        call.error_source in ("engine", "gateway") or call.status >= 500,
        tenant.id if tenant is not None else None,
        tenant.tier.name if tenant is not None else None,
        request.lane.value if request is not None else None,
        call.streams,
        model.pool.name if model is not None else None,
        call.ticket.endpoint if call.ticket is not None else None,
        call.attempts,
        call.resumes,
        call.cache.result if call.cache is not None else None,
        call.degraded is not None,
    )


class Tracing:
    """Of one process. `endpoint`: the base URL of a collector that takes OTLP over HTTP; `sample`: the share of traces
    that is sent, 0 to 1, chosen by their ids: what a client says of it does not count. The clocks are the process's,
    monotonic and Unix seconds."""

    def __init__(
        self, endpoint: str, sample: float, clock: Callable[[], float], wall_clock: Callable[[], float]
    ) -> None:
        """Raises TracingUnusable."""
        self._clock = clock
        self._wall_clock = wall_clock
        self._bound = round(sample * (_ID_LIMIT + 1))  # as OpenTelemetry's `TraceIdRatioBased` has it
        try:
            self._spans = Spans(endpoint)
        except ImportError:
            raise TracingUnusable("needs OpenTelemetry: pip install 'promptlane[otel]'") from None
        except OSError as error:
            raise TracingUnusable(f"a certificate of OpenTelemetry's variables: {error.strerror or error}") from None

    def begin(self, arrived_at: float, parent: bytes | None, state: bytes | None) -> Trace:
        """A trace of a request. `parent`, `state`: the client's `traceparent` and `tracestate`; one that is no good
        counts as none, as the W3C's recommendation has it."""
        drawn, above = getrandbits(128) or 1, None
        if parent is not None:
            above = self._spans.context(parent)
        elif drawn & _ID_LIMIT >= self._bound:  # the usual case
            return Trace([(b"traceparent", b"00-%032x-%016x-02" % (drawn, getrandbits(64) or 1))])
        if above is not None:
            trace, flags = above.trace_id, above.trace_flags & _RANDOM
        else:
            trace, flags, state = drawn, _RANDOM, None
        ids = trace, getrandbits(64) or 1
        if trace & _ID_LIMIT >= self._bound:
            return Trace(_headers(ids, flags, state))
        began = arrived_at, self._wall_clock() - self._clock()
        return _SeenTrace(self._spans, began, ids, flags | _SAMPLED, above.span_id if above is not None else 0, state)

    def stop(self) -> None:
        """Sends what waits, for a moment at most."""
        self._spans.stop()
