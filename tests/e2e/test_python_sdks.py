"""The official Python SDKs of OpenAI and Anthropic, as their users call them.

Floor: tests only.
"""

from __future__ import annotations

import anthropic
import openai
import pytest

from tests.e2e.bodies import MESSAGE, RESPONSE, chat, completion, tool_conversation
from tests.e2e.stack import ACME_HOST, ALIAS, ENGINE_MODEL, GLOBEX_ONLY_MODEL, Stack


def test_openai_chat_answers(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(**chat())
    assert answer.model == ALIAS
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


def test_openai_chat_works_with_the_tenants_host_too(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(**chat(), extra_headers={"host": ACME_HOST})
    assert answer.model == ALIAS


def test_openai_stream_yields_chunks_and_then_usage(openai_client: openai.OpenAI) -> None:
    body = chat(stream=True, stream_options={"include_usage": True})
    with openai_client.chat.completions.create(**body) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert {chunk.model for chunk in chunks} == {ALIAS}
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


def test_openai_completion_answers(openai_client: openai.OpenAI) -> None:
    assert openai_client.completions.create(**completion()).choices[0].text


def test_openai_conversation_with_a_tool_answers(openai_client: openai.OpenAI) -> None:
    assert openai_client.chat.completions.create(**tool_conversation()).choices[0].finish_reason == "length"


def test_openai_response_answers_and_streams(openai_client: openai.OpenAI) -> None:
    answer = openai_client.responses.create(**RESPONSE)
    assert answer.output_text
    with openai_client.responses.create(**RESPONSE, stream=True) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created"
    assert "response.output_text.delta" in kinds


def test_openai_embedding_answers_where_the_engine_can(stack: Stack, openai_client: openai.OpenAI) -> None:
    if stack.kind == "vllm":  # the tiny model generates; vLLM has no embeddings route for it, and says so
        with pytest.raises(openai.NotFoundError) as refused:
            openai_client.embeddings.create(model=ALIAS, input="a text")
        assert refused.value.response.json() == {"detail": "Not Found"}
    else:
        answer = openai_client.embeddings.create(model=ALIAS, input=["a text", "another"])
        assert [len(item.embedding) > 0 for item in answer.data] == [True, True]


def test_openai_models_are_the_tenants_own(openai_client: openai.OpenAI) -> None:
    assert {model.id for model in openai_client.models.list()} == {ALIAS, ENGINE_MODEL}


def test_openai_errors_have_the_class_that_users_catch(stack: Stack, openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        openai_client.chat.completions.create(**chat(GLOBEX_ONLY_MODEL))
    assert unknown.value.code == "model_not_found"
    assert unknown.value.request_id
    with pytest.raises(openai.BadRequestError, match="temperature"):
        openai_client.chat.completions.create(**chat(temperature=-1))
    with pytest.raises(openai.AuthenticationError) as unidentified:
        openai_client.with_options(api_key="pl-unknown").chat.completions.create(**chat())
    assert unidentified.value.code == "invalid_api_key"


def test_anthropic_message_answers(anthropic_client: anthropic.Anthropic) -> None:
    message = anthropic_client.messages.create(**MESSAGE)
    assert message.model == ALIAS
    assert message.content[0].type == "text"
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 8


def test_anthropic_stream_yields_text_and_a_final_message(anthropic_client: anthropic.Anthropic) -> None:
    with anthropic_client.messages.stream(**MESSAGE) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text
    assert final.model == ALIAS
    assert final.usage.output_tokens == 8


def test_anthropic_counts_the_tokens_that_a_message_is_charged(anthropic_client: anthropic.Anthropic) -> None:
    counted = anthropic_client.messages.count_tokens(model=ALIAS, messages=MESSAGE["messages"])
    usage = anthropic_client.messages.create(**MESSAGE).usage
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    assert counted.input_tokens == usage.input_tokens + cached


def test_anthropic_errors_have_the_class_that_users_catch(anthropic_client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        anthropic_client.messages.create(**{**MESSAGE, "model": GLOBEX_ONLY_MODEL})
    with pytest.raises(anthropic.AuthenticationError):
        anthropic_client.with_options(api_key="pl-unknown").messages.create(**MESSAGE)
