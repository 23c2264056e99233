"""Answers that wait to be looked at: bounded in number and time, and never at the cost of a record."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from router.ledger import writer as writer_module
from router.ledger.outputs import Outputs
from router.output_metrics import OutputCollector
from router.wire.answer_sample import AnswerSample
from router.wire.draft import Answered, Draft
from router.wire.openai import APIS
from router.wire.record import Record
from tests.router.ledger.records import AT
from tests.router.ledger.test_writer import Desk, desk, until

__all__ = ["desk"]
SPEC = APIS["/v1/chat/completions"]


def draft(text: str = "hello there", name: str = "a") -> Draft:
    sample = AnswerSample()
    sample.keep(json.dumps({"choices": [{"message": {"content": text}}]}).encode())
    record = Record("", 0, "request", AT, tenant="acme", request_id=name, status=200)
    return Draft(record, SPEC, {}, answered=Answered(sample, b'"hi"'))


def test_no_more_wait_than_there_is_room_for_and_the_rest_is_counted() -> None:
    outputs = Outputs(most=2)
    assert [outputs.takes() for _ in range(3)] == [True, True, False]
    assert outputs.skipped == 1
    outputs.look(draft(), b"k", in_time=True)
    assert outputs.takes(), "one was looked at"
    assert outputs.looked == {"whole": 1}


def test_what_there_is_no_time_for_is_let_go_and_counted() -> None:
    outputs, one = Outputs(), draft()
    outputs.look(one, b"k", in_time=False)
    assert (one.answered, one.record.output, outputs.skipped) == (None, None, 1)


def test_the_writer_looks_at_answers_and_writes_what_it_found(desk: Desk) -> None:
    desk.writer.add(draft())
    until(lambda: desk.writer.written["request"] == 1)
    (record,) = desk.records()
    assert record.output == {
        "seen": "whole", "characters": 11, "shift": 0.0, "scripts": {"latin": 1.0}, "refusal": False,
    }  # fmt: skip
    assert desk.writer.outputs.looked == {"whole": 1}


def test_records_are_written_also_where_no_time_is_left_to_look(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "LOOK_SECONDS", 0.0)
    for number in range(5):
        desk.writer.add(draft(name=str(number)))
    until(lambda: desk.writer.written["request"] == 5)
    assert desk.writer.outputs.skipped == 5
    assert [record.output for record in desk.records()] == [None] * 5


def test_a_fault_in_looking_costs_no_record(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Draft, "examine", broken)
    desk.writer.add(draft())
    until(lambda: desk.writer.written["request"] == 1)
    assert desk.writer.faults == 1
    assert desk.names() == ["a"]


def test_while_nothing_can_be_written_the_texts_of_drafts_are_let_go(desk: Desk) -> None:
    desk.error = 28
    kept = draft()
    desk.writer.add(kept)
    until(lambda: desk.writer.failures.total() >= 1)
    assert kept.answered is None
    desk.error = None
    until(lambda: desk.writer.written["request"] == 1)


# -- what all answers of a model say

KEY = ("acme", "qwen", "tokens")


def finished(
    tokens: int | None = 10, path: str = "/v1/chat/completions", most: int | None = None, **more: Any
) -> Draft:
    known = {"tenant": "acme", "model": "qwen", "outcome": "complete", "finish_reason": "stop", "status": 200}
    return Draft(Record("", 0, "request", AT, completion_tokens=tokens, **(known | more)), APIS[path], {}, most)


def noted(*drafts: Draft, file: Path | None = None) -> Outputs:
    made = Outputs(file)
    for one in drafts:
        made.note(one, None)
    made.turn(AT)
    return made


def test_each_good_answer_counts_whether_its_text_was_looked_at_or_not() -> None:
    readings = noted(finished(10), finished(30, finish_reason="length"), finished(0, finish_reason=None)).readings
    assert readings[KEY].level == pytest.approx(40 / 3)
    assert readings["acme", "qwen", "finish"].level == 0.5, "of those that say why they ended"


@pytest.mark.parametrize(
    "odd",
    [
        finished(outcome="client_left"),
        finished(outcome="refused", status=400),
        finished(model=None),
        finished(detail={"choices": 2}),
        finished(most=512),
        finished(path="/v1/embeddings"),
        finished(path="/v1/messages/count_tokens"),
    ],
)
def test_what_is_no_answer_of_the_models_own_is_not_counted(odd: Draft) -> None:
    assert noted(odd).readings == {}


def test_distributions_go_on_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "outputs.json"
    before = noted(*(finished(tokens) for tokens in range(100)), file=file)
    before.keep()
    after = Outputs(file)
    after.restore()
    assert after.readings == before.readings
    assert after.readings[KEY].level == 49.5


@pytest.mark.parametrize("written", [b"", b"{}", b"[[1]]", b"\xff", b'[{"tenant":"acme"}]'])
def test_a_file_that_is_none_is_left_behind_and_said(
    tmp_path: Path, written: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "outputs.json"
    file.write_bytes(written)
    made = Outputs(file)
    with caplog.at_level(logging.WARNING):
        made.restore()
    assert made.readings == {}
    assert "begin anew" in caplog.text
    made.note(finished(), None)
    made.keep()
    again = Outputs(file)
    again.restore()
    assert KEY in again.readings


def test_a_folder_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    made = noted(finished(), file=tmp_path / "missing" / "outputs.json")
    made.keep()
    assert KEY in made.readings


def test_the_metrics_say_how_far_each_models_answers_have_moved() -> None:
    made = Outputs()
    for number in range(1000):
        draft = finished(10 if number < 900 else 500)
        draft.record.at = AT + 10 * number
        made.note(draft, None)
    made.note(finished(tenant="gone"), None)
    made.note(finished(model="gone"), None)
    made.turn(AT + 10_000)
    registry = CollectorRegistry()
    registry.register(OutputCollector(made, lambda: {"acme": {"qwen"}}))
    text = generate_latest(registry).decode()
    assert "gone" not in text, "it is not served any more"
    rows = dict(row.rsplit(" ", 1) for row in text.splitlines() if row[0] != "#")
    labels = '{measure="tokens",model="qwen",tenant="acme"}'
    assert float(rows[f"promptlane_output_drift{labels}"]) > 0.25
    assert float(rows[f"promptlane_output_level{labels}"]) > 10
    assert rows['promptlane_output_looks_total{result="skipped"}'] == "0.0"


def test_the_writer_counts_all_that_it_finishes(desk: Desk) -> None:
    for tokens in (10, 20):
        desk.writer.add(finished(tokens))
    until(lambda: desk.writer.written["request"] == 2)
    desk.writer.stop(10.0)
    desk.writer.outputs.turn(AT + 1000.0)
    assert desk.writer.outputs.readings[KEY].level == 15.0
