"""Spans on their way to a collector: in OpenTelemetry's own messages, in batches, by a thread of its own.

Floor: an adapter. The libraries are imported with what is made here. A request is written into the message of its span
directly, and what many requests have in common once for all: spans and attributes as the SDK has them on the way were
four fifths of what a trace took.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeAlias, cast

import httpx2
import msgspec

from router import __version__

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import Span
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import SpanContext

_log = logging.getLogger("promptlane.tracing")

# What one export may take, and what the last ones may at the end of the process (seconds).
_EXPORT_SECONDS = 5.0
_LAST_SECONDS = 3.0
_MOST_WAITING = 4096
# Seconds before a batch is sent again that the collector could not take now; then it is lost.
_AGAIN_SECONDS: Final = (0.5, 1.0)
# By which a collector says so, as OTLP has it.
_LATER: Final = frozenset({429, 502, 503, 504})
_REMOTE, _HAS_REMOTE = 0x200, 0x100  # of a span's flags: whether its parent is elsewhere, and that this is known
_KINDS = 1024  # of requests whose common part is kept

Value: TypeAlias = str | int | float
Event: TypeAlias = tuple[str, int, Mapping[str, Value]]  # the second: nanoseconds


class Kind(NamedTuple):
    """What a request has in common with many. `failed`: that it did, for the span's status."""

    api: str
    model: str | None
    status: int
    error: str | None
    failed: bool
    tenant: str | None
    tier: str | None
    lane: str | None
    stream: bool
    pool: str | None
    endpoint: str | None
    attempts: int
    resumes: int
    cache: str | None
    degraded: bool


# What the SDK asks of a span before it takes it.
_SAMPLED = SimpleNamespace(trace_flags=SimpleNamespace(sampled=True))


class Ended(msgspec.Struct, gc=False):
    """A span that has ended. `ids`: of its trace, and its own; `parent`: the client's, 0 where there is none; `began`,
    `ended`: nanoseconds. The rest as in the ledger's records, None where the request did not come so far."""

    context: ClassVar[SimpleNamespace] = _SAMPLED

    kind: Kind
    ids: tuple[int, int]
    parent: int
    began: int
    ended: int
    request_id: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    estimated_tokens: int | None
    predicted_cached_tokens: int | None
    predicted_ttft: float | None
    events: Sequence[Event]


class Spans:
    """Of one process. `endpoint`: the base URL of a collector that takes OTLP over HTTP."""

    def __init__(self, endpoint: str) -> None:
        """Raises ImportError where the libraries are not installed."""
        from opentelemetry import trace
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._extract = TraceContextTextMapPropagator().extract
        self._exporter = _Exporter(f"{endpoint}/v1/traces")
        self._processor = BatchSpanProcessor(cast("SpanExporter", self._exporter), max_queue_size=_MOST_WAITING)

    def context(self, parent: bytes) -> SpanContext | None:
        """What a client's `traceparent` says; None where it is no good."""
        context = self._extract({"traceparent": parent.decode("latin-1")})
        return self._api.get_current_span(context).get_span_context() if context else None

    def send(self, ended: Ended) -> None:
        """Never waits: where too many wait already, the oldest is lost."""
        self._processor.on_end(cast("ReadableSpan", ended))

    def stop(self) -> None:
        """Sends what waits, for a moment at most and once."""
        self._exporter.stopping.set()
        last = threading.Thread(target=self._processor.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_LAST_SECONDS)


class _Exporter:
    """A `SpanExporter` of spans that have ended. Says once that a collector takes none, and once that it does again.
    `stopping`: set when nothing is to be sent a second time."""

    def __init__(self, url: str) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        self._results = SpanExportResult
        self._url = url
        self._messages = Messages()
        self._http = httpx2.Client(timeout=_EXPORT_SECONDS, verify=_verified(), headers=_headers())
        self.stopping = threading.Event()
        self._well = True

    def export(self, spans: Sequence[Ended]) -> SpanExportResult:
        why = self._sent(self._messages.request(spans).SerializeToString())
        if why is None and not self._well:
            _log.info("the collector takes spans again")
        elif why is not None and self._well:
            _log.warning("the collector takes no spans, which are lost: %s", why)
        self._well = why is None
        return self._results.SUCCESS if why is None else self._results.FAILURE

    def _sent(self, data: bytes) -> str | None:
        """None, or why it was not."""
        why = self._tried(data)
        for wait in _AGAIN_SECONDS:
            if why is None or not why.later or self.stopping.wait(wait):
                break
            why = self._tried(data)
        return why.text if why is not None else None

    def _tried(self, data: bytes) -> _Refusal | None:
        try:
            answer = self._http.post(self._url, content=data)
        except httpx2.HTTPError as error:
            return _Refusal(type(error).__name__, later=True)
        if answer.is_success:
            return None
        return _Refusal(f"status {answer.status_code}", later=answer.status_code in _LATER)

    def shutdown(self) -> None:
        self._http.close()


