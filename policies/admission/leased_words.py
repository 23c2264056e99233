"""What a replica asks of the store that limits are shared by, and what the store answers.

Floor: `policies`, pure; values only.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WindowAsk:
    """`mine`: this replica's figures that the store may not know, by slice. `number`: the slice that a chunk is to lie
    in, and `end` its last moment (monotonic seconds). `least`: what requests wait for, the smallest of them needing
    `smallest`; `more`: what is expected besides. `free`: what is left of chunks. `keep`: what we hold
    as a reserve and the store may not lower, as its answer may be lost; -1: none is wanted. `everybodys`: for a store
    that has lost its memory, what all replicas together had, the dead among them, by slice.
    """

    mine: dict[int, int]
    number: int
    end: float
    least: int
    smallest: int
    more: int
    free: int
    keep: int
    waiting: tuple[int, ...] = ()
    everybodys: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WindowAnswer:
    """`used`: everybody's, without reserves; `reserve`: ours, `reserves`: the others'. `idle`: what others have left of
    their chunks, and `hungry`: somebody got too little of late, so that whoever can gives it back. `last`: the last
    slice with anything in it. `slices`: everybody's figures by slice."""

    granted: int
    used: int
    reserve: int
    reserves: int
    idle: int
    hungry: bool
    last: int
    slices: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What every answer of the store says. `unix`: what to add to `now` for the store's clock, at most: it is never
    later, so that no chunk lives too long. `asked_at`: when the question was sent. `replicas`: how many share."""

    unix: float
    asked_at: float
    replicas: int
    recovering: bool = False


def slices_of(text: str) -> list[tuple[int, int]]:
    """`number:amount;…` as the store writes them, in order of number."""
    pairs = (one.split(":") for one in text.split(";") if one)
    return sorted((int(number), int(amount)) for number, amount in pairs)
