"""The official OpenAI SDK for Node, installed from its lock file and driven at the running gateway.

Floor: tests only.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.stack import ACME_KEY, ALIAS, GLOBEX_ONLY_MODEL, Stack
from tests.node import commands, installed


@pytest.fixture(scope="session")
def node_project() -> Path:
    return installed("sdk")


@pytest.mark.parametrize("case", ["chat", "stream", "tool call body", "embedding", "error"])
def test_the_node_sdk_passes(stack: Stack, node_project: Path, case: str) -> None:
    env = {
        **os.environ,
        "GATEWAY_URL": f"{stack.url}/v1",
        "GATEWAY_KEY": ACME_KEY,
        "GATEWAY_MODEL": ALIAS,
        "OTHER_TENANTS_MODEL": GLOBEX_ONLY_MODEL,
        "ENGINE_KIND": stack.kind,
    }
    argv = [*commands()[0], "--test", "--test-reporter=tap", f"--test-name-pattern=^{case}$", "openai.test.mjs"]
    done = subprocess.run(argv, cwd=node_project, env=env, capture_output=True, text=True, timeout=60.0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n# pass 1\n" in done.stdout, f"the case did not run:\n{done.stdout}"
