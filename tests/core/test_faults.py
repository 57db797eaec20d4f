"""When, if at all, to try again."""

from __future__ import annotations

import pytest

from loom.core.faults import MAX_WAIT_S, Fault, Remedy, retry_delay
from loom.core.options import Options
from loom.errors import OriginError

ERROR = OriginError("no")


@pytest.mark.parametrize(
    ("remedy", "tries", "delay_s"),
    [
        (Remedy.NONE, 0, None),
        (Remedy.AT_ONCE, 0, 0.0),
        (Remedy.AT_ONCE, 99, 0.0),
        (Remedy.RETRY, 1, 2.0),
        (Remedy.RETRY, 2, 4.0),
        (Remedy.RETRY, 3, 8.0),
        (Remedy.RETRY, 4, None),
        (Remedy.SLOW_DOWN, 0, 2.0),
        (Remedy.SLOW_DOWN, 3, 8.0),
        (Remedy.SLOW_DOWN, 4, None),
    ],
)
def test_the_remedy_decides(remedy: Remedy, tries: int, delay_s: float | None) -> None:
    """2, 4, 8 seconds for what may pass; at once for what does not count; never for what is final."""
    assert retry_delay(Fault(remedy, ERROR), tries, Options(), 0.0) == delay_s


@pytest.mark.parametrize(
    ("wait_s", "delay_s"), [(0.0, 9.0), (0.5, 9.0), (9.5, 9.5), (MAX_WAIT_S, MAX_WAIT_S), (MAX_WAIT_S + 1, None)]
)
def test_what_the_server_asked_for_wins(wait_s: float, delay_s: float | None) -> None:
    """Its wait is kept to the second, unless nobody would sit through it, or it is less than the backoff."""
    assert retry_delay(Fault(Remedy.SLOW_DOWN, ERROR, wait_s), 3, Options(), 0.5) == delay_s


def test_a_wait_does_not_add_tries() -> None:
    """Tries that are used up are used up, however kindly the server asks."""
    assert retry_delay(Fault(Remedy.SLOW_DOWN, ERROR, 1.0), 4, Options(), 0.0) is None


def test_long_pauses_that_were_chosen_are_kept() -> None:
    """The bound on waits is for servers, not for whoever chose --backoff."""
    assert retry_delay(Fault(Remedy.RETRY, ERROR), 1, Options(backoff_s=3600), 0.0) == 3600.0
