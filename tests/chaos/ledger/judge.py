"""Whether the books are true: every request once, its tokens those that were told, and its cost what they make.

Floor: tests only, pure. It computes anew what the product computes, from what clients saw and engines told.

    - What was answered more than a second before its gateway was killed has a record; nothing has two.
    - No record is of what nobody asked, nor of another tenant, model or API; a stranger leaves none.
    - Status and outcome are those that the client saw.
    - Tokens are those that an engine told, and the client was shown; cost is what they make by price or by time.
    - Sums by day are those of the records.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from router.wire.record import Record
from tests.chaos.judge import Ending, judge
from tests.chaos.ledger.asks import REFUSED_WITH, Asked, Kind, Told

SAFE_SECONDS = 1.0
"""What was answered so long before a kill is never lost."""
_DAY = 86_400
_HOUR = 3600
_EPOCH = date(1970, 1, 1).toordinal()
SUMS = ("requests", "failed", "refused", "prompt_tokens", "cached_tokens", "completion_tokens", "cost_micro_usd")
Heard = Mapping[str, Sequence[Told | None]]
"""What engines have told, by request; None: nothing of its usage."""


def missing(asked: Iterable[Asked], killed: Mapping[int, float], records: Iterable[Record], told: Heard) -> list[str]:
    """Names of requests that must have a record and have none."""
    kept = {record.request_id for record in records}
    return [one.order.id for one in asked if must_be_there(one, killed[one.life], told) and one.order.id not in kept]


def must_be_there(one: Asked, killed_at: float, told: Heard) -> bool:
    """A client that leaves before it has a byte may have left before the gateway had its request: an engine knows."""
    seen, kind = one.seen, one.order.kind
    if kind is Kind.STRANGER or seen.ended_at >= killed_at - SAFE_SECONDS:
        return False
    if kind is Kind.LEAVES and not seen.pieces:
        return one.order.id in told
    return seen.status > 0


def untrue(asked: Sequence[Asked], records: Sequence[Record], told: Heard, prices: Mapping[str, int]) -> list[str]:
    """What records say that is not so."""
    by_name = {one.order.id: one for one in asked}
    twice = [name for name, many in Counter(record.request_id for record in records).items() if many > 1]
    problems = [f"{name} has several records" for name in twice]
    for record in records:
        one = by_name.get(record.request_id or "")
        if one is None:
            problems.append(f"{record.request_id}: nobody has asked this")
            continue
        wrong = [*_identity(one, record), *_ending(one, record), *_tokens(one, record, told), *_cost(record, prices)]
        problems += [f"{record.request_id} ({one.order.kind}): {what}" for what in wrong]
    return problems


def wrong_answers(asked: Iterable[Asked], killed: Mapping[int, float]) -> list[str]:
    """What clients of gateways that lived were told that is not right: records of it would prove nothing."""
    problems = []
    for one in asked:
        seen, kind = one.seen, one.order.kind
        if kind is Kind.LEAVES or seen.ended_at >= killed[one.life] - SAFE_SECONDS:
            continue
        if kind is not Kind.GOOD:
            if seen.status not in (REFUSED_WITH[kind], 429):
                problems.append(f"{one.order.id} ({kind}): status {seen.status} {seen.body[:120]!r}")
        elif (verdict := judge(seen)).ending is Ending.LIE:
            problems.append(f"{one.order.id}: {verdict.why}")
    return problems


def _identity(one: Asked, record: Record) -> list[str]:
    order = one.order
    if order.kind is Kind.STRANGER:
        return ["a stranger has left a record"]
    model = None if order.kind is Kind.NO_MODEL else order.model
    if order.kind is Kind.MALFORMED and record.model is None:
        model = None
    said, right = (record.tenant, record.model, record.api), (order.tenant, model, order.api)
    return [] if said == right else [f"tenant, model and API are {said}, not {right}"]


def _ending(one: Asked, record: Record) -> list[str]:
    """A client that left, or lost its gateway, may know less than the record."""
    seen = one.seen
    if one.order.kind is Kind.LEAVES and seen.broken:
        return [] if record.status in (499, 200, 429, 502, 503, 504, 500) else [f"status {record.status}"]
    if seen.broken:
        return []
    wrong = [f"status {record.status}, but {seen.status} was seen"] if record.status != seen.status else []
    if seen.status == 200:
        failed = b'"error"' in seen.body and judge(seen).ending is Ending.ERROR
        outcome = "interrupted" if failed else "complete"
        return wrong + ([] if record.outcome == outcome else [f"outcome {record.outcome}, not {outcome}"])
    code = json.loads(seen.body)["error"].get("code")
    if record.outcome not in ("refused", "failed"):
        wrong.append(f"outcome {record.outcome} of status {seen.status}")
    if record.error is not None and isinstance(code, str) and record.error != code:
        wrong.append(f"error {record.error}, but {code} was seen")
    return wrong


def _tokens(one: Asked, record: Record, told: Heard) -> list[str]:
    used = (record.prompt_tokens, record.cached_tokens, record.completion_tokens)
    if record.usage_from != "engine":
        return [f"tokens {used} that no engine has told"] if record.completion_tokens else []
    heard = [usage for usage in told.get(one.order.id, ()) if usage is not None]
    if not record.resumes and not any(_same(usage, record) for usage in heard):
        return [f"tokens {used}, but engines told {heard}"]
    if record.outcome != "complete":
        return []
    right = one.order.expected
    if (record.prompt_tokens, record.completion_tokens) != (right.prompt_tokens, right.completion_tokens):
        return [f"tokens {used}, but the answer has {right.prompt_tokens} and {right.completion_tokens}"]
    return []


def _same(usage: Told, record: Record) -> bool:
    said = (record.prompt_tokens, record.cached_tokens, record.completion_tokens)
    return said == (usage.prompt, usage.cached, usage.completion)


def _cost(record: Record, prices: Mapping[str, int]) -> list[str]:
    if not record.engine_micro_seconds:
        return [f"cost {record.cost_micro} of no time"] if record.cost_micro else []
    prompt, completion = record.prompt_tokens or 0, record.completion_tokens or 0
    if record.model == "priced":
        cached = min(record.cached_tokens or 0, prompt)
        right = prices["input"] * (prompt - cached) + prices["cached"] * cached + prices["output"] * completion
        return [] if record.cost_micro == right else [f"cost {record.cost_micro}, not {right}"]
    by_time = record.engine_micro_seconds * prices["hour"] / (_HOUR * 1_000_000)
    near = math.floor(by_time) <= record.cost_micro <= math.ceil(by_time) + 1  # time is told to the microsecond
    return [] if near else [f"cost {record.cost_micro}, not about {by_time:.2f}"]


# -- sums


def summed(records: Iterable[Record]) -> dict[tuple[int, str, str], dict[str, int]]:
    """By day (since 1970), tenant and model."""
    sums: dict[tuple[int, str, str], dict[str, int]] = defaultdict(lambda: dict.fromkeys(SUMS, 0))
    for record in records:
        row = sums[int(record.at // _DAY), record.tenant or "", record.model or ""]
        row["requests"] += 1
        row["failed"] += record.outcome in ("failed", "interrupted")
        row["refused"] += record.outcome == "refused"
        row["cost_micro_usd"] += record.cost_micro
        if record.usage_from == "engine" or record.engine_micro_seconds:
            row["prompt_tokens"] += record.prompt_tokens or 0
            row["cached_tokens"] += record.cached_tokens or 0
            row["completion_tokens"] += record.completion_tokens or 0
    return dict(sums)


def differences(what: str, right: Mapping[tuple[int, str, str], Mapping[str, int]], rows: Any) -> list[str]:
    """Between the sums of records, and rows of a report."""
    said = {
        (date.fromisoformat(row["day"]).toordinal() - _EPOCH, row["tenant"], row["model"]): {n: row[n] for n in SUMS}
        for row in rows
    }
    keys = sorted(set(said) | set(right))
    return [f"{what}: {key}: {said.get(key)}, not {right.get(key)}" for key in keys if said.get(key) != right.get(key)]
