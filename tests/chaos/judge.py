"""What an answer is: complete and right, an honest error, or a lie.

Floor: tests only, pure. Honest: an error status with a message, or a stream that ends with an error event (or breaks)
after nothing but a true beginning of the right text. `[DONE]` stands for success and for nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.chaos.ask import Seen

HONEST_STATUSES = frozenset({429, 500, 502, 503, 504})
"""What a request without a fault of its own may be refused with."""


class Ending(StrEnum):
    COMPLETE = "complete"
    ERROR = "honest error"
    LIE = "lie"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`why`: what is wrong, or the error's code. `content`: events with text that the client had."""

    ending: Ending
    why: str = ""
    content: int = 0
    began: bool = False  # an event of the answer had reached the client


def judge(seen: Seen) -> Verdict:
    if seen.status == 0:
        return Verdict(Ending.LIE, seen.broken)
    if seen.status != 200:
        return _judge_refusal(seen)
    return _judge_stream(seen) if seen.ask.stream else _judge_whole(seen)


def _judge_refusal(seen: Seen) -> Verdict:
    if seen.broken:
        return Verdict(Ending.LIE, f"{seen.status}, {seen.broken}")
    if seen.status not in HONEST_STATUSES:
        return Verdict(Ending.LIE, f"status {seen.status} for a good request: {seen.body[:200]!r}")
    try:
        error = json.loads(seen.body)["error"]
        said = bool(error["message"])
    except (ValueError, KeyError, TypeError):
        return Verdict(Ending.LIE, f"status {seen.status} without an error's body: {seen.body[:200]!r}")
    if not said:
        return Verdict(Ending.LIE, f"status {seen.status} with an empty message")
    if seen.status == 503 and error.get("code") == "no_endpoint" and "retry-after" not in seen.headers:
        return Verdict(Ending.LIE, "503 no_endpoint that does not say when to come back")
    return Verdict(Ending.ERROR, f"{seen.status} {error.get('code')}")


def _judge_whole(seen: Seen) -> Verdict:
    if seen.broken:
        return Verdict(Ending.LIE, f"an answer in one piece was not whole: {seen.broken}")
    body, expected = json.loads(seen.body), seen.ask.expected
    choice = body["choices"][0]
    text = choice["message"]["content"] if seen.ask.api == "chat" else choice["text"]
    wrong = _differences(
        text=(text, expected.text),
        finish_reason=(choice["finish_reason"], expected.finish),
        prompt_tokens=(body["usage"]["prompt_tokens"], expected.prompt_tokens),
        completion_tokens=(body["usage"]["completion_tokens"], expected.completion_tokens),
        total_tokens=(body["usage"]["total_tokens"], expected.prompt_tokens + expected.completion_tokens),
        choices=(len(body["choices"]), 1),
        model=(body["model"], seen.ask.model),
    )
    return Verdict(Ending.LIE, wrong) if wrong else Verdict(Ending.COMPLETE)


@dataclass
class _Stream:
    """The events of a stream, read one by one."""

    seen: Seen
    text: str = ""
    content: int = 0
    roles: int = 0
    ids: frozenset[tuple[str, int, str]] = frozenset()
    finishes: tuple[str, ...] = ()
    usages: tuple[dict[str, Any], ...] = ()
    error: dict[str, Any] | None = None
    done: int = 0
    events: int = 0
    late: str = ""  # what came after the stream had said that it was over

    def take(self, event: str) -> None:
        if self.done or self.error is not None:
            self.late = self.late or event
        if event == "[DONE]":
            self.done += 1
            return
        data = json.loads(event)
        if data.get("error") is not None:
            self.error = data["error"]
            return
        self.events += 1
        self.ids |= {(data["id"], data["created"], data["model"])}
        if data.get("usage") is not None:
            self.usages += (data["usage"],)
        for choice in data["choices"]:
            self._choice(choice)

    def _choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta", {})
        self.roles += "role" in delta
        piece = (delta.get("content") if self.seen.ask.api == "chat" else choice.get("text")) or ""
        if piece and self.finishes:
            self.late = self.late or repr(piece)
        self.text += piece
        self.content += bool(piece)
        if choice.get("finish_reason") is not None:
            self.finishes += (choice["finish_reason"],)
        extra = {"token_ids", "prompt_token_ids"} & {key for key, value in choice.items() if value is not None}
        if extra:
            self.late = self.late or f"{sorted(extra)} that the client has not asked for"


def _judge_stream(seen: Seen) -> Verdict:
    stream = _Stream(seen)
    whole, _, rest = seen.body.decode().rpartition("\n\n")
    for event in whole.split("\n\n"):
        data = [line.removeprefix("data: ") for line in event.split("\n") if line.startswith("data: ")]
        if data:  # else a comment: a heartbeat
            stream.take("\n".join(data))
    wrong = _false_beginning(stream)
    failed = stream.error is not None or bool(seen.broken)
    if not wrong:
        wrong = _false_error(stream) if failed else _false_end(stream, rest)
    if wrong:
        return Verdict(Ending.LIE, wrong, stream.content, stream.events > 0)
    if failed:
        why = f"stream {stream.error.get('code')}" if stream.error is not None else f"stream broken: {seen.broken}"
        return Verdict(Ending.ERROR, why, stream.content, stream.events > 0)
    return Verdict(Ending.COMPLETE, "", stream.content, stream.events > 0)


def _false_beginning(stream: _Stream) -> str:
    if not stream.seen.ask.expected.text.startswith(stream.text):
        return f"text: {stream.text[-60:]!r} is not how the right answer goes"
    if len(stream.ids) > 1:
        return f"id, created or model change: {sorted(stream.ids)}"
    if stream.ids and next(iter(stream.ids))[2] != stream.seen.ask.model:
        return f"model: {sorted(stream.ids)}"
    if stream.events and stream.seen.ask.api == "chat" and stream.roles != 1:
        return f"{stream.roles} role chunks"
    if stream.late:
        return f"after the end, or beside the answer: {stream.late[:200]}"
    return ""


def _false_error(stream: _Stream) -> str:
    if stream.done:
        return "[DONE] in a stream that failed"
    if stream.error is not None and not stream.error.get("message"):
        return "an error event without a message"
    return ""


def _false_end(stream: _Stream, rest: str) -> str:
    expected, asked = stream.seen.ask.expected, stream.seen.ask.usage
    if stream.done != 1:
        return f"a clean end with {stream.done} [DONE]"
    usage = stream.usages[0] if stream.usages else {}
    return _differences(
        text=(stream.text, expected.text),
        finish_reasons=(stream.finishes, (expected.finish,)),
        usages=(len(stream.usages), int(asked)),
        prompt_tokens=(usage.get("prompt_tokens"), expected.prompt_tokens if asked else None),
        completion_tokens=(usage.get("completion_tokens"), expected.completion_tokens if asked else None),
        unfinished_event=(rest, ""),
    )


def _differences(**pairs: tuple[object, object]) -> str:
    wrong = [
        f"{what} {found!r:.120} instead of {right!r:.120}" for what, (found, right) in pairs.items() if found != right
    ]
    return "; ".join(wrong)
