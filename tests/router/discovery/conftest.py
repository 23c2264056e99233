"""An API server for each test, and sources that ask it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from policies.types import Role
from router.discovery import source
from router.discovery.kubernetes import KubernetesSource, Watched
from router.kubernetes_api import ApiSettings, KubernetesApi
from router.wire.kubernetes import PodRules
from tests.kubernetes_api import FakeKubernetes

SECONDS = 90.0


@pytest.fixture
def api() -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as server:
        yield server


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LONGEST_PAUSE", 0.2)


async def until(what: str, condition: Callable[[], bool]) -> None:
    try:
        async with asyncio.timeout(SECONDS):
            while not condition():  # noqa: ASYNC110  # what happens behind a socket tells nobody
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {SECONDS:g} s: {what}") from None


@asynccontextmanager
async def looking(
    api: FakeKubernetes, *, watch: float = 60.0, port: str = "http", selector: str = "app=vllm", **settings: Any
) -> AsyncIterator[KubernetesSource]:
    """A source of the pool p, which looks at the namespace acme."""
    found = KubernetesSource(
        "p",
        Watched("acme", selector, watch),
        PodRules("p", port, "http", Role.HOT, 1.0, "promptlane/role", "promptlane/weight"),
        KubernetesApi(ApiSettings(**{"url": api.url, "seconds": 5.0} | settings), environment={}),
        time.monotonic,
        Random(1),
    )
    found.start()
    try:
        yield found
    finally:
        await found.stop()


def names(found: KubernetesSource) -> dict[str, str]:
    """What there is, and why it gets nothing."""
    return {one.name: one.withdrawn for one in found.found or ()}
