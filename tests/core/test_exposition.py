"""Metrics as text: Prometheus's own parser reads what was meant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from loom.core.exposition import Family, counter, format_families, gauge


def test_numbers_keep_their_worth() -> None:
    """Whole ones of any size, parts, and none."""
    text = format_families([gauge("a", "A.", 0.25), counter("b_total", "B.", 2**60), gauge("c", "C.", 0)]).decode()
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    assert [(one.name, one.value) for one in samples] == [("a", 0.25), ("b_total", 2**60), ("c", 0)]


LINES = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"])


@given(st.text(LINES, max_size=9), st.text('a"\\\n', max_size=6))
def test_any_text_stands_in_a_label(help_text: str, label: str) -> None:
    """Quotes, backslashes and line breaks are escaped."""
    text = format_families([Family("a", "gauge", help_text, (({"l": label}, 1), ({}, 2)))]).decode()
    (family,) = text_string_to_metric_families(text)
    assert [(one.labels, one.value) for one in family.samples] == [({"l": label}, 1), ({}, 2)]
