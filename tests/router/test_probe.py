"""Probes and scrapes of real sockets: what an engine says, and what it says when it is not well."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import httpx2
import pytest

from policies.drill import DrillFault
from policies.endpoint_state import EndpointState
from policies.scorers.engine_load import STALE_SECONDS
from policies.types import Endpoint, EngineModel, Role
from router.errors import NoEndpoint
from router.injected import InjectedFault
from router.metrics import Metrics
from router.pools import Place, Pool
from router.probe import Prober, ProbeSettings
from tests.policies.builders import make_request
from tests.router.builders import make_pool
from tests.router.stack import whole

# A timeout that no busy machine comes to; `IMPATIENT` is for engines that never answer.
SETTINGS = ProbeSettings(interval=0.02, timeout=30.0, scrape_interval=0.02, index_share=0.5, tokens_per_block=64.0)
IMPATIENT = replace(SETTINGS, timeout=0.05)
PAGE = (
    b"vllm:num_requests_running 3\nvllm:kv_cache_usage_perc 0.25\n"
    b'vllm:cache_config_info{block_size="16",num_gpu_blocks="%d"} 1\n'
)

NOT_FOUND = whole(b'{"detail":"Not Found"}', b"404 Not Found")


class Engine:
    """Answers with whatever `answers` has for the path, 404 where that is nothing; `b""`: it closes; None: it is silent
    until `answers` says otherwise. `asked` has the paths, `bodies` what came with them."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | None] = {"/health": whole(b""), "/metrics": whole(PAGE % 800)}
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.clients: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.close()
        for writer in self.clients:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1].decode()
                length = re.search(rb"content-length: (\d+)", head.lower())
                self.bodies.append(await reader.readexactly(int(length[1])) if length else b"")
                self.asked.append(path)
                while (answer := self.answers.get(path, NOT_FOUND)) is None and not writer.transport.is_closing():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)  # `answers` is changed by whoever tests
                if not answer:
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.clients.discard(writer)
            writer.transport.abort()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    one = Engine()
    await one.start()
    yield one
    one.stop()


def probed(
    engine: Engine, role: Role = Role.HOT, *, capacity: int | None = None, metrics: Metrics | None = None
) -> tuple[Pool, Place, Prober]:
    endpoint = Endpoint("e0", f"http://127.0.0.1:{engine.port}", role, kv_capacity_tokens=capacity)
    pool = make_pool([EndpointState(endpoint)], url=endpoint.url, clock=asyncio.get_running_loop().time, retries=0)
    (place,) = pool.places
    return pool, place, Prober(pool, SETTINGS, metrics or Metrics())


def prober_for(pool: Pool, answer: bytes | None) -> Prober:
    """One that does not wait long for an engine that is silent."""
    return Prober(pool, SETTINGS if answer is not None else IMPATIENT, Metrics())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # a prober has no event to wait for
            await asyncio.sleep(0.005)


async def test_a_good_answer_makes_an_endpoint_available_and_its_metrics_are_noted(engine: Engine) -> None:
    pool, place, prober = probed(engine)
    assert not place.available(pool.clock())
    assert await prober.probe(place)
    await prober.scrape(place)
    state = place.state
    assert place.available(pool.clock())
    assert (state.engine_running, state.kv_usage, state.kv_capacity_tokens) == (3.0, 0.25, 12_800)
    assert state.index.capacity == 12_800 * 0.5 / 64
    assert state.scraped_at is not None
    await prober.stop()


@pytest.mark.parametrize(
    "answer",
    [whole(b"", b"503 Service Unavailable"), whole(b"", b"302 Found"), b"not http\r\n\r\n", b"", None],
    ids=["503", "a redirect", "not HTTP", "closed", "silent"],
)
async def test_two_bad_probes_in_a_row_take_an_endpoint_out(engine: Engine, answer: bytes | None) -> None:
    pool, place, patient = probed(engine)
    assert await patient.probe(place)
    engine.answers["/health"], prober = answer, prober_for(pool, answer)
    assert not await prober.probe(place)
    assert place.available(pool.clock()), "one bad probe ejects nobody"
    assert not await prober.probe(place)
    assert not place.available(pool.clock())
    await patient.stop()
    await prober.stop()


