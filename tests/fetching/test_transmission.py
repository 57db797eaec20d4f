"""What a transmission says when all is there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from loom.core.options import Options
from loom.core.reference import parse_reference
from loom.fetching.transmission import USUAL_SHARE, Transmission

REFERENCE = parse_reference("https://h/m")
SIZE = 1_600_000_000


@pytest.mark.parametrize(("unconfirmed", "is_told"), [(0, False), (SIZE // USUAL_SHARE, False), (SIZE // 8, True)])
def test_what_nobody_vouched_for_is_told_when_it_is_much(unconfirmed: int, is_told: bool) -> None:
    """A unit or two that two nodes took from the origin in parts are the receipt's; more is a human's business, too."""
    warnings: list[str] = []
    job = SimpleNamespace(size=SIZE, useful_workers=lambda: 1, unconfirmed=unconfirmed, version=None)
    source = SimpleNamespace(pin=SimpleNamespace(remark=lambda _: ""))
    one = Transmission(
        REFERENCE,
        source,
        Options(),
        None,
        SimpleNamespace(now=lambda: None, verifying=lambda _: None),
        None,
        SimpleNamespace(work=lambda *_: None, fitting_workers=lambda wanted: wanted),
        warnings.append,
    )
    one.job = job
    one._work(job, None)
    assert one.unconfirmed == unconfirmed
    assert bool(warnings) == is_told
