"""The official SDKs parse what the engine says."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anthropic
import openai
import pytest

from tests.engine.conftest import EngineClient

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture
async def sdk(engine: EngineClient) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{engine.base_url}/v1", api_key="x", max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(engine: EngineClient) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=str(engine.base_url), api_key="x", max_retries=0) as client:
        yield client


async def test_openai_reads_a_chat_and_its_stream(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
    stream = await sdk.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens  # type: ignore[union-attr]


async def test_openai_reads_completions_models_and_embeddings(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.completions.create(model="tiny", prompt="once", max_tokens=5, stream=True)
    text = "".join([chunk.choices[0].text async for chunk in stream])
    assert text == (await sdk.completions.create(model="tiny", prompt="once", max_tokens=5)).choices[0].text
    assert [model.id async for model in sdk.models.list()] == ["tiny"]
    packed = await sdk.embeddings.create(model="tiny", input=["a", "b"], dimensions=8)
    plain = await sdk.embeddings.create(model="tiny", input=["a", "b"], dimensions=8, encoding_format="float")
    assert packed.data[1].embedding == pytest.approx(plain.data[1].embedding, abs=1e-6)


async def test_openai_assembles_a_streamed_tool_call(sdk: openai.AsyncOpenAI) -> None:
    async with sdk.chat.completions.stream(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        tools=[{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}],
        tool_choice="required",
    ) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert (calls[0].function.name, calls[0].function.arguments) == ("weather", '{"city": "word"}')


async def test_openai_raises_the_error_that_was_sent(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await sdk.chat.completions.create(model="nope", messages=[{"role": "user", "content": "hi"}])


async def test_openai_reads_a_response_and_its_events(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.responses.create(model="tiny", input="hi", instructions="be brief", max_output_tokens=9)
    async with sdk.responses.stream(model="tiny", input="hi", instructions="be brief", max_output_tokens=9) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == whole.output_text != ""
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert whole.status == "incomplete"
    assert whole.usage is not None
    assert whole.usage.output_tokens == 9


async def test_openai_reads_a_forced_function_call_in_a_response(sdk: openai.AsyncOpenAI) -> None:
    tool = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
    asked = {"model": "tiny", "input": "hi", "tools": [tool], "tool_choice": {"type": "function", "name": "weather"}}
    whole = await sdk.responses.create(**asked)  # type: ignore[call-overload]
    assert whole.output[0].arguments == '{"city": "word"}'
    stream = await sdk.responses.create(**asked, stream=True)  # type: ignore[call-overload]
    events = [event async for event in stream]
    assert events[-1].response.output[0].arguments == '{"city": "word"}'


async def test_anthropic_reads_a_message_its_stream_and_a_count(claude: anthropic.AsyncAnthropic) -> None:
    asked = {"model": "tiny", "max_tokens": 9, "system": "be brief", "messages": [{"role": "user", "content": "hi"}]}
    whole = await claude.messages.create(**asked)  # type: ignore[call-overload]
    async with claude.messages.stream(**asked) as stream:  # type: ignore[arg-type]
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text != ""  # type: ignore[union-attr]
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 9)
    del asked["max_tokens"]
    counted = await claude.messages.count_tokens(**asked)  # type: ignore[arg-type]
    usage = whole.usage
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    assert counted.input_tokens == usage.input_tokens + cached


async def test_anthropic_reads_a_forced_tool_and_an_error(claude: anthropic.AsyncAnthropic) -> None:
    async with claude.messages.stream(
        model="tiny",
        max_tokens=100,
        messages=[{"role": "user", "content": "hi"}],
        tools=[{"name": "weather", "input_schema": PARAMETERS}],  # type: ignore[typeddict-item]
        tool_choice={"type": "tool", "name": "weather"},
    ) as stream:
        final = await stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert final.content[0].input == {"city": "word"}  # type: ignore[union-attr]
    with pytest.raises(anthropic.NotFoundError, match="does not exist"):
        await claude.messages.create(model="nope", max_tokens=1, messages=[{"role": "user", "content": "hi"}])


async def test_anthropic_sees_a_stop_sequence(claude: anthropic.AsyncAnthropic) -> None:
    asked = {"model": "tiny", "max_tokens": 30, "messages": [{"role": "user", "content": "hi"}]}
    word = (await claude.messages.create(**asked)).content[0].text.split()[5]  # type: ignore[call-overload]
    cut = await claude.messages.create(**asked, stop_sequences=[word])  # type: ignore[call-overload]
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", word)
