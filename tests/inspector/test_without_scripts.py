"""The pages in a browser that runs no scripts: links and forms work, and what needs scripts is not there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from contextstore import ContextStore
from contextstore.inspector import app

from .site import PATIENCE, served

pytestmark = pytest.mark.parametrize("target", ["file"], indirect=True)


@pytest.fixture
def plain(browser: Browser, site: str) -> Iterator[Page]:
    with browser.new_context(base_url=site, java_script_enabled=False) as context:
        context.set_default_timeout(30_000)
        yield context.new_page()


@pytest.fixture
def many(store: ContextStore) -> ContextStore:
    with store.batch() as batch:
        for number in range(60):
            batch.put(f"run-{number:03}", "extract", {"number": number})
    run = store.run("nightly")
    run.begin(attributes={"flow": "nightly"})
    for number in range(260):
        run.put(f"node-{number:03}", number)
    run.update(state="completed")
    return store


def test_runs_are_searched_for_and_leafed_through(many: ContextStore, plain: Page) -> None:
    plain.goto("/runs")
    rows = plain.locator("#runs-rows > tr")
    expect(rows).to_have_count(50)
    plain.get_by_role("link", name="Older").click()
    expect(rows).to_have_count(11)
    plain.get_by_label("Id begins with").fill("run-01")
    plain.get_by_role("button", name="Search").click()
    expect(rows).to_have_count(10)
    plain.get_by_role("group", name="States").get_by_role("link", name="failed").click()
    expect(plain.get_by_text("No run fits")).to_be_visible()
    plain.get_by_role("link", name="Clear all").click()
    plain.get_by_text("Filters", exact=True).click()
    plain.get_by_label("Attribute").fill("flow=nightly")
    plain.get_by_label("Attribute").press("Enter")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("completed")
    plain.get_by_text("Filters", exact=True).click()
    plain.get_by_label("Begun since").fill("soon")
    plain.get_by_label("Begun since").press("Enter")
    expect(plain.get_by_text("'soon' is no time")).to_be_visible()
    expect(plain.get_by_label("Begun since")).to_be_focused()


def test_a_run_is_read_to_its_last_node(many: ContextStore, plain: Page) -> None:
    plain.goto("/run?id=nightly")
    nodes = plain.locator("#nodes > tr")
    expect(nodes).to_have_count(250)
    expect(plain.locator("#axis")).to_be_visible()
    for name in ("Copy id", "Keys", "Light or dark"):
        expect(plain.get_by_role("button", name=name)).to_be_hidden()
    plain.get_by_role("link", name="Next nodes").click()
    expect(nodes).to_have_count(10)
    plain.get_by_role("columnheader", name="Size").get_by_role("link").click()
    expect(plain.get_by_role("columnheader", name="Size")).to_have_attribute("aria-sort", "descending")
    plain.get_by_role("searchbox", name="Node id begins with").fill("node-07")
    plain.get_by_role("searchbox", name="Node id begins with").press("Enter")
    expect(nodes).to_have_count(10)
    plain.get_by_role("link", name="node-077").click()
    expect(plain.get_by_role("region", name="Value")).to_contain_text("77")
    plain.get_by_role("link", name="nightly").click()
    expect(plain.get_by_role("heading", level=1)).to_have_text("nightly")


def test_a_run_is_deleted(many: ContextStore, browser: Browser) -> None:
    with (
        served(app(many, allow_delete=True)) as address,
        browser.new_context(base_url=address, java_script_enabled=False) as context,
    ):
        page = context.new_page()
        page.goto("/run?id=nightly")
        expect(page.get_by_role("button", name="Delete the run")).to_be_hidden()
        page.locator("summary", has_text="Delete run…").click()
        page.get_by_role("button", name="Delete the run").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Run nightly was deleted")
    assert many.get_run_info("nightly") is None


def test_the_store_is_checked(many: ContextStore, plain: Page) -> None:
    plain.goto("/health")
    expect(plain.get_by_text("Outputs per second")).to_be_visible()
    plain.get_by_role("button", name="Check the whole store").click()
    found = plain.get_by_text("Nothing is wrong")
    for _ in range(int(PATIENCE * 10)):
        if found.is_visible():
            break
        plain.wait_for_timeout(100)
        plain.reload()
    expect(found).to_be_visible()


def test_leases_are_searched_for(store: ContextStore, plain: Page) -> None:
    with store.lease("nightly"), store.lease("other"):
        plain.goto("/leases")
        plain.get_by_label("Name begins with").fill("night")
        plain.get_by_role("button", name="Search").click()
        expect(plain.locator(".leases .what")).to_have_text(["nightly"])
