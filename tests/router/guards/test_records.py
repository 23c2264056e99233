"""What rules found is in a request's record: their names and how often, and no word of the text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.stack import poll
from tests.router.guards import events
from tests.router.guards.stack import DENY, KEY, PII, answering, config, streaming
from tests.router.guards.test_answers import chat
from tests.router.stack import Stack, running
from tests.router.test_request_records import Drawer

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def drawer() -> Drawer:
    return Drawer()


@pytest.fixture(scope="module")
def stack(drawer: Drawer) -> Iterator[Stack]:
    with running(config([PII, DENY]), ["e"], ledger=drawer) as one:
        yield one


def record(stack: Stack, drawer: Drawer, text: str, **fields: Any) -> tuple[Any, ...]:
    drawer.records.clear()
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}
    stack.post(CHAT, body, key=KEY)
    poll("there is a record", lambda: len(drawer.records) == 1)
    (one,) = drawer.records
    assert not [word for word in (b"jane", b"bomb") if word in one.body().lower()]
    return one.outcome, one.status, one.error, (one.detail or {}).get("verdicts")


def test_what_was_found_on_both_sides(stack: Stack, drawer: Drawer) -> None:
    stack.engines["e"].reply = answering(chat(content="jane@acme.com and ann@acme.com"))
    found = [["pii", "input", "redact", 1], ["pii", "output", "redact", 2]]
    assert record(stack, drawer, "to jane@acme.com") == ("complete", 200, None, found)


def test_what_was_blocked(stack: Stack, drawer: Drawer) -> None:
    blocked = "content_policy_violation"
    assert record(stack, drawer, "a bomb") == ("refused", 400, blocked, [["deny", "input", "block", 1]])
    stack.engines["e"].reply = answering(chat(content="a bomb"))
    assert record(stack, drawer, "calm") == ("refused", 400, blocked, [["deny", "output", "block", 1]])
    stack.engines["e"].reply = streaming([*events.chat(["it is a ", "bomb", ". "]), events.DONE])
    found = [["deny", "output", "block", 1]]
    assert record(stack, drawer, "calm", stream=True) == ("interrupted", 200, blocked, found)


def test_nothing_found_is_nothing_said(stack: Stack, drawer: Drawer) -> None:
    stack.engines["e"].reply = answering(chat(content="calm"))
    assert record(stack, drawer, "calm") == ("complete", 200, None, None)
