"""What somebody does at a page stays while rows come in: the focus, a selection, the place, what is unfolded."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from contextstore import ContextStore

BOTH = pytest.mark.parametrize("address", ["/runs", "/run?id=run-01"])


@pytest.fixture(params=["file"])
def target(request: pytest.FixtureRequest, tmp_path: object) -> str:
    return f"{tmp_path}/store.db"


@pytest.fixture
def filled(store: ContextStore) -> ContextStore:
    """As many runs, and nodes of a run, as make pages that are scrolled."""
    for number in range(1, 40):
        store.run(f"run-{number:02}").begin(attributes={"nodes": 60})
    store.put_many("run-01", {f"node-{number:02}": number for number in range(1, 40)})
    return store


def live(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.locator("#live")).to_have_attribute("data-state", "on")


def news(store: ContextStore, page: Page) -> None:
    """Rows come in, at either page, and others change."""
    store.put("run-02", "node-01", 1)
    store.put("run-01", "node-40", 1)
    store.run("run-40").begin()
    expect(page.get_by_role("link", name="-40", exact=False)).to_be_visible()


def fail() -> None:
    raise ConnectionError("<no> answer")


@BOTH
def test_what_is_selected_stays_selected(address: str, filled: ContextStore, page: Page) -> None:
    live(page, address)
    page.evaluate(
        "() => { const rows = [...document.querySelectorAll('tbody tr[data-row] a.id')];"
        " document.getSelection().setBaseAndExtent(rows.at(-3).firstChild, 2, rows.at(-2).firstChild, 4); }"
    )
    # Not its text: the ages in it go on.
    ends = "[getSelection().anchorNode.data, getSelection().anchorOffset, getSelection().focusOffset]"
    selected = page.evaluate(ends)
    news(filled, page)
    assert page.evaluate(ends) == selected
    assert selected[1:] == [2, 4]


@BOTH
def test_what_somebody_reads_stays_where_it_is_on_the_screen(address: str, filled: ContextStore, page: Page) -> None:
    live(page, address)
    page.evaluate("scrollTo(0, 700)")
    row = page.locator("tbody tr[data-row]:nth-child(25)").element_handle()
    place = "row => row.getBoundingClientRect().top"
    before = row.evaluate(place)
    news(filled, page)
    assert page.evaluate("scrollY") > 0
    assert row.evaluate(place) == pytest.approx(before, abs=1)  # Chromium scrolls by whole pixels


@BOTH
def test_a_link_that_has_the_focus_keeps_it(address: str, filled: ContextStore, page: Page) -> None:
    live(page, address)
    link = page.locator("tbody tr[data-row] a.id").nth(37)  # of the last but one, which changes
    name = link.text_content()
    link.focus()
    news(filled, page)
    assert page.evaluate("document.activeElement.textContent") == name


def test_what_is_typed_stays_and_so_do_unfolded_filters(filled: ContextStore, page: Page) -> None:
    live(page, "/runs")
    page.get_by_text("Filters").click()
    page.get_by_label("Attribute").fill("flow=ni")
    news(filled, page)
    page.keyboard.type("ghtly")
    expect(page.get_by_label("Attribute")).to_have_value("flow=nightly")
    expect(page.locator("details.filters")).to_have_attribute("open", "")


def test_a_child_that_has_the_focus_keeps_it_when_another_one_is_begun(filled: ContextStore, page: Page) -> None:
    filled.run("child-1").begin(parent="run-01")
    live(page, "/run?id=run-01")
    page.get_by_role("link", name="child-1").focus()
    filled.run("child-2").begin(parent="run-01")
    filled.put("run-01", "node-40", 1)  # of which the page is told
    expect(page.get_by_role("link", name="child-2")).to_be_visible()
    expect(page.get_by_role("link", name="child-1")).to_be_focused()


def test_what_is_unfolded_within_a_part_stays_so(filled: ContextStore, page: Page) -> None:
    live(page, "/runs")
    texts = page.evaluate(
        """async () => {
          const script = document.querySelector("script[src*='main.js']").src;
          const { elementsOf, swap } = await import(script.replace("main.js", "swap.js"));
          const part = (count) => `<div id="part"><details><summary>more</summary><p>${count}</p></details></div>`;
          document.getElementById("main").append(...elementsOf(part(1)));
          const details = document.querySelector("#part details");
          details.open = true;
          swap(elementsOf(part(2)));
          return [details.isConnected, details.open, details.textContent];
        }"""
    )
    assert texts == [True, True, "more2"]


def test_a_run_is_followed_from_its_begin_over_a_failure_and_a_retry_to_its_end(
    store: ContextStore, page: Page
) -> None:
    run = store.run("run")
    run.begin(attributes={"nodes": 2})
    live(page, "/run?id=run")
    expect(page.locator("#nothing")).to_be_visible()
    run.step("extract", lambda: {"rows": 3})
    rows = page.locator("#nodes > tr")
    expect(rows).to_have_count(1)
    expect(page.locator("#nothing")).to_have_count(0)
    expect(page.locator("#shown-nodes")).to_have_text("1 node")
    with pytest.raises(ConnectionError):
        run.step("load", fail)
    expect(rows.nth(1)).to_contain_text("<no> answer")
    expect(rows.nth(1)).to_have_attribute("data-failed", "")
    expect(page.locator("#run-head")).to_contain_text("1 failed attempt")
    run.upsert_state("page", 1)
    expect(page.locator("#states > tr")).to_contain_text(["page"])
    run.step("load", lambda: "loaded")
    expect(rows.nth(1)).to_contain_text("loaded")
    expect(rows.nth(1)).not_to_have_attribute("data-failed", "")
    expect(rows.nth(1).locator(".failures").first).to_contain_text("1")
    expect(rows).to_have_count(2)
    run.upsert_state("page", 2)
    expect(page.locator("#states > tr > td.wide")).to_have_text(["2"])
    run.update(state="completed")
    expect(page.locator("#run-head .state.completed")).to_be_visible()
    expect(page.locator("#run-head")).not_to_have_attribute("data-running", "")
    expect(page.locator("#axis")).not_to_contain_text("now")
    written = page.locator(".overview-lines path.written").get_attribute("d")
    assert written is not None
    assert written.count("M") == 2


def test_the_bar_of_a_run_goes_on_with_its_outputs(store: ContextStore, page: Page) -> None:
    run = store.run("run")
    run.begin(attributes={"nodes": 3})
    live(page, "/runs")
    bar = page.locator("#runs-rows progress")
    for count in (1, 2, 3):
        run.put(f"node-{count}", count)
        expect(bar).to_have_attribute("value", str(count))
        expect(page.locator(".run-count")).to_have_text(f"{count} / 3")
    run.update(state="completed")
    expect(bar).to_have_class("meter completed")
