"""A stream that its engine breaks off goes on at another: the client sees one stream, and every token once.

Floor: tests only; simulated engines, as they break where they are told to. Their replies hang on the tokens before
alone, so that what an unbroken stream says is known.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from policies.resume import MAX_RESUMES
from router.config.pools import PoolConfig
from tests.e2e.fleet import Fleet, anew, running_fleet
from tests.e2e.front import MODEL, prompt, until

PLATINUM = {"tenants": {"acme": {"tier": "platinum"}}}
TOKENS = 40
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def running() -> Iterator[Fleet]:
    with running_fleet(3) as fleet:
        yield fleet


@pytest.fixture
async def fleet(running: Fleet) -> AsyncIterator[Fleet]:
    async with anew(running):
        yield running


def question(path: str, about: object, **fields: Any) -> dict[str, Any]:
    text = prompt(80, about)
    asked: dict[str, Any] = (
        {"prompt": text} if path == COMPLETIONS else {"messages": [{"role": "user", "content": text}]}
    )
    return {"model": MODEL, "max_tokens": TOKENS, "stream": True, "temperature": 0, **asked, **fields}


async def stream(fleet: Fleet, path: str, body: dict[str, Any]) -> list[str]:
    """The data of each event, as the client got them."""
    async with fleet.client() as client, client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        return [line.removeprefix("data: ") async for line in answer.aiter_lines() if line]


def chunks(events: list[str]) -> list[dict[str, Any]]:
    assert events[-1] == "[DONE]", events[-3:]
    return [json.loads(event) for event in events[:-1]]


def text_of(parts: list[dict[str, Any]]) -> str:
    choices = [choice for part in parts for choice in part["choices"]]
    return "".join(one["text"] if "text" in one else one["delta"].get("content", "") for one in choices)


def shape(part: dict[str, Any]) -> dict[str, Any]:
    """A chunk without what differs between any two answers."""
    bare = {name: value for name, value in part.items() if name not in ("id", "created", "usage", "system_fingerprint")}
    return bare | {"usage": sorted(part.get("usage", {})) != []}


def assert_same(got: list[str], whole: list[str], cut: object = None) -> None:
    mine, theirs = chunks(got), chunks(whole)
    assert text_of(mine) == text_of(theirs), cut
    assert [shape(part) for part in mine] == [shape(part) for part in theirs], cut
    assert len({(part["id"], part["created"]) for part in mine}) == 1
    assert [counts(part) for part in mine] == [counts(part) for part in theirs]


def counts(part: dict[str, Any]) -> tuple[Any, ...]:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return tuple(part.get("usage", {}).get(name) for name in names)


async def broken(fleet: Fleet, path: str, body: dict[str, Any], fault: str, cut: int) -> list[str]:
    """What the client gets when each of two engines breaks its next stream behind so many events."""
    for engine in (0, 1):
        fleet.engines[engine].fault(fault, after_chunks=cut, count=1)
    got = await stream(fleet, path, body)
    for engine in (0, 1):
        fleet.engines[engine].fault("none")
    return got


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("fault", ["die-mid-stream", "error", "abort"])
@pytest.mark.parametrize("usage", [False, True])
async def test_a_broken_stream_is_the_unbroken_one(fleet: Fleet, path: str, fault: str, usage: bool) -> None:
    """Where the first engine says more than the cut, the second one breaks as well."""
    await fleet.serve((0, 1), **PLATINUM)
    fields: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    for cut in (1, 2, 7, 20, TOKENS):
        body = question(path, f"{path} {fault} {cut}", **fields)
        whole = await stream(fleet, path, body)
        assert_same(await broken(fleet, path, body, fault, cut), whole, cut)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"include_stop_str_in_output": True},
        {"min_tokens": 25, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ],
    ids=["hidden", "shown", "not at first"],
)
async def test_a_broken_stream_with_stop_strings_is_the_unbroken_one(
    fleet: Fleet, path: str, fields: dict[str, Any]
) -> None:
    """Text is held back behind the ids: at a cut the client has less than the engine has told the ids of."""
    await fleet.serve((0, 1), **PLATINUM)
    for cut in (1, 6, 14, 19):
        asked = question(path, f"stop {path} {len(fields)} {cut}", **fields)
        words = text_of(chunks(await stream(fleet, path, asked))).split(" ")
        over_two_tokens = f"{words[18][-2:]} {words[19][:3]}"
        for stop in (over_two_tokens, [over_two_tokens, "never said at all"], ["never", words[30]]):
            body = {**asked, "stop": stop}
            whole = await stream(fleet, path, body)
            assert_same(await broken(fleet, path, body, "die-mid-stream", cut), whole, (stop, cut))
    assert await fleet.metric("promptlane_resumes_total", pool=fleet.pool, result="ok") >= 6
    assert await fleet.metric("promptlane_resumes_total", pool=fleet.pool, result="diverged") == 0


async def test_a_stream_that_goes_silent_is_continued_after_the_pools_idle_timeout(fleet: Fleet) -> None:
    await fleet.serve((0, 1), pool={"timeouts": {"idle": 2.0}}, **PLATINUM)
    body = question(CHAT, "silent")
    whole = await stream(fleet, CHAT, body)
    assert_same(await broken(fleet, CHAT, body, "silent", 9), whole)
    assert await fleet.metric("promptlane_resumes_total", pool=fleet.pool, way="tokens", result="ok") == 1
    assert await fleet.metric("promptlane_resume_seconds_count", pool=fleet.pool) >= 1


async def test_a_stream_may_break_more_often_than_there_are_endpoints(fleet: Fleet) -> None:
    """Each continuation brings something, so who failed before it may be asked again."""
    await fleet.serve((0, 1), **PLATINUM)
    body = question(COMPLETIONS, "often", max_tokens=200)
    whole = await stream(fleet, COMPLETIONS, body)
    for engine in (0, 1):
        fleet.engines[engine].fault("error", after_chunks=60, count=2)
    assert_same(await stream(fleet, COMPLETIONS, body), whole)
    assert await fleet.metric("promptlane_resumes_total", pool=fleet.pool, way="tokens") == 3


async def test_a_continuation_asks_for_what_is_left_and_nothing_else_is_changed(fleet: Fleet) -> None:
    await fleet.serve((0, 1), **PLATINUM)
    body = question(CHAT, "asked", temperature=0.7, seed=5, min_tokens=30, metadata={"a": "b"})
    for engine in (0, 1):
        fleet.engines[engine].clear()
        fleet.engines[engine].fault("die-mid-stream", after_chunks=11, paths=[CHAT])
    await stream(fleet, CHAT, body)
    seen = [request for engine in (0, 1) for request in fleet.seen(engine)]
    (first,) = [request for request in seen if "messages" in request]
    (second,) = [request for request in seen if "prompt" in request]
    assert first["return_token_ids"] is second["return_token_ids"] is True
    assert first["cache_salt"] == second["cache_salt"]
    assert (second["temperature"], second["seed"], second["stream"]) == (0.7, 5, True)
    assert (second["max_tokens"], second["min_tokens"]) == (30, 20)
    assert "metadata" not in second


async def test_a_chat_without_a_bound_goes_on_to_its_own_end(fleet: Fleet) -> None:
    await fleet.serve((0, 1), **PLATINUM)
    body = question(CHAT, "no bound")
    del body["max_tokens"]
    whole = await stream(fleet, CHAT, body)
    assert_same(await broken(fleet, CHAT, body, "die-mid-stream", 30), whole)


@pytest.mark.parametrize("shown", [None, False, True])
async def test_a_chat_with_a_picture_goes_on_from_its_text(fleet: Fleet, shown: bool | None) -> None:
    await fleet.serve((0, 1), **PLATINUM)
    picture = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/cat.png"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    body = question(CHAT, "", messages=messages)
    if shown is not None:
        words = text_of(chunks(await stream(fleet, CHAT, body))).split(" ")
        body |= {"stop": f"{words[18][-2:]} {words[19][:3]}", "include_stop_str_in_output": shown}
    whole = await stream(fleet, CHAT, body)
    assert_same(await broken(fleet, CHAT, body, "die-mid-stream", 12), whole)
    assert await fleet.metric("promptlane_resumes_total", pool=fleet.pool, way="text", result="ok") >= 1


async def error_of(fleet: Fleet, body: dict[str, Any]) -> dict[str, Any]:
    """The last event of a stream that ends with an error; what came before it are whole events."""
    async with fleet.client() as client, client.stream("POST", CHAT, json=body) as answer:
        events = [line.removeprefix("data: ") async for line in answer.aiter_lines() if line]
    assert all(json.loads(event)["choices"] for event in events[:-1])
    error: dict[str, Any] = json.loads(events[-1])["error"]
    return error


async def test_a_lone_engine_that_lives_on_continues_its_own_stream(fleet: Fleet) -> None:
    await fleet.serve((0,), **PLATINUM)
    body = question(CHAT, "alone")
    whole = await stream(fleet, CHAT, body)
    assert_same(await broken(fleet, CHAT, body, "die-mid-stream", 5), whole)


async def test_where_no_engine_is_left_the_stream_ends_with_an_error(fleet: Fleet) -> None:
    await fleet.serve((0,), **PLATINUM)
    body = question(CHAT, "nobody", max_tokens=20_000, ignore_eos=True)
    async with fleet.client() as client, client.stream("POST", CHAT, json=body) as answer:
        lines = answer.aiter_lines()
        for _ in range(9):
            await anext(lines)
        fleet.engines[0].fault("refuse")
        last = [line async for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stream_interrupted"


async def test_engines_that_break_whatever_is_asked_are_not_asked_for_ever(fleet: Fleet) -> None:
    await fleet.serve((0, 1, 2), **PLATINUM)
    for engine in fleet.engines:
        engine.clear()
        engine.fault("error", after_chunks=2)
    error = await error_of(fleet, question(CHAT, "all", max_tokens=200))
    # Where the error comes in one piece with the beginning nothing has been seen, and it is begun anew instead.
    assert error["code"] in ("stream_interrupted", "engine_aborted")
    assert (
        2
        <= sum(len(fleet.seen(engine)) for engine in (0, 1, 2))
        <= 1 + PoolConfig.model_fields["retries"].default + MAX_RESUMES
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": True},
        {"stop": ["z" * 300], "include_stop_str_in_output": True},
        {"presence_penalty": 0.5},
        {"something_new": 1},
    ],
)
async def test_what_only_the_first_engine_could_continue_is_not(fleet: Fleet, fields: dict[str, Any]) -> None:
    await fleet.serve((0, 1), **PLATINUM)
    await assert_not_resumed(fleet, question(CHAT, "not", **fields))


async def test_who_does_not_have_it_is_asked_for_nothing(fleet: Fleet) -> None:
    await fleet.serve((0, 1), tenants={"acme": {"tier": "gold"}})
    await assert_not_resumed(fleet, question(CHAT, "gold"))


async def assert_not_resumed(fleet: Fleet, body: dict[str, Any]) -> None:
    for engine in (0, 1):
        fleet.engines[engine].clear()
        fleet.engines[engine].fault("die-mid-stream", after_chunks=9, count=1)
    assert (await error_of(fleet, body))["code"] == "engine_closed"
    (asked,) = [request for engine in (0, 1) for request in fleet.seen(engine)]
    assert "return_token_ids" not in asked


async def test_a_client_that_leaves_a_continued_stream_frees_its_engine(fleet: Fleet) -> None:
    await fleet.serve((0, 1), **PLATINUM)
    for engine in (0, 1):
        fleet.engines[engine].clear()
        fleet.engines[engine].fault("die-mid-stream", after_chunks=9, count=1, paths=[CHAT])
    body = question(CHAT, "leaves", max_tokens=20_000, ignore_eos=True)
    async with fleet.client() as client, client.stream("POST", CHAT, json=body) as answer:
        lines = answer.aiter_lines()
        for _ in range(60):
            await anext(lines)
    await fleet.settled()

    async def free() -> bool:
        return not any(fleet.engines[engine].state()["running"] for engine in (0, 1))

    await until("no engine runs anything", free)
    assert [fleet.engines[engine].state()["running"] for engine in (0, 1)] == [0, 0]
    asked = ["prompt" in body for engine in (0, 1) for body in fleet.seen(engine)]
    assert sorted(asked) == [False, True]  # it was continued, once
