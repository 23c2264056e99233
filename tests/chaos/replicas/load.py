"""The steady load: five clients' mixes, and a balancer that sends each request to a replica that is ready.

Floor: tests only. A client behind a balancer tries again, at another replica, what a replica's end has broken; nothing
else is tried again here, so that every other failure shows.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2

from tests.chaos.ask import WORDS, Ask, AskClient, Seen, draw_ask
from tests.chaos.judge import Ending, Verdict, judge
from tests.chaos.replicas.faults import DEADLY, ENDS, OUT_OF_REACH, Kind
from tests.chaos.replicas.installation import CLIENTS, ENGINE_MODEL, MODEL, key
from tests.chaos.replicas.processes import Life

GROUPS, PREFIX_WORDS = 9, 850
"""Prefixes that acme's requests share, each of about so many tokens."""
MANY = {"acme": 7, "globex-requests": 2, "globex-tokens": 2, "globex-seats": 6, "initech": 2}
"""Clients with one request at a time each. Those with a limit ask for more than it allows."""
TOKENS = 20
"""Of a request of globex-tokens: of its prompt, which is token ids, so that nothing is an estimate, and one more."""
PROBE_SECONDS, PROBE_TIMEOUT_SECONDS, PROBES = 0.2, 1.0, 2
"""How the balancer looks at /readyz: that often, for so long; after so many without an answer a replica is out."""
NOBODY_SECONDS = 0.05
AFTER_REFUSAL_SECONDS = 0.12
PATIENT_SHARE = 0.5
"""Share of the clients that wait for a replica that is out; the others ask another one."""
SEES_AGAIN_SECONDS = 3.0
"""So long after it was cut off from its engines a replica may say that it has none: until probes have found them."""
LATE_BALANCER_SECONDS = 0.5
"""So long after SIGTERM a balancer knows it; what it still sends to a closed port is the balancer's."""


@dataclass(frozen=True)
class TokensAsk(Ask):
    """A completion whose prompt is token ids."""

    @property
    def body(self) -> dict[str, Any]:
        return super().body | {"prompt": self.prompt_ids}

    @property
    def prompt_ids(self) -> list[int]:
        draw = random.Random(self.prompt)
        return [draw.randrange(1000, 9000) for _ in range(TOKENS - 1)]


def draw(client: str, chance: random.Random) -> Ask:
    """One request of this client's mix."""
    if client == "acme":
        group = random.Random(f"group {chance.randrange(GROUPS)}")
        prompt = " ".join(group.choices(WORDS, k=PREFIX_WORDS)) + f" {chance.random():.12f}"
        stream = chance.random() < 0.6
        most = chance.choice((3, 12, 40, None))
        return Ask(client, "chat", stream, stream, prompt, most, MODEL, ENGINE_MODEL)
    if client == "globex-requests":
        return Ask(client, "chat", False, False, f"{chance.random():.12f} hello", 3, MODEL, ENGINE_MODEL)
    if client == "globex-tokens":
        return TokensAsk(client, "completions", False, False, f"{chance.random():.12f}", 1, MODEL, ENGINE_MODEL)
    if client == "globex-seats":
        return Ask(client, "chat", True, False, f"{chance.random():.12f} go on", None, MODEL, ENGINE_MODEL)
    return draw_ask(chance, client, MODEL, ENGINE_MODEL)


@dataclass
class Attempt:
    """`gave_up`: the client left, as the balancer took the replica for dead."""

    life: Life
    seen: Seen
    verdict: Verdict
    gave_up: bool = False


@dataclass
class Story:
    """One request of a client, from its first attempt to its last."""

    client: str
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]


def excused(attempt: Attempt) -> bool:
    """Whether the replica's own end, or its being out of reach, explains that this attempt did not succeed."""
    seen, verdict = attempt.seen, attempt.verdict
    for spell in attempt.life.spells:
        blind = spell.kind is Kind.CUT_OWNER_ALL and seen.sent_at <= spell.ended + SEES_AGAIN_SECONDS
        if blind and verdict.why.startswith("503 no_endpoint"):
            return True
        if not spell.overlaps(seen.sent_at, seen.ended_at):
            continue
        if spell.kind in OUT_OF_REACH or spell.kind in DEADLY:
            return True
        late = seen.sent_at >= spell.began + LATE_BALANCER_SECONDS and not seen.pieces
        if spell.kind in ENDS and (late or verdict.why.startswith("503 shutting_down")):
            return True
    return False


