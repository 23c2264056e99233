"""From a file and the environment to one `Config`: read, lay over, check, validate, and tell all mistakes together.

Floor: the order of the steps and the order of the mistakes; each step is its own room's. The file is all it opens.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from router.config.checks import cross_check
from router.config.environment import SECRET_PATH, fill_engine_keys, fill_guard_keys, overlay
from router.config.guard_checks import check_guards
from router.config.models import Config
from router.config.problems import ConfigError, Problem
from router.config.words import explain
from router.config.yaml_file import parse, read_file


def load(path: str | Path, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of a file and the environment (this process's by default); raises `ConfigError`."""
    return loads(read(path), environ, name=str(path))


def read(path: str | Path) -> bytes:
    """The file's bytes, for `loads`: for who has to hand them on. Raises `ConfigError`."""
    data = read_file(Path(path))
    if isinstance(data, Problem):
        raise ConfigError([data])
    return data


def loads(data: bytes, environ: Mapping[str, str] | None = None, *, name: str = "configuration") -> Config:
    """`load` for bytes at hand. `name` is what problems of the file as a whole are called by."""
    environ = os.environ if environ is None else environ
    tree = parse(data, name)
    if not tree.readable:
        raise ConfigError(tree.problems)
    server = tree.root.get("server")
    if isinstance(server, dict) and "secret" in server:
        del server["secret"]
        tree.problems.append(tree.problem(SECRET_PATH, "put it in PROMPTLANE_SECRET or server.secret_file"))
    overlay(tree, environ)
    found = [*fill_engine_keys(tree, environ), *fill_guard_keys(tree, environ), *cross_check(tree), *check_guards(tree)]
    config: Config | None = None
    try:
        config = Config.model_validate(tree.root)
    except ValidationError as error:
        found = [*explain(error, Config, tree), *found]
    problems = [*tree.problems, *(problem for problem in found if not _follows(problem, tree.refused))]
    if config is None or problems:
        raise ConfigError(_in_order(problems))
    return config


def _follows(problem: Problem, refused: set[str]) -> bool:
    """Whether it stands at or below a place whose text could not be read."""
    return any(problem.path[: end.start()] in refused for end in re.finditer(r"[.\[]|\Z", problem.path))


def _in_order(problems: list[Problem]) -> list[Problem]:
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line is None, problem.line or 0))
