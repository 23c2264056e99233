"""What is asked, and what each client knows of it afterwards: whole answers, streams, clients that leave, refusals.

Floor: tests only, pure. Every request has a name of its own (`x-request-id`), which nobody asks with again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from tests.chaos.ask import WORDS, Ask, Seen
from tests.e2e.stack import ENGINE_MODEL

FORBIDDEN = "zanzibar"
"""What initech's content rule blocks."""
STRANGER = "stranger"
"""Whose key nobody knows."""
SHARES = {"acme": 6, "globex": 6, "initech": 3, "hooli": 2, STRANGER: 1}
MODELS = {"acme": ("priced", "timed"), "globex": ("priced", "timed"), "initech": ("priced",), "hooli": ("timed",)}


class Kind(StrEnum):
    """What comes of a request, as far as its client knows before."""

    GOOD = "good"
    LEAVES = "the client leaves"
    STRANGER = "an unknown key"
    NO_MODEL = "a model that is not there"
    MALFORMED = "a field that is no good"
    FORBIDDEN = "text that is forbidden"


REFUSED_WITH = {Kind.STRANGER: 401, Kind.NO_MODEL: 404, Kind.MALFORMED: 400, Kind.FORBIDDEN: 400}


@dataclass(frozen=True)
class Order(Ask):
    """One request. `fields`: of its body, beside what a good one has; `seconds`, `most`: when its client leaves."""

    kind: Kind = Kind.GOOD
    fields: tuple[tuple[str, Any], ...] = ()
    seconds: float | None = None
    most: float = float("inf")

    @property
    def body(self) -> dict[str, Any]:
        return super().body | dict(self.fields)


@dataclass
class Told:
    """What an engine has told of a request: tokens of its prompt, cached ones, and of its answer."""

    prompt: int
    cached: int
    completion: int


@dataclass
class Asked:
    """A request that was sent to `life`, a gateway's process, with what its client saw of it."""

    order: Order
    life: int
    seen: Seen


def draw_order(chance: random.Random, name: str) -> Order:
    """One of a steady mix."""
    tenant = chance.choices(list(SHARES), list(SHARES.values()))[0]
    model = chance.choice(MODELS.get(tenant, ("priced",)))
    api = "completions" if chance.random() < 0.25 else "chat"
    stream = chance.random() < 0.6
    words = chance.choices(WORDS, k=1200 if chance.random() < 0.03 else chance.choice((4, 20, 120)))
    prompt = f"{chance.random():.12f} " + " ".join(words)
    if chance.random() < 0.3:  # a beginning that others have, too: tokens that are cached
        prompt = " ".join(random.Random(chance.randrange(4)).choices(WORDS, k=200)) + " " + prompt
    order = Order(
        tenant, api, stream, stream and chance.random() < 0.5, prompt, chance.choice((1, 3, 8, 20)), model,
        ENGINE_MODEL, id=name,
    )  # fmt: skip
    if tenant == STRANGER:
        return replace(order, kind=Kind.STRANGER)
    return _odd(order, chance)


def _odd(order: Order, chance: random.Random) -> Order:
    """Most are as they are."""
    luck = chance.random()
    if luck < 0.05:
        return replace(order, kind=Kind.LEAVES, max_tokens=60, seconds=chance.uniform(0.0, 0.2))
    if luck < 0.10:
        return replace(order, kind=Kind.LEAVES, max_tokens=60, stream=True, most=chance.choice((1, 900, 3000)))
    if luck < 0.12:
        return replace(order, kind=Kind.NO_MODEL, model="nobody-has-it")
    if luck < 0.14:
        return replace(order, kind=Kind.MALFORMED, fields=(("max_tokens", "many"),))
    if order.tenant == "initech" and luck < 0.3:
        return replace(order, kind=Kind.FORBIDDEN, prompt=f"{order.prompt} {FORBIDDEN}")
    return order