async def test_of_a_configured_and_a_scraped_capacity_the_smaller_counts(engine: Engine) -> None:
    _, place, prober = probed(engine, capacity=6_400)
    await prober.scrape(place)
    assert place.state.kv_capacity_tokens == 6_400
    engine.answers["/metrics"] = whole(PAGE % 100)
    await prober.scrape(place)
    assert place.state.kv_capacity_tokens == 1_600
    await prober.stop()


@pytest.mark.parametrize(
    "page",
    [
        whole(b"nothing here", b"404 Not Found"),
        whole(b"\xff\xfe binary"),
        whole(b"vllm:num_requests_running NaN\nvllm:kv_cache_usage_perc +Inf\n"),
        None,
    ],
    ids=["404", "binary", "no numbers", "silent"],
)
async def test_a_page_that_cannot_be_read_harms_nobody(engine: Engine, page: bytes | None) -> None:
    pool, place, patient = probed(engine)
    assert await patient.probe(place)
    await patient.scrape(place)
    engine.answers["/metrics"], prober = page, prober_for(pool, page)
    await prober.scrape(place)
    assert place.available(pool.clock())
    assert place.state.kv_capacity_tokens == 12_800
    await patient.stop()
    await prober.stop()


async def test_a_sleeping_engine_gets_nothing_until_it_wakes(engine: Engine) -> None:
    pool, place, prober = probed(engine)
    await prober.probe(place)
    for awake in (0, 1):
        engine.answers["/metrics"] = whole(b'vllm:engine_sleep_state{sleep_state="awake"} %d\n' % awake)
        await prober.scrape(place)
        assert place.available(pool.clock()) is bool(awake)
    await prober.stop()


@pytest.mark.parametrize(
    ("role", "awake", "said", "sleeping"),
    [
        (Role.WARM, 1, b'{"is_sleeping":true}', True),  # paused: its figures know nothing of that
        (Role.WARM, 1, b'{"is_sleeping":false}', False),
        (Role.WARM, 1, None, False),
        (Role.HOT, 0, b'{"is_sleeping":false}', False),  # its figures are of a sleep that is over
        (Role.HOT, 0, b'{"is_sleeping":true}', True),
        (Role.HOT, 0, b'{"is_sleeping":"no"}', True),
        (Role.HOT, 0, b"[]", True),
        (Role.HOT, 0, None, True),
    ],
)
async def test_an_engines_own_word_on_whether_it_sleeps_is_better_than_its_figures(
    engine: Engine, role: Role, awake: int, said: bytes | None, sleeping: bool
) -> None:
    _, place, prober = probed(engine, role)
    engine.answers["/metrics"] = whole(b'vllm:engine_sleep_state{sleep_state="awake"} %d\n' % awake)
    if said is not None:
        engine.answers["/is_sleeping"] = whole(said)
    await prober.scrape(place)
    assert place.state.sleeping is sleeping
    await prober.stop()


async def test_a_hot_engine_whose_figures_say_that_it_is_awake_is_not_asked(engine: Engine) -> None:
    _, place, prober = probed(engine)
    await prober.scrape(place)
    assert engine.asked == ["/metrics"]
    await prober.stop()


async def test_an_engine_wakes_with_an_empty_cache(engine: Engine) -> None:
    _, place, prober = probed(engine)
    for awake, blocks in ((1, 3), (0, 0), (0, 0), (1, 0)):
        engine.answers["/metrics"] = whole(b'vllm:engine_sleep_state{sleep_state="awake"} %d\n' % awake)
        if awake and blocks:
            place.state.index.touch((1, 2, 3))
        await prober.scrape(place)
        assert len(place.state.index) == blocks
    await prober.stop()


