"""Recognisers of personal data and of secrets: a pattern, and, where there is one, the checksum that proves it.

Floor: sans-IO. What they do not know: names, addresses, dates of birth; for those there is `presidio` (`people`).
Sources: Luhn's algorithm, ISO/IEC 7812-1; ISO 13616 and ISO 7064 (mod 97-10) for IBANs; RFC 5321 (lengths of an e-mail
address); ITU-T E.164 (digits of a phone number); the SSA's rules for numbers that are never given.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

import regex

from router.guards.finder import Finder

# Lengths of IBANs by country, of the SWIFT registry.
_IBAN_LENGTHS: Final = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28,
    "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20,
    "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25,
    "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27,
    "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def card_number(found: str) -> int:
    """Characters of the longest card number that the text begins with, of 13 to 19 digits; 0 for none."""
    ends = [at + 1 for at, character in enumerate(found) if character.isdigit()]
    digits = "".join(character for character in found if character.isdigit())
    for count in range(min(19, len(digits)), 12, -1):
        end = ends[count - 1]
        whole = end == len(found) or not found[end].isdigit()
        if whole and digits[0] in "23456" and luhn(digits[:count]) and len(set(digits[:count])) > 1:
            return end
    return 0


def iban(found: str) -> int:
    """Characters of the IBAN that the text begins with; 0 for none."""
    ends = [at + 1 for at, character in enumerate(found) if character.isalnum()]
    plain = "".join(character for character in found if character.isalnum()).upper()
    length = _IBAN_LENGTHS.get(plain[:2], 0)
    if not length or len(plain) < length:
        return 0
    moved = plain[4:length] + plain[:4]
    number = int("".join(str(int(character, 36)) for character in moved))
    return ends[length - 1] if number % 97 == 1 else 0


def ip_address(found: str) -> int:
    """All of it, or 0."""
    try:
        ipaddress.ip_address(found)
    except ValueError:
        return 0
    return len(found)


def _finder(
    label: str, pattern: str, reach: int, has: str, leads: str = "", proof: Callable[[str], int] | None = None
) -> Finder:
    """`has`: the characters that a match may have, as in brackets."""
    led = regex.compile(leads) if leads else None
    return Finder(label, regex.compile(pattern), reach, leads=led, stop=regex.compile(f"[^{has}]"), proof=proof)


_SIGNS: Final = r"[ .()/\-]"
# `reach`: the longest match, and the character behind it.
PII: Final[dict[str, Finder]] = {
    "credit-card": _finder(
        "credit-card",
        r"(?<![0-9])(?:[0-9][ \-]?){12,18}[0-9](?![0-9])",
        38,
        r"0-9 \-",
        r"[2-6](?:[ \-]?[0-9]){4}",
        card_number,
    ),
    "iban": _finder(
        "iban",
        r"(?i)(?<![A-Z0-9])[A-Z]{2}[0-9]{2}(?:[ \-]?[A-Z0-9]){11,30}",
        65,
        r"A-Za-z0-9 \-",
        r"[A-Za-z]{2}[0-9]{2}",
        iban,
    ),
    "email": _finder("email", r"(?<![\w.%+\-])[\w.%+\-]{1,64}@[\w.\-]{1,120}\.\p{L}{2,24}(?![\w\-])", 212, r"\w.%+\-@"),
    "phone": _finder(
        "phone",
        rf"(?<![\w+])(?:(?:\+|00)[1-9](?:{_SIGNS}{{0,2}}[0-9]){{6,14}}"
        rf"|\(?[2-9][0-9]{{2}}\)?[ .\-]{{1,2}}[0-9]{{3}}[ .\-][0-9]{{4}})(?![0-9])",
        46,
        r"0-9+ .()/\-",
        r"\+[1-9]|00[1-9]|\(?[2-9][0-9]{2}\)?[ .\-]",
    ),
    "us-ssn": _finder(
        "us-ssn",
        r"(?<![0-9\-])(?!000|666|9)[0-9]{3}([ \-])(?!00)[0-9]{2}\1(?!0000)[0-9]{4}(?![0-9\-])",
        12,
        r"0-9 \-",
        r"[0-8][0-9]{2}[ \-][0-9]{2}[ \-]",
    ),
    "ip-address": _finder(
        "ip-address",
        r"(?<![\w.:])(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])"
        r"|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]))",
        41,
        r"0-9A-Fa-f:.",
        r"\b[0-9A-Fa-f]{1,4}[:.][0-9A-Fa-f:]|::",
        ip_address,
    ),
    "api-key": _finder(
        "api-key",
        r"(?<![\w\-])(?:(?:sk|pk|rk|pl)[\-_][\w\-]{20,256}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,255}"
        r"|github_pat_\w{22,255}|glpat-[\w\-]{20,64}|xox[abeoprs]-[A-Za-z0-9\-]{10,255}|AIza[\w\-]{35}"
        r"|hf_[A-Za-z0-9]{30,64}|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----)",
        270,
        r"\w\- ",
    ),
}
PII_KINDS: Final = tuple(PII)
