"""What tests of this folder share."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def promtool() -> str:
    """It comes with Prometheus. Where CI runs it must be there; elsewhere what needs it is left out."""
    path = shutil.which("promtool")
    if path is None and not os.environ.get("CI_NEEDS_PROMTOOL"):
        pytest.skip("promtool is not on PATH (Debian: apt-get install prometheus)")
    assert path is not None, "CI is to have promtool"
    return path
