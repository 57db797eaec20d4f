"""Metrics in Prometheus' text format 0.0.4. Pure; for programs without prometheus_client."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Family(NamedTuple):
    """One metric. kind: "counter" (its name ends with _total) or "gauge". samples: labels and their value."""

    name: str
    kind: str
    text: str
    samples: tuple[tuple[Mapping[str, str], float], ...]


def gauge(name: str, text: str, value: float, labels: Mapping[str, str] | None = None) -> Family:
    """Return a gauge with one sample."""
    return Family(name, "gauge", text, ((labels or {}, value),))


def counter(name: str, text: str, value: float) -> Family:
    """Return a counter with one sample."""
    return Family(name, "counter", text, (({}, value),))


def format_families(families: Iterable[Family]) -> bytes:
    """Return metrics as text."""
    return "".join(line for family in families for line in _lines(family)).encode()


def _lines(family: Family) -> Iterable[str]:
    yield f"# HELP {family.name} {_escape(family.text)}\n"
    yield f"# TYPE {family.name} {family.kind}\n"
    for labels, value in family.samples:
        inside = ",".join(f'{name}="{_escape(text, quote=True)}"' for name, text in labels.items())
        yield f"{family.name}{f'{{{inside}}}' if inside else ''} {_number(value)}\n"


def _escape(text: str, *, quote: bool = False) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
    return escaped.replace('"', '\\"') if quote else escaped


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
