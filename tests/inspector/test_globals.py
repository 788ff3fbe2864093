"""Globals: a list of them, one by itself, and what is told of them while one looks."""

from __future__ import annotations

import base64
import html
import re
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, expect

from contextstore import ContextStore
from contextstore._inspect.global_keys import global_page
from contextstore.inspector import app

from .harm import harm
from .site import served
from .timers import hold_timers, let_time_pass, turn, waits


def keys_of(page: str) -> list[str]:
    """The keys that a page lists, by the addresses of their rows."""
    found = re.findall(r'<a class="id mono clamp" href="([^"]*)"', page)
    return [httpx.URL(html.unescape(one)).params.get("key", "") for one in found]


def pages_of(http: httpx.Client, address: str) -> list[str]:
    """A page, and those that "Next" leads to."""
    pages = []
    while address:
        pages.append(http.get(address).text)
        link = re.search(r'rel="next" href="([^"]*)"', pages[-1])
        address = html.unescape(link[1]) if link else ""
    return pages


def test_globals_are_listed_by_key_with_all_that_is_known_of_them(store: ContextStore, http: httpx.Client) -> None:
    for number in range(3):
        store.upsert_global("rate", {"limit": number})
    store.upsert_global("image", b"\x89PNG", ttl=5400)
    page = http.get("/globals").text
    assert keys_of(page) == ["image", "rate"]
    text = html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page)))
    assert re.search(r"image 4 bytes: 89 50 4e 47 1 (now|\d+ s ago) in 1 h", text)
    assert re.search(r'rate \{"limit": 2\} 3 (now|\d+ s ago) never', text)
    image, rate = http.get("/globals.json").json()["globals"]
    assert (image["key"], base64.b64decode(image["base64"]), image["version"]) == ("image", b"\x89PNG", 1)
    assert (rate["value"], rate["version"], rate["expires_at"]) == ({"limit": 2}, 3, None)
    assert image["expires_at"] > image["written_at"]


def test_a_prefix_is_literal(store: ContextStore, http: httpx.Client) -> None:
    for key in ("a%b", "a_c", "axb", "a%"):
        store.put_global(key, 1)
    assert keys_of(http.get("/globals", params={"prefix": "a%"}).text) == ["a%", "a%b"]
    assert [one["key"] for one in http.get("/globals.json", params={"prefix": "a_"}).json()["globals"]] == ["a_c"]
    assert "No key begins with &lt;b&gt;" in http.get("/globals", params={"prefix": "<b>"}).text


def test_without_globals_one_is_told_how_to_write_one(http: httpx.Client) -> None:
    assert "store.upsert_global(" in http.get("/globals").text
    assert http.get("/globals.json").json() == {"globals": [], "next_after": None}


def test_what_has_expired_is_not_there(store: ContextStore, http: httpx.Client) -> None:
    store.put_global("short", 1, ttl=0.001)
    store.put_global("long", 1)
    while store.get_global("short") is not None:
        pass  # a thousandth of a second
    assert keys_of(http.get("/globals").text) == ["long"]
    answer = http.get("/global", params={"key": "short"})
    assert answer.status_code == 404
    assert "it may have expired" in answer.text


def test_pages_have_each_key_once(store: ContextStore, http: httpx.Client) -> None:
    keys = ["", *(f"k{number:03}" for number in range(119))]
    with store.batch() as batch:
        for key in keys:
            batch.put_global(key, key)
    pages = pages_of(http, "/globals")
    assert [key for page in pages for key in keys_of(page)] == keys
    assert [len(keys_of(page)) for page in pages] == [50, 50, 20]
    assert [key for page in pages_of(http, "/globals?prefix=k01") for key in keys_of(page)] == keys[11:21]


def test_a_page_ends_where_its_values_have_become_large(store: ContextStore, http: httpx.Client) -> None:
    keys = ["", "a", "b", "c", "d"]
    for key in keys:
        store.put_global(key, "x" * 3_000_000)
    pages = pages_of(http, "/globals")
    assert [keys_of(page) for page in pages] == [["", "a", "b"], ["c", "d"]]
    assert all(len(page) < 20_000 for page in pages)
    assert global_page(store, most_bytes=1).next_after == "a"  # no page can begin behind the empty key
    assert global_page(store, most_bytes=1, after="a").next_after == "b"


def test_one_that_is_damaged_hides_no_other(
    store: ContextStore, target: str, http: httpx.Client, request: pytest.FixtureRequest
) -> None:
    for key in "abc":
        store.put_global(key, key)
    harm(target, request, "global_values", "key = 'b'")
    page = http.get("/globals").text
    assert keys_of(page) == ["a", "b", "c"]
    assert "damaged: " in page
    listed = http.get("/globals.json").json()["globals"]
    assert [(one["key"], "damaged" in one) for one in listed] == [("a", False), ("b", True), ("c", False)]
    answer = http.get("/global", params={"key": "b"})
    assert answer.status_code == 500
    assert "This global cannot be read" in answer.text


