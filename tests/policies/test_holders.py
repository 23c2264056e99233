"""The map of holders says what the indexes say, whatever happens to them, and finds the longest stretch."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.exact_index import ExactIndex
from policies.holders import Holders, Watched
from policies.prefix_index import Hold, PrefixIndex
from tests.policies.builders import chain_of
from tests.policies.kv_engine import KvEngine
from tests.policies.kv_engine import chain_of as chain_of_tokens

PATHS = st.lists(st.integers(0, 1), min_size=1, max_size=6).map(tuple)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["touch", "hold", "end", "break", "resize", "forget", "clear", "restore", "leave"]),
        st.integers(0, 2),
        PATHS,
        st.integers(0, 12),
    ),
    max_size=60,
)


def act(index: PrefixIndex, held: list[Hold], step: str, path: tuple[int, ...], number: int) -> None:
    if step == "touch":
        index.touch(chain_of(path))
    elif step == "hold":
        held.append(index.hold(chain_of(path), 1.0))
    elif step in ("end", "break") and held:
        index.let_go(held.pop(number % len(held)), computed=step == "end")
    elif step == "resize":
        index.resize(number)
    elif step == "forget":
        index.forget_unused_since(number)
    elif step == "clear":
        index.clear()
    elif step == "restore":
        index.restore(chain_of(path)[::-1])


@given(STEPS)
@example([("hold", 0, (0, 1), 0), ("break", 0, (0, 1), 0)])
@example([("hold", 0, (0, 1, 0), 0), ("clear", 0, (0,), 0), ("end", 0, (0,), 0)])
@example([("touch", 0, (0, 1, 0, 1), 0), ("resize", 0, (0,), 2), ("touch", 0, (1, 1), 0), ("forget", 0, (0,), 3)])
@settings(max_examples=300)
def test_it_is_what_all_indexes_have(steps: list[tuple[str, int, tuple[int, ...], int]]) -> None:
    holders: Holders[int] = Holders()
    indexes = {number: PrefixIndex(8) for number in range(3)}
    held: dict[int, list[Hold]] = {number: [] for number in indexes}
    indexes[0].touch(chain_of((0, 1)))  # before anybody looked
    for number, index in indexes.items():
        index.observe(Watched(holders, number), None)
    for step, number, path, other in steps:
        if step == "leave":
            indexes[number].observe(None, None)
        else:
            act(indexes[number], held[number], step, path, other)
    watched = {number: set(index.blocks()) for number, index in indexes.items() if index.watch is not None}
    everywhere = set[int]().union(*watched.values())
    assert len(holders) == len(everywhere)
    for block in everywhere:
        assert set(holders.of(block)) == {number for number, blocks in watched.items() if block in blocks}


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.integers(1, 8))
def test_who_holds_the_longest_stretch_is_found(lengths: list[int], most: int) -> None:
    holders: Holders[int] = Holders()
    chain = chain_of(range(20))
    for number, length in enumerate(lengths):
        holders.took(number, chain[:length])
    depth = holders.depth(chain, most)
    found = set(holders.of(chain[depth])) if depth < len(chain) else set()
    assert found == {number for number, length in enumerate(lengths) if length > depth}
    assert len(found) <= most
    assert not depth or sum(length >= depth for length in lengths) > most  # one block less, and they are too many


def test_what_engines_tell_is_known_beside_the_estimate() -> None:
    """An engine keeps more than the estimate believes, and forgets it when it restarts."""
    index, engine, tokens = ExactIndex(2, "s"), KvEngine(4), tuple(range(40))
    held: Holders[str] = Holders()
    placed: Holders[str] = Holders()
    index.observe(Watched(held, "e"), Watched(placed, "e"))
    index.lost(complete=True)
    index.listen(True)
    chain = chain_of_tokens(tokens, 4)
    session = index.expect(chain, len(tokens), 4.0)
    engine.run(session, tokens)
    for event in engine.tell():
        index.apply(event)
    index.settle(session, len(tokens), 0)
    assert index.match(chain) == len(chain)
    assert (held.depth(chain, 0), placed.depth(chain, 0)) == (0, len(chain))
    index.restarted()
    assert (len(held), len(placed), index.match(chain)) == (0, 0, 0)
