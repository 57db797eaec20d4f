"""The renewal loop: a few threads for all that a node has to say; what it costs when the control plane is away."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from loom.client.renewal import MOST_THREADS, Lease, Renewal
from loom.errors import RegistryUnavailable
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def renewal() -> Iterator[Renewal]:
    """A renewal whose thread has ended in the end."""
    one = Renewal("loom-renewed")
    yield one
    one.close(20)
    assert "loom-renewed" not in [thread.name for thread in threading.enumerate()]


def test_a_thread_that_waits_takes_the_next_lease(renewal: Renewal) -> None:
    """Each in its own period, the first time at once."""
    said: list[tuple[str, int]] = []
    often = Lease(lambda: said.append(("often", threading.get_ident())), 0.001)
    for lease in (Lease(lambda: said.append(("seldom", threading.get_ident())), 1000.0), often):
        renewal.add(lease)
        until(lambda: bool(said) and not renewal.is_busy, "its thread waits")
    until(lambda: len(said) > 5, "it is said again and again")
    assert len({thread for _, thread in said}) == 1
    assert [name for name, _ in said].count("seldom") == 1


def test_leases_do_not_wait_for_each_other(renewal: Renewal) -> None:
    """Fetches that begin together are told at once who else is there, also by a control plane that is far away."""
    together = threading.Barrier(MOST_THREADS)
    leases = [Lease(lambda: together.wait(20), 1000.0) for _ in range(MOST_THREADS)]
    for lease in leases:
        renewal.add(lease)
    assert all(lease.is_tried.wait(20) for lease in leases)
    assert [lease.trouble for lease in leases] == [""] * MOST_THREADS


def test_a_lease_is_on_one_thread_at_a_time(renewal: Renewal) -> None:
    """Its last word waits for a renewal under way, though other threads are free."""
    said: list[str] = []
    began, may_go_on = threading.Event(), threading.Event()
    lease = Lease(lambda: (began.set(), may_go_on.wait(20), said.append("here")), 0.0)
    renewal.add(lease)
    assert began.wait(20)
    renewal.end(lease, lambda: said.append("gone"))
    other = Lease(lambda: None, 1000.0)
    renewal.add(other)
    assert other.is_tried.wait(20)
    assert not lease.is_ended.is_set()
    may_go_on.set()
    assert lease.is_ended.wait(20)
    assert said == ["here", "gone"]


def test_where_one_thread_is_to_be_had_leases_take_turns(renewal: Renewal, monkeypatch: pytest.MonkeyPatch) -> None:
    """TasksMax= or `ulimit -u`: all is said, one after the other."""
    began, may_go_on = threading.Event(), threading.Event()
    renewal.add(Lease(lambda: (began.set(), may_go_on.wait(20)), 1000.0))
    assert began.wait(20)
    monkeypatch.setattr(threading.Thread, "start", _refuse)
    leases = [Lease(lambda: None, 1000.0) for _ in range(3)]
    for lease in leases:
        renewal.add(lease)
    may_go_on.set()
    assert all(lease.is_tried.wait(20) for lease in leases)


def _refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_slow_control_plane_is_asked_about_frequent_leases_first(
    renewal: Renewal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch does not wait for its turn behind hundreds of files that are handed on, nor these for ever behind it."""
    monkeypatch.setattr("loom.client.renewal.MOST_THREADS", 1)
    said: list[str] = []
    began, may_go_on = threading.Event(), threading.Event()
    renewal.add(Lease(lambda: (began.set(), may_go_on.wait()), 1000.0))
    assert began.wait(20)
    for number in range(100):
        renewal.add(Lease(lambda number=number: said.append(f"file {number}"), 1000.0))
    renewal.add(Lease(lambda: said.append("fetch"), 0.0))
    may_go_on.set()
    until(lambda: len({*said}) == 101, "each has been said")
    assert said.index("fetch") < 2
    assert said[:200].count("fetch") in range(99, 102)


def test_the_last_word_is_said_once_and_at_once(renewal: Renewal) -> None:
    """However long the period is; then nothing more is said, and ending it again is no harm."""
    said: list[str] = []
    lease = Lease(lambda: said.append("here"), 1000.0)
    renewal.add(lease)
    assert lease.is_tried.wait(20)
    renewal.end(lease, lambda: said.append("gone"))
    assert lease.is_ended.wait(20)
    renewal.end(lease, lambda: said.append("again"))
    assert said == ["here", "gone"]


def test_trouble_is_told_when_it_begins_and_when_it_is_over(renewal: Renewal) -> None:
    """Not each time; a bug counts as trouble, and ends nothing."""
    heard: list[str] = []
    answers = iter([RegistryUnavailable("away", "start it"), KeyError("bug"), None, None])

    def renew() -> None:
        if (error := next(answers, None)) is not None:
            raise error

    lease = Lease(renew, 0.001, on_trouble=heard.append)
    renewal.add(lease)
    until(lambda: len(heard) == 2, "it is well again")
    assert heard == ["away (start it)", ""]
    assert lease.trouble == ""


def test_in_trouble_the_last_word_is_not_said(renewal: Renewal) -> None:
    """A control plane that is away would only be waited for once more."""
    said: list[str] = []

    def fail() -> None:
        raise RegistryUnavailable("away")

    lease = Lease(fail, 1000.0)
    renewal.add(lease)
    assert lease.is_tried.wait(20)
    renewal.end(lease, lambda: said.append("gone"))
    assert lease.is_ended.wait(20)
    assert said == []


def test_one_that_hangs_is_not_waited_for() -> None:
    """`close` waits as long as it is told; the thread ends by itself, and says at its end what is to be said."""
    began, may_go_on, ended = threading.Event(), threading.Event(), threading.Event()
    renewal = Renewal("loom-renewed", ended.set)
    lease = Lease(lambda: (began.set(), may_go_on.wait()), 1000.0)
    renewal.add(lease)
    assert began.wait(20)
    renewal.close(0.0)
    assert not ended.is_set()
    may_go_on.set()
    assert ended.wait(20)
    assert lease.is_tried.is_set()


def test_what_was_never_begun_ends_at_once() -> None:
    """No thread is started for nothing."""
    ended = threading.Event()
    Renewal("loom-renewed", ended.set).close(0.0)
    assert ended.is_set()
