"""A stream that its engine broke off goes on at another endpoint: the client sees one stream.

Floor: an adapter; whether and how a stream may go on is asked of `policies.resume`, what goes over the wire is in
`router.wire.token_tap` and `router.wire.continuation`. Who does not have resume in its tier pays for none of it.

    broken -> may it go on? -> dispatch elsewhere -> ask for what is missing -> relay -> whole
                 |                    |                         |                |
                 +---- declined ------+------- no endpoint      +--- failed: from the top, from where it now stands
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from policies.resume import Way, hindrance, may_go_on, tokens_left, way
from policies.types import InferenceRequest, Outcome, Tenant
from router.calls import Call
from router.engine_line import ANSWER_BYTES, EngineLine
from router.errors import (
    EngineDiverged,
    EngineError,
    EngineStatus,
    GatewayError,
    NoEndpoint,
    StreamInterrupted,
    TotalTimeout,
)
from router.keeper import Detour
from router.metrics import Metrics
from router.pools import Pool
from router.relay import Answer
from router.tickets import Ticket
from router.wire.continuation import (
    COMPLETIONS,
    Continuation,
    Request,
    ending,
    judged_fields,
    said_usage,
    seam_of,
)
from router.wire.held_back import Seam
from router.wire.openai import Body, asks_usage
from router.wire.progress import Progress
from router.wire.token_tap import TokenTap, tap
from router.wire.usage import Usage

_log = logging.getLogger("promptlane.resume")


class Resumable:
    """A request whose stream may go on elsewhere. How far a stream is, its own answer knows: there may be several."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request

    def tap(self) -> TokenTap:
        """For a stream that begins."""
        return tap(Progress(keeps_text=self.request.media, stops=self.request.stops), self.request.api)


def resumable(call: Call, tenant: Tenant, body: Body, engine_model: str) -> Resumable | None:
    """None where the tier does not have it, or the request is not one whose stream another engine could continue."""
    if not tenant.tier.resume or not body.stream or not call.spec.usage_on_request:
        return None
    measured, fields = call.measured, judged_fields(body.fields)
    if measured is None or measured.prompts > 1 or not (body.hides_usage or asks_usage(body.fields)):
        return None
    media = call.spec.name == "chat" and measured.extra_tokens > 0
    if hindrance(fields) is not None or (media and "continue_final_message" in fields):
        return None
    return Resumable(Request(call.spec.name, body, engine_model, tenant.cache_salt, media=media))


async def go_on(
    call: Call, pool: Pool, error: EngineError, body: bytes, clock: Callable[[], float], metrics: Metrics
) -> None:
    """Brings a stream that broke with `error` to its end. `body`: what engines get to begin it.

    Raises StreamInterrupted where that cannot be done; the client then has whole events, and all tokens once.
    """
    answer, resume = call.answer, call.resume
    if resume is None or answer is None or answer.progress is None:
        raise error
    try:
        await _Resumer(call, answer, answer.progress, pool, resume.request, body, clock, metrics).run(error)
    except StreamInterrupted:
        await answer.give_up()
        if call.usage is None:
            call.usage = said_usage(answer.progress)
        raise


