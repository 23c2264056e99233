"""A cold standby is scaled up and down through the API, with one right, and errors say what the API said."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from router import scaling
from router.hooks import Hook, HookFailed
from router.kubernetes_api import ApiSettings
from router.scaling import Scale
from tests.kubernetes_api import FakeKubernetes

APPS = "/apis/apps/v1"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    monkeypatch.setattr(scaling, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(scaling, "FIRST_PAUSE", 0.01)
    with FakeKubernetes() as server:
        for plural in ("deployments", "statefulsets"):
            server.apply(APPS, plural, "acme", {"metadata": {"name": "cold"}, "spec": {"replicas": 0, "paused": False}})
        server.rights = {("patch", "deployments/scale", "acme"), ("patch", "statefulsets/scale", "acme")}
        yield server


def hook(api: FakeKubernetes, *, seconds: float = 20.0, **fields: Any) -> Hook:
    chosen = {"namespace": "acme", "kind": "Deployment", "name": "cold"} | fields
    return Hook(seconds=seconds, scale=Scale(ApiSettings(api.url, seconds=5.0), **chosen))


def spec(api: FakeKubernetes, plural: str = "deployments") -> Any:
    return api.get(APPS, plural, "acme", "cold")["spec"]


@pytest.mark.parametrize(("kind", "plural"), [("Deployment", "deployments"), ("StatefulSet", "statefulsets")])
async def test_it_is_scaled_to_one_and_back_and_nothing_else_of_it_changes(
    api: FakeKubernetes, kind: str, plural: str
) -> None:
    await hook(api, kind=kind).run("start", "p", [])
    assert spec(api, plural) == {"replicas": 1, "paused": False}
    await hook(api, kind=kind).run("stop", "p", [])
    assert spec(api, plural) == {"replicas": 0, "paused": False}
    assert {call.verb for call in api.calls} == {"patch"}


async def test_a_number_that_is_configured_is_set(api: FakeKubernetes) -> None:
    await hook(api, replicas=3).run("start", "p", [])
    assert spec(api)["replicas"] == 3


async def test_what_is_not_there_and_what_is_not_allowed_is_told_at_once(api: FakeKubernetes) -> None:
    with pytest.raises(HookFailed, match=r'Deployment other was not scaled: the API answered 404: deployments "other"'):
        await hook(api, name="other").run("start", "p", [])
    api.rights = set()
    with pytest.raises(HookFailed, match=r'answered 403: cannot patch resource "deployments/scale" in the namespace'):
        await hook(api).run("start", "p", [])
    assert len(api.calls) == 2


async def test_an_api_that_is_away_or_busy_is_asked_again_until_the_time_is_over(api: FakeKubernetes) -> None:
    api.kill()
    with pytest.raises(HookFailed, match=r"longer than 0\.2 seconds"):
        await hook(api, seconds=0.2).run("start", "p", [])
    waiting = asyncio.create_task(hook(api).run("start", "p", []))
    api.refuse = (503, "")
    api.start()
    async with asyncio.timeout(60):
        while not api.calls:  # noqa: ASYNC110  # the server runs in its own thread
            await asyncio.sleep(0.01)
    api.refuse = None
    await waiting
    assert spec(api)["replicas"] == 1
