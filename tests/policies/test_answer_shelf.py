"""Answers in memory: within their bounds whatever comes, the one used least recently first to go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.answer_shelf import ENTRY_BYTES, AnswerShelf

ROOM = 3 * ENTRY_BYTES + 30
KEYS = [bytes([number]) for number in range(8)]


def test_what_was_put_in_is_found_until_its_time_is_over() -> None:
    shelf = AnswerShelf(ROOM, 10, ttl=60.0)
    assert shelf.put(b"a", b"1", 100.0) == 0
    assert shelf.get(b"a", 159.9) == b"1"
    assert shelf.get(b"b", 159.9) is None
    assert shelf.get(b"a", 160.0) is None, "a look does not lengthen it"
    assert (len(shelf), shelf.size) == (0, 0), "and it takes no room any more"


def test_the_one_that_was_used_least_recently_goes_first() -> None:
    shelf = AnswerShelf(ROOM, 10, ttl=60.0)
    for key in (b"a", b"b", b"c"):
        shelf.put(key, b"x" * 10, 0.0)
    assert shelf.get(b"a", 1.0) is not None
    assert shelf.put(b"d", b"x" * 10, 2.0) == 1
    assert [key for key in (b"a", b"b", b"c", b"d") if shelf.get(key, 3.0) is not None] == [b"a", b"c", b"d"]


def test_an_answer_in_the_place_of_another_evicts_nobody() -> None:
    shelf = AnswerShelf(ROOM, 10, ttl=60.0)
    for value in (b"1" * 10, b"2" * 20, b"3"):
        assert shelf.put(b"a", value, 0.0) == 0
        assert shelf.get(b"a", 0.0) == value
    assert (len(shelf), shelf.size) == (1, ENTRY_BYTES + 1)


def test_number_and_size_of_one_are_bounds_too() -> None:
    shelf = AnswerShelf(ROOM, 1, ttl=60.0)
    shelf.put(b"a", b"1", 0.0)
    assert shelf.put(b"b", b"2", 0.0) == 1
    assert shelf.put(b"b", b"x" * ROOM, 0.0) is None
    assert shelf.get(b"b", 0.0) is None, "the older answer to the same request is not the answer any more"
    assert shelf.size == 0


def test_what_goes_after_its_time_was_not_evicted_before_it() -> None:
    shelf = AnswerShelf(ROOM, 1, ttl=60.0)
    shelf.put(b"a", b"1", 0.0)
    assert shelf.put(b"b", b"2", 61.0) == 0


def test_all_of_it_goes_at_once() -> None:
    shelf = AnswerShelf(ROOM, 10, ttl=60.0)
    shelf.put(b"a", b"1", 0.0)
    shelf.put(b"b", b"2", 0.0)
    assert shelf.clear() == 2
    assert (shelf.get(b"a", 0.0), len(shelf), shelf.size) == (None, 0, 0)


@given(
    st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 400), st.floats(0, 20), st.booleans())),
    st.integers(1, 5),
)
def test_bounds_hold_after_every_step_and_a_value_is_the_last_one_put(
    steps: list[tuple[bytes, int, float, bool]], most: int
) -> None:
    shelf, now, last = AnswerShelf(ROOM, most, ttl=30.0), 0.0, dict[bytes, tuple[bytes, float]]()
    for key, length, later, puts in steps:
        now += later
        if puts:
            value = bytes([len(last) % 256]) * length
            shelf.put(key, value, now)
            last[key] = value, now
        else:
            found = shelf.get(key, now)
            assert found is None or (found == last[key][0] and now < last[key][1] + 30.0)
        assert 0 <= shelf.size <= ROOM
        assert len(shelf) <= most
    assert shelf.size == 0 or len(shelf) > 0
