"""The programs that look at what deploys: wheels of the dev group on Linux, else what PATH has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"


def tool(name: str) -> str:
    """Where it is. Without it a person's run is skipped, and CI's fails: a check that never runs proves nothing."""
    found = shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"CI has no {name}")
        pytest.skip(f"no {name} for this platform")
    return found


def run(*command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Its output; not its failure, which is the caller's to judge."""
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, **more)


def kustomize(folder: Path) -> list[dict[str, Any]]:
    """The objects that `kubectl kustomize` alone makes of a folder."""
    done = run(tool("kubectl"), "kustomize", folder)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]
