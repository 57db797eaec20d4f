"""Costs of a failed request: tries of the bytes that it asked for, and a pause before they are asked for again.

A request that made headway (loom.core.runs.HEADWAY) starts the tries of its bytes afresh; one that takes bytes over
from another takes over their tries. A failure that costs no try is judged elsewhere (loom.core.upstream).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.core.faults import Fault, Remedy, retry_delay
from loom.core.runs import Piece

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.options import Options
    from loom.core.runs import Run


class Costs:
    """The rule for one transfer. jitter: a number in [0, 1), another one each time."""

    def __init__(self, options: Options, jitter: Callable[[], float]) -> None:
        self.jitter = jitter
        self._options = options

    def tries(self, run: Run, now: float) -> int:
        """Return the tries that the rest of a run has cost so far."""
        return run.tries(now, self._options.chunk_size, self._options.timeout_s)

    def of_failure(self, run: Run, fault: Fault, total: int, now: float, *, may_give_up: bool) -> Piece | None:
        """Return the cost at which the rest of a closed run is free again; None when the tries are used up.

        total: bytes of the file that are in place. may_give_up: whether the tries can be used up at all.

        Throttling is not the bytes' fault: then headway of any request starts their count afresh.
        """
        if fault.remedy is Remedy.AT_ONCE:  # too often in a row
            fault = Fault(Remedy.RETRY, fault.error, fault.wait_s)
        is_served = fault.remedy is Remedy.SLOW_DOWN and total > run.piece.seen
        tries = 1 if is_served else self.tries(run, now) + 1
        wait_s = retry_delay(fault, tries, self._options, self.jitter())
        if wait_s is None and may_give_up:
            return None
        wait_s = self._options.timeout_s if wait_s is None else wait_s
        return Piece(run.pos, run.end, tries, not_before=now + wait_s, seen=total)
