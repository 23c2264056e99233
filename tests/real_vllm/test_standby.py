"""A real vLLM that sleeps is woken when the hot one dies, pauses or is drilled; and sleeps again when that is over.

Two servers for all tests: one hot, one warm and asleep at level 1, behind a tap that tells what it was asked. How long
recoveries took is printed (`pytest -s`).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, NamedTuple

import httpx2
import pytest

from tests.chaos.ask import AskClient
from tests.chaos.judge import Ending, judge
from tests.chaos.wire import Wire
from tests.e2e.front import MODEL, Front, chat, key, running_front, until
from tests.e2e.standby import (
    CHAT,
    drill_under_load,
    moves,
    pool,
    recovered,
    serve,
    trickle,
    until_asleep,
    until_level,
    until_rising,
)
from tests.e2e.tap import Exchange, Tap
from tests.engine.conftest import sample
from tests.engine.sleep_steps import transcript
from tests.real_vllm.asks import Decoding, asks
from tests.real_vllm.engine import RealEngine

pytestmark = pytest.mark.real_vllm

ROLES = {0: "hot", 1: "warm"}
PAUSE_SECONDS, LONG_PAUSE_SECONDS = 0.2, 0.5
"""Between two requests of a trickle: two servers share two cores with all else, and one that starts needs them."""


class Site(NamedTuple):
    """A gateway that knows the hot engine as e0 and the warm one, behind the tap, as e1."""

    front: Front
    hot: RealEngine
    warm: RealEngine
    tap: Tap


@pytest.fixture(scope="module")
def servers() -> Iterator[Site]:
    hot, warm = RealEngine(), RealEngine()
    with ExitStack() as opened:
        for engine in (hot, warm):
            opened.callback(engine.stop)
            engine.launch()
        for engine in (hot, warm):
            engine.wait()
        tap = opened.enter_context(Tap(warm.address))
        front = opened.enter_context(running_front(Front, [hot.url, tap.url]))
        yield Site(front, hot, warm, tap)


@pytest.fixture
async def site(servers: Site) -> AsyncIterator[Site]:
    """The hot engine awake, the warm one asleep."""
    await servers.warm.order("/sleep?level=1")
    yield servers
    await servers.front.settled()


async def begin(site: Site) -> None:
    """A platinum tenant of its own pool; from now on the tap's exchanges count."""
    await serve(site.front, ROLES)
    await until_asleep(site.front, "e1")
    site.tap.exchanges.clear()


async def over(site: Site) -> None:
    """Until the hot engine serves again and the warm one sleeps, by its own word."""
    await until_level(site.front, "hot")

    async def asleep() -> bool:
        return bool((await site.warm.says("/is_sleeping"))["is_sleeping"])

    await until("the warm engine says that it sleeps", asleep)
    await until_asleep(site.front, "e1")


def is_canary(post: Exchange) -> bool:
    return post.line == "POST /v1/completions" and (post.asked["prompt"], post.asked["max_tokens"]) == ("1", 1)


def assert_woken_asked_and_put_to_sleep(posts: list[Exchange]) -> None:
    """What the warm engine was asked in all: woken, a canary, tenants' requests, and sleep when none is left."""
    assert posts[0].line == "POST /wake_up"
    assert is_canary(posts[1])
    # That it is to sleep is said again where it is slow. The text of a cut stream's tokens may be asked for: of ids.
    asides = ("POST /sleep", "POST /detokenize")
    asked = [post for post in posts[2:] if not post.line.startswith(asides)]
    assert {post.line for post in asked} <= {"POST /v1/chat/completions", "POST /v1/completions"}
    salts = {post.asked["cache_salt"] for post in asked}
    assert len(salts) == 1, "one tenant's requests, and nothing else"
    assert posts[1].asked["cache_salt"] not in salts
    assert posts[-1].line.startswith("POST /sleep?level=1")


async def test_sleep_and_pause_are_answered_as_the_sample_says_that_the_simulated_engine_follows(
    servers: Site,
) -> None:
    async with httpx2.AsyncClient(base_url=servers.warm.url, timeout=60.0, trust_env=False) as client:
        assert await transcript(client, patience=3.0) == sample("sleep").splitlines()


