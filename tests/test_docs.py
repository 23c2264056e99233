"""What users can set, call and measure is documented, and what is documented exists."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from router import errors
from router.cli import build_parser
from router.wire.http import REQUEST_ALLOWED
from router.wire.openai import APIS, CONTROL_FIELDS
from tests.docs import CONFIGURATION, DOCUMENTS, METRICS, README, ROOT, ROUTING, written

TEXT = README.read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_tables_of_a_document_are_those_of_the_code(document: Path) -> None:
    text = document.read_text()
    assert written(text) == text, "run: make docs"


@pytest.mark.parametrize(
    ("document", "row", "least"),
    [(CONFIGURATION, "server.", 15), (METRICS, "promptlane_", 15), (ROUTING, "prompt-aware", 1)],
)
def test_the_tables_are_there(document: Path, row: str, least: int) -> None:
    assert document.read_text().count(f"\n| `{row}") >= least


def test_every_link_between_documents_leads_somewhere_and_every_document_is_linked() -> None:
    linked = set()
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document} has a link to {target}"
            linked.add((document.parent / target).resolve())
    assert set(DOCUMENTS) - linked == {README}


def commands(
    parser: argparse.ArgumentParser, path: str = "promptlane"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for name, child in action.choices.items():
            yield from commands(child, f"{path} {name}")
    if not inner:
        yield path, parser


def test_every_command_and_option_is_in_the_readme_and_has_help() -> None:
    for path, parser in commands(build_parser()):
        row = next((line for line in TEXT.splitlines() if line.startswith(f"| `{path} ")), "")
        assert row, f"{path} is missing from the table of commands"
        for action in parser._actions:
            assert action.help, f"{path} {action.option_strings} has no help"
            for option in action.option_strings:
                assert option in ("-h", "--help") or option in row, f"{option} is missing from the row of {path}"


def test_every_error_code_is_in_the_readme() -> None:
    sources = "".join(path.read_text() for path in (README.parent / "router").rglob("*.py"))
    codes = set(re.findall(r'code(?:: str)? ?= ?"([a-z_]+)"', sources)) - {"not_found", "engine_error"}
    assert len(codes) > 15
    assert {code for code in codes if f"`{code}`" not in TEXT} == set()


def test_every_api_control_field_and_forwarded_header_is_in_the_readme() -> None:
    names = [path.removeprefix("/v1") for path in APIS] + sorted(CONTROL_FIELDS)
    names += [header.decode() for header in REQUEST_ALLOWED]
    assert [name for name in names if name not in TEXT] == []


def test_the_error_tree_is_drawn_as_it_is() -> None:
    def tree(kind: type[Exception]) -> Iterator[str]:
        yield kind.__name__
        for child in kind.__subclasses__():
            yield from tree(child)

    drawn = re.findall(r"([A-Z]\w+)", (errors.__doc__ or "").split("GatewayError", 1)[1])
    assert {"GatewayError", *drawn} >= set(tree(errors.GatewayError))


def test_the_make_targets_in_the_readme_exist() -> None:
    makefile = (README.parent / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, re.MULTILINE))
    assert {"demo", "test"} <= targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


@pytest.mark.parametrize("name", ["CHANGELOG.md", "LICENSE", "README.md"])
def test_the_usual_files_are_there(name: str) -> None:
    assert (README.parent / name).stat().st_size > 100
