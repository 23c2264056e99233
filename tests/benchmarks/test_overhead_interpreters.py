"""Which Python the gateway is measured with."""

import sys
import sysconfig
from pathlib import Path

import pytest

from benchmarks.overhead_parts.gateways import PromptlaneInterpreted
from benchmarks.overhead_parts.interpreters import Interpreter, interpreter, system
from benchmarks.overhead_parts.processes import OWN_MODULES
from benchmarks.replicas_parts.processes import ReplicaGateway
from benchmarks.scale_parts.rig import ScaleGateway
from benchmarks.soak_parts.stack import SoakGateway


def script(folder: Path, *lines: str) -> Path:
    program = folder / "python"
    program.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    program.chmod(0o755)
    return program


def test_the_gateway_runs_by_this_python_or_by_the_systems_of_its_version() -> None:
    version = f"python3.{sys.version_info.minor}"
    assert interpreter().program in {Path(sys.executable), Path("/usr/bin") / version}
    assert interpreter().counted or interpreter().program == Path(sys.executable)


def test_another_python_that_can_run_the_gateway_gets_this_ones_packages() -> None:
    other = system(Path(sys.executable))
    assert other is not None
    assert other.environment({"PYTHONPATH": "/own"})["PYTHONPATH"].split(":") == ["/own", *other.packages]
    assert sysconfig.get_path("purelib") in other.packages


@pytest.mark.parametrize(
    "words", ["echo .cpython-27.so", "exit 1", f"echo {sysconfig.get_config_var('EXT_SUFFIX')}; exit 1"]
)
def test_one_whose_libraries_are_others_or_that_cannot_import_the_gateway_is_not_taken(
    tmp_path: Path, words: str
) -> None:
    assert system(script(tmp_path, words)) is None


def test_one_that_is_not_there_is_not_taken(tmp_path: Path) -> None:
    assert system(tmp_path / "python") is None


@pytest.mark.parametrize("gateway", [ScaleGateway(), SoakGateway(1), ReplicaGateway(1, None)])
def test_what_may_need_packages_of_another_version_is_run_by_this_python(gateway: PromptlaneInterpreted) -> None:
    """Redis' client needs one more of a Python before 3.11.3."""
    assert gateway.python == Interpreter(Path(sys.executable))
    assert gateway.environment["PYTHONPATH"] == OWN_MODULES["PYTHONPATH"]


def test_what_runs_now_gets_no_other_packages() -> None:
    assert Interpreter(Path(sys.executable)).environment({"PYTHONPATH": "/own", "A": "b"}) == {
        "PYTHONPATH": "/own",
        "A": "b",
    }
