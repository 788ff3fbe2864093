"""What every page of the inspector has: the frame, the theme, the keys."""

from __future__ import annotations

import os
import pathlib

import httpx
from playwright.sync_api import Page, expect

from contextstore import ContextStore
from contextstore.inspector import app

from .requests import asked


def test_the_front_leads_to_the_runs(store: ContextStore, http: httpx.Client) -> None:
    store.put("run-1", "extract", 1)
    answer = http.get("/", follow_redirects=True)
    assert answer.status_code == 200
    assert answer.url.path == "/runs"
    assert "run-1" in answer.text


def test_what_is_no_page_says_so(http: httpx.Client) -> None:
    assert http.get("/nowhere").status_code == 404
    assert "there is no such page" in http.get("/nowhere").text


def test_no_name_of_a_browsers_becomes_a_path(http: httpx.Client) -> None:
    for name in ("../pages.py", "..%2f..%2fpages.py", "/etc/passwd", "%2e%2e/pages.py", "css/base.css"):
        assert http.get(f"/static/x/{name}").status_code == 404, name


def test_a_store_whose_name_is_no_text_is_shown_at_every_page(tmp_path: pathlib.Path) -> None:
    with ContextStore(tmp_path / os.fsdecode(b"odd\xff\n<b>.db")) as odd:
        odd.put("run", "node", 1)
        for path in ("/runs", "/globals", "/leases", "/health", "/compare", "/nowhere"):
            answer = asked(app(odd), path)
            assert answer.status_code == (404 if path == "/nowhere" else 200), path
            assert b"odd\\udcff\\n&lt;b&gt;.db" in answer.body, path


def test_t_turns_the_theme_and_it_stays(store: ContextStore, page: Page) -> None:
    page.goto("/runs")
    page.keyboard.press("t")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.keyboard.press("t")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")


def test_rows_are_moved_over_and_opened_by_keys(store: ContextStore, page: Page) -> None:
    for number in range(3):
        store.put(f"run-{number}", "extract", number)
    page.goto("/runs")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="run-2")).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="run-0")).to_be_focused()
    page.keyboard.press("k")
    expect(page.get_by_role("link", name="run-1")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox").first).to_be_focused()


def test_the_keys_are_told_by_a_question_mark(store: ContextStore, page: Page) -> None:
    page.goto("/runs")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()


def test_the_names_of_the_views_stand_where_they_stood_when_another_is_opened(store: ContextStore, page: Page) -> None:
    places = []
    for path in ("/runs", "/globals", "/leases", "/health"):
        page.goto(path)
        places.append(
            [link.bounding_box() for link in page.get_by_role("navigation", name="Views").get_by_role("link").all()]
        )
    assert places[1:] == places[:1] * 3