async def test_a_sleeping_engine_is_known_by_its_figures_and_gets_no_request(site: Site) -> None:
    await begin(site)
    async with site.front.client() as client:
        answers = [await client.post(CHAT, json=chat()) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-promptlane-endpoint"] for answer in answers} == {"e0"}
    found = await site.front.endpoint("e1")
    assert (found["status"], found["health"], found["healthy"]) == ("sleeping", "healthy", False)
    assert await site.warm.says("/health") is None  # answered with 200
    assert site.tap.posts() == []


async def test_a_killed_engine_is_made_up_for_by_the_sleeping_one_until_it_is_back_and_nothing_is_lost(
    site: Site,
) -> None:
    """Streams go on and whole answers come as if nothing had happened."""
    front = site.front
    requests = await asks(site.hot.url, "acme", MODEL, "standby")
    await begin(site)
    before = await _counts(front)
    client = AskClient(front.url, key)
    async with trickle(front, LONG_PAUSE_SECONDS) as sent:
        await sent.answered(1)
        decoding = Decoding(requests)
        under_way = [asyncio.create_task(client.send(one, heard=decoding.heard)) for one in requests]
        await decoding.all_are()
        site.hot.signal(signal.SIGKILL)
        seen = await asyncio.gather(*under_way)
        event = await recovered(front)
        await sent.answered(3)
        await asyncio.to_thread(site.hot.launch)
        await asyncio.to_thread(site.hot.wait)
        await over(site)
        await sent.answered(3)
    print(f"\nkilled, warm standby asleep: RTO {event['rto_seconds']:.3f} s")
    verdicts = [judge(one) for one in seen]
    assert [one.why for one in verdicts if one.ending is not Ending.COMPLETE] == []
    assert set(sent.statuses) == {200}
    assert (event["from"], event["to"], event["cause"], event["missed"]) == ("hot", "warm", "nobody", [])
    assert event["rto_seconds"] <= event["target_seconds"] == 5.0
    assert moves((await front.state())["standby"]["events"]) == ["hot-warm", "warm-hot"]
    assert_woken_asked_and_put_to_sleep(site.tap.posts())
    counts = {what: value - before.get(what, 0) for what, value in (await _counts(front)).items()}
    assert (counts["recoveries"], counts["missed"], counts["to warm"]) == (1, 0, 1)
    assert counts["resumed"] + counts["retried"] >= len(requests)
    assert counts["resumed"] > 0
    log = front.gateway.log.read_text()
    assert f"pool {front.pool} is served by warm endpoints instead of hot (nobody)" in log
    assert f"tenant acme (platinum) is answered again by pool {front.pool} after" in log


async def _counts(front: Front) -> dict[str, float]:
    return {
        "recoveries": await front.metric("promptlane_recovery_seconds_count", tenant="acme", tier="platinum"),
        "missed": await front.metric("promptlane_recovery_missed_total"),
        "to warm": await front.metric("promptlane_failovers_total", pool=front.pool, to="warm"),
        "resumed": await front.metric("promptlane_resumes_total", result="ok"),
        "retried": await front.metric("promptlane_retries_total"),
    }


async def test_a_paused_engine_is_found_out_though_its_health_is_good(site: Site) -> None:
    await begin(site)
    async with trickle(site.front, PAUSE_SECONDS) as sent:
        await sent.answered(30)  # how long a first token takes is known
        await site.hot.order("/pause?mode=keep")
        try:

            async def known() -> bool:
                return bool((await site.front.endpoint("e0"))["status"] == "paused")

            await until("e0 is known to be paused", known)
            assert await site.hot.says("/health") is None
            event = await recovered(site.front)
            await sent.answered(3)
        finally:
            await site.hot.order("/resume")
        await over(site)
        await sent.answered(3)
    print(f"\npaused, warm standby asleep: RTO {event['rto_seconds']:.3f} s")
    assert set(sent.statuses) == {200}
    assert event["rto_seconds"] <= event["target_seconds"] == 5.0
    assert_woken_asked_and_put_to_sleep(site.tap.posts())


async def test_a_drill_reports_the_recovery_time_and_loses_nothing(site: Site) -> None:
    await begin(site)
    result, statuses = await drill_under_load(site.front, "--fault", "kill", "--seconds", "4")
    await over(site)
    print(f"\ndrill, warm standby asleep: RTO {result['rto_seconds']:.3f} s, {result['probes']} probes")
    assert (result["endpoints"], result["left"]) == (["e0"], ["e1"])
    assert result["rto_seconds"] <= result["target_seconds"] == 5
    assert (result["probes_lost"], result["clients_lost"], set(result["answered_by"])) == (0, 0, {"e1"})
    assert result["clients_requests"] > 0
    assert set(statuses) == {200}
    assert_woken_asked_and_put_to_sleep(site.tap.posts())


async def test_two_tenants_share_a_sleeping_engine_which_is_woken_for_one_at_a_time(site: Site) -> None:
    """Each has a wire of its own to the hot engine. Whoever comes second waits, and has the engine after the first."""
    front = site.front
    async with _two_tenants(site) as (acme_wire, globex_wire):
        async with front.client("acme") as acme, front.client("globex") as globex:
            acme_wire.cut()
            first = await acme.post(CHAT, json=chat())
            globex_wire.cut()
            refused = await globex.post(CHAT, json=chat())
            await until_rising(front, "globex")
            salts = {post.asked["cache_salt"] for post in site.tap.posts() if post.line == f"POST {CHAT}"}
            await acme_wire.mend()
            await until_level(front, "warm")  # globex: it has waited for its turn
            second = await globex.post(CHAT, json=chat())
            back = await acme.post(CHAT, json=chat())
            await globex_wire.mend()
            await until_level(front, "hot")
        assert (first.status_code, first.headers["x-promptlane-endpoint"]) == (200, "acme-e1")
        assert refused.status_code in (502, 503)
        assert len(salts) == 1, "while acme had it nothing of globex came there"
        assert (second.status_code, second.headers["x-promptlane-endpoint"]) == (200, "globex-e1")
        assert (back.status_code, back.headers["x-promptlane-endpoint"]) == (200, "acme-e0")

        async def asleep() -> bool:
            return [post.line for post in site.tap.posts()][-1].startswith("POST /sleep")

        await until("the engine was sent to sleep for the last time", asleep)
        posts = site.tap.posts()
        turns = [number for number, post in enumerate(posts) if post.line == "POST /wake_up"]
        assert len(turns) == 2
        acmes, globexes = posts[: turns[1]], posts[turns[1] :]
        assert_woken_asked_and_put_to_sleep(acmes)
        assert_woken_asked_and_put_to_sleep(globexes)
        assert acmes[2].asked["cache_salt"] != globexes[2].asked["cache_salt"]


@asynccontextmanager
async def _two_tenants(site: Site) -> AsyncIterator[tuple[Wire, Wire]]:
    """acme and globex, each with a pool of its name: a wire to the hot engine, and the warm one for both."""
    front, tenants = site.front, ("acme", "globex")
    wires = {tenant: Wire(site.hot.address) for tenant in tenants}
    config = front.configuration((), tenants={tenant: {} for tenant in tenants}, tiers={"silver": {"hold_seconds": 1}})
    config["pools"] = {tenant: _pool(front, tenant, wires[tenant].url) for tenant in tenants}
    for tenant in tenants:
        config["tenants"][tenant]["models"][MODEL]["pool"] = tenant
    try:
        for wire in wires.values():
            await wire.start()
        front.pool = "acme"
        await front.reload(config)
        await until("acme's hot endpoint is well", lambda: _is_well(front, "acme"))
        await until("globex's hot endpoint is well", lambda: _is_well(front, "globex"))
        site.tap.exchanges.clear()
        yield wires["acme"], wires["globex"]
        await front.settled()
    finally:
        await serve(front, ROLES)  # nothing leads to the wires any more
        for wire in wires.values():
            await wire.stop()


def _pool(front: Front, tenant: str, hot: str) -> dict[str, Any]:
    made = pool(front, ROLES, f"{tenant}-")
    made["endpoints"][0]["url"] = hot
    return made


async def _is_well(front: Front, tenant: str) -> bool:
    front.pool = tenant
    hot, warm = (await front.state())["endpoints"]
    return bool(hot["healthy"] and warm["sleeping"])
