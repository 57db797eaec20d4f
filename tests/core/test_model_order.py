"""The order of a model's files, and their receipts added up."""

from __future__ import annotations

import json

import pytest

from loom.core.hub import HubName
from loom.core.manifest import Entry
from loom.core.model_order import SMALL, Order, is_index, is_small, shards_of
from loom.core.model_totals import add_up, progress_of
from loom.core.receipt import Progress, Receipt
from loom.core.reference import hub_reference

HUB = HubName("models", "org/repo", "0123456789abcdef0123456789abcdef01234567")


def entry(path: str, size: int | None) -> Entry:
    return Entry(path, size, None, hub_reference(HUB.at(HUB.revision, path)))


def receipt(out: str, **facts: object) -> Receipt:
    counts = dict.fromkeys(("size", "requests", "retries", "workers", "resumed"), 1)
    rates = dict.fromkeys(("elapsed_s", "bytes_per_second"), 1.0)
    others = {"ranges": True, "sources": {"origin": 1}, "outcome": "fetched", "digest": None, "version": None}
    return Receipt(url=out, out=out, **{**counts, **rates, **others, **facts})  # type: ignore[arg-type]


def test_small_files_and_large_ones() -> None:
    """An index comes first; numbers count by their value; a file of unknown size is large."""
    sizes = {"m-10.bin": SMALL + 1, "m-9.bin": SMALL + 1, "z.json": 1, "x.index.json": 5, "a.txt": SMALL, "b": None}
    order = Order([entry(path, size) for path, size in sizes.items()])
    assert [one.path for one in order.small] == ["x.index.json", "a.txt", "z.json"]
    assert [one.path for one in order.large] == ["b", "m-9.bin", "m-10.bin"]
    assert is_small(order.small[0])
    assert is_index(order.small[0].path)


def test_the_order_of_an_index() -> None:
    """Shards come as the index names them first; what it does not name comes after them."""
    order = Order([entry(f"s{number}", SMALL + 1) for number in range(4)])
    order.reorder(["s3", "s1", "other"])
    assert [one.path for one in order.large] == ["s3", "s1", "s0", "s2"]


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b'{"weight_map": 5}', b'{"weight_map": []}', b"[" * 10_000, b"\xff"]
)
def test_an_index_that_is_none(text: bytes) -> None:
    """It changes nothing."""
    assert shards_of("x.index.json", text) == []


def test_shards_are_paths_of_the_model() -> None:
    """Each once, in the folder of the index."""
    text = json.dumps({"weight_map": {"a": "s2", "b": "s1", "c": "s2"}}).encode()
    assert shards_of("x.index.json", text) == ["s2", "s1"]
    assert shards_of("a/x.index.json", text) == ["a/s2", "a/s1"]


def test_receipts_are_added_up() -> None:
    """Sizes, requests and sources; what differs from file to file is the rows' own."""
    files = [
        receipt("d/a", sources={"origin": 5}, size=5, verified_by="x", link="hard", warnings=("slow", "a is odd")),
        receipt("d/b", sources={"cache": 7}, size=7, outcome="cached", link="copy", warnings=("slow", "new")),
    ]
    total = add_up("hf://org/repo", files)
    assert (total.size, total.requests, total.sources) == (12, 2, {"origin": 5, "cache": 7})
    assert (total.outcome, total.verified_by, total.link) == ("fetched", None, "mixed")
    assert total.warnings == ("2 files: slow", "a is odd", "b: new")
    assert total.files == tuple(files)


def test_progress_is_added_up() -> None:
    """While a file moves the model does; a note is told when nothing moves."""
    done = Progress("done", 5, 5, fetched=5)
    moving = Progress("fetching", 9, 3, workers=2, note="odd")
    waiting = Progress("waiting", None, 0, note="another process is fetching it")
    one = progress_of([done, moving, waiting], 20, 1.0, 4)
    assert (one.phase, one.received, one.workers, one.note) == ("fetching", 8, 2, "")
    assert (one.files, one.files_done) == (4, 1)
    assert progress_of([done, waiting], 20, 0.0, 4).note == waiting.note
    assert progress_of([done, waiting], 20, 0.0, 4).phase == "waiting"
    assert progress_of([], 20, 0.0, 4).phase == "fetching"
