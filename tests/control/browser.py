"""The system's Chromium without a screen, and a page that is watched for what it must never do."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")

DEADLINE_MS = 10_000
"""Far beyond what anything here takes."""


@contextlib.contextmanager
def headless(*more: str) -> Iterator[Browser]:
    """Run the browser, with more options; skip the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)}")
    options = [*more, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()


@contextlib.contextmanager
def visit(browser: Browser, url: str, *foreseen: str, **options: Any) -> Iterator[Page]:
    """Open a page in a context of its own, and wait until it has something to show or to ask.

    In the end it must have asked no other host, and no error may have been logged (a breach of its policy is one) but
    those that hold a `foreseen` text.
    """
    errors: list[str] = []
    hosts: set[str] = set()

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            errors.append(message.text)

    context = browser.new_context(**options)
    context.set_default_timeout(DEADLINE_MS)
    page = context.new_page()
    page.on("console", hear)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(url)
    page.wait_for_selector("[data-state=live], [data-state=locked]")
    yield page
    context.close()
    assert [error for error in errors if not any(text in error for text in foreseen)] == []
    assert hosts - {""} == {urlsplit(url).netloc}  # the icon is in the page: data: has no host
