"""The files of a model added up: what they report while they run, and their receipts. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from loom.core.receipt import ModelReceipt, Progress, Receipt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_OUTCOMES = ("fetched", "resumed", "cached", "present")
"""Outcomes, the one that tells most of a model first."""


def add_up(url: str, files: Sequence[Receipt]) -> ModelReceipt:
    """Return the receipt of a model without what only its fetch knows: folder, time, commit, what failed."""
    links = {file.link: file.link_note for file in files}
    proofs = {file.verified_by for file in files}
    outcomes = {file.outcome for file in files}
    return ModelReceipt(
        url=url,
        out="",
        size=sum(file.size for file in files),
        elapsed_s=0.0,
        bytes_per_second=0.0,
        requests=sum(file.requests for file in files),
        retries=sum(file.retries for file in files),
        workers=0,
        ranges=all(file.ranges for file in files),
        sources=_add(file.sources for file in files),
        resumed=sum(file.resumed for file in files),
        outcome=next((one for one in _OUTCOMES if one in outcomes), "present"),
        digest=None,
        version=None,
        link=next(iter(links)) if len(links) == 1 else "mixed",
        link_note=next(iter(links.values())) if len(links) == 1 else "",
        warnings=tuple(_warnings(files)),
        peers=_add(file.peers for file in files),
        unconfirmed=sum(file.unconfirmed for file in files),
        verified_by=next(iter(proofs)) if len(proofs) == 1 else None,
        checked="immutable",
        files=tuple(files),
    )


def _add(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


def _warnings(files: Sequence[Receipt]) -> list[str]:
    """Return each warning once, with the file that it is about, or with how many have it."""
    seen: dict[str, list[str]] = {}
    for file in files:
        for text in file.warnings:
            seen.setdefault(text, []).append(file.out.rpartition("/")[2])
    return [_about(text, names) for text, names in seen.items()]


def _about(text: str, names: list[str]) -> str:
    if len(names) > 1:
        return f"{len(names)} files: {text}"
    return text if names[0] in text else f"{names[0]}: {text}"


def progress_of(files: Sequence[Progress], size: int | None, bytes_per_second: float, count: int) -> Progress:
    """Return the progress of a model of `count` files, of which these have begun. size: of all, None when not known.

    A file that is done has the phase "done". While any file moves the phase is "fetching", and only a note that holds
    up all of them is told.
    """
    under_way = [file for file in files if file.phase != "done"]
    workers = sum(file.workers for file in under_way)
    phases = {file.phase for file in under_way} - {"checking", "connecting"}
    notes = [file.note for file in under_way if file.note]
    return Progress(
        phase="fetching" if "fetching" in phases or not phases else min(phases),
        size=size,
        received=sum(file.received for file in files),
        resumed=sum(file.resumed for file in files),
        bytes_per_second=bytes_per_second,
        workers=workers,
        retries=sum(file.retries for file in files),
        note=notes[0] if notes and not workers else "",
        fetched=sum(file.fetched for file in files),
        files=count,
        files_done=len(files) - len(under_way),
    )
