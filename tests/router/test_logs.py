"""Log lines: what a fault may say of itself, and what it must not."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest

from router.logs import JsonLines, TextLines, described

SAID = "a prompt nobody may see"


def record() -> logging.LogRecord:
    """Of a fault that quotes a prompt, in itself and in what caused it."""
    try:
        try:
            int(SAID)
        except ValueError as error:
            raise KeyError(SAID) from error
    except KeyError:
        return logging.LogRecord("promptlane.x", logging.ERROR, "x.py", 1, "request %s failed", ("r1",), sys.exc_info())


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()], ids=["text", "json"])
def test_a_fault_is_told_by_its_kind_and_place_and_never_by_what_it_quotes(formatter: logging.Formatter) -> None:
    line = formatter.format(record())
    assert SAID not in line
    assert "request r1 failed" in line
    assert line.index("ValueError") < line.index("KeyError"), "the cause first"
    assert "test_logs.py" in line


def test_json_lines_are_one_line_each() -> None:
    line = JsonLines().format(record())
    assert "\n" not in line
    assert set(json.loads(line)) == {"time", "level", "logger", "message", "exception"}


def test_what_the_system_says_is_kept() -> None:
    assert described(OSError(28, "No space left on device")) == "OSError: No space left on device"
    group = ExceptionGroup(SAID, [ValueError(SAID), OSError(2, "No such file")])
    assert described(group) == "ExceptionGroup of ValueError, FileNotFoundError: No such file"


def test_a_chain_without_end_ends() -> None:
    first, second = ValueError(SAID), KeyError(SAID)
    first.__cause__, second.__cause__ = second, first
    assert SAID not in described(first)


@pytest.mark.parametrize("worker", [None, 3])
def test_a_line_for_people_says_when_how_bad_and_who(worker: int | None) -> None:
    line = TextLines(worker).format(
        logging.LogRecord("promptlane.x", logging.WARNING, "x.py", 1, "%d gone", (2,), None)
    )
    whose = "" if worker is None else " worker 3"
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}} WARNING{whose} promptlane\.x: 2 gone", line)


def said(formatter: logging.Formatter, message: str, **fields: object) -> str:
    one = logging.LogRecord("promptlane.x", logging.INFO, "x.py", 1, message, (), None)
    vars(one).update(fields)
    return formatter.format(one)


def test_whose_request_it_is_stands_in_fields_and_nothing_else_of_a_record_does() -> None:
    fields = {"request_id": "r1", "tenant": "acme", "body": SAID, "stack_info": SAID}
    line = json.loads(said(JsonLines(2), "request r1 failed", **fields))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info", "worker": 2, "logger": "promptlane.x", "message": "request r1 failed",
        "request_id": "r1", "tenant": "acme",
    }  # fmt: skip
    text = said(TextLines(), "request r1 failed", **fields)
    assert text.endswith("promptlane.x: request r1 failed tenant=acme"), "what the message says is not said twice"


def test_a_fault_inside_the_gateway_names_request_and_tenant(caplog: pytest.LogCaptureFixture) -> None:
    from tests.router.stack import chat, running

    with running() as stack, pytest.MonkeyPatch.context() as patch:
        measurer = stack.app.runtime.gateway.services.measurer
        patch.setattr(type(measurer), "measure", lambda *_, **__: {}[SAID])
        status, headers, _ = stack.post("/v1/chat/completions", chat(), key="acme-key")
    assert status == 500
    (line,) = [json.loads(JsonLines().format(one)) for one in caplog.records if one.levelno == logging.ERROR]
    assert (line["tenant"], line["request_id"]) == ("acme", headers["x-request-id"])
    assert "KeyError" in line["exception"]
    assert SAID not in str(line)
