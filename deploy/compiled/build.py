"""`python -m deploy.compiled.build --out FOLDER`: compiles the hot path into a copy of the packages.

`PYTHONPATH=FOLDER promptlane serve …` runs it then. The checkout gets no compiled file, so what is edited there is what
runs there. With `--in-place` the compiled files go beside packages that are installed already: the container image.
GCC compiles twice: to count how often each branch is taken by the requests of `training.py`, then by these counts.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.compiled.modules import PACKAGES, compiled_files

ROOT = Path(__file__).parent.parent.parent
_MADE_OF = "made-of"
# Names of ours are macros of GNU C; and generated code has warnings that nobody here can mend.
C_FLAGS = ["-O2", "-g0", "-w", "-Uunix", "-U__unix", "-Ulinux", "-U__linux"]
# One library holds all, and nobody looks into it by name: what calls within it need not go through a table.
C_FLAGS += ["-fvisibility=hidden", "-fno-semantic-interposition"]
COUNTING = ["-fprofile-generate"]
COUNTED = ["-fprofile-use", "-fprofile-correction"]  # what threads count side by side may not add up


class CannotCompile(Exception):
    """Something that the build needs is missing, or the compiler refused. The message says what."""


@dataclass(frozen=True)
class Built:
    """How many modules were compiled, into how many bytes."""

    modules: int
    size: int


def build(target: Path, in_place: bool = False, python: Path = Path(sys.executable), jobs: int = 0) -> Built:
    """Compiles into `target`. `python`: whose packages types are read from; `jobs`: compilers side by side, 0: as many
    as there are cores. Raises CannotCompile; then `target` is as it was before."""
    find_compiler()
    made = made_of()  # before it is copied: who edits meanwhile has not got it compiled
    with tempfile.TemporaryDirectory(prefix="promptlane-compiled-") as folder:
        copy = Path(folder) / "packages"
        for package in PACKAGES:
            source = (target if in_place else ROOT) / package
            shutil.copytree(source, copy / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        files = list(compiled_files(copy))
        with chdir(copy):  # mypyc names what it compiles by paths below the current folder
            compile_here(files, python, jobs or len(os.sched_getaffinity(0)), lambda: train(copy, python))
        shutil.rmtree(copy / "build")
        import_all(copy, files, python)
        binaries = list(copy.rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"))
        if in_place:
            for binary in binaries:
                shutil.copy(binary, target / binary.relative_to(copy))
        else:
            (copy / _MADE_OF).write_text(made)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(copy, target)
        return Built(len(files), sum(binary.stat().st_size for binary in binaries))


def is_current(target: Path) -> bool:
    """Whether `target` was made of the checkout's sources as they are, by this builder and this Python."""
    made = target / _MADE_OF
    return made.is_file() and made.read_text() == made_of()