@pytest.mark.parametrize(
    "page",
    [
        b"process_start_time_seconds 2\nvllm:prefix_cache_queries_total 90\nvllm:prompt_tokens_total 90\n",
        b"process_start_time_seconds 1\nvllm:prefix_cache_queries_total 10\nvllm:prompt_tokens_total 90\n",
        b"vllm:prompt_tokens_total 10\n",
    ],
    ids=["another start", "fewer queries", "fewer prompt tokens"],
)
async def test_what_was_believed_of_an_engine_is_forgotten_when_it_has_restarted(engine: Engine, page: bytes) -> None:
    before = b"process_start_time_seconds 1\nvllm:prefix_cache_queries_total 80\nvllm:prompt_tokens_total 80\n"
    _, place, prober = probed(engine)
    held = place.state.reserve(make_request(blocks=(1, 2, 3)), 0, 0.1, 0.0)
    held.first_token(0.5)
    held.release(1.0)
    for same in (before, before, before.replace(b"80", b"85"), PAGE % 800):
        engine.answers["/metrics"] = whole(same)
        await prober.scrape(place)
        assert len(place.state.index) == 3
    engine.answers["/metrics"] = whole(page)
    await prober.scrape(place)
    assert len(place.state.index) == 0
    await prober.stop()


async def test_the_loop_finds_an_engine_that_comes_and_turns_away_who_waits_when_it_goes(engine: Engine) -> None:
    pool, place, prober = probed(engine)
    with pytest.raises(NoEndpoint):
        await pool.dispatch(make_request())
    prober.start()
    await until(lambda: place.available(pool.clock()))
    await until(lambda: place.state.kv_capacity_tokens is not None)
    engine.answers["/health"] = whole(b"", b"500 Internal Server Error")
    await until(lambda: not place.available(pool.clock()))
    await prober.stop()


async def test_a_fault_in_the_loop_is_counted_and_does_not_end_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    pool, place, prober = probed(engine, metrics=metrics)
    faults = [ValueError("odd"), ZeroDivisionError()]
    run_pass = pool.run_pass

    def faulty() -> None:
        if faults:
            raise faults.pop()
        run_pass()

    monkeypatch.setattr(pool, "run_pass", faulty)
    prober.start()
    await until(lambda: not faults and place.state.scraped_at is not None)
    count = metrics.registry.get_sample_value("promptlane_internal_errors_total", {"where": "probe"})
    assert count == 2
    assert "probing e0 failed" in caplog.text
    await prober.stop()
    asked = len(engine.asked)
    await asyncio.sleep(0.05)
    assert len(engine.asked) == asked, "after stop nobody asks"


