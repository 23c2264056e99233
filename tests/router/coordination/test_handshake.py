"""Both sides prove themselves, and nothing recorded, reflected or guessed does."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.coordination.handshake import VERSION, Handshake, Peer, Refused, link_key, new_life
from tests.router.coordination.builders import SECRET

KEY = link_key(SECRET)
FOLLOWER, OWNER = Peer("pod-a", b"12345678", 77), Peer("pod-b", b"87654321", 0)


def both(follower_key: bytes = KEY, owner_key: bytes = KEY) -> tuple[Handshake, Handshake]:
    return Handshake(follower_key, FOLLOWER, calls=True), Handshake(owner_key, OWNER, calls=False)


def shake(follower: Handshake, owner: Handshake, after: bytes = b"") -> list[bytes]:
    """What went over the wire; `after`: bytes of the owner right behind its proof."""
    said = [follower.begin()]
    for side in itertools.islice(itertools.cycle((owner, follower)), 4):
        said.append(side.feed(said[-1] + (after if len(said) == 4 else b"")))
    return said


def test_both_know_who_the_other_is() -> None:
    follower, owner = both()
    shake(follower, owner)
    assert (follower.peer, owner.peer) == (OWNER, FOLLOWER)


def test_frames_right_behind_the_owner_s_proof_are_kept() -> None:
    follower, owner = both()
    shake(follower, owner, after=b"frames")
    assert follower.rest == b"frames"


@given(st.lists(st.integers(0, 200), max_size=8))
def test_any_cutting_of_the_bytes_gives_the_same(cuts: list[int]) -> None:
    follower, owner = both()
    said, sides = follower.begin(), itertools.cycle((owner, follower))
    for side in itertools.islice(sides, 4):
        places = sorted(cut % (len(said) + 1) for cut in cuts)
        parts = [said[a:b] for a, b in itertools.pairwise([0, *places, len(said)])]
        said = b"".join([side.feed(part) for part in parts if part])
    assert (follower.peer, owner.peer) == (OWNER, FOLLOWER)


def test_an_owner_refuses_a_follower_with_another_secret() -> None:
    follower, owner = both(follower_key=link_key(b"another"))
    proof = follower.feed(owner.feed(follower.begin()))
    with pytest.raises(Refused, match="another secret"):
        owner.feed(proof)
    assert owner.peer is None


def test_a_follower_refuses_an_owner_with_another_secret() -> None:
    follower, _ = both()
    impostor = Handshake(link_key(b"another"), OWNER, calls=False)
    follower.feed(impostor.feed(follower.begin()))
    with pytest.raises(Refused, match="another secret"):
        follower.feed(bytes(32))
    assert follower.peer is None


def test_what_was_recorded_of_one_handshake_opens_no_other() -> None:
    follower, owner = both()
    hello, _, proof, _, _ = shake(follower, owner)
    _, again = both()
    again.feed(hello)
    with pytest.raises(Refused):
        again.feed(proof)


def test_a_follower_s_own_words_are_no_proof_of_an_owner() -> None:
    """Reflection: the impostor sends back what it got."""
    follower, _ = both()
    proof = follower.feed(follower.begin())
    with pytest.raises(Refused, match="another secret"):
        follower.feed(proof)


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_one_changed_byte_anywhere_is_refused(place: int, change: int) -> None:
    follower, owner = both()
    hello = bytearray(follower.begin())
    hello[place % len(hello)] ^= change
    try:
        proof = follower.feed(owner.feed(bytes(hello)))
        owner.feed(proof)
    except Refused:
        pass
    assert owner.peer is None


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", b"p!", b"\0"])
def test_another_protocol_is_known_by_its_first_bytes(words: bytes) -> None:
    for side in both():
        with pytest.raises(Refused, match="does not speak the protocol"):
            side.feed(words)


def test_another_version_is_refused_by_its_number() -> None:
    follower, owner = both()
    hello = bytearray(follower.begin())
    hello[hello.index(VERSION)] = 9
    with pytest.raises(Refused, match="speaks version 9 of the protocol, this replica version 1"):
        owner.feed(bytes(hello))


def test_an_owner_says_nothing_of_the_secret_before_the_follower_has_proven_itself() -> None:
    follower, owner = both()
    said = owner.feed(follower.begin())
    assert said == owner._hello


def test_a_follower_that_goes_on_before_it_is_its_turn_is_refused() -> None:
    follower, owner = both()
    with pytest.raises(Refused, match="out of turn"):
        owner.feed(follower.begin() + bytes(32))


def test_an_id_of_a_replica_has_at_most_255_bytes_and_is_utf_8() -> None:
    follower = Handshake(KEY, Peer("é" * 127, new_life(), 0), calls=True)
    _, owner = both()
    shake(follower, owner)
    assert owner.peer is not None
    assert owner.peer.replica == "é" * 127
    with pytest.raises(ValueError, match="255"):
        Handshake(KEY, Peer("é" * 128, new_life(), 0), calls=True)
    _, owner = both()
    with pytest.raises(Refused, match="UTF-8"):
        owner.feed(both()[0].begin()[:-1] + b"\xff")


def test_the_key_is_not_the_secret_and_differs_with_it() -> None:
    assert link_key(SECRET) not in (SECRET, link_key(SECRET + b"!"))
    assert len(link_key(SECRET)) == 32
