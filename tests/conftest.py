"""What every test gets: an end if it hangs, no settings of the machine's own, and origins that misbehave when told."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests import leftovers
from tests.fetching.kit.fleet import UNHURRIED
from tests.fetching.kit.getter import SECRET, Getter
from tests.origins.fault import Origin
from tests.origins.hub import Hub
from tests.origins.nginx import OriginUnavailable
from tests.origins.tls import Authority
from tests.waiting import DEADLINE_S, busyness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HANG_S = 60.0
"""Seconds far beyond what any test takes on an idle machine; a busy one gets as many times more as it is busy."""


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests begin, though a shell that started them in the background has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Report the processes that tests have begun and not ended."""
    leftovers.mark()
    yield
    left = leftovers.wait_for_none()
    assert not left, "left running:\n" + "\n".join(f"  {pid}: {told}" for pid, told in left.items())


class Hung(Exception):
    """A test did not end."""


@pytest.fixture(autouse=True)
def hang_guard() -> Iterator[None]:
    """Raise Hung in a test that does not end, again and again until it lets go."""
    began = time.monotonic()

    def wake(*_: object) -> None:
        elapsed_s = time.monotonic() - began
        if elapsed_s > HANG_S * busyness():
            faulthandler.dump_traceback(sys.__stderr__)
            raise Hung(f"still running after {elapsed_s:.0f} s")

    before = signal.signal(signal.SIGALRM, wake)
    signal.setitimer(signal.ITIMER_REAL, HANG_S, 5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hide the settings of the user who runs the tests."""
    for name in [name for name in os.environ if name.startswith("LOOM_")]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-settings"))
    monkeypatch.setenv("LOOM_CACHE", str(tmp_path_factory.getbasetemp() / f"cache-{os.urandom(4).hex()}"))


@pytest.fixture
def origin() -> Iterator[Origin]:
    """An origin at 127.0.0.1."""
    with Origin() as server:
        yield server


@pytest.fixture
def other_origin() -> Iterator[Origin]:
    """An origin at 127.0.0.2: another host."""
    with Origin("127.0.0.2") as server:
        yield server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub of models, which HF_ENDPOINT names; no token, and none of the machine's own settings."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE_"))]:
        monkeypatch.delenv(name)
    with Hub() as one:
        monkeypatch.setenv("HF_ENDPOINT", one.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub-home")))
        yield one


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A throw-away certificate authority, for localhost and 127.0.0.1."""
    try:
        return Authority(tmp_path_factory.mktemp("authority"))
    except OriginUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def tls_origin(authority: Authority) -> Iterator[Origin]:
    """An origin that speaks TLS, called localhost."""
    with Origin(tls=authority.context(), name="localhost") as server:
        yield server


@pytest.fixture
def getter(tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[Getter]:
    """Return a Getter for an empty folder; in the end no secret may have been told or left anywhere."""
    caplog.set_level(0)
    one = Getter(tmp_path)
    yield one
    printed = "".join(capfd.readouterr())
    assert SECRET not in "\n".join([*one.told, one.left_behind(), printed, caplog.text])


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give honest peers and control planes as long as they need: on a busy machine an answer may take seconds."""
    for name in UNHURRIED:
        monkeypatch.setattr(f"loom.{name}", DEADLINE_S)
