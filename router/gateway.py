"""One request, one straight line: identify, receive, read, guard, measure, admit, dispatch, forward, settle.

Floor: waits and never decides; what to do is asked of `policies`. Each step either goes on or raises a `GatewayError`,
and `handle` is the only place that turns those into answers. Whatever happens, `_settle` runs exactly once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from policies.admission.limit import Use
from policies.types import Tenant
from router.access_log import AccessLog, line_of
from router.attempts import Attempts
from router.calls import CLIENT_CLOSED, Call, ServedModel
from router.charging import charge
from router.client import Client, ClientGone
from router.degraded import degraded_header
from router.errors import (
    BadRequest,
    EngineStatus,
    Forbidden,
    GatewayError,
    InternalError,
    InvalidKey,
    ModelNotFound,
    Overloaded,
)
from router.guards.guard import TenantGuard
from router.limits import Limiter
from router.measure import INLINE_BYTES, Measurer
from router.metrics import Metrics
from router.origin import Origin, credential, request_id
from router.request_records import RequestRecords
from router.resume import resumable
from router.reuse import Reuse
from router.routing_headers import limit_headers, prediction_headers, routing_headers
from router.tenants import Identity, TenantDirectory
from router.tracing import Tracing
from router.wire.bounds import RequestBounds
from router.wire.errors import advice, error_body, error_event, error_headers, says_what
from router.wire.http import Header, response_headers
from router.wire.openai import ApiSpec, Body, engine_body, read_body
from router.wire.usage import Usage

_log = logging.getLogger("promptlane.gateway")


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What the line itself needs of the configuration; sizes in bytes, times in seconds."""

    max_body_bytes: int
    body_timeout: float
    batch_header: bytes
    routing_headers: bool


@dataclass(frozen=True, slots=True)
class TenantRules:
    """What a tenant's requests may ask for, and the rules for their texts; None without any."""

    bounds: RequestBounds
    guard: TenantGuard | None


@dataclass(frozen=True, slots=True)
class Services:
    """What every request uses. `clock`: monotonic seconds; `wall_clock`: Unix seconds; `records`: None where none are
    kept; `access`: None where requests are not logged; `tracing`: None where they are not traced."""

    clock: Callable[[], float]
    wall_clock: Callable[[], float]
    origin: Origin
    measurer: Measurer
    metrics: Metrics
    records: RequestRecords | None = None
    access: AccessLog | None = None
    tracing: Tracing | None = None