class _Resumer:
    def __init__(
        self,
        call: Call,
        answer: Answer,
        progress: Progress,
        pool: Pool,
        request: Request,
        body: bytes,
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._progress = progress
        self._call = call
        self._answer = answer
        self._pool = pool
        self._body = body
        self._clock = clock
        self._metrics = metrics
        self._request = request
        self._way = Way.AGAIN
        self._seam = Seam(0)
        self._failed_at = 0.0

    async def run(self, error: EngineError) -> None:
        progress, failures, resumes = self._progress, 0, 0
        while True:
            self._failed_at = self._clock()
            failures += 1
            seam = seam_of(progress)
            self._seam = seam or Seam(0)
            self._way = way(said=self._seam.ids, media=self._request.media)
            if self._is_whole():
                await self._answer.end_with(ending(progress, self._request.api, self._call.fingerprint or b""))
                return self._count("complete")
            status = error.engine_status if isinstance(error, EngineStatus) else 0
            if seam is None or self._cannot(error) or not may_go_on(error.cause, status, failures, resumes):
                self._decline()
            resumes += 1
            before = progress.last
            failed = await self._attempt()
            if failed is None:
                return None
            error = failed
            if progress.last is not before:  # that one brought something: who failed before it may be back
                failures, self._call.tried = 0, set()
            if self._call.ticket is not None:
                self._call.tried.add(self._call.ticket.endpoint)

    def _is_whole(self) -> bool:
        progress = self._progress
        if progress.lost or not progress.prompt:
            return False
        if progress.held is not None:  # the end lets go of what is held back
            return progress.finished
        return progress.finished or tokens_left(self._request.bound, progress.said, 0, None) == 0

    def _cannot(self, error: EngineError) -> bool:
        progress = self._progress
        tells = progress.prompt or self._way is Way.AGAIN
        return bool(progress.lost or not tells or isinstance(error, TotalTimeout))

    async def _attempt(self) -> EngineError | None:
        """One continuation at one endpoint; what it failed with. Raises StreamInterrupted where none may be had."""
        call, before = self._call, self._progress.last
        try:
            ticket = call.ticket = await self._dispatch()
        except (GatewayError, Detour) as nobody:
            self._count("no_endpoint")
            raise StreamInterrupted.for_good() from nobody
        call.attempts += 1
        self._answer.token_at = None
        outcome: Outcome | None = None
        try:
            outcome = await self._relay(ticket)
            self._count("ok")
            return None
        except EngineDiverged as error:
            self._count("diverged")
            return error
        except EngineError as error:
            outcome = replace(call.failure(error, self._clock()), started=self._progress.last is not before)
            self._count("failed")
            return error
        finally:
            ticket.settle(outcome)
            whole = outcome is not None and outcome.failure is None
            if whole or self._progress.last is not before:  # one that its client left, or that broke, has been seen too
                call.resumes += 1
            if self._answer.token_at is not None:
                pause = self._answer.token_at - self._failed_at
                self._metrics.observe("promptlane_resume_seconds", pause, self._pool.name)

    async def _dispatch(self) -> Ticket:
        """To one that has not failed since the last progress; where there is none, to one that may be back, the last
        to fail last of all: a broken connection is not always a broken engine."""
        request, last = self._continued(), self._call.ticket
        failed = frozenset({last.endpoint} if last is not None else ())
        for excluded in (frozenset(self._call.tried), failed):
            with suppress(NoEndpoint):
                return await self._pool.dispatch(request, excluded)
        return await self._pool.dispatch(request)

    def _continued(self) -> InferenceRequest:
        """The continuation as policies see it: what was said is prompt now. It waits as long as a new one may, and
        goes before those that came after the request that it continues."""
        request, progress, said = self._call.request, self._progress, self._seam.ids
        return replace(
            request,
            prompt_tokens=(progress.prompt_tokens or request.prompt_tokens) + said,
            max_output_tokens=max(1, request.max_output_tokens - said),
            deadline=self._clock() + request.deadline - request.arrived_at,
        )

    async def _relay(self, ticket: Ticket) -> Outcome:
        sent_at = self._clock()
        line = EngineLine(self._call, ticket)
        response = await line.send(b"POST", *await self._question(line))
        try:
            if response.status != 200:
                raise EngineStatus(response.status, response.headers, await response.read(ANSWER_BYTES))
            front = self._front()
            said = self._seam.ids
            names = (self._call.id, ticket.endpoint, self._way, said)
            _log.info("request %s goes on at %s by %s: %d tokens said", *names, extra=self._call.named)
            await self._answer.go_on(response, front)
        finally:
            response.abort()
        usage = (front.reported if isinstance(front, Continuation) else self._call.usage) or Usage(None, None, None)
        return Outcome(
            status=response.status,
            started=True,
            ttft_seconds=response.first_byte_at - sent_at,
            total_seconds=self._clock() - sent_at,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
        )

    def _front(self) -> TokenTap:
        progress, api = self._progress, self._request.api
        if not progress.head:  # not even a role is out
            return tap(progress, api)
        return Continuation(progress, api, self._seam, reshapes=self._way is Way.TOKENS and api == "chat")

    async def _question(self, line: EngineLine) -> tuple[bytes, bytes]:
        """Path and body of the request for what is missing."""
        progress, seam, request, path = self._progress, self._seam, self._request, self._call.spec.path.encode()
        if self._way is Way.AGAIN:
            return path, self._body
        if self._way is Way.TEXT:
            return path, request.by_text(progress, seam, tokens_left(request.bound, seam.ids, 0, None))
        if seam.several:
            unfinished = await line.unfinished(request.model, progress.ids[: seam.ids])
            if unfinished is None:
                self._decline()
            self._seam = seam = seam._replace(ids=seam.ids - unfinished)
        context = await line.context(request.model) if request.bound is None else None
        left = tokens_left(request.bound, seam.ids, progress.prompt_tokens, context)
        if left is None:
            self._decline()
        return COMPLETIONS, request.by_tokens(progress, seam, left)

    def _decline(self) -> NoReturn:
        self._count("declined")
        raise StreamInterrupted.for_good()

    def _count(self, result: str) -> None:
        self._metrics.add("promptlane_resumes", self._pool.name, self._way.value, result)
