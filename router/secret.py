"""The server's secret, and what is derived from it.

Floor: an adapter around one small file. Equal secrets on all replicas give equal cache salts on all replicas.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

_BYTES = 32


class SecretUnavailable(Exception):
    """The secret can neither be read nor made; the message says what to do."""


def load_secret(configured: str | None, path: Path) -> bytes:
    """The configured secret, else the file's; where there is no file it is made once, readable by its owner only.

    Raises SecretUnavailable.
    """
    if configured is not None:
        return configured.encode()
    try:
        return _read(path) if path.exists() else _create(path)
    except FileExistsError:
        return _read(path)  # another process made it in this very moment
    except OSError as error:
        raise SecretUnavailable(
            f"cannot read or write the secret file '{path}' ({error.strerror}): set PROMPTLANE_SECRET (32 characters or"
            " more, the same on every replica), or point server.secret_file at a place that can be written"
        ) from None


def cache_salt(secret: bytes, tenant: str) -> str:
    """The tenant's KV-cache salt: 64 hex digits, which vLLM accepts (at most 128 characters, none of `@ / \\`)."""
    return hmac.new(secret, b"cache-salt:" + tenant.encode(), hashlib.sha256).hexdigest()


def ledger_key(secret: bytes) -> bytes:
    """What the ledger's chains and hashes are made by."""
    return hmac.new(secret, b"ledger", hashlib.sha256).digest()


def tenant_key(ledger: bytes, tenant: str) -> bytes:
    """What hashes of a tenant's prompts and parameters are made by. `ledger`: as `ledger_key` has it."""
    return hmac.digest(ledger, b"tenant:" + tenant.encode(), "sha256")


def response_cache_key(secret: bytes, tenant: str) -> bytes:
    """What the tenant's answers are kept under, and sealed by."""
    return hmac.new(secret, b"response-cache:" + tenant.encode(), hashlib.sha256).digest()


def _read(path: Path) -> bytes:
    secret = path.read_bytes().strip()
    if len(secret) < _BYTES:
        raise SecretUnavailable(f"the secret file '{path}' holds fewer than {_BYTES} characters")
    return secret


def _create(path: Path) -> bytes:
    """Written aside and linked into place: nobody ever sees half a secret, not even after a crash."""
    secret = secrets.token_hex(_BYTES).encode()
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # readable by its owner only
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret + b"\n")
        os.link(aside, path)
    finally:
        os.unlink(aside)
    return secret
