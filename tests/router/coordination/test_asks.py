"""Each answer reaches who asked, once, and what belongs to nobody is told apart from what is late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.coordination.asks import Asks
from router.coordination.frames import Answer, Aside, Held, NotMine, Refused
from router.coordination.framing import BadFrame
from tests.router.coordination.builders import make_bound

ENDS: list[Answer] = [make_bound(1), Refused(1, "no_endpoint", "No.", 2.0, 503, False), Aside(1), NotMine(1, "p", 3)]


@pytest.mark.parametrize("answer", ENDS, ids=lambda answer: type(answer).__name__)
def test_held_may_come_before_the_answer_and_nothing_after_it(answer: Answer) -> None:
    asks, got = Asks(), list[Answer | None]()
    number = asks.new(got.append)
    asks.answer(Held(number, 60.0))
    asks.answer(answer)
    asks.lost()
    assert got == [Held(1, 60.0), answer]


@given(st.permutations(range(1, 30)))
def test_answers_find_who_asked_in_any_order(order: list[int]) -> None:
    asks, got = Asks(), dict[int, Answer | None]()
    for _ in order:
        number = asks.new(lambda answer: got.__setitem__(answer.id if answer else 0, answer))
        assert number == asks.given
    for number in order:
        asks.answer(make_bound(number, f"e{number}"))
    assert list(got) == order
    assert all(answer == make_bound(number, f"e{number}") for number, answer in got.items())


def test_an_answer_to_what_was_cancelled_is_passed_over() -> None:
    asks, got = Asks(), list[Answer | None]()
    number = asks.new(got.append)
    asks.settled(number)
    asks.answer(make_bound(number))
    assert (got, asks.open) == ([], False)


def test_an_answer_to_what_was_never_asked_is_a_fault() -> None:
    with pytest.raises(BadFrame, match="never asked"):
        Asks().answer(make_bound(1))


@pytest.mark.parametrize("answer", [*ENDS, Held(1, 1.0)], ids=lambda answer: type(answer).__name__)
def test_a_second_answer_to_who_has_a_ticket_is_a_fault(answer: Answer) -> None:
    asks = Asks()
    asks.new(lambda _: None)
    asks.answer(make_bound(1))
    with pytest.raises(BadFrame, match="second answer"):
        asks.answer(answer)


def test_who_waits_is_told_when_the_connection_is_lost_and_who_has_a_ticket_keeps_it() -> None:
    asks, got = Asks(), list[Answer | None]()
    bound = asks.new(lambda _: None)
    asks.new(got.append)
    asks.answer(make_bound(bound))
    asks.lost()
    assert (got, asks.open) == ([None], True)
    asks.settled(bound)
    assert not asks.open


def test_who_asks_again_the_moment_it_is_told_of_the_loss_is_not_told_at_once_again() -> None:
    asks, got = Asks(), list[Answer | None]()
    asks.new(lambda _: [asks.new(got.append), None][1])
    asks.lost()
    assert (got, asks.open, asks.given) == ([], True, 2)


def test_an_adopted_request_is_under_way_until_it_is_settled() -> None:
    asks = Asks()
    number = asks.adopt()
    assert (number, asks.open) == (1, True)
    asks.settled(number)
    assert not asks.open
