"""The requests of the benchmarks: long prompts, conversations that grow, and many keys."""

import json
from itertools import islice, pairwise

from benchmarks.overhead_parts.traffic import Scenario, bodies, endless


def told(request: bytes) -> list[str]:
    """The contents of its messages, without the system message."""
    return [message["content"] for message in json.loads(request.partition(b"\r\n\r\n")[2])["messages"][1:]]


def test_long_prompts_differ_from_their_first_block_on_and_are_fewer() -> None:
    found = bodies(Scenario(4, 500_000))
    assert 16 <= len(found) < 256
    texts = [json.loads(body)["messages"][1]["content"] for body in found]
    assert {len(text) for text in texts} == {500_000}
    assert len({text[:200] for text in texts}) == len(texts)


def test_a_conversation_grows_by_an_answer_and_a_question_and_keeps_its_beginning() -> None:
    asked = list(islice(endless(Scenario(32, 32_000, turns=16), "h", [{}]), 32 * 9))
    turns = [told(request) for request in asked[::32]]
    for before, after in pairwise(turns[:8]):
        assert after[: len(before)] == before
        assert len(after) == len(before) + 2
    assert 31_000 < sum(map(len, turns[7])) <= 32_000
    assert len(turns[7]) == 31
    assert turns[8][0] != turns[0][0]  # another has taken its place


def test_different_conversations_are_under_way_at_once() -> None:
    asked = list(islice(endless(Scenario(32, 4_000, turns=2), "h", [{}]), 32))
    assert len({told(request)[0] for request in asked}) == 32


def test_each_key_asks_in_its_turn() -> None:
    keys = [{"authorization": f"Bearer {number}"} for number in range(3)]
    asked = list(islice(endless(Scenario(1), "h", keys), 6))
    assert [int(request.split(b"Bearer ")[1][:1]) for request in asked] == [0, 1, 2, 0, 1, 2]
