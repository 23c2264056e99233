"""From a request body to an `Answer` with its sequences: template, tokens, lengths, forced tool calls.

Floor: pure apart from the random ids and the clock that `Preparer` is given.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import xxhash

from benchmarks.engine.answer import Answer, Choice, StopRules
from benchmarks.engine.bodies import (
    Body,
    ChatBody,
    CompletionBody,
    CountBody,
    MessagesBody,
    ResponsesBody,
    Sampling,
    TokenizeBody,
    check_length,
    check_numbers,
    check_sampling,
)
from benchmarks.engine.cache import BlockHasher
from benchmarks.engine.config import EngineConfig
from benchmarks.engine.dialects import responses_messages
from benchmarks.engine.errors import Refusal, bad_value
from benchmarks.engine.model import Sequence
from benchmarks.engine.pooling import texts_of
from benchmarks.engine.text import Reply, decode, encode, example_of, id_bytes, render_chat, spoken_tokens

VERSION = "0.32.0"
COMPLETION_TOKENS = 16
"""What a text completion gets that does not say `max_tokens`."""

BOTH_TURNS = (
    "continue_final_message and add_generation_prompt are not compatible. Use continue_final_message when you want the "
    "model to continue the final message, and add_generation_prompt when you want to add a header that will prompt it "
    "to start a new assistant message instead."
)


def chat_ids(body: ChatBody | TokenizeBody) -> list[int]:
    if body.continue_final_message and body.add_generation_prompt:
        raise Refusal(400, BOTH_TURNS)
    tools = None if getattr(body, "tool_choice", None) == "none" else body.tools
    header, open_end = body.add_generation_prompt, body.continue_final_message
    return encode(render_chat(body.messages or [], tools=tools, header=header, open_end=open_end))


def messages_chat(body: CountBody) -> list[dict[str, Any]]:
    """The chat messages of an Anthropic body: its system text comes first."""
    system = [{"role": "system", "content": body.system}] if body.system else []
    return [*system, *body.messages]


def forced_tool(tools: list[dict[str, Any]] | None, choice: Any) -> tuple[str, Any] | None:
    """Name and argument schema of the call that the client insists on, in any of the three APIs' shapes."""
    if not tools or choice in (None, "auto", "none"):
        return None
    wanted = None
    if isinstance(choice, Mapping):
        if choice.get("type") in ("auto", "none"):
            return None
        wanted = choice.get("name") or (choice.get("function") or {}).get("name")
    for tool in tools:
        inner = tool.get("function") or tool
        if wanted is None or inner.get("name") == wanted:
            return str(inner.get("name")), inner.get("parameters") or inner.get("input_schema") or {"type": "object"}
    raise bad_value("tool_choice", wanted, f"Tool choice '{wanted}' is not one of the given tools.")


