"""Rules that ask somebody else: a service, or Presidio in a thread.

Floor: an adapter. Whoever fails closed and gets no answer blocks; see `Findings.fail`.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.guards.people import PresidioFailed
from router.guards.rules import Action, Findings, Rule
from router.guards.service import ServiceFailed

# Characters of one request that others are asked about: a service has its own bounds, Presidio needs a second for this.
MOST_CHARACTERS = 200_000


async def ask_services(rules: Sequence[Rule], texts: Sequence[str], findings: Findings) -> None:
    """Each service about all texts, in the rules' order, until one blocks."""
    wanted = [text for text in texts if text.strip()]
    for rule in rules:
        if rule.service is None or not wanted or findings.blocked_by is not None:
            continue
        if sum(map(len, wanted)) > MOST_CHARACTERS:
            findings.fail(rule, "size")
            continue
        try:
            if await rule.service.flags(wanted):
                findings.add(rule)
        except ServiceFailed as failed:
            findings.fail(rule, failed.cause)


async def ask_presidio(rules: Sequence[Rule], texts: Sequence[str], findings: Findings) -> dict[str, str]:
    """Each Presidio about all texts. What becomes of those that are to be redacted."""
    changed: dict[str, str] = {}
    for rule in rules:
        if rule.people is None or findings.blocked_by is not None:
            continue
        wanted = [changed.get(text, text) for text in dict.fromkeys(texts) if text.strip()]
        if sum(map(len, wanted)) > MOST_CHARACTERS:
            findings.fail(rule, "size")
            continue
        try:
            found = await rule.people.find(wanted)
        except PresidioFailed as failed:
            findings.fail(rule, failed.cause)
            continue
        for text, spans in zip(wanted, found, strict=True):
            if spans:
                findings.add(rule, len(spans))
            if spans and rule.action is Action.REDACT:
                original = next((one for one, now in changed.items() if now == text), text)
                changed[original] = _without(text, spans)
    return changed


def _without(text: str, spans: Sequence[tuple[int, int, str]]) -> str:
    out, at = [], 0
    for begin, end, label in sorted(spans):
        if begin >= at:
            out.append(f"{text[at:begin]}[{label}]")
        at = max(at, end)
    return "".join((*out, text[at:]))
