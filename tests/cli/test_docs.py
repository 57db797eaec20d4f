"""The pages made from the code are those in docs/."""

from __future__ import annotations

import pytest

from loom import errors
from loom.cli.commands import COMMANDS
from loom.cli.document import PAGES
from loom.cli.main import parser_of
from tests import ROOT


@pytest.mark.parametrize("name", PAGES)
def test_page_is_current(name: str) -> None:
    """`make docs` would change nothing."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name]()


def test_every_error_is_documented() -> None:
    """Every class of the tree has its line, and its exit code is one that the page knows."""
    page = PAGES["errors.md"]()
    classes = [
        c
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, (errors.LoomError, errors.Interrupted))
    ]
    assert all(f"| {c.exit_code} | {c.kind} | `loom.errors.{c.__name__}`" in page for c in classes)
    assert {c.__name__ for c in classes} == set(errors.__all__)


@pytest.mark.parametrize("name", ["original", *COMMANDS])
def test_every_flag_is_in_help_and_docs(name: str) -> None:
    """Whatever a command takes is on the page."""
    parser = parser_of(name)
    page = PAGES["cli.md"]()
    assert all(option in page for action in parser.arguments() for option in action.option_strings)