class _Refusal(NamedTuple):
    text: str
    later: bool


class Messages:
    """Spans that have ended to the message of one export. In the words of OpenTelemetry's semantic conventions for HTTP
    and generative AI where these have one."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
        from opentelemetry.sdk.resources import Resource

        self._empty, self._span, self._status = ExportTraceServiceRequest(), Span, Status
        of_all = self._empty.resource_spans.add()
        resource = Resource.create({"service.name": "promptlane", "service.version": __version__})
        for name, value in resource.attributes.items():
            _set(of_all.resource.attributes, name, cast(Value, value))
        scope = of_all.scope_spans.add().scope
        scope.name, scope.version = "promptlane", __version__
        self._common = lru_cache(_KINDS)(self._written)

    def request(self, spans: Sequence[Ended]) -> ExportTraceServiceRequest:
        message = type(self._empty)()
        message.CopyFrom(self._empty)
        into = message.resource_spans[0].scope_spans[0].spans
        for ended in spans:
            self._write(into.add(), ended)
        return message

    def _write(self, span: Span, ended: Ended) -> None:
        span.MergeFromString(self._common(ended.kind))
        trace, own = ended.ids
        span.trace_id, span.span_id = trace.to_bytes(16, "big"), own.to_bytes(8, "big")
        span.flags = _HAS_REMOTE
        if ended.parent:
            span.parent_span_id, span.flags = ended.parent.to_bytes(8, "big"), _HAS_REMOTE | _REMOTE
        span.start_time_unix_nano, span.end_time_unix_nano = ended.began, ended.ended
        add = span.attributes.add
        one = add()
        one.key, one.value.string_value = "promptlane.request_id", ended.request_id
        for name, count in (
            ("gen_ai.usage.input_tokens", ended.prompt_tokens),
            ("gen_ai.usage.output_tokens", ended.completion_tokens),
            ("promptlane.cached_tokens", ended.cached_tokens),
            ("promptlane.prompt_tokens.estimated", ended.estimated_tokens),
            ("promptlane.cached_tokens.predicted", ended.predicted_cached_tokens),
        ):
            if count is not None:
                one = add()
                one.key, one.value.int_value = name, count
        if ended.predicted_ttft is not None:
            one = add()
            one.key, one.value.double_value = "promptlane.ttft_seconds.predicted", ended.predicted_ttft
        for name, at, said in ended.events:
            event = span.events.add()
            event.name, event.time_unix_nano = name, at
            for what, value in said.items():
                _set(event.attributes, what, value)

    def _written(self, kind: Kind) -> bytes:
        """What all of a kind have, which a message takes over as it is."""
        span = self._span(
            name=f"{kind.api} {kind.model}" if kind.model is not None else kind.api, kind=self._span.SPAN_KIND_SERVER
        )
        if kind.failed:
            span.status.code, span.status.message = self._status.STATUS_CODE_ERROR, kind.error or ""
        for name, value in (
            ("http.response.status_code", kind.status),
            ("error.type", kind.error),
            ("gen_ai.operation.name", kind.api),
            ("gen_ai.request.model", kind.model),
            ("promptlane.tenant", kind.tenant),
            ("promptlane.tier", kind.tier),
            ("promptlane.lane", kind.lane),
            ("promptlane.stream", kind.stream),
            ("promptlane.pool", kind.pool),
            ("promptlane.endpoint", kind.endpoint),
            ("promptlane.attempts", kind.attempts),
            ("promptlane.resumes", kind.resumes),
            ("promptlane.cache", kind.cache),
            ("promptlane.degraded", kind.degraded),
        ):
            if value is not None:
                _set(span.attributes, name, value)
        written: bytes = span.SerializeToString()
        return written


def _set(attributes: Any, name: str, value: Value) -> None:
    one = attributes.add()
    one.key = name
    if isinstance(value, bool):  # an int, too
        one.value.bool_value = value
    elif isinstance(value, int):
        one.value.int_value = value
    elif isinstance(value, float):
        one.value.double_value = value
    else:
        one.value.string_value = value


def _headers() -> dict[str, str]:
    """Those of OTLP, and what OpenTelemetry's variables say: a collector elsewhere may want a token."""
    from opentelemetry.util.re import parse_env_headers

    return {**parse_env_headers(_said("HEADERS"), liberal=True), "content-type": "application/x-protobuf"}


def _verified() -> ssl.SSLContext:
    """By the system's authorities, or by those that OpenTelemetry's variables name, with the certificate that they
    name for ourselves."""
    context = ssl.create_default_context(cafile=_said("CERTIFICATE") or None)
    if own := _said("CLIENT_CERTIFICATE"):
        context.load_cert_chain(own, _said("CLIENT_KEY") or None)
    return context


def _said(what: str) -> str:
    """One of OpenTelemetry's variables, as it names them: that of traces, or that of all signals."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{what}") or os.environ.get(f"OTEL_EXPORTER_OTLP_{what}", "")
