"""A guard that is a service: what it is asked, and what happens when it hangs, dies or answers nonsense."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from tests.e2e.stack import poll
from tests.router.guards import events
from tests.router.guards.moderator import Moderator, running_moderator
from tests.router.guards.stack import KEY, answering, config, failures, guarded, settled, streaming, verdicts
from tests.router.guards.test_answers import QUESTIONS, chat, message
from tests.router.stack import Stack, running

CHAT = "/v1/chat/completions"
MOODS = pytest.mark.parametrize(
    ("mood", "cause"),
    [
        ("silent", "timeout"), ("dead", "unreachable"), ("broken", "status"), ("nonsense", "nonsense"),
        ("few", "nonsense"), ("html", "nonsense"), ("endless", "nonsense"),
    ],
)  # fmt: skip


def rule(moderator: Moderator, name: str = "asked", **fields: Any) -> dict[str, Any]:
    service = {"url": moderator.url, "model": "omni", "timeout": 60, **fields.pop("service", {})}
    return {"name": name, "action": "block", "service": service, **fields}


@pytest.fixture(scope="module")
def moderator() -> Iterator[Moderator]:
    with running_moderator() as one:
        yield one


@pytest.fixture(scope="module")
def closed(moderator: Moderator) -> Iterator[Stack]:
    with guarded([rule(moderator)]) as stack:
        yield stack


@pytest.fixture(scope="module")
def opened(moderator: Moderator) -> Iterator[Stack]:
    with guarded([rule(moderator, when_unavailable="allow")]) as stack:
        yield stack


@pytest.fixture(autouse=True)
def fresh(moderator: Moderator, closed: Stack, opened: Stack) -> Iterator[None]:
    for stack in (closed, opened):
        stack.engines["e"].received.clear()
        stack.engines["e"].reply = answering(chat(content="a calm answer"))
        for name in ("verdicts", "failures"):
            stack.process.metrics._totals[f"promptlane_guard_{name}"].clear()
    moderator.asked.clear()
    yield
    moderator.mood = "well"


def ask(stack: Stack, text: str, **fields: Any) -> tuple[int, Any]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}
    status, _, answer = stack.post(CHAT, body, key=KEY)
    return status, answer


def test_it_is_asked_about_every_text_of_the_prompt_and_of_the_answer(closed: Stack, moderator: Moderator) -> None:
    assert ask(closed, "a calm question")[0] == 200
    (prompt, _), (answer, _) = moderator.asked
    assert prompt == {"model": "omni", "input": ["a calm question"]}
    assert answer["input"] == ["a calm answer"]


def test_what_it_flags_is_refused_on_both_sides(closed: Stack) -> None:
    status, got = ask(closed, "words of hate")
    assert (status, got["error"]["code"]) == (400, "content_policy_violation")
    assert closed.engines["e"].received == []
    settled(closed, {("asked", "input", "block"): 1})
    closed.engines["e"].reply = answering(chat(content="words of hate"))
    status, got = ask(closed, "a calm question")
    assert (status, got["error"]["code"]) == (400, "content_policy_violation")
    settled(closed, {("asked", "input", "block"): 1, ("asked", "output", "block"): 1})


@MOODS
def test_without_its_word_nothing_passes(closed: Stack, moderator: Moderator, mood: str, cause: str) -> None:
    with facing(moderator, mood, closed) as stack:
        status, got = ask(stack, "a calm question")
        assert (status, got["error"]["code"]) == (503, "guard_unavailable")
        assert stack.engines["e"].received == []
        assert failures(stack) == {("asked", "input", cause): 1}


@MOODS
def test_or_all_passes_where_the_rule_says_so(opened: Stack, moderator: Moderator, mood: str, cause: str) -> None:
    with facing(moderator, mood, opened, when_unavailable="allow") as stack:
        assert ask(stack, "words of hate")[0] == 200
        both = {("asked", "input", cause): 1, ("asked", "output", cause): 1}
        poll("both sides are counted", lambda: failures(stack) == both)
        assert verdicts(stack) == {}


def test_a_service_that_nobody_runs_is_unreachable() -> None:
    nobody = {"name": "asked", "service": {"url": "http://127.0.0.1:9/v1/moderations"}}
    with guarded([nobody]) as stack:
        assert ask(stack, "x y")[0] == 503
        assert failures(stack) == {("asked", "input", "unreachable"): 1}


def test_only_the_categories_that_are_named_count(moderator: Moderator) -> None:
    with guarded([rule(moderator, service={"categories": ["violence"]})]) as stack:
        stack.engines["e"].reply = answering(chat(content="calm"))
        assert ask(stack, "words of hate")[0] == 200
        assert ask(stack, "let us fight")[0] == 400


@contextmanager
def facing(moderator: Moderator, mood: str, usual: Stack, **fields: Any) -> Iterator[Stack]:
    """The stack for a mood: one that is not patient with a silent service, else the usual one."""
    moderator.mood = mood
    if mood != "silent":
        yield usual
        return
    service = {**fields.pop("service", {}), "timeout": 0.2}
    with guarded([rule(moderator, service=service, **fields)]) as stack:
        stack.engines["e"].reply = answering(chat(content="a calm answer"))
        yield stack


STREAMS: dict[str, tuple[str, Any]] = {
    "chat": (CHAT, events.chat),
    "completions": ("/v1/completions", events.completions),
    "messages": ("/v1/messages", events.messages),
    "responses": ("/v1/responses", events.responses),
}


def stream(stack: Stack, api: str, *said: str) -> tuple[int, Any, list[dict[str, Any]]]:
    """Status, what came, and its events."""
    path, make = STREAMS[api]
    stack.engines["e"].reply = streaming([*make(said), *([events.DONE] if api in ("chat", "completions") else [])])
    body = {"model": "qwen", "stream": True, **QUESTIONS[path]}
    status, _, answer = stack.post(path, body, key=KEY)
    return status, answer, events.read(answer) if isinstance(answer, bytes) else []


@pytest.fixture(scope="module")
def watched(moderator: Moderator) -> Iterator[Stack]:
    asked = rule(moderator, on="output", service={"stream_characters": 20})
    with guarded([asked, {"name": "mails", "on": "output", "action": "redact", "find": {"pii": ["email"]}}]) as stack:
        yield stack


@pytest.mark.parametrize("api", STREAMS)
def test_of_a_stream_only_what_it_has_seen_leaves(watched: Stack, moderator: Moderator, api: str) -> None:
    said = [f"word {number:02} " for number in range(12)]
    status, _, got = stream(watched, api, *said)
    assert status == 200
    assert list(events.texts(got).values()) == ["".join(said)]
    asked = [body["input"] for body, _ in moderator.asked]
    assert all(len(texts) == 1 for texts in asked)
    whole = "".join(said)
    assert whole.startswith(asked[0][0])
    for (before,), (text,) in pairwise(asked):  # with what stood before
        assert text.startswith(before[-20:])
        assert text in whole
    assert asked[-1][0].endswith("word 11 ")


@pytest.mark.parametrize("api", STREAMS)
def test_of_a_stream_that_it_flags_nothing_from_there_on_leaves(watched: Stack, moderator: Moderator, api: str) -> None:
    said = [*(f"word {number:02} " for number in range(9)), "words of ha", "te ", *["and more "] * 9]
    status, answer, got = stream(watched, api, *said)
    assert status == 200
    (text,) = events.texts(got).values()
    assert "".join(said).startswith(text)
    assert "ha" not in text
    assert "word 01" in text
    if api == "responses":
        assert got[-1]["type"] == "response.incomplete"
        numbers = [event["sequence_number"] for event in got]
        assert numbers == sorted(set(numbers))
    elif api == "messages":
        assert got[-2]["delta"]["stop_reason"] == "refusal"
    else:
        assert got[-1]["choices"][0]["finish_reason"] == "content_filter"
        assert answer.endswith(events.DONE)
    assert "hate" in moderator.asked[-1][0]["input"][0]
    poll("it is counted", lambda: verdicts(watched).get(("asked", "output", "block"), 0) > 0)


@MOODS
def test_a_stream_that_it_cannot_see_does_not_begin(
    watched: Stack, moderator: Moderator, mood: str, cause: str
) -> None:
    with facing(moderator, mood, watched, on="output", service={"stream_characters": 20}) as stack:
        _, answer, got = stream(stack, "completions", *["a word "] * 9)
        assert (got, answer["error"]["code"]) == ([], "guard_unavailable")


def test_a_stream_goes_on_unseen_where_the_rule_says_so(opened: Stack, moderator: Moderator) -> None:
    moderator.mood = "broken"
    with guarded([rule(moderator, on="output", when_unavailable="allow")]) as stack:
        status, _, got = stream(stack, "chat", "words of hate")
        assert (status, list(events.texts(got).values())) == (200, ["words of hate"])


def test_other_rules_look_at_the_same_stream(watched: Stack, moderator: Moderator) -> None:
    _, _, got = stream(watched, "chat", "write to jane", "@acme.com", " soon")
    assert list(events.texts(got).values()) == ["write to [email] soon"]
    assert "jane" not in str(moderator.asked)


def test_a_rule_for_prompts_alone_lets_streams_be(moderator: Moderator) -> None:
    with guarded([rule(moderator, on="input")]) as stack:
        status, _, got = stream(stack, "chat", "words of hate")
        assert (status, list(events.texts(got).values())) == (200, ["words of hate"])
        assert len(moderator.asked) == 1


def test_messages_are_told_in_their_own_words(closed: Stack, moderator: Moderator) -> None:
    body = {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "hate"}]}
    status, _, got = closed.post("/v1/messages", body, key=KEY)
    assert (status, got["type"], got["error"]["type"]) == (400, "error", "invalid_request_error")
    moderator.mood = "broken"
    closed.engines["e"].reply = answering(message(type="text", text="x"))
    assert closed.post("/v1/messages", body, key=KEY)[0] == 503


def test_other_rules_come_first_and_spare_the_question(moderator: Moderator) -> None:
    words = {"name": "words", "find": {"words": ["bomb"]}}
    with guarded([rule(moderator), words]) as stack:
        assert ask(stack, "a bomb")[0] == 400
    assert moderator.asked == []


def test_its_key_comes_from_the_environment_and_its_connections_outlive_a_reload(
    moderator: Moderator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from router.assembly import build
    from router.config import ConfigError, loads

    text = {**config([rule(moderator, service={"api_key_env": "MODERATION_KEY"})])}
    with pytest.raises(ConfigError, match="api_key_env"):
        loads(__import__("json").dumps(text).replace("ENGINE:e", "http://127.0.0.1:9").encode(), {})
    monkeypatch.setattr("tests.router.stack.loads", lambda data, env: loads(data, {**env, "MODERATION_KEY": "sk-mod"}))
    with running(text, ["e"]) as stack:
        assert ask(stack, "calm")[0] == 200
        assert moderator.asked[0][1] == "Bearer sk-mod"
        before = stack.app.runtime
        assert before.guards is not None

        async def reload() -> None:
            stack.app.runtime = build(stack.configure(text), stack.process, before)
            stack.app.runtime.start()
            await before.stop(stack.app.runtime)

        stack.run(reload())
        (kept,) = stack.app.runtime.guards.services.values()
        assert [kept] == list(before.guards.services.values())
        assert ask(stack, "hate")[0] == 400
        assert verdicts(stack)[("asked", "input", "block")] == 1
        stack.run(kept.close())
        assert stack.run(kept.flags(["hate"])), "a request that began before a reload is examined after it"
        assert kept._http.is_closed
