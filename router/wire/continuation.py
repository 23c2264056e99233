"""The request that continues a stream, and its answer in the words of the stream that it continues.

Floor: sans-IO. Ids go to `/v1/completions`, whichever API was asked: only there a prompt may be token ids. So chunks
that come back are of another API and another answer; they get the first answer's head (id, created, model), its kind of
choice, and its count of tokens, and no second role.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from policies.resume import CARRIED, JUDGED
from policies.stop_strings import FIELDS as STOP_FIELDS
from policies.stop_strings import stop_rule
from router.errors import BadEngineResponse
from router.wire.chunks import CHOICES, must_go_on, read_chunk, with_text, without_ids
from router.wire.fields import Fields, decode
from router.wire.held_back import HeldBack, Seam
from router.wire.openai import CONTROL_FIELDS, Body
from router.wire.progress import Progress
from router.wire.shapes import Choice, Chunk
from router.wire.token_tap import TokenTap
from router.wire.usage import Usage, find_usage
from router.wire.values import given

COMPLETIONS: Final = b"/v1/completions"
COMPLETION_TOKENS: Final = 16  # what `/v1/completions` says at most to a request that sets no bound
_USAGE: Final = msgspec.Raw(b'{"include_usage":true}')
# How text ends in JSON whose last character was not all there: engines show U+FFFD for it.
_UNFINISHED: Final = b'\xef\xbf\xbd"'
_CHAT_CHOICE: Final = b'{"index":0,"delta":{"content":%b},"logprobs":null,"finish_reason":%b,"token_ids":null}'
_TEXT_CHOICE: Final = (
    b'{"index":0,"text":%b,"logprobs":null,"finish_reason":%b,"prompt_token_ids":null,"token_ids":null}'
)
_to_json = msgspec.json.encode
_NULL: Final = msgspec.Raw(b"null")
_maybe_int = msgspec.json.Decoder(int | None)


def judged_fields(fields: Fields) -> dict[str, object]:
    """What `policies.resume.hindrance` looks at: every field that is not null and not the gateway's own, with the
    values that matter."""
    return {
        name: msgspec.json.decode(raw) if name in JUDGED else None
        for name, raw in fields.items()
        if name not in CONTROL_FIELDS and given(raw)
    }


class Request:
    """What a continuation needs of the request that it continues. `bound`: tokens the client allows; None: no bound.

    `media`: the prompt has what cannot be said in token ids. `stops`: how it treats its stop strings.
    """

    __slots__ = ("_carried", "_options", "_salt", "api", "bound", "media", "min_tokens", "model", "stops")

    def __init__(self, api: str, body: Body, model: str, salt: str, *, media: bool) -> None:
        fields = body.fields
        kept = {name for name in fields if name not in CONTROL_FIELDS} if media else CARRIED
        self._carried: Mapping[str, msgspec.Raw] = {name: fields[name].copy() for name in kept if name in fields}
        self.api = api
        self.media = media
        self.model = model
        self._salt = salt
        self._options = _USAGE if body.hides_usage else fields["stream_options"].copy()
        default = None if api == "chat" else COMPLETION_TOKENS
        self.bound = body.max_output_tokens if body.max_output_tokens is not None else default
        self.min_tokens = decode(_maybe_int, "min_tokens", fields.get("min_tokens", _NULL)) or 0
        self.stops = stop_rule(judged_fields({name: fields[name] for name in STOP_FIELDS if name in fields}))

    def by_tokens(self, progress: Progress, seam: Seam, left: int) -> bytes:
        """The body for `COMPLETIONS`. `left`: tokens that it may say behind the seam."""
        ids = b",".join((progress.prompt, *(b"%d" % one for one in progress.ids[: seam.ids])))
        return _to_json(self._common(seam, left) | {"prompt": msgspec.Raw(b"[%b]" % ids)})

    def by_text(self, progress: Progress, seam: Seam, left: int | None) -> bytes:
        """The body for the chat API: the assistant's message so far is there to be finished."""
        said = {"role": "assistant", "content": "".join(progress.text).removesuffix(seam.again)}
        messages = [*msgspec.json.decode(self._carried["messages"], type=list[msgspec.Raw]), said]
        body = self._common(seam, left) | {"messages": messages}
        body.pop("max_completion_tokens", None)
        return _to_json(body | {"continue_final_message": True, "add_generation_prompt": False})

    def _common(self, seam: Seam, left: int | None) -> dict[str, Any]:
        body: dict[str, Any] = {
            **self._carried,
            "model": self.model,
            "cache_salt": self._salt,
            "stream": True,
            "stream_options": self._options,
            "return_token_ids": True,
            "max_tokens": left,
        }
        body.pop("min_tokens", None)
        if self.min_tokens > seam.ids:
            body["min_tokens"] = self.min_tokens - seam.ids
        return body


def ends_unfinished(progress: Progress) -> bool:
    """Whether the client has got what stands for a character that was not whole: nothing can follow that."""
    return _UNFINISHED in progress.last


def may_be_ahead(progress: Progress) -> bool:
    """Whether the last ids whose text is out may hold the beginning of a character that is not."""
    return progress.merged == progress.said > 0


