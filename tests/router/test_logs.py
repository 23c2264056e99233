"""Log lines: what a fault may say of itself, and what it must not."""

from __future__ import annotations

import json
import logging
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
