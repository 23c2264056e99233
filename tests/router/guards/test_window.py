"""Windows: however a text is cut, the same passes; nothing forbidden does; and little is held."""

from __future__ import annotations

import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.guards.finder import Finder, custom
from router.guards.folding import PLAIN, RUN, SKELETON, Squeezer
from router.guards.recognisers import PII
from router.guards.rules import Action, Findings, Side, searches
from router.guards.window import Window
from router.guards.words import deny_list
from tests.router.guards.samples import FINDERS, TEXTS, all_searches, cut, passed, rule

PLACES = st.lists(st.integers(0, 500), max_size=40)
LONGEST = max(finder.reach for finder in FINDERS)


def in_pieces(found: tuple, pieces: list[str]) -> tuple[str, int, Window]:  # type: ignore[type-arg]
    """What passed, and how much was held at most."""
    window, out, held = Window(found, Findings(Side.OUTPUT)), "", 0
    for piece in pieces:
        out += window.feed(piece)
        held = max(held, window.held)
    return out + window.feed("", final=True), held, window


@given(TEXTS, PLACES)
@settings(max_examples=400, deadline=None)
def test_what_passes_does_not_hang_on_how_a_text_is_cut(text: str, places: list[int]) -> None:
    found = all_searches()
    assert in_pieces(found, cut(text, places))[0] == passed(found, text)


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_the_same_character_by_character(text: str) -> None:
    found = all_searches()
    assert in_pieces(found, list(text))[0] == passed(found, text)


@given(TEXTS, PLACES)
@settings(max_examples=200, deadline=None)
def test_nothing_that_a_rule_finds_is_in_what_passes(text: str, places: list[int]) -> None:
    """Looked for with each rule alone; labels are taken for what ends a word."""
    found = all_searches()
    out, _, _ = in_pieces(found, cut(text, places))
    for piece in regex.split(r"\[(?:[a-z-]+)\]", out):
        for _, finder in found:
            folded = finder.folding.fold(piece)
            for begin, end in finder.decide(folded, 0, final=True):
                # Where something was taken out, what stood there may have kept this from being a match.
                assert begin == end or begin == 0 or end == len(folded), (finder.label, piece)


@given(TEXTS, PLACES)
@settings(max_examples=200, deadline=None)
def test_never_more_is_held_than_the_longest_match_with_what_is_not_seen_between(text: str, places: list[int]) -> None:
    _, held, window = in_pieces(all_searches(), cut(text, places))
    assert held <= LONGEST * (RUN + 1)
    assert window.held == 0


def test_what_is_not_seen_cannot_stretch_what_is_held() -> None:
    found = searches([rule("r", Action.BLOCK, deny_list(["bomb"]))])
    window = Window(found, Findings(Side.OUTPUT))
    window.feed("a bo")
    for _ in range(1000):
        window.feed("\u200b\u0301" * 10)
        assert window.held <= 45
    window.feed("mb ")
    assert window.stopped


@given(TEXTS, PLACES)
@settings(max_examples=200, deadline=None)
def test_of_a_text_that_is_blocked_only_what_stands_before_passes(text: str, places: list[int]) -> None:
    found = all_searches(Action.BLOCK)
    whole = passed(found, text)
    out, _, window = in_pieces(found, cut(text, places))
    assert out == whole
    assert window.stopped or not any(
        begin != end
        for _, finder in found
        for begin, end in finder.decide(finder.folding.fold(text), 0, final=True)
    )  # fmt: skip


@given(TEXTS, PLACES)
@settings(max_examples=100, deadline=None)
def test_a_rule_that_only_logs_holds_and_changes_nothing(text: str, places: list[int]) -> None:
    found = all_searches(Action.LOG)
    text = Squeezer().feed(text)  # long runs of unseen characters are shortened
    out, held, _ = in_pieces(found, cut(text, places))
    assert (out, held) == (text, 0)


