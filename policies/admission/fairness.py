"""Fairness between the tenants of a shared pool: how far each is ahead of its share.

Floor: `policies`, pure. A tenant that waits has a virtual clock: seconds of work done for it over its weight, charged
at dispatch by estimate and corrected when the real numbers are known. Its lag is how far that clock is ahead of the
slowest one of those that wait, in seconds of its own work. The lag is added to the key of all its requests, so tenants
drift apart by what the rest of the key is worth, and no further.

Bound. Let key = d + c·lag, with d = own prefill + tier offset + lane offset - κ·age, and
    Δ = (max own - min own) + (spread of tier and lane offsets) + κ·(longest wait),
and s the most work that one request is charged. While the first in the order is sent first, who is served while others
wait has c·lag ≤ Δ before and lag ≤ Δ/c + s after. So at all times, for every tenant,
    lag ≤ Δ/c + s,
and for two tenants A and B that both wait throughout an interval of any length, whatever others do beside them,
    work_A/w_A - work_B/w_B ≤ (Δ/c + s)/w_A + (Δ/c + s)/w_B        (w: weight).
So shares converge to the weights, and a better tier goes first within Δ only. Nobody starves: until B is served next,
each other tenant t gets at most Δ/c + s + max(1, w_t/w_B)·lag_B seconds of work. Work is as charged and corrected: what
is not settled yet adds its error.

Why not fair queueing between tenants, with the order only inside of each: that is the limit of a large c, where a
tenant's 13 s prompt goes before the 50 ms ones of another with an equal share. Why own work and not the clock itself:
weights of 1 and 2 then mean the same as 100 and 200.
"""

from __future__ import annotations

from operator import attrgetter

from policies.cost import Rates, own_seconds

# Accounts are swept when this many are kept, and again at twice what was left: a sweep costs no more than what made it
# necessary.
SWEEP_AT = 64

_clock = attrgetter("clock")


class _Account:
    """A tenant's clock since it began to wait. Charges of an earlier `era` are final."""

    __slots__ = ("clock", "era", "tenant", "weight")

    def __init__(self, tenant: str, weight: float, clock: float) -> None:
        self.tenant = tenant
        self.weight = weight
        self.clock = clock
        self.era = 0


class Charge:
    """The work of one dispatch: an estimate until it is settled, once."""

    __slots__ = ("_account", "_era", "_fair", "_seconds", "_weight")

    def __init__(self, fair: FairShare, account: _Account | None, seconds: float) -> None:
        self._fair = fair
        self._account = account
        self._seconds = seconds
        self._era, self._weight = (account.era, account.weight) if account is not None else (0, 1.0)

    def settle(self, seconds: float) -> None:
        """The work really was `seconds`; 0 for a request that never got any. The first call counts."""
        account, self._account = self._account, None
        if account is not None and account.era == self._era:
            self._fair._correct(account, (seconds - self._seconds) / self._weight)


class FairShare:
    """The clocks of a pool's tenants. Interactive and batch work each need one: batch gets what is left over, and that
    counts neither for nor against a tenant's interactive share.

    No credit: who begins to wait starts level with the slowest of those that wait, or where its own lead has left it.
    No punishment: work while nobody else waits puts nobody ahead, and when nobody waits all are level. Memory: twice
    the tenants that wait or are ahead, or 64. A dispatch may look at every waiting tenant once; `lag` is a lookup.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._waiting: dict[str, _Account] = {}
        self._slowest: _Account | None = None  # of those that wait; None until somebody asks
        self._sweep_at = SWEEP_AT

    def __len__(self) -> int:
        """Tenants remembered."""
        return len(self._accounts)

    def joined(self, tenant: str, weight: float) -> None:
        """The tenant's first request begins to wait. For one that waits already only the weight is taken."""
        self._waiting[tenant] = self._level(tenant, weight)  # nobody's is slower than the slowest's

    def left(self, tenant: str) -> None:
        """None of the tenant's requests waits any more. Where its last one is sent: `charge` first, then this."""
        account = self._waiting.pop(tenant, None)
        if account is None:
            return
        if account is self._slowest:
            self._slowest = None
        if not self._waiting:
            self._accounts.clear()
            self._sweep_at = SWEEP_AT
        elif len(self._waiting) == 1:
            self._first().era += 1  # it was alone: a later correction must not be a credit towards who comes then

    def charge(self, tenant: str, weight: float, seconds: float) -> Charge:
        """A request of the tenant is sent, and will take `seconds` of work (see `work_seconds`)."""
        if not self._waiting:
            return Charge(self, None, seconds)
        account = self._level(tenant, weight)
        self._move(account, seconds / weight)
        if len(self._waiting) > 1 or tenant not in self._waiting:
            return Charge(self, account, seconds)
        account.era += 1
        return Charge(self, None, seconds)

    def lag(self, tenant: str) -> float:
        """Seconds of its own work that the tenant is ahead of its share; 0 for the least served of those that wait."""
        account = self._accounts.get(tenant)
        if account is None:
            return 0.0
        return max(0.0, account.clock - self._first().clock) * account.weight

    def _level(self, tenant: str, weight: float) -> _Account:
        """The tenant's account, with a new one's clock, or one's that has fallen behind unasked, at the slowest's."""
        account = self._accounts.get(tenant)
        floor = self._first().clock if self._waiting else 0.0
        if account is None or (account.clock < floor and tenant not in self._waiting):
            self._sweep()
            account = self._accounts[tenant] = _Account(tenant, weight, floor)
        account.weight = weight
        return account

    def _first(self) -> _Account:
        if self._slowest is None:
            self._slowest = min(self._waiting.values(), key=_clock)
        return self._slowest

    def _move(self, account: _Account, by: float) -> None:
        account.clock += by
        slowest = self._slowest
        if account is slowest:
            self._slowest = None
        elif slowest is not None and account.clock < slowest.clock and account.tenant in self._waiting:
            self._slowest = account

    def _correct(self, account: _Account, by: float) -> None:
        if self._accounts.get(account.tenant) is account:
            self._move(account, by)

    def _sweep(self) -> None:
        """Forgets who neither waits nor is ahead: the same as a new tenant."""
        if len(self._accounts) < self._sweep_at:
            return
        floor, waiting = self._first().clock, self._waiting
        kept = {name: one for name, one in self._accounts.items() if name in waiting or one.clock > floor}
        self._accounts = kept
        self._sweep_at = max(SWEEP_AT, 2 * len(kept))


def work_seconds(rates: Rates, uncached: int, cached: int, output: float) -> float:
    """Seconds of an engine that a request takes: the prefill of its uncached tokens, and its part of the steps in which
    its `output` tokens are decoded: c per token, and d per token of context, which on average has half of the output.
    """
    decode = output * (rates.decode + rates.context * (uncached + cached + output / 2))
    return own_seconds(rates, uncached, cached) + decode
