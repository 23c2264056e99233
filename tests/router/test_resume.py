"""A stream goes on elsewhere, over real sockets: what is asked of the other engine, and what is never invented."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from policies.health import EndpointHealth
from tests.router.stack import Stack, chat, running, whole
from tests.router.test_relay import STREAM
from tests.router.test_request_records import Drawer, only
from tests.router.test_wire_token_tap import DONE, role, said, usage

CHAT = "/v1/chat/completions"
CARDS = json.dumps({"object": "list", "data": [{"id": "tiny", "max_model_len": 100}]}).encode()


@pytest.fixture(scope="module")
def drawer() -> Drawer:
    return Drawer()


@pytest.fixture(scope="module")
def stack(drawer: Drawer) -> Iterator[Stack]:
    with running(ledger=drawer) as one:
        yield one


class Engines:
    """acme's two engines as one: the first stream breaks behind `first`, what follows is answered by path."""

    def __init__(self, stack: Stack) -> None:
        self.first: list[bytes] = []
        self.rest = [said("completions", "z", [9], "stop"), usage("completions"), DONE]
        self.texts: list[str] = []
        self._both = [stack.engines[name] for name in ("acme-0", "acme-1")]
        self.cards(CARDS)
        self.asked: list[tuple[str, Any]] = []
        self._streams = 0
        self.stays = False
        """Whether what follows has no end."""
        for engine in self._both:
            engine.reply = self._reply

    def cards(self, models: bytes) -> None:
        """What they say of their models."""
        for engine in self._both:
            engine.models = models

    @property
    def continuation(self) -> Any:
        """The body of the one request for the rest."""
        (body,) = [body for path, body in self.asked if path == "/v1/completions"]
        return body

    async def _reply(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        path = head.split()[1].decode()
        self.asked.append((path, json.loads(body) if body else None))
        if path == "/detokenize":
            writer.write(whole(json.dumps({"prompt": self.texts.pop(0)}).encode()))
        else:
            self._streams += 1
            await self._stream(self.first if self._streams == 1 else self.rest, writer, broken=self._streams == 1)
            if self._streams > 1 and not self.stays:
                writer.write(b"0\r\n\r\n")

    @staticmethod
    async def _stream(events: list[bytes], writer: asyncio.StreamWriter, *, broken: bool) -> None:
        writer.write(STREAM + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events))
        await writer.drain()
        if broken:
            await asyncio.sleep(0.01)  # so that what was written is read before the connection breaks
            writer.transport.abort()


@pytest.fixture
def engines(stack: Stack) -> Iterator[Engines]:
    async def healthy() -> None:
        for state in stack.app.runtime.pools["acme"].states:
            state.health = EndpointHealth(assume_healthy=True)

    stack.run(healthy())
    yield Engines(stack)

    async def settled() -> None:
        places = stack.app.runtime.pools["acme"].places
        async with asyncio.timeout(60):
            while any(place.upstream.busy or place.state.in_flight for place in places):  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.005)

    stack.run(settled())


def ask(stack: Stack, **fields: Any) -> str:
    status, _, body = stack.post(CHAT, chat(stream=True, **fields), key="acme-key")
    assert status == 200
    return bytes(body).decode()


def text(answer: str) -> str:
    events = [json.loads(line[6:]) for line in answer.split("\n\n") if line.startswith("data: {")]
    return "".join(choice["delta"].get("content", "") for event in events for choice in event.get("choices", []))


def code(answer: str) -> str:
    return str(json.loads(answer.split("\n\n")[-2].removeprefix("data: "))["error"]["code"])


def test_what_is_missing_is_asked_for_by_tokens(stack: Stack, engines: Engines) -> None:
    engines.first = [role([1, 2]), said("chat", "a", [7]), said("chat", "", [8])]
    answer = ask(stack, max_tokens=10)
    assert text(answer) == "az"
    assert answer.endswith("data: [DONE]\n\n")
    assert (engines.continuation["prompt"], engines.continuation["max_tokens"]) == ([1, 2, 7], 9)
    assert [path for path, _ in engines.asked] == [CHAT, "/v1/completions"]