class TestOne:
    def test_its_value_is_there_with_all_that_is_known_of_it(self, store: ContextStore, http: httpx.Client) -> None:
        store.upsert_global("limits", {"rate": 7, "name": "é"}, ttl=90_000)
        page = http.get("/global", params={"key": "limits"}).text
        text = html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page)))
        assert re.search(r"Version 1 Written (now|\d+ s ago) Expires in 1 d Size 22 B", text)
        assert "rate" in text
        answer = http.get("/global.json", params={"key": "limits"}).json()
        assert (answer["key"], answer["value"], answer["version"]) == ("limits", {"rate": 7, "name": "é"}, 1)

    def test_the_empty_key_is_one(self, store: ContextStore, http: httpx.Client) -> None:
        store.put_global("", "nothing")
        assert http.get("/global.json").json()["value"] == "nothing"
        assert "nothing" in http.get("/global").text

    def test_one_that_is_not_there_says_so(self, http: httpx.Client) -> None:
        answer = http.get("/global.json", params={"key": "<b>"})
        assert (answer.status_code, "there is no global <b>" in answer.json()["error"]) == (404, True)

    def test_what_has_become_of_it_is_told(self, store: ContextStore, http: httpx.Client) -> None:
        store.upsert_global("k", 1)
        news = {"key": "k", "fragment": "news", "seen": "1"}
        assert http.get("/global", params=news).text.strip() == ""
        store.upsert_global("k", 2)
        assert "Show version 2" in http.get("/global", params=news).text
        store.delete_global("k")
        store.put_global("k2", 1)
        assert "not there any more" in http.get("/global", params=news).text

    def test_it_is_deleted_only_where_that_is_allowed(self, store: ContextStore, http: httpx.Client) -> None:
        store.put_global('a"b', 1)
        assert "/global/delete" not in http.get("/global", params={"key": 'a"b'}).text
        with served(app(store, allow_delete=True)) as address:
            page = httpx.get(f"{address}/global", params={"key": 'a"b'}).text
        assert 'method="post" action="/global/delete"' in page
        assert 'name="key" value="a&#34;b"' in page
        assert re.search(r'name="form_token" value="[^"]{20,}"', page)


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\u202ecod.exe",
    "a\nb\x1b[31m",
    "..",
    "a/b?c#%2f",
]


def test_hostile_keys_and_values_stay_text(store: ContextStore, http: httpx.Client) -> None:
    keys = sorted([*HOSTILE, "x" * 1024])
    for key in keys:
        store.put_global(key, {key: [key]})
    listed = http.get("/globals").text
    assert keys_of(listed) == keys
    assert [one["value"] for one in http.get("/globals.json").json()["globals"]] == [{key: [key]} for key in keys]
    for page in (listed, *(http.get("/global", params={"key": key}).text for key in keys)):
        assert "<script>alert" not in page
        assert "<img" not in page
        text = re.sub("<[^>]*>", "", page)  # in attributes, what forms and scripts send along is as it is
        assert "\u202e" not in text
        assert "\x1b" not in text


# -- in a browser ------------------------------------------------------------------------------------------------------

ON_FILE = pytest.mark.parametrize("target", ["file"], indirect=True)


@ON_FILE
def test_a_global_is_opened_and_left_by_keys(store: ContextStore, page: Page) -> None:
    store.put_global("a", 1)
    store.put_global("b", {"x": 1})
    page.goto("/globals")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("b")
    page.wait_for_load_state()  # keys are listened to from then on
    page.keyboard.press("b")
    expect(page.get_by_role("heading", level=1)).to_have_text("Globals")
    page.wait_for_load_state()  # keys are listened to from then on
    page.keyboard.press("/")
    expect(page.get_by_label("Key begins with")).to_be_focused()


