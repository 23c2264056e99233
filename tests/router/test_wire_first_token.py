"""A stream that has begun has not always got its first token."""

from __future__ import annotations

import pytest

from router.wire.first_token import shows_token

CREATED = b'event: response.created\ndata: {"type":"response.created","response":{"instructions":"a\\nevent: b"}}\n\n'
IN_PROGRESS = b'event: response.in_progress\ndata: {"type":"response.in_progress"}\n\n'
ADDED = b'event: response.output_item.added\ndata: {"type":"response.output_item.added"}\n\n'
FAILED = b'event: response.failed\ndata: {"type":"response.failed"}\n\n'
CHUNK = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
KEEP_ALIVE = b": keep-alive\n\n"


@pytest.mark.parametrize("piece", [CREATED, IN_PROGRESS, CREATED + IN_PROGRESS, KEEP_ALIVE, CREATED[:40], CREATED[40:]])
def test_a_response_that_is_created_or_in_progress_has_none(piece: bytes) -> None:
    assert not shows_token(piece, "responses")
    assert not shows_token(piece.replace(b"\n", b"\r\n"), "responses")


@pytest.mark.parametrize("piece", [ADDED, CREATED + IN_PROGRESS + ADDED, b"}\n\n" + ADDED, FAILED, b"event: error\n"])
def test_any_other_event_of_a_response_shows_that_it_is_there(piece: bytes) -> None:
    assert shows_token(piece, "responses")


@pytest.mark.parametrize("api", ["chat", "completions", "messages"])
def test_in_other_apis_whatever_is_no_comment_shows_it(api: str) -> None:
    assert not shows_token(KEEP_ALIVE, api)
    assert not shows_token(KEEP_ALIVE * 3, api)
    assert shows_token(CHUNK, api)
    assert shows_token(KEEP_ALIVE + CHUNK, api)
    assert shows_token(b'event: message_start\ndata: {"type":"message_start"}\n\n', api)
