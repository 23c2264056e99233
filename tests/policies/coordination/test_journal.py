"""What a journal says of the indexes of a pool is what they hold, block by block and in their order."""

from __future__ import annotations

from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from policies.coordination.journal import Entry, Journal, Kind, Rebuilt, endpoint_key
from policies.prefix_index import Hold, PrefixIndex
from tests.policies.builders import chain_of as any_chain_of

PATHS = st.lists(st.integers(0, 2), min_size=1, max_size=8)
ENDPOINTS = st.integers(1, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("touch"), ENDPOINTS, PATHS),
        st.tuples(st.just("hold"), ENDPOINTS, PATHS),
        st.tuples(st.just("let go"), ENDPOINTS, st.booleans()),
        st.tuples(st.just("forget"), ENDPOINTS, st.integers(0, 10)),
        st.tuples(st.just("clear"), ENDPOINTS, st.none()),
        st.tuples(st.just("flush"), ENDPOINTS, st.none()),
        st.tuples(st.just("snapshot"), ENDPOINTS, st.none()),
    ),
    max_size=30,
)


def chain_of(path: list[int]) -> tuple[int, ...]:
    """Hashes as `prefix_blocks` makes them: 64 bits, none negative."""
    return tuple(block % 2**64 for block in any_chain_of(path))


class Pool:
    """Two endpoints, their journal, and a reader of it."""

    def __init__(self, capacity: int) -> None:
        self.indexes = {number: PrefixIndex(capacity) for number in (1, 2)}
        self.journal = Journal()
        self.journal.follow(self.indexes)
        self.held: dict[int, list[Hold]] = {1: [], 2: []}
        self.written = list[Entry]()
        self.write_snapshots()

    def write_snapshots(self) -> None:
        self.written = list(self.journal.snapshots())  # what was before is not needed

    def flush(self) -> None:
        self.written += self.journal.entries()

    def play(self, step: tuple[str, int, object]) -> None:
        what, endpoint, argument = step
        index = self.indexes[endpoint]
        if what == "touch":
            index.touch(chain_of(argument))  # type: ignore[arg-type]
        elif what == "hold":
            self.held[endpoint].append(index.hold(chain_of(argument)))  # type: ignore[arg-type]
        elif what == "let go" and self.held[endpoint]:
            index.let_go(self.held[endpoint].pop(0), computed=bool(argument))
        elif what == "forget":
            index.forget_unused_since(int(argument))  # type: ignore[call-overload]
        elif what == "clear":
            index.clear()
        elif what == "flush":
            self.flush()
        elif what == "snapshot":
            self.write_snapshots()

    def read(self) -> Rebuilt:
        self.flush()
        rebuilt = Rebuilt()
        for entry in self.written:
            rebuilt.apply(entry)
        return rebuilt


@given(STEPS)
def test_what_is_rebuilt_is_what_was_there_in_its_order(steps: list[tuple[str, int, object]]) -> None:
    pool = Pool(capacity=1000)
    for step in steps:
        pool.play(step)
    rebuilt = pool.read()
    assert rebuilt.unplaced == 0
    for endpoint, index in pool.indexes.items():
        assert rebuilt.blocks(endpoint) == index.blocks()


@given(STEPS.map(lambda steps: [step for step in steps if step[0] in ("touch", "clear", "flush", "snapshot")]))
def test_what_was_pushed_out_is_out_in_the_rebuilt_one_too(steps: list[tuple[str, int, object]]) -> None:
    pool = Pool(capacity=5)
    for step in steps:
        pool.play(step)
    rebuilt = pool.read()
    for endpoint, index in pool.indexes.items():
        assert rebuilt.blocks(endpoint) == index.blocks()


@given(STEPS, st.integers(1, 6), PATHS)
def test_a_rebuilt_index_keeps_its_bound_and_what_is_held(
    steps: list[tuple[str, int, object]], capacity: int, path: list[int]
) -> None:
    pool = Pool(capacity=20)
    for step in steps:
        pool.play(step)
    index = PrefixIndex(capacity)
    hold = index.hold(chain_of(path))
    pool.read().restore({1: index})
    assert len(index) <= capacity
    assert index.match(hold.blocks) == len(hold.blocks)
    index.let_go(hold)
    assert index.held == 0


