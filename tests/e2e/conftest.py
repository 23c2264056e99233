"""One running product for the whole suite, and the clients that people use on it.

Floor: tests only. The same fixtures serve both kinds of engine; a test asks `stack.kind` only where they differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest

from tests.e2e.stack import ACME_KEY, GLOBEX_KEY, INITECH_KEY, Stack, running_stack

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of `stack` run on both kinds of engine; others on simulated ones, which fail on command, unless they are
    marked as real_vllm."""
    real = config.getoption("--engine") == "vllm"
    other = [item for item in items if item.path.parent == _HERE and not _is_for(item, real=real)]
    if other:
        config.hook.pytest_deselected(items=other)
        items[:] = [item for item in items if item not in other]


def _is_for(item: pytest.Item, *, real: bool) -> bool:
    marked = item.get_closest_marker("real_vllm") is not None
    return "stack" in getattr(item, "fixturenames", ()) or marked == real


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    with running_stack(request.config.getoption("--engine")) as running:
        yield running


@pytest.fixture
def acme(stack: Stack) -> Iterator[httpx2.Client]:
    with stack.client(ACME_KEY) as client:
        yield client


@pytest.fixture
def globex(stack: Stack) -> Iterator[httpx2.Client]:
    with stack.client(GLOBEX_KEY) as client:
        yield client


@pytest.fixture
def initech(stack: Stack) -> Iterator[httpx2.Client]:
    """The tenant whose engine is behind a wire tap (`stack.tap`)."""
    with stack.client(INITECH_KEY) as client:
        yield client


@pytest.fixture
def nobody(stack: Stack) -> Iterator[httpx2.Client]:
    """A client without a key."""
    with stack.client(None) as client:
        yield client


@pytest.fixture
def openai_client(stack: Stack) -> Iterator[openai.OpenAI]:
    """acme's SDK client; without retries, so that a failure is seen as it is."""
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=ACME_KEY, max_retries=0, http_client=http) as client:
        yield client


@pytest.fixture
def anthropic_client(stack: Stack) -> Iterator[anthropic.Anthropic]:
    http = anthropic.DefaultHttpxClient(trust_env=False)
    with anthropic.Anthropic(base_url=stack.url, api_key=ACME_KEY, max_retries=0, http_client=http) as client:
        yield client
