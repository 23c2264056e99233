"""One request's working record on its way down the line: what is known of it so far, and what it must give back.

Floor: data for `router.gateway`. The text of the prompt is not kept here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from policies.admission.engine_time import engine_cost, highest_cost
from policies.admission.limit import Prices, Use
from policies.admission.limits import LimitGrant
from policies.slo import ending, judge
from policies.tokens import TokenEstimator
from policies.types import InferenceRequest, Lane, ModelRoute, Outcome, Slo, Tenant
from router.client import Client
from router.errors import EngineError, EngineStatus, TurnedAway
from router.guards.guard import TenantGuard
from router.guards.rules import Verdict
from router.heartbeat import Heartbeat
from router.keeper import Detour
from router.measure import Measured
from router.metrics import Metrics
from router.pools import Pool
from router.response import EngineAnswer
from router.response_cache.cache import CacheUse, TenantCache
from router.response_cache.copying import AnswerCopy
from router.tenants import Identity
from router.tickets import Ticket
from router.wire.alias import AliasRewriter, rename_in_error
from router.wire.fields import Fields
from router.wire.http import Header
from router.wire.openai import ApiSpec
from router.wire.usage import Usage

if TYPE_CHECKING:
    from router.relay import Answer
    from router.resume import Resumable
    from router.tracing import Trace

# What is counted as status when the client closed its connection first (nginx's convention).
CLIENT_CLOSED = 499
_NO_USAGE = Usage(None, None, None)
# Of a call what a copy of the request for another endpoint begins with, beside what its constructor takes.
_SHARED: Final = (
    "attempts", "broken_off", "cache", "charged", "claim", "copy", "degraded", "error_code", "error_source",
    "fields", "finish_reason", "grant", "guard", "heartbeat", "hides_usage", "key", "measured", "model", "refused",
    "resume", "resumes", "sampled", "sent_at", "status", "system_fingerprint", "tenant", "trace", "tried",
    "turned_away", "verdicts",
)  # fmt: skip


class Superseded(Exception):
    """Another copy of the request has begun to answer the client; this one is of no use any more."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of one tenant, ready to serve: made once per configuration.

    `root`: where its prefix chains begin (salted by tenant and engine model). `shared`: other tenants use the pool too.
    `metered`: a limit of money counts what it costs by its engines' time.
    `prices`: what its tokens cost; None: what its engines' time does.
    `cache`: the tenant's, of whole answers; None without one.
    `fingerprints`: by endpoint, what `router.wire.stream_usage` learned in the last stream from there.
    """

    route: ModelRoute
    pool: Pool
    root: int
    estimator: TokenEstimator
    shared: bool = False
    metered: bool = False
    prices: Prices | None = None
    cache: TenantCache | None = None
    fingerprints: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    def alias_rewriter(self) -> AliasRewriter | None:
        """For one answer; None where the client's name is the engine's, and bytes stay as they are."""
        if self.route.name == self.route.engine_model:
            return None
        return AliasRewriter(self.route.engine_model, self.route.name)

    def renamed_error(self, body: bytes) -> bytes:
        """An engine's error body in the client's words for the model."""
        rewriter = self.alias_rewriter()
        if rewriter is None:
            return body
        return rename_in_error(rewriter.feed(body) + rewriter.flush(), self.route.engine_model, self.route.name)

    def priced(self, use: Use, ticket: Ticket | None = None) -> Use:
        """With the cost of the engine's time, by the ticket's endpoint or by the dearest one, where that is counted."""
        if not self.metered:
            return use
        cost = highest_cost(self.pool.kinds(), use) if ticket is None else engine_cost(ticket.choice.state, use)
        return use._replace(engine_cost=cost)

    def calibrate(self, measured: Measured, usage: Usage) -> None:
        """Learns bytes per token from what the engine counted; prompts of ids or pictures teach nothing of text."""
        if usage.prompt_tokens and measured.text_bytes and not measured.extra_tokens:
            self.estimator.observe(measured.text_bytes, usage.prompt_tokens)


class Call:
    """Mutable, owned by the one task that handles the request. Times are monotonic seconds.

    `key`: the id of the API key, empty without one. `degraded`: another pool serves it, with less. `hides_usage`: the
    stream's usage was asked for by the gateway alone and is not the client's to see. `refused`: the status of an error
    inside the stream that the request caused. `claim`: asked before the first byte for the client, while another copy
    of the request may be under way. `resume`: what its stream needs to go on elsewhere; None where it cannot.
    `probe_of`: the request is the gateway's own, sent as this tenant. `error_source`: whose fault `error_code` is;
    `turned_away`: a limit or rule of the tenant did it, or its lane had no room, or none in time; `broken_off`: the
    answer had begun. `resumes`: how often its stream went on elsewhere. `guard`: the rules for its texts, None without
    any; `verdicts`: what came of them. `fields`: the body's, as the tenant's rules have left them. `sampled`: its
    answer is looked at when it is over. `cache`: what its tenant's cache has to do with it, None for nothing; `copy`:
    of the last attempt's answer, for that. `charged`: see `router.charging`, once it is over.
    """

    __slots__ = (
        "answer", "arrived_at", "attempts", "broken_off", "cache", "charged", "claim", "client", "copy", "degraded",
        "error_code", "error_source", "fields", "finish_reason", "first_byte_at", "grant", "guard", "heartbeat",
        "hides_usage", "id", "key", "measured", "model", "probe_of", "refused", "resume", "resumes", "sampled",
        "sent_at", "spec", "status", "system_fingerprint", "tenant", "ticket", "trace", "tried", "turned_away",
        "usage", "verdicts",
    )  # fmt: skip

    def __init__(
        self, client: Client, spec: ApiSpec, id: str, arrived_at: float, probe_of: Identity | None = None
    ) -> None:
        self.client = client
        self.spec = spec
        self.id = id
        self.arrived_at = arrived_at
        self.probe_of = probe_of
        self.tenant: Tenant | None = None
        self.key = ""
        self.model: ServedModel | None = None
        self.measured: Measured | None = None
        self.grant: LimitGrant | None = None
        self.hides_usage = False
        self.resume: Resumable | None = None
        self.ticket: Ticket | None = None
        self.answer: Answer | None = None
        self.status = 0
        self.error_code: str | None = None
        self.error_source: str | None = None
        self.turned_away: TurnedAway | None = None
        self.broken_off = False
        self.finish_reason: str | None = None
        self.first_byte_at: float | None = None
        self.usage: Usage | None = None
        self.fields: Fields | None = None
        self.sampled = False
        self.system_fingerprint: str | None = None
        self.attempts = 0
        self.resumes = 0
        self.tried: set[str] = set()
        self.sent_at = 0.0
        self.refused = 0
        self.claim: Callable[[Call], bool] | None = None
        self.heartbeat: Heartbeat | None = None
        self.degraded: Detour | None = None
        self.guard: TenantGuard | None = None
        self.verdicts: list[Verdict] = []
        self.cache: CacheUse | None = None
        self.copy: AnswerCopy | None = None
        self.charged: tuple[int, int] | None = None
        self.trace: Trace | None = None

    @property
    def trace_headers(self) -> list[Header] | None:
        """The trace context for engines; None where the client's own passes."""
        return self.trace.headers if self.trace is not None else None

    @property
    def request(self) -> InferenceRequest:
        """The request as policies see it; only once it is measured."""
        assert self.measured is not None  # noqa: S101  # the line measures before it asks
        return self.measured.request

    @property
    def named(self) -> dict[str, str]:
        """What a line of the log about it says beside its message."""
        return {"request_id": self.id, **({"tenant": self.tenant.id} if self.tenant is not None else {})}

    @property
    def fingerprint(self) -> bytes | None:
        """What the chosen endpoint's last stream taught `router.wire.stream_usage`."""
        if self.model is None or self.ticket is None:
            return None
        return self.model.fingerprints.get(self.ticket.endpoint)

    def learn_fingerprint(self, fingerprint: bytes) -> None:
        """Keeps it for the next stream from this endpoint."""
        if self.model is not None and self.ticket is not None:
            self.model.fingerprints[self.ticket.endpoint] = fingerprint

    def copied(self, answer: EngineAnswer) -> EngineAnswer:
        """The same, seen by the cache where it may be kept."""
        if self.cache is None or self.cache.age is None or answer.status != 200:
            return answer
        self.copy = AnswerCopy(answer, self.cache.longest)
        return self.copy

    @property
    def reused(self) -> Use | None:
        """What an answer from the cache counts; None where the client got none from there."""
        if self.cache is None or not self.cache.hit:
            return None
        usage = self.usage or Usage(self.request.prompt_tokens, None, None)
        return self.cache.billed(Use(usage.prompt_tokens or 0, usage.completion_tokens or 0, usage.cached_tokens or 0))

    def wins(self) -> bool:
        """Whether the client gets the answer to this copy of the request."""
        return self.claim is None or self.claim(self)

    def twin(self, ticket: Ticket) -> Call:
        """A copy of the request for another endpoint: of one client, and with its own answer."""
        twin = Call(self.client, self.spec, self.id, self.arrived_at, self.probe_of)
        for name in _SHARED:
            setattr(twin, name, getattr(self, name))
        twin.ticket = ticket
        return twin

    def adopt(self, twin: Call) -> None:
        """The client got the twin's answer: what is known of it is known of the request."""
        self.ticket, self.answer, self.status = twin.ticket, twin.answer, twin.status
        self.copy = twin.copy
        self.finish_reason, self.system_fingerprint = twin.finish_reason, twin.system_fingerprint
        self.first_byte_at, self.usage, self.refused, self.sent_at = (
            twin.first_byte_at, twin.usage, twin.refused, twin.sent_at
        )  # fmt: skip

    def outcome(self, now: float) -> Outcome:
        """What an attempt showed of its endpoint when the engine answered."""
        usage = self.usage or _NO_USAGE
        # Of several prompts vLLM reports what it had cached of one.
        several = self.measured is not None and self.measured.prompts > 1
        return Outcome(
            status=self.refused or self.status,
            started=self.client.started,
            ttft_seconds=None if self.first_byte_at is None else self.first_byte_at - self.arrived_at,
            total_seconds=now - self.arrived_at,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=None if several else usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
        )

    def failure(self, error: EngineError, now: float) -> Outcome:
        """What an attempt showed of its endpoint when it failed."""
        status = error.engine_status if isinstance(error, EngineStatus) else 0
        return Outcome(
            status=status, failure=error.cause, started=self.client.started, total_seconds=now - self.arrived_at
        )

    def count(self, metrics: Metrics, now: float) -> None:
        """Adds the finished request to the metrics. Labels are bounded: names come from the configuration."""
        tenant = self.tenant.id if self.tenant is not None else ""
        labels = (tenant, self.spec.name, self.measured.request.lane.value if self.measured is not None else "")
        metrics.add("promptlane_requests", *labels, str(self.status))
        trace = self.trace.id if self.trace is not None and self.trace.sampled else None
        metrics.observe("promptlane_request_seconds", now - self.arrived_at, *labels, trace=trace)
        if self.error_code is not None:
            metrics.add("promptlane_rejections", tenant, self.error_code)
        if self.first_byte_at is not None:
            metrics.observe("promptlane_first_byte_seconds", self.first_byte_at - self.arrived_at, *labels, trace=trace)
        if self.charged is not None and self.model is not None:
            metrics.add("promptlane_cost_micro_usd", tenant, self.model.route.name, amount=self.charged[1])
        if self.turned_away in ("full", "deadline") and self.model is not None:
            metrics.add("promptlane_queue_refusals", self.model.pool.name, labels[-1], self.turned_away)
        if self.tenant is not None and self.tenant.tier.slo is not None:
            self._count_objectives(metrics, self.tenant.id, self.tenant.tier.slo, now)
        if self.ticket is not None and self.model is not None:
            self._count_engine_work(metrics, self.ticket, self.model)
            if self.first_byte_at is not None and self.streams:
                self._count_pace(metrics, self.ticket, self.model.pool.name, self.first_byte_at, now)

    @property
    def streams(self) -> bool:
        """Whether its answer is asked for as a stream."""
        return self.measured is not None and self.measured.request.stream

    def _count_objectives(self, metrics: Metrics, tenant: str, slo: Slo, now: float) -> None:
        refused = self.refused > 0 or (self.error_code is None and self.status >= 400)  # by an engine, as wrong
        exempt = refused or self.turned_away in ("limit", "rule") or self.error_source == "client"
        end = ending(left=self.status == CLIENT_CLOSED, exempt=exempt, failed=self.error_code is not None)
        first_byte = None if self.first_byte_at is None else self.first_byte_at - self.arrived_at
        timed = self.streams and self.request.lane is not Lane.BATCH
        for objective, good in judge(slo, end, timed=timed, first_byte=first_byte, total=now - self.arrived_at):
            metrics.add("promptlane_slo_requests", tenant, objective, "good" if good else "bad")

    def _count_pace(self, metrics: Metrics, ticket: Ticket, pool: str, first_byte_at: float, now: float) -> None:
        """Of a stream that has begun: how well its beginning was predicted, and how fast its tokens came."""
        tokens = self.usage.completion_tokens if self.usage is not None else None
        if tokens is not None and tokens > 1 and self.request.choices == 1:
            lane = self.request.lane.value
            pace = (now - first_byte_at) / (tokens - 1)
            metrics.observe("promptlane_output_token_seconds", pace, self.request.tenant, self.spec.name, lane)
        if self.resumes == 0 and self.status == 200:
            predicted, real = ticket.choice.ttft_seconds, first_byte_at - self.sent_at
            metrics.add("promptlane_forecast_seconds", pool, ticket.endpoint, "predicted", amount=predicted)
            metrics.add("promptlane_forecast_seconds", pool, ticket.endpoint, "real", amount=real)
            metrics.observe("promptlane_forecast_error_seconds", abs(predicted - real), pool)

    def _count_engine_work(self, metrics: Metrics, ticket: Ticket, model: ServedModel) -> None:
        pool, usage = model.pool.name, self.usage or _NO_USAGE
        if (reason := self._blindness()) is not None:
            metrics.add("promptlane_affinity_blind", pool, self.spec.name, reason)
        metrics.observe("promptlane_queue_seconds", ticket.queued_seconds, pool, self.request.lane.value)
        if usage.cached_tokens is not None and self.measured is not None and self.measured.prompts == 1:
            predicted = ticket.choice.cached_tokens
            metrics.add("promptlane_cached_tokens", pool, ticket.endpoint, "predicted", amount=predicted)
            metrics.add("promptlane_cached_tokens", pool, ticket.endpoint, "reported", amount=usage.cached_tokens)
        names = (self.request.tenant, model.route.name)
        if usage.prompt_tokens is not None:
            metrics.add("promptlane_prompt_tokens", *names, amount=usage.prompt_tokens)
        if usage.cached_tokens is not None:
            metrics.add("promptlane_cached_prompt_tokens", *names, amount=usage.cached_tokens)
        if usage.completion_tokens is not None:
            metrics.add("promptlane_completion_tokens", *names, amount=usage.completion_tokens)

    def _blindness(self) -> str | None:
        """Why affinity could know nothing of this prompt: it has no prefix block. None where it could, or where the
        engine's cache plays no part, as without output nothing is prefilled for later."""
        measured = self.measured
        if measured is None or measured.request.prefix_blocks or not self.spec.output_fields:
            return None
        return "short" if measured.text_bytes or measured.extra_tokens else "no_prompt"
