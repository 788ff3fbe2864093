"""A store on each engine, its pages as they are served, an HTTP client and a browser that look at them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from contextstore import ContextStore
from contextstore.inspector import app

from ..conftest import new_location
from ..support.chromium import running_browser
from .site import served

expect.set_options(timeout=30_000)  # a guard against hangs: its own is of five seconds


@pytest.fixture(params=["file", "postgres"])
def target(request: pytest.FixtureRequest) -> str:
    """Where nobody has been yet."""
    return str(new_location(request.param, request))


@pytest.fixture
def store(target: str) -> Iterator[ContextStore]:
    """Who writes: another object than that of the pages."""
    with ContextStore(target) as opened:
        yield opened


@pytest.fixture
def site(target: str, store: ContextStore) -> Iterator[str]:
    """The address of pages that show the store, read-only and without a token."""
    store.open()
    with ContextStore(target, read_only=True) as looked_at, served(app(looked_at)) as address:
        yield address


@pytest.fixture
def http(site: str) -> Iterator[httpx.Client]:
    """A program that asks for pages by their paths."""
    with httpx.Client(base_url=site, timeout=60) as client:
        yield client


@pytest.fixture(scope="package")
def running() -> Iterator[tuple[Browser, asyncio.AbstractEventLoop]]:
    """The browser of this folder's tests, and the loop of playwright's, which counts as running in this thread."""
    with running_browser() as started:
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        yield started, loop
        asyncio._set_running_loop(loop)


@pytest.fixture
def browser(running: tuple[Browser, asyncio.AbstractEventLoop]) -> Iterator[Browser]:
    """A Chromium. Its loop counts as running while the test does, and not under tests that have loops of their own."""
    started, loop = running
    asyncio._set_running_loop(loop)
    yield started
    asyncio._set_running_loop(None)


@pytest.fixture
def context(browser: Browser, site: str) -> Iterator[BrowserContext]:
    """A browser that nobody has used, in which paths are those of the site."""
    made = browser.new_context(base_url=site, viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    made.set_default_timeout(30_000)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page of that browser. What its scripts complain of, or its policy refuses, fails the test."""
    opened, complaints = context.new_page(), list[str]()
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield opened
    assert complaints == []
