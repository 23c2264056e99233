"""What each answer to a canary says of its engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from policies.endpoint_state import EndpointState
from policies.types import Endpoint, EngineModel
from router.canary import Canary, Verdict
from router.wire.engine_models import MOST_MODELS, read_engine_models
from tests.router.stack import whole
from tests.router.test_probe import Engine

PATH = "/v1/completions"
GOOD = b'{"choices":[{"index":0,"text":"2","finish_reason":"%b"}]}'


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    one = Engine()
    await one.start()
    yield one
    one.stop()


async def ask(
    engine: Engine, seconds: float = 30.0, *, served: str | None = "base", models: tuple[str, ...] = ()
) -> Verdict:
    state = EndpointState(Endpoint("e0", f"http://127.0.0.1:{engine.port}"))
    state.served = None if served is None else (EngineModel(served),)
    async with httpx2.AsyncClient(timeout=60.0, trust_env=False) as http:
        return await Canary(http, models).ask(state, seconds)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (whole(GOOD % b"length"), Verdict.GOOD),
        (whole(GOOD % b"stop"), Verdict.GOOD),
        (whole(GOOD % b"abort"), Verdict.BAD),
        (whole(b'{"error":{"message":"x","code":500}}'), Verdict.BAD),
        (whole(b"[]"), Verdict.BAD),
        (whole(b"not json"), Verdict.BAD),
        (whole(b"{}", b"500 Internal Server Error"), Verdict.BAD),
        (whole(b"{}", b"503 Service Unavailable"), Verdict.BAD),
        (whole(b"{}", b"429 Too Many Requests"), Verdict.BAD),
        (whole(b"{}", b"404 Not Found"), Verdict.CANNOT),
        (whole(b"{}", b"400 Bad Request"), Verdict.CANNOT),
        (whole(b"{}", b"401 Unauthorized"), Verdict.CANNOT),
        (b"", Verdict.BAD),
    ],
)
async def test_what_an_answer_says(engine: Engine, answer: bytes, verdict: Verdict) -> None:
    engine.answers[PATH] = answer
    assert await ask(engine) is verdict


async def test_no_answer_in_time_is_a_bad_one(engine: Engine) -> None:
    engine.answers[PATH] = None
    assert await ask(engine, 0.05) is Verdict.BAD


async def test_nobody_there_is_a_bad_answer_too(engine: Engine) -> None:
    engine.stop()
    assert await ask(engine) is Verdict.BAD


@pytest.mark.parametrize(
    ("served", "models", "name"), [("base", ("route",), b'"base"'), (None, ("route", "other"), b'"route"')]
)
async def test_it_asks_for_the_engines_own_model_or_else_for_a_routes(
    engine: Engine, served: str | None, models: tuple[str, ...], name: bytes
) -> None:
    engine.answers[PATH] = whole(GOOD % b"stop")
    assert await ask(engine, served=served, models=models) is Verdict.GOOD
    assert name in engine.bodies[0]


async def test_without_any_model_nothing_is_asked(engine: Engine) -> None:
    assert await ask(engine, served=None) is Verdict.CANNOT
    assert engine.asked == []


def test_models_are_bounded_and_what_is_no_model_is_left_out() -> None:
    body = b'{"data":[{"id":"a","max_model_len":true},{"id":7},"b",{"id":"c","max_model_len":-1}%s]}'
    found = read_engine_models(body % (b',{"id":"x"}' * 2 * MOST_MODELS))
    assert found is not None
    assert found[:2] == (EngineModel("a"), EngineModel("c"))
    assert len(found) <= MOST_MODELS


EMBEDDED = b'{"data":[{"index":0,"embedding":[0.1,0.2]}]}'
SCORED = b'{"data":[{"index":0,"score":0.5}]}'


@pytest.mark.parametrize(
    ("path", "answer"), [("/v1/embeddings", EMBEDDED), ("/v1/score", SCORED)], ids=["embeddings", "scores"]
)
async def test_an_engine_without_completions_is_asked_for_what_it_computes_and_at_once_the_next_time(
    engine: Engine, path: str, answer: bytes
) -> None:
    engine.answers[path] = whole(answer)
    state = EndpointState(Endpoint("e0", f"http://127.0.0.1:{engine.port}"))
    async with httpx2.AsyncClient(timeout=60.0, trust_env=False) as http:
        canary = Canary(http, ("route",))
        assert await canary.ask(state, 30.0) is Verdict.GOOD
        assert engine.asked[0] == PATH
        engine.asked.clear()
        assert await canary.ask(state, 30.0) is Verdict.GOOD
        assert engine.asked == [path]
        engine.answers[path] = None
        assert await canary.ask(state, 0.05) is Verdict.BAD
        engine.answers = {PATH: whole(GOOD % b"stop")}  # another kind of engine answers there now
        assert await canary.ask(state, 30.0) is Verdict.GOOD


@pytest.mark.parametrize("answer", [b'{"data":[]}', b'{"data":[{"index":0}]}', b"[]", b"null"])
async def test_a_vector_that_is_none_is_a_bad_answer(engine: Engine, answer: bytes) -> None:
    engine.answers["/v1/embeddings"] = whole(answer)
    assert await ask(engine) is Verdict.BAD
