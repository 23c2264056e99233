"""In sync the index claims what the engine holds, and hardly less; otherwise it is the estimate it always was."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.exact_index import ExactIndex
from policies.kv_tree import AllBlocksCleared, BlockRemoved, BlockStored
from policies.prefix_index import PrefixIndex
from tests.policies.kv_engine import KvEngine, Tokens, chain_of

PER_BLOCK = 4
PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=10).map(
    lambda parts: tuple(token for part in parts for token in ((0, 0, 0) if part else (0, 1)))
)
SEND, EVICT, CLEAR, TOGETHER = "send", "evict", "clear", "together"
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just(SEND), PROMPTS, st.floats(0.6, 1.6)),
        st.tuples(st.just(TOGETHER), PROMPTS, st.floats(0.6, 1.6)),
        st.tuples(st.just(EVICT), st.integers(0, 200), st.just(1.0)),
        st.tuples(st.just(CLEAR), st.just(0), st.just(1.0)),
    ),
    max_size=30,
)


def listening(capacity: int = 1000) -> ExactIndex:
    index = ExactIndex(capacity, "s")
    index.lost(complete=True)
    index.listen(True)
    return index


def send(
    index: ExactIndex, engine: KvEngine, tokens: Tokens, guess: float = 1.0, *, alone: bool = True, late: bool = False
) -> None:
    """One request from dispatch to its end. `guess`: the estimate of its tokens, as a factor."""
    chain = chain_of(tokens, PER_BLOCK)
    hold = index.hold(chain, 0.0)
    session = index.expect(
        chain, max(1, round(len(tokens) * guess)), PER_BLOCK * round(len(tokens) * guess) / len(tokens)
    )
    had = engine.run(session, tokens, alone=alone)
    if not late:
        tell(index, engine)
    index.let_go(hold)
    index.settle(session, len(tokens), had)


def tell(index: ExactIndex, engine: KvEngine) -> None:
    for event in engine.tell():
        index.apply(event)


def true_tokens(engine: KvEngine, tokens: Tokens) -> int:
    """What the index can know: whole engine blocks inside of whole prefix blocks."""
    whole = len(tokens) // PER_BLOCK * PER_BLOCK
    held = engine.cached(tokens)
    ends = [end // engine.size * engine.size for end in range(PER_BLOCK, whole + 1, PER_BLOCK)]
    return max((end for end in ends if end <= held), default=0)


@given(STEPS, st.sampled_from([1, 2, 3, 4, 8]), PROMPTS, st.booleans())
@settings(max_examples=300)
def test_what_is_claimed_is_what_the_engine_holds(
    steps: list[tuple[str, Tokens | int, float]], size: int, asked: Tokens, late: bool
) -> None:
    index, engine = listening(), KvEngine(size)
    sent: list[Tokens] = []
    for step, what, guess in steps:
        if isinstance(what, tuple):
            send(index, engine, what, guess, alone=step == SEND, late=late)
            sent.append(what)
        elif step == EVICT:
            engine.evict(what)
        else:
            engine.clear()
        tell(index, engine)
        if not index.in_sync:
            continue  # a prompt shorter than an engine block has no event that repeats a session
        for tokens in [*sent, asked]:
            chain = chain_of(tokens, PER_BLOCK)
            assert index.match(chain) * PER_BLOCK <= engine.cached(tokens)
            assert index.cached_tokens(chain) <= engine.cached(tokens)
        for tokens in sent:
            # A prompt that was cached to its last whole block has no events: its last block is then unplaced.
            missed = true_tokens(engine, tokens) - index.cached_tokens(chain_of(tokens, PER_BLOCK))
            assert 0 <= missed <= max(size, PER_BLOCK)


@given(STEPS, st.sampled_from([1, 3, 4]), st.integers(0, 30))
@settings(max_examples=100)
def test_listening_late_misses_hits_but_claims_none_that_are_not(
    steps: list[tuple[str, Tokens | int, float]], size: int, missed: int
) -> None:
    index, engine = ExactIndex(1000, "s"), KvEngine(size)
    index.lost()
    index.listen(True)
    sent: list[Tokens] = []
    for number, (step, what, guess) in enumerate(steps):
        if isinstance(what, tuple):
            if number < missed:
                engine.run(None, what)
            else:
                send(index, engine, what, guess, alone=step == SEND)
            sent.append(what)
        elif step == EVICT:
            _evict_a_leaf(engine, what)
        else:
            engine.clear()
        if number < missed:
            engine.tell()
        tell(index, engine)
        for tokens in sent:
            assert index.cached_tokens(chain_of(tokens, PER_BLOCK)) <= engine.cached(tokens)


def _evict_a_leaf(engine: KvEngine, number: int) -> None:
    """As engines do: what others follow leaves after them."""
    there = sorted(name for name, count in engine.copies.items() if count and engine.is_leaf(name))
    if there:
        name = there[number % len(there)]
        engine.copies[name] -= 1
        engine.events.append(BlockRemoved((name,)))


def conversation(length: int, topic: int = 7) -> Tokens:
    return tuple(topic + position % 3 for position in range(length))


def test_before_the_engine_repeats_a_session_the_estimate_answers() -> None:
    index, plain, chain = listening(), PrefixIndex(1000), chain_of(conversation(40), PER_BLOCK)
    for one in (index, plain):
        one.touch(chain[:6])
    assert not index.in_sync
    assert index.match(chain) == plain.match(chain) == 6


def test_an_engine_that_repeats_no_session_stays_on_the_estimate() -> None:
    index, engine, tokens = listening(), KvEngine(4), conversation(40)
    index.expect(chain_of(tokens, PER_BLOCK), 40, PER_BLOCK)
    engine.run(None, tokens)
    tell(index, engine)
    assert not index.in_sync


def test_a_burst_sees_itself_before_any_event_has_come() -> None:
    index, engine = listening(), KvEngine(4)
    send(index, engine, conversation(8, topic=1))
    chain = chain_of(conversation(40), PER_BLOCK)
    hold = index.hold(chain)
    assert index.in_sync
    assert (index.match(chain), index.cached_tokens(chain)) == (10, 0)
    index.let_go(hold)
    assert index.match(chain) == 0


def test_a_wrong_estimate_is_corrected_by_the_engines_count() -> None:
    index, engine, tokens = listening(), KvEngine(3), conversation(41)
    send(index, engine, tokens, guess=1.5)
    chain = chain_of(tokens, PER_BLOCK)
    assert index.cached_tokens(chain) == 39
    assert index.match(chain) == 9


def test_a_next_turn_is_placed_from_where_the_last_one_ended() -> None:
    """The old turn has 2 tokens per block and the new one 6: even steps over the whole would be wrong in between."""
    index, engine = listening(), KvEngine(2)
    old, new = conversation(20), conversation(20) + conversation(60, topic=9)
    chain = tuple(range(20))
    for tokens, blocks in ((old, chain[:10]), (new, chain)):
        session = index.expect(blocks, len(tokens), len(tokens) / len(blocks))
        had = engine.run(session, tokens)
        tell(index, engine)
        index.settle(session, len(tokens), had)
    assert index.cached_tokens(chain[:10]) == 20
    assert index.cached_tokens(chain[:11]) == 26
    assert index.cached_tokens(chain) == 80


def test_events_that_come_after_the_answer_are_still_placed() -> None:
    index, engine, tokens = listening(), KvEngine(4), conversation(40)
    send(index, engine, tokens, late=True)
    assert index.match(chain_of(tokens, PER_BLOCK)) == 10 or not index.in_sync
    tell(index, engine)
    assert index.in_sync
    assert index.match(chain_of(tokens, PER_BLOCK)) == 10


def test_what_was_evicted_and_computed_by_somebody_else_is_known_again() -> None:
    index, engine, tokens = listening(), KvEngine(4), conversation(40)
    send(index, engine, tokens)
    engine.clear()
    tell(index, engine)
    assert index.match(chain_of(tokens, PER_BLOCK)) == 0
    engine.run("another gateway's", tokens)
    tell(index, engine)
    assert index.match(chain_of(tokens, PER_BLOCK)) == 10


def test_a_copy_of_two_that_is_evicted_leaves_the_other() -> None:
    index, engine, tokens = listening(), KvEngine(4), conversation(40)
    send(index, engine, tokens)
    send(index, engine, tokens, alone=False)
    index.apply(BlockRemoved((engine.names(tokens)[0],)))
    assert index.match(chain_of(tokens, PER_BLOCK)) == 10
    index.apply(BlockRemoved((engine.names(tokens)[0],)))
    assert index.match(chain_of(tokens, PER_BLOCK)) == 0


def test_after_a_gap_the_estimate_answers_until_enough_requests_are_explained() -> None:
    index, engine = listening(), KvEngine(4)
    send(index, engine, conversation(40))
    index.lost()
    assert not index.in_sync
    assert index.match(chain_of(conversation(40), PER_BLOCK)) == 10
    needed = 0
    while not index.in_sync:
        needed += 1
        assert needed < 200
        send(index, engine, conversation(40, topic=100 * needed))
    assert needed > 32
    assert index.match(chain_of(conversation(40), PER_BLOCK)) == 0  # it may be there, and nobody can tell


def test_a_warm_cache_is_learned_from_what_requests_report_as_cached() -> None:
    """After a restart of the gateway: the beginning of a conversation was never told, only that it was found."""
    index, engine, old = ExactIndex(1000, "s"), KvEngine(4), conversation(40)
    engine.run(None, old)
    engine.tell()
    index.lost()
    index.listen(True)
    new = conversation(64)
    send(index, engine, new)
    assert index.cached_tokens(chain_of(new, PER_BLOCK)) == 64
    assert index.cached_tokens(chain_of(old, PER_BLOCK)) == 40


def test_several_prompts_in_one_request_do_not_mix() -> None:
    index, engine = listening(), KvEngine(4)
    first, second = conversation(40), conversation(40, topic=50)
    both = first + second
    session = index.expect(chain_of(both, PER_BLOCK), 80, PER_BLOCK)
    engine.run(session, first)
    engine.run(session, second)
    tell(index, engine)
    index.settle(session, 80, 0)
    assert index.cached_tokens(chain_of(both, PER_BLOCK)) == 40
    assert index.cached_tokens(chain_of(first, PER_BLOCK)) == 40


def test_a_prompt_that_the_engine_cut_says_nothing_of_its_chain() -> None:
    index, engine, tokens = listening(), KvEngine(4), conversation(400)
    session = index.expect(chain_of(tokens, PER_BLOCK), 400, PER_BLOCK)
    engine.run(session, tokens[-40:])
    tell(index, engine)
    index.settle(session, 40, 0)
    assert index.match(chain_of(tokens, PER_BLOCK)) == 0


@pytest.mark.parametrize(
    "stored",
    [
        {"medium": "CPU"},
        {"remote": True},
        {"kind": "sliding_window"},
        {"kind": "mamba"},
    ],
)
def test_what_is_no_whole_prefix_in_the_engines_own_memory_is_passed_over(stored: dict[str, str | bool]) -> None:
    index = listening()
    session = index.expect((1, 2), 8, 4.0)
    index.apply(BlockStored((11, 12), None, 4, session, **stored))  # type: ignore[arg-type]  # one field at a time
    index.settle(session, 8, 0)
    assert index.engine_blocks == 0
    assert index.cached_tokens((1, 2)) == 0


def test_removals_in_another_group_of_layers_change_nothing() -> None:
    index = listening()
    session = index.expect((1, 2), 8, 4.0)
    index.apply(BlockStored((11, 12), None, 4, session, group=0, kind="full_attention"))
    index.apply(BlockStored((11, 12), None, 4, session, group=1, kind="full_attention"))
    index.settle(session, 8, 0)
    index.apply(BlockRemoved((11, 12), group=1))
    assert index.cached_tokens((1, 2)) == 8
    index.apply(BlockRemoved((11, 12), group=0))
    assert index.cached_tokens((1, 2)) == 0


def test_another_process_begins_with_nothing_known() -> None:
    index, engine, tokens = listening(), KvEngine(4), conversation(40)
    send(index, engine, tokens)
    version = index.version
    index.restarted()
    assert index.version > version
    assert (index.in_sync, index.engine_blocks, index.match(chain_of(tokens, PER_BLOCK))) == (False, 0, 0)


def test_cleared_by_a_probe_it_asks_for_the_engines_history() -> None:
    index, engine = listening(), KvEngine(4)
    send(index, engine, conversation(40))
    index.clear()
    assert (index.doubtful, index.in_sync) == (True, False)
    index.lost(complete=True)
    assert not index.doubtful


def test_everything_that_could_change_a_match_changes_the_version() -> None:
    index, engine, tokens = listening(), KvEngine(4), conversation(40)
    chain, seen = chain_of(tokens, PER_BLOCK), [index.version]
    session = index.expect(chain, 40, PER_BLOCK)
    engine.run(session, tokens)
    for event in engine.tell():
        index.apply(event)
        seen.append(index.version)
    index.settle(session, 40, 0)
    seen.append(index.version)
    index.apply(AllBlocksCleared())
    seen.append(index.version)
    index.listen(False)
    seen.append(index.version)
    assert seen == sorted(set(seen))


@given(st.integers(1, 40), st.integers(1, 60))
@settings(max_examples=20)
def test_memory_is_bounded_whatever_the_engine_tells(capacity: int, rounds: int) -> None:
    index = ExactIndex(capacity, "s")
    index.lost(complete=True)
    index.listen(True)
    for number in range(rounds):
        blocks = tuple(range(number * 1000, number * 1000 + 1000))
        session = index.expect(blocks, 4000, 4.0)
        index.apply(BlockStored(tuple(range(number * 5000, number * 5000 + 5000)), None, 1, session))
        index.settle(session, 4000, 0)
    assert index.engine_blocks <= 1024 * 40
    assert len(index._places) <= 1024 * 4
    assert len(index._late) <= 64
    assert not index._sent


def test_an_estimate_that_was_cut_forgets_nothing_that_the_engine_told() -> None:
    index = ExactIndex(4000, "s")
    index.resize(200)  # as reports of phantom hits do, at worst: a twentieth
    index.lost(complete=True)
    index.listen(True)
    index.apply(BlockStored(tuple(range(100_000)), None, 2, index.expect((1, 2), 128, 64.0)))
    assert index.engine_blocks == 100_000


def test_sessions_are_not_repeated_and_carry_the_process_name() -> None:
    one, other = ExactIndex(10, "aa"), ExactIndex(10, "bb")
    names = [index.expect((1,), 4, 4.0) for index in (one, one, other)]
    assert len(set(names)) == 3
    assert names[0].startswith("aa-")
