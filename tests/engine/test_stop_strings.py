"""Stop strings as the captured vLLM 0.32 treats them: what is held back, what is shown, which one ends the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.engine import answer
from benchmarks.engine.answer import Choice, StopRules
from benchmarks.engine.cache import BlockHasher
from benchmarks.engine.model import Sequence
from benchmarks.engine.text import Reply

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "samples" / "stop_strings.json").read_text())["cases"]
FIRST_ID = 100  # of ids that stand for nothing but their place


class _Said:
    """A reply that says one token after the other."""

    def __init__(self) -> None:
        self._next = FIRST_ID

    def next(self) -> int:
        self._next += 1
        return self._next - 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['stop']} {case['include']} {case['min_tokens']}")
def test_the_simulated_engine_shows_the_text_of_each_token_when_the_real_one_does(
    monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]
) -> None:
    texts = case["texts"]
    monkeypatch.setattr(answer, "token_text", lambda token: texts[token - FIRST_ID])
    rules = StopRules(tuple(case["stop"]), show=case["include"], min_tokens=case["min_tokens"])
    sequence = Sequence("s", 1, len(texts), [], 0)
    choice = Choice(0, [1], sequence, cast(Reply, _Said()), BlockHasher(16, ""), rules)
    shown, told = "", 0
    for count, text, finish, stop in case["events"]:
        told += count  # a busy engine tells of several tokens at once
        while len(choice.ids) < told:
            piece = choice.advance(len(choice.ids) == len(texts) - 1)
        shown += text
        assert (choice.text, piece.finish, piece.stop) == (shown, finish, stop)
    assert finish is not None
