"""Which pool has what was found: never two, and nobody in doubt."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from policies.discovery import Found, ServiceRecord, choose, serving

A = Found("uid-a", "p.a", "http://10.0.0.1:8000", since=100.0)


def keys(pool: str, *found: tuple[str, list[Found]], configured: dict[str, str] | None = None) -> list[str]:
    return [one.key for one in choose(configured or {}, dict(found))[pool].kept]


def test_what_one_pool_finds_it_has() -> None:
    assert keys("p", ("p", [A]), ("q", [])) == ["uid-a"]


def test_a_url_of_the_configuration_is_nobody_elses_nor_found_twice() -> None:
    assert keys("p", ("p", [A]), configured={A.url: "q"}) == []
    assert keys("p", ("p", [A]), configured={A.url: "p"}) == []


def test_one_engine_that_two_pools_find_serves_neither() -> None:
    found = [("p", [A]), ("q", [replace(A, name="q.a")])]
    assert (keys("p", *found), keys("q", *found)) == ([], [])


def test_an_address_that_another_pod_has_by_now_is_the_newer_ones() -> None:
    new = Found("uid-b", "q.b", A.url, since=200.0)
    assert (keys("p", ("p", [A]), ("q", [new])), keys("q", ("p", [A]), ("q", [new]))) == ([], ["uid-b"])
    assert keys("p", ("p", [A, replace(new, name="p.b")])) == ["uid-b"]


def test_where_nobody_says_which_is_newer_neither_serves() -> None:
    unknown = Found("uid-b", "q.b", A.url)
    for one in (unknown, replace(unknown, since=100.0)):
        assert (keys("p", ("p", [A]), ("q", [one])), keys("q", ("p", [A]), ("q", [one]))) == ([], [])


FOUND = st.builds(
    Found,
    key=st.sampled_from("abcdef"),
    name=st.sampled_from("abcdef"),
    url=st.sampled_from(["http://one", "http://two", "http://three"]),
    since=st.one_of(st.none(), st.sampled_from([1.0, 2.0, 3.0])),
)


@given(
    st.dictionaries(st.sampled_from("pqr"), st.lists(FOUND, max_size=4, unique_by=lambda one: one.key)),
    st.dictionaries(st.sampled_from(["http://one", "http://two"]), st.sampled_from("pq")),
)
def test_no_url_serves_two_pools_or_twice_and_nothing_is_lost(
    found: dict[str, list[Found]], configured: dict[str, str]
) -> None:
    chosen = choose(configured, found)
    served = [one.url for each in chosen.values() for one in each.kept]
    assert len(set(served)) == len(served)
    assert not set(served) & set(configured)
    for pool, several in found.items():
        assert sorted([*chosen[pool].kept, *chosen[pool].refused], key=repr) == sorted(several, key=repr)
    assert choose(configured, dict(reversed(found.items()))) == chosen, (
        "the order in which pools are looked at is nothing"
    )


def test_srv_records_of_the_lowest_priority_serve_with_shares_of_one_on_average() -> None:
    records = [ServiceRecord("a", 1, 5, 30.0), ServiceRecord("b", 1, 5, 10.0), ServiceRecord("c", 1, 6, 99.0)]
    assert serving(records) == {("a", 1): 1.5, ("b", 1): 0.5}
    assert serving([]) == {}


def test_a_weight_of_0_is_next_to_nothing_beside_others_and_nothing_special_alone() -> None:
    assert serving([ServiceRecord("a", 1, 0, 0.0), ServiceRecord("b", 1, 0, 8.0)]) == {("a", 1): 0.01, ("b", 1): 2.0}
    assert serving([ServiceRecord("a", 1, 0, 0.0), ServiceRecord("b", 1, 0, 0.0)]) == {("a", 1): 1.0, ("b", 1): 1.0}


def test_an_address_that_is_told_twice_is_one() -> None:
    assert serving([ServiceRecord("a", 1, 0, 1.0), ServiceRecord("a", 1, 0, 3.0)]) == {("a", 1): 1.0}
