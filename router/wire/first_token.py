"""Whether a piece of a stream shows that the engine has computed a token, or only that it is there.

Floor: sans-IO, bytes in and a verdict out. Asked until the first yes of each stream, so it may cost a search.
"""

from __future__ import annotations

import re

# vLLM tells that a response was created before its prompt is computed (0.32: openai/responses/serving.py), and with
# `--sse-keep-alive-interval` sends comments while it is.
_OUTPUT_EVENT = re.compile(rb"^event: (?!response\.(?:created|queued|in_progress)\r?$)", re.MULTILINE)
_DATA = re.compile(rb"^data:", re.MULTILINE)


def shows_token(piece: bytes, api: str) -> bool:
    """Of an event stream of this API; a piece that begins inside an event is judged by those that begin in it."""
    return (_OUTPUT_EVENT if api == "responses" else _DATA).search(piece) is not None