def made_of() -> str:
    """A digest of all that a build depends on."""
    digest = hashlib.sha256(sys.version.encode())
    for folder in (*PACKAGES, "deploy/compiled"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(b"%b\0%b\0" % (str(path.relative_to(ROOT)).encode(), path.read_bytes()))
    return digest.hexdigest()


def running_from(target: Path) -> dict[str, str]:
    """The environment in which Python imports what was built there, also when it is started in the checkout by `-m`."""
    return {"PYTHONPATH": str(target.resolve()), "PYTHONSAFEPATH": "1"}


def import_all(folder: Path, files: Sequence[str], python: Path) -> None:
    """Imports each of the files as a module: what the C compiler accepts may still crash. Raises CannotCompile."""
    names = [file.removesuffix(".py").replace("/", ".") for file in files]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    environment = os.environ | running_from(folder)
    done = subprocess.run([python, "-c", code, *names], env=environment, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it crashes"]
        raise CannotCompile(f"what was compiled cannot be imported ({done.returncode}): {last[0]}")


def train(folder: Path, python: Path) -> None:
    """Lets what is compiled in `folder` count. Raises CannotCompile."""
    command = [str(python), "-m", "deploy.compiled.training", str(folder)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTLANE_")}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)  # noqa: S603
    if done.returncode:
        raise CannotCompile(done.stderr.strip())
    if next(folder.rglob("*.gcda"), None) is None:
        raise CannotCompile("what was compiled to count has written no counts")


def compiler_command() -> list[str]:
    return shlex.split(os.environ.get("CC") or str(sysconfig.get_config_var("CC")))


def is_gcc() -> bool:
    """Others call themselves so, but count in their own way."""
    command = [*compiler_command(), "-dM", "-E", "-x", "c", os.devnull]
    macros = subprocess.run(command, capture_output=True, text=True).stdout  # noqa: S603
    return "__GNUC__" in macros and "__clang__" not in macros


def find_compiler() -> None:
    """Raises CannotCompile when there is no C compiler, no header of Python's, or no mypyc."""
    compiler = compiler_command()[0]
    if shutil.which(compiler) is None:
        raise CannotCompile(f"there is no C compiler ({compiler}); on Debian: apt-get install gcc libc6-dev")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise CannotCompile(f"{header} is missing; on Debian: apt-get install python3-dev")
    try:
        import mypyc.build  # noqa: F401
        import setuptools  # noqa: F401
    except ImportError as error:
        raise CannotCompile(f"{error.name} is not installed: mypy and setuptools compile") from None


def compile_here(files: Sequence[str], python: Path, jobs: int, use: Callable[[], None] | None = None) -> None:
    """Compiles files below the current folder, each beside its source. `use`: what they are compiled for, which is
    tried out where the compiler learns from that. Raises CannotCompile."""
    from mypyc.build import mypycify
    from setuptools import setup
    from setuptools.command.build_ext import build_ext

    class BuildInParallel(build_ext):  # type: ignore[misc]  # setuptools tells no types
        """One library holds all modules, in a C file for each: setuptools would compile those one by one."""

        def build_extensions(self) -> None:
            compile_some = self.compiler.compile

            def compile_each(sources: Sequence[str], *more: Any, **how: Any) -> list[str]:
                with ThreadPoolExecutor(jobs) as pool:
                    built = pool.map(lambda source: compile_some([source], *more, **how), sources)
                    return [name for names in built for name in names]

            self.compiler.compile = compile_each
            super().build_extensions()

    # That types are right `make types` has said, with more packages to look into than an image has. But what mypy takes
    # for unreachable would be left out.
    options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", "--warn-unreachable"]
    options += ["--cache-dir", os.devnull, "--python-executable", str(python)]
    try:
        extensions = mypycify([*options, *files], multi_file=True)

        def compile_all(*flags: str) -> None:
            for extension in extensions:
                extension.extra_compile_args, extension.extra_link_args = [*C_FLAGS, *flags], list(flags)
            arguments = ["--quiet", "build_ext", "--inplace", "--force", f"--parallel={jobs}"]
            setup(name="promptlane-compiled", ext_modules=extensions, packages=[], script_args=arguments,
                  cmdclass={"build_ext": BuildInParallel})  # fmt: skip

        if use is None or not is_gcc():
            compile_all()
        else:
            compile_all(*COUNTING)
            use()
            compile_all(*COUNTED)
    except SystemExit:  # both have said what was wrong
        raise CannotCompile("nothing was compiled: the reason is above") from None


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.compiled.build", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, metavar="FOLDER", help="made anew: the packages, with what is compiled")
    where.add_argument("--in-place", type=Path, metavar="SITE_PACKAGES", help="where the packages are installed")
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable), help="whose packages the types are read from"
    )
    parser.add_argument("--jobs", type=int, default=0, help="compilers side by side (default: as many as cores)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    target: Path = (options.in_place or options.out).resolve()
    if options.out and is_current(target):
        return 0
    began = time.monotonic()
    try:
        built = build(target, options.in_place is not None, options.python.absolute(), options.jobs)
    except CannotCompile as reason:
        print(reason, file=sys.stderr)
        return 1
    took = time.monotonic() - began
    print(f"{built.modules} modules compiled into {target}: {built.size / 1e6:.0f} MB in {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