async def test_useless_affinity_is_warned_of_once_and_again_when_it_comes_back(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    _, place, prober = probed(engine)
    feedback = place.state.feedback
    for _ in range(60):
        feedback.answered(1000, 900, 0)
    with caplog.at_level("WARNING", logger="promptlane.probe"):
        for _ in range(3):
            await prober.scrape(place)
        assert [record.getMessage().startswith("affinity is useless at endpoint") for record in caplog.records] == [
            True
        ]
        for _ in range(2000):
            feedback.answered(1000, 900, 900)
        await prober.scrape(place)
        for _ in range(2000):
            feedback.answered(1000, 900, 0)
        await prober.scrape(place)
    assert len(caplog.records) == 2
    await prober.stop()


MODELS = b'{"object":"list","data":[{"id":"base","max_model_len":8192},{"id":"adapter","max_model_len":null}]}'


async def test_models_are_asked_for_once_for_each_time_that_the_engine_comes_up(engine: Engine) -> None:
    _, place, prober = probed(engine)
    engine.answers["/v1/models"] = whole(MODELS)
    for _ in range(3):
        await prober.models(place)
    assert place.state.served == (EngineModel("base", 8192), EngineModel("adapter", None))
    assert engine.asked.count("/v1/models") == 1
    engine.answers["/v1/models"] = whole(MODELS.replace(b"base", b"other"))
    for started in (1, 2):
        engine.answers["/metrics"] = whole(b"process_start_time_seconds %d\n" % started)
        await prober.scrape(place)
    await prober.models(place)
    assert place.state.served[0].name == "other"
    await prober.stop()


@pytest.mark.parametrize("answer", [NOT_FOUND, whole(b"not json"), whole(b'{"data":7}'), whole(b"[]")])
async def test_an_engine_that_does_not_tell_its_models_serves_all_the_same(engine: Engine, answer: bytes) -> None:
    pool, place, prober = probed(engine)
    engine.answers["/v1/models"] = answer
    await prober.probe(place)
    await prober.models(place)
    assert place.state.served is None
    assert place.available(pool.clock())
    await prober.stop()


async def test_a_model_that_the_engine_does_not_serve_is_warned_of_once(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    pool, place, _ = probed(engine)
    prober = Prober(pool, replace(SETTINGS, engine_models=("base", "gone")), Metrics())
    engine.answers["/v1/models"] = whole(MODELS)
    with caplog.at_level("WARNING", logger="promptlane.probe"):
        for started in (1, 2, 3):
            engine.answers["/metrics"] = whole(b"process_start_time_seconds %d\n" % started)
            await prober.scrape(place)
            await prober.models(place)
    assert engine.asked.count("/v1/models") == 3
    assert [record.args for record in caplog.records] == [("e0", "gone")]
    await prober.stop()


async def test_news_of_sleep_that_is_old_keeps_no_engine_out(engine: Engine) -> None:
    pool, place, prober = probed(engine)
    await prober.probe(place)
    engine.answers["/metrics"] = whole(b'vllm:engine_sleep_state{sleep_state="awake"} 0\n')
    await prober.scrape(place)
    assert (place.state.status(pool.clock()), place.available(pool.clock())) == ("sleeping", False)
    engine.answers["/metrics"] = NOT_FOUND
    await prober.scrape(place)
    assert not place.available(pool.clock()), "one page that is missing says nothing"
    assert place.state.scraped_at is not None
    place.state.scraped_at -= STALE_SECONDS
    await prober.scrape(place)
    assert place.available(pool.clock())
    await prober.stop()


async def test_an_engine_that_wakes_or_restarts_starts_gently(engine: Engine) -> None:
    pool, place, prober = probed(engine)
    place.state.health.slow_start.seconds = 1000.0
    await prober.probe(place)
    for awake, status in ((1, "healthy"), (0, "sleeping"), (1, "starting")):
        engine.answers["/metrics"] = whole(b'vllm:engine_sleep_state{sleep_state="awake"} %d\n' % awake)
        await prober.scrape(place)
        assert place.state.status(pool.clock()) == status
    place.state.health.slow_start.end()
    for started, status in ((1, "healthy"), (2, "starting")):
        engine.answers["/metrics"] = whole(b"process_start_time_seconds %d\n" % started)
        await prober.scrape(place)
        assert place.state.status(pool.clock()) == status
    await prober.stop()


@pytest.mark.parametrize("kind", [DrillFault.KILL, DrillFault.REFUSE])
async def test_a_drill_in_which_nobody_can_connect_fails_the_probes_too(engine: Engine, kind: DrillFault) -> None:
    _, place, prober = probed(engine)
    place.upstream.strike(InjectedFault(kind))
    assert not await prober.probe(place)
    assert engine.asked == [], "nothing is sent to an engine that is to look dead"
    place.upstream.lift()
    assert await prober.probe(place)
    await prober.stop()


@pytest.mark.parametrize("kind", [DrillFault.HANG, DrillFault.SLOW])
async def test_an_engine_that_hangs_in_a_drill_still_says_that_it_is_well(engine: Engine, kind: DrillFault) -> None:
    _, place, prober = probed(engine)
    place.upstream.strike(InjectedFault(kind))
    assert await prober.probe(place)
    await prober.stop()


async def test_what_would_make_a_hanging_engine_work_hangs_in_a_drill(engine: Engine) -> None:
    """A canary must not find the engine at work that a drill hides: it goes by the prober's own client."""
    pool, place, patient = probed(engine)
    prober = Prober(pool, IMPATIENT, Metrics())
    place.upstream.strike(InjectedFault(DrillFault.HANG))
    with pytest.raises(httpx2.ConnectError):
        await prober._http.post(f"{place.state.endpoint.url}/v1/completions", json={})
    assert engine.asked == []
    await patient.stop()
    await prober.stop()
