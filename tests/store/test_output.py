"""Outputs: what can be known of a final path before anything is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from loom.errors import StoreError, UsageError
from loom.store.output import check_out


def test_where_a_file_can_go(tmp_path, monkeypatch) -> None:
    """The final path is absolute, with its folder's links resolved and its own left alone."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    assert check_out(tmp_path.joinpath("link", "x").relative_to(tmp_path)) == tmp_path / "real" / "x"


@pytest.mark.parametrize(
    ("name", "error"), [("", UsageError), ("missing/x", StoreError), ("x" * 256, UsageError), ("a\0b", UsageError)]
)
def test_where_a_file_cannot_go(tmp_path, name, error) -> None:
    """A folder, a missing folder, a name too long, a null byte: told at once, with a hint."""
    with pytest.raises(error) as caught:
        check_out(tmp_path / name)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("path", "what"),
    [("/proc/x", "/proc is the system's own"), ("/dev/x", "/dev is the system's own"), ("/dev/null", "is a device")],
)
def test_among_devices(path, what) -> None:
    """A new name among devices and processes, and a device, are told for what they are."""
    with pytest.raises(UsageError, match=what):
        check_out(Path(path))
