"""Who bears what endpoints cost: all of it, the idle and the standby time too, in whole micro-units.

Floor: `policies`, pure. The ground is full absorption costing, as accountants name it: whatever was paid is borne by
those for whom it was paid, nothing is left over and nothing is made up. Time in which an engine stood idle, or slept
ready to take over, is borne in the proportions of the work, as it is kept for whoever works. Micro: a millionth of a
currency's unit, or of a second.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from policies.types import Role

K = TypeVar("K", bound=Hashable)
MICRO = 1_000_000
_HOUR = 3600 * MICRO
_WEIGHT_STEPS = 10**6  # weights are compared in integers, to a millionth


@dataclass(frozen=True, slots=True)
class Paid:
    """Of an endpoint's time: microseconds, and micro-units of the currency."""

    micro_seconds: int
    cost: int


def paid(role: Role, awake: int, asleep: int, absent: int, hourly_cost: float, pools: int = 1) -> Paid:
    """What of an endpoint's time is paid for, given in microseconds. A machine whose engine sleeps or is gone costs
    what it always does; a cold one that is absent is not rented. `pools`: that have this engine, each pays its part.

    cost = seconds / 3600 · hourly_cost, to the nearest micro-unit (half of one: up), the price read to the micro-unit.
    """
    time = (awake + asleep + (0 if role is Role.COLD else absent)) // pools
    return Paid(time, (time * round(hourly_cost * MICRO) + _HOUR // 2) // _HOUR)


def split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts that add up to it, each less than 1 away from its exact share.

    The largest-remainder method (A. Hamilton 1792; T. Hare 1859): all get their share rounded down, and what is left
    goes one by one to the largest fractions; of equal ones to the first. Weights 0 or more; all 0: equal ones. Raises
    ValueError for nobody or a negative number.
    """
    if total < 0 or not weights or min(weights) < 0:
        raise ValueError("a split needs a total and weights of 0 or more, and somebody to bear it")
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    parts = [total * weight // whole for weight in weights]
    rests = [total * weight % whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda place: -rests[place])
    for place in order[: total - sum(parts)]:
        parts[place] += 1
    return parts


def attribute(total: int, work: Mapping[K, int], weights: Mapping[K, float]) -> dict[K, int]:
    """What each bears of a pool's `total` of a day: by the `work` done for it (microseconds), and where none was done
    for anybody by `weights`. The parts add up to the total; {} where there is nobody at all.
    """
    shares = {key: amount for key, amount in work.items() if amount} or {
        key: round(weight * _WEIGHT_STEPS) for key, weight in weights.items()
    }
    if not shares:
        return {}
    return dict(zip(shares, split(total, list(shares.values())), strict=True))


def bearers(
    work: Mapping[tuple[str, str], int], weights: Mapping[tuple[str, str], float], *, dedicated: bool
) -> Mapping[tuple[str, str], int]:
    """Whose work counts, by tenant and model: on a `dedicated` pool that of its own tenant alone (`weights`), as all of
    its time is that tenant's, whoever was let in."""
    if not dedicated or not weights:
        return work
    own = {tenant for tenant, _ in weights}
    return {key: amount for key, amount in work.items() if key[0] in own}
