"""Amounts as they are typed: tokens, money, prices, shares.

Floor: a part of `router.cli`. Every function raises ArgumentTypeError, whose text argparse prints with the option.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from decimal import Decimal, InvalidOperation

from policies.admission.limit import Prices

_MICRO = 1_000_000
_MOST = Decimal(10**15)  # more of anything is a slip, and sums stay exact in floats
_TIMES = {"k": 10**3, "M": 10**6, "G": 10**9}


def amount(text: str) -> int:
    """A whole number of 1 or more, with k, M or G behind it for thousands, millions, and thousands of those."""
    found = _number(text[:-1] if text[-1:] in _TIMES else text) * _TIMES.get(text[-1:], 1)
    if found < 1 or found > _MOST or found != int(found):
        raise ArgumentTypeError("expected a whole number of 1 or more, as 250000 or 2.5M")
    return int(found)


def money(text: str) -> int:
    """Micro-units."""
    return round(_number(text) * _MICRO)


def prices(text: str) -> Prices:
    """Of a million tokens: in, out, and where it is another one, of those that were cached."""
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise ArgumentTypeError("expected two or three numbers, as 0.15:0.60 or 0.15:0.60:0.08")
    read, answered, *cached = (float(_number(part)) for part in parts)
    return Prices(read, answered, cached[0] if cached else read)


def share(text: str) -> float:
    """Above 0, up to 1."""
    found = float(_number(text))
    if not 0 < found <= 1:
        raise ArgumentTypeError("expected a number above 0, up to 1")
    return found


def _number(text: str) -> Decimal:
    try:
        found = Decimal(text)
    except InvalidOperation:
        raise ArgumentTypeError(f"expected a number, not '{text[:40]}'") from None
    if not found.is_finite() or not 0 <= found <= _MOST:
        raise ArgumentTypeError(f"expected a number from 0 to {_MOST:e}")
    return found
