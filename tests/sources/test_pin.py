"""The pin: replies of another version."""

from __future__ import annotations

import pytest

from loom.core.faults import Fault, Remedy
from loom.core.headers import Version
from loom.core.urls import parse_url
from loom.errors import OriginChanged, OriginError
from loom.sources.pin import MAX_STRAYS, MAX_STRAYS_OF_REPLICAS, Pin

OLD, NEW = Version(9, '"old"', ""), Version(9, '"new"', "")


def _stray(pin: Pin) -> Fault:
    with pytest.raises(Fault) as caught:
        pin.admit(OLD, NEW, pin.ticket)
    return caught.value


def _pin() -> Pin:
    return Pin(parse_url("https://h/m"))


def test_a_reply_that_was_on_its_way_shows_no_replicas() -> None:
    """The object is replaced while old replies still arrive: that is told, after a few tries."""
    pin = _pin()
    before = pin.ticket
    _stray(pin)
    pin.admit(OLD, OLD, before)
    faults = [_stray(pin) for _ in range(MAX_STRAYS + 1)]
    assert [fault.remedy for fault in faults] == [Remedy.AT_ONCE] * MAX_STRAYS + [Remedy.NONE]
    assert type(faults[-1].error) is OriginChanged


def test_a_replica_that_goes_for_good_ends_the_fetch() -> None:
    """Where both versions were served they are replicas; when the first one is seen no more, that is told as that."""
    pin = _pin()
    _stray(pin)
    pin.admit(OLD, OLD, pin.ticket)
    faults = [_stray(pin) for _ in range(MAX_STRAYS_OF_REPLICAS + 1)]
    assert {fault.remedy for fault in faults[:-1]} == {Remedy.AT_ONCE}
    assert faults[-1].remedy is Remedy.NONE
    assert type(faults[-1].error) is OriginError
    assert "--sha256" in faults[-1].error.hint
