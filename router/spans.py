"""Spans as OpenTelemetry's SDK exports them: in batches, by a thread of its own.

Floor: an adapter. The library is imported with what is made here. A span is handed over as one that has ended: what
the SDK does while one is open (locks, checks and copies for each attribute) took most of what a trace costs, and nobody
looks at ours before they end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from router import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

# What one export may take, and what the last ones may at the end of the process (seconds).
_EXPORT_SECONDS = 5.0
_LAST_SECONDS = 3.0
_MOST_WAITING = 4096


class Spans:
    """Of one process. `endpoint`: the base URL of a collector that takes OTLP over HTTP."""

    def __init__(self, endpoint: str) -> None:
        """Raises ImportError where the library is not installed."""
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api, self._event, self._span = trace, Event, ReadableSpan
        self._extract = TraceContextTextMapPropagator().extract
        self._scope = InstrumentationScope("promptlane", __version__)
        self._resource = Resource.create({"service.name": "promptlane", "service.version": __version__})
        exporter = OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=_EXPORT_SECONDS)
        self._processor = BatchSpanProcessor(exporter, max_queue_size=_MOST_WAITING)

    def context(self, parent: bytes) -> SpanContext | None:
        """What a client's `traceparent` says; None where it is no good."""
        context = self._extract({"traceparent": parent.decode("latin-1")})
        return self._api.get_current_span(context).get_span_context() if context else None

    def send(
        self,
        name: str,
        ids: tuple[int, int],
        flags: int,
        parent: SpanContext | None,
        times: tuple[int, int],
        attributes: Mapping[str, Any],
        events: Iterable[tuple[str, int, Mapping[str, Any]]],
        *,
        failed: str | None,
    ) -> None:
        """A span that has ended; never waits. `ids`: of its trace, and its own. `times`: of its beginning and its end,
        and of each event beside its name: nanoseconds. `failed`: what it failed by; None where it is well."""
        api = self._api
        self._processor.on_end(
            self._span(
                name=name,
                context=api.SpanContext(*ids, is_remote=False, trace_flags=api.TraceFlags(flags)),
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                events=[self._event(what, said, at) for what, at, said in events],
                kind=api.SpanKind.SERVER,
                status=api.Status(api.StatusCode.ERROR, failed or None) if failed is not None else api.Status(),
                start_time=times[0],
                end_time=times[1],
                instrumentation_scope=self._scope,
            )
        )

    def stop(self) -> None:
        """Sends what waits, for a moment at most."""
        last = threading.Thread(target=self._processor.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_LAST_SECONDS)
