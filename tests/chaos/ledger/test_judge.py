"""What finds the books out: of each lie that a ledger could tell, one.

Floor: tests only, pure.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from router.wire.record import Record
from tests.chaos.ask import Seen
from tests.chaos.ledger.asks import Asked, Kind, Order, Told, draw_order
from tests.chaos.ledger.faults import OUTAGES, draw_faults
from tests.chaos.ledger.faults import Kind as Faults
from tests.chaos.ledger.judge import SUMS, differences, missing, summed, untrue, wrong_answers
from tests.e2e.stack import ENGINE_MODEL

PRICES = {"input": 3, "output": 11, "cached": 1, "hour": 2_500_000}
LIVES = {0: 100.0, 1: float("inf")}


def order(**fields: Any) -> Order:
    given = {"tenant": "acme", "api": "chat", "stream": False, "usage": False, "prompt": "a river", "max_tokens": 3}
    return Order(**given | {"model": "priced", "engine_model": ENGINE_MODEL, "id": "one"} | fields)


def asked(life: int = 1, ended: float = 50.0, **fields: Any) -> Asked:
    """Answered rightly in one piece."""
    one = order(**fields)
    right = one.expected
    body = {
        "model": one.model,
        "choices": [{"message": {"content": right.text}, "text": right.text, "finish_reason": right.finish}],
        "usage": {
            "prompt_tokens": right.prompt_tokens,
            "completion_tokens": right.completion_tokens,
            "total_tokens": right.prompt_tokens + right.completion_tokens,
        },
    }
    return Asked(one, life, Seen(one, 1.0, ended, 200, {}, json.dumps(body).encode(), [(2.0, 9)]))


def refused(status: int, code: str, **fields: Any) -> Asked:
    one = order(**fields)
    body = json.dumps({"error": {"message": "no", "code": code}}).encode()
    return Asked(one, 1, Seen(one, 1.0, 50.0, status, {}, body, [(2.0, 9)]))


def told(one: Asked) -> dict[str, list[Told | None]]:
    right = one.order.expected
    return {one.order.id: [None, Told(right.prompt_tokens, 0, right.completion_tokens)]}


def record(one: Asked) -> Record:
    right = one.order.expected
    cost = PRICES["input"] * right.prompt_tokens + PRICES["output"] * right.completion_tokens
    return Record(
        "r", 1, "request", 86_400.0, tenant="acme", request_id="one", api="chat", model="priced", status=200,
        outcome="complete", prompt_tokens=right.prompt_tokens, cached_tokens=0, usage_from="engine",
        completion_tokens=right.completion_tokens, engine_micro_seconds=1000, cost_micro=cost,
    )  # fmt: skip


def test_true_books_are_found_true() -> None:
    one = asked()
    assert wrong_answers([one], LIVES) == []
    assert missing([one], LIVES, [record(one)], told(one)) == []
    assert untrue([one], [record(one)], told(one), PRICES) == []


@pytest.mark.parametrize(
    "lie",
    [
        {"request_id": "nobody's"},
        {"tenant": "globex"},
        {"model": "timed"},
        {"api": "completions"},
        {"status": 502},
        {"outcome": "interrupted"},
        {"prompt_tokens": 1},
        {"completion_tokens": 2},
        {"cached_tokens": 1},
        {"usage_from": "estimate"},
        {"cost_micro": 1},
    ],
    ids=lambda lie: next(iter(lie)),
)
def test_a_record_that_says_otherwise_is_found_out(lie: dict[str, Any]) -> None:
    one = asked()
    assert untrue([one], [msgspec.structs.replace(record(one), **lie)], told(one), PRICES) != []


def test_two_records_of_a_request_and_a_stranger_s_are_found_out() -> None:
    one = asked()
    assert untrue([one], [record(one), record(one)], told(one), PRICES) == ["one has several records"]
    stranger = refused(401, "invalid_api_key", kind=Kind.STRANGER)
    assert untrue([stranger], [record(stranger)], {}, PRICES) != []


def test_tokens_that_the_engine_told_and_the_answer_has_not_are_found_out() -> None:
    one = asked()
    wrong = msgspec.structs.replace(record(one), completion_tokens=9, cost_micro=record(one).cost_micro + 66)
    assert untrue([one], [wrong], {"one": [Told(wrong.prompt_tokens or 0, 0, 9)]}, PRICES) != []


def test_cost_by_time_is_that_of_the_time() -> None:
    one = asked(model="timed")
    right = msgspec.structs.replace(record(one), model="timed", engine_micro_seconds=3_600_000, cost_micro=2500)
    assert untrue([one], [right], told(one), PRICES) == []
    assert untrue([one], [msgspec.structs.replace(right, cost_micro=2503)], told(one), PRICES) != []


def test_a_refusal_has_its_own_status_and_costs_nothing() -> None:
    one = refused(404, "model_not_found", kind=Kind.NO_MODEL, model="nobody-has-it")
    right = Record("r", 1, "request", 1.0, tenant="acme", request_id="one", api="chat", status=404, outcome="refused",
                   error="model_not_found")  # fmt: skip
    assert untrue([one], [right], {}, PRICES) == []
    for lie in ({"status": 429}, {"error": "other"}, {"outcome": "complete"}, {"cost_micro": 5}):
        assert untrue([one], [msgspec.structs.replace(right, **lie)], {}, PRICES) != [], lie


@pytest.mark.parametrize(
    ("one", "must"),
    [
        (asked(life=0, ended=98.9), True),
        (asked(life=0, ended=99.1), False),
        (asked(life=1, ended=1e9), True),
        (refused(429, "rate_limit_exceeded"), True),
        (refused(401, "invalid_api_key", kind=Kind.STRANGER), False),
    ],
)
def test_what_was_answered_a_second_before_a_kill_must_be_there(one: Asked, must: bool) -> None:
    assert missing([one], LIVES, [], {}) == (["one"] if must else [])


def test_a_client_that_left_before_a_byte_came_has_a_record_where_an_engine_had_its_request() -> None:
    one = order(kind=Kind.LEAVES)
    left = Asked(one, 1, Seen(one, 1.0, 2.0, broken="it left"))
    assert missing([left], LIVES, [], {}) == []
    assert missing([left], LIVES, [], {"one": [None]}) == ["one"]


@pytest.mark.parametrize("change", [lambda row: row.update(requests=2), lambda row: row.update(tenant="globex")])
def test_sums_that_differ_from_the_records_are_found_out(change: Callable[[dict[str, Any]], None]) -> None:
    right = summed([record(asked())])
    row = {"day": "1970-01-02", "tenant": "acme", "model": "priced", **right[1, "acme", "priced"]}
    assert set(SUMS) <= set(row)
    assert differences("usage", right, [row]) == []
    change(row)
    assert differences("usage", right, [row]) != []
    assert differences("usage", right, []) != []


def test_a_seed_draws_the_same_again_and_asks_for_everything() -> None:
    def drawn() -> list[Order]:
        chance = random.Random(1)
        return [draw_order(chance, str(number)) for number in range(2000)]

    assert drawn() == drawn()
    assert {one.kind for one in drawn()} == set(Kind)


@pytest.mark.parametrize("database", OUTAGES)
def test_schedules_have_all_kills_and_none_while_a_file_is_away(database: str) -> None:
    for seed in range(50):
        faults = draw_faults(seed, database, gateways=2, engines=4, kills=5, outages=4)
        assert faults == draw_faults(seed, database, gateways=2, engines=4, kills=5, outages=4)
        kills = [fault.at for fault in faults if fault.kind is Faults.KILL_GATEWAY]
        away = [fault.at for fault in faults if fault.kind is Faults.AWAY_DATABASE]
        assert len(kills) == 5
        assert not [at for at in kills for begin in away if begin <= at <= begin + 0.1]
        assert sum(fault.kind in OUTAGES[database] for fault in faults) == 4