@ON_FILE
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.thorough)])
def test_the_checker_of_accessibility_finds_nothing(store: ContextStore, page: Page, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    store.put_global("a", {"b": [1, "x"]}, ttl=1000)
    for address in ("/globals", "/global?key=a"):
        page.goto(address)
        report = Axe().run(page)
        assert report.violations_count == 0, report.generate_report()


@ON_FILE
def test_nothing_is_wider_than_a_narrow_screen(store: ContextStore, page: Page) -> None:
    store.put_global("k" * 1024, "v" * 5000)
    page.set_viewport_size({"width": 390, "height": 800})
    for address in ("/globals", f"/global?key={'k' * 1024}"):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") == 390, address


@ON_FILE
def test_without_scripts_globals_are_found_and_read(store: ContextStore, site: str, browser: Browser) -> None:
    store.put_global("feature.fast", {"on": True})
    store.put_global("other", 1)
    with browser.new_context(base_url=site, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto("/globals")
        page.get_by_label("Key begins with").fill("feature")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name="feature.fast").click()
        expect(page.get_by_role("region", name="Value")).to_contain_text("true")


@ON_FILE
def test_no_other_key_is_deleted_than_the_one_that_is_shown(store: ContextStore, browser: Browser) -> None:
    for key in ("a\nb", "a\r\nb", ""):
        store.put_global(key, 1)
    with served(app(store, allow_delete=True)) as address, browser.new_context(base_url=address) as context:
        page = context.new_page()
        page.goto("/global?key=a%0Ab")
        page.get_by_text("Delete…").click()
        page.get_by_role("button", name="Delete for good").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Globals")
        assert store.list_global_keys() == ["", "a\r\nb"]
        page.goto("/global")
        page.get_by_text("Delete…").click()
        page.get_by_role("button", name="Delete for good").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Globals")
    assert store.list_global_keys() == ["a\r\nb"]


def form_of(page: str) -> dict[str, str]:
    """What the form that deletes sends, with the line breaks that browsers make of those in a field."""
    form = page.partition('action="/global/delete"')[2].partition("</form>")[0]
    fields = re.findall(r'name="([a-z_]+)" value="([^"]*)"', form)
    return {name: re.sub("\r\n|\r|\n", "\r\n", html.unescape(value)) for name, value in fields}


@ON_FILE
@pytest.mark.parametrize("key", ['"quoted"', '"a\\nb"', '""', "a\nb", "a\r\nb", "a\rb", " a", "100%41"])
def test_a_key_that_looks_like_another_as_it_is_shown_is_deleted_and_no_other(key: str, store: ContextStore) -> None:
    others = {"quoted", "a\nb", "", "a\r\nb", "a", "100A"} - {key}
    for one in {key, *others}:
        store.put_global(one, 1)
    with served(app(store, allow_delete=True)) as address, httpx.Client(base_url=address, timeout=60) as client:
        sent = form_of(client.get("/global", params={"key": key}).text)
        assert client.post("/global/delete", data=sent, headers={"origin": address}).status_code == 303
    assert set(store.list_global_keys()) == others


@ON_FILE
def test_a_global_that_was_written_since_it_was_shown_is_not_deleted(store: ContextStore) -> None:
    store.upsert_global("rate", 1)
    with served(app(store, allow_delete=True)) as address, httpx.Client(base_url=address, timeout=60) as client:
        sent = form_of(client.get("/global?key=rate").text)
        store.upsert_global("rate", 2)
        answer = client.post("/global/delete", data=sent, headers={"origin": address})
        assert answer.status_code == 409
        assert "has been written since" in answer.text
        assert store.get_global("rate") == 2
        again = form_of(client.get("/global?key=rate").text)
        assert client.post("/global/delete", data=again, headers={"origin": address}).status_code == 303
    assert store.list_global_keys() == []


@ON_FILE
class TestRefreshing:
    @pytest.fixture(autouse=True)
    def timers(self, page: Page) -> None:
        hold_timers(page)

    def test_what_changes_appears_where_it_belongs_and_the_focus_stays(self, store: ContextStore, page: Page) -> None:
        for key in "bdf":
            store.put_global(key, key)
        page.goto("/globals")
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.evaluate("window.kept = document.querySelector('tbody').rows[0]")
        store.put_global("c", 1)
        store.upsert_global("d", "changed")
        store.delete_global("f")
        let_time_pass(page)
        expect(page.locator("td.what")).to_have_text(["b", "c", "d"])
        expect(page.locator("td.value").nth(2)).to_have_text('"changed"')
        expect(page.get_by_role("link", name="d", exact=True)).to_be_focused()
        assert page.evaluate("window.kept === document.querySelector('tbody').rows[0]")

    def test_a_list_that_fills_and_empties_is_shown_as_such(self, store: ContextStore, page: Page) -> None:
        page.goto("/globals")
        expect(page.get_by_text("No globals yet")).to_be_visible()
        store.put_global("a", 1)
        let_time_pass(page)
        expect(page.get_by_role("link", name="a", exact=True)).to_be_visible()
        store.delete_global("a")
        let_time_pass(page)
        expect(page.get_by_text("No globals yet")).to_be_visible()

    def test_a_newer_version_is_told_on_the_page_of_one(self, store: ContextStore, page: Page) -> None:
        store.upsert_global("a", 1)
        page.goto("/global?key=a")
        store.upsert_global("a", 2)
        let_time_pass(page)
        page.get_by_role("link", name="Show version 2").click()
        expect(page.get_by_role("link", name="Show version 2")).to_have_count(0)
        expect(page.locator(".line-of-facts")).to_contain_text("Version2")

    def test_a_hidden_tab_asks_for_nothing_and_is_current_once_it_is_seen(
        self, store: ContextStore, page: Page
    ) -> None:
        asked: list[str] = []
        page.on("request", lambda request: _note(request, asked))
        page.goto("/globals")
        let_time_pass(page)
        expect(page.locator(".live-word")).to_have_text("every 5 s")
        waits(page, 1)
        turn(page, is_hidden=True)
        before = len(asked)
        store.put_global("meanwhile", 1)
        waits(page, 0)
        turn(page, is_hidden=False)
        turn(page, is_hidden=False)
        let_time_pass(page)
        expect(page.get_by_role("link", name="meanwhile")).to_be_visible()
        assert len(asked) == before + 1


def _note(request: Request, asked: list[str]) -> None:
    if "fragment=" in request.url:
        asked.append(request.url)