def seam_of(progress: Progress) -> Seam | None:
    """Where the stream can be taken up; None: nowhere."""
    if progress.held is not None:
        return progress.held.seam()
    return None if ends_unfinished(progress) else Seam(progress.said, several=may_be_ahead(progress))


class Continuation(TokenTap):
    """Stands where a continuation's answer comes in, from `seam` on; what goes out continues the stream of `progress`.

    `reshapes`: the answer is of the completions API, the stream of the chat API. `reported`: the continuation's own
    usage, None until it is told. Raises EngineDiverged where it does not say again what the client has behind the seam.
    """

    __slots__ = ("_before", "_held", "_reshapes", "reported")

    def __init__(self, progress: Progress, api: str, seam: Seam, *, reshapes: bool) -> None:
        super().__init__(progress, api)
        self._held = progress.held  # also when the stream is lost: what the client has is not said twice
        progress.rewind(seam)
        self._reshapes = reshapes
        self._before = seam.ids
        self.reported: Usage | None = None

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(b"data:") or event[5:].strip() == b"[DONE]":
            return self._examine(event)
        bare, prompt, ids = without_ids(event)
        chunk = read_chunk(bare)
        if chunk is None or chunk.choices is None or len(chunk.choices) > 1:
            raise BadEngineResponse("The engine continued this answer in another format.")
        progress = self.progress
        if not progress.prompt and prompt is not None and not progress.lost:
            progress.prompt = prompt
        if chunk.choices:
            return self._next(bare, chunk, ids)
        self._note_usage(chunk)
        self.reported = find_usage(bare)
        return self._headed(bare, chunk)

    def _next(self, bare: bytes, chunk: Chunk, ids: bytes | None) -> bytes:
        choice = chunk.choices[0]  # type: ignore[index]  # only called with one
        if self._held is None:
            sent = self._note(choice, bare, ids)
        else:
            sent, bare = self._note_again(self._held, choice, bare, ids)
        if not sent or (choice.delta is not None and choice.delta.role is not None and not choice.said):
            return b""  # the role is out already
        if not self._reshapes:
            return self._headed(bare, chunk)
        finish = _to_json(choice.finish_reason)
        if choice.finish_reason:
            finish += b',"stop_reason":' + _to_json(choice.stop_reason)
        shaped = b"".join(
            (
                CHOICES,
                b"[",
                _CHAT_CHOICE % (_to_json(choice.said or ""), finish),
                b"]",
                b',"usage":' + bytes(chunk.usage) if chunk.has_usage else b"",
                b',"system_fingerprint":' + _to_json(chunk.system_fingerprint) if chunk.system_fingerprint else b"",
                b"}\n\n",
            )
        )
        return self._headed(shaped, chunk)

    def _note_again(self, held: HeldBack, choice: Choice, event: bytes, ids: bytes | None) -> tuple[bool, bytes]:
        """As `_note`, of a stream with stop strings: of the event stays what the client does not have yet."""
        must_go_on(choice)
        progress, text, last = self.progress, choice.said or "", bool(choice.finish_reason)
        if held.again and (text or last):
            fresh = held.fresh(text, last=last)
            event = with_text(event, fresh)
            choice.set_said(fresh)
        sent = self._note(choice, event, ids)
        count = len(progress.ids)
        if text:
            held.note_text(count, text, several=progress.merged == count)
        return sent and bool(choice.said or last or count > held.told), event

    def _headed(self, event: bytes, chunk: Chunk) -> bytes:
        """The event with the first answer's head, and with the usage of all that was said."""
        out = self.progress.head + event[event.find(CHOICES) :]
        if not chunk.has_usage or not self._before:
            return out
        ours = find_usage(b'"usage":' + bytes(chunk.usage))
        said = self._before + ((ours.completion_tokens if ours is not None else None) or 0)
        return out.replace(bytes(chunk.usage), _usage(self.progress, said), 1)


def ending(progress: Progress, api: str, fingerprint: bytes) -> bytes:
    """What a stream that has said all still owes its client. `fingerprint`: what this engine's last chunks have besides
    (`router.wire.stream_usage`)."""
    out = b""
    if not progress.finished:
        finish = b'"length","stop_reason":null'
        choice = (_CHAT_CHOICE if api == "chat" else _TEXT_CHOICE) % (b'""', finish)
        out = b"%b%b[%b]}\n\n" % (progress.head, CHOICES, choice)
    if not progress.usage_sent:
        usage = _usage(progress, progress.said)
        out += b'%b%b[],"usage":%b%b}\n\n' % (progress.head, CHOICES, usage, fingerprint)
    return out if progress.done else out + b"data: [DONE]\n\n"


def said_usage(progress: Progress) -> Usage | None:
    """What the client has got, of a stream that stays broken; None where that is not known."""
    if progress.lost or not progress.prompt:
        return None
    return Usage(progress.prompt_tokens, progress.said, None)


def _usage(progress: Progress, said: int) -> bytes:
    """How much of the prompt the first engine had cached, it did not live to tell: nothing is said of that."""
    prompt = progress.prompt_tokens
    return _to_json({"prompt_tokens": prompt, "total_tokens": prompt + said, "completion_tokens": said})
