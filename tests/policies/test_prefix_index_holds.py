"""What requests under way hold stays, what ends becomes the newest, and in no schedule a chain gets a hole."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.prefix_index import GHOST_SHARE, Hold, PrefixIndex
from tests.policies.builders import chain_of

PATHS = st.lists(st.integers(0, 2), min_size=1, max_size=8)


class Holds:
    """An index and what the requests under way hold of it."""

    def __init__(self, capacity: int) -> None:
        self.index = PrefixIndex(capacity)
        self.live: list[Hold] = []
        self.seen: list[tuple[int, ...]] = []  # every chain there ever was
        self.fits = True  # never was more held than fits, since the index was last cleared

    def do(self, act: str, what: list[int] | int, more: float | bool | None) -> None:
        index = self.index
        if isinstance(what, list):
            self.seen.append(chain_of(what))
        if act == "hold" and isinstance(what, list):
            self.live.append(index.hold(chain_of(what), float(more or 0.0)))
        elif act == "touch" and isinstance(what, list):
            index.touch(chain_of(what))
        elif act == "let go" and isinstance(what, int):
            if self.live:
                index.let_go(self.live.pop(what % len(self.live)), computed=bool(more))
        elif act == "forget" and isinstance(what, int):
            index.forget_unused_since(what)
        elif act == "resize" and isinstance(what, int):
            index.resize(what)
        elif act == "clear":
            index.clear()
        self.fits = (self.fits or act == "clear") and len(self.held) <= index.capacity

    @property
    def held(self) -> set[int]:
        """The distinct blocks of the requests under way, but those from before the index was cleared."""
        return {block for hold in self.live if hold.epoch == self.index._epoch for block in hold.blocks}


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), PATHS, st.sampled_from([0.0, 0.5, 2.5])),
        st.tuples(st.just("let go"), st.integers(0, 9), st.booleans()),
        st.tuples(st.just("touch"), PATHS, st.none()),
        st.tuples(st.just("forget"), st.integers(0, 60), st.none()),
        st.tuples(st.just("resize"), st.integers(0, 40), st.none()),
        st.tuples(st.just("clear"), st.none(), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(ACTS, st.integers(0, 40))
def test_in_any_schedule_the_bound_holds_and_what_fits_and_is_held_stays(
    acts: list[tuple[str, list[int] | int, float | bool | None]], capacity: int
) -> None:
    holds = Holds(capacity)
    for act in acts:
        holds.do(*act)
        index = holds.index
        assert len(index) <= index.capacity
        assert index.held == len(holds.held)
        if not holds.fits:
            continue
        for chain in holds.seen:
            present = [block for block in chain if index.match((block,))]
            assert present == [*chain[: len(present)]], "present blocks of a chain are a leading run"
            assert index.match(chain) == len(present)
            assert index.unheld(chain) == len(set(chain) - holds.held)
        assert holds.held <= {block for chain in holds.seen for block in chain if index.match((block,))}
    while holds.live:
        holds.do("let go", 0, True)
    assert holds.index.held == 0
    assert len(holds.index) <= holds.index.capacity


# Requests of one growing conversation that are often cut short, beside others: here order goes wrong if anywhere.
CUT_SHORT = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(1, 8).map(lambda length: [0] * length), st.just(0.0)),
        st.tuples(st.just("let go"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("touch"), st.integers(1, 9).map(lambda other: [other] * 4), st.none()),
    ),
    min_size=8,
    max_size=40,
)


@settings(max_examples=300)
@given(CUT_SHORT, st.integers(8, 16))
def test_requests_that_were_never_computed_leave_no_hole_in_a_chain(
    acts: list[tuple[str, list[int] | int, float | bool | None]], capacity: int
) -> None:
    holds = Holds(capacity)
    for act in acts:
        holds.do(*act)
        if not holds.fits:
            return
        for chain in holds.seen:
            present = [block for block in chain if holds.index.match((block,))]
            assert holds.index.match(chain) == len(present)
            assert present == [*chain[: len(present)]]


@given(ACTS, st.integers(0, 40))
def test_whenever_any_match_changes_the_version_does(
    acts: list[tuple[str, list[int] | int, float | bool | None]], capacity: int
) -> None:
    holds = Holds(capacity)
    chains = {chain_of(what) for _, what, _ in acts if isinstance(what, list)}
    for act in acts:
        version, before = holds.index.version, {chain: holds.index.match(chain) for chain in chains}
        holds.do(*act)
        assert holds.index.version >= version
        if holds.index.version == version:
            assert before == {chain: holds.index.match(chain) for chain in chains}


def test_looking_does_not_change_the_version() -> None:
    index = PrefixIndex(4)
    index.touch((1, 2))
    version = index.version
    index.match((1, 2))
    index.unheld((1, 2))
    assert index.version == version


def test_blocks_of_a_request_under_way_outlive_newer_ones_that_nobody_holds() -> None:
    index = PrefixIndex(4)
    kept = index.hold((1, 2))
    index.touch((3, 4))
    index.touch((5, 6))
    assert (index.match((1, 2)), index.match((3, 4)), index.match((5, 6))) == (2, 0, 2)
    index.let_go(kept)
    index.touch((7, 8))
    assert (index.match((1, 2)), index.match((5, 6))) == (2, 0), "a request that ends makes its blocks the newest"


def test_a_request_that_ends_puts_back_what_was_evicted_as_too_much_was_held() -> None:
    index = PrefixIndex(2)
    first, second = index.hold((1, 2)), index.hold((3, 4))
    assert len(index) == 2
    index.let_go(second)
    index.let_go(first)
    assert (index.match((1, 2)), index.match((3, 4))) == (2, 0)


def test_where_more_is_held_than_fits_nothing_stays_that_nobody_holds() -> None:
    """The engine holds it too: what nobody holds is the first to go there, however new."""
    index = PrefixIndex(4)
    index.touch((7, 8))
    first, second = index.hold((1, 2, 3)), index.hold((4, 5, 6))
    assert index.match((7, 8)) == 0
    last = index.hold((9,))
    index.let_go(last)
    assert index.match((9,)) == 0
    assert (index.match((1, 2, 3)), index.match((4, 5, 6)), len(index)) == (0, 3, 3), "of the held the oldest go"
    index.let_go(second)
    assert index.match((4, 5, 6)) == 3, "now it fits"
    assert index.hold((9,)).evicted, "it is remembered as evicted"
    index.let_go(first)


def test_what_a_request_brought_that_was_never_computed_is_not_there() -> None:
    index = PrefixIndex(4)
    kept = index.hold((1, 2))
    index.touch((3, 4))
    index.let_go(kept, computed=False)
    assert index.match((1, 2)) == 0, "a phantom hit costs far more than a missed one"
    index.touch((5, 6))
    assert index.match((3, 4)) == 2


def test_what_was_there_before_or_was_computed_by_others_stays_when_a_request_ends_uncomputed() -> None:
    index = PrefixIndex(6)
    index.touch((1, 2))
    cut, whole = index.hold((1, 2, 3, 4, 5)), index.hold((1, 2, 3, 4))
    index.let_go(whole)
    index.let_go(cut, computed=False)
    assert index.match((1, 2, 3, 4, 5)) == 4
    index.touch((7, 8, 9))
    assert index.match((1, 2, 3, 4)) == 3, "the tail is the oldest, also of what both held"


def test_answers_under_way_take_room_and_give_it_back() -> None:
    index = PrefixIndex(6)
    index.touch((1, 2, 3))
    kept = index.hold((7,), output_blocks=3.5)
    assert len(index) == 3
    index.let_go(kept)
    index.touch((4, 5, 6))
    assert len(index) == 6


def test_a_block_counts_as_held_until_its_last_holder_ends() -> None:
    index = PrefixIndex(10)
    one, two = index.hold((1, 2, 3)), index.hold((1, 2, 9))
    assert (one.new, two.new, index.held) == (3, 1, 4)
    assert (index.unheld((1, 2, 5)), index.unheld((1, 2, 3, 4)), index.unheld(())) == (1, 1, 0)
    assert index.let_go(one) == 1, "3 is free, 1 and 2 are not"
    assert index.let_go(two) == 3
    assert index.held == 0


def test_of_a_chain_longer_than_the_capacity_the_head_is_held() -> None:
    index = PrefixIndex(2)
    kept = index.hold((1, 2, 3, 4))
    assert (kept.blocks, kept.new, index.held, index.unheld((1, 2, 3, 4))) == ((1, 2), 2, 2, 2)
    assert index.let_go(kept) == 2


def test_a_hold_tells_the_last_use_of_the_deepest_block_that_was_there_and_unheld() -> None:
    index = PrefixIndex(10)
    assert index.hold((8, 9)).last_use is None
    index.touch((1, 2, 3))
    index.touch((1, 2))
    assert index.hold((1, 2, 3, 4)).last_use == 2, "the use of block 3: the first touch, after the hold"
    assert index.hold((1, 2, 3)).last_use is None, "held by another request, so it says nothing of what is kept"


def test_what_was_not_used_since_is_forgotten_but_for_what_is_held() -> None:
    index = PrefixIndex(10)
    index.touch((1, 2))
    index.touch((3, 4))
    kept = index.hold((5, 6))
    index.touch((1,))
    assert index.forget_unused_since(3) == 3
    assert [index.match(chain) for chain in ((1, 2), (3, 4), (5, 6))] == [1, 0, 2]
    index.let_go(kept)
    assert index.forget_unused_since(3) == 3, "its end has used it again"


def test_a_hold_knows_whether_what_it_misses_was_there_not_long_ago() -> None:
    index = PrefixIndex(8)
    index.touch((1, 2))
    index.touch(tuple(range(10, 17)))
    assert index.match((1, 2)) == 1
    assert index.hold((1, 2)).evicted
    assert not index.hold((1, 3)).evicted
    for number in range(20, 40):
        index.touch((number,))
    assert not index.hold((15, 16)).evicted, f"only {GHOST_SHARE * 8:.0f} are remembered"


def test_what_was_cleared_is_free_and_settles_without_harm_to_what_came_after() -> None:
    index = PrefixIndex(8)
    old = index.hold((1, 2), output_blocks=3.0)
    index.clear()
    new = index.hold((1, 2), output_blocks=3.0)
    assert (old.epoch, new.epoch) == (0, 1)
    assert index.let_go(old) == 2, "what it was charged for"
    assert (index.held, index.match((1, 2))) == (2, 2)
    index.touch((3, 4, 5, 6, 7, 8))
    assert len(index) == 5, "the room of the new one's answer is still taken"
    assert index.let_go(new) == 2


def test_what_was_cleared_is_not_put_back_by_requests_from_before() -> None:
    index = PrefixIndex(4)
    kept = index.hold((1, 2))
    index.clear()
    index.let_go(kept)
    assert (len(index), index.held) == (0, 0)


def test_a_chain_that_has_a_block_twice_is_let_go_as_any_other() -> None:
    index = PrefixIndex(8)
    hold = index.hold((1, 2, 1, 3))
    index.let_go(hold)
    assert index.held == 0
