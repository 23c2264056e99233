"""Rules that ask Presidio: in a thread, within their time. The real one is asked where it is installed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from router.guards.asking import MOST_CHARACTERS, ask_presidio
from router.guards.people import People, PresidioFailed, Span
from router.guards.rules import Action, Findings, Rule, Side
from tests.router.guards.stack import KEY, answering, guarded, received, settled
from tests.router.guards.test_answers import chat


def names(text: str) -> list[Span]:
    """Stands for an analyzer: it knows one person."""
    at = text.find("Ada")
    return [(at, at + 3, "person")] if at >= 0 else []


def rule(people: People, action: Action = Action.REDACT, *, fails_closed: bool = True) -> Rule:
    return Rule("people", action, frozenset(Side), fails_closed=fails_closed, people=people)


async def ask(texts: Sequence[str], *rules: Rule) -> tuple[dict[str, str], Findings]:
    findings = Findings(Side.INPUT)
    return await ask_presidio(rules, texts, findings), findings


async def test_what_it_finds_is_taken_out_and_counted() -> None:
    people = People(names, 20)
    changed, findings = await ask(["Ada and I", "nobody", "Ada and I"], rule(people))
    assert changed == {"Ada and I": "[person] and I"}
    assert findings.counts == {("people", Action.REDACT): 1}
    _, findings = await ask(["Ada"], rule(people, Action.BLOCK))
    assert findings.blocked_by is not None


async def test_two_rules_take_out_one_behind_the_other() -> None:
    def me(text: str) -> list[Span]:
        at = text.find("I")
        return [(at, at + 1, "me")]

    first, second = People(names, 20), People(me, 20)
    changed, _ = await ask(["Ada and I"], rule(first), rule(second))
    assert changed == {"Ada and I": "[person] and [me]"}


async def test_one_that_takes_too_long_is_not_waited_for_and_its_queue_is_bounded() -> None:
    go = threading.Event()

    def slow(_: str) -> list[Span]:
        go.wait(20)
        return []

    people = People(slow, 0.05)
    try:
        _, findings = await ask(["text"], rule(people))
        assert findings.unseen
        assert [one.cause for one in findings.failures] == ["timeout"]
        _, findings = await ask(["text"], rule(people, fails_closed=False))
        assert findings.blocked_by is None
        results = await asyncio.gather(*(people.find(["x"]) for _ in range(100)), return_exceptions=True)
        assert all(isinstance(one, PresidioFailed) for one in results)
        assert people._waiting <= 32
    finally:
        go.set()


async def test_one_that_fails_is_a_guard_that_cannot_look() -> None:
    def broken(_: str) -> list[Span]:
        raise ValueError("no model")

    people = People(broken, 20)
    _, findings = await ask(["text"], rule(people))
    assert [one.cause for one in findings.failures] == ["presidio"]


async def test_a_prompt_that_is_too_long_for_it_is_not_given_to_it() -> None:
    people = People(names, 20)
    _, findings = await ask(["x" * (MOST_CHARACTERS + 1)], rule(people))
    assert [one.cause for one in findings.failures] == ["size"]


@pytest.mark.filterwarnings("default")  # of spaCy's and of Presidio's own
def test_the_real_one_redacts_prompts_and_whole_answers(tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer", reason="Presidio is not installed: pip install 'promptlane[presidio]'")
    import spacy

    model = tmp_path / "blank"  # without a model for names: its other recognisers need none
    spacy.blank("en").to_disk(model)
    asked = {
        "name": "people",
        "action": "redact",
        "presidio": {"model": str(model), "entities": ["EMAIL_ADDRESS", "CREDIT_CARD"], "timeout": 60},
    }
    with guarded([asked]) as stack:
        stack.engines["e"].reply = answering(chat(content="mine is 4111 1111 1111 1111"))
        body = {"model": "tiny", "messages": [{"role": "user", "content": "I am ada@acme.com"}]}
        status, _, answer = stack.post("/v1/chat/completions", body, key=KEY)
        assert status == 200
        assert received(stack)["messages"][0]["content"] == "I am [email-address]"
        assert answer["choices"][0]["message"]["content"] == "mine is [credit-card]"
        settled(stack, {("people", "input", "redact"): 1, ("people", "output", "redact"): 1})
        status, _, answer = stack.post("/v1/chat/completions", {**body, "stream": True}, key=KEY)
        assert (status, answer["error"]["param"]) == (400, "stream")
