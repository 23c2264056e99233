"""The access log: one line a request, whatever its end; and what becomes of it when its file does not take it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router.access_log import AccessLog, Line, encoded
from tests.router.stack import Stack, chat, running, two_tenants

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    return []


class _Kept:
    def __init__(self, lines: list[Line]) -> None:
        self.add: Callable[[Line], None] = lines.append


@pytest.fixture(scope="module")
def stack(lines: list[Line]) -> Iterator[Stack]:
    with running(two_tenants(), access=_Kept(lines)) as one:
        yield one


def only(stack: Stack, lines: list[Line]) -> dict[str, Any]:
    """The one line that there is, once it is there: an answer is out before it is."""

    async def there() -> None:
        async with asyncio.timeout(60):
            while not lines:  # noqa: ASYNC110 - a list has no event to wait for
                await asyncio.sleep(0.005)

    stack.run(there())
    (line,) = lines
    lines.clear()
    found: dict[str, Any] = json.loads(encoded(line))
    return found


def test_a_request_leaves_one_line_with_what_is_known_of_it(stack: Stack, lines: list[Line]) -> None:
    headers = {"x-request-id": "req-1"}
    assert stack.post(CHAT, chat("qwen2-7b"), key="acme-key", headers=headers)[0] == 200
    line = only(stack, lines)
    assert next(iter(line)) == "time"
    assert line.pop("time").endswith("+00:00")
    assert 0 < line.pop("first_byte_seconds") <= line.pop("total_seconds")
    assert line.pop("queue_seconds") >= 0
    assert line.pop("endpoint") in ("acme-0", "acme-1")
    assert line == {
        "request_id": "req-1", "client": "127.0.0.1", "api": "chat", "status": 200, "tenant": "acme", "key": "main",
        "model": "qwen2-7b", "lane": "short", "pool": "acme", "finish_reason": "stop", "attempts": 1,
        "prompt_tokens": 9, "cached_tokens": 4, "completion_tokens": 1,
    }  # fmt: skip


def test_who_is_not_known_leaves_a_line_too(stack: Stack, lines: list[Line]) -> None:
    assert stack.post(CHAT, chat(), key="wrong")[0] == 401
    line = only(stack, lines)
    assert (line["status"], line["error"], line.get("tenant"), line.get("key")) == (401, "invalid_api_key", None, None)


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("GET", "/v1/models", {"method": "GET", "api": "models", "status": 200, "tenant": "acme"}),
        ("GET", "/v1/secret?key=pl-x", {"method": "GET", "api": "unknown", "status": 404, "error": "unknown_url"}),
        ("PROPFIND", CHAT, {"method": "other", "api": "unknown", "status": 405, "error": "method_not_allowed"}),
    ],
)
def test_other_urls_are_logged_without_what_they_say(
    stack: Stack, lines: list[Line], method: str, path: str, said: dict[str, Any]
) -> None:
    assert stack.get(path, key="acme-key", method=method)[0] == said["status"]
    line = only(stack, lines)
    assert {key: line.get(key) for key in said} == said
    assert "secret" not in str(line)


# -- the file


def line(number: int) -> Line:
    return Line(at=0.0, request_id=str(number), client="::1", api="chat", status=200, total_seconds=0.5)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def ids(file: Path) -> list[str]:
    return [json.loads(one)["request_id"] for one in file.read_text().splitlines()] if file.exists() else []


def test_a_file_that_is_moved_away_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "access.jsonl"
    log = AccessLog(str(file))
    log.open()
    log.add(line(1))
    until(lambda: ids(file) == ["1"])
    file.rename(tmp_path / "access.1")
    log.add(line(2))
    until(lambda: ids(file) == ["2"])
    log.add(line(3))
    log.stop()
    assert (ids(tmp_path / "access.1"), ids(file)) == (["1"], ["2", "3"]), "what waited is out at the end"
    assert log.counts == {"written": 3, "dropped": 0, "failed": 0}
    assert file.stat().st_mode & 0o007 == 0, "nobody else reads it"


def test_what_does_not_fit_is_dropped_and_counted_and_nothing_waits(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "access"), most_waiting=2)
    for number in range(5):
        log.add(line(number))
    assert log.counts["dropped"] == 3
    log.open()
    log.stop()
    assert ids(tmp_path / "access") == ["0", "1"]


def test_a_full_disk_costs_lines_and_leaves_no_half_ones_in_others(caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog("/dev/full")
    log.open()
    log.add(line(1))
    until(lambda: log.counts["failed"] == 1)
    log.add(line(2))
    log.stop()
    assert log.counts == {"written": 0, "dropped": 0, "failed": 2}
    assert [record.message for record in caplog.records] == [
        "the access log cannot be written (No space left on device); its lines are lost"
    ]


def test_a_line_that_was_cut_off_is_ended_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, real, room = tmp_path / "access", os.write, [10]

    def write(to: int, data: bytes) -> int:
        if not room:
            return real(to, data)
        left = room.pop()
        if left == 0:
            raise OSError(28, "No space left on device")
        room.append(0)
        return real(to, data[:left])

    log = AccessLog(str(file))
    monkeypatch.setattr("router.access_log.os.write", write)
    log.open()
    log.add(line(1))
    until(lambda: log.counts["failed"] == 1)
    log.add(line(2))
    log.stop()
    cut, whole = file.read_text().splitlines()
    assert len(cut) == 10
    assert json.loads(whole)["request_id"] == "2"


def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        AccessLog(str(tmp_path)).open()
