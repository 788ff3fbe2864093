"""A real Chromium, without a screen, for pages that are looked at as people look at them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # it would look for updates and the like
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
]


def executable() -> str | None:
    """The browser of this machine. None: it has none."""
    named = os.environ.get("CONTEXTSTORE_TEST_CHROMIUM")
    return named or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Where there is none the test is skipped; in CI it fails."""
    path = executable()
    if path is None:
        tell = pytest.fail if os.environ.get("CI") else pytest.skip
        tell("no Chromium here: install Debian's chromium, or name one in CONTEXTSTORE_TEST_CHROMIUM")
    with sync_playwright() as playwright:
        # As root, as in a container, Chromium refuses to start with its sandbox. The pages are our own.
        browser = playwright.chromium.launch(executable_path=path, args=_OPTIONS, chromium_sandbox=os.geteuid() != 0)
        try:
            yield browser
        finally:
            browser.close()
