"""A record of which something is still to be worked out: what the event loop hands over to the ledger's thread.

Floor: sans-IO. It holds what a client wrote and an engine said, and is never written itself: only what `finish` makes
of it is.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from policies.governance.answers import Findings, examine
from router.wire.answer_sample import AnswerSample
from router.wire.openai import ApiSpec
from router.wire.parameters import Picked, keyed, read
from router.wire.prompt import Segments, digest_of
from router.wire.record import Record
from router.wire.said import names_of_tools, prompt_text, said

_DIGITS = 4  # of shares: as exact as they mean something
_WATCH_BYTES = 8  # of a watched word's hash: they only have to be told apart


class Answered(msgspec.Struct, gc=False):
    """An answer that is to be looked at. `prompt`: the end of what was asked, JSON; `watch`: words to be counted."""

    sample: AnswerSample
    prompt: bytes
    watch: tuple[str, ...] = ()


class Known(Protocol):
    """What a record is made of."""

    def record(self) -> Record:
        """Made of it; once."""


class Draft(msgspec.Struct, gc=False):
    """`known`: the record, or what it is made of once it is asked for. `parameters`: fields as they were sent (None:
    the body was not read); `most`: tokens of a degraded answer at most. `prompt`: plain hash of the canonical prompt,
    or its pieces; empty without. `answered`: None where nobody looks at it."""

    known: Record | Known
    spec: ApiSpec
    parameters: Picked | None = None
    most: int | None = None
    prompt: bytes | Segments = b""
    answered: Answered | None = None

    @property
    def record(self) -> Record:
        """As far as it is finished."""
        known = self.known
        if not isinstance(known, Record):
            known = self.known = known.record()
        return known

    def finish(self, key: bytes) -> Record:
        """What may be written. `key`: the tenant's, so that equal prompts of two tenants cannot be told to be equal."""
        record = self.record
        if self.parameters is not None:
            record.parameters = read(self.parameters, key, self.spec.output_fields, self.most) or None
        if self.prompt:
            digest = self.prompt if isinstance(self.prompt, bytes) else digest_of(self.prompt)
            record.prompt_hash = keyed(key, "prompt", digest)
            self.prompt = b""
        return record

    def examine(self, key: bytes) -> Findings | None:
        """Looks at the answer, and says in the record what it found; None where there was nothing to be seen."""
        answered, self.answered = self.answered, None
        seen = said(self.spec, answered.sample) if answered is not None else None
        if answered is None or seen is None:
            return None
        tools = names_of_tools((self.parameters or {}).get("tools")) if seen.calls else frozenset()
        found = examine(seen, prompt_text(answered.prompt), tools, answered.watch)
        self.record.output = _told(found, key)
        return found


def _told(found: Findings, key: bytes) -> dict[str, Any]:
    told: dict[str, Any] = {"seen": "whole" if found.whole else "part", "characters": found.characters}
    for name, share in (("repetition", found.repetition), ("shift", found.shift)):
        if share is not None:
            told[name] = round(share, _DIGITS)
    if found.scripts:
        told["scripts"] = {name: round(share, _DIGITS) for name, share in found.scripts.items()}
    told["refusal"] = found.refusal
    if found.calls:
        told["tool_calls"] = found.calls
        if found.odd_calls is not None:
            told["tool_calls_odd"] = found.odd_calls
    if found.watched:
        told["watched"] = {keyed(key, "watch", w.encode(), _WATCH_BYTES): count for w, count in found.watched.items()}
    return told
