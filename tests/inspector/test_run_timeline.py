"""The time line of a run in a browser: the brush, by mouse and by keyboard, rows that arrive, the keys, the widths."""

from __future__ import annotations

import datetime

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from contextstore import ContextStore

ONE_ENGINE = pytest.mark.parametrize("target", ["file"], indirect=True)
pytestmark = ONE_ENGINE


def fail() -> None:
    raise ConnectionError("no answer")


@pytest.fixture
def filled(store: ContextStore) -> ContextStore:
    """A run whose nodes are far enough apart to be told apart on its line, with a failure, and state."""
    run = store.run("run")
    run.begin(attributes={"flow": "nightly"}, parent="before")
    for number in range(10):
        run.step(f"n{number}", lambda number=number: {"number": number})
    with pytest.raises(ConnectionError):
        run.step("bad", fail)
    run.upsert_state("cursor", {"page": 1})
    run.update(state="failed", error="ConnectionError: no answer")
    store.run("run/child").begin(parent="run")
    return store


STILL = "/run?id=run&order=id"
"""A page that is not live: what a stream sends would put the times of a row back."""


def spread(page: Page) -> None:
    """Each row of a page begins a second after the one above it, and takes half of one, on any machine."""
    page.evaluate(
        """() => {
          [...document.querySelectorAll("#nodes tr")].forEach((row, place) => {
            row.dataset.from = String(place * 1000);
            row.dataset.to = String(place * 1000 + 500);
          });
          document.dispatchEvent(new CustomEvent("contextstore:swapped"));
        }"""
    )


def visible_rows(page: Page) -> int:
    return page.locator("#nodes tr:visible").count()


def test_a_drag_over_the_overview_zooms_all_rows_and_escape_shows_them_again(filled: ContextStore, page: Page) -> None:
    page.goto(STILL)
    spread(page)
    whole = page.locator("#nodes .span").first.get_attribute("viewBox")
    overview = page.locator(".overview").bounding_box()
    assert overview is not None
    middle = overview["y"] + overview["height"] / 2
    page.mouse.move(overview["x"] + overview["width"] * 0.45, middle)
    page.mouse.down()
    page.mouse.move(overview["x"] + overview["width"] * 0.99, middle, steps=4)
    page.mouse.up()
    expect(page.locator("#zoomed")).to_contain_text("outside are hidden")
    assert visible_rows(page) == 6  # from 4.7 s on: the one that began at 4 s has ended before
    expect(page.locator("#zoomed")).to_contain_text("6 nodes, 5 outside are hidden")
    shown = page.locator("#nodes tr:visible .span").first.get_attribute("viewBox")
    assert shown is not None
    assert whole is not None
    assert float(shown.split()[2]) == pytest.approx(float(whole.split()[2]) * 0.54, rel=0.01)
    page.keyboard.press("Escape")
    expect(page.locator("#zoomed")).to_be_hidden()
    assert visible_rows(page) == 11


def test_the_brush_is_moved_by_keys(filled: ContextStore, page: Page) -> None:
    page.goto(STILL)
    spread(page)
    begin, end = page.get_by_role("slider", name="The line begins at"), page.get_by_role("slider", name="ends at")
    begin.focus()
    for _ in range(3):
        page.keyboard.press("PageUp")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#zoomed")).to_be_visible()
    now, most = (float(begin.get_attribute(name) or "") for name in ("aria-valuenow", "aria-valuemax"))
    assert now == pytest.approx(most * 0.31, abs=1)  # of a run that goes on, the line ends now
    rows = page.locator("#nodes tr").count()
    assert visible_rows(page) == sum(place * 1000 + 500 >= now for place in range(rows)) < rows
    page.keyboard.press("Home")
    expect(page.locator("#zoomed")).to_be_hidden()
    end.focus()
    page.keyboard.press("Shift+ArrowLeft")
    expect(page.locator("#zoomed")).to_be_visible()
    page.keyboard.press("End")
    expect(page.locator("#zoomed")).to_be_hidden()
    expect(end).to_be_focused()


def test_rows_that_arrive_extend_the_line(filled: ContextStore, page: Page) -> None:
    page.goto("/run?id=run")
    page.evaluate(
        """() => {
          const row = document.querySelector("#nodes tr").cloneNode(true);
          row.id = "node-new";
          row.dataset.from = "100000";
          row.dataset.to = "120000";
          document.getElementById("nodes").append(row);
          document.dispatchEvent(new CustomEvent("contextstore:swapped"));
        }"""
    )
    expect(page.locator("#shown-nodes")).to_have_text("12 nodes")
    for box in page.locator("#nodes .span").evaluate_all("all => all.map(one => one.getAttribute('viewBox'))"):
        assert box == "0 0 120000 10"
    expect(page.locator("#axis")).to_contain_text("+1 min")


def test_the_line_of_a_run_that_goes_on_ends_now(store: ContextStore, page: Page) -> None:
    store.put("run", "a", 1)
    page.clock.install(time=datetime.datetime.now(datetime.UTC))
    page.goto("/run?id=run")
    expect(page.locator("#axis")).to_contain_text("now")
    page.clock.run_for(30_000)
    box = page.locator("#nodes .span").get_attribute("viewBox")
    assert box is not None
    assert float(box.split()[2]) >= 29_000


def test_rows_are_opened_and_left_by_keys(filled: ContextStore, page: Page) -> None:
    page.goto("/run?id=run")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="n1", exact=True)).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url("**/node?run=run&id=n0")
    page.go_back()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Node id begins with")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.wait_for_url("**/runs")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_accessibility_checker_finds_nothing(filled: ContextStore, page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of the two that it takes
    page.goto("/run?id=run")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [390, 820])
def test_a_narrow_page_does_not_scroll_sideways(filled: ContextStore, page: Page, width: int) -> None:
    filled.put("run", "a-very-long-id-" * 60, ["x" * 500])
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/run?id=run")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    row = page.locator("#nodes tr").first
    name, bar = row.locator(".node-id").bounding_box(), row.locator(".node-bar").bounding_box()
    assert name is not None
    assert bar is not None
    assert (bar["y"] >= name["y"] + name["height"] - 1) == (width == 390)


def test_the_line_of_the_last_output_is_drawn_whole_at_the_edge(filled: ContextStore, page: Page) -> None:
    page.goto(STILL)
    spread(page)
    beside_the_edge = """() => {
      const last = [...document.querySelectorAll("#nodes tr")].at(-1);
      for (const end of ["x1", "x2"]) last.querySelector(".written").setAttribute(end, last.dataset.to);
      last.scrollIntoView({ block: "center" });
      const box = last.querySelector(".track").getBoundingClientRect();
      return [0.5, 3].map((by) => document.elementFromPoint(box.right + by, box.y + box.height / 2)?.tagName);
    }"""
    assert page.evaluate(beside_the_edge) == ["line", "TD"]
