"""Names and their addresses: which are tried first, and when a name is looked up again."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from loom.net import resolve
from loom.net.resolve import DnsResolver
from tests.net.conftest import run

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
PORT = 80


class Clock:
    """A steady clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Names:
    """A resolver whose answer the test sets: addresses, an error, or an event to wait for. `asked` lists the names."""

    def __init__(self) -> None:
        self.answer: list[str] | OSError | threading.Event = [A]
        self.asked: list[str] = []

    def look_up(self, host: str | bytes, port: int, **_: object) -> list[tuple[object, ...]]:
        self.asked.append(os.fsdecode(host))
        answer = self.answer
        if isinstance(answer, threading.Event):
            answer.wait(60)
            answer = []
        if isinstance(answer, OSError):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in answer]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(resolve, "time", clock)
    return clock


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up)
    yield names
    if isinstance(names.answer, threading.Event):
        names.answer.set()


def found(resolver: DnsResolver, host: str = "weights.example") -> tuple[list[str], list[str]]:
    """Return the trusted addresses of a name, and the others."""
    trusted, others = run(resolver.addresses(host, PORT))
    return [where[0] for _, where in trusted], [where[0] for _, where in others]


def test_an_address_that_failed_comes_last(clock, names) -> None:
    """It is not forgotten: after a while, or when it answers, it is as good as the others."""
    names.answer = [A, B]
    resolver = DnsResolver()
    assert found(resolver) == ([A, B], [])
    resolver.distrust((A, PORT))
    assert found(resolver) == ([B], [A])
    resolver.trust((A, PORT))
    assert found(resolver) == ([A, B], [])
    resolver.distrust((B, PORT))
    clock.now += resolve.DISTRUST_S + 1
    assert found(resolver) == ([A, B], [])


def test_a_name_that_leads_elsewhere_by_now(clock, names) -> None:
    """When no address is trusted the name is looked up again before anything else is tried."""
    resolver = DnsResolver()
    found(resolver)
    resolver.distrust((A, PORT))
    names.answer = [B]
    clock.now += resolve.LOOK_AGAIN_S
    assert found(resolver) == ([B], [])
    assert len(names.asked) == 2


def test_the_resolver_is_not_pestered(clock, names) -> None:
    """However often it is wanted, the time between two look-ups that say the same grows from one second to thirty."""
    resolver = DnsResolver()
    found(resolver)
    for _ in range(600):
        resolver.distrust((A, PORT))
        assert found(resolver) == ([], [A])
        clock.now += 0.5
    assert 10 <= len(names.asked) <= 16


def test_a_resolver_that_fails_takes_nothing_away(clock, names) -> None:
    """What is known of a name is still tried when the resolver has an error, or nothing, to say."""
    resolver = DnsResolver()
    found(resolver)
    for answer in (socket.gaierror(socket.EAI_AGAIN, "later"), OSError("broken"), []):
        names.answer = answer
        clock.now += resolve.MAX_LOOK_AGAIN_S
        resolver.distrust((A, PORT))
        assert found(resolver) == ([], [A])


def test_a_resolver_that_hangs_is_not_waited_for(clock, names, monkeypatch) -> None:
    """What is known is used instead, at once where one of the addresses is trusted."""
    names.answer = [A, B]
    resolver = DnsResolver()
    found(resolver)
    names.answer = threading.Event()
    resolver.distrust((A, PORT))
    clock.now += resolve.MAX_LOOK_AGAIN_S
    assert found(resolver) == ([B], [A])
    for one in (A, B):
        resolver.distrust((one, PORT))
    monkeypatch.setattr(resolve, "FRESH_S", 0.01)
    clock.now += resolve.MAX_LOOK_AGAIN_S
    assert found(resolver) == ([], [A, B])


def test_a_number_is_not_looked_up_again(clock, names) -> None:
    """A host that is an address leads nowhere else."""
    resolver = DnsResolver()
    found(resolver, A)
    resolver.distrust((A, PORT))
    clock.now += resolve.MAX_LOOK_AGAIN_S
    assert found(resolver, A) == ([], [A])
    assert len(names.asked) == 1
