"""What the ledger keeps of a finished request, a failover, an endpoint's time; and the bytes that are hashed of it.

Floor: sans-IO. Never any text of a prompt or an answer. The canonical bytes are JSON with the fields in their order
here and without those that have their default: a field that is added at the end changes no record that there is.
Defaults are None, False and 0 alone: msgspec compares them by identity.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Kind(StrEnum):
    """What a record tells of."""

    REQUEST = "request"
    FAILOVER = "failover"
    RECOVERY = "recovery"
    DRILL = "drill"
    GAP = "gap"
    ENDPOINT = "endpoint"


class Ending(StrEnum):
    """How a request ended: answered; broken off by the client, or by an engine within the answer; failed by engines or
    the gateway; refused by a limit, a rule or for what was asked."""

    COMPLETE = "complete"
    CLIENT_LEFT = "client_left"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    REFUSED = "refused"


class Record(msgspec.Struct, gc=False, omit_defaults=True):
    """One line of the ledger. `at`: Unix seconds at its end; times are seconds.

    `replica` and `sequence` are given when it is written. `model` is what the client asked for, `engine_model` what the
    engine knows it by, `key` the id of an API key. `usage_from`: engine (it reported the tokens) or estimate (the
    gateway counted the prompt). `prefix_hash`: keyed, of the prompt up to its last whole prefix block.
    `engine_micro_seconds`: of an engine's time, as work that was done for a request (`policies.admission.fairness`), or
    as what an endpoint was paid for (kind endpoint); `cost_micro`: and what it cost, in millionths of the currency.
    `parameters`: what the engine sampled by (`router.wire.parameters`). `prompt_hash`: keyed, of the canonical prompt.
    `system_fingerprint`: as the engine answered it; `weights_digest`: as the configuration has it. `output`: figures of
    the answer's text, where somebody looked at it (`router.wire.draft`).
    """

    replica: str
    sequence: int
    kind: str
    at: float
    tenant: str | None = None
    tier: str | None = None
    key: str | None = None
    request_id: str | None = None
    api: str | None = None
    model: str | None = None
    engine_model: str | None = None
    pool: str | None = None
    endpoint: str | None = None
    lane: str | None = None
    stream: bool = False
    outcome: str | None = None
    status: int = 0
    error: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    usage_from: str | None = None
    queue_seconds: float | None = None
    first_byte_seconds: float | None = None
    total_seconds: float | None = None
    attempts: int = 0
    resumes: int = 0
    prefix_hash: str | None = None
    detail: dict[str, Any] | None = None
    engine_micro_seconds: int = 0
    cost_micro: int = 0
    parameters: dict[str, Any] | None = None
    prompt_hash: str | None = None
    system_fingerprint: str | None = None
    weights_digest: str | None = None
    output: dict[str, Any] | None = None

    def body(self) -> bytes:
        """The canonical bytes."""
        return _encode(self)


class _Place(msgspec.Struct, gc=False):
    replica: str
    sequence: int


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Record).decode
_decode_place = msgspec.json.Decoder(_Place).decode


def read_record(body: bytes) -> Record | None:
    """A record of its canonical bytes; None where they are none."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def sequence_of(body: bytes) -> int | None:
    """Only that of it."""
    try:
        return _decode_place(body).sequence
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
