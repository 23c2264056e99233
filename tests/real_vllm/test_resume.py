"""A real vLLM's stream, cut anywhere, goes on token for token: what the client has in the end is the unbroken answer.

Two endpoints lead to one engine, each through a tap with scissors, so that what differs is only the cut.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import httpx2
import pytest

from policies.health import EndpointHealth
from tests.e2e.tap import Scissors, Tap
from tests.real_vllm.servers import start_vllm
from tests.router.stack import Stack
from tests.servers import Server

pytestmark = pytest.mark.real_vllm

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
WORDS = "the class method returns value of object when called with list name and import error from".split()  # noqa: SIM905
TOKENS = 24
KEY = "pl-resume-key"
# An event in an answer: where its text begins and ends, in characters; what else it says; the tokens until there.
Place: TypeAlias = tuple[int, int, tuple[str, ...], int | None]
# Two bytes that make one letter, and two words: characters end in the middle of chunks and of answers.
BYTES = [131, 106, 68, 271]


@pytest.fixture(scope="module")
def engine() -> Iterator[Server]:
    server = start_vllm()
    yield server
    server.stop()


class Product:
    """A gateway before an engine, and the scissors between them."""

    def __init__(self, stack: Stack, engine: Server, scissors: Scissors) -> None:
        self._stack = stack
        self._engine = engine
        self.scissors = scissors
        headers = {"authorization": f"Bearer {KEY}"}
        self._http = httpx2.Client(
            base_url=f"http://127.0.0.1:{stack.port}", headers=headers, timeout=60.0, trust_env=False
        )

    def ask(self, path: str, body: dict[str, Any]) -> bytes:
        answer = self._http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.content

    def ask_engine(self, path: str, body: dict[str, Any]) -> bytes:
        return httpx2.post(self._engine.url + path, json=body, timeout=60.0, trust_env=False).content

    def cut(self, path: str, body: dict[str, Any], events: int, more: int = 0, *, silent: bool = False) -> bytes:
        """The answer to the client when the engine's is cut there. No cut is held against an endpoint.

        A busy engine puts several tokens into one event, and then an answer may be over before the cut: asked again.
        """
        before = self.scissors.cuts
        for _ in range(20):
            self._stack.run(self._forgive())
            self.scissors.order(events, more, silent=silent)
            answer = self.ask(path, body)
            if self.scissors.cuts == before + 1:
                return answer
        raise AssertionError("the stream was over before the cut, 20 times")

    def meet_engines(self) -> None:
        """A cut behind the last word is ended by the gateway, with what an earlier stream from that endpoint has told.

        A busy engine comes to the last word in few events, so that any cut may be one.
        """
        for seed in range(100):
            self.ask(CHAT, question(CHAT, 1000 + seed, max_tokens=2, stream_options={"include_usage": seed % 2 > 0}))
            if len(self._stack.app.runtime.gateway.models["acme"]["tiny"].fingerprints) == 2:
                return
        raise AssertionError("one endpoint got no request")

    async def _forgive(self) -> None:
        for pool in self._stack.app.runtime.pools.values():
            for state in pool.states:
                state.health = EndpointHealth(assume_healthy=True)

    def resumes(self, result: str) -> float:
        return self._sum("promptlane_resumes_total", result=result)

    def retries(self) -> float:
        """Streams that were begun anew, as nothing had been seen of them."""
        return self._sum("promptlane_retries_total")

    def _sum(self, name: str, **labels: str) -> float:
        async def read() -> float:
            found = self._stack.process.metrics.collect()
            return sum(
                sample.value
                for family in found
                for sample in family.samples
                if sample.name == name and labels.items() <= sample.labels.items()
            )

        total: float = self._stack.run(read())
        return total

    def close(self) -> None:
        self._http.close()


@pytest.fixture(scope="module")
def product(engine: Server) -> Iterator[Product]:
    target, scissors = urlsplit(engine.url), Scissors()
    assert target.hostname is not None
    assert target.port is not None
    with ExitStack() as opened:
        taps = [opened.enter_context(Tap((target.hostname, target.port), scissors)) for _ in range(2)]
        endpoints = [{"name": f"e{number}", "url": tap.url} for number, tap in enumerate(taps)]
        tenant = {
            "tier": "platinum",
            "api_keys": [{"id": "app", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}],
            "models": {"tiny": {"pool": "p"}},
        }
        config = {
            "tenants": {"acme": tenant},
            "pools": {"p": {"endpoints": endpoints, "timeouts": {"idle": 2.0}}},
        }
        stack = opened.enter_context(Stack(config, []))
        one = Product(stack, engine, scissors)
        opened.callback(one.close)
        one.meet_engines()
        yield one


def question(path: str, seed: int, **fields: Any) -> dict[str, Any]:
    random = Random(seed)
    text = " ".join(random.choices(WORDS, k=random.randrange(3, 90)))
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
    return {"model": "tiny", "max_tokens": TOKENS, "stream": True, "temperature": 0, **asked, **fields}


def parts_of(stream: bytes) -> list[dict[str, Any]]:
    events = stream.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""], events[-3:]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def text_of(parts: list[dict[str, Any]]) -> str:
    choices = [choice for part in parts for choice in part["choices"]]
    return "".join(one["text"] if "text" in one else one["delta"].get("content", "") for one in choices)


def endings(parts: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    choices = [choice for part in parts for choice in part["choices"]]
    return [(one["finish_reason"], one.get("stop_reason")) for one in choices if one["finish_reason"]]


def _always(part: dict[str, Any]) -> set[str]:
    """Its fields, but for one that only the last event has: a busy vLLM puts the first tokens and the last into one."""
    return set(part) - {"system_fingerprint"}


def assert_same(got: bytes, whole: bytes) -> None:
    mine, theirs = parts_of(got), parts_of(whole)
    assert text_of(mine) == text_of(theirs)
    assert endings(mine) == endings(theirs)
    assert len({(part["id"], part["created"], part["model"], part["object"]) for part in mine}) == 1
    assert [_always(part) for part in mine[:1]] == [_always(part) for part in theirs[:1]]
    assert set().union(*mine) == set().union(*theirs)
    assert sum("role" in choice.get("delta", {}) for part in mine for choice in part["choices"]) == sum(
        "role" in choice.get("delta", {}) for part in theirs for choice in part["choices"]
    )
    counts = [[part["usage"][name] for part in parts if part.get("usage")] for parts in (mine, theirs)
              for name in ("prompt_tokens", "completion_tokens", "total_tokens")]  # fmt: skip
    assert counts[:3] == counts[3:]
    assert mine[-1].get("system_fingerprint") == theirs[-1].get("system_fingerprint")


def test_greedy_answers_cut_anywhere_are_the_unbroken_ones(product: Product) -> None:
    """64 cuts: between two events and inside one, after the first and before the last."""
    random, cuts, before, retried = Random(11), 0, product.resumes("ok"), product.retries()
    for seed in range(32):
        path = CHAT if seed % 2 else COMPLETIONS
        fields: dict[str, Any] = {"stream_options": {"include_usage": True}} if seed % 4 < 2 else {}
        body = question(path, seed, **fields)
        whole = product.ask(path, body)
        for place in (random.randrange(1, TOKENS // 2), random.randrange(TOKENS // 2, TOKENS)):
            got = product.cut(path, body, place, more=random.choice((0, 0, 9, 150)))
            assert_same(got, whole)
            cuts += 1
    assert cuts == 64
    continued = product.resumes("ok") - before
    assert continued >= 50  # a cut behind the last word needs no engine, and one before the first is a retry
    assert continued + product.resumes("complete") + product.retries() - retried == cuts
    assert product.resumes("declined") == product.resumes("failed") == product.resumes("no_endpoint") == 0


def test_an_unbroken_stream_is_byte_for_byte_what_the_engine_sends_without_ids(product: Product) -> None:
    """But for ids and times, of which no two answers have the same.

    A busy engine puts several tokens into one event, so that two answers are seldom cut alike: events are compared
    that say the same piece of the text.
    """
    for path in (CHAT, COMPLETIONS):
        for fields in ({}, {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}):
            body = question(path, 100, **fields)
            ours: dict[Place, bytes] = {}
            theirs: dict[Place, bytes] = {}
            for _ in range(40):
                pair = product.ask(path, body), product.ask_engine(path, body)
                assert text_of(parts_of(pair[0])) == text_of(parts_of(pair[1]))
                ours |= _events(pair[0])
                theirs |= _events(pair[1])
                if len(common := ours.keys() & theirs.keys()) >= TOKENS // 2:
                    break
            assert len(common) >= TOKENS // 2, (ours.keys(), theirs.keys())
            assert {place: ours[place] for place in common} == {place: theirs[place] for place in common}
            assert _said(ours) == _said(theirs)


def _events(stream: bytes) -> dict[Place, bytes]:
    """Each event by the place of its text in the answer: where it begins, where it ends, and what else it says."""
    events, at = {}, 0
    for event, part in zip(_bare(stream).split(b"\n\n"), parts_of(stream), strict=False):  # the last is [DONE]
        until = at + len(text_of([part]))
        choice = part["choices"][0] if part["choices"] else {}
        said = (
            "usage" if not part["choices"] else str(choice["finish_reason"]),
            *sorted(choice.get("delta", ())),
        )
        events[at, until, said, (part.get("usage") or {}).get("completion_tokens")] = event
        at = until
    return events


def _said(events: dict[Place, bytes]) -> set[str]:
    return {said for place in events for said in place[2]}


def _bare(stream: bytes) -> bytes:
    named = re.sub(rb'"id":"[^"]*"', b'"id":""', stream)
    cached = re.sub(rb'"prompt_tokens_details":\{[^}]*\}', b"", named)  # the gateway's requests have a salt
    return re.sub(rb'"created":\d+', b'"created":0', cached)


def test_a_chat_without_a_bound_goes_on_to_the_end_of_the_context(product: Product) -> None:
    words = " ".join(Random(3).choices(WORDS, k=7000))
    body = question(CHAT, 0, messages=[{"role": "user", "content": words}])
    del body["max_tokens"]
    whole = product.ask(CHAT, body)
    assert len(parts_of(whole)) > 50
    for place in (3, 40):
        assert_same(product.cut(CHAT, body, place), whole)


def test_characters_that_are_cut_in_the_middle_are_neither_lost_nor_doubled(product: Product) -> None:
    for path in (CHAT, COMPLETIONS):
        for seed in range(4):
            body = question(path, seed, allowed_token_ids=BYTES, stream_options={"include_usage": True})
            whole = product.ask(path, body)
            for place in (3, 9, 15, 21):
                assert_same(product.cut(path, body, place), whole)


def test_penalties_limits_and_ends_carry_over(product: Product) -> None:
    for number, fields in enumerate(
        (
            {"repetition_penalty": 1.3},
            {"min_tokens": 12, "logit_bias": {"2": 30}},
            {"logit_bias": {"2": 2.5}},
            {"stop_token_ids": [271, 389, 68]},
            {"ignore_eos": True, "top_k": 5, "top_p": 0.9},
        )
    ):
        for path in (CHAT, COMPLETIONS):
            body = question(path, 200 + number, **fields)
            whole = product.ask(path, body)
            for place in (2, 5):
                if len(parts_of(whole)) > place + 1:
                    assert_same(product.cut(path, body, place), whole)


def test_answers_with_stop_strings_cut_anywhere_are_the_unbroken_ones(product: Product) -> None:
    """Stop strings over two tokens, within one, never said, shown or not, and looked for only after some tokens."""
    random, cuts = Random(5), 0
    before = {result: product.resumes(result) for result in ("ok", "complete", "declined", "diverged", "failed")}
    retried = product.retries()
    for seed in range(12):
        path = CHAT if seed % 2 else COMPLETIONS
        body = question(path, 400 + seed)
        said = text_of(parts_of(product.ask(path, body)))
        space = said.index(" ", len(said) * 2 // 3)
        over_two_tokens, within_one = said[space - 3 : space + 4], said[space + 1 : space + 4]
        for stop, fields in (
            (over_two_tokens, {}),
            ([over_two_tokens, "never said at all"], {"include_stop_str_in_output": True}),
            (["never said", "nor this"], {}),
            ([within_one, over_two_tokens], {"min_tokens": 6, "stream_options": {"include_usage": True}}),
        ):
            asked = {**body, "stop": stop, **fields}
            whole = product.ask(path, asked)
            events = whole.count(b"\n\n") - (2 if "stream_options" in asked else 1)
            place = random.randrange(1, max(2, events))
            assert_same(product.cut(path, asked, place, more=random.choice((0, 0, 9, 150))), whole)
            cuts += 1
    assert cuts == 48
    came = {result: product.resumes(result) - count for result, count in before.items()}
    assert came["ok"] >= 24
    assert came["ok"] + came["complete"] + product.retries() - retried == cuts
    assert came["declined"] == came["diverged"] == came["failed"] == 0


def test_characters_and_stop_strings_that_are_cut_in_the_middle_are_neither_lost_nor_doubled(product: Product) -> None:
    """The bytes of letters and of what is no letter, in answers whose ends are held back."""
    for path in (CHAT, COMPLETIONS):
        for seed in range(3):
            body = question(path, seed, allowed_token_ids=BYTES, stream_options={"include_usage": True})
            said = text_of(parts_of(product.ask(path, body)))
            for stop in ([said[-6:-2]], ["\ufffd\ufffd\ufffd", "never"]):
                for fields in ({}, {"include_stop_str_in_output": True}):
                    asked = {**body, "stop": stop, **fields}
                    whole = product.ask(path, asked)
                    place = min(9 + 2 * seed, whole.count(b"\n\n") - 2)
                    assert_same(product.cut(path, asked, place), whole)


def test_an_engine_that_goes_silent_is_left(product: Product) -> None:
    body = question(CHAT, 300)
    whole = product.ask(CHAT, body)
    assert_same(product.cut(CHAT, body, 5, silent=True), whole)


def test_an_answer_cut_after_its_end_is_finished_by_the_gateway(product: Product) -> None:
    body = question(CHAT, 301, stream_options={"include_usage": True})
    whole = product.ask(CHAT, body)
    events = whole.count(b"\n\n")
    for place in (events - 2, events - 1):  # behind the last word; behind the usage
        got, theirs = (parts_of(one) for one in (product.cut(CHAT, body, place), whole))
        assert text_of(got) == text_of(theirs)
        assert endings(got) == endings(theirs)
        assert [got[-1]["usage"][name] for name in ("prompt_tokens", "completion_tokens")] == [
            theirs[-1]["usage"][name] for name in ("prompt_tokens", "completion_tokens")
        ]
