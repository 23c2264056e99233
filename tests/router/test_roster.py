"""Endpoints that are found at run time, in a gateway before real engines: who serves, who does not, what is kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from policies.types import Role
from router.assembly import build
from router.discovery_metrics import DiscoveryCollector, describe_discovery
from router.live_state import describe
from tests.kubernetes_api import FakeKubernetes
from tests.router.discovery.conftest import until
from tests.router.stack import Stack, chat, running, sha256

ENGINES = ["one", "two"]


@pytest.fixture
def api() -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as server:
        yield server


def configuration(
    api: FakeKubernetes, *, pool: dict[str, Any] | None = None, selector: str = "app=vllm"
) -> dict[str, Any]:
    """acme finds its engines in the namespace acme, globex in globex."""
    health = {"interval": 0.1, "scrape_interval": 0.1}
    return {
        "server": {"port": 0, "admin_port": 0},
        "kubernetes": {"api_url": api.url},
        "tenants": {
            name: {
                "api_keys": [{"id": "main", "sha256": sha256(f"{name}-key")}],
                "models": {"tiny": {"pool": name}},
            }
            for name in ("acme", "globex")
        },
        "pools": {
            name: {
                "health": health,
                "discovery": {"kubernetes": {"namespace": name, "selector": selector, "port": "http"}},
                **(pool or {}),
            }
            for name in ("acme", "globex")
        },
    }


@contextlib.contextmanager
def found(api: FakeKubernetes, **options: Any) -> Iterator[Stack]:
    with running(configuration(api, **options), ENGINES, wait=False) as stack:
        stack.process.metrics.registry.register(DiscoveryCollector(lambda: stack.app.runtime))
        yield stack


def serving(stack: Stack, pool: str = "acme") -> dict[str, str]:
    one = stack.app.runtime.pools[pool]
    return {place.state.endpoint.name: place.state.status(one.clock()) for place in one.places}


def wait(stack: Stack, what: str, condition: Any) -> None:
    stack.run(until(what, condition))


def healthy(stack: Stack, *names: str, pool: str = "acme") -> None:
    def well() -> bool:
        states = serving(stack, pool)
        return states.keys() == set(names) and all(one in ("healthy", "starting") for one in states.values())

    wait(stack, f"{names} are healthy", well)


def reload(stack: Stack, config: dict[str, Any]) -> None:
    async def work() -> None:
        before = stack.app.runtime
        stack.app.runtime = build(stack.configure(config), stack.process, before)
        stack.app.runtime.start()
        await before.stop(stack.app.runtime)

    stack.run(work())


def asked(stack: Stack, key: str = "acme-key") -> tuple[int, str]:
    status, headers, _ = stack.post("/v1/chat/completions", chat(), key=key)
    return status, headers.get("x-promptlane-endpoint", "")


def test_engines_come_are_not_ready_and_go_and_requests_follow_them(api: FakeKubernetes) -> None:
    with found(api) as stack:
        wait(stack, "it was told", lambda: stack.app.runtime.pools["acme"].known)
        status, _, body = stack.post("/v1/chat/completions", chat(), key="acme-key")
        assert (status, body["error"]["code"]) == (503, "no_endpoint")
        api.pod("one", port=stack.engines["one"].port)
        healthy(stack, "acme.one")
        assert asked(stack) == (200, "acme.one")
        api.pod("two", port=stack.engines["two"].port)
        healthy(stack, "acme.one", "acme.two")
        api.pod("one", port=stack.engines["one"].port, ready=False)
        wait(stack, "one is out", lambda: serving(stack)["acme.one"] == "unready")
        assert {asked(stack) for _ in range(5)} == {(200, "acme.two")}
        api.pod("one", port=stack.engines["one"].port)
        healthy(stack, "acme.one", "acme.two")
        api.remove_pod("two")
        healthy(stack, "acme.one")
        assert {asked(stack) for _ in range(5)} == {(200, "acme.one")}


def test_a_stream_goes_on_where_an_engine_ends_and_new_requests_go_elsewhere(api: FakeKubernetes) -> None:
    with found(api) as stack:
        engine = stack.engines["one"]
        api.pod("one", port=engine.port)
        healthy(stack, "acme.one")
        release = asyncio.Event()

        async def held(_: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(b"d\r\ndata: first\n\n\r\n")
            await writer.drain()
            engine.began.set()
            await release.wait()
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

        engine.reply = held
        data = json.dumps(chat(stream=True)).encode()
        head = f"authorization: Bearer acme-key\r\ncontent-length: {len(data)}\r\n\r\n".encode()
        with stack.connect() as sock:
            sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nconnection: close\r\n" + head + data)
            wait(stack, "it began", engine.began.is_set)
            api.pod("two", port=stack.engines["two"].port)
            healthy(stack, "acme.one", "acme.two")
            api.pod("one", port=engine.port, ending=True)
            wait(stack, "it drains", lambda: serving(stack)["acme.one"] == "draining")
            assert {asked(stack) for _ in range(3)} == {(200, "acme.two")}
            api.remove_pod("one")
            healthy(stack, "acme.two")
            stack.loop.call_soon_threadsafe(release.set)
            got = b""
            while piece := sock.recv(65536):
                got += piece
        assert got.endswith(b"0\r\n\r\n")
        assert b"[DONE]" in got


def test_an_address_that_two_tenants_find_serves_neither_until_one_lets_go(
    api: FakeKubernetes, caplog: pytest.LogCaptureFixture
) -> None:
    with found(api) as stack:
        port = stack.engines["one"].port
        made = {"creationTimestamp": "2026-01-01T00:00:00Z"}
        for namespace in ("acme", "globex"):
            api.apply("/api/v1", "pods", namespace, {"metadata": {"name": "one", **made}})
        api.pod("one", port=port)
        healthy(stack, "acme.one")
        api.pod("one", namespace="globex", port=port)
        wait(stack, "it is in doubt", lambda: serving(stack) == {} and serving(stack, "globex") == {})
        assert [asked(stack, f"{name}-key")[0] for name in ("acme", "globex")] == [503, 503]
        told = describe_discovery(stack.app.runtime, "globex")
        assert told is not None
        assert (told["endpoints"]["refused"], told["refused"][0]["name"]) == (1, "globex.one")
        assert "serves nobody" in caplog.text
        api.remove_pod("one")
        healthy(stack, "globex.one", pool="globex")
        assert asked(stack, "globex-key") == (200, "globex.one")
        assert asked(stack)[0] == 503


def test_another_engine_at_an_old_address_is_not_believed_to_know_what_that_knew(api: FakeKubernetes) -> None:
    with found(api) as stack:
        port = stack.engines["one"].port
        api.pod("one", port=port)
        healthy(stack, "acme.one")
        before = stack.app.runtime.pools["acme"].places[0]
        api.remove_pod("one")
        api.pod("one", port=port)
        wait(
            stack,
            "it is another",
            lambda: [one is not before for one in stack.app.runtime.pools["acme"].places] == [True],
        )
        healthy(stack, "acme.one")
        assert asked(stack) == (200, "acme.one")


def test_a_reload_takes_over_what_was_found_and_what_was_learned_of_it(api: FakeKubernetes) -> None:
    with found(api) as stack:
        api.pod("one", port=stack.engines["one"].port)
        healthy(stack, "acme.one")
        assert asked(stack) == (200, "acme.one")
        before = stack.app.runtime
        place, source = before.pools["acme"].places[0], before.sources["acme"]
        reload(stack, configuration(api, pool={"profile": "round-robin"}))
        after = stack.app.runtime
        assert after.pools["acme"] is not before.pools["acme"]
        assert after.pools["acme"].places[0].state is place.state
        assert after.sources["acme"] is source
        assert asked(stack) == (200, "acme.one")
        api.pod("two", port=stack.engines["two"].port)
        healthy(stack, "acme.one", "acme.two")
        api.pod("one", port=stack.engines["one"].port, labels={"promptlane/role": "warm"})
        wait(stack, "one is warm", lambda: place.state.endpoint.role is Role.WARM)
        assert {asked(stack) for _ in range(3)} == {(200, "acme.two")}


def test_what_another_source_told_is_not_used_after_a_reload(api: FakeKubernetes) -> None:
    with found(api) as stack:
        api.pod("one", port=stack.engines["one"].port)
        healthy(stack, "acme.one")
        api.kill()
        reload(stack, configuration(api, selector="app=other"))
        assert serving(stack) == {}
        assert asked(stack)[0] == 503


def test_operators_see_where_endpoints_come_from_and_that_nobody_tells_any_more(api: FakeKubernetes) -> None:
    with found(api) as stack:
        api.pod("one", port=stack.engines["one"].port)
        healthy(stack, "acme.one")

        async def shown() -> dict[str, Any]:
            return describe(stack.app.runtime)["pools"]["acme"]

        state = stack.run(shown())
        assert state["endpoints"][0]["source"] == "found"
        assert state["discovery"]["source"] == "pods app=vllm in namespace acme"
        assert state["discovery"]["problem"] is None
        api.kill()
        wait(stack, "it noticed", lambda: stack.app.runtime.sources["acme"].problem is not None)
        assert "cannot be reached" in stack.run(shown())["discovery"]["problem"]
        assert asked(stack) == (200, "acme.one")
        text = stack.process.metrics.render().decode()
        assert 'promptlane_discovery_endpoints{pool="acme",status="serving"} 1.0' in text
        assert 'promptlane_discovery_told{pool="acme"} 0.0' in text
        assert 'promptlane_discovery_failures_total{cause="unreachable",pool="acme"}' in text
        assert 'promptlane_discovery_age_seconds{pool="acme"}' in text


def test_what_was_counted_of_engines_that_are_gone_is_forgotten(api: FakeKubernetes) -> None:
    with found(api) as stack:
        metrics = stack.process.metrics
        for name in ENGINES:
            api.pod(name, port=stack.engines[name].port)
        healthy(stack, "acme.one", "acme.two")
        for name in ("acme.one", "acme.two"):
            metrics.add("promptlane_canaries", "acme", name, "good")
        api.remove_pod("one")
        healthy(stack, "acme.two")
        assert [metrics.total("promptlane_canaries", "acme", f"acme.{name}") for name in ENGINES] == [0, 1]
        metrics.add("promptlane_canaries", "acme", "acme.one", "bad")  # what was under way there has just ended
        api.pod("one", port=stack.engines["one"].port)
        api.remove_pod("two")
        healthy(stack, "acme.one")
        assert [metrics.total("promptlane_canaries", "acme", f"acme.{name}") for name in ENGINES] == [1, 0]
