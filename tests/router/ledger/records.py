"""Records for tests of the ledger, and chains of them without files.

Floor: tests only.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from policies.ledger.chain import Link, Mark, fingerprint, link_hash
from router.wire.record import Record

KEY, OTHER = b"k" * 32, b"o" * 32
REPLICA = f"{fingerprint(KEY)}-0123456789ab"
AT = 1_800_000_000.25


def request(name: object, at: float = AT, tenant: str = "acme", **fields: Any) -> Record:
    return Record("", 0, "request", at, tenant=tenant, request_id=str(name), status=200, **fields)


def chained(
    records: list[Record], replica: str = REPLICA, begin: Mark | None = None, key: bytes = KEY
) -> list[tuple[Record, Link]]:
    """As a spool has them."""
    made, mark = [], begin if begin is not None else Mark()
    for record in records:
        record.replica, record.sequence = replica, mark.sequence + 1
        body = record.body()
        link = Link(record.sequence, mark.hash, link_hash(key, mark.hash, body), body)
        made.append((record, link))
        mark = link.mark
    return made


_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.none()
_count = st.integers(0, 2**40) | st.none()
_seconds = st.floats(0, 1e6) | st.none()
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.floats(-1e9, 1e9) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text.filter(bool), inner, max_size=3),
    max_leaves=5,
)
any_record = st.builds(
    Record,
    replica=st.just(""),
    sequence=st.just(0),
    kind=st.sampled_from(["request", "failover", "gap"]),
    at=st.floats(0, 4e9),
    **dict.fromkeys(("tenant", "tier", "key", "request_id", "api", "model", "engine_model", "pool"), _text),
    **dict.fromkeys(("endpoint", "lane", "outcome", "error", "finish_reason", "usage_from", "prefix_hash"), _text),
    stream=st.booleans(),
    status=st.integers(0, 599),
    prompt_tokens=_count,
    cached_tokens=_count,
    completion_tokens=_count,
    queue_seconds=_seconds,
    first_byte_seconds=_seconds,
    total_seconds=_seconds,
    attempts=st.integers(0, 10),
    resumes=st.integers(0, 10),
    engine_micro_seconds=st.integers(0, 2**50),
    cost_micro=st.integers(0, 2**50),
    detail=st.none() | st.dictionaries(_text.filter(bool), _json, min_size=1, max_size=3),
    parameters=st.none()
    | st.fixed_dictionaries({"temperature": st.floats(0, 2), "seed": st.integers(-(2**62), 2**62)}),
    output=st.none() | st.fixed_dictionaries({"repetition": st.floats(0, 1), "refusal": st.booleans()}),
    **dict.fromkeys(("prompt_hash", "system_fingerprint", "weights_digest"), _text),
)
