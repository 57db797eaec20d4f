"""Ranges and sets of them, against a model that cannot be wrong: a Python set of integers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from loom.core.ranges import RangeSet, Span, chunk_count, chunk_span, format_range

LIMIT = 60
RANGES = st.lists(st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT)).map(sorted).map(tuple), max_size=12)


def _model(ranges) -> set[int]:
    return {byte for start, end in ranges for byte in range(start, end)}


@given(RANGES)
def test_a_set_holds_what_was_added(ranges) -> None:
    """Ranges come out sorted, apart from each other, and cover exactly what went in."""
    have = RangeSet(ranges)
    spans = list(have)
    assert _model(spans) == _model(ranges)
    assert have.total == len(_model(ranges))
    assert all(one.end < two.start for one, two in pairwise(spans))


@given(RANGES, st.integers(0, LIMIT), st.integers(0, LIMIT))
def test_adding_tells_what_was_new(ranges, start, end) -> None:
    """`add` returns how many bytes were absent before."""
    have = RangeSet(ranges)
    assert have.add(start, end) == len(_model([(start, end)]) - _model(ranges))


@given(RANGES, st.integers(0, LIMIT), st.integers(0, LIMIT))
def test_missing_and_covers_agree_with_the_model(ranges, start, end) -> None:
    """`missing` is the complement, without empty or touching parts; `covers` says whether there is any."""
    have, wanted = RangeSet(ranges), _model([(start, end)])
    gaps = have.missing(start, end)
    assert _model(gaps) == wanted - _model(ranges)
    assert all(gap.size > 0 for gap in gaps)
    assert have.covers(start, end) == (wanted <= _model(ranges))


@given(RANGES)
def test_the_front_is_where_the_first_gap_begins(ranges) -> None:
    """`front` is the first absent byte."""
    model = _model(ranges)
    assert RangeSet(ranges).front() == next(byte for byte in range(LIMIT + 1) if byte not in model)


@given(st.integers(0, 1000), st.integers(1, 50))
def test_chunks_tile_the_file(size, chunk_size) -> None:
    """The chunks follow each other from 0 to the size; only the last may be short."""
    spans = [chunk_span(index, size, chunk_size) for index in range(chunk_count(size, chunk_size))]
    assert [span.start for span in spans] == [index * chunk_size for index in range(len(spans))]
    assert all(span.size == chunk_size for span in spans[:-1])
    assert sum(span.size for span in spans) == size


def test_the_wire_counts_inclusively() -> None:
    """[0, 10) is bytes=0-9."""
    assert format_range(Span(0, 10)) == "bytes=0-9"
