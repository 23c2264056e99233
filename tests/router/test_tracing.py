"""Traces go through the gateway: the client's above, the engine's below, and nothing where they are not configured."""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from router.access_log import Line
from router.spans import Ended, Kind, Messages, Spans
from router.tracing import Tracing, TracingUnusable
from tests.e2e.stack import poll
from tests.router.collector import Collector, collecting
from tests.router.stack import Stack, chat, running, two_tenants, whole

CHAT = "/v1/chat/completions"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class _Kept:
    def __init__(self, lines: list[Line]) -> None:
        self.add: Callable[[Line], None] = lines.append


@contextmanager
def traced(collector: Collector, sample: float = 1.0, lines: list[Line] | None = None) -> Iterator[Stack]:
    """A gateway whose spans are all sent when this ends."""
    tracing = Tracing(collector.url, sample, time.monotonic, time.time)
    access = _Kept(lines) if lines is not None else None
    with running(two_tenants(), tracing=tracing, access=access) as stack:
        yield stack
    tracing.stop()


def sent(stack: Stack) -> dict[str, str]:
    """The headers that the one request had which reached an engine."""
    (one,) = [raw for engine in stack.engines.values() for raw in engine.received]
    lines = one.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)


def value(span: Any, name: str) -> Any:
    """Of an attribute; None where it has none of this name."""
    found = [one.value for one in span.attributes if one.key == name]
    return getattr(found[0], found[0].WhichOneof("value")) if found else None


