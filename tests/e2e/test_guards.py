"""A tenant's rules as users of the official SDKs meet them, on both sides and for every API, with engines that break.

Floor: tests only; simulated engines. Their replies hang on the tokens before alone, so what a tenant without rules is
told is what the other would have been told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import openai
import pytest

from router.guards.rules import Action, searches
from router.guards.words import deny_list
from tests.e2e.fleet import Fleet, anew, running_fleet
from tests.e2e.front import MODEL, key, prompt, until
from tests.router.guards.samples import passed, rule

TOKENS = 40
CHAT: dict[str, Any] = {"model": MODEL, "max_tokens": TOKENS, "temperature": 0}
QUESTION = prompt(60, "guards")


@pytest.fixture(scope="module")
def running() -> Iterator[Fleet]:
    with running_fleet(2) as fleet:
        yield fleet


@pytest.fixture
async def fleet(running: Fleet) -> AsyncIterator[Fleet]:
    async with anew(running):
        yield running


def sdk(fleet: Fleet, tenant: str = "acme") -> openai.AsyncOpenAI:
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    return openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=key(tenant), max_retries=0, http_client=http)


def claude(fleet: Fleet, tenant: str = "acme") -> anthropic.AsyncAnthropic:
    http = anthropic.DefaultAsyncHttpxClient(trust_env=False)
    return anthropic.AsyncAnthropic(base_url=fleet.url, api_key=key(tenant), max_retries=0, http_client=http)


async def serve(fleet: Fleet, *guards: dict[str, Any], engines: tuple[int, ...] = (0,), tier: str = "silver") -> None:
    await fleet.serve(engines, tenants={"acme": {"guards": list(guards), "tier": tier}, "plain": {"tier": tier}})


async def told(fleet: Fleet, tenant: str, api: str, *, stream: bool) -> tuple[str, str | None]:
    """The text of an answer to `QUESTION`, and why it ended."""
    if api == "messages":
        async with claude(fleet, tenant) as client:
            ask: dict[str, Any] = {
                "model": MODEL,
                "max_tokens": TOKENS,
                "messages": [{"role": "user", "content": QUESTION}],
            }
            if not stream:
                message = await client.messages.create(**ask)
            else:
                async with client.messages.stream(**ask) as events:
                    message = await events.get_final_message()
            return "".join(block.text for block in message.content if block.type == "text"), message.stop_reason
    async with sdk(fleet, tenant) as client:
        if api == "chat":
            chat = await client.chat.completions.create(
                **CHAT, messages=[{"role": "user", "content": QUESTION}], stream=stream
            )
            if not stream:
                return chat.choices[0].message.content, chat.choices[0].finish_reason
            chunks = [chunk.choices[0] async for chunk in chat]
            return "".join(one.delta.content or "" for one in chunks), chunks[-1].finish_reason
        if api == "completions":
            answer = await client.completions.create(**CHAT, prompt=QUESTION, stream=stream)
            if not stream:
                return answer.choices[0].text, answer.choices[0].finish_reason
            parts = [chunk.choices[0] async for chunk in answer]
            return "".join(one.text for one in parts), parts[-1].finish_reason
        reply = await client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=TOKENS, stream=stream)
        if not stream:
            return reply.output_text, reply.status
        seen = [event async for event in reply]
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        return "".join(event.delta for event in seen if event.type == "response.output_text.delta"), seen[
            -1
        ].response.status


def phrase(text: str, at: int = 8) -> str:
    """Two words of it that follow each other."""
    return " ".join(text.split()[at : at + 2])


def deny(action: str, *words: str, on: str = "output") -> dict[str, Any]:
    return {"name": "deny", "on": on, "action": action, "find": {"words": list(words)}}


EVERY = pytest.mark.parametrize("api", ["chat", "completions", "responses", "messages"])


@EVERY
async def test_answers_are_redacted_whole_and_streamed_to_the_same_text(fleet: Fleet, api: str) -> None:
    await serve(fleet)
    whole, ended = await told(fleet, "plain", api, stream=False)
    words = [phrase(whole), phrase(whole, 20)]
    await serve(fleet, deny("redact", *words))
    want = passed(searches([rule("deny", Action.REDACT, deny_list(words))]), whole)
    assert want != whole
    assert await told(fleet, "acme", api, stream=False) == (want, ended)
    streamed, _ = await told(fleet, "acme", api, stream=True)
    assert streamed == want
    assert (await told(fleet, "plain", api, stream=True))[0] == whole


@EVERY
async def test_a_blocked_answer_is_an_error_whole_and_a_clean_end_streamed(fleet: Fleet, api: str) -> None:
    await serve(fleet)
    whole, _ = await told(fleet, "plain", api, stream=False)
    word = phrase(whole)
    await serve(fleet, deny("block", word))
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="rule 'deny'"):
        await told(fleet, "acme", api, stream=False)
    got, ended = await told(fleet, "acme", api, stream=True)
    assert ended == {"messages": "refusal", "responses": "incomplete"}.get(api, "content_filter")
    assert got == whole[: whole.index(word)]
    await fleet.settled()

    async def counted() -> bool:
        metric = "promptlane_guard_verdicts_total"
        return await fleet.metric(metric, tenant="acme", rule="deny", side="output", action="block") >= 2

    await until("both verdicts are counted", counted)


async def test_a_prompt_that_is_blocked_is_an_error_that_users_catch(fleet: Fleet) -> None:
    await serve(fleet, deny("block", "forbidden word", on="input"))
    async with sdk(fleet) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(**CHAT, messages=[{"role": "user", "content": "a forbidden  WORD"}])
    assert refused.value.code == "content_policy_violation"
    async with claude(fleet) as client:
        with pytest.raises(anthropic.BadRequestError):
            await client.messages.create(
                model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "a forbidden word"}]
            )


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("fault", ["die-mid-stream", "abort"])
async def test_a_stream_that_goes_on_elsewhere_is_redacted_over_the_cut(fleet: Fleet, api: str, fault: str) -> None:
    await serve(fleet, engines=(0, 1), tier="platinum")
    whole, ended = await told(fleet, "plain", api, stream=False)
    words = [phrase(whole)]
    await serve(fleet, deny("redact", *words), engines=(0, 1), tier="platinum")
    want = passed(searches([rule("deny", Action.REDACT, deny_list(words))]), whole)
    for cut in (8, 9, 10, 11):  # before, inside and behind the two words
        for engine in fleet.engines:
            engine.fault(fault, after_chunks=cut, count=1)
        assert await told(fleet, "acme", api, stream=True) == (want, ended), cut
        for engine in fleet.engines:
            engine.fault("none")
    assert await fleet.metric("promptlane_resumes_total", pool=fleet.pool, result="ok") >= 4


async def test_a_stream_that_goes_on_elsewhere_is_blocked_there(fleet: Fleet) -> None:
    await serve(fleet, engines=(0, 1), tier="platinum")
    whole, _ = await told(fleet, "plain", "chat", stream=False)
    word = phrase(whole, 14)
    await serve(fleet, deny("block", word), engines=(0, 1), tier="platinum")
    for engine in fleet.engines:
        engine.fault("die-mid-stream", after_chunks=6, count=1)
    assert await told(fleet, "acme", "chat", stream=True) == (whole[: whole.index(word)], "content_filter")
    await fleet.settled()


async def test_engines_are_asked_for_no_more_than_the_tenant_may(fleet: Fleet) -> None:
    await fleet.serve(tenants={"acme": {"requests": {"max_tokens": 7, "refuse_fields": ["logit_bias"]}}})
    ask: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    async with sdk(fleet) as client:
        for bound in ({}, {"max_tokens": 40}, {"max_completion_tokens": 40}, {"max_tokens": 40, "n": 2}):
            answer = await client.chat.completions.create(**ask, **bound)
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 7 * bound.get("n", 1)
        answer = await client.chat.completions.create(**ask, max_tokens=3)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(**ask, logit_bias={"1": 1})
    assert (refused.value.param, refused.value.code) == ("logit_bias", "field_refused")


async def test_nothing_of_rules_or_texts_is_in_the_log(fleet: Fleet) -> None:
    await serve(fleet, deny("block", "forbidden word", on="input"))
    async with sdk(fleet) as client:
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(**CHAT, messages=[{"role": "user", "content": "a forbidden word"}])
    log = fleet.gateway.log.read_text()
    assert "rule deny of acme: input, block, 1 times" in log
    assert "forbidden" not in log
