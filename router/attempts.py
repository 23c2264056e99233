"""From a request to the answer of one endpoint: attempts, and what follows when one fails or is late.

Floor: an adapter between the straight line, pools and engines. It waits; whether an attempt is repeated, when, and
when a second copy is sent is decided in `policies`. Nothing is tried again once a byte has reached the client, except
a stream that can be continued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from policies.hedge import HedgePolicy
from policies.retry import Verdict, reached
from policies.types import Outcome
from router.calls import Call
from router.degraded import degraded_body, nobody_instead
from router.errors import ContentBlocked, EngineError, EngineStatus, GuardUnavailable, NoEndpoint
from router.heartbeat import Heartbeat
from router.hedging import Race
from router.keeper import Detour
from router.metrics import Metrics
from router.pools import Pool
from router.relay import WHOLE_BYTES, Answer
from router.resume import go_on
from router.tickets import Ticket
from router.wire.http import PRIORITY_HEADER, SESSION_HEADER, Header, request_headers, response_headers
from router.wire.openai import with_priority

Sleep = Callable[[float], Awaitable[None]]


class Attempts:
    """What all requests of a gateway use. `headers`: the gateway's own, for an answer; `clock`: monotonic seconds."""

    __slots__ = ("clock", "headers", "metrics", "sleep")

    def __init__(
        self,
        clock: Callable[[], float],
        metrics: Metrics,
        headers: Callable[[Call], list[Header]],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.clock = clock
        self.metrics = metrics
        self.headers = headers
        self.sleep = sleep

    def forward(self, call: Call, pool: Pool, body: bytes) -> Awaitable[None]:
        """Answers the client, by whichever endpoint can. Raises GatewayError: for an answer that has not begun, what to
        tell the client; for a stream that has, why it ends here."""
        return _Forwarding(self, call, pool, body).run()


class _Forwarding:
    """One request on its way."""

    __slots__ = (
        "_body",
        "_call",
        "_common",
        "_failed",
        "_failed_by_all_at",
        "_pool",
        "_reached",
        "_retries",
        "_rounds",
    )

    def __init__(self, common: Attempts, call: Call, pool: Pool, body: bytes) -> None:
        self._common = common
        self._call = call
        self._pool = pool
        self._body = body
        self._failed: EngineError | None = None  # what the last attempt failed of
        self._failed_by_all_at: float | None = None
        self._reached = self._retries = self._rounds = 0

    async def run(self) -> None:
        self._pool.attempts.retry.budget.note(self._common.clock())
        while True:
            self._call.ticket = await self._dispatch()
            self._call.attempts += 1
            if self._pool.mirror is not None:
                self._pool.mirror.offer(self._call.spec, self._call.request, self._body)
            try:
                if self._pool.attempts.hedge is None:
                    await self._attempt(self._call)
                else:
                    await self._answer(self._pool.attempts.hedge)
                return
            except EngineError as error:
                self._failed = error
            if self._call.client.started:
                await self._go_on(self._failed)
                return
            await self._again(self._failed)

    # -- before an attempt -------------------------------------------------------------------------------------------

    async def _dispatch(self) -> Ticket:
        """Waits for an endpoint that has not failed this request, or, when all have, for one of them to come back."""
        while True:
            try:
                return await self._ask()
            except NoEndpoint:
                if self._failed is None:
                    raise
                await self._wait_for_return(self._failed)
            except Detour as detour:
                self._body, self._pool = degraded_body(self._call, detour, self._body), detour.pool

    async def _ask(self) -> Ticket:
        """Whoever waits for a standby meanwhile hears that somebody is there. Raises Detour."""
        call = self._call
        hold = self._hold if call.request.stream and call.spec.output_fields else None
        try:
            ticket = await self._pool.dispatch(call.request, frozenset(call.tried), hold)
        except Detour as detour:
            if call.degraded is None:
                raise
            raise nobody_instead() from detour
        finally:
            if call.heartbeat is not None:
                call.heartbeat.end()
                call.heartbeat = None
        if call.degraded is not None:
            ticket.watcher = call.degraded.watcher
        return ticket

    def _hold(self, seconds: float) -> None:
        call = self._call
        if call.heartbeat is None:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), *self._common.headers(call)]
            call.heartbeat = Heartbeat(call.client, headers, seconds, call.id)

    async def _wait_for_return(self, failed: EngineError) -> None:
        """Raises what went wrong when the wait is over: it says more than that nobody is left to try."""
        now = self._common.clock()
        if self._failed_by_all_at is None:
            self._failed_by_all_at = now
        retry, deadline = self._pool.attempts.retry, self._call.request.deadline
        delay = retry.return_delay(self._rounds, self._failed_by_all_at, now, deadline)
        if delay is None:
            raise failed from None
        self._rounds += 1
        await self._common.sleep(delay)
        self._call.tried.clear()

    # -- after a failed one ------------------------------------------------------------------------------------------

    async def _again(self, failed: EngineError) -> None:
        """Returns when another attempt is due. Raises the failure when there is none."""
        now, retry, metrics = self._common.clock(), self._pool.attempts.retry, self._common.metrics
        outcome = self._call.failure(failed, now)
        self._reached += reached(outcome)
        delay = retry.delay(self._retries)
        verdict = retry.judge(outcome, self._reached, now, delay, self._call.request.deadline)
        if verdict is Verdict.OVERDRAWN:
            metrics.add("promptlane_retry_budget_exhausted", self._pool.name)
            failed.final = True  # an SDK that tries again by itself would do what the budget is there to prevent
        if verdict is not Verdict.RETRY:
            raise failed
        metrics.add("promptlane_retries", self._pool.name, failed.cause.value)
        self._retries += reached(outcome)
        if delay:
            await self._common.sleep(delay)

    async def _go_on(self, failed: EngineError) -> None:
        """The client has begun to read: only an answer that goes on where it broke is of use to it."""
        if self._call.resume is None:
            raise failed
        await go_on(self._call, self._pool, failed, self._body, self._common.clock, self._common.metrics)

    # -- an attempt --------------------------------------------------------------------------------------------------

    async def _answer(self, hedge: HedgePolicy) -> None:
        """By the endpoint of the call's ticket, or by another that is faster where that is allowed."""
        call = self._call
        if self._failed is not None or not hedge.covers(call.request):
            await self._attempt(call)
            return
        after = hedge.after(self._common.clock())
        if after is None:
            await self._attempt(call)
            hedge.observe((call.first_byte_at or self._common.clock()) - call.sent_at)
        else:
            await self._race(hedge, after)

    async def _race(self, hedge: HedgePolicy, after: float) -> None:
        call, race = self._call, Race(self._call.id)
        call.claim = race.claim
        try:
            race.start(call, self._attempt(call))
            if await race.is_late(after) and (ticket := self._spare(hedge)) is not None:
                twin = call.twin(ticket)
                call.attempts += 1
                race.start(twin, self._attempt(twin))
            await race.over()
        finally:
            await race.stop()
            self._note_race(hedge, race)

    def _spare(self, hedge: HedgePolicy) -> Ticket | None:
        """A seat for the second copy, if one is free and the share allows it."""
        call, now = self._call, self._common.clock()
        assert call.ticket is not None  # noqa: S101  # the first copy is under way
        ticket = (
            self._pool.spare(call.request, frozenset({*call.tried, call.ticket.endpoint})) if hedge.left(now) else None
        )
        if ticket is None:
            self._common.metrics.add("promptlane_hedges", self._pool.name, "nowhere" if hedge.left(now) else "refused")
        else:
            hedge.sent(now)
        return ticket

    def _note_race(self, hedge: HedgePolicy, race: Race) -> None:
        call = self._call
        call.claim = None
        ended = race.winner.first_byte_at if race.winner is not None else None  # which ended the other copy
        for copy in race.copies:
            if (seen := copy.first_byte_at or ended) is not None:
                hedge.observe(seen - copy.sent_at)
        if len(race.copies) > 1:
            result = "failed" if race.winner is None else "lost" if race.winner is call else "won"
            self._common.metrics.add("promptlane_hedges", self._pool.name, result)
        if race.winner is not None and race.winner is not call:
            call.adopt(race.winner)
            race.winner.answer = None  # it refers back

    async def _attempt(self, call: Call) -> None:
        """One attempt at the endpoint of the call's ticket, which is settled exactly once."""
        ticket = call.ticket
        assert ticket is not None  # noqa: S101  # an attempt begins with a dispatch
        try:
            await self._exchange(call, ticket)
            ticket.settle(call.outcome(self._common.clock()))
        except EngineError as error:
            ticket.settle(self._note_failure(call, ticket, error))
            raise
        except (ContentBlocked, GuardUnavailable):  # the engine has done its part
            ticket.settle(call.outcome(self._common.clock()))
            raise
        finally:
            ticket.settle(None)  # where it was not: nothing was learned of the endpoint

    def _note_failure(self, call: Call, ticket: Ticket, error: EngineError) -> Outcome:
        call.tried.add(ticket.endpoint)
        now = self._common.clock()
        self._common.metrics.add("promptlane_attempt_failures", self._pool.name, ticket.endpoint, error.cause.value)
        if call.trace is not None:
            call.trace.event("attempt failed", now, endpoint=ticket.endpoint, cause=error.cause.value)
        return call.failure(error, now)

    async def _exchange(self, call: Call, ticket: Ticket) -> None:
        common, policy, body = self._common, self._pool.attempts, self._body
        headers = request_headers(call.client.raw_headers, call.id.encode(), call.trace_headers)
        if ticket.priority is not None:  # by header as well: `/v1/messages` has no such field
            headers.append((PRIORITY_HEADER, b"%d" % ticket.priority))
            body = with_priority(body, ticket.priority)
        if ticket.session is not None:
            headers.append((SESSION_HEADER, ticket.session.encode()))
        call.sent_at = common.clock()
        limit = policy.first_byte.seconds(call.request, ticket.choice.ttft_seconds)
        response = await ticket.upstream.send(b"POST", call.spec.path.encode(), headers, body, first_byte=limit)
        try:
            if response.status >= 500:
                raise EngineStatus(response.status, response.headers, await response.read(WHOLE_BYTES))
            call.status = response.status
            call.answer = Answer(call, call.copied(response), common.clock, policy.hold_back)
            await call.answer.pass_on([*response_headers(response.headers), *common.headers(call)])
        finally:
            response.abort()