def test_without_a_bound_the_models_context_is_asked_for(stack: Stack, engines: Engines) -> None:
    engines.first = [role([1, 2]), said("chat", "a", [7])]
    assert text(ask(stack)) == "az"
    assert engines.continuation["max_tokens"] == 97


@pytest.mark.parametrize("cards", [b'{"data":[]}', b"nonsense"])
def test_where_the_context_is_not_known_nothing_is_invented(stack: Stack, engines: Engines, cards: bytes) -> None:
    engines.first = [role([1, 2]), said("chat", "a", [7])]
    engines.cards(cards)
    answer = ask(stack)
    assert (text(answer), code(answer)) == ("a", "stream_interrupted")


def test_ids_of_half_a_character_behind_the_text_of_their_chunk_are_taken_back(stack: Stack, engines: Engines) -> None:
    engines.first, engines.texts = [role([1, 2]), said("chat", "a", [7, 8, 9])], ["a\ufffd\ufffd", "a\ufffd", "a"]
    assert text(ask(stack, max_tokens=10)) == "az"
    assert (engines.continuation["prompt"], engines.continuation["max_tokens"]) == ([1, 2, 7], 9)
    assert [body["tokens"] for path, body in engines.asked if path == "/detokenize"] == [[7, 8, 9], [7, 8], [7]]


def test_text_that_has_no_end_of_a_character_is_not_continued(stack: Stack, engines: Engines) -> None:
    engines.first, engines.texts = [role([1, 2]), said("chat", "a", [7, 8])], ["\ufffd"] * 9
    assert code(ask(stack, max_tokens=10)) == "stream_interrupted"


@pytest.mark.parametrize(
    "events",
    [
        [role([1]), said("chat", "a\ufffd", [7])],
        [role(None), said("chat", "a", None)],
        [role([1]), said("chat", "x", [7]).replace(b'{"content":"x"}', b'{"reasoning":"x"}')],
    ],
    ids=["half a character is out", "no ids", "reasoning"],
)
def test_what_cannot_be_continued_ends_with_an_error(stack: Stack, engines: Engines, events: list[bytes]) -> None:
    engines.first = events
    assert code(ask(stack, max_tokens=10)) == "stream_interrupted"
    assert [path for path, _ in engines.asked] == [CHAT]


def test_a_refused_continuation_is_not_asked_for_elsewhere(stack: Stack, engines: Engines) -> None:
    async def refused(request: bytes, writer: asyncio.StreamWriter) -> None:
        if b"POST /v1/completions" in request:
            engines.asked.append(("/v1/completions", None))
            writer.write(whole(b'{"error":{"message":"no"}}', b"400 Bad Request"))
        else:
            await engines._stream([role([1]), said("chat", "a", [7])], writer, broken=True)

    for name in ("acme-0", "acme-1"):
        stack.engines[name].reply = refused
    assert code(ask(stack, max_tokens=10)) == "stream_interrupted"
    assert len(engines.asked) == 1


def test_a_stream_that_broke_behind_its_last_word_is_ended_without_asking(stack: Stack, engines: Engines) -> None:
    engines.first = [role([1, 2]), said("chat", "a", [7]), said("chat", "b", [8], "stop")]
    answer = ask(stack, max_tokens=10, stream_options={"include_usage": True})
    assert text(answer) == "ab"
    assert '"usage":{"prompt_tokens":2,"total_tokens":4,"completion_tokens":2}' in answer
    assert answer.endswith("data: [DONE]\n\n")
    assert [path for path, _ in engines.asked] == [CHAT]


def test_a_client_that_leaves_what_was_continued_leaves_a_record_of_that(
    stack: Stack, engines: Engines, drawer: Drawer
) -> None:
    drawer.records.clear()
    engines.first, engines.stays = [role([1, 2]), said("chat", "a", [7])], True
    engines.rest = [said("completions", "z", [9])]
    data = json.dumps(chat(stream=True, max_tokens=10)).encode()
    head = "POST {} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer acme-key\r\ncontent-length: {}\r\n\r\n"
    with stack.connect() as client:
        client.settimeout(20)
        client.sendall(head.format(CHAT, len(data)).encode() + data)
        answer = b""
        while b'"z"' not in answer:
            received = client.recv(65536)
            assert received, "the answer ended"
            answer += received
    record = only(stack, drawer)
    assert (record.outcome, record.attempts, record.resumes) == ("client_left", 2, 1)