class Gateway:
    """Serves every inference API. Immutable: a reload builds another, and requests under way finish on this one."""

    def __init__(
        self,
        settings: GatewaySettings,
        directory: TenantDirectory,
        models: Mapping[str, Mapping[str, ServedModel]],
        limits: Mapping[str, Limiter],
        services: Services,
        rules: Mapping[str, TenantRules] | None = None,
    ) -> None:
        self.settings = settings
        self.directory = directory
        self.models = models
        self.limits = limits
        self.services = services
        self.rules = rules if rules is not None else {}
        self._clock = services.clock
        self._attempts = Attempts(services.clock, services.metrics, self._own_headers)
        self._reuse = Reuse(self._attempts, services.clock)

    async def handle(self, spec: ApiSpec, client: Client, probe_of: Identity | None = None) -> None:
        """Answers one request of one API, whatever happens to it. `probe_of`: it is the gateway's own, sent as this
        tenant: neither limited nor counted."""
        call = Call(client, spec, request_id(client), self._clock(), probe_of=probe_of)
        try:
            await self._serve(call)
        except GatewayError as error:
            await self._refuse(call, error)
        except ClientGone:
            call.status = CLIENT_CLOSED
        except asyncio.CancelledError:  # the client has left, or the process ends after its grace
            await self._refuse(call, Overloaded("The gateway is shutting down.", code="shutting_down", retry_after=1.0))
        except Exception as error:  # the one mapper: a fault of ours is a clean 500 and a log line without the body
            _log.exception("request %s failed inside the gateway", call.id, extra=call.named)
            self.services.metrics.add("promptlane_internal_errors", "gateway")
            await self._refuse(call, InternalError(f"The gateway failed on this request ({type(error).__name__})."))
        finally:
            client.unwatch()
            self._settle(call)

    async def _serve(self, call: Call) -> None:
        self._trace(call)
        if call.probe_of is None:
            self._check_ledger()
        identity = call.probe_of or self._find(call.client)
        call.tenant, call.key = identity.tenant, identity.key.id if identity.key is not None else ""
        if call.probe_of is None:
            self._require(identity, call.client, call.spec.name)
        data = await call.client.body(self.settings.max_body_bytes, self.settings.body_timeout)
        call.client.watch()
        long = len(data) > INLINE_BYTES  # what reads or writes a long body does it off the event loop
        body = await read(call.spec, data) if long else read_body(call.spec, data)
        model = call.model = self._model(identity, body)
        call.fields = body.fields
        rules = self.rules.get(identity.tenant.id)
        if rules is not None and call.probe_of is None:
            body = await self._guard(call, rules, body, len(data))
            call.fields = body.fields
        await self._measure(call, identity.tenant, model, body, len(data))
        await self._admit(call, len(data))
        call.hides_usage = body.hides_usage
        if self.services.records is not None:
            call.sampled = self.services.records.looks_at(call)
        call.resume = resumable(call, identity.tenant, body, model.route.engine_model)
        rewrite = partial(
            engine_body,
            body.fields,
            model.route.engine_model,
            identity.tenant.cache_salt,
            ask_usage=body.hides_usage,
            ask_ids=call.resume is not None,
        )
        rewritten = await asyncio.to_thread(rewrite) if long else rewrite()
        # What came together comes so far one after the other, and only then goes on: one piece of code for many
        # requests is at hand in the processor's caches, where all of it for each in turn is not. A stream goes on at
        # once: somebody looks at when it begins, and what others cost meanwhile would be added to that.
        if not call.request.stream:
            await asyncio.sleep(0)
        if model.cache is None or call.probe_of is not None:
            await self._attempts.forward(call, model.pool, rewritten)
        else:
            await self._reuse.forward(call, model, model.cache, body, rewritten)

    def _trace(self, call: Call) -> None:
        if self.services.tracing is not None and call.probe_of is None:
            parent = call.client.header(b"traceparent")
            state = call.client.header(b"tracestate") if parent is not None else None
            call.trace = self.services.tracing.begin(call.arrived_at, parent, state)

    def identify(self, client: Client, api: str) -> Identity:
        """Host and/or key to tenant. Raises InvalidKey or Forbidden."""
        identity = self._find(client)
        self._require(identity, client, api)
        return identity

    def _find(self, client: Client) -> Identity:
        try:
            host = self.services.origin.host(client)
            return self.directory.identify(host, credential(client), self.services.wall_clock())
        except (InvalidKey, Forbidden) as error:
            self._log_refusal(client, error)
            raise

    def _require(self, identity: Identity, client: Client, api: str) -> None:
        """Raises Forbidden where the key is not for this API."""
        try:
            if identity.key is not None:
                identity.key.require(api)
        except Forbidden as error:
            self._log_refusal(client, error)
            raise

    def _log_refusal(self, client: Client, error: GatewayError) -> None:
        _log.info("refused a request from %s: %s", self.services.origin.address(client), error.code)

    def _check_ledger(self) -> None:
        """Raises Overloaded where no record could be kept of an answer, and there must be one."""
        records = self.services.records
        if records is not None and not records.accepted:
            message = "No record of this request could be kept, without which none is answered here."
            raise Overloaded(message, code="ledger_unavailable", retry_after=5.0)

    def _model(self, identity: Identity, body: Body) -> ServedModel:
        served = self.models[identity.tenant.id].get(body.model)
        if served is None:
            raise ModelNotFound.named(body.model)
        if identity.key is not None and not identity.key.allows_model(body.model):
            raise Forbidden(f"This API key may not use the model '{body.model}'.", param="model", code="scope_denied")
        if served.shared and "previous_response_id" in body.fields:
            # Engines find stored answers by id alone, whoever asks: on a shared pool that id may be another tenant's.
            raise BadRequest("This model does not support 'previous_response_id'.", param="previous_response_id")
        return served

    async def _guard(self, call: Call, rules: TenantRules, body: Body, size: int) -> Body:
        """The body that the tenant's rules let pass. Raises BadRequest, ContentBlocked or GuardUnavailable."""
        body = rules.bounds.apply(call.spec, body)
        guard = call.guard = rules.guard
        if guard is None:
            return body
        body, findings = await guard.examine(call.spec, body, size)
        call.verdicts += guard.note(findings)
        if findings.blocked_by is not None:
            raise findings.refusal("prompt")
        return body

    async def _measure(self, call: Call, tenant: Tenant, model: ServedModel, body: Body, size: int) -> None:
        asked = call.client.header(self.settings.batch_header)
        call.measured = await self.services.measurer.measure(
            call.spec,
            body,
            size,
            tenant=tenant,
            root=model.root,
            estimator=model.estimator,
            request_id=call.id,
            asked_lane=asked.decode("latin-1").strip().lower() if asked is not None else None,
            now=call.arrived_at,
        )

    async def _admit(self, call: Call, size: int) -> None:
        """Takes from the tenant's limits. Raises RateLimited or Overloaded."""
        request = call.request
        limiter = self.limits.get(request.tenant)
        if limiter is None or call.probe_of is not None:
            return
        use = Use(request.prompt_tokens, request.max_output_tokens)
        if call.model is not None:
            use = call.model.priced(use)
        call.grant = await limiter.admit(self._clock, use, call.key, request.model, size)

    async def _refuse(self, call: Call, error: GatewayError) -> None:
        """Tells the client what went wrong: as an answer, or, once one has begun, as the stream's last event."""
        client, anthropic = call.client, call.spec.anthropic
        if client.gone:
            call.status = CLIENT_CLOSED
            return
        call.error_code, call.error_source, call.broken_off = error.code, error.source, client.started
        call.turned_away = error.turned_away
        if client.opened and not client.started:
            call.status = 200
            await client.finish(error_event(error, anthropic=anthropic))
        elif not client.started:
            await self._answer_error(call, error)
        elif call.answer is not None and call.answer.at_event_boundary:
            await client.finish(error_event(error, anthropic=anthropic))
        else:
            client.unwatch()  # half an event or body is out: only a broken connection says so truthfully

    async def _answer_error(self, call: Call, error: GatewayError) -> None:
        if isinstance(error, EngineStatus) and call.model is not None and says_what(error.engine_body):
            status, body = error.engine_status, call.model.renamed_error(error.engine_body)
            headers = [*response_headers(error.engine_headers), *advice(error)]
        else:
            status = error.engine_status if isinstance(error, EngineStatus) else error.status
            body = error_body(error, anthropic=call.spec.anthropic)
            headers = error_headers(error)
        call.status = status
        await call.client.respond(status, [*headers, *self._own_headers(call)], body)

    def _own_headers(self, call: Call) -> list[Header]:
        headers: list[Header] = [(b"x-request-id", call.id.encode())]
        if call.tenant is not None and (limits := self.limits.get(call.tenant.id)) is not None:
            model = call.model.route.name if call.model is not None else ""
            headers += limit_headers(limits.snapshot(self._clock(), call.key, model))
        if call.degraded is not None:
            headers.append(degraded_header(call.degraded))
        if call.cache is not None:
            headers += call.cache.headers(self.services.wall_clock())
        if self.settings.routing_headers and call.ticket is not None:
            headers += routing_headers(call.request, call.ticket)
            if call.model is not None and not call.model.shared and call.degraded is None:
                headers += prediction_headers(call.request, call.ticket)
        return headers

    def _settle(self, call: Call) -> None:
        """Gives back what the request still holds, and counts it. Runs once, whatever happened."""
        now, usage = self._clock(), call.usage
        if call.guard is not None and call.answer is not None and call.answer.guard is not None:
            call.verdicts += call.guard.note_answer(call.answer.guard)
        if call.probe_of is not None:
            call.answer = None
            return
        if call.grant is not None:
            if (reused := call.reused) is not None:
                call.grant.settle(now, reused)
            elif call.ticket is None:
                call.grant.cancel(now)
            else:
                call.grant.settle(now, _used(call, usage) if usage is not None else None)
        if call.ticket is not None and call.model is not None and call.measured is not None and usage is not None:
            call.model.calibrate(call.measured, usage)
            if usage.completion_tokens is not None:
                left = call.status == CLIENT_CLOSED or call.error_code is not None
                self.services.measurer.learn_length(call.measured, usage.completion_tokens, left=left)
        charge(call)
        call.count(self.services.metrics, now)
        if self.services.records is not None:
            self.services.records.finished(call, now)
        if call.trace is not None:
            call.trace.finished(call, now)
        if (access := self.services.access) is not None:
            access.add(line_of(call, self.services.origin.address(call.client), self.services.wall_clock(), now))
        call.answer = None  # it refers back: without this every request would wait for the garbage collector


def _used(call: Call, usage: Usage) -> Use:
    use = Use(usage.prompt_tokens or 0, usage.completion_tokens or 0, usage.cached_tokens or 0)
    return use if call.model is None else call.model.priced(use, call.ticket)


async def read(spec: ApiSpec, data: bytes) -> Body:
    """What the gateway must know of a body; a long one is read off the event loop. Raises BadRequest."""
    if len(data) <= INLINE_BYTES:
        return read_body(spec, data)
    return await asyncio.to_thread(read_body, spec, data)
