"""What /events shows, to whom, and for how long."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest

from loom.control import live
from tests.control.plane import Plane, has_ended, head, reply_of, running
from tests.waiting import until

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


@pytest.fixture
def plane(tmp_path, monkeypatch) -> Iterator[Plane]:
    """A control plane that looks for news fifty times a second."""
    monkeypatch.setattr(live, "PERIOD_S", 0.02)
    with running(tmp_path) as one:
        yield one


class Viewer:
    """A reader of /events."""

    def __init__(self, plane: Plane, query: str = "") -> None:
        self.socket: socket.socket = plane.open(head(f"/events{query}"))
        self._file = self.socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        self.headers: dict[str, str] = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(": ")
            self.headers[name.lower()] = value
        self._rest = b""

    def chunk(self) -> bytes:
        """Return what was sent in one piece; b"" at the end."""
        size = int(self._file.readline() or b"0", 16)
        data = self._file.read(size)
        self._file.readline()
        return data

    def event(self) -> dict[str, Any]:
        """Return the next event, whole."""
        while not self._rest.endswith(b"\n\n"):
            more = self.chunk()
            assert more, "the stream has ended"
            self._rest += more
        said, self._rest = self._rest, b""
        assert said.startswith(b"data: ")
        assert said.count(b"\n") == 2
        return json.loads(said[6:])

    def until(self, is_so) -> dict[str, Any]:
        """Return the first event of which something is true."""
        while not is_so(event := self.event()):
            continue
        return event

    def close(self) -> None:
        """Go away."""
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_a_viewer_sees_what_is_and_what_becomes(plane) -> None:
    """A view at once, and another after each kind of change."""
    plane.post("/register", node="a", model="m", zone="z")
    with Viewer(plane) as viewer:
        assert viewer.headers["content-type"] == "text/event-stream"
        assert viewer.headers["cache-control"] == "no-store"
        first = viewer.event()
        assert first["totals"] == {
            "nodes": 1,
            "models": 1,
            "fetching": 0,
            "from_origin": 0,
            "from_peers": 0,
            "served": 0,
        }
        assert [one["node"] for one in first["nodes"]] == ["a"]
        assert first["trouble"] == ""
        held = {"model": "m", "state": "partial", "received": 3, "size": 9, "from_origin": 2, "from_peers": 1}
        plane.post("/heartbeat", node="b", inventory=[held], load=4, served=8)
        seen = viewer.until(lambda event: event["totals"]["nodes"] == 2)
        (fetch,) = seen["fetches"]
        assert fetch == {"node": "b", "model": "m", "received": 3, "size": 9, "from_origin": 2, "from_peers": 1}
        assert seen["models"] == [{"model": "m", "complete": 1, "partial": 1, "from_origin": 2}]
        assert seen["totals"]["served"] == 8
        plane.post("/heartbeat", node="b", load=5)
        assert viewer.until(lambda event: event["nodes"][1]["load"] == 5)
        plane.ask("DELETE", "/register", {"node": "a"})
        assert viewer.until(lambda event: event["totals"]["nodes"] == 1)


def test_a_lease_that_ends_is_seen(plane) -> None:
    """That a node is gone is news, without anybody asking."""
    plane.post("/heartbeat", node="a", ttl_s=1, inventory=[{"model": "m"}])
    with Viewer(plane) as viewer:
        assert viewer.event()["totals"]["nodes"] == 1
        assert viewer.until(lambda event: event["totals"]["nodes"] == 0)["models"] == []


def test_a_renewal_is_no_news(plane, monkeypatch) -> None:
    """Heartbeats that change nothing send nothing but, in time, a comment that keeps the connection."""
    monkeypatch.setattr(live, "_KEEP_ALIVE_S", 0.1)
    epoch = plane.post("/heartbeat", node="a", inventory=[{"model": "m"}])["epoch"]
    with Viewer(plane) as viewer:
        viewer.event()
        for _ in range(3):
            plane.post("/heartbeat", node="a", epoch=epoch)
            plane.get("/nodes")
        assert viewer.chunk() == b": nothing new\n\n"
        assert viewer.chunk() == b": nothing new\n\n"


def test_a_search_narrows_all_but_totals(plane) -> None:
    """`?search=` is for nodes, models and fetches of either; totals stay those of all."""
    for number in range(3):
        plane.post("/register", node=f"node{number}", model=f"model{number}", state="partial", received=1)
    with Viewer(plane, "?search=L1") as viewer:
        event = viewer.event()
        assert [one["model"] for one in event["models"]] == ["model1"]
        assert event["nodes"] == []
        assert [one["node"] for one in event["fetches"]] == ["node1"]
        assert event["totals"]["nodes"] == event["totals"]["fetching"] == 3
    with Viewer(plane, "?search=NODE2") as viewer:
        assert [one["model"] for one in viewer.event()["fetches"]] == ["model2"]


def test_views_are_bounded_and_totals_are_not(plane, monkeypatch) -> None:
    """At most so many rows of each kind; the totals count all nodes, models and fetches."""
    monkeypatch.setattr(live, "MAX_ROWS", 5)
    for number in range(8):
        plane.post("/register", node=f"n{number}", model=f"m{number}", state="partial")
    with Viewer(plane) as viewer:
        event = viewer.event()
        assert [len(event[rows]) for rows in ("nodes", "models", "fetches")] == [5, 5, 5]
        assert [event["totals"][rows] for rows in ("nodes", "models", "fetching")] == [8, 8, 8]


@pytest.mark.parametrize("query", ["", "?search=n"])
def test_nothing_is_made_while_nothing_changes(plane, monkeypatch, query) -> None:
    """Viewers share a view; it is made anew when something has changed, with a search, too, and not at every look."""
    made: list[str] = []
    really = live.view_of

    def view_of(*arguments: Any) -> Any:
        made.append(query)
        return really(*arguments)

    monkeypatch.setattr(live, "view_of", view_of)
    monkeypatch.setattr(live, "_KEEP_ALIVE_S", 0.1)
    plane.post("/register", node="n", model="m")
    with Viewer(plane, query) as one, Viewer(plane, query) as other:
        for viewer in (one, other):
            viewer.event()
            for _ in range(3):
                assert viewer.chunk() == b": nothing new\n\n"  # it has looked several times
    assert len(made) <= 2


def test_too_many_viewers_are_told_so(plane, monkeypatch) -> None:
    """503 with a code that says that trying again may help, and Retry-After; the others go on."""
    monkeypatch.setattr(live, "MAX_VIEWERS", 2)
    with Viewer(plane) as one, Viewer(plane) as other:
        one.event()
        other.event()
        with plane.open(head("/events")) as third:
            answer = reply_of(third)
        assert answer.status == 503
        assert answer.code not in ("bad-request", "internal")
        assert answer.headers["Retry-After"]
        plane.post("/register", node="n", model="m")
        assert one.until(lambda event: event["totals"]["nodes"] == 1)


def test_viewers_who_left_take_no_place(plane, monkeypatch) -> None:
    """A page that is loaded again and again does not lock its viewer out, also while there is no news."""
    monkeypatch.setattr(live, "MAX_VIEWERS", 2)
    for _ in range(2):
        with Viewer(plane) as viewer:
            viewer.event()

    def is_let_in() -> bool:
        with Viewer(plane) as another:
            return another.status == 200

    until(is_let_in, "a viewer is let in")


def test_a_viewer_who_leaves_is_nobodys_error(plane, caplog) -> None:
    """Before the head, after it, in the middle of an event: nothing is logged."""
    caplog.set_level(logging.WARNING)
    for number in range(10):
        plane.open(head("/events")).close()
        one = plane.open(head("/events"))
        one.recv(10)
        one.close()
        plane.post("/register", node=f"n{number}", model="m")
    for _ in range(30):  # a round trip each: the server has seen all of the above go
        plane.get("/healthz")
    assert caplog.text == ""


def test_streams_end_with_the_server(tmp_path, monkeypatch) -> None:
    """Stopping ends every stream properly, and does not wait for viewers."""
    monkeypatch.setattr(live, "PERIOD_S", 30.0)
    with running(tmp_path) as plane:
        viewers = [Viewer(plane) for _ in range(5)]
        for viewer in viewers:
            viewer.event()
    for viewer in viewers:
        assert viewer.chunk() == b""
        until(lambda viewer=viewer: has_ended(viewer.socket), "the connection has ended")
        viewer.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "loom-control"]
