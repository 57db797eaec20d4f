"""The lint of the house: a circle is shown as a path, annotations counted; a write outside store/ is found."""

from __future__ import annotations

import ast

import grimp
import pytest

from scripts.house import describe_circle, find_circles, find_writes
from tests import ROOT


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
