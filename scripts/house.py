"""Check what import-linter cannot, as part of `make lint`: circles of imports, and which modules write files.

A circle is shown as the path that an import takes back to its own module. Imports for annotations count: a reader
follows them as he follows any other.
"""

from __future__ import annotations

import ast
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import grimp

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "loom"
SRC = Path(__file__).parents[1] / "src"

KNOWN_CIRCLES: dict[frozenset[str], str] = {}
"""Circles that are not yet undone, and until when. The list only shrinks: one that is gone must leave it."""

WRITERS = {
    "loom.store": "keeps files: what this check is about",
    "loom.control.ledgers.files": "a control plane has no cache; it keeps its ledger beside SQLite's own files",
    "loom.control.ledgers.sqlite": "SQLite opens its database by name",
    "loom.cli.streams": "opens /dev/null in the place of a standard stream that is closed",
    "loom.net.findings": "opens /dev/null, to see whether splice works",
    "loom.cli.document": "writes docs/ for `make docs`, never at run time",
}
"""Modules and rooms that may open, make, rename or remove files, and why."""

MODES = frozenset("wax+")
FLAGS = frozenset({"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_TMPFILE"})
MODULES = frozenset({"os", "shutil", "tempfile"})
OF_MODULES = frozenset([
    "chmod", "chown", "copy", "copy2", "copyfile", "copytree", "link", "makedirs", "mkdir", "mkdtemp", "mkfifo",
    "mknod", "mkstemp", "move", "NamedTemporaryFile", "remove", "removedirs", "rename", "renames", "replace", "rmdir",
    "rmtree", "symlink", "TemporaryDirectory", "TemporaryFile", "truncate", "unlink",
])  # fmt: skip
OF_PATHS = frozenset(["hardlink_to", "mkdir", "rmdir", "symlink_to", "unlink", "write_bytes", "write_text"])
"""Methods that nothing but a path has: whatever they are called on, they write."""


def find_circles(graph: grimp.ImportGraph, package: str) -> list[list[str]]:
    """Return, for each room of the package, a shortest circle of each knot of its modules, first module repeated."""
    circles = []
    for room in sorted(graph.find_children(package)):
        left = graph.find_descendants(room) | {room}
        while circle := _shortest_circle(graph, left):
            circles.append(circle)
            left = left - set(circle)
    return circles


def _shortest_circle(graph: grimp.ImportGraph, modules: set[str]) -> list[str]:
    """Return a shortest circle among the modules, or nothing."""
    found = [circle for start in sorted(modules) if (circle := _way_back(graph, modules, start))]
    return min(found, key=len, default=[])


def _way_back(graph: grimp.ImportGraph, modules: set[str], start: str) -> list[str]:
    """Return a shortest path of imports from `start` back to it through `modules`, or nothing."""
    paths = [[start]]
    seen: set[str] = set()
    for path in paths:  # it grows while it is read: breadth first
        for imported in sorted(graph.find_modules_directly_imported_by(path[-1]) & modules):
            if imported == start:
                return [*path, start]
            if imported not in seen:
                seen.add(imported)
                paths.append([*path, imported])
    return []


def describe_circle(graph: grimp.ImportGraph, circle: list[str]) -> str:
    """Return a circle as lines: each import with its line number and text."""
    lines = []
    for importer, imported in pairwise(circle):
        detail = graph.get_import_details(importer=importer, imported=imported)[0]
        lines.append(f"  {importer}:{detail['line_number']}: {detail['line_contents'].strip()}")
    return "\n".join(lines)


def find_writes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each call that opens a file to write, or makes, renames or removes one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := _written_by(node)):
            yield node.lineno, name


def _written_by(call: ast.Call) -> str:
    """Return the name of what is called when it writes files, else nothing."""
    name = ast.unparse(call.func)
    if name in ("open", "io.open", "os.fdopen"):
        modes = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")]
        return name if any(isinstance(mode, ast.Constant) and MODES & set(str(mode.value)) for mode in modes) else ""
    if name == "os.open":
        flags = {
            node.attr for argument in call.args[1:] for node in ast.walk(argument) if isinstance(node, ast.Attribute)
        }
        return name if flags & FLAGS else ""
    owner, _, method = name.rpartition(".")
    writes = method in OF_MODULES if owner in MODULES else bool(owner) and method in OF_PATHS
    return name if writes else ""


def check_circles(graph: grimp.ImportGraph) -> Iterator[str]:
    """Yield a complaint for each circle that is not known, and for each known one that is gone."""
    found = {frozenset(circle): circle for circle in find_circles(graph, PACKAGE)}
    known = {circle for circle in found if any(circle <= one for one in KNOWN_CIRCLES)}
    for circle in found.keys() - known:
        yield f"a circle of imports inside a room:\n{describe_circle(graph, found[circle])}"
    for one in KNOWN_CIRCLES:
        if not any(circle <= one for circle in known):
            yield f"no circle any more, take it from KNOWN_CIRCLES: {', '.join(sorted(one))}"


def check_writers() -> Iterator[str]:
    """Yield a complaint for each call that writes files outside the rooms and modules that may."""
    for path in sorted((SRC / PACKAGE).rglob("*.py")):
        module = ".".join(path.relative_to(SRC).with_suffix("").parts)
        if not any(module == writer or module.startswith(f"{writer}.") for writer in WRITERS):
            for line, name in find_writes(ast.parse(path.read_text(encoding="utf-8"))):
                yield f"{path}:{line}: {name}: only store/ and WRITERS of scripts/house.py write files"


def main() -> int:
    """Print every complaint; return 1 if there is one."""
    sys.path.insert(0, str(SRC))
    complaints = [*check_circles(grimp.build_graph(PACKAGE, cache_dir=None)), *check_writers()]
    for complaint in complaints:
        print(complaint)
    print("house: no circle inside a room, only store/ writes files" if not complaints else f"{len(complaints)} found")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
