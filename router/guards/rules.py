"""A rule of a tenant: what it finds, on which side, and what is done then.

Floor: sans-IO.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal, NamedTuple

from router.errors import ContentBlocked, GuardUnavailable, PolicyError
from router.guards.finder import Finder

if TYPE_CHECKING:
    from router.guards.people import People
    from router.guards.service import ModerationService


class Side(Enum):
    """Of a request: what the client sends, and what it gets."""

    INPUT = "input"
    OUTPUT = "output"


class Action(Enum):
    """What is done with what was found."""

    LOG = "log"
    REDACT = "redact"
    BLOCK = "block"


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """`fails_closed`: what cannot be examined is taken for found. `service`, `people`: who is asked besides.
    `service_sees`: characters of a stream that wait until the service has seen them."""

    name: str
    action: Action
    sides: frozenset[Side]
    finders: tuple[Finder, ...] = ()
    fails_closed: bool = True
    service: ModerationService | None = None
    service_sees: int = 0
    people: People | None = None

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return self.action is not Action.LOG


class Search(NamedTuple):
    """One finder of one rule."""

    rule: Rule
    finder: Finder


class Verdict(NamedTuple):
    """What came of a rule for one request; `found`: how often."""

    rule: str
    side: Side
    action: Action
    found: int


class Unavailable(NamedTuple):
    """A rule could not examine something. `cause`: `timeout`, `unreachable`, `status`, `nonsense` or `size`."""

    rule: str
    side: Side
    cause: str


class Findings:
    """What the rules of one side have found so far in one request. Mutable; owned by that request. `blocked_by`: the
    rule for which nothing may pass; `unseen`: because it could not look."""

    __slots__ = ("blocked_by", "counts", "failures", "side", "unseen")

    def __init__(self, side: Side) -> None:
        self.side = side
        self.counts: dict[tuple[str, Action], int] = {}
        self.failures: list[Unavailable] = []
        self.blocked_by: Rule | None = None
        self.unseen = False

    def add(self, rule: Rule, count: int = 1) -> None:
        """The rule found something so many times."""
        key = (rule.name, rule.action)
        self.counts[key] = self.counts.get(key, 0) + count
        if rule.action is Action.BLOCK:
            self.blocked_by = self.blocked_by or rule

    def fail(self, rule: Rule, cause: str) -> None:
        """The rule could not look. One that fails closed blocks, whatever it does with what it finds."""
        self.failures.append(Unavailable(rule.name, self.side, cause))
        if rule.fails_closed and rule.acts:
            key = (rule.name, Action.BLOCK)
            self.counts[key] = self.counts.get(key, 0) + 1
            self.unseen = self.blocked_by is None
            self.blocked_by = self.blocked_by or rule

    def refusal(self, what: Literal["prompt", "answer"]) -> PolicyError:
        """What a client is told of what is blocked."""
        name = self.blocked_by.name if self.blocked_by is not None else ""
        return GuardUnavailable.of(name) if self.unseen else ContentBlocked.by(name, what)

    def verdicts(self) -> Iterator[Verdict]:
        """One for each rule that found something."""
        for (rule, action), count in self.counts.items():
            yield Verdict(rule, self.side, action, count)


def searches(rules: Iterable[Rule], *, of_users: bool = True) -> tuple[Search, ...]:
    """All that the rules look for by themselves. `of_users` False: in what a tenant's own instructions say."""
    return tuple(Search(rule, finder) for rule in rules for finder in rule.finders if of_users or not finder.of_users)
