"""Exact token counts: from the vocabulary that ships with us, remembered, and off the event loop when long."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.tokens import CountMemo
from router import counting
from router.counting import VOCABULARY, TokenCounter

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = """
import asyncio, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request"):
        raise SystemExit(f"network: {event} {arguments}")
from router.counting import TokenCounter
async def count():
    sys.addaudithook(watch)
    print(await TokenCounter().count([b"Hello, world", b"x" * 100_000]))
asyncio.run(count())
"""


class Spy(TokenCounter):
    """Remembers what was really tokenized, and in which thread."""

    def __init__(self, memo: CountMemo | None = None) -> None:
        super().__init__(memo)
        self.seen: list[tuple[bytes, int]] = []

    def _tokens(self, segment: bytes) -> int:
        self.seen.append((segment, threading.get_ident()))
        return super()._tokens(segment)


def test_nothing_is_downloaded_on_a_machine_that_has_never_counted(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        cwd=ROOT,
        env={"TIKTOKEN_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000


async def test_counts_are_those_of_the_vocabulary() -> None:
    encoding = tiktoken.get_encoding(VOCABULARY)
    for text in ("Hello, world", "caf\u00e9 \u4f60\u597d \U0001f600", "<|endoftext|>", ""):
        assert await TokenCounter().count([text.encode()]) == len(encoding.encode_ordinary(text))


async def test_a_segment_is_counted_once() -> None:
    spy = Spy()
    first = await spy.count([b"system", b"question"])
    longer = await spy.count([b"system", b"question", b"answer"])
    assert [segment for segment, _ in spy.seen] == [b"system", b"question", b"answer"]
    assert await spy.count([b"system", b"question"]) == first < longer
    assert len(spy.seen) == 3


async def test_a_full_memo_forgets_and_counts_again() -> None:
    spy = Spy(CountMemo(capacity=1))
    assert await spy.count([b"a", b"b"]) == await spy.count([b"a", b"b"]) == 2
    assert len(spy.seen) > 2


async def test_long_work_runs_in_another_thread_and_short_work_in_this_one() -> None:
    here = threading.get_ident()
    spy = Spy()
    await spy.count([b"short"])
    await spy.count([b"long " * 20_000])
    assert [thread == here for _, thread in spy.seen] == [True, False]
    await spy.count([b"long " * 20_000, b"and short"])
    assert spy.seen[-1] == (b"and short", here), "what is remembered costs no thread"


async def test_the_vocabulary_is_read_once_by_another_thread_and_only_when_something_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[int] = []

    def load() -> tiktoken.Encoding:
        reads.append(threading.get_ident())
        return tiktoken.get_encoding(VOCABULARY)

    monkeypatch.setattr(counting, "_load", load)
    counter = TokenCounter()
    assert await counter.count([]) == 0
    assert reads == []
    counts = await asyncio.gather(*[counter.count([b"word " * number]) for number in (1, 10, 20_000)])
    assert counts == sorted(counts)
    assert len(reads) == 1
    assert reads[0] != threading.get_ident()


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=60), max_size=6))
async def test_any_bytes_are_counted_and_the_whole_is_the_sum(segments: list[bytes]) -> None:
    alone = [await TokenCounter(CountMemo()).count([segment]) for segment in segments]
    assert await TokenCounter().count(segments) == sum(alone)
    assert all(count <= 3 * len(segment) for count, segment in zip(alone, segments, strict=True))


@pytest.mark.parametrize("letter", ["a", " ", "\u00e9", "\n", "\U0001f600"])
async def test_a_megabyte_of_one_letter_is_counted(letter: str) -> None:
    text = (letter * 1_000_000).encode()[:1_000_000]
    assert 0 < await TokenCounter().count([text]) <= len(text)


def test_the_vocabulary_is_kept_once_and_counts_as_tiktokens_own() -> None:
    ours, theirs = TokenCounter()._encoding, tiktoken.get_encoding(VOCABULARY)
    text = "The quick brown fox, Überraschung, 数え方, <|endoftext|> 1234567\n\n\tend"
    assert ours.encode_ordinary(text) == theirs.encode_ordinary(text)
    assert not ours._mergeable_ranks
    assert theirs._mergeable_ranks  # whoever else uses the library has all of it
