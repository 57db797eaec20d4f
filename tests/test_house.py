"""The lint of the house, and the pages that must stay true: the index of tests, the words and rooms of the design."""

from __future__ import annotations

import ast
import re

import grimp
import pytest

from scripts.house import describe_circle, find_circles, find_writes
from tests import ROOT, SRC


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A package `cottage` of one room, `kitchen`, whose modules are written by the test."""
    room = tmp_path / "cottage" / "kitchen"
    room.mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)

    def build(**modules: str):
        for name, text in {"../__init__": "", "__init__": "", **modules}.items():
            (room / f"{name}.py").write_text(text)
        return grimp.build_graph("cottage", cache_dir=None)

    return build


def test_a_circle_is_a_path_and_annotations_count(house):
    """The path names each import with its line, from a module back to itself; the shortest one is shown."""
    graph = house(
        oven="from cottage.kitchen import table, sink\n",
        table="from cottage.kitchen.sink import Sink\n",
        sink="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from cottage.kitchen.oven import Oven\n",
    )
    (circle,) = find_circles(graph, "cottage")
    assert circle == ["cottage.kitchen.oven", "cottage.kitchen.sink", "cottage.kitchen.oven"]
    assert describe_circle(graph, circle).splitlines() == [
        "  cottage.kitchen.oven:1: from cottage.kitchen import table, sink",
        "  cottage.kitchen.sink:3: from cottage.kitchen.oven import Oven",
    ]


def test_no_circle(house):
    """A room whose imports point one way has none."""
    graph = house(oven="from cottage.kitchen import table, sink\n", table="import cottage.kitchen.sink\n", sink="")
    assert find_circles(graph, "cottage") == []


@pytest.mark.parametrize(
    "code",
    ["open(p, 'wb')", "open(p, mode='a')", "os.open(p, os.O_CREAT | os.O_RDWR)", "Path(p).write_text(t)",
     "os.replace(a, b)", "folder.mkdir()", "shutil.rmtree(p)", "tempfile.TemporaryFile()"],
)  # fmt: skip
def test_what_writes_is_found(code):
    """Each of them opens a file to write, or makes, renames or removes one."""
    assert [line for line, _ in find_writes(ast.parse(code))] == [1]


@pytest.mark.parametrize(
    "code", ["open(p)", "open(p, 'rb')", "os.open(p, os.O_RDONLY | os.O_CLOEXEC)", "t.replace(a, b)", "names.remove(a)"]
)
def test_what_reads_is_not(code):
    """Reading, and methods of other things by the same name."""
    assert list(find_writes(ast.parse(code))) == []


def test_every_test_file_says_what_it_holds():
    """Each has a docstring."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what it holds"


def test_the_index_of_fetching_is_its_folders():
    """Each test file in a folder has its line under that folder, and each line its file."""
    fetching = ROOT / "tests" / "fetching"
    index = ast.get_docstring(ast.parse((fetching / "__init__.py").read_text())) or ""
    listed, folder = set(), ""
    for line in filter(str.strip, index.splitlines()):
        first = line.split()[0]
        folder = first if first.endswith("/") else folder
        if line.startswith("  test_"):
            listed.add(f"{folder}{first}.py")
    assert listed == {f"{path.parent.name}/{path.name}" for path in fetching.glob("*/test_*.py")}


# docs/design.md


@pytest.fixture(scope="module")
def design():
    """The page that tells the words and the rooms."""
    return (ROOT / "docs" / "design.md").read_text()


def test_each_class_of_the_glossary_is_there(design):
    """A word in `code` is the name of a class."""
    glossary = design[design.index("## Words") : design.index("## Rooms")]
    words = set(re.findall(r"`([A-Z][A-Za-z]+)`", glossary))
    trees = [ast.parse(path.read_text()) for path in (SRC / "loom").rglob("*.py")]
    classes = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    assert words - classes == set()


def test_each_module_has_its_place_in_the_rooms(design):
    """Under its room; findings.py, the commands' modules and those of one ledger are told of together."""
    listed, room = set(), ""
    for line in design[design.index("## Rooms") : design.index("    cli > node")].splitlines():
        room = found[1] if (found := re.match(r" {6}(\w+)/ ", line)) else room
        listed |= {f"{room}/{word}" for word in re.findall(r"\w+", line)}
    modules = {f"{path.parent.name}/{path.stem}" for path in (SRC / "loom").glob("*/*.py")}
    told_together = re.compile(r".*/(__init__|findings)|(cli|testing)/.*")
    assert {module for module in modules if not told_together.fullmatch(module)} - listed == set()
