"""Which Python runs the gateway: one that is built as the container image's is.

The image's Python is compiled by counts (`--enable-optimizations`), and so is that of a distribution (Debian's
`debian/rules` trains it). What pyenv makes, or `./configure && make`, is not, and takes a sixth more for the same work.
The routers beside us are measured as they are released.
"""

import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.overhead_parts.processes import OWN_MODULES

_ASK_SECONDS: Final = 30.0
# A library that was compiled for one interpreter fits another of the same suffix; what it needs of the system, too.
_ASK: Final = "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX')); import router.cli"
_SYSTEM: Final = Path("/usr")


@dataclass(frozen=True)
class Interpreter:
    """A program, and where it finds this environment's packages if it is not this environment's. `counted`: it was
    compiled by counts."""

    program: Path
    packages: tuple[str, ...] = ()
    counted: bool = False

    def environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """`own`, with the packages behind the modules that it names."""
        return {**own, "PYTHONPATH": ":".join((own["PYTHONPATH"], *self.packages))}


@cache
def interpreter() -> Interpreter:
    """The one that runs now if it was compiled by counts, else the system's of the same version if that can run the
    gateway, else the one that runs now."""
    here = Interpreter(Path(sys.executable), counted=_counted())
    return here if here.counted else system(_SYSTEM / "bin" / f"python3.{sys.version_info.minor}") or here


def system(program: Path) -> Interpreter | None:
    """Another interpreter, with this one's packages; None where it is not there or they do not fit it."""
    packages = dict.fromkeys((sysconfig.get_path("platlib"), sysconfig.get_path("purelib")))
    other = Interpreter(program, tuple(packages), counted=True)
    command = [str(program), "-c", _ASK]
    try:
        environment = other.environment(OWN_MODULES)
        asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_ASK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    suffix = asked.stdout.strip()
    return other if asked.returncode == 0 and suffix == sysconfig.get_config_var("EXT_SUFFIX") else None


def _counted() -> bool:
    own = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    return own or Path(sys.base_prefix) == _SYSTEM