class Balancer:
    """Looks at every replica, and chooses among those that are ready."""

    def __init__(self, lives: Callable[[], Iterable[Life]]) -> None:
        self._lives = lives
        self._missed: dict[str, int] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        async with httpx2.AsyncClient(timeout=PROBE_TIMEOUT_SECONDS, trust_env=False) as client:
            while True:
                looks = [self._look(client, life) for life in self._lives()]
                await asyncio.gather(asyncio.sleep(PROBE_SECONDS), *looks)

    def pick(self, chance: random.Random, but: Life | None) -> Life | None:
        ready = [life for life in self._lives() if life.ready]
        others = [life for life in ready if life is not but]
        return chance.choice(others or ready) if ready else None

    async def _look(self, client: httpx2.AsyncClient, life: Life) -> None:
        try:
            status = (await client.get(f"{life.admin_url}/readyz")).status_code
        except httpx2.ConnectError:
            status = 0 if life.alive else 503  # who is gone refuses; a busy one may be late
        except httpx2.HTTPError:
            status = 0
        missed = self._missed[life.name] = 0 if status else self._missed.get(life.name, 0) + 1
        life.ready = status == 200 if status else life.ready and missed < PROBES
        (life.out.clear if life.ready or (status == 503 and life.alive) else life.out.set)()


class Client:
    """Asks one request after the other until `over`."""

    def __init__(self, name: str, number: int, seed: int, balancer: Balancer, stories: list[Story]) -> None:
        self._name, self._number, self._seed = name, number, seed
        self._chance = random.Random(f"{seed} {name} {number}")
        self._balancer, self._stories = balancer, stories
        self._patient = self._chance.random() < PATIENT_SHARE
        self._asked = 0

    async def run(self, over: asyncio.Event) -> None:
        while not over.is_set():
            story = Story(self._name)
            await self._ask(story, draw(self._name, self._chance))
            self._stories.append(story)
            good = story.last.seen.status == 200
            await asyncio.sleep(self._chance.uniform(0.0, 0.04) if good else AFTER_REFUSAL_SECONDS)

    async def _ask(self, story: Story, ask: Ask) -> None:
        last: Life | None = None
        while True:
            life = self._balancer.pick(self._chance, last)
            if life is None:
                await asyncio.sleep(NOBODY_SECONDS)
                continue
            self._asked += 1
            named = replace(ask, id=f"c{self._seed}-{self._name}-{self._number}-{self._asked}")
            attempt = await self._attempt(life, named)
            story.attempts.append(attempt)
            good = attempt.verdict.ending is Ending.COMPLETE or attempt.seen.status == 429
            if good or not (attempt.gave_up or excused(attempt)):
                return
            last = life
            await asyncio.sleep(NOBODY_SECONDS)

    async def _attempt(self, life: Life, ask: Ask) -> Attempt:
        sending = asyncio.create_task(AskClient(life.server.url, key).send(ask), name=ask.id)
        out = asyncio.create_task(life.out.wait(), name=f"{life.name} is out")
        began = asyncio.get_running_loop().time()
        waits = {sending} if self._patient and life.alive else {sending, out}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        out.cancel()
        if sending.done():
            seen = sending.result()
            return Attempt(life, seen, judge(seen))
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        seen = Seen(ask, began, asyncio.get_running_loop().time(), broken="the balancer took the replica for dead")
        return Attempt(life, seen, judge(seen), gave_up=True)


def clients(seed: int, balancer: Balancer, stories: list[Story]) -> list[Client]:
    """All of them."""
    assert MANY.keys() == CLIENTS.keys()
    return [Client(name, number, seed, balancer, stories) for name, many in MANY.items() for number in range(many)]


def cached_and_prompt(seen: Seen) -> tuple[int, int] | None:
    """Tokens of the prompt that the engine had in its cache, and all; None where the answer does not tell."""
    if seen.ask.stream:
        events = [line[6:] for line in seen.body.split(b"\n") if line.startswith(b"data: {") and b'"usage":{' in line]
        if not events:
            return None
        usage = json.loads(events[-1])["usage"]
    else:
        usage = json.loads(seen.body)["usage"]
    details = usage.get("prompt_tokens_details")  # a stream that went on elsewhere has none
    return None if details is None else (details["cached_tokens"], usage["prompt_tokens"])
