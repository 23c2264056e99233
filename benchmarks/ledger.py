"""`make bench-ledger`: what a record costs: on the event loop, in the thread that writes it, in the one that moves it.

CPU time per record of the objects that serve, on a temporary SQLite; the least of several rounds counts. The loop has a
goal, as it is what requests wait for; the threads share the interpreter with it, a piece at a time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from policies.endpoint_state import EndpointState
from policies.ledger.chain import Mark
from policies.types import Endpoint, InferenceRequest, Lane, ModelRoute, Tenant, Tier
from router.calls import Call
from router.database.engine import Database
from router.ledger.mover import Mover
from router.ledger.spool import Spool
from router.ledger.store import LedgerStore
from router.ledger.writer import BATCH
from router.measure import Measured
from router.request_records import RequestRecords
from router.wire.openai import APIS
from router.wire.record import Record
from router.wire.usage import Usage

RECORDS, ROUNDS = 20_000, 5
KEY = bytes(32)
GOAL = 5.0  # microseconds on the event loop


def call() -> Call:
    """A chat that was streamed, with all that a record can have."""
    tenant = Tenant("acme", Tier("gold", 1, 15.0), "salt", {})
    request = InferenceRequest(
        "0123456789abcdef0123456789abcdef", "acme", 1, "qwen2-7b", "chat", Lane.SHORT, 1000, 300, (2**63 + 5,) * 16,
        64.0, True, 10.0, 40.0,
    )  # fmt: skip
    model = SimpleNamespace(
        route=ModelRoute("qwen2-7b", "acme-qwen", "Qwen/Qwen2-7B-Instruct"),
        pool=SimpleNamespace(name="acme-qwen"),
        prices=None,
    )
    made = Call(cast("Any", None), APIS["/v1/chat/completions"], request.id, 10.0)
    made.tenant, made.key, made.model, made.measured = (
        tenant,
        "ci",
        cast("Any", model),
        Measured(request, 4000, 0, False),
    )
    choice = SimpleNamespace(state=EndpointState(Endpoint("acme-0", "http://acme-0", hourly_cost=2.5)))
    made.ticket = cast("Any", SimpleNamespace(endpoint="acme-0", queued_seconds=0.0123, choice=choice))
    made.status, made.first_byte_at, made.usage = 200, 10.2, Usage(1000, 300, 500)
    made.attempts, made.finish_reason = 1, "stop"
    return made


class Drawer:
    """Takes records as the writer's queue does."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.add = self.records.append
        self.accepts = True


def cpu(work: Callable[[], None]) -> float:
    """Microseconds per record."""
    began = time.thread_time()
    work()
    return (time.thread_time() - began) / RECORDS * 1e6


def one_round(folder: Path) -> dict[str, float]:
    drawer, finished = Drawer(), call()
    records = RequestRecords(drawer, time.time)

    def put() -> None:
        for _ in range(RECORDS):
            records.finished(finished, 11.0)

    spool = Spool(folder, folder.name, KEY, Mark(), 2**30)

    def write() -> None:
        for start in range(0, RECORDS, BATCH):
            spool.append(drawer.records[start : start + BATCH])

    store = LedgerStore(Database(f"sqlite:///{folder}/ledger.db", 5.0), KEY)
    store.prepare()
    mover = Mover(folder, KEY, store, lambda: spool.durable, spool.forget)

    def move() -> None:
        while mover.move():
            pass

    costs = {"event loop": cpu(put), "writer": cpu(write), "mover, SQLite": cpu(move)}
    spool.close()
    return costs


def main() -> int:
    least: dict[str, float] = {}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            for name, cost in one_round(Path(folder)).items():
                least[name] = min(cost, least.get(name, cost))
    print(f"{'CPU time of a record':<24}{'us':>8}{'goal':>8}")
    for name, cost in least.items():
        goal = f"{GOAL:>8.0f}{'' if cost <= GOAL else '  MISSED'}" if name == "event loop" else ""
        print(f"{name:<24}{cost:>8.1f}{goal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
