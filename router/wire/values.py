"""JSON values as bytes that stand for themselves: one spelling for small ones, and a digest for media.

Floor: sans-IO. Values are passed as the raw pieces of the body they came in, so that what is large is looked at once
and never copied around.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
import xxhash

from router.wire.shapes import Media, Source

# Text longer than this keeps its JSON escapes: unescaping holds the interpreter for 4 ms a megabyte, looking only for
# its end a tenth of that. The same text is treated the same in every turn of a conversation, so prefixes still match.
LARGE_BYTES: Final = 256 * 1024
# Structured values longer than this keep their spelling: respelling 60 kB of tool definitions takes 0.3 ms, in every
# request of a conversation, and whoever sends such again spells them as before.
SMALL_BYTES: Final = 4096
# Media is looked for down to here: a part of a list in a part is 3. Every level reads the value once more, so that
# without a bound a body of brackets would cost its depth times its length.
_MEDIA_DEPTH: Final = 6

_MEDIA_KEYS = ("image_url", "input_audio", "audio_url", "video_url", "image_embeds", "audio_embeds", "video_embeds")
MEDIA: Final = frozenset({*_MEDIA_KEYS, "input_image", "image", "file", "input_file", "prompt_embeds"})
# Marks of where a client asks Anthropic to cache, which move with every turn of a conversation; vLLM reads none.
_UNREAD: Final = "cache_control"
# One of these is in every value that holds either; looking for each costs a third of a microsecond per kB.
_MARKS = (b"image", b"audio", b"video", b'file"', b"prompt_embeds", _UNREAD.encode())

MediaFound = list[bytes]
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])
_lists = msgspec.json.Decoder(list[msgspec.Raw])
_OPENING = re.compile(rb"\s*([\[{])")

_media = msgspec.json.Decoder(Media)
_source = msgspec.json.Decoder(Source)


def given(raw: msgspec.Raw) -> bool:
    """Whether there is a value, and not null."""
    return len(raw) > 4 or (len(raw) > 0 and bytes(raw) != b"null")


def plain(raw: msgspec.Raw) -> bytes:
    """A value without media."""
    data = bytes(raw)
    if len(data) > SMALL_BYTES:
        return data
    if b"\\" in data:
        return msgspec.json.encode(msgspec.json.decode(data))
    return msgspec.json.format(data, indent=-1)


def canonical(raw: msgspec.Raw, found: MediaFound) -> bytes:
    """A value that may have media inside: their digests take their place, and are added to `found`."""
    data = bytes(raw)
    return _walk(raw, found, _MEDIA_DEPTH) if any(mark in data for mark in _MARKS) else plain(raw)


def media_digest(raw: msgspec.Raw) -> bytes:
    """16 bytes for a content part that is a picture, a sound or a file: of its address or data, and of nothing that an
    engine passes over (`detail`, `cache_control`)."""
    media = _media.decode(raw)
    thing = media.image_url or media.source or media.input_audio or media.audio_url or media.video_url
    digest = xxhash.xxh3_128(media.type.removeprefix("input_").partition("_")[0].encode())
    digest.update(media.uuid)
    if thing and len(thing) <= LARGE_BYTES and bytes(memoryview(thing)[:1]) == b"{":
        source = _source.decode(thing)
        thing = source.url or source.data or thing
    thing = thing or raw
    if len(thing) <= SMALL_BYTES:
        digest.update(msgspec.json.encode(msgspec.json.decode(thing)))
    else:
        digest.update(thing)
    return digest.digest()


def _walk(raw: msgspec.Raw, found: MediaFound, depth: int) -> bytes:
    opening = _OPENING.match(raw)
    if opening is None or not depth:
        return plain(raw)
    if opening[1] == b"[":
        return b"[" + b",".join([_walk(item, found, depth - 1) for item in _lists.decode(raw)]) + b"]"
    fields = _objects.decode(raw)
    if _is_media(fields):
        found.append(media_digest(raw))
        return b'"' + found[-1].hex().encode() + b'"'
    pairs = [
        msgspec.json.encode(name) + b":" + _walk(value, found, depth - 1)
        for name, value in fields.items()
        if name != _UNREAD
    ]
    return b"{" + b",".join(pairs) + b"}"


def _is_media(fields: dict[str, msgspec.Raw]) -> bool:
    kind = fields.get("type")
    if kind is not None and len(kind) < 32 and plain(kind)[1:-1].decode("utf-8", "replace") in MEDIA:
        return True
    return any(name in fields for name in _MEDIA_KEYS)
