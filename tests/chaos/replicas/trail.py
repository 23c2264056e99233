"""`python -m tests.chaos.replicas.trail serve …`: the gateway, and a trail of who decided what it carried out.

Floor: tests only. Whatever is asked of a replica from outside (`/admin/state`, metrics) is a sample; whether two owners
ever acted at once is only known of every single request. So two places of the product write a line each, into the file
that `CHAOS_TRAIL` names: where this replica's part in a pool changes, and where a decision is carried out. A line is in
the kernel's hands when it is written: a SIGKILL loses none.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

FILE = "CHAOS_TRAIL"


class Part(NamedTuple):
    """From `at` (monotonic seconds of the machine) on, replica `me` has this part: leads, follows or alone. `term`: the
    highest that it knows."""

    at: float
    me: str
    pool: str
    mode: str
    term: int


class Carried(NamedTuple):
    """At `at` replica `me` bound a request as `by` had decided, with this term; `alone`: by its own view."""

    at: float
    me: str
    pool: str
    request: str
    by: str
    term: int
    alone: bool


def read(lines: list[str]) -> list[Part | Carried]:
    """What a trail says, in order."""
    kinds: dict[str, Callable[..., Part | Carried]] = {"part": Part, "carried": Carried}
    return [kinds[kind](*words) for kind, *words in map(json.loads, lines)]


def install(path: str) -> None:
    """Makes the product's two places write."""
    from router.coordination.remote import Mode, Remote

    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(kind: str, *words: object) -> None:
        os.write(file, json.dumps([kind, time.monotonic(), *words]).encode() + b"\n")

    change, bound, decide = Remote._change, Remote.bound, Remote._decide

    def changed(remote: Remote, mode: Any, line: Any, now: float) -> None:
        before = remote.mode
        change(remote, mode, line, now)
        if mode is not before or mode is not Mode.ALONE:
            write("part", remote.ownership.me, remote.ownership.pool, mode.value, remote.ownership.term)

    def carried(remote: Remote, frame: Any, line: Any, waiting: Any) -> Any:
        ticket = bound(remote, frame, line, waiting)
        me, pool = remote.ownership.me, remote.ownership.pool
        write("carried", me, pool, waiting.request.id, line.peer, frame.term, False)
        return ticket

    async def decided(remote: Remote, waiting: Any, mode: Any) -> Any:
        ticket = await decide(remote, waiting, mode)
        me, alone = remote.ownership.me, remote.mode is not Mode.LEADS
        write("carried", me, remote.ownership.pool, waiting.request.id, me, remote.ownership.term, alone)
        return ticket

    # The three are looked up on the class at every call, so this is all that it takes.
    Remote._change, Remote.bound, Remote._decide = changed, carried, decided  # type: ignore[method-assign]


if __name__ == "__main__":
    from router.cli import main

    install(os.environ[FILE])
    sys.exit(main(sys.argv[1:]))
