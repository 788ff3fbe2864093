"""The checker of accessibility on the pages on which no other test has it look: runs, health, refusals, the door."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from contextstore import ContextStore
from contextstore.inspector import app

from .site import served

pytestmark = [
    pytest.mark.parametrize("target", ["file"], indirect=True),
    pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.thorough)]),
]


@pytest.fixture
def looked(context: BrowserContext, scheme: Any) -> Page:
    """A page in light or dark, of which nobody minds that it is told of a 404."""
    page = context.new_page()
    page.emulate_media(color_scheme=scheme)
    return page


@pytest.fixture
def runs(store: ContextStore) -> ContextStore:
    """A run in each state, with all that a row may have."""
    for state in ("open", "completed", "failed", "cancelled"):
        run = store.run(f"nightly/{state}")
        run.begin(attributes={"flow": "nightly", "nodes": 4, "note": "n" * 300, "late": True}, parent="nightly")
        run.put("extract", {"rows": 3})
        with pytest.raises(ZeroDivisionError):
            run.step("divide", lambda: 1 / 0)
        if state != "open":
            run.update(state=state, error="Traceback …\nKeyError: 'a'" if state == "failed" else None)
    store.put("x" * 1024, "extract", 1)
    return store


def find_nothing(page: Page) -> None:
    report = Axe().run(page)
    assert report.violations_count == 0, f"{page.url}: {report.generate_report()}"


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.thorough)])
def test_on_runs(runs: ContextStore, looked: Page, width: int) -> None:
    looked.set_viewport_size({"width": width, "height": 800})
    looked.goto("/runs?limit=3&state=open&state=failed&attribute=flow%3Dnightly&since=1h")
    expect(looked.locator("#runs-rows > tr")).to_have_count(2)
    find_nothing(looked)
    looked.get_by_text("Filters", exact=True).click()
    find_nothing(looked)
    looked.goto("/runs?limit=2")
    expect(looked.locator("#live")).to_have_attribute("data-state", "on")
    find_nothing(looked)


def test_on_runs_of_which_there_are_none(store: ContextStore, looked: Page) -> None:
    for address in ("/runs", "/runs?prefix=a"):
        looked.goto(address)
        find_nothing(looked)


def test_on_mistakes(store: ContextStore, looked: Page) -> None:
    for address in (
        "/runs?since=soon&attribute=a&prefix=" + "x" * 1025,
        "/runs?state=lost&limit=many",
        "/runs?after=a",
    ):
        looked.goto(address)
        find_nothing(looked)


def test_on_the_keys(runs: ContextStore, looked: Page) -> None:
    looked.goto("/runs")
    looked.keyboard.press("?")
    expect(looked.get_by_role("dialog", name="Keys")).to_be_visible()
    find_nothing(looked)


def test_on_health(target: str, runs: ContextStore, looked: Page) -> None:
    looked.goto("/health")
    expect(looked.locator("#live")).to_have_attribute("data-state", "on")
    find_nothing(looked)
    looked.get_by_role("button", name="Check the whole store").click()
    expect(looked.get_by_text("Nothing is wrong")).to_be_visible()
    find_nothing(looked)
    damage(target)
    looked.get_by_role("button", name="Check the whole store").click()
    expect(looked.get_by_text("problems found")).to_be_visible()
    find_nothing(looked)


def damage(target: str) -> None:
    connection = sqlite3.connect(target)
    with connection:
        connection.execute("UPDATE node_outputs SET value = 'other'")
    connection.close()


def test_on_what_is_refused(store: ContextStore, looked: Page) -> None:
    store.put("gone", "extract", 1)
    store.delete_run("gone")
    for address in ("/run?id=gone", "/nowhere"):
        looked.goto(address)
        expect(looked.get_by_role("link", name="All runs")).to_be_visible()
        find_nothing(looked)


def test_on_the_door(store: ContextStore, looked: Page) -> None:
    with served(app(store, token="a-token-that-nobody-guesses")) as address:
        looked.goto(f"{address}/runs")
        expect(looked.get_by_role("heading")).to_be_visible()
        find_nothing(looked)


def test_on_a_run_that_may_be_deleted(runs: ContextStore, looked: Page) -> None:
    with served(app(runs, allow_delete=True)) as address:
        looked.goto(f"{address}/run?id=nightly%2Ffailed")
        looked.get_by_role("button", name="Delete run…").click()
        expect(looked.get_by_role("dialog", name="Delete this run?")).to_be_visible()
        find_nothing(looked)
