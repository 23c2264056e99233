"""One running product for the whole suite, and the clients that people use on it.

Floor: tests only. The same fixtures serve both kinds of engine; a test asks `stack.kind` only where they differ.
"""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import httpx2
import openai
import pytest

from tests.e2e.stack import ACME_KEY, GLOBEX_KEY, INITECH_KEY, Stack, running_stack


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
