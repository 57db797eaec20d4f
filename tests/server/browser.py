"""The system's Chromium without a screen, and a page that is watched for what it must never do."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")

DEADLINE_MS = 10_000
"""Far beyond what anything here takes."""


@contextlib.contextmanager
def headless() -> Iterator[Browser]:
    """Run the browser; skip the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)}")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()


class Watched:
    """A page in a context of its own. `close` fails if it asked another host, broke its policy or logged an error."""

    def __init__(self, browser: Browser, **context: object) -> None:
        self.context = browser.new_context(**context)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(DEADLINE_MS)
        self.foreseen: list[str] = []
        """Parts of errors that a test provokes."""
        self.asked: list[str] = []
        self._errors: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self._errors.append(str(error)))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._errors.append(message.text)

    def close(self, url: str) -> None:
        """Go away; everything that was asked must have been asked at `url`."""
        self.context.close()
        errors = [error for error in self._errors if not any(part in error for part in self.foreseen)]
        assert errors == []
        hosts = {urlsplit(one).netloc for one in self.asked if not one.startswith("data:")}
        assert hosts == {urlsplit(url).netloc}