def test_a_chain_is_written_once_and_then_named_by_its_last_block() -> None:
    pool = Pool(capacity=100)
    first, longer = tuple(range(1, 51)), tuple(range(1, 53))
    for endpoint in (1, 2):
        pool.indexes[endpoint].touch(first)
    pool.indexes[1].touch(longer)
    used = [entry for entry in pool.journal.entries() if entry.kind == Kind.USED]
    assert [(entry.parent, len(entry.blocks) // 8) for entry in used] == [(0, 50), (50, 0), (50, 2)]


def test_uses_of_one_chain_in_a_row_are_one_entry() -> None:
    pool = Pool(capacity=100)
    hold = pool.indexes[1].hold((1, 2, 3))
    pool.indexes[1].let_go(hold)
    assert [entry.kind for entry in pool.journal.entries()] == [Kind.USED, Kind.KEPT]


def test_entries_whose_beginning_is_lost_are_passed_over() -> None:
    rebuilt = Rebuilt()
    rebuilt.apply(Entry(Kind.USED, 1, parent=77, blocks=(5).to_bytes(8, "little")))
    assert rebuilt.unplaced == 1
    assert rebuilt.blocks(1) == []


@given(st.lists(st.tuples(st.integers(-1, 9), st.integers(0, 2), st.integers(0, 5), st.binary(max_size=40),
                          st.integers(-3, 9)), max_size=20))  # fmt: skip
def test_nonsense_in_a_journal_raises_nothing_and_ends(entries: list[tuple[int, int, int, bytes, int]]) -> None:
    rebuilt = Rebuilt()
    for entry in entries:
        rebuilt.apply(Entry(*entry))
    index = PrefixIndex(10)
    rebuilt.restore({1: index})
    assert len(index) <= 10


def test_an_endpoint_that_the_journal_does_not_speak_of_keeps_what_it_has() -> None:
    index = PrefixIndex(10)
    index.touch((1, 2, 3))
    assert Rebuilt().restore({endpoint_key("http://e0"): index}) == 0
    assert index.match((1, 2, 3)) == 3


def test_a_pool_that_is_left_is_noted_no_more() -> None:
    pool = Pool(capacity=10)
    pool.journal.leave()
    pool.indexes[1].touch((1, 2))
    assert pool.journal.waiting == 0
    assert pool.journal.due


def test_a_writer_that_nobody_empties_keeps_a_bounded_number_of_notes() -> None:
    pool = Pool(capacity=10)
    for _ in range(70_000):
        pool.indexes[1].touch((1, 2))
    assert pool.journal.entries(256) == []
    assert pool.journal.waiting == 0
    assert pool.journal.due


class Conversations:
    """Requests as chats make them: a common system prompt, some turns more each time, some abandoned."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.systems = [tuple(self.random.getrandbits(64) for _ in range(30)) for _ in range(5)]
        self.open = [self.begun() for _ in range(200)]

    def begun(self) -> tuple[int, ...]:
        return (*self.random.choice(self.systems), self.random.getrandbits(64))

    def next(self) -> tuple[int, ...]:
        number = self.random.randrange(len(self.open))
        if self.random.random() < 0.08:
            self.open[number] = self.begun()
        grown = self.open[number] + tuple(self.random.getrandbits(64) for _ in range(self.random.randint(1, 12)))
        self.open[number] = grown
        return grown


def test_after_5000_requests_a_new_owner_matches_what_the_old_one_would_have() -> None:
    traffic, random = Conversations(seed=7), Random(3)
    indexes = {endpoint_key(f"http://e{number}"): PrefixIndex(3000) for number in range(4)}
    journal = Journal(snapshot_blocks=50_000)
    journal.follow(indexes)
    written, snapshots, total = list[Entry](), 0, 0
    under_way: list[tuple[int, Hold]] = []
    for number in range(5000):
        chain = traffic.next()
        best = max(indexes, key=lambda key: (indexes[key].match(chain), random.random()))
        endpoint = best if random.random() < 0.8 else random.choice(list(indexes))
        under_way.append((endpoint, indexes[endpoint].hold(chain, 2.0)))
        if len(under_way) > 40:
            at, hold = under_way.pop(random.randrange(len(under_way)))
            indexes[at].let_go(hold, computed=random.random() > 0.02)
        if number % 100 == 0:
            if journal.due:
                written, snapshots = list(journal.snapshots()), snapshots + 1
            new = journal.entries()
            total += len(msgspec.msgpack.encode(new))
            written += new
    written += journal.entries()
    rebuilt = Rebuilt()
    for entry in written:
        rebuilt.apply(entry)
    after = {key: PrefixIndex(3000) for key in indexes}
    assert rebuilt.restore(after) == 4
    asked = [traffic.next() for _ in range(2000)]
    old = sum(indexes[key].match(chain) for chain in asked for key in indexes)
    found = sum(min(after[key].match(chain), indexes[key].match(chain)) for chain in asked for key in indexes)
    believed = sum(after[key].match(chain) for chain in asked for key in indexes)
    print(
        f"found {found / old:.4f} of the old matches, believed {believed / old:.4f}, {total / 5000:.0f} bytes a request"
    )
    assert all(len(index) > 0.8 * 3000 for index in indexes.values()), "the test is about what was pushed out too"
    assert snapshots > 2, "the test is about journals that were begun anew too"
    assert found >= 0.95 * old
    assert believed <= 1.05 * old
