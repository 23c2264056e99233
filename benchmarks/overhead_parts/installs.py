"""Gets the gateways' programs: ours compiled, a venv each for the routers, nginx from PATH or the system's packages.

Versions are pinned so that a result can be repeated.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.overhead_parts.processes import ROOT, Failed, run_to_end
from deploy.compiled.build import CannotCompile, build, is_current

COMPILED = ROOT / ".work" / "compiled"
"""Where `make compiled` puts it."""
_VENVS = ROOT / ".work" / "bench"
_INSTALL_SECONDS = 600.0
_NGINX_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))  # not on every user's PATH


def venv_python(package: str, version: str, extra: str = "") -> Path:
    """The interpreter of a venv that holds this version of the package; made when it is not there yet.

    Raises Failed when the package cannot be installed.
    """
    venv = _VENVS / package
    python = venv / "bin" / "python"
    if any(venv.glob(f"lib/python*/site-packages/{package.replace('-', '_')}-{version}.dist-info")) and python.exists():
        return python
    print(f"installing {package} {version} …", file=sys.stderr, flush=True)
    venv.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="promptlane-install-") as folder:
        log = Path(folder) / "log"
        run_to_end([sys.executable, "-m", "venv", venv], log, _INSTALL_SECONDS)
        pip: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            f"{package}{f'[{extra}]' if extra else ''}=={version}",
        ]
        run_to_end(pip, log, _INSTALL_SECONDS)
    return python


def compiled() -> Path:
    """The folder of our compiled packages, built when it is not there or not of these sources.

    Raises Failed when it cannot be built.
    """
    try:
        if not is_current(COMPILED):
            print("compiling promptlane …", file=sys.stderr, flush=True)
            build(COMPILED)
    except CannotCompile as reason:
        raise Failed(str(reason)) from None
    return COMPILED


def nginx() -> str:
    """The nginx program. As root it is installed when missing. Raises Failed."""
    if found := shutil.which("nginx", path=_NGINX_PATH):
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Failed("nginx is not on PATH (and only root can install nginx-light with apt-get)")
    print("installing nginx-light …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="promptlane-install-") as folder:
        log = Path(folder) / "log"
        run_to_end(["apt-get", "update", "-q"], log, _INSTALL_SECONDS)
        run_to_end(["apt-get", "install", "-y", "-q", "--no-install-recommends", "nginx-light"], log, _INSTALL_SECONDS)
    if found := shutil.which("nginx", path=_NGINX_PATH):
        return found
    raise Failed("apt-get installed nginx-light, but there is no nginx program")
