"""Several gateway processes of one configuration, the Redis by which they know each other, and simulated engines.

Floor: tests only. `Front` is one of the processes; what is asked here is who of them decides.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from benchmarks.engine.launch import Engine, start_engine
from policies.coordination.ownership import preferred
from tests.e2e.fleet import ENGINE
from tests.e2e.front import HEALTH, Front, held, start_gateway, until
from tests.e2e.stack import ENGINE_MODEL
from tests.router.coordination.servers import RedisProcess, redis_process
from tests.servers import free_port, temporary_folder

SECRET = "an example secret for the end-to-end suite"
POOL = "p"


@dataclass
class Replicas:
    """`fronts`: those that run; a test takes out whom it ends."""

    redis: RedisProcess
    engines: Sequence[Engine]
    fronts: list[Front] = field(default_factory=list)

    async def part(self, front: Front) -> dict[str, Any]:
        """This replica's part in the pool."""
        return dict((await front.state())["replica"])

    async def parts(self) -> list[str]:
        return [(await self.part(front))["part"] for front in self.fronts]

    async def name(self, front: Front) -> str:
        return str((await front.whole())["replicas"]["me"])

    async def led(self) -> None:
        """Until there is exactly one owner whom all others follow, whoever it is."""

        async def one_leads() -> bool:
            parts = sorted(await self.parts())
            return parts == ["follows"] * (len(parts) - 1) + ["leads"]

        await until("one replica leads and the others follow", one_leads)

    async def settled(self) -> tuple[Front, list[Front]]:
        """The owner and the followers, once it is the one with whom the pool stays: who came first hands it over."""
        names = [await self.name(front) for front in self.fronts]
        first = names.index(str(preferred(POOL, names)))
        parts = ["leads" if number == first else "follows" for number in range(len(names))]

        async def stays() -> bool:
            return await self.parts() == parts

        await until("the preferred replica leads and the others follow", stays)
        owner = self.fronts[first]
        return owner, [front for front in self.fronts if front is not owner]

    async def all_at_rest(self) -> None:
        """Until no replica has anything on its books; fails, naming it, what stays."""
        left: list[str] = []

        async def nothing() -> bool:
            left.clear()
            for number, front in enumerate(self.fronts):
                state = await front.state()
                books = [f"{name} {state['replica'][name]}" for name in ("under_way", "seats_of_followers")]
                left.extend(f"replica {number}: {one}" for one in held(state) + books if not one.endswith(" 0"))
            return not left

        try:
            await until("nothing is left on any replica's books", nothing)
        except AssertionError:
            raise AssertionError(f"left on the books: {left}") from None

    def kill(self, front: Front) -> None:
        """As a host that dies."""
        front.gateway.process.send_signal(signal.SIGKILL)
        front.gateway.process.wait(60.0)
        self.fronts.remove(front)

    def sizes(self, engine: int = 0) -> list[int]:
        """The chats that reached an engine, in order, each as the tokens of its prompt."""
        bodies = [json.loads(one["body"]) for one in self.engines[engine].requests()]
        return [len(one["messages"][-1]["content"]) // 4 for one in bodies]


@contextmanager
def running_replicas(
    count: int, engines: int = 1, endpoint: dict[str, Any] | None = None, **options: Any
) -> Iterator[Replicas]:
    """Starts all of it. `endpoint`: fields of each in the configuration; `options`: of the engines."""
    with ExitStack() as stack:
        redis = stack.enter_context(redis_process())
        started = [stack.enter_context(start_engine(ENGINE_MODEL, **ENGINE | options)) for _ in range(engines)]
        replicas = Replicas(redis, started)
        with ThreadPoolExecutor(count) as starting:  # each imports for a second or more
            replicas.fronts += starting.map(lambda _: _start(replicas, stack, endpoint), range(count))
        yield replicas


def _start(replicas: Replicas, stack: ExitStack, endpoint: dict[str, Any] | None) -> Front:
    folder, remove = stack.enter_context(temporary_folder("replica"))
    ports = (free_port(), free_port())
    file = folder / "promptlane.yaml"
    urls = tuple(engine.url for engine in replicas.engines)
    nobody: Any = None
    front = Front(urls, nobody, f"http://127.0.0.1:{ports[1]}", file, ports, POOL)
    front.config = front.configuration(
        range(len(urls)),
        pool={"health": HEALTH},
        endpoint=endpoint,
        routing={"ageing": 1e-6},  # the order is to be that of lengths, however long a busy machine takes to ask
        state={"redis_url": replicas.redis.url},
        replicas={"listen": "tcp://127.0.0.1:0"},
    )
    front.config["server"]["shutdown_grace"] = 60.0
    file.write_text(json.dumps(front.config))
    front.gateway = start_gateway(file, folder, ports, SECRET, remove)
    stack.callback(front.gateway.stop)
    return front


async def streamed(client: httpx2.AsyncClient, body: dict[str, Any]) -> str:
    """The whole of a stream; fails where it did not end as one does."""
    async with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
        text = (await answer.aread()).decode()
    assert answer.status_code == 200, text
    assert text.endswith("data: [DONE]\n\n"), text[-300:]
    return text
