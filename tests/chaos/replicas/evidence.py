"""All that was seen of the replicas so far, over all schedules: a minute's limit and a term outlive one of them.

Floor: tests only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.chaos.replicas import judge
from tests.chaos.replicas.faults import SILENT_TO_REDIS, Fault, Kind
from tests.chaos.replicas.installation import AT_ONCE, REPLICAS, REQUESTS_A_MINUTE, TOKENS_A_MINUTE, Installation
from tests.chaos.replicas.judge import Gone, Served
from tests.chaos.replicas.load import TOKENS, Story
from tests.chaos.replicas.processes import Life, Spell
from tests.chaos.replicas.strike import Pair, nodes_gone
from tests.chaos.replicas.trail import Carried, Part

RECORDS = 1000
"""As many requests an engine remembers between two looks."""
STARTING_SECONDS = 5.0
"""Within these a process has tried to reach Redis for the first time."""
HEARD_SECONDS = 2.5
"""After a Redis is back without its memory, every replica that lives and reaches it has told it what it used."""


@dataclass
class Struck:
    """A fault as it was. `life`: whom it met, None for Redis; `pairs`: who was cut off from whom."""

    fault: Fault
    life: Life | None
    spell: Spell
    pairs: list[Pair] = field(default_factory=list)
    owner: str | None = None  # the process, where it was the main pool's owner that was met


class Evidence:
    """`served`: requests as engines had them; `trail`: everybody's; `gone`: what was not there, and when."""

    def __init__(self, world: Installation) -> None:
        self._world = world
        self.served: list[Served] = []
        self.trail: list[Part | Carried] = []
        self.gone: list[Gone] = []
        self.struck: list[Struck] = []
        self.slots: dict[str, str] = {}
        self.problems: list[str] = []

    async def collect(self, stories: Iterable[Story], struck: Iterable[Struck]) -> None:
        """What a schedule has left behind."""
        sent = {attempt.seen.ask.id: (story.client, attempt) for story in stories for attempt in story.attempts}
        for name, engine in self._world.engines.items():
            records = await asyncio.to_thread(engine.requests)
            await asyncio.to_thread(engine.clear)
            if len(records) >= RECORDS:
                self.problems.append(f"{name} had more requests than it remembers: the limits cannot be judged")
            for one in records:
                request = dict(one["headers"]).get("x-request-id", "")
                if request in sent:
                    client, attempt = sent[request]
                    ended = one["ended"] if one["ended"] is not None else float("inf")
                    where = attempt.life.name
                    self.served.append(Served(request, client, name, attempt.seen.sent_at, one["began"], ended, where))
        for item in struck:
            replica = None if item.life is None else item.life.replica
            self.struck.append(item)
            self.gone += nodes_gone(item.fault.kind, replica, item.spell, item.pairs)
        self.trail = []
        for life in self._world.past:
            life.follow()
            self.slots[life.me] = life.replica
            self.trail += life.trodden
        self.trail.sort(key=lambda one: one.at)

    def limits_exceeded(self, since: float) -> list[str]:
        """Limits of which more was used than they allow, at or after this time."""
        recent = [one for one in self.served if one.began > since - 2 * judge.MINUTE]
        found = []
        for client, limit, each in (
            ("globex-requests", REQUESTS_A_MINUTE, 1),
            ("globex-tokens", TOKENS_A_MINUTE, TOKENS),
        ):
            mine = {one.id: one for one in reversed(recent) if one.client == client}  # a request counts once
            worst = judge.over_a_minute(mine.values(), limit, each, self._forgotten)
            if worst is not None and worst[1] + judge.MINUTE > since:
                found.append(f"{client} used {worst[0]} of {limit} in the minute from {worst[1]:.2f}")
        seats = [
            one for one in recent
            if one.client == "globex-seats" and not self._forgotten(one, one.began - 60.0, one.ended + 60.0)
        ]  # fmt: skip
        most, at = judge.most_at_once(seats)
        if most > AT_ONCE and at > since:
            then = [f"{one.replica} {one.began - at:+.2f}" for one in seats if one.began <= at < one.ended]
            found.append(f"globex-seats had {most} requests at once of {AT_ONCE}, at {at - since:+.2f}: {then}")
        return found + self._shares_exceeded(recent, since)

    def _shares_exceeded(self, recent: Iterable[Served], since: float) -> list[str]:
        """Replicas that began without Redis, and admitted more than their share meanwhile."""
        share, found = AT_ONCE // len(REPLICAS), []
        mine = [one for one in recent if one.began > since and one.client == "globex-seats" and self._newcomer(one)]
        for name in {one.replica for one in mine}:
            most, at = judge.most_at_once([one for one in mine if one.replica == name])
            if most > share and not self._redis_there(at):
                found.append(f"{name}, which began without Redis, had {most} requests at once; its share is {share}")
        return found

    def _redis_there(self, at: float) -> bool:
        return not any(item.life is None and item.spell.began <= at <= item.spell.ended for item in self.struck)

    def _forgotten(self, one: Served, began: float, ended: float) -> bool:
        """Whether nobody could know of it when others were admitted (router/README.md, Limits): Redis lost its memory
        meanwhile, and the replica that had admitted it could not tell it again, as it had ended, or did not reach
        Redis while all others told it; or that one had begun while Redis was away, and spent its share unheard of."""
        if self._newcomer(one):
            return True
        for item in self.struck:
            if item.fault.kind is not Kind.REDIS_EMPTY:
                continue
            lost, heard = item.spell.began, item.spell.ended + HEARD_SECONDS
            if lost <= ended and began <= heard and one.began <= heard and self._unheard(one.replica, lost, heard):
                return True
        return False

    def _newcomer(self, one: Served) -> bool:
        life = next(life for life in self._world.past if life.name == one.replica)
        for item in self.struck:
            away = item.life is None or (item.life.replica == life.replica and item.fault.kind in SILENT_TO_REDIS)
            starting = item.spell.overlaps(life.launched_at, life.launched_at + STARTING_SECONDS)
            if away and starting and one.began <= item.spell.ended + HEARD_SECONDS:
                return True
        return False

    def _unheard(self, name: str, lost: float, heard: float) -> bool:
        life = next(life for life in self._world.past if life.name == name)
        silent = [spell for spell in life.spells if spell.kind in SILENT_TO_REDIS]
        return life.ended_at <= heard or any(spell.overlaps(lost, heard) for spell in silent)
