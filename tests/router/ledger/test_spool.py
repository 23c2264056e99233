"""The spool on a real folder: what is on the disk is never lost, whatever a crash or a failing write leaves behind."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies.ledger.chain import Link, Mark, is_genuine, verify
from router.ledger.folder import lock_folder, take_folder
from router.ledger.segments import read_chain, read_line, recover, segment_path, segments
from router.ledger.spool import Spool, SpoolFull
from tests.router.ledger.records import KEY, OTHER, REPLICA, request

SMALL = 8 * 700  # bytes: a segment has about three records


class Disk:
    """Writes through, or fails with this error."""

    def __init__(self) -> None:
        self.error: int | None = None

    def sync(self, descriptor: int) -> None:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        os.fsync(descriptor)


def opened(folder: Path, disk: Disk | None = None, most: int = 2**20) -> Spool:
    return Spool(folder, REPLICA, KEY, recover(folder, KEY).mark, most, (disk or Disk()).sync)


def names(folder: Path) -> list[str]:
    """What the records are called, in the order of the files."""
    found = []
    for link in read_chain(folder):
        assert link is not None
        found.append(str(link.body.split(b'"request_id":"')[1].split(b'"')[0].decode()))
    return found


def links(folder: Path) -> list[Link]:
    return [link for link in read_chain(folder) if link is not None]


# -- appending


def test_records_stand_in_files_of_bounded_size_and_are_one_chain(tmp_path: Path) -> None:
    spool = opened(tmp_path, most=SMALL)
    for number in range(10):
        spool.append([request(number)])
    assert names(tmp_path) == [str(number) for number in range(10)]
    assert len(segments(tmp_path)) > 2
    assert verify(KEY, links(tmp_path)) == (spool.mark, None)
    assert spool.mark.sequence == 10
    assert spool.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir()), "for its owner alone"


def begin(folder: Path) -> Mark:
    """Where the first record that is left stands."""
    first = links(folder)[0]
    return Mark(first.sequence - 1, first.previous)


def test_beyond_its_bound_nothing_is_written_until_a_segment_is_gone(tmp_path: Path) -> None:
    spool = opened(tmp_path, most=SMALL)
    written = fill(spool)
    assert len(names(tmp_path)) == written
    assert spool.size <= SMALL
    first = segments(tmp_path)[0]
    segment_path(tmp_path, first).unlink()
    spool.forget(first)
    spool.append([request("after")])
    assert names(tmp_path)[-1] == "after"
    assert verify(KEY, links(tmp_path), begin(tmp_path), spool.mark)[1] is None


def fill(spool: Spool) -> int:
    """Until it is full: how many it took."""
    for number in range(1000):
        try:
            spool.append([request(number)])
        except SpoolFull:
            return number
    raise AssertionError("it took a thousand")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_leaves_nothing_and_the_next_one_follows_in_the_chain(tmp_path: Path, error: int) -> None:
    disk = Disk()
    spool = opened(tmp_path, disk)
    spool.append([request("a")])
    disk.error = error
    for _ in range(3):
        with pytest.raises(OSError, match=os.strerror(error)):
            spool.append([request("b"), request("c")])
    disk.error = None
    spool.append([request("b"), request("c")])
    assert names(tmp_path) == ["a", "b", "c"]
    assert verify(KEY, links(tmp_path), end=spool.mark)[1] is None


def test_what_a_failing_disk_would_not_take_back_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    spool = opened(tmp_path, disk)
    spool.append([request("a")])

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "cannot")

    monkeypatch.setattr("os.ftruncate", refuse)
    disk.error = errno.EIO
    with pytest.raises(OSError, match="error"):
        spool.append([request("lost")])
    disk.error = None
    spool.append([request("b")])
    assert names(tmp_path) == ["a", "b"]
    monkeypatch.undo()
    spool.close()
    assert opened(tmp_path).mark == spool.mark
    assert names(tmp_path) == ["a", "b"]


# -- after a crash


def test_a_restart_goes_on_with_the_chain(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.append([request("a"), request("b")])
    second = opened(tmp_path)
    assert second.mark == first.mark
    second.append([request("c")])
    assert names(tmp_path) == ["a", "b", "c"]
    assert verify(KEY, links(tmp_path), end=second.mark)[1] is None


def test_a_torn_last_record_is_cut_off_at_whichever_byte_the_crash_came(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    spool = opened(whole)
    spool.append([request("a"), request("b")])
    data = segment_path(whole, 1).read_bytes()
    ends = [data.index(b"\n") + 1, len(data)]
    for size in range(len(data) + 1):
        torn = tmp_path / "torn"
        torn.mkdir()
        segment_path(torn, 1).write_bytes(data[:size])
        kept = sum(end <= size for end in ends)
        found = recover(torn, KEY)
        assert (found.mark.sequence, found.damaged) == (kept, 0)
        assert found.cut == size - ([0, *ends][kept])
        after = opened(torn)
        after.append([request("c")])
        after.close()
        assert names(torn) == [*["a", "b", "c"][:kept], "c"]
        assert verify(KEY, links(torn))[1] is None
        shutil.rmtree(torn)


def test_a_record_damaged_in_the_middle_is_told_and_nothing_behind_it_is_lost(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([request("a"), request("b"), request("c")])
    path = segment_path(tmp_path, 1)
    path.write_bytes(path.read_bytes().replace(b'"request_id":"b"', b'"request_id":"x"'))
    found = recover(tmp_path, KEY)
    assert (found.mark, found.cut, found.damaged) == (spool.mark, 0, 1)
    broken = verify(KEY, links(tmp_path))[1]
    assert broken is not None
    assert broken.sequence == 2


def test_whole_lines_that_are_cut_off_are_kept_beside(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([request("a"), request("b")])
    path = segment_path(tmp_path, 1)
    path.write_bytes(path.read_bytes().replace(b'"request_id":"b"', b'"request_id":"x"'))
    assert recover(tmp_path, KEY).mark.sequence == 1
    assert b'"request_id":"x"' in path.with_suffix(".cut").read_bytes()


@settings(deadline=None, max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_bit_that_flips_anywhere_is_told_and_the_other_records_stay(place: float, bit: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = opened(folder)
        written.append([request("a"), request("b"), request("c")])
        written.close()
        end, path = written.mark, segment_path(folder, 1)
        data = bytearray(path.read_bytes())
        at = int(place * len(data))
        hit = bytes(data[:at]).count(b"\n")
        old = data[at]
        data[at] ^= 1 << bit
        assume(10 not in (old, data[at]))  # lines that become one, or two, are damage of another kind
        path.write_bytes(data)
        judged = [link if link is not None else Link(0, b"", b"", b"") for link in read_chain(folder)]
        assert verify(KEY, judged, end=end)[1] is not None
        found = recover(folder, KEY)
        kept = {link.sequence for link in read_chain(folder) if link is not None and is_genuine(KEY, link)}
        assert kept == {1, 2, 3} - {hit + 1}
        assert found.damaged == (1 if hit < 2 else 0), "the last one is taken for torn"


@pytest.mark.parametrize("line", [b"", b"\n", b"a b c\n", b"x" * 64 + b" " + b"0" * 64 + b' {"sequence":1}\n'])
def test_what_is_no_line_of_a_spool_is_none(line: bytes) -> None:
    assert read_line(line) is None


class Crashes(RuleBasedStateMachine):
    """Appends, failing writes, crashes that tear the last write, restarts: `kept` is what was written for certain."""

    @initialize()
    def new(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="promptlane-spool-"))
        self.disk = Disk()
        self.kept: list[str] = []
        self.counter = 0
        self.spool = opened(self.folder, self.disk, SMALL * 100)

    def batch(self, size: int) -> list[str]:
        self.counter += size
        return [str(number) for number in range(self.counter - size, self.counter)]

    @rule(size=st.integers(1, 4))
    def append(self, size: int) -> None:
        batch = self.batch(size)
        self.spool.append([request(name) for name in batch])
        self.kept += batch

    @rule(size=st.integers(1, 3), error=st.sampled_from([errno.ENOSPC, errno.EIO]))
    def fail(self, size: int, error: int) -> None:
        self.disk.error = error
        with pytest.raises(OSError, match=r".+"):
            self.spool.append([request(name) for name in self.batch(size)])
        self.disk.error = None

    @rule(size=st.integers(1, 3), share=st.floats(0, 1), noise=st.binary(max_size=20))
    def crash_while_writing(self, size: int, share: float, noise: bytes) -> None:
        """Of a batch some bytes are on the disk, and perhaps something else behind them."""
        before = self.spool.durable
        batch = self.batch(size)
        self.spool.append([request(name) for name in batch])
        after = self.spool.durable
        start = before.end if before.segment == after.segment else 0
        end = start + int((after.end - start) * share)
        path = segment_path(self.folder, after.segment)
        data = path.read_bytes()[:end]
        path.write_bytes(data + noise.replace(b"\n", b""))
        whole = data[start:].count(b"\n")
        self.spool.close()
        self.restart()
        self.kept += batch[:whole]

    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.spool = opened(self.folder, self.disk, SMALL * 100)

    @precondition(lambda self: len(segments(self.folder)) > 1)
    @rule()
    def move(self) -> None:
        first, second = segments(self.folder)[:2]
        del self.kept[: second - self.first_sequence()]
        segment_path(self.folder, first).unlink()
        self.spool.forget(first)

    def first_sequence(self) -> int:
        return links(self.folder)[0].sequence

    @invariant()
    def all_that_was_written_is_there_and_whole(self) -> None:
        if not hasattr(self, "folder"):
            return
        assert names(self.folder) == self.kept
        found = links(self.folder)
        if found:
            assert verify(KEY, found, begin(self.folder), self.spool.mark) == (self.spool.mark, None)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.spool.close()
            shutil.rmtree(self.folder)


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


# -- folders


def test_two_processes_never_share_a_chain_and_a_folder_that_is_free_is_taken_over(tmp_path: Path) -> None:
    first, second = take_folder(tmp_path, "aaaa"), take_folder(tmp_path, "aaaa")
    assert first.replica != second.replica
    assert lock_folder(first.path) is None
    first.release()
    third = take_folder(tmp_path, "aaaa")
    assert third.replica == first.replica
    other = take_folder(tmp_path, "bbbb")
    assert other.replica.startswith("bbbb-"), "with another key another chain begins"
    for one in (second, third, other):
        one.release()


def test_a_chain_of_another_key_is_left_as_it_is(tmp_path: Path) -> None:
    spool = Spool(tmp_path, REPLICA, OTHER, Mark(), 2**20)
    spool.append([request("a")])
    spool.close()
    assert verify(OTHER, links(tmp_path), end=spool.mark)[1] is None
