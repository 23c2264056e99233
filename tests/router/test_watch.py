"""A watcher beside real sockets: who is silent, what a canary finds, and what becomes of the requests there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from policies.endpoint_state import EndpointState
from policies.health import Cause
from policies.silence import WARMED_UP
from policies.types import Endpoint
from router.errors import EngineHung
from router.metrics import Metrics
from router.pools import Place, Pool
from router.probe import Prober
from router.response import Response
from router.tickets import Ticket
from router.upstream import Timeouts, Upstream
from tests.policies.builders import make_request
from tests.router.builders import make_pool
from tests.router.stack import whole
from tests.router.test_probe import NOT_FOUND, SETTINGS, Engine, until

CANARY = "/v1/completions"
CHAT = "/v1/chat/completions"
VECTORS = "/v1/embeddings"
EMBED = "/pooling"  # of a client; at another path than the canary's, so that each has its own answer
COMPLETION = b'{"choices":[{"index":0,"text":"2","finish_reason":"length"}]}'
PATIENT = Timeouts(30.0, 30.0, 30.0, 60.0)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FAST = 0.01  # seconds that first tokens took until now


@dataclass
class Fleet:
    """Engines, the pool of them and its prober, which runs."""

    engines: list[Engine]
    pool: Pool
    prober: Prober
    metrics: Metrics

    @property
    def place(self) -> Place:
        return self.pool.places[0]

    @property
    def state(self) -> EndpointState:
        return self.place.state

    def status(self) -> str:
        return self.state.status(self.pool.clock())

    def ejections(self, cause: Cause = Cause.HUNG) -> float:
        labels = {"pool": "p", "endpoint": "e0", "cause": cause.value}
        return self.metrics.registry.get_sample_value("promptlane_endpoint_ejections_total", labels) or 0.0

    def canaries(self, result: str) -> float:
        labels = {"pool": "p", "endpoint": "e0", "result": result}
        return self.metrics.registry.get_sample_value("promptlane_canaries_total", labels) or 0.0

    async def send(self) -> tuple[Ticket, asyncio.Task[Response]]:
        """A stream to the first endpoint, whose answer is whatever the engine has for a chat."""
        ticket = await self.pool.dispatch(make_request(blocks=()), frozenset({"e1"}))
        send = self.place.upstream.send(b"POST", CHAT.encode(), [], b"{}")
        return ticket, asyncio.create_task(send)


async def begin(count: int, *, first: float = FAST, **settings: object) -> Fleet:
    engines = [Engine() for _ in range(count)]
    for engine in engines:
        await engine.start()
        engine.answers |= {CANARY: whole(COMPLETION), CHAT: None}
    states = [EndpointState(Endpoint(f"e{i}", f"http://127.0.0.1:{one.port}")) for i, one in enumerate(engines)]
    pool = make_pool(states, clock=asyncio.get_running_loop().time)
    pool.places = tuple(Place(state, Upstream(state.endpoint.url, timeouts=PATIENT)) for state in states)
    metrics = Metrics()
    prober = Prober(pool, replace(SETTINGS, engine_models=("tiny",), **settings), metrics)
    for place in pool.places:
        await prober.probe(place)
        for _ in range(40):
            place.state.silence.firsts.learn(first)
    prober.start()
    return Fleet(engines, pool, prober, metrics)


async def end(fleet: Fleet) -> None:
    await fleet.prober.stop()
    for place in fleet.pool.places:
        place.upstream.abandon(EngineHung("The test is over."))
        place.upstream.close()
    for engine in fleet.engines:
        engine.stop()
    await asyncio.sleep(0.02)


@pytest.fixture
async def two() -> AsyncIterator[Fleet]:
    fleet = await begin(2)
    yield fleet
    await end(fleet)


@pytest.fixture
async def one() -> AsyncIterator[Fleet]:
    fleet = await begin(1)
    yield fleet
    await end(fleet)


async def test_a_silent_engine_is_ejected_relieved_of_its_work_and_comes_back_by_a_canary(two: Fleet) -> None:
    two.engines[0].answers[CANARY] = None
    two.state.health.slow_start.seconds = 1000.0
    ticket, sent = await two.send()
    with pytest.raises(EngineHung):
        await sent
    assert two.state.health.cause is Cause.HUNG
    assert two.status() == "hung"
    assert not two.place.available(two.pool.clock())
    assert two.ejections() == 1
    ticket.settle(None)
    await until(lambda: two.status() == "half-open")
    two.engines[0].answers[CANARY] = whole(COMPLETION)
    await until(lambda: two.status() == "starting")
    assert two.place.available(two.pool.clock())
    assert two.state.in_flight == 0


async def test_an_engine_that_has_answered_little_is_found_to_hang_by_what_the_pools_others_take(two: Fleet) -> None:
    silence = two.state.silence
    silence.forget()
    for _ in range(WARMED_UP):
        silence.firsts.learn(FAST)
    assert silence.first_token_seconds == two.pool.states[1].silence.first_token_seconds < 2 * FAST
    two.engines[0].answers[CANARY] = None
    ticket, sent = await two.send()
    with pytest.raises(EngineHung):
        await sent
    ticket.settle(None)


async def test_a_canary_that_is_answered_clears_the_suspicion_and_nothing_is_taken_away(two: Fleet) -> None:
    ticket, sent = await two.send()
    await until(lambda: two.canaries("good") >= 2)
    assert not sent.done()
    assert two.ejections() == 0
    assert two.engines[0].asked.count("/is_paused") == 0
    body = json.loads(two.engines[0].bodies[two.engines[0].asked.index(CANARY)])
    assert (body["model"], body["max_tokens"], len(body["cache_salt"])) == ("tiny", 1, 32)
    salts = {found["cache_salt"] for found in map(json.loads, filter(None, two.engines[0].bodies)) if found}
    assert len(salts) == two.engines[0].asked.count(CANARY), "a salt of its own for each"
    sent.cancel()
    ticket.settle(None)
    await until(lambda: two.status() == "healthy")


async def test_figures_that_move_prove_that_an_engine_works_however_long_the_canary_waits(two: Fleet) -> None:
    engine, pages = two.engines[0], iter(range(1_000_000))
    engine.answers[CANARY] = None
    ticket, sent = await two.send()

    def moves() -> bool:
        engine.answers["/metrics"] = whole(b"vllm:prompt_tokens_total %d\n" % next(pages))
        return two.canaries("bad") + engine.asked.count(CANARY) >= 3

    await until(moves)
    assert not sent.done()
    assert two.ejections() == 0
    sent.cancel()
    ticket.settle(None)


async def test_a_pools_only_endpoint_is_not_ejected_and_is_asked_with_growing_pauses(one: Fleet) -> None:
    one.engines[0].answers[CANARY] = None
    ticket, sent = await one.send()
    await until(lambda: one.canaries("bad") >= 1 or one.engines[0].asked.count("/is_paused") >= 1)
    assert one.status() == "suspected"
    assert one.place.available(one.pool.clock())
    assert not sent.done()
    one.engines[0].answers[CHAT] = whole(b"{}")
    assert (await sent).status == 200
    ticket.first_token()
    ticket.settle(None)
    await until(lambda: one.status() == "healthy")
    assert one.ejections() == 0


async def test_an_engine_that_was_found_to_hang_is_ejected_as_soon_as_another_can_take_its_work(two: Fleet) -> None:
    other = two.pool.places[1].state.health
    two.engines[1].answers["/health"] = whole(b"", b"503 Service Unavailable")
    await until(lambda: not other.reachable)
    two.engines[0].answers[CANARY] = None
    ticket, sent = await two.send()
    await until(lambda: two.engines[0].asked.count("/is_paused") >= 1)
    assert not sent.done()
    two.engines[1].answers["/health"] = whole(b"")
    with pytest.raises(EngineHung):
        await sent
    ticket.settle(None)


async def test_a_paused_engine_is_called_so(two: Fleet) -> None:
    two.engines[0].answers |= {CANARY: None, "/is_paused": whole(b'{"is_paused":true}')}
    ticket, sent = await two.send()
    with pytest.raises(EngineHung):
        await sent
    ticket.settle(None)
    await until(lambda: two.status() == "paused")
    two.engines[0].answers |= {CANARY: whole(COMPLETION), "/is_paused": whole(b'{"is_paused":false}')}
    await until(lambda: two.status() == "healthy")


async def test_an_engine_of_embeddings_is_found_to_hang_though_it_has_been_suspected_before(two: Fleet) -> None:
    """It has no completions to be asked for; its own kind of request shows whether it computes."""
    engine = two.engines[0]
    engine.answers |= {CANARY: NOT_FOUND, VECTORS: whole(b'{"data":[{"index":0,"embedding":[0.5]}]}'), EMBED: None}
    request = replace(make_request(blocks=(), max_output_tokens=0), stream=False)
    ticket = await two.pool.dispatch(request, frozenset({"e1"}))
    sent = asyncio.create_task(two.place.upstream.send(b"POST", EMBED.encode(), [], b"{}"))
    await until(lambda: two.canaries("good") >= 1)
    assert two.ejections() == 0
    engine.answers[VECTORS] = None
    with pytest.raises(EngineHung):
        await sent
    assert two.ejections() == 1
    ticket.settle(None)
    engine.answers[VECTORS] = whole(b'{"data":[{"index":0,"embedding":[0.5]}]}')
    await until(lambda: two.status() == "healthy")


async def test_an_engine_that_can_be_asked_for_nothing_is_left_alone_and_tried_with_a_request(two: Fleet) -> None:
    two.engines[0].answers[CANARY] = NOT_FOUND
    ticket, sent = await two.send()
    await until(lambda: two.canaries("cannot") == 1)
    await until(lambda: two.status() == "healthy")
    assert not sent.done()
    sent.cancel()
    ticket.settle(None)
    assert two.state.health.eject(Cause.FAILURES, two.pool.clock())
    await until(lambda: two.place.available(two.pool.clock()))
    assert two.canaries("cannot") == 1
    assert two.status() == "half-open"


async def test_a_stream_that_stops_in_the_middle_is_noticed(two: Fleet) -> None:
    ticket, sent = await two.send()
    two.engines[0].answers[CHAT] = STREAM + b"5\r\nhello\r\n"
    response = await sent
    ticket.first_token()
    reading = asyncio.create_task(response.relay(lambda _: None))
    await until(lambda: two.engines[0].asked.count(CANARY) >= 1)
    assert not reading.done(), "it was answered"
    two.engines[0].answers[CANARY] = None
    with pytest.raises(EngineHung):
        await reading
    ticket.settle(None)


async def test_whoever_is_not_to_detect_hung_engines_sends_no_canary() -> None:
    fleet = await begin(2, detect_hung=False)
    fleet.engines[0].answers[CANARY] = None
    ticket, sent = await fleet.send()
    seen = len(fleet.engines[0].asked)
    await until(lambda: len(fleet.engines[0].asked) > seen + 20)
    assert CANARY not in fleet.engines[0].asked
    sent.cancel()
    ticket.settle(None)
    await end(fleet)


async def test_a_fault_while_examining_is_counted_and_does_not_end_the_watching(
    two: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [ValueError("odd")]
    ask = two.prober._watcher._canary.ask

    async def faulty(state: EndpointState, seconds: float) -> object:
        if faults:
            raise faults.pop()
        return await ask(state, seconds)

    monkeypatch.setattr(two.prober._watcher._canary, "ask", faulty)
    ticket, sent = await two.send()
    await until(lambda: two.canaries("good") >= 1)
    labels = {"where": "watch"}
    assert two.metrics.registry.get_sample_value("promptlane_internal_errors_total", labels) == 1
    assert "watching e0 failed" in caplog.text
    sent.cancel()
    ticket.settle(None)
