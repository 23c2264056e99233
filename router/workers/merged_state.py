"""The live states of N workers as that of one gateway (`/admin/state`).

Floor: data in, data out. Who decides for a pool says how it is, knowing of the requests of all; connections to engines
are each worker's own, and added up. What each worker has learned or does by itself stands under `workers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

State = dict[str, Any]

_PARTS = ("leads", "follows", "alone")
# Of an endpoint, where none of these workers decides: each knows of its own requests.
_OWN = ("in_flight", "pending_prefill_seconds", "outstanding_tokens", "kv_tokens_in_flight")
_OWN_OF_POOL = ("waiting",)


def merged(states: Mapping[int, State], workers: Mapping[int, State]) -> State:
    """`states`: by the worker that says it, none is nothing; `workers`: what the supervisor knows of each."""
    found = list(states.values())
    if not found:
        return {"pools": {}, "workers": [dict(one) for one in workers.values()]}
    first = found[0]
    return {
        "version": first.get("version"),
        "profile": first.get("profile"),
        "replicas": first.get("replicas"),
        "tenants": first.get("tenants", {}),
        "pools": {name: merged_pool(_of_pool(states, name)) for name in first["pools"]},
        "calibration": first.get("calibration", {}),
        "caches": _caches(found),
        "answers": _answers(found),
        "drills": sorted((one for state in found for one in state.get("drills", ())), key=lambda one: str(one["at"])),
        "workers": [{**workers[index], **_own_part(states.get(index))} for index in workers],
    }


def merged_pool(pools: Mapping[int, State]) -> State:
    """One pool, by the worker that says it; at least one does."""
    index = leader(pools)
    base, rest = dict(pools[index]), [pool for other, pool in pools.items() if other != index]
    base["endpoints"] = [_endpoint(one, rest, owned=_part(base) == "leads") for one in base["endpoints"]]
    if _part(base) != "leads":
        base |= {key: base[key] + sum(pool[key] for pool in rest) for key in _OWN_OF_POOL if key in base}
    if base.get("replica") is not None:
        seen = [pool["replica"] for pool in pools.values()]
        base["replica"] = base["replica"] | {
            "under_way": sum(one["under_way"] for one in seen),
            "workers": {str(other): pool["replica"] for other, pool in pools.items()},
        }
    return base


def leader(pools: Mapping[int, State]) -> int:
    """Who decides for the pool; else who is nearest to that."""
    return min(pools, key=lambda index: (_PARTS.index(_part(pools[index])), index))


def _of_pool(states: Mapping[int, State], name: str) -> dict[int, State]:
    return {index: state["pools"][name] for index, state in states.items() if name in state["pools"]}


def _part(pool: State) -> str:
    """This worker's part in the pool."""
    replica = pool.get("replica")
    return str(replica["part"]) if replica is not None else "alone"


def _endpoint(base: State, rest: Sequence[State], *, owned: bool) -> State:
    others = [one for pool in rest for one in pool["endpoints"] if one["name"] == base["name"]]
    connections = [base["connections"], *(one["connections"] for one in others)]
    merged = base | {"connections": {state: sum(one[state] for one in connections) for state in base["connections"]}}
    if not owned:
        merged |= {key: base[key] + sum(one[key] for one in others) for key in _OWN if key in base}
    return merged


def _answers(states: Sequence[State]) -> list[State]:
    """Lengths of answers of each tenant and model, by the worker that has seen the most."""
    most: dict[tuple[str, str], State] = {}
    for one in (one for state in states for one in state.get("answers", ())):
        key = (one["tenant"], one["model"])
        if key not in most or one["answers"] > most[key]["answers"]:
            most[key] = one
    return list(most.values())


# Of a cache, what each worker counts by itself; of one in memory also what is in it.
_OF_EACH = ("hit", "miss", "bypass", "unfit")
_IN_MEMORY = ("entries", "bytes")


def _caches(states: Sequence[State]) -> State:
    """Each tenant's cache of answers, by all workers together."""
    merged: State = {}
    for name, one in (pair for state in states for pair in state.get("caches", {}).items()):
        before = merged.get(name)
        added = (*_OF_EACH, *_IN_MEMORY) if one["store"] == "memory" else _OF_EACH
        merged[name] = one if before is None else one | {key: before[key] + one[key] for key in added}
    return merged


def _own_part(state: State | None) -> State:
    if state is None:
        return {}
    return {key: state[key] for key in ("replicas", "calibration", "answers") if key in state}
