"""The pages made from the code are those in docs/."""

from __future__ import annotations

from pathlib import Path

import pytest

from loom import errors
from loom.cli.document import PAGES
from loom.cli.parser import fetch_parser, main_parser

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", PAGES)
def test_page_is_current(name: str) -> None:
    """`make docs` would change nothing."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name]()


def test_every_error_is_documented() -> None:
    """Every class of the tree has its line, and its exit code is one that the page knows."""
    page = PAGES["errors.md"]()
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.LoomError)]
    assert all(f"| {c.exit_code} | {c.kind} | `loom.errors.{c.__name__}`" in page for c in classes)
    assert {c.__name__ for c in classes} == set(errors.__all__)


def test_every_flag_is_in_help_and_docs() -> None:
    """Whatever argparse takes is on the page."""
    page = PAGES["cli.md"]()
    for parser in (main_parser(), fetch_parser()):
        for option in parser._option_string_actions:
            assert option in page or option in ("-h", "--help")