def test_a_request_is_a_span_below_the_clients_and_above_the_engines() -> None:
    lines: list[Line] = []
    with collecting() as collector:
        with traced(collector, lines=lines) as stack:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1"}
            assert stack.post(CHAT, chat("qwen2-7b"), key="acme-key", headers=headers)[0] == 200
            passed = sent(stack)
        (span,) = collector.spans()
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert passed["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert passed["tracestate"] == "a=1"
    assert lines[0].trace_id == TRACE
    assert span.name == "chat qwen2-7b"
    said = {
        "promptlane.tenant": "acme", "promptlane.lane": "short", "promptlane.pool": "acme", "promptlane.attempts": 1,
        "gen_ai.request.model": "qwen2-7b", "gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 1,
        "http.response.status_code": 200, "promptlane.cached_tokens": 4, "error.type": None,
    }  # fmt: skip
    assert {name: value(span, name) for name in said} == said
    assert [event.name for event in span.events] == ["sent", "first byte"]
    times = [span.start_time_unix_nano, *(one.time_unix_nano for one in span.events), span.end_time_unix_nano]
    assert times == sorted(times)


def test_a_span_says_whose_it_is_and_that_its_trace_was_drawn() -> None:
    with collecting() as collector:
        with traced(collector) as stack:
            assert stack.post(CHAT, chat(), key="acme-key")[0] == 200
            passed = sent(stack)["traceparent"].split("-")
        (span,) = collector.spans()
    assert passed == ["00", span.trace_id.hex(), span.span_id.hex(), "03"], "sampled, and drawn"
    assert span.kind == span.SPAN_KIND_SERVER
    assert span.status.code == 0


def test_what_nobody_sees_has_a_context_for_engines_all_the_same() -> None:
    lines: list[Line] = []
    with collecting() as collector:
        with traced(collector, sample=0.0, lines=lines) as stack:
            headers = {"tracestate": "a=1"}
            assert stack.post(CHAT, chat(), key="acme-key", headers=headers)[0] == 200
            passed = sent(stack)
        assert collector.spans() == []
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-02", passed["traceparent"])
    assert lines[0].trace_id == passed["traceparent"].split("-")[1]
    assert "tracestate" not in passed, "a state belongs to its context"


def test_a_trace_that_is_sent_is_the_exemplar_of_its_times() -> None:
    for sample, expected in ((1.0, {TRACE}), (0.0, set())):
        with collecting() as collector, traced(collector, sample) as stack:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            assert stack.post(CHAT, chat("qwen2-7b"), key="acme-key", headers=headers)[0] == 200
            poll("it is counted", lambda stack=stack: stack.process.metrics.total("promptlane_requests", "acme") == 1)
            text, _ = stack.process.metrics.scraped("application/openmetrics-text; version=1.0.0")
        for name in ("promptlane_request_seconds", "promptlane_first_byte_seconds"):
            found = re.findall(rf'{name}_bucket.* # {{trace_id="(\w+)"}}', text.decode())
            assert set(found) == expected


@pytest.mark.parametrize("given", [None, "00-nonsense-01", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01"])
def test_without_a_context_that_is_any_good_a_trace_begins_here(given: str | None) -> None:
    headers = {"tracestate": "a=1"} | ({"traceparent": given} if given is not None else {})
    with collecting() as collector:
        with traced(collector) as stack:
            assert stack.post(CHAT, chat(), key="acme-key", headers=headers)[0] == 200
            passed = sent(stack)
        (span,) = collector.spans()
    assert span.parent_span_id == b""
    assert span.trace_id.hex() != TRACE
    context, flags = passed["traceparent"].rsplit("-", 1)
    assert context == f"00-{span.trace_id.hex()}-{span.span_id.hex()}"
    assert int(flags, 16) & 1, "sampled"
    assert "tracestate" not in passed


def test_a_client_cannot_make_the_gateway_send_spans() -> None:
    with collecting() as collector:
        with traced(collector, sample=0.0) as stack:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            assert stack.post(CHAT, chat(), key="acme-key", headers=headers)[0] == 200
            passed = sent(stack)["traceparent"].split("-")
        assert collector.spans() == []
    assert (passed[1], passed[3]) == (TRACE, "00"), "engines hear that nobody looks"
    assert passed[2] != PARENT


def test_failures_are_events_and_the_spans_status() -> None:
    async def fail(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b'{"error":{"message":"died"}}', b"500 Internal Server Error"))

    with collecting() as collector:
        with traced(collector) as stack:
            for engine in stack.engines.values():
                engine.reply = fail
            assert stack.post(CHAT, chat(), key="acme-key")[0] == 500
            assert stack.post(CHAT, chat(), key="wrong")[0] == 401
        failed, refused = collector.spans()
    assert [event.name for event in failed.events][:2] == ["attempt failed", "attempt failed"]
    assert failed.status.code == 2, "an error"
    assert (refused.status.code, value(refused, "error.type")) == (0, "invalid_api_key")
    assert refused.name == "chat"


def test_a_collector_that_hangs_or_is_gone_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.spans._LAST_SECONDS", 0.2)
    with collecting() as collector:
        collector.hangs = True
        with traced(collector) as stack:
            for _ in range(3):
                assert stack.post(CHAT, chat(), key="acme-key")[0] == 200
    tracing = Tracing("http://127.0.0.1:9", 1.0, time.monotonic, time.time)
    with running(two_tenants(), tracing=tracing) as stack:
        assert stack.post(CHAT, chat(), key="acme-key")[0] == 200
    tracing.stop()


def ended(**fields: Any) -> Ended:
    kind = Kind(
        "chat", "m", 200, None, False, "acme", "gold", "short", True, "pool", "e0", 1, 0, None, False
    )  # fmt: skip
    given = Ended(kind, (1, 2), 0, 3, 4, "chatcmpl-1", 5, 6, None, 7, 0, 0.5, [])
    return msgspec.structs.replace(given, **fields)


def test_what_many_requests_have_in_common_is_in_each_of_their_spans() -> None:
    failed = Kind("chat", None, 502, "engine_died", True, None, None, None, False, None, None, 2, 0, "miss", True)
    message = Messages().request([ended(), ended(ids=(8, 9), parent=10, prompt_tokens=11), ended(kind=failed)])
    (of_all,) = message.resource_spans
    assert value(of_all.resource, "service.name") == "promptlane"
    (scope,) = of_all.scope_spans
    first, second, third = scope.spans
    assert [one.name for one in scope.spans] == ["chat m", "chat m", "chat"]
    assert (first.trace_id, first.span_id, first.parent_span_id) == ((1).to_bytes(16), (2).to_bytes(8), b"")
    assert (second.trace_id, second.span_id, second.parent_span_id) == (
        (8).to_bytes(16), (9).to_bytes(8), (10).to_bytes(8)
    )  # fmt: skip
    assert [value(one, "gen_ai.usage.input_tokens") for one in scope.spans] == [5, 11, 5]
    assert [value(one, "promptlane.tenant") for one in scope.spans] == ["acme", "acme", None]
    assert (first.status.code, third.status.code, third.status.message) == (0, 2, "engine_died")
    assert value(first, "promptlane.stream") is True
    assert value(first, "promptlane.cached_tokens.predicted") == 0
    assert value(first, "promptlane.ttft_seconds.predicted") == 0.5
    for one in scope.spans:
        names = [attribute.key for attribute in one.attributes]
        assert len(set(names)) == len(names)
        assert "promptlane.cached_tokens" not in names


def test_spans_that_a_collector_cannot_take_now_are_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.spans._AGAIN_SECONDS", (0.0, 0.0))
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with collecting() as collector:
        collector.statuses = [503, 429]
        spans = Spans(collector.url)
        spans.send(ended())
        collector.until(3)
        assert len({*collector.bodies}) == 1
        spans.stop()
        assert len(collector.bodies) == 3


def test_what_a_collector_refuses_is_lost_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    caplog.set_level("INFO", "promptlane.tracing")
    with collecting() as collector:
        collector.statuses = [400, 400]
        spans = Spans(collector.url)
        for sent_so_far in range(1, 4):
            spans.send(ended())
            collector.until(sent_so_far)
        spans.stop()
    assert [one.getMessage() for one in caplog.records if one.name == "promptlane.tracing"] == [
        "the collector takes no spans, which are lost: status 400",
        "the collector takes spans again",
    ]


def test_a_collector_elsewhere_gets_the_headers_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20t,x-scope=a")
    with collecting() as collector:
        spans = Spans(collector.url)
        spans.send(ended())
        spans.stop()
        collector.until()
        (headers,) = collector.headers
    assert (headers["authorization"], headers["x-scope"]) == ("Bearer t", "a")
    assert headers["content-type"] == "application/x-protobuf"


def test_a_collector_is_known_by_the_certificates_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = trustme.CA()
    theirs, ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), tmp_path / "ours.pem"
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(theirs)
    theirs.verify_mode = ssl.CERT_REQUIRED
    authority.issue_cert("gateway@example.com").private_key_and_cert_chain_pem.write_to_path(str(ours))
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", str(ours))
    with collecting(theirs) as collector:
        spans = Spans(collector.url)
        spans.send(ended())
        spans.stop()
        (span,) = collector.spans()
    assert span.name == "chat m"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "none.pem"))
    with pytest.raises(TracingUnusable, match=r"certificate .*No such file"):
        Tracing("https://127.0.0.1:9", 1.0, time.monotonic, time.time)


def test_without_tracing_the_clients_context_just_passes() -> None:
    with running(two_tenants()) as stack:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1"}
        assert stack.post(CHAT, chat(), key="acme-key", headers=headers)[0] == 200
        passed = sent(stack)
    assert {name: passed[name] for name in headers} == headers


def test_a_missing_library_is_told_by_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(TracingUnusable, match=r"promptlane\[otel\]"):
        Tracing("http://127.0.0.1:9", 1.0, time.monotonic, time.time)
