"""Every key has an order of endpoints of its own, by weight, and it changes as little as can be."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from policies.rendezvous import affinity_key, ranks, session_key
from tests.policies.builders import make_fleet, make_request, make_state

KEYS = st.integers(0, 2**64 - 1)


@given(KEYS, st.integers(1, 12))
def test_the_ranks_are_an_order_of_all_endpoints(key: int, count: int) -> None:
    assert sorted(ranks(make_fleet(count), key)) == list(range(count))


@given(KEYS, st.integers(0, 7))
def test_when_an_endpoint_goes_the_others_keep_their_order(key: int, gone: int) -> None:
    states = make_fleet(8)
    before = ranks(states, key)
    left = [state for number, state in enumerate(states) if number != gone]
    after = ranks(left, key)
    order = sorted((rank, state.endpoint.name) for rank, state in zip(before, states, strict=True) if state in left)
    assert [name for _, name in order] == [
        name for _, name in sorted((rank, state.endpoint.name) for rank, state in zip(after, left, strict=True))
    ]


def test_an_endpoint_of_weight_3_is_first_for_three_times_as_many_keys() -> None:
    states = [make_state("light"), make_state("heavy", weight=3.0)]
    firsts = Counter(ranks(states, key * 0x9E3779B97F4A7C15 % 2**64).index(0) for key in range(4000))
    assert 0.72 < firsts[1] / 4000 < 0.78


def test_a_session_is_the_tenants_own_and_without_one_the_prefix_stands_for_it() -> None:
    mine = replace(make_request(), session="1")
    assert session_key(mine) == session_key(replace(mine, id="other", prefix_blocks=(9,)))
    assert session_key(mine) != session_key(replace(mine, tenant="globex"))
    assert session_key(make_request()) == affinity_key(make_request())


def test_a_session_may_be_any_text_that_json_can_carry() -> None:
    assert session_key(replace(make_request(), session="\ud800")) != session_key(replace(make_request(), session=""))


def test_a_prefix_is_known_by_its_second_block_and_a_short_prompt_by_what_it_has() -> None:
    assert affinity_key(make_request(blocks=(1, 2, 3))) == 2
    assert affinity_key(make_request(blocks=(1,))) == 1
    assert affinity_key(make_request("a", blocks=())) != affinity_key(make_request("b", blocks=()))
