"""A content coding that is the file's own, and one that was put on the way."""

from __future__ import annotations

import gzip

import pytest

from loom.errors import OriginError
from tests.fetching.kit import CHUNK
from tests.fetching.kit.getter import SIZE, Getter
from tests.origins.replies import compresses, ends_by_closing, ignores_ranges, says, sends_chunked
from tests.origins.things import Thing, seeded

DATA = gzip.compress(seeded(SIZE), 1)
GZIP = (("Content-Encoding", "gzip"),)
STORED = Thing(DATA, fields=GZIP)


@pytest.mark.parametrize("fault", [None, ignores_ranges], ids=["ranges", "stream"])
@pytest.mark.parametrize("label", ["gzip", "x-gzip", "GZIP"])
def test_an_archive_that_is_labelled_as_coded(origin, tmp_path, label, fault):
    """The bytes of a .gz file are fetched as they are when the server labels them: in ranges, and as one stream."""
    url = origin.put("/adapter.tar.gz", Thing(DATA, fields=(("Content-Encoding", label),)), *([fault] if fault else []))
    receipt = Getter(tmp_path, "adapter.tar.gz").right(url, DATA)
    assert receipt.ranges is (fault is None)


@pytest.mark.parametrize(
    ("path", "name", "fields"),
    [
        ("/m.tgz", "output", GZIP),
        ("/m?file=m.gz", "m.tar.gz", GZIP),
        ("/m", "output", (*GZIP, ("Content-Disposition", 'attachment; filename="m.gz"'))),
        ("/m.bin", "m.bin.gz", GZIP),
        ("/m.zst", "output", (("Content-Encoding", "zstd"),)),
        ("/m.bin", "output", (("Content-Encoding", "aws-chunked"),)),
        ("/m.bin", "output", (("Content-Encoding", "identity, none"),)),
    ],
)
def test_who_says_that_the_coding_is_the_files_own(origin, tmp_path, path, name, fields):
    """The URL, the output or the origin may name the file; a label that changes no bytes needs no name."""
    origin.put(path.partition("?")[0], Thing(DATA, fields=fields))
    Getter(tmp_path, name).right(origin.url(path), DATA)


@pytest.mark.parametrize(
    ("path", "label"),
    [("/model.bin", "gzip"), ("/model.gz", "br"), ("/model.gz", "gzip, gzip"), ("/model.gz", "zstd")],
)
@pytest.mark.parametrize("fault", [None, ignores_ranges], ids=["ranges", "stream"])
def test_a_coding_that_the_name_does_not_say(origin, getter, path, label, fault):
    """A file whose name is not of the coding was compressed on the way, or is stored so: it is refused."""
    url = origin.put(path, Thing(DATA, fields=(("Content-Encoding", label),)), *([fault] if fault else []))
    error = getter.wrong(url, OriginError)
    assert label in str(error)
    assert getter.left_behind() == ""


@pytest.mark.parametrize("framing", [sends_chunked, ends_by_closing])
def test_compressed_while_it_is_sent(origin, tmp_path, framing):
    """A coded body without a length was coded on the way, whatever the name says: an archive would be coded twice."""
    getter = Getter(tmp_path, "m.gz")
    getter.wrong(origin.put("/m.gz", Thing(DATA), compresses, framing), OriginError)
    getter.wrong(origin.put("/m.gz", STORED, framing), OriginError)
    assert getter.left_behind() == ""


def test_a_range_that_is_compressed_while_it_is_sent(origin, tmp_path):
    """A range that a middleware compresses (express with compression, serve) is not taken for the archive's bytes."""

    def squeezes(exchange) -> None:
        exchange.reply.body = gzip.compress(exchange.reply.body, 1)
        exchange.reply.set("Content-Encoding", "gzip")
        exchange.reply.framing = "chunked"

    Getter(tmp_path, "m.gz").wrong(origin.put("/m.gz", Thing(DATA), squeezes), OriginError)


def test_a_coded_length_beside_a_range_of_the_file(origin, tmp_path):
    """A compressed range under the range's own fields has another length than the range: it is not taken."""

    def squeezes(exchange) -> None:
        exchange.reply.body = gzip.compress(bytes(CHUNK), 1)
        exchange.reply.set("Content-Encoding", "gzip")

    Getter(tmp_path, "m.gz").wrong(origin.put("/m.gz", Thing(DATA), squeezes), OriginError, retries=0)


def test_the_hint_names_the_way_out(origin, getter):
    """Who wants the coded bytes is told how to say so."""
    error = getter.wrong(origin.put("/model.bin", STORED, says("ETag", '"v2"')), OriginError)
    assert ".gz" in error.hint
