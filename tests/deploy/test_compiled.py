"""What is compiled can be: mypyc takes the same files, but not all that they may say means the same there."""

from __future__ import annotations

import ast
import asyncio
import http.server
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.compiled.build import CannotCompile, compile_here, find_compiler, is_current, is_gcc, running_from, train
from deploy.compiled.modules import INTERPRETED, PACKAGES, compiled_files
from deploy.compiled.training import NotTrained, serve_all
from tests.deploy.tools import ROOT

FILES = list(compiled_files(ROOT))
TREES = {file: ast.parse((ROOT / file).read_text()) for file in FILES}
LOOKED_INTO = {"Struct", "BaseModel", "BaseSettings"}
"""Bases whose libraries read a class's annotations."""


def test_all_that_is_named_is_there_once_and_the_hot_path_is_in_it() -> None:
    assert len(set(FILES)) == len(FILES)
    assert all((ROOT / file).is_file() for file in (*FILES, *INTERPRETED))
    assert {"policies/dispatch.py", "router/gateway.py", "router/relay.py", "router/wire/sse.py"} <= set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_no_library_looks_into_a_compiled_class(file: str) -> None:
    """mypyc drops class keywords, and gives a field that is `str | None` the annotation `type`."""
    for node in (one for one in ast.walk(TREES[file]) if isinstance(one, ast.ClassDef)):
        bases = {getattr(base, "id", getattr(base, "attr", "")) for base in node.bases}
        assert not bases & LOOKED_INTO, f"{node.name}: to router/wire/shapes.py, or leave the file interpreted"
        assert not node.keywords, node.name


@pytest.mark.parametrize("file", FILES)
def test_no_compiled_exception_has_attributes_of_its_class(file: str) -> None:
    """One that interpreted code raises would lack them: mypyc sets them in a constructor of its own."""
    for node in (one for one in ast.walk(TREES[file]) if isinstance(one, ast.ClassDef)):
        if any(getattr(base, "id", "").endswith(("Exception", "Error")) for base in node.bases):
            assert not [one for one in node.body if isinstance(one, ast.Assign | ast.AnnAssign)], node.name


@pytest.mark.parametrize("file", FILES)
def test_no_named_tuple_has_a_field_of_a_class_that_comes_later(file: str) -> None:
    """It crashes at import: the annotation is the class itself there, which is not yet."""
    classes = [one for one in TREES[file].body if isinstance(one, ast.ClassDef)]
    for place, node in enumerate(classes):
        if "NamedTuple" in {getattr(base, "id", "") for base in node.bases}:
            later = {one.name for one in classes[place + 1 :]}
            fields = [one.annotation for one in node.body if isinstance(one, ast.AnnAssign)]
            named = {one.id for field in fields for one in ast.walk(field) if isinstance(one, ast.Name)}
            assert not named & later, node.name


@pytest.mark.parametrize("file", FILES)
def test_no_finally_reads_what_its_try_has_set(file: str) -> None:
    """mypy looks at a `finally` last as after a good end: what is not None then, mypyc takes for never None there."""
    for node in (one for one in ast.walk(TREES[file]) if isinstance(one, ast.Try) and one.finalbody):
        if not falls_through(node):
            continue
        done = set(written(node.body)) & set(read(node.finalbody))
        assert not done, f"{file}:{node.finalbody[0].lineno} reads {done}"


def falls_through(node: ast.Try) -> bool:
    ends = [node.body[-1], *(handler.body[-1] for handler in node.handlers), *node.orelse[-1:]]
    return any(not isinstance(end, ast.Return | ast.Raise) for end in ends)


def written(body: list[ast.stmt]) -> Iterator[str]:
    for one in (inner for statement in body for inner in ast.walk(statement)):
        if isinstance(one, ast.Name | ast.Attribute) and isinstance(one.ctx, ast.Store):
            yield ast.unparse(one)


def read(body: list[ast.stmt]) -> Iterator[str]:
    for one in (inner for statement in body for inner in ast.walk(statement)):
        if isinstance(one, ast.Name | ast.Attribute) and isinstance(one.ctx, ast.Load):
            yield ast.unparse(one)


