"""An origin at its worst: every request meets a fault drawn by lot, and the bytes arrive all the same."""

from __future__ import annotations

import hashlib
import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.fetching.kit import CHUNK
from tests.fetching.kit.getter import SIZE
from tests.origins.deliveries import (
    closes,
    closes_unasked,
    closes_when_idle,
    dribbles,
    half_closes,
    never_answers,
    paced,
    resets,
    stalls,
)
from tests.origins.replies import (
    answers,
    caps_ranges,
    claims_length,
    ignores_ranges,
    says_200,
    says_raw,
    sends_interim,
    shifts_range,
)
from tests.origins.things import Thing, seeded

if TYPE_CHECKING:
    from tests.origins.fault import Exchange, Fault

PASSING: list[Fault] = [
    stalls(0), stalls(CHUNK // 2), stalls(3 * CHUNK), half_closes(1000), half_closes(2 * CHUNK), never_answers,
    resets(0), resets(CHUNK), resets(2 * CHUNK + 7), closes(0), closes(CHUNK - 1), closes(5 * CHUNK), closes_unasked,
    closes_when_idle, dribbles(0.02), paced(2000, 0.001), caps_ranges(1000), caps_ranges(CHUNK), says_200,
    sends_interim, ignores_ranges, claims_length(-1), claims_length(999), shifts_range(1), answers(500), answers(503),
    answers(429, ("Retry-After", "0")), says_raw(b"SSH-2.0-x\r\n"), says_raw(b""),
]  # fmt: skip
"""Faults that another try can mend."""


class Lottery:
    """Draws a fault for each request: one of PASSING, or none at all; seeded, so that a failure can be had again."""

    def __init__(self, seed: int, share: float) -> None:
        self._random = random.Random(seed)
        self._share = share
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            fault = self._random.choice(PASSING) if self._random.random() < self._share else None
        if fault is not None:
            fault(exchange)


@pytest.mark.parametrize("seed", range(8))
def test_faults_by_lot(origin, getter, seed):
    """Whatever another try can mend is mended: the bytes are right in the end, and verified."""
    lot = random.Random(seed)
    data = seeded(lot.randint(1, 2 * SIZE), seed)
    url = origin.put("/m", replace(Thing(data), etag=lot.choice(['"v1"', 'W/"v1"', ""])), Lottery(seed, 0.5))
    choices = {"workers": lot.choice([1, 3, 8, 32]), "retries": 100, "timeout_s": 0.15, "backoff_s": 0.001}
    getter.right(url, data, sha256=hashlib.sha256(data).hexdigest(), **choices)
