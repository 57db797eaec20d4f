"""A fetch whose end is judged: the right bytes, or the right error; and never a secret told to anyone."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

import loom
from loom import errors
from tests.fetching.kit import CHUNK, leftovers

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 20 * CHUNK + 123
"""Enough for a few workers to have several chunks each."""

SECRET = "-secret"
"""What every token, password, cookie and signature of these tests ends with."""

CHOICES: dict[str, Any] = {"chunk_size": CHUNK, "backoff_s": 0.01, "timeout_s": 10.0, "workers": 4, "no_cache": True}
"""What a judged fetch is told. A test whose origin falls silent gives a shorter time-out of its own."""

EXIT_CODES = {
    errors.UsageError: 2,
    errors.NotFound: 4,
    errors.AccessDenied: 5,
    errors.OriginError: 6,
    errors.OriginUnreachable: 6,
    errors.OriginThrottled: 6,
    errors.OriginChanged: 6,
    errors.IntegrityError: 7,
    errors.StoreError: 8,
    errors.StoreFull: 8,
}
"""The exit codes of docs/errors.md, written down a second time on purpose."""


class Getter:
    """Fetches to `out`. `told` is everything that a user gets to see of it."""

    def __init__(self, folder: Path, name: str = "model.bin") -> None:
        self.out = folder / name
        self.told: list[str] = []

    def right(self, url: str, data: bytes, **choices: Any) -> loom.Receipt:
        """Fetch, and insist that `data` stands under the name afterwards, alone."""
        receipt = loom.fetch(url, self.out, on_progress=self._hear, **{**CHOICES, **choices})
        self.told.append(json.dumps(receipt.to_dict()))
        assert self.out.read_bytes() == data
        assert receipt.size == len(data)
        assert leftovers(self.out) == []
        return receipt

    def wrong(self, url: str, kind: type[loom.LoomError], **choices: Any) -> loom.LoomError:
        """Fetch, and insist on exactly this error, its exit code and a hint, and nothing new under the name."""
        before = self.out.read_bytes() if self.out.is_file() else None
        with pytest.raises(kind) as caught:
            loom.fetch(url, self.out, on_progress=self._hear, **{**CHOICES, **choices})
        error = caught.value
        self.told += [str(error), error.hint, repr(error), repr(error.__cause__)]
        assert type(error) is kind
        assert error.hint or kind in (errors.UsageError, errors.StoreError), f"and what is to be done? {error}"
        assert error.exit_code == EXIT_CODES[kind]
        assert (self.out.read_bytes() if self.out.is_file() else None) == before
        return error

    def break_off(self, url: str, **choices: Any) -> None:
        """Fetch something that cannot be finished, and insist that what came is kept beside the name."""
        with pytest.raises(errors.OriginError):
            loom.fetch(url, self.out, **{**CHOICES, "retries": 0, **choices})
        assert leftovers(self.out) == [f".{self.out.name}.loom.journal", f".{self.out.name}.loom.part"]

    def left_behind(self) -> str:
        """Return the names, contents and attributes of all files in the folder (the bytes of `out` itself aside)."""
        texts = []
        for path in self.out.parent.iterdir():
            texts.append(path.name)
            if path.is_file() and path != self.out:
                texts.append(path.read_bytes().decode("latin-1"))
            with contextlib.suppress(OSError, AttributeError):
                texts += [os.getxattr(path, name).decode("latin-1") for name in os.listxattr(path)]
        return "\n".join(texts)

    def _hear(self, progress: loom.Progress) -> None:
        self.told.append(progress.note)