@given(TEXTS, PLACES)
@settings(max_examples=100, deadline=None)
def test_rules_that_log_count_the_same_however_a_text_is_cut(text: str, places: list[int]) -> None:
    def counts(pieces: list[str]) -> dict[tuple[str, Action], int]:
        findings = Findings(Side.OUTPUT)
        window = Window(all_searches(Action.LOG), findings)
        for piece in pieces:
            window.feed(piece)
        window.feed("", final=True)
        return findings.counts

    assert counts(cut(text, places)) == counts([text])


@given(st.sampled_from(FINDERS), TEXTS, st.integers(0, 300), TEXTS)
@settings(max_examples=400, deadline=None)
@example(custom(r"a(?!b)c?", "x"), "xa", 2, "c")
@example(custom(r"\bbomb\b", "x"), "a bomb", 6, "s")
def test_what_is_decided_stays_so_whatever_follows(finder: Finder, text: str, place: int, more: str) -> None:
    folded, longer = finder.folding.fold(text), finder.folding.fold(text + more)
    place %= len(folded) + 1
    early = list(finder.decide(folded[:place], 0, final=False))
    decided = early[-1][0]
    final = list(finder.decide(longer, 0, final=True))
    assert early[:-1] == [span for span in final if span[0] < decided and span[0] != span[1]]


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_folding_has_no_memory_and_knows_its_way_back(text: str) -> None:
    for folding in (PLAIN, SKELETON):
        folded = folding.fold(text)
        assert folded == "".join(map(folding.fold, text))
        places = folding.places(text, folded)
        if places is None:
            assert len(folded) == len(text)
        else:
            assert len(places) == len(folded) + 1
            assert all(folded[at] in folding.fold(text[place]) for at, place in enumerate(places[:-1]))


def test_matches_that_overlap_are_taken_out_together() -> None:
    first, second = deny_list(["secret plan"], "one"), deny_list(["plan b"], "two")
    found = searches([rule("a", Action.REDACT, first), rule("b", Action.REDACT, second)])
    assert passed(found, "the secret plan b is out") == "the [one] is out"


def test_of_words_that_could_begin_a_match_only_those_are_held() -> None:
    found = searches([rule("a", Action.REDACT, deny_list(["bomb"]))])
    window = Window(found, Findings(Side.OUTPUT))
    assert window.feed("Hello") == "Hello"
    assert window.feed(" b") == " "
    assert window.feed("ike") == "bike"
    assert window.feed(" bomb") == " "
    assert window.feed("er") == "bomber"
    assert window.feed(" bomb") == " "
    assert window.feed(".") == "[redacted]."


def test_a_pattern_that_takes_too_long_is_a_guard_that_cannot_look() -> None:
    class Slow:
        def search(self, *_: object, **__: object) -> None:
            raise TimeoutError

        match = search

    slow = Finder("slow", Slow(), 10, seconds=0.01)  # type: ignore[arg-type]
    closed = Findings(Side.INPUT)
    window = Window(searches([rule("a", Action.REDACT, slow)]), closed)
    assert (window.feed("text", final=True), window.stopped, closed.unseen) == ("", True, True)
    assert [one.cause for one in closed.failures] == ["timeout"]
    opened = Findings(Side.INPUT)
    window = Window(searches([rule("a", Action.REDACT, slow, fails_closed=False)]), opened)
    assert (window.feed("text", final=True), window.stopped, opened.blocked_by) == ("text", False, None)


def test_pii_of_every_kind_is_found_in_a_stream_of_single_characters() -> None:
    from tests.router.guards.samples import FOUND

    found = searches([rule("pii", Action.REDACT, *PII.values())])
    text = " and ".join(["here:", *FOUND.values(), "that is all"])
    out, _, _ = in_pieces(found, list(text))
    assert out == " and ".join(["here:", *(f"[{kind}]" for kind in FOUND), "that is all"])
