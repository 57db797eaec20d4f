"""Taking work over: which request ends last, and how much of it another worker should ask for.

Pure: it plans, loom.core.transfer carries out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loom.core.pace import SAMPLE_S
from loom.core.runs import HEDGE_FACTOR, HEDGE_SLACK_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loom.core.runs import Experience, Run

MIN_STEAL = 256 * 1024
"""Bytes below which a request of its own is never worth it."""

MIN_GAIN_S = 0.02
"""Seconds by which a steal must end the transfer sooner: it costs the victim's connection and a request."""

SPLIT_ALIGN = 64 * 1024
"""Bytes: spans are split at multiples of this, which are whole pages and whole TLS records, far below a chunk."""

NEVER_S = 1e6
"""Seconds assumed to be left for a silent run: large but finite, so that silent runs still sort by bytes left."""


class Plan(NamedTuple):
    """Ask for [cut, end) of `victim`. is_hedge: all of its rest, and the victim goes on: the first answer wins."""

    victim: Run
    cut: int
    is_hedge: bool


def plan_takeover(
    candidates: list[Run], everyone: Iterable[Run], known: Experience, chunk_size: int, now: float
) -> Plan | None:
    """Return the bytes to take over from the run that would end last, None when that gains no time.

    candidates: the runs that may be taken from; everyone: all runs, for the usual rate.

    A hedge asks for the rest of a run twice, so it fetches bytes in vain. It is planned only when a new request would
    bring them in less than half the time, by a clear margin.
    """
    typical = known.typical_rate(candidates, now)
    if not candidates or not typical:
        return None
    gap_s = known.usual_gap_s(everyone)
    ends_in_s, victim = max(
        ((_ends_in(run, typical, gap_s, known, now), run) for run in candidates), key=lambda it: it[0]
    )
    alone_s = known.latency_s + victim.left / typical
    is_short = victim.left <= max(2 * chunk_size, MIN_STEAL + SPLIT_ALIGN)
    if is_short and HEDGE_FACTOR * alone_s + HEDGE_SLACK_S < ends_in_s:
        return Plan(victim, victim.pos, is_hedge=True)
    cut = _plan_cut(victim, ends_in_s, typical, known.latency_s, chunk_size)
    return None if cut is None else Plan(victim, cut, is_hedge=False)


def plan_shortening(runs: Iterable[Run], step: int, kept: int) -> list[tuple[Run, int]]:
    """Return where to end each run that is to leave bytes to others: at the next multiple of `step`, in bytes.

    Only `kept` runs, those nearest to such an edge, go on to it; the others end at the next edge of SPLIT_ALIGN.
    """
    long = sorted((run for run in runs if run.left > SPLIT_ALIGN), key=lambda run: next_edge(run, step) - run.pos)
    return [(run, next_edge(run, step if number < kept else SPLIT_ALIGN)) for number, run in enumerate(long)]


def next_edge(run: Run, step: int) -> int:
    """Return the first multiple of `step` beyond the next byte of a run."""
    return -(-(run.pos + 1) // step) * step


def _ends_in(run: Run, typical: float, gap_s: float, known: Experience, now: float) -> float:
    """Return the seconds until `run` ends, if it goes on as it does; one too young to judge goes as is typical.

    typical: bytes per second; gap_s: how long connections are silent at times.
    """
    silent_s, usual_s = now - run.heard_at, max(gap_s, run.meter.gap_s)
    if silent_s > known.patience_s(usual_s):
        return NEVER_S + run.left / typical
    if run.opened_at is None:
        return max(0.0, known.latency_s - silent_s) + run.left / typical
    if now - run.opened_at < max(SAMPLE_S, HEDGE_FACTOR * usual_s):
        return run.left / typical
    return run.left / max(run.meter.read(now), 1.0)


def _plan_cut(victim: Run, ends_in_s: float, typical: float, latency_s: float, chunk_size: int) -> int | None:
    """Return where to cut a run so that both parts end together; None when that would not end the transfer sooner.

    The thief pays a round trip first: (left - x) / rate = latency + x / typical, solved for x.
    """
    rate = victim.left / max(ends_in_s, 1e-9)
    size = int((ends_in_s - latency_s) / (1 / typical + 1 / rate))
    cut = _align(victim, victim.end - size, chunk_size)
    after_s = max((cut - victim.pos) / rate, latency_s + (victim.end - cut) / typical)
    gains_s = ends_in_s - after_s
    return None if victim.end - cut < MIN_STEAL or gains_s < max(MIN_GAIN_S, latency_s / 2) else cut


def _align(victim: Run, cut: int, chunk_size: int) -> int:
    """Return the nearest sensible edge at or above `cut`: a chunk's if there is room for it, else 64 KiB."""
    for step in (chunk_size, SPLIT_ALIGN):
        edge = -(-cut // step) * step
        if victim.pos < edge and victim.end - edge >= step:
            return edge
    return victim.end