def test_the_rule_for_finally_would_find_something() -> None:
    (node,) = ast.parse("try:\n    outcome = ask()\nfinally:\n    settle(outcome)").body
    assert isinstance(node, ast.Try)
    assert falls_through(node)
    assert set(written(node.body)) & set(read(node.finalbody)) == {"outcome"}


def has_compiler() -> bool:
    try:
        find_compiler()
    except CannotCompile:
        return False
    return True


@pytest.mark.skipif(not has_compiler(), reason="this machine has no C compiler")
def test_a_module_is_compiled_beside_its_source(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "__init__.py").touch()
    (tmp_path / "small" / "unix.py").write_text("class One:\n    def __init__(self) -> None:\n        self.unix = 3\n")
    (tmp_path / "small" / "other.py").write_text("from small.unix import One\n")
    code = f"from pathlib import Path; import sys; sys.path.insert(0, {str(ROOT)!r});"
    code += "from deploy.compiled.build import compile_here;"
    code += "compile_here(['small/unix.py', 'small/other.py'], Path(sys.executable), 1)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    shown = [sys.executable, "-c", "import small.unix as it; print(it.__file__, it.One().unix)"]
    environment = {**os.environ, **running_from(tmp_path)}
    text = subprocess.run(shown, env=environment, capture_output=True, text=True, timeout=180, check=True).stdout
    assert text.split()[0].endswith(".so")
    assert text.split()[1] == "3"


@pytest.mark.skipif(not has_compiler(), reason="this machine has no C compiler")
def test_what_cannot_be_compiled_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.py").write_text('number: int = "three"\n')
    with pytest.raises(CannotCompile, match="the reason is above"):
        compile_here(["wrong.py"], Path(sys.executable), 1)


def test_without_a_compiler_the_build_says_what_to_install_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    build = [sys.executable, "-m", "deploy.compiled.build", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "CC": "no-such-compiler", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(build, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1
    assert done.stderr == "there is no C compiler (no-such-compiler); on Debian: apt-get install gcc libc6-dev\n"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_build_of_other_sources_is_not_current(tmp_path: Path) -> None:
    assert not is_current(tmp_path)
    (tmp_path / "made-of").write_text("something else")
    assert not is_current(tmp_path)
    assert PACKAGES == ("policies", "router")


@pytest.mark.skipif(not has_compiler() or not is_gcc(), reason="this machine has no GCC")
def test_what_is_compiled_learns_from_its_use_and_counts_no_more_then(tmp_path: Path) -> None:
    source = "def total(most: int) -> int:\n    return sum([n for n in range(most) if n % 3])\n"
    (tmp_path / "loop.py").write_text(source)
    code = f"""
import subprocess, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from deploy.compiled.build import compile_here

def use():
    subprocess.run([sys.executable, "-c", "import loop; loop.total(1000)"], check=True)
    print(len(list(Path().rglob("*.gcda"))), b"__gcov" in Path(library()).read_bytes())

def library():
    return next(str(one) for one in Path().glob("*.so"))

compile_here(["loop.py"], Path(sys.executable), 1, use)
print(b"__gcov" in Path(library()).read_bytes())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    counts, counting, counting_still = done.stdout.split()[-3:]
    assert int(counts) > 0
    assert (counting, counting_still) == ("True", "False")
    shown = subprocess.run(
        [sys.executable, "-c", "import loop; print(loop.__file__, loop.total(10))"],
        cwd=tmp_path, capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    assert shown.stdout.split()[0].endswith(".so")
    assert shown.stdout.split()[1] == "27"


def test_what_does_not_serve_cannot_be_learned_from_and_says_why(tmp_path: Path) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    with pytest.raises(CannotCompile, match=r"(?s)did not begin to serve.*No module named router\.cli"):
        train(tmp_path, Path(sys.executable))


def test_an_answer_that_should_not_be_ends_the_training_and_is_named() -> None:
    class Lost(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_error(404)

        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Lost) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(NotTrained, match=r"/v1/chat/completions of .* was answered by 404"):
            asyncio.run(serve_all(url, url, random.Random(1)))
        server.shutdown()
