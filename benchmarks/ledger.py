"""`make bench-ledger`: what a finished request leaves behind costs: its metrics and its record on the event loop, the
record in the thread that writes it and in the one that moves it.

CPU time per record of the objects that serve, on a temporary SQLite; the least of several rounds counts. The loop has
goals, as it is what requests wait for; the threads share the interpreter with it, a piece at a time.
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
from policies.types import Endpoint, InferenceRequest, Lane, ModelRoute, Slo, Tenant, Tier
from router.calls import Call
from router.charging import charge
from router.database.engine import Database
from router.ledger.mover import Mover
from router.ledger.outputs import Outputs
from router.ledger.spool import Spool
from router.ledger.store import LedgerStore
from router.measure import Measured
from router.metrics import Metrics
from router.request_records import RequestRecords
from router.wire.answer_sample import AnswerSample
from router.wire.draft import Answered, Draft
from router.wire.openai import APIS, read_body
from router.wire.record import Record
from router.wire.usage import Usage

RECORDS, ROUNDS = 20_000, 5
KEY = bytes(32)
BODY = (
    b'{"model":"qwen2-7b","messages":[{"role":"user","content":"%b"}],"temperature":0.7,"top_p":0.9,"max_tokens":300,'
    b'"stop":["###"],"stream":true}' % (b"word " * 800)
)
SPEC = APIS["/v1/chat/completions"]
CHUNK = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1800000000,'
    b'"model":"Qwen/Qwen2-7B-Instruct","choices":[{"index":0,"delta":{"content":" %b"},"logprobs":null,"finish_reason":'
    b"null}]}\n\n"
)
LOOKED_AT = 50
GOALS = {"metrics, event loop": 10.0, "record, event loop": 5.0}  # microseconds


def call() -> Call:
    """A chat that was streamed, with all that a record can have."""
    tenant = Tenant("acme", Tier("gold", 1, 15.0, slo=Slo(2.0, 0.95, 0.999)), "salt", {})
    request = InferenceRequest(
        "0123456789abcdef0123456789abcdef", "acme", 1, "qwen2-7b", "chat", Lane.SHORT, 1000, 300, (2**63 + 5,) * 16,
        64.0, True, 10.0, 40.0,
    )  # fmt: skip
    model = SimpleNamespace(
        route=ModelRoute("qwen2-7b", "acme-qwen", "Qwen/Qwen2-7B-Instruct"),
        pool=SimpleNamespace(name="acme-qwen"),
        prices=None,
    )
    made = Call(cast("Any", None), SPEC, request.id, 10.0)
    made.tenant, made.key, made.model, made.measured = (
        tenant,
        "ci",
        cast("Any", model),
        Measured(request, 4000, 0, False, 300, 1, bytes(32)),
    )
    state = EndpointState(Endpoint("acme-0", "http://acme-0", hourly_cost=2.5))
    choice = SimpleNamespace(state=state, cached_tokens=480, ttft_seconds=0.15)
    made.ticket = cast("Any", SimpleNamespace(endpoint="acme-0", queued_seconds=0.0123, choice=choice))
    made.trace = cast("Any", SimpleNamespace(id="0af7651916cd43dd8448eb211c80319c", sampled=True))
    made.status, made.sent_at, made.first_byte_at, made.usage = 200, 10.1, 10.2, Usage(1000, 300, 500)
    made.attempts, made.finish_reason = 1, "stop"
    made.system_fingerprint, made.fields = "vllm-0.32.0-tp1-4f1c2a7b", read_body(made.spec, BODY).fields
    return made


class Drawer:
    """Takes records as the writer's queue does."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.add = self.drafts.append
        self.accepts = True


def cpu(work: Callable[[], None]) -> float:
    """Microseconds per record."""
    began = time.thread_time()
    work()
    return (time.thread_time() - began) / RECORDS * 1e6


def look() -> float:
    """Microseconds for the text of a streamed answer of 300 tokens, in the writer's thread."""
    sample = AnswerSample()
    for number in range(300):
        sample.add(CHUNK % (b"word%d" % (number % 97)))
    drafts = [
        Draft(Record("", 0, "request", 0.0), SPEC, answered=Answered(sample, BODY[-500:])) for _ in range(LOOKED_AT)
    ]
    began = time.thread_time()
    for draft in drafts:
        draft.examine(KEY)
    return (time.thread_time() - began) / LOOKED_AT * 1e6


def one_round(folder: Path) -> dict[str, float]:
    drawer, finished = Drawer(), call()
    records = RequestRecords(drawer, time.time)

    def put() -> None:
        for _ in range(RECORDS):
            finished.charged = None  # what it costs is worked out once, for both
            records.finished(finished, 11.0)

    metrics = Metrics()

    def count() -> None:
        charge(finished)
        for _ in range(RECORDS):
            finished.count(metrics, 11.0)

    spool = Spool(folder, folder.name, KEY, Mark(), 2**30)

    def write() -> None:
        for start in range(0, RECORDS, spool.at_once):
            spool.append([draft.finish(KEY) for draft in drawer.drafts[start : start + spool.at_once]])

    store = LedgerStore(Database(f"sqlite:///{folder}/ledger.db", 5.0), KEY)
    store.prepare()
    mover = Mover(folder, KEY, store, lambda: spool.durable, spool.forget, spool.recent)

    def move() -> None:
        while mover.move():
            pass

    outputs = Outputs()

    def learn() -> None:
        for draft in drawer.drafts:
            outputs.note(draft, None)
        outputs.turn(0.0)

    costs = {
        "metrics, event loop": cpu(count),
        "record, event loop": cpu(put),
        "record, writer": cpu(write) + cpu(learn),
        "record, mover to SQLite": cpu(move),
        "looking at an answer": look(),
    }
    spool.close()
    return costs


def main() -> int:
    least: dict[str, float] = {}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            for name, cost in one_round(Path(folder)).items():
                least[name] = min(cost, least.get(name, cost))
    print(f"{'CPU time of a request':<24}{'us':>8}{'goal':>8}")
    for name, cost in least.items():
        most = GOALS.get(name)
        goal = "" if most is None else f"{most:>8.0f}{'' if cost <= most else '  MISSED'}"
        print(f"{name:<24}{cost:>8.1f}{goal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
