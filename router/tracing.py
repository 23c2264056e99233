"""Traces of requests by OpenTelemetry: one span each, below the client's and above the engine's.

Floor: an adapter. The library is imported only where traces are configured, and what it sends waits in a bounded queue
for a thread of its own: a collector that is slow or gone costs spans, never a request. A span holds names of the
configuration, figures and times; no text, no key.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from router import __version__
from router.calls import CLIENT_CLOSED, Call
from router.wire.http import Header

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

# What one export may take, and what the last ones may at the end of the process (seconds).
_EXPORT_SECONDS = 5.0
_LAST_SECONDS = 3.0
_MOST_WAITING = 4096
_BILLION: Final = 1_000_000_000


class TracingUnusable(Exception):
    """The library that `tracing` needs is not installed."""


class Trace:
    """Of one request. `headers`: what engines get, so that their spans are below its own; `id`: the trace's, 32
    hexadecimal digits; `sampled`: whether anybody will see it."""

    __slots__ = ("_offset", "_span", "headers", "id", "sampled")

    def __init__(self, span: Span, offset: float, state: bytes | None) -> None:
        self._span = span
        self._offset = offset
        context = span.get_span_context()
        self.id = f"{context.trace_id:032x}"
        self.sampled = context.trace_flags.sampled
        parent = f"00-{self.id}-{context.span_id:016x}-{context.trace_flags:02x}"
        self.headers: list[Header] = [(b"traceparent", parent.encode())]
        if state is not None:
            self.headers.append((b"tracestate", state))

    def event(self, name: str, at: float, **attributes: str | float) -> None:
        """A step of the request, at this monotonic second."""
        if self.sampled:
            self._span.add_event(name, attributes, timestamp=self._nanoseconds(at))

    def finished(self, call: Call, now: float) -> None:
        """The request has ended."""
        if not self.sampled:
            return
        if call.ticket is not None and call.sent_at:
            self.event("sent", call.sent_at, endpoint=call.ticket.endpoint, queue_seconds=call.ticket.queued_seconds)
        if call.first_byte_at is not None:
            self.event("first byte", call.first_byte_at)
        self._span.set_attributes(_attributes(call))
        if call.model is not None:
            self._span.update_name(f"{call.spec.name} {call.model.route.name}")
        if call.error_source in ("engine", "gateway") or call.status >= 500:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR, call.error_code)
        self._span.end(end_time=self._nanoseconds(now))

    def _nanoseconds(self, at: float) -> int:
        return int((at + self._offset) * _BILLION)


def _attributes(call: Call) -> dict[str, Any]:
    """In the words of OpenTelemetry's semantic conventions for HTTP and generative AI where these have one."""
    request = call.measured.request if call.measured is not None else None
    usage, ticket = call.usage, call.ticket
    found: dict[str, Any] = {
        "http.response.status_code": call.status,
        "error.type": "client_left" if call.status == CLIENT_CLOSED else call.error_code,
        "gen_ai.operation.name": call.spec.name,
        "gen_ai.request.model": call.model.route.name if call.model is not None else None,
        "gen_ai.usage.input_tokens": usage.prompt_tokens if usage is not None else None,
        "gen_ai.usage.output_tokens": usage.completion_tokens if usage is not None else None,
        "promptlane.request_id": call.id,
        "promptlane.tenant": call.tenant.id if call.tenant is not None else None,
        "promptlane.tier": call.tenant.tier.name if call.tenant is not None else None,
        "promptlane.lane": request.lane.value if request is not None else None,
        "promptlane.stream": call.streams,
        "promptlane.pool": call.model.pool.name if call.model is not None else None,
        "promptlane.endpoint": ticket.endpoint if ticket is not None else None,
        "promptlane.attempts": call.attempts,
        "promptlane.resumes": call.resumes,
        "promptlane.degraded": call.degraded is not None,
        "promptlane.prompt_tokens.estimated": request.prompt_tokens if request is not None else None,
        "promptlane.cached_tokens.predicted": ticket.choice.cached_tokens if ticket is not None else None,
        "promptlane.cached_tokens": usage.cached_tokens if usage is not None else None,
        "promptlane.ttft_seconds.predicted": ticket.choice.ttft_seconds if ticket is not None else None,
    }
    return {name: value for name, value in found.items() if value is not None}


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
        try:
            from opentelemetry.trace import SpanKind
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            self._provider = _provider(endpoint, sample)
        except ImportError:
            raise TracingUnusable("needs OpenTelemetry: pip install 'promptlane[otel]'") from None
        self._kind = SpanKind.SERVER
        self._extract = TraceContextTextMapPropagator().extract
        self._tracer: Tracer = self._provider.get_tracer("promptlane", __version__)

    def begin(self, api: str, arrived_at: float, parent: bytes | None, state: bytes | None) -> Trace:
        """A span of a request of this API. `parent`, `state`: the client's `traceparent` and `tracestate`; one that is
        no good counts as none, as the W3C's recommendation has it."""
        offset = self._wall_clock() - self._clock()
        text = parent.decode("latin-1") if parent is not None else ""
        context = self._extract({"traceparent": text}) if text else None
        span = self._tracer.start_span(
            api, context=context or None, kind=self._kind, start_time=int((arrived_at + offset) * _BILLION)
        )
        return Trace(span, offset, state if context else None)

    def stop(self) -> None:
        """Sends what waits, for a moment at most."""
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_LAST_SECONDS)


def _provider(endpoint: str, sample: float) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    resource = Resource.create({"service.name": "promptlane", "service.version": __version__})
    provider = TracerProvider(TraceIdRatioBased(sample), resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=_EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_MOST_WAITING))
    return provider
