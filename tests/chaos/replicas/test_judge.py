"""The judge can fail: a lost request, two owners, a limit exceeded and a seat given twice are found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tests.chaos.ask import Ask, Seen
from tests.chaos.judge import judge as verdict_of
from tests.chaos.replicas import judge
from tests.chaos.replicas.faults import CUTS, OF_REDIS, Kind, draw_schedule
from tests.chaos.replicas.judge import Gone, Served
from tests.chaos.replicas.load import Attempt, Story
from tests.chaos.replicas.network import HUB, Loopback, NetworkFailed
from tests.chaos.replicas.processes import Life, Spell
from tests.chaos.replicas.strike import pairs_cut
from tests.chaos.replicas.trail import Carried, Part

SLOTS = {"A": "r0", "B": "r1", "C": "r2"}
NOBODY_STOOD = cast("judge.Stood", lambda began, ended: 0.0)


def gone(began: float, ended: float, *nodes: str) -> Gone:
    return Gone(frozenset(nodes), began, ended)


def leads(at: float, me: str, term: int) -> Part:
    return Part(at, me, "main", "leads", term)


def carried(at: float, me: str, by: str, term: int, *, alone: bool = False) -> Carried:
    return Carried(at, me, "main", "x", by, term, alone)


# -- schedules


def test_a_seed_is_a_schedule_and_those_of_ci_begin_with_every_kind() -> None:
    assert draw_schedule(7) == draw_schedule(7)
    assert {draw_schedule(seed).faults[0].kind for seed in range(1, 15)} == set(Kind)
    pairs = [one.faults for one in map(draw_schedule, range(200)) if len(one.faults) == 2]
    assert any(second.at < first.at + first.seconds for first, second in pairs)
    assert not any({first.kind, second.kind} <= OF_REDIS for first, second in pairs), "there is one Redis"


def test_where_nothing_can_be_cut_the_schedule_says_what_is_left_out() -> None:
    schedules = [draw_schedule(seed).without_cuts() for seed in range(1, 15)]
    assert not any(fault.kind in CUTS for one in schedules for fault in one.faults)
    left_out = next(one for one in schedules if one.left_out)
    assert f"NOT POSSIBLE HERE: {left_out.left_out[0]}" in str(left_out)
    with pytest.raises(NetworkFailed, match="no privileges"):
        Loopback("no privileges").cut("r0", "redis")


def test_a_cut_is_between_those_whom_its_name_says() -> None:
    assert pairs_cut(Kind.CUT_FOLLOWER_OWNER, "r1", "r0") == [("r1", "r0")]
    assert pairs_cut(Kind.CUT_OWNER_REDIS, "r0", "r0") == [("r0", "redis")]
    peers = [("r0", "r1"), ("r0", "r2"), ("r0", "redis")]
    assert pairs_cut(Kind.CUT_OWNER_PEERS, "r0", "r0") == peers
    assert pairs_cut(Kind.CUT_OWNER_ALL, "r0", "r0") == [*peers, ("r0", HUB)]


# -- requests


def attempt(*spells: Spell, status: int = 0, body: bytes = b"", sent: float = 1.0, ended: float = 2.0) -> Attempt:
    life = Life("r0", 0, cast(Any, None), "", Path(), list(spells))
    seen = Seen(Ask("acme", "chat", False, False, "hello", 4, "chat", "tiny"), sent, ended, status, {}, body)
    seen.broken = "" if status else "the connection ended without an answer"
    return Attempt(life, seen, verdict_of(seen))


def problems(*attempts: Attempt, client: str = "acme") -> list[str]:
    return [why for _, why in judge.lost([Story(client, list(attempts))], {"globex-seats"})]


ERROR = b'{"error": {"message": "Nobody is there.", "code": "engine_closed"}}'


def test_what_only_the_end_of_its_replica_explains_is_not_lost() -> None:
    assert problems(attempt()) == ["lost: the connection ended without an answer"]
    assert problems(attempt(Spell(Kind.KILL_OWNER, 1.5))) == []
    assert problems(attempt(Spell(Kind.KILL_OWNER, 2.5))) != []
    assert problems(attempt(Spell(Kind.CUT_OWNER_ALL, 0.0, 1.5))) == []
    assert problems(attempt(Spell(Kind.CUT_OWNER_PEERS, 0.0, 3.0))) != [], "its clients and engines still reach it"
    assert problems(attempt(Spell(Kind.CUT_FOLLOWER_REDIS, 0.0), status=502, body=ERROR)) == ["lost: 502 engine_closed"]


def test_a_replica_that_was_cut_off_from_its_engines_may_say_so_until_it_has_found_them() -> None:
    nobody = b'{"error": {"message": "Nobody is there.", "code": "no_endpoint"}}'
    for kind, ended, expected in (
        (Kind.CUT_OWNER_ALL, 0.5, []),
        (Kind.CUT_OWNER_ALL, -2.5, ["lost: 503 no_endpoint"]),
        (Kind.CUT_OWNER_PEERS, 0.5, ["lost: 503 no_endpoint"]),
    ):
        refused = attempt(Spell(kind, -5.0, ended), status=503, body=nobody)
        refused.seen.headers |= {"retry-after": "1", "content-length": str(len(nobody))}
        assert problems(Attempt(refused.life, refused.seen, verdict_of(refused.seen))) == expected


def test_who_is_told_to_end_finishes_what_it_has() -> None:
    assert problems(attempt(Spell(Kind.TERM_OWNER, 1.5))) != []
    assert problems(attempt(Spell(Kind.TERM_OWNER, 0.2))) == [], "a balancer that still sends there knows it by now"


def test_only_who_has_a_limit_is_refused_by_one() -> None:
    assert problems(attempt(status=429, body=ERROR)) == ["lost: 429 engine_closed"]
    assert problems(attempt(status=429, body=ERROR), client="globex-seats") == []


def test_a_lie_is_one_whatever_happened_to_its_replica() -> None:
    answer = b'{"model": "chat", "choices": [{"message": {"content": "no"}, "finish_reason": "stop"}], "usage": '
    answer += b'{"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}'
    lying = attempt(Spell(Kind.STOP_OWNER, 0.0), status=200, body=answer)
    lying.seen.broken = ""
    lying.seen.headers["content-length"] = str(len(answer))
    assert problems(lying)[0].startswith("lie: text")


# -- owners


def test_a_term_of_two_replicas_is_found_out() -> None:
    assert judge.terms_twice([leads(1, "A", 5), carried(2, "C", "A", 5), leads(3, "B", 6)]) == []
    found = judge.terms_twice([leads(1, "A", 5), leads(3, "B", 5)])
    assert [one.split(": Part")[0] for one in found] == ["main: term 5 is A and B's"]
    assert judge.terms_twice([leads(1, "A", 5), carried(2, "C", "B", 5)]) != []
    assert judge.terms_twice([leads(1, "A", 5), carried(2, "B", "B", 5, alone=True)]) == []


def test_nobody_goes_back_to_a_lower_term() -> None:
    assert judge.going_back([carried(1, "C", "A", 5), carried(2, "C", "B", 6), carried(2, "B", "A", 5)]) == []
    assert judge.going_back([carried(1, "C", "B", 6), carried(2, "C", "A", 5)]) != []


@pytest.mark.parametrize(
    ("cut", "stale"),
    [
        ((), True),
        ((gone(0, 9, "r0", "redis"),), True),  # the new owner itself could tell it
        ((gone(0, 9, "r0", "redis"), gone(0, 9, "r0", "r1")), True),  # the third one
        ((gone(0, 9, "r0", "redis"), gone(0, 9, "r0", "r1"), gone(0, 9, "r0", "r2")), False),
        ((gone(0, 4.5, "r0", "redis"), gone(0, 9, "r0", "r1"), gone(0, 9, "r0", "r2")), False),  # just healed
        (
            (gone(0, 9, "r0", "redis"), gone(0, 3, "r0", "r1"), gone(0, 3, "r0", "r2")),
            False,
        ),  # a link is made anew in this time
        ((gone(0, 9, "r0", "redis"), gone(0, 2.4, "r0", "r1"), gone(0, 9, "r0", "r2")), True),  # by a link made anew
        ((gone(0, 3, "r0", "redis"), gone(0, 9, "r0", "r1"), gone(0, 9, "r0", "r2")), True),  # by Redis
        ((gone(0, 9, "r0"),), False),  # it was stopped
    ],
)
def test_who_could_be_told_of_a_new_owner_does_not_go_on_as_one(cut: tuple[Gone, ...], stale: bool) -> None:
    trail = [leads(0, "A", 5), leads(2, "B", 6), carried(5, "A", "A", 5)]
    assert bool(judge.stale(trail, cut, SLOTS, NOBODY_STOOD)) is stale


def test_a_follower_does_not_go_on_with_an_owner_that_was_followed_by_another() -> None:
    away = [gone(0, 9, "r0", "redis"), gone(0, 9, "r0", "r1")]
    trail = [leads(0, "A", 5), leads(2, "B", 6), carried(3.4, "C", "A", 5), carried(3.6, "C", "A", 5)]
    assert [one.at for one, _ in judge.stale(trail, away, SLOTS, NOBODY_STOOD)] == [3.6]
    assert judge.stale(trail, away, SLOTS, lambda began, ended: 0.5) == [], "the machine let it stand still"


def test_it_is_known_how_soon_another_leads() -> None:
    trail = [leads(0, "A", 5), leads(3, "A", 6), leads(4.5, "B", 7)]
    assert judge.led_again(trail, "main", "A", 2.0) == 2.5
    assert judge.led_again(trail[:2], "main", "A", 2.0) is None


# -- limits and seats


def served(began: float, ended: float, *, sent: float | None = None, engine: str = "m0", life: str = "r0.0") -> Served:
    return Served(
        f"{began} {engine} {life}", "globex-seats", engine, began if sent is None else sent, began, ended, life
    )


def test_a_minute_that_holds_more_than_the_limit_is_found_out() -> None:
    remembered = cast(Any, lambda one, began, ended: False)
    many = [served(at, at + 0.1) for at in range(0, 120)]  # any 60 s, both ends with them: 61
    assert judge.over_a_minute(many, 61, 1, remembered) is None
    assert judge.over_a_minute(many, 60, 1, remembered) == (61, 0.0)
    assert judge.over_a_minute(many, 1200, 20, remembered) == (1220, 0.0)
    assert judge.over_a_minute(many, 60, 1, lambda one, began, ended: one.began == 30.0) == (61, 31.0)
    waited = [served(at + 2.0, at + 3.0, sent=at) for at in (0.0, 61.0)]  # when they were admitted is not known so well
    assert judge.over_a_minute(waited, 0, 1, remembered) == (1, 0.0)


def test_requests_at_once_are_counted_as_engines_had_them() -> None:
    assert judge.most_at_once([served(0, 2), served(1, 3), served(2.5, 4)])[0] == 2
    assert judge.most_at_once([served(0, 2), served(1.98, 3)])[0] == 1, "an engine ends its books a moment later"


def test_a_seat_that_is_given_twice_while_one_leads_is_found_out() -> None:
    trail = [leads(0, "A", 5), Part(0, "B", "main", "follows", 5), Part(0, "C", "main", "follows", 5)]
    assert judge.steady(trail, "main", {"A", "B", "C"}) == [(0, float("inf"))]
    alone = [*trail, Part(4, "C", "main", "alone", 5), Part(8, "C", "main", "follows", 5)]
    whiles = judge.steady(alone, "main", {"A", "B", "C"})
    assert whiles == [(0, 4), (8, float("inf"))]
    three = [served(at, at + 2.0, life=f"r{n}.0") for n, at in enumerate((9.0, 10.1, 10.2))]
    whiles = [(8.0, 20.0)]
    assert judge.seats_given_twice(three, 3, whiles, []) == []
    assert judge.seats_given_twice(three, 2, whiles, []) == ["m0 had 3 requests at 10.20, and has 2 seats"]
    assert judge.seats_given_twice(three, 2, [(10.0, 20.0)], []) == [], "the last came when little was known yet"
    assert judge.seats_given_twice(three, 2, whiles, [gone(0, 9, "r0")]) == [], "one was stopped, with what it had"
    assert judge.seats_given_twice(three, 2, whiles, [gone(0, 30, "redis")]) != [], "that is no reason"