def resumed(stack: Stack, result: str) -> float:
    async def read() -> float:
        labels = {"pool": "acme", "way": "tokens", "result": result}
        return stack.process.metrics.registry.get_sample_value("promptlane_resumes_total", labels) or 0.0

    value: float = stack.run(read())
    return value


# The engine holds three characters back. Its text behind [7, 8] is `abcd`, of which the client has `a` then.
HELD = [role([1, 2]), said("chat", "", [7]), said("chat", "a", [8])]
# It is `abcdefgh` behind all ids: the client has `abcde`.
MORE = [*HELD, said("chat", "bc", [9]), said("chat", "de", [10])]


def test_with_stop_strings_a_stream_is_taken_up_before_what_was_held_back(stack: Stack, engines: Engines) -> None:
    engines.first = MORE
    engines.rest = [said("completions", "ef", [9]), said("completions", "ghi", [10], "stop"),
                    usage("completions").replace(b'"completion_tokens":3', b'"completion_tokens":2'), DONE]  # fmt: skip
    answer = ask(stack, stop=["stop"], min_tokens=3, max_tokens=10, stream_options={"include_usage": True})
    assert text(answer) == "abcdefghi"
    asked = engines.continuation
    assert (asked["prompt"], asked["max_tokens"], asked["min_tokens"]) == ([1, 2, 7, 8], 8, 1)
    assert asked["stop"] == ["stop"]
    # What was generated twice is counted once.
    assert '"usage":{"prompt_tokens":2,"total_tokens":6,"completion_tokens":4}' in answer


def test_where_no_token_was_shown_whole_it_is_begun_again_and_said_once(stack: Stack, engines: Engines) -> None:
    engines.first = HELD
    engines.rest = [role([1, 2]), said("chat", "", [7]), said("chat", "a", [8]), said("chat", "bc", [9], "stop"), DONE]
    answer = ask(stack, stop=["stop"], max_tokens=10)
    assert text(answer) == "abc"
    assert [path for path, _ in engines.asked] == [CHAT, CHAT]
    assert answer.count('"content":""') == 2  # with the role, and with the first token


def test_other_words_than_the_client_has_are_not_followed_and_no_fault_of_the_engine(
    stack: Stack, engines: Engines
) -> None:
    engines.first = MORE
    engines.rest = [said("completions", "xyz", [9]), said("completions", "", [10], "stop"), DONE]
    before = resumed(stack, "diverged")
    answer = ask(stack, stop=["stop"], max_tokens=10)
    assert (text(answer), code(answer)) == ("abcde", "stream_interrupted")
    assert resumed(stack, "diverged") - before == 2  # another draw might have said the same

    async def failures() -> list[int]:
        return [state.health._failures for state in stack.app.runtime.pools["acme"].states]

    assert sum(stack.run(failures())) == 1


def test_the_tenants_counters_have_what_the_client_got(stack: Stack, engines: Engines) -> None:
    engines.first = [role([1, 2]), said("chat", "a", [7])]
    engines.rest[1] = usage("completions").replace(b'"completion_tokens":3', b'"completion_tokens":1')

    def counted(kind: str) -> float:
        async def read() -> float:
            labels = {"tenant": "acme", "model": "tiny"}
            return stack.process.metrics.registry.get_sample_value(f"promptlane_{kind}_tokens_total", labels) or 0.0

        value: float = stack.run(read())
        return value

    before = counted("prompt"), counted("completion")
    ask(stack, max_tokens=10)
    assert (counted("prompt"), counted("completion")) == (before[0] + 2, before[1] + 2)


def test_the_log_says_where_it_goes_on_and_nothing_of_the_text(
    stack: Stack, engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    engines.first = [role([1, 2]), said("chat", "secret", [7])]
    with caplog.at_level("INFO", "promptlane.resume"):
        ask(stack, max_tokens=10)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "promptlane.resume"]
    assert "by tokens: 1 tokens said" in line
    assert "secret" not in line
