"""The writer's thread: what it does with records that the disk does not take, and what requests notice of it."""

from __future__ import annotations

import errno
import hashlib
import hmac
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from policies.ledger.backlog import OnFull
from policies.ledger.chain import Mark, verify
from router.ledger.segments import read_chain, segment_path, segments
from router.ledger.spool import Spool
from router.ledger.writer import Writer
from router.wire.draft import Draft
from router.wire.openai import APIS
from router.wire.record import Record, read_record
from tests.router.ledger.records import AT, KEY, REPLICA, request

MOST = 50


@dataclass
class Desk:
    folder: Path
    spool: Spool
    writer: Writer
    error: int | None = None

    def sync(self, descriptor: int) -> None:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))

    def records(self) -> list[Record]:
        links = [link for link in read_chain(self.folder) if link is not None]
        assert verify(KEY, links, Mark(links[0].sequence - 1, links[0].previous) if links else None)[1] is None
        found = [read_record(link.body) for link in links]
        return [record for record in found if record is not None]

    def names(self) -> list[str | None]:
        return [record.request_id for record in self.records()]


@pytest.fixture(params=[OnFull.ALLOW])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    made: Desk
    spool = Spool(tmp_path, REPLICA, KEY, Mark(), 2**20, lambda descriptor: made.sync(descriptor))
    made = Desk(tmp_path, spool, Writer(spool, KEY, request.param, lambda: AT + 60.0, most=MOST))
    made.writer.start()
    yield made
    made.error = None
    made.writer.stop(10.0)
    assert not made.writer.running


refusing = pytest.mark.parametrize("desk", [OnFull.REFUSE], indirect=True)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_records_are_on_the_disk_soon_and_all_of_them_at_the_end(desk: Desk) -> None:
    for number in range(40):
        desk.writer.add(request(number))
    until(lambda: desk.writer.waiting == 0)
    assert desk.names() == [str(number) for number in range(40)]
    desk.writer.add(request("last"))
    desk.writer.stop(10.0)
    assert desk.names()[-1] == "last"
    assert desk.writer.written == {"request": 41}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EFBIG])
def test_what_the_disk_does_not_take_waits_in_order_and_nothing_is_raised(
    desk: Desk, error: int, caplog: pytest.LogCaptureFixture
) -> None:
    desk.error = error
    for number in range(10):
        desk.writer.add(request(number))
    until(lambda: desk.writer.failures.total() >= 2)
    assert desk.writer.accepts, "on_full: allow"
    assert desk.writer.waiting == 10
    desk.error = None
    until(lambda: desk.writer.waiting == 0)
    assert desk.names() == [str(number) for number in range(10)]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1, "once for as long as it lasts"
    assert ("is full" if error != errno.EIO else "cannot be written") in said[0]
    assert "records are written again" in caplog.text


def test_what_finds_no_room_is_lost_counted_and_a_gap_in_the_chain(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.error = errno.ENOSPC
    for number in range(MOST * 8):
        desk.writer.add(request(number, at=AT + number))
    until(lambda: desk.writer.failures["disk_full"] >= 1)
    lost = desk.writer.backlog.lost
    kept = MOST * 8 - lost
    assert 0 < lost <= MOST * 7
    desk.error = None
    until(lambda: desk.writer.backlog.lost_untold == 0 and desk.writer.waiting == 0)
    desk.writer.add(request("after"))
    until(lambda: desk.writer.written["request"] == kept + 1)
    *before, gap, after = desk.records()
    assert [one.request_id for one in before] == [str(number) for number in range(kept)], "the oldest are kept"
    assert (gap.kind, after.request_id) == ("gap", "after")
    assert gap.detail == {"lost": lost, "since": AT + kept, "until": AT + 60.0}
    assert f"{lost} records were lost" in caplog.text


@refusing
def test_with_refuse_requests_are_refused_while_the_disk_is_full_and_not_after(desk: Desk) -> None:
    assert desk.writer.accepts
    desk.error = errno.ENOSPC
    desk.writer.add(request("a"))
    until(lambda: not desk.writer.accepts)
    desk.error = None
    until(lambda: desk.writer.accepts)
    assert desk.names() == ["a"]


@refusing
def test_with_refuse_they_are_refused_while_the_spool_is_full(desk: Desk) -> None:
    for number in range(60):
        desk.writer.add(request(number, detail={"text": "x" * 20_000}))
        until(lambda: desk.writer.waiting == 0 or not desk.writer.accepts)
    until(lambda: desk.writer.failures["spool_full"] >= 1)
    assert not desk.writer.accepts
    for first in segments(desk.folder)[:-1]:  # as if it were in the database
        segment_path(desk.folder, first).unlink()
        desk.spool.forget(first)
    until(lambda: desk.writer.accepts and desk.writer.waiting == 0)


def test_a_record_that_cannot_be_written_at_all_does_not_stop_those_behind_it(desk: Desk) -> None:
    desk.writer.add(request("odd", detail={"what": object()}))
    until(lambda: desk.writer.faults == 1)
    desk.writer.add(request("next"))
    until(lambda: desk.writer.written["request"] == 1)
    assert sorted(record.kind for record in desk.records()) == ["gap", "request"]


def test_a_prefix_is_told_by_a_hash_that_needs_the_key(desk: Desk) -> None:
    desk.writer.add(request("a", prefix_hash="00000000000000ff"))
    until(lambda: desk.writer.waiting == 0 and desk.writer.written["request"] == 1)
    (record,) = desk.records()
    assert record.prefix_hash == hmac.digest(KEY, b"00000000000000ff", "sha256").hex()[:32]


def test_the_prompts_of_two_tenants_cannot_be_told_to_be_equal(desk: Desk) -> None:
    plain = hashlib.sha256(b"the same prompt").digest()
    for tenant in ("acme", "globex", "acme"):
        desk.writer.add(Draft(request("a", tenant=tenant), APIS["/v1/chat/completions"], {"seed": b"7"}, prompt=plain))
    until(lambda: desk.writer.written["request"] == 3)
    first, other, again = desk.records()
    assert first.prompt_hash == again.prompt_hash != other.prompt_hash
    assert plain.hex()[:32] not in (first.prompt_hash, other.prompt_hash)
    key = hmac.digest(KEY, b"tenant:acme", "sha256")
    assert first.prompt_hash == hmac.digest(key, b"prompt\0" + plain, "sha256").hex()[:32]
    assert first.parameters == {"seed": 7}
