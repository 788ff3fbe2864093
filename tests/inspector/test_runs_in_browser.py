"""The view of runs as people use it: by keys, by its search and its chips, page by page, and with nothing in it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from contextstore import ContextStore
from contextstore._results import RunState

pytestmark = pytest.mark.parametrize("target", ["file"], indirect=True)


def begin(store: ContextStore, name: str, state: RunState = "open", **facts: str) -> None:
    parent = facts.pop("parent", None)
    run = store.run(name)
    run.begin(attributes=facts, parent=parent)
    if state != "open":
        run.update(state=state)


@pytest.fixture
def four(store: ContextStore) -> ContextStore:
    begin(store, "nightly-1", "completed", flow="nightly")
    begin(store, "nightly-2", "failed", flow="nightly")
    begin(store, "hourly-1", flow="hourly", parent="nightly-1")
    begin(store, "hourly-2", "cancelled", flow="hourly", parent="nightly-1")
    return store


@pytest.fixture
def many(store: ContextStore) -> ContextStore:
    with store.batch() as batch:
        for number in range(120):
            batch.put(f"run-{number:03}", "extract", 1)
    return store


def goto(page: Page, address: str) -> None:
    """A page whose scripts listen to keys."""
    page.goto(address, wait_until="load")


def shows(page: Page, *names: str) -> None:
    expect(page.locator("#runs .run-name")).to_have_text(list(names))


def follow(page: Page, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()


# -- by keys -----------------------------------------------------------------------------------------------------------


def test_a_run_is_searched_for_opened_and_left_by_keys(four: ContextStore, page: Page) -> None:
    goto(page, "/runs")
    page.keyboard.press("/")
    page.keyboard.type("night")
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs?prefix=night")
    shows(page, "nightly-2", "nightly-1")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("nightly-1")
    page.wait_for_load_state()
    page.keyboard.press("b")
    page.wait_for_url("**/runs?prefix=night")
    shows(page, "nightly-2", "nightly-1")


def test_back_leads_up_where_one_did_not_come_from_there(four: ContextStore, page: Page) -> None:
    goto(page, "/run?id=nightly-1")
    follow(page, "As a list of runs")
    shows(page, "hourly-2", "hourly-1")
    follow(page, "hourly-1")
    follow(page, "nightly-1")
    expect(page.get_by_role("heading", level=1)).to_have_text("nightly-1")
    page.wait_for_load_state()
    page.keyboard.press("b")
    page.wait_for_url("**/runs")


def test_back_on_the_list_of_runs_leads_to_where_one_was(four: ContextStore, page: Page) -> None:
    goto(page, "/globals")
    follow(page, "Runs")
    shows(page, "hourly-2", "hourly-1", "nightly-2", "nightly-1")
    page.wait_for_load_state()
    page.keyboard.press("b")
    page.wait_for_url("**/globals")


def test_keys_that_are_typed_in_a_field_are_text(four: ContextStore, page: Page) -> None:
    goto(page, "/runs")
    field = page.get_by_role("searchbox", name="Id begins with")
    page.keyboard.press("/")
    page.keyboard.type("/jkbt?")
    expect(field).to_have_value("/jkbt?")
    expect(field).to_be_focused()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator("html")).not_to_have_attribute("data-theme", "dark")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="hourly-2")).to_be_focused()


def test_keys_with_ctrl_or_alt_are_the_browsers(four: ContextStore, page: Page) -> None:
    goto(page, "/runs")
    for keys in ("Control+j", "Alt+j", "Meta+j"):
        page.keyboard.press(keys)
    assert page.evaluate("document.activeElement === document.body")


def test_while_the_keys_are_told_no_other_key_does_anything(four: ContextStore, page: Page) -> None:
    goto(page, "/runs")
    button = page.get_by_role("button", name="Keys")
    button.click()
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    for key in "jtb/":
        page.keyboard.press(key)
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    expect(page.locator("html")).not_to_have_attribute("data-theme", "dark")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="hourly-2")).to_be_focused()


def test_the_theme_is_that_of_the_next_page_before_it_is_painted(four: ContextStore, page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    goto(page, "/runs")
    page.get_by_role("button", name="Light or dark").click()
    page.add_init_script(
        """addEventListener("DOMContentLoaded", () => (window.first = document.documentElement.dataset.theme));"""
    )
    follow(page, "Health")
    expect(page.get_by_role("heading", level=1)).to_have_text("Health")
    assert page.evaluate("window.first") == "light"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(248, 249, 251)"


# -- the search --------------------------------------------------------------------------------------------------------


def test_states_are_turned_on_and_off_by_clicks(four: ContextStore, page: Page) -> None:
    goto(page, "/runs")
    states = page.get_by_role("group", name="States")
    states.get_by_role("link", name="failed").click()
    shows(page, "nightly-2")
    states.get_by_role("link", name="open").click()
    shows(page, "hourly-1", "nightly-2")
    page.get_by_role("searchbox", name="Id begins with").fill("hourly")
    page.keyboard.press("Enter")
    shows(page, "hourly-1")
    states.get_by_role("link", name="open (take away)").click()
    expect(page.get_by_text("No run fits")).to_be_visible()
    states.get_by_role("link", name="failed (take away)").click()
    shows(page, "hourly-2", "hourly-1")


def test_filters_are_typed_and_each_is_taken_away_by_a_click(four: ContextStore, page: Page) -> None:
    goto(page, "/runs")
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label("Attribute").fill("flow=hourly")
    page.get_by_label("Child of run").fill("nightly-1")
    page.get_by_label("Begun since").fill("1h")
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs?attribute=flow%3Dhourly&parent=nightly-1&since=1h")  # without what was left empty
    shows(page, "hourly-2", "hourly-1")
    chips = page.get_by_role("list", name="What is looked for")
    given = ["child of nightly-1 (take away)", "begun since 1h (take away)", "flow hourly (take away)", "Clear all"]
    expect(chips.get_by_role("link")).to_contain_text(given)
    chips.get_by_role("link", name="child of").click()
    expect(chips.get_by_role("link", name="child of")).to_have_count(0)
    chips.get_by_role("link", name="flow hourly").click()
    shows(page, "hourly-2", "hourly-1", "nightly-2", "nightly-1")
    chips.get_by_role("link", name="begun since").click()
    page.wait_for_url("**/runs")
    expect(chips).to_have_count(0)


def test_a_second_attribute_is_looked_for_beside_the_first(four: ContextStore, page: Page) -> None:
    begin(four, "hourly-3", flow="hourly", owner="ada")
    goto(page, "/runs?attribute=flow%3Dhourly")
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label("Attribute").fill("owner=ada")
    page.keyboard.press("Enter")
    shows(page, "hourly-3")
    page.get_by_role("link", name="Clear all").click()
    page.wait_for_url("**/runs")


def test_an_attribute_and_a_state_of_a_row_are_looked_for_by_a_click(four: ContextStore, page: Page) -> None:
    goto(page, "/runs")
    page.locator("#runs a.chip", has_text="nightly").first.click()
    shows(page, "nightly-2", "nightly-1")
    page.locator("#runs .run-state a", has_text="failed").click()
    shows(page, "nightly-2")


MISTAKES = [
    ("Attribute", "flow", "'flow' is no attribute"),
    ("Begun since", "soon", "'soon' is no time"),
    pytest.param("Begun before", "99999999w", "is no time", marks=pytest.mark.thorough),
    pytest.param("Child of run", "x" * 1025, "1024 is the most", marks=pytest.mark.thorough),
]


@pytest.mark.parametrize(("name", "text", "sentence"), MISTAKES, ids=["attribute", "since", "until", "parent"])
def test_a_mistake_is_told_at_its_field_which_has_the_focus(
    store: ContextStore, context: BrowserContext, name: str, text: str, sentence: str
) -> None:
    page = context.new_page()  # of which nobody minds that it is told of a 400
    goto(page, "/runs")
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label(name).fill(text)
    page.keyboard.press("Enter")
    field = page.get_by_role("textbox", name=name, exact=True)
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(re.compile(re.escape(sentence)))
    expect(field).to_have_value(text)
    expect(field).to_be_focused()
    told, at = page.locator(".mistake").bounding_box(), field.bounding_box()
    assert told is not None
    assert at is not None
    assert 0 <= told["y"] - at["y"] - at["height"] < 20
    field.fill("")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No runs yet")).to_be_visible()


# -- pages -------------------------------------------------------------------------------------------------------------


def test_pages_are_leafed_through_and_gone_back_over(many: ContextStore, page: Page) -> None:
    goto(page, "/runs")
    rows = page.locator("#runs-rows > tr")
    expect(rows).to_have_count(50)
    follow(page, "Older")
    expect(rows.first).to_contain_text("run-069")
    follow(page, "Older")
    expect(rows).to_have_count(20)
    expect(page.get_by_role("link", name="Older")).to_have_count(0)
    page.go_back()
    expect(rows.first).to_contain_text("run-069")
    follow(page, "run-069")
    expect(page.get_by_role("heading", level=1)).to_have_text("run-069")
    page.go_back()
    expect(rows.first).to_contain_text("run-069")
    follow(page, "First page")
    expect(rows.first).to_contain_text("run-119")
    expect(page.get_by_role("link", name="First page")).to_have_count(0)


def test_a_size_holds_for_the_pages_and_searches_that_follow(many: ContextStore, page: Page) -> None:
    goto(page, "/runs")
    sizes = page.get_by_role("navigation", name="Runs on a page")
    sizes.get_by_role("link", name="25").click()
    rows = page.locator("#runs-rows > tr")
    expect(rows).to_have_count(25)
    expect(sizes.locator("[aria-current]")).to_have_text("25")
    follow(page, "Older")
    expect(rows.first).to_contain_text("run-094")
    expect(rows).to_have_count(25)
    page.get_by_role("searchbox", name="Id begins with").fill("run-0")
    page.keyboard.press("Enter")
    expect(rows.first).to_contain_text("run-099")
    expect(rows).to_have_count(25)
    sizes.get_by_role("link", name="200").click()
    expect(rows).to_have_count(100)


def test_a_page_stays_as_long_as_it_is_while_runs_are_added(many: ContextStore, page: Page) -> None:
    page.goto("/runs?limit=25")
    expect(page.locator("#live")).to_have_attribute("data-state", "on")
    many.put("run-new", "extract", 1)
    rows = page.locator("#runs-rows > tr")
    expect(rows.first).to_contain_text("run-new")
    expect(rows).to_have_count(25)


def test_a_run_that_is_added_is_not_put_on_a_page_of_older_ones(many: ContextStore, page: Page) -> None:
    page.goto("/runs?after=run-070")
    expect(page.locator("#live")).to_have_attribute("data-state", "on")
    many.put("run-new", "extract", 1)
    many.put("run-069", "load", 1)  # told after the other one
    rows = page.locator("#runs-rows > tr")
    expect(rows.first.locator(".run-count")).to_have_text("2")
    expect(rows.first).to_contain_text("run-069")
    expect(rows).to_have_count(50)


# -- with nothing in it ------------------------------------------------------------------------------------------------


def test_an_empty_store_says_what_to_do_until_there_is_a_run(store: ContextStore, page: Page) -> None:
    page.goto("/runs")
    expect(page.get_by_text("No runs yet")).to_be_visible()
    expect(page.get_by_text("store.put(")).to_be_visible()
    expect(page.get_by_role("table")).to_be_hidden()
    expect(page.locator("#live")).to_have_attribute("data-state", "on")
    store.put("run-1", "extract", {"rows": 3})
    expect(page.get_by_role("link", name="run-1")).to_be_visible()
    expect(page.get_by_text("No runs yet")).to_be_hidden()


def test_where_nothing_fits_one_is_told_to_take_a_filter_away(four: ContextStore, page: Page) -> None:
    goto(page, "/runs?prefix=weekly")
    expect(page.get_by_text("No run fits")).to_be_visible()
    expect(page.get_by_text("Take a filter away")).to_be_visible()
    page.get_by_role("link", name="id begins with weekly").click()
    shows(page, "hourly-2", "hourly-1", "nightly-2", "nightly-1")
