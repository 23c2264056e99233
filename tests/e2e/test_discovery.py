"""Engines come, are not ready, end and are replaced while clients ask: no request fails, whatever the API does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.engine.launch import Engine, start_engine
from router.config import loads
from router.deployment.grants import grants_of
from tests.dns_server import DnsServer
from tests.e2e.front import HEALTH, Front, chat, start_gateway, until
from tests.e2e.load import under_load
from tests.e2e.replicas import SECRET
from tests.e2e.stack import ENGINE_MODEL
from tests.kubernetes_api import FakeKubernetes
from tests.router.coordination.servers import redis_process
from tests.servers import free_port, temporary_folder

TENANT = "acme"
APPS = "/apis/apps/v1"


class Cluster(Front):
    """The gateway, which finds its engines by an API, and the engines that run as pods."""

    api: FakeKubernetes
    pods: dict[str, Engine]

    def run_pod(self, name: str, **fields: Any) -> Engine:
        """An engine, ready as soon as it listens."""
        self.pods[name] = engine = start_engine(ENGINE_MODEL, decode_step_seconds=0.005)
        self.api.pod(name, port=engine.port, **fields)
        return engine

    def change(self, name: str, **fields: Any) -> None:
        self.api.pod(name, port=self.pods[name].port, **fields)

    async def end_pod(self, name: str) -> None:
        """As a cluster does it: it is told to end, ends when nothing is under way any more, and is gone."""
        self.change(name, ending=True)
        await self.status(name, "draining")
        engine = self.pods.pop(name)

        async def idle() -> bool:
            return not engine.state()["running"] and (await self.endpoint(name))["in_flight"] == 0

        await until(f"{name} has nothing under way", idle)
        await asyncio.to_thread(engine.stop)
        self.api.remove_pod(name)
        await self.found(*self.pods)

    async def endpoint(self, name: str) -> dict[str, Any]:
        return next(one for one in (await self.state())["endpoints"] if one["name"] == f"{self.pool}.{name}")

    async def status(self, name: str, wanted: str) -> None:
        async def so() -> bool:
            return (await self.endpoint(name))["status"] == wanted

        await until(f"{name} is {wanted}", so)

    async def found(self, *names: str) -> None:
        """Until these serve, and no others are there."""

        async def so() -> bool:
            endpoints = (await self.state())["endpoints"]
            well = all(one["healthy"] for one in endpoints)
            return well and {one["name"] for one in endpoints} == {f"{self.pool}.{name}" for name in names}

        await until(f"{names} serve", so)

    async def told(self, condition: Callable[[dict[str, Any]], bool], what: str) -> None:
        async def so() -> bool:
            return condition((await self.state())["discovery"])

        await until(what, so)

    async def takes_part(self) -> bool:
        """Whether it decides for the pool, or follows who does."""
        return (await self.state())["replica"]["part"] in ("leads", "follows")

    async def scaled(self, replicas: int) -> bool:
        return bool(self.api.get(APPS, "deployments", TENANT, "cold")["spec"]["replicas"] == replicas)

    def served(self, name: str) -> int:
        return len(self.pods[name].requests())


@contextmanager
def running_cluster(sections: Mapping[str, Any] | None = None, **pool: Any) -> Iterator[Cluster]:
    """`sections`: of the configuration; `pool`: further fields of it."""
    with ExitStack() as stack:
        api = stack.enter_context(FakeKubernetes())
        api.tokens = {"a token"}
        folder, remove = stack.enter_context(temporary_folder("cluster"))
        ports, file = (free_port(), free_port()), folder / "promptlane.yaml"
        nobody: Any = None
        cluster = Cluster((), nobody, f"http://127.0.0.1:{ports[1]}", file, ports, "p")
        cluster.api, cluster.pods = api, {}
        (folder / "token").write_text("a token")
        source = {"namespace": TENANT, "selector": "app=vllm", "port": "http"}
        cluster.config = cluster.configuration(
            (), pool={"health": HEALTH, "discovery": {"kubernetes": source}, **pool},
            kubernetes={"api_url": api.url, "token_file": str(folder / "token")}, **(sections or {}),
        )  # fmt: skip
        file.write_text(json.dumps(cluster.config))
        cluster.gateway = start_gateway(file, folder, ports, SECRET, remove)
        stack.callback(lambda: [engine.stop() for engine in cluster.pods.values()])
        stack.callback(cluster.gateway.stop)
        yield cluster


async def test_engines_come_and_go_under_load_and_no_request_fails() -> None:
    with running_cluster() as cluster:
        cluster.run_pod("a")
        await cluster.found("a")
        async with under_load(cluster.url, [TENANT], each=3) as load:
            await load.more(20)
            cluster.run_pod("b")
            await cluster.found("a", "b")
            await load.more(30)
            assert cluster.served("b") > 0
            cluster.change("a", ready=False)
            await cluster.status("a", "unready")
            await load.more(20)
            cluster.change("a")
            await cluster.found("a", "b")
            cluster.run_pod("c")
            await cluster.found("a", "b", "c")
            await cluster.end_pod("a")
            await load.more(20)
            await cluster.end_pod("b")
            await load.more(20)
            assert list(cluster.pods) == ["c"]
        await cluster.settled()


async def test_a_cold_standby_is_scaled_up_found_and_takes_over_and_its_recovery_is_measured() -> None:
    scale = {"scale": {"namespace": TENANT, "name": "cold"}}
    with running_cluster(standby={"start": scale, "stop": scale, "calm_seconds": 0.5}) as cluster:
        cluster.api.apply(APPS, "deployments", TENANT, {"metadata": {"name": "cold"}, "spec": {"replicas": 0}})
        cluster.api.rights = {(verb, "pods", TENANT) for verb in ("list", "watch")}
        cluster.api.rights.add(("patch", "deployments/scale", TENANT))
        rendered = grants_of(loads(json.dumps(cluster.config).encode(), {"PROMPTLANE_SECRET": SECRET}))
        granted = {(one.verb, one.resource, space) for space, some in rendered.items() for one in some}
        assert cluster.api.rights == granted, "what is rendered is enough, as this shows"
        hot = cluster.run_pod("hot")
        await cluster.found("hot")
        hot.kill()
        del cluster.pods["hot"]
        cluster.api.remove_pod("hot")
        async with cluster.client(TENANT) as client:
            held = asyncio.create_task(client.post("/v1/chat/completions", json=chat()))
            await until("it is scaled up", lambda: cluster.scaled(1))
            cluster.run_pod("cold", labels={"promptlane/role": "cold"})
            answer = await held
            assert (answer.status_code, answer.headers["x-promptlane-endpoint"]) == (200, "p.cold")

        async def measured() -> bool:
            return await cluster.metric("promptlane_recovery_seconds_count", tenant=TENANT) == 1

        await until("its recovery is measured", measured)  # an answer may come before the level is another
        cluster.run_pod("hot-again")
        await until("the cold one is put away", lambda: cluster.scaled(0))


async def test_an_api_that_is_killed_cut_and_expired_changes_nothing_for_clients() -> None:
    with running_cluster() as cluster:
        for name in ("a", "b"):
            cluster.run_pod(name)
        await cluster.found("a", "b")
        async with under_load(cluster.url, [TENANT], each=2) as load:
            await load.more(10)
            cluster.api.kill()
            await cluster.told(lambda it: it["problem"] is not None, "the gateway noticed")
            await load.more(20)
            await cluster.found("a", "b")
            await cluster.reload(cluster.config | {"routing": {"profile": "least-load"}})
            await cluster.found("a", "b")
            await load.more(20)
            cluster.api.start()
            await cluster.told(lambda it: it["problem"] is None, "the API is heard again")
            cluster.api.cut()
            cluster.run_pod("c")
            await cluster.found("a", "b", "c")
            cluster.api.expire()
            await cluster.end_pod("a")
            await load.more(20)
        await cluster.settled()


async def test_engines_are_found_by_the_addresses_of_a_name() -> None:
    engine = start_engine(ENGINE_MODEL)
    dns = {"dns": {"name": "localhost", "port": engine.port, "every_seconds": 0.2}}
    with running_cluster(discovery=dns) as cluster:
        cluster.pods["127.0.0.1"] = engine  # it listens there alone: what else the name has does not answer

        async def serves() -> bool:
            return any(one["name"] == "p.127.0.0.1" and one["healthy"] for one in (await cluster.state())["endpoints"])

        await until("it is found and well", serves)
        async with under_load(cluster.url, [TENANT], each=1) as load:
            await load.more(10)
        assert (await cluster.state())["discovery"]["source"] == f"addresses of localhost, port {engine.port}"


async def test_engines_are_found_by_srv_records_and_one_that_leaves_loses_no_request() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(DnsServer())
        engines = [start_engine(ENGINE_MODEL, decode_step_seconds=0.005) for _ in range(2)]
        stack.callback(lambda: [engine.stop() for engine in engines])
        name, host = "_http._tcp.engines.test", {"engines.test": {"A": ["127.0.0.1"]}}
        records = [f"0 10 {engine.port} engines.test." for engine in engines]
        server.tell(host | {name: {"SRV": records}})
        dns = {"dns": {"srv": name, "server": f"127.0.0.1:{server.port}", "every_seconds": 0.1, "timeout": 0.5}}
        cluster = stack.enter_context(running_cluster(discovery=dns))
        first, second = [f"127.0.0.1-{engine.port}" for engine in engines]
        await cluster.found(first, second)
        async with under_load(cluster.url, [TENANT], each=2) as load:
            await load.more(20)
            assert all(engine.requests() for engine in engines)
            server.tell(host | {name: {"SRV": records[1:]}})
            await cluster.found(second)
            await load.more(20)
            server.fail("silent")
            await cluster.told(lambda it: it["problem"] is not None, "the gateway noticed")
            await load.more(20)
            server.tell(host | {name: {"SRV": records}})
            await cluster.found(first, second)
            await load.more(20)


async def test_replicas_that_see_different_engines_lose_nothing_and_agree_in_the_end() -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_process())
        shared = {"state": {"redis_url": redis.url}, "replicas": {"listen": "tcp://127.0.0.1:0"}}
        first, second = [stack.enter_context(running_cluster(sections=shared)) for _ in range(2)]
        engine = first.run_pod("a")
        second.pods["a"] = engine
        second.change("a")
        for one in (first, second):
            await one.found("a")
            await until("it has its part", lambda one=one: one.takes_part())
        async with under_load(first.url, [TENANT]) as load, under_load(second.url, [TENANT]) as other:
            for seeing, blind in ((first, second), (second, first)):  # one of them is the owner
                name = f"only-{seeing.ports[0]}"
                extra = seeing.run_pod(name)
                await seeing.found(*seeing.pods)
                await load.more(15)
                await other.more(15)
                blind.pods[name] = extra
                blind.change(name)
                await blind.found(*blind.pods)
                assert set(seeing.pods) == set(blind.pods)
                await load.more(5)
                await other.more(5)
        for one in (first, second):
            await one.settled()
        second.pods.clear()  # they are the first one's to stop
