"""Token ids out of a stream: the client's bytes are those of an engine that was not asked for them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import EngineAborted
from router.wire.held_back import Seam
from router.wire.progress import MAX_TOKENS, Progress
from router.wire.token_tap import MAX_EVENT_BYTES, TokenTap

DONE = b"data: [DONE]\n\n"
HEADS = {
    "chat": '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":5,"model":"tiny",',
    "completions": '{"id":"cmpl-1","object":"text_completion","created":5,"model":"tiny",',
}


def dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def event(api: str, rest: str) -> bytes:
    return f"data: {HEADS[api]}{rest}}}\n\n".encode()


def role(prompt: list[int] | None) -> bytes:
    choice = '"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
    return event("chat", f'{choice},"prompt_token_ids":{dumps(prompt)},"prompt_text":null')


def said(
    api: str,
    text: str,
    ids: list[int] | None,
    finish: str | None = None,
    prompt: list[int] | None = None,
    tail: str = "",
) -> bytes:
    """A chunk as vLLM 0.32 writes it."""
    if api == "completions":
        choice = f'"index":0,"text":{dumps(text)},"logprobs":null,"finish_reason":{dumps(finish)},"stop_reason":null'
        return event(api, f'"choices":[{{{choice},"prompt_token_ids":{dumps(prompt)},"token_ids":{dumps(ids)}}}]{tail}')
    stop = ',"stop_reason":null' if finish else ""
    choice = f'"index":0,"delta":{{"content":{dumps(text)}}},"logprobs":null,"finish_reason":{dumps(finish)}{stop}'
    return event(api, f'"choices":[{{{choice},"token_ids":{dumps(ids)}}}]{tail}')


def usage(api: str) -> bytes:
    return event(api, '"choices":[],"usage":{"prompt_tokens":3,"total_tokens":6,"completion_tokens":3}')


def both(api: str, texts: list[tuple[str, list[int]]], prompt: list[int]) -> tuple[list[bytes], list[bytes]]:
    """The events of one stream, with ids and without."""
    with_ids = [role(prompt)] if api == "chat" else []
    without = [role(None)] if api == "chat" else []
    for number, (text, ids) in enumerate(texts):
        finish = "length" if number == len(texts) - 1 else None
        first = prompt if api == "completions" and number == 0 else None
        with_ids.append(said(api, text, ids, finish, first))
        without.append(said(api, text, None, finish))
    return [*with_ids, usage(api), DONE], [*without, usage(api), DONE]


def fed(tap: TokenTap, pieces: list[bytes]) -> bytes:
    return b"".join(tap.feed(piece) for piece in pieces) + tap.end()


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % len(data) for cut in cuts} - {0})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


APIS = st.sampled_from(["chat", "completions"])
TEXTS = st.lists(
    st.tuples(st.text(max_size=6), st.lists(st.integers(0, 2**31), min_size=1, max_size=3)), min_size=1, max_size=8
)


@given(
    APIS, TEXTS, st.lists(st.integers(0, 2**31), min_size=1, max_size=9), st.lists(st.integers(0, 10_000), max_size=9)
)
def test_however_it_is_cut_what_comes_out_is_the_stream_without_ids(
    api: str, texts: list[tuple[str, list[int]]], prompt: list[int], cuts: list[int]
) -> None:
    with_ids, without = both(api, texts, prompt)
    progress = Progress()
    assert fed(TokenTap(progress, api), pieces_of(b"".join(with_ids), cuts)) == b"".join(without)
    every = [one for _, ids in texts for one in ids]
    assert list(progress.ids) == every
    assert progress.said == len(every)
    assert [int(one) for one in progress.prompt.split(b",")] == prompt
    assert progress.prompt_tokens == len(prompt)
    assert (progress.finished, progress.usage_sent, progress.done, progress.lost) == (True, True, True, "")
    assert progress.head == b"data: " + HEADS[api].encode()


@given(APIS, TEXTS, st.integers(1, 10_000))
def test_a_stream_that_breaks_has_told_whole_events_and_knows_which(
    api: str, texts: list[tuple[str, list[int]]], cut: int
) -> None:
    with_ids, without = both(api, texts, [1, 2])
    data = b"".join(with_ids)[: cut % len(b"".join(with_ids))]
    progress = Progress()
    out = TokenTap(progress, api).feed(data)
    whole = data.count(b"\n\n")
    assert out == b"".join(without[:whole])
    told = texts[: max(0, whole - (api == "chat"))]
    last = max((number + 1 for number, (text, _) in enumerate(told) if text), default=0)
    last = len(texts) if len(told) == len(texts) else last
    assert progress.said == sum(len(ids) for _, ids in told[:last])


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_ids_without_text_are_taken_back(api: str) -> None:
    progress = Progress()
    tap = TokenTap(progress, api)
    tap.feed(role([1]) if api == "chat" else said(api, "a", [4], prompt=[1]))
    for text, ids in (("b", [5]), ("", [6]), ("", [7, 8])):
        assert tap.feed(said(api, text, ids)) == said(api, text, None)
    seen = 1 + (api == "completions")
    assert (progress.said, len(progress.ids)) == (seen, seen + 3)
    progress.rewind(Seam(progress.said))
    assert len(progress.ids) == progress.said == seen


def test_several_tokens_in_the_last_chunk_with_text_are_noted() -> None:
    progress = Progress()
    tap = TokenTap(progress, "chat")
    tap.feed(role([1]))
    tap.feed(said("chat", "ab", [4, 5]))
    assert progress.merged == progress.said == 2
    tap.feed(said("chat", "c", [6]))
    assert progress.merged != progress.said


@pytest.mark.parametrize(
    "end",
    [
        said("chat", "", [], "abort"),
        said("chat", "lost", [9], "error"),
        b'data: {"error": {"message": "dead", "type": "InternalServerError", "param": null, "code": 500}}\n\n',
        DONE,
        usage("chat"),
    ],
    ids=["abort", "error ending", "error event", "an end too early", "usage too early"],
)
@pytest.mark.parametrize("together", [True, False])
def test_an_engine_that_gives_up_is_a_failure_and_the_client_hears_nothing_of_it(end: bytes, together: bool) -> None:
    progress = Progress()
    tap = TokenTap(progress, "chat")
    pieces = [role([1]), said("chat", "a", [4]), end, DONE]
    if together:  # what came before it in one piece is not lost
        assert tap.feed(b"".join(pieces)) == role(None) + said("chat", "a", None)
        with pytest.raises(EngineAborted):
            tap.end()
        with pytest.raises(EngineAborted):
            tap.feed(DONE)
    else:
        assert tap.feed(pieces[0]) + tap.feed(pieces[1]) == role(None) + said("chat", "a", None)
        with pytest.raises(EngineAborted):
            tap.feed(end)
    assert (progress.said, list(progress.ids), progress.finished) == (1, [4], False)


def test_a_body_that_ends_in_order_but_before_the_answer_is_a_failure() -> None:
    tap = TokenTap(Progress(), "chat")
    tap.feed(role([1]))
    with pytest.raises(EngineAborted):
        tap.end()


def chat_delta(delta: str, ids: str, finish: str = "null") -> bytes:
    return event("chat", f'"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish},{ids}}}]')


def test_a_parsers_chunk_that_has_nothing_but_ids_is_dropped_and_ends_the_chance_to_go_on() -> None:
    progress = Progress()
    tap = TokenTap(progress, "chat")
    tap.feed(role([1]))
    assert tap.feed(chat_delta("{}", '"token_ids":[7]')) == b""
    assert progress.lost == "parser"
    assert tap.feed(said("chat", "a", [9])) == said("chat", "a", None)
    assert (len(progress.ids), progress.said, progress.prompt) == (0, 0, b"")


def test_reasoning_reaches_the_client() -> None:
    progress = Progress()
    tap = TokenTap(progress, "chat")
    tap.feed(role([1]))
    chunk = chat_delta('{"reasoning":"hm"}', '"token_ids":[8]')
    assert tap.feed(chunk) == chunk.replace(b"[8]", b"null")
    assert progress.lost == "parser"


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (said("chat", "a", None), "ids"),
        (said("chat", "a", [-1]), "ids"),
        (said("chat", "a", [2**40]), "ids"),
        (event("chat", '"choices":[{"index":0},{"index":1}]'), "format"),
        (b"data: {}\n\n", "format"),
        (b"data: nonsense\n\n", "format"),
        (b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null,"token_ids":[1]}]}\n\n', "format"),
    ],
    ids=["no ids", "negative", "too large", "two choices", "no choices", "no JSON", "no head"],
)
def test_engines_that_do_otherwise_stream_on_but_cannot_be_continued(first: bytes, why: str) -> None:
    progress = Progress()
    tap = TokenTap(progress, "chat")
    out = tap.feed(first)
    assert out == first or b"null" in out
    assert progress.lost == why
    assert tap.feed(DONE) == DONE
    assert tap.end() == b""


def test_comments_and_named_events_pass() -> None:
    tap = TokenTap(Progress(), "chat")
    for one in (b": keep-alive\n\n", b"event: ping\ndata: {}\n\n"):
        assert tap.feed(one) == one


def test_lines_may_end_in_cr_lf() -> None:
    tap = TokenTap(Progress(), "chat")
    crlf = said("chat", "a", [4]).replace(b"\n", b"\r\n")
    assert tap.feed(role([1]).replace(b"\n", b"\r\n")) == role(None).replace(b"\n", b"\r\n")
    assert tap.feed(crlf) == said("chat", "a", None).replace(b"\n", b"\r\n")


def test_text_that_looks_like_a_field_stays_text() -> None:
    text = '"token_ids":[1,2],"finish_reason":"abort","prompt_token_ids":[3]'
    progress = Progress()
    tap = TokenTap(progress, "completions")
    assert tap.feed(said("completions", text, [4], prompt=[1])) == said("completions", text, None)
    assert (list(progress.ids), progress.lost) == ([4], "")


def test_text_is_kept_where_it_is_asked_for() -> None:
    progress = Progress(keeps_text=True)
    tap = TokenTap(progress, "chat")
    for piece in (role([1]), said("chat", 'a"é', [4]), said("chat", "", [5]), said("chat", "b", [6])):
        tap.feed(piece)
    assert "".join(progress.text) == 'a"éb'


def test_what_is_kept_is_bounded_and_the_stream_goes_on() -> None:
    progress = Progress()
    tap = TokenTap(progress, "chat")
    tap.feed(role([1]))
    tap.feed(said("chat", "a", [7] * (MAX_TOKENS + 1)))
    assert (progress.lost, len(progress.ids)) == ("length", 0)
    assert tap.feed(said("chat", "b", [8])) == said("chat", "b", None)
    assert len(progress.ids) == 0


def test_an_event_without_end_passes_as_it_comes() -> None:
    progress = Progress()
    tap = TokenTap(progress, "chat")
    endless = b'data: {"a":"' + b"x" * MAX_EVENT_BYTES
    out = tap.feed(endless[:1000]) + tap.feed(endless[1000:])
    assert out == endless
    assert progress.lost == "length"
    assert tap.feed(b'more"}') == b'more"}'