class Preparer:
    """Builds answers for one engine."""

    def __init__(self, config: EngineConfig, now: Callable[[], float]) -> None:
        self._config = config
        self._now = now
        self._numbers = itertools.count(1)
        shape = f"{VERSION} {config.model} {config.block_size} {config.max_model_len} {config.seed}"
        self.fingerprint = f"vllm-{VERSION}-{xxhash.xxh3_64_hexdigest(shape.encode())[:8]}"

    def new_id(self) -> str:
        return uuid.uuid4().hex[:16]

    def created(self) -> int:
        return int(self._now())

    def sequence(
        self, prompt: list[int], output: int, body: Body, priority: int | None
    ) -> tuple[Sequence, BlockHasher]:
        """`priority`: of the header, which beats the body's."""
        hasher = BlockHasher(self._config.block_size, body.cache_salt or "")
        hashes = hasher.extend(prompt)
        chosen = body.priority if priority is None else priority
        return Sequence(f"s{next(self._numbers)}", len(prompt), output, hashes, chosen), hasher

    def prefills(self, prompts: list[list[int]], body: Body) -> list[Sequence]:
        for prompt in prompts:
            check_length(len(prompt), None, self._config.context_limit)
        return [self.sequence(prompt or [0], 0, body, None)[0] for prompt in prompts]

    def _answer(
        self,
        body: Body,
        prompts: list[list[int]],
        request_id: str | None,
        priority: int | None,
        *,
        max_tokens: int | None,
        n: int = 1,
        ignore_eos: bool = False,
        rules: StopRules | None = None,
        script: Any = None,
    ) -> Answer:
        """`max_tokens` None: as many as fit. `script`: JSON to say."""
        limit = self._config.context_limit
        choices: list[Choice] = []
        words = encode(json.dumps(script)) if script is not None else []
        for prompt in prompts:
            check_length(len(prompt), max_tokens, limit)
            room = min(max_tokens or limit, limit - len(prompt))
            end = None if ignore_eos else len(words) + 1 if words else self._natural_end(prompt)
            if rules is not None and end is not None:
                end = max(end, rules.min_tokens + 1)
            for copy in range(n):
                sequence, hasher = self.sequence(prompt, min(room, end or room), body, priority)
                voice = f"{self._config.model} {self._config.seed}" + (f" {copy}" if copy else "")
                reply = Reply(voice, prompt, ends_after=end, script=words)
                choices.append(Choice(len(choices), prompt, sequence, reply, hasher, rules or StopRules()))
        chosen_id = request_id or body.request_id or self.new_id()
        return Answer(
            chosen_id, self._config.model, self.created(), self.fingerprint, self._config.block_size, prompts, choices
        )

    def _natural_end(self, prompt: list[int]) -> int | None:
        """After how many more tokens a chat answer is over; what the prompt already holds of it counts."""
        spoken = spoken_tokens(prompt)
        return None if spoken is None else max(1, self._config.reply_tokens - spoken)

    def chat(self, body: ChatBody, request_id: str | None, priority: int | None) -> Answer:
        max_tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        check_sampling(body, max_tokens, self._config.context_limit)
        tool = forced_tool(body.tools, body.tool_choice)
        script = example_of(tool[1]) if tool else _wanted_json(body.response_format)
        answer = self._answer(
            body,
            [chat_ids(body)],
            request_id,
            priority,
            max_tokens=max_tokens,
            n=body.n,
            ignore_eos=body.ignore_eos,
            rules=_rules(body),
            script=script,
        )
        self._stream_options(answer, body)
        answer.logprobs = (body.top_logprobs or 0) if body.logprobs else None
        answer.tool = tool[0] if tool else None
        answer.required_tool = body.tool_choice == "required"
        if body.continue_final_message:
            answer.role = str(body.messages[-1].get("role")) if body.messages else "assistant"
        return answer

    def completion(self, body: CompletionBody, request_id: str | None, priority: int | None) -> Answer:
        max_tokens = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
        check_sampling(body, max_tokens, self._config.context_limit)
        prompts = texts_of(body.prompt)
        for prompt in prompts:
            _check_ids(prompt)
        answer = self._answer(
            body,
            prompts,
            request_id,
            priority,
            max_tokens=max_tokens,
            n=body.n,
            ignore_eos=body.ignore_eos,
            rules=_rules(body),
        )
        self._stream_options(answer, body)
        answer.echo = body.echo
        answer.logprobs = body.logprobs
        return answer

    @staticmethod
    def _stream_options(answer: Answer, body: ChatBody | CompletionBody) -> None:
        answer.return_token_ids = body.return_token_ids
        if body.stream_options is not None:
            answer.include_usage = body.stream_options.include_usage
            answer.continuous_usage = body.stream_options.include_usage and body.stream_options.continuous_usage_stats

    def responses(self, body: ResponsesBody, request_id: str | None, priority: int | None) -> Answer:
        check_numbers(body.temperature, body.top_p, body.max_output_tokens, self._config.context_limit)
        tool = forced_tool(body.tools, body.tool_choice)
        ids = encode(render_chat(responses_messages(body.input, body.instructions), tools=body.tools))
        return self._single(body, ids, request_id, priority, body.max_output_tokens, tool)

    def messages(self, body: MessagesBody, request_id: str | None, priority: int | None) -> Answer:
        check_numbers(body.temperature, body.top_p, body.max_tokens, self._config.context_limit)
        tool = forced_tool(body.tools, body.tool_choice)
        ids = encode(render_chat(messages_chat(body), tools=body.tools))
        stops = tuple(body.stop_sequences or ())
        return self._single(body, ids, request_id, priority, body.max_tokens, tool, StopRules(stops))

    def _single(
        self,
        body: ResponsesBody | MessagesBody,
        ids: list[int],
        request_id: str | None,
        priority: int | None,
        max_tokens: int | None,
        tool: tuple[str, Any] | None,
        rules: StopRules | None = None,
    ) -> Answer:
        """An API with one choice and no `n`."""
        script = example_of(tool[1]) if tool else None
        answer = self._answer(
            body,
            [ids],
            request_id,
            priority,
            max_tokens=max_tokens,
            ignore_eos=body.ignore_eos,
            rules=rules,
            script=script,
        )
        answer.tool = tool[0] if tool else None
        return answer


def _rules(body: Sampling) -> StopRules:
    ids = frozenset(body.stop_token_ids or ())
    return StopRules(body.stops, ids, body.include_stop_str_in_output, body.min_tokens)


def _wanted_json(response_format: Mapping[str, Any] | None) -> Any:
    """What a JSON answer says; None when the client wants text."""
    kind = (response_format or {}).get("type")
    if response_format is None or kind not in ("json_object", "json_schema"):
        return None
    return example_of((response_format.get("json_schema") or {}).get("schema") or {"type": "object"})


def _check_ids(prompt: list[int]) -> None:
    """Raises `Refusal` for an empty prompt and for ids that no text has."""
    if not prompt:
        raise Refusal(400, "The decoder prompt cannot be empty", param="prompt")
    for token in set(prompt):
        try:
            id_bytes(token)
        except ValueError as error:
            raise Refusal(400, f"Token id {token} is out of vocabulary", param="prompt") from error


def detokenized(tokens: list[int]) -> str:
    try:
        return decode(tokens)
    except ValueError as error:
        raise Refusal(400, str(error), param="tokens") from error
