"""Leases: who holds which, and until when."""

from __future__ import annotations

import contextlib
import html
import re
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from contextstore import ContextStore

from .timers import hold_timers, let_time_pass


def names_of(page: str) -> list[str]:
    return [html.unescape(one) for one in re.findall(r'class="id mono clamp"[^>]*>([^<]*)<', page)]


def test_leases_are_listed_by_name_with_all_that_is_known_of_them(store: ContextStore, http: httpx.Client) -> None:
    with store.lease("nightly", ttl=3600) as nightly, store.lease("backup", ttl=9000):
        page = http.get("/leases").text
        answer = http.get("/leases.json").json()
    assert names_of(page) == ["backup", "nightly"]
    text = html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page)))
    assert f"nightly no run {nightly.holder} {nightly.token} in " in text
    assert re.search(r'<time datetime="([^"]+)" title="\1">in 2 h</time>', page)
    backup, other = answer["leases"]
    assert (backup["name"], other["token"], other["holder"]) == ("backup", nightly.token, nightly.holder)
    assert set(other) == {"name", "token", "holder", "expires_at"}
    assert answer["next_after"] is None


def test_the_run_of_a_leases_name_is_a_step_away(store: ContextStore, http: httpx.Client) -> None:
    store.run("nightly-1").update(state="failed")
    with store.lease("nightly-1"), store.lease("nightly-2"):
        page = http.get("/leases").text
    assert 'href="/run?id=nightly-1"' in page
    assert "failed" in page
    assert "nightly-2" in page
    assert "id=nightly-2" not in page


def test_what_was_given_back_is_not_there_and_one_is_told_how_to_take_one(
    store: ContextStore, http: httpx.Client
) -> None:
    with store.lease("nightly"):
        assert names_of(http.get("/leases").text) == ["nightly"]
    page = http.get("/leases").text
    assert "No lease is held" in page
    assert "with store.lease(" in page
    assert http.get("/leases.json").json() == {"leases": [], "next_after": None}


def test_a_prefix_is_literal(store: ContextStore, http: httpx.Client) -> None:
    with store.lease("a%b"), store.lease("axb"):
        assert names_of(http.get("/leases", params={"prefix": "a%"}).text) == ["a%b"]
    assert "No lease begins with &lt;b&gt;" in http.get("/leases", params={"prefix": "<b>"}).text


def test_pages_have_each_lease_once(store: ContextStore, http: httpx.Client) -> None:
    names = [f"lease-{number:03}" for number in range(60)]
    seen: list[str] = []
    address = "/leases"
    with contextlib.ExitStack() as held:
        for name in names:
            held.enter_context(store.lease(name, ttl=600))
        while address:
            page = http.get(address).text
            seen += names_of(page)
            assert "60 held" in page
            link = re.search(r'rel="next" href="([^"]*)"', page)
            address = html.unescape(link[1]) if link else ""
    assert seen == names


def test_hostile_names_stay_text(store: ContextStore, http: httpx.Client) -> None:
    names = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\u202ecod.exe", "..", "n" * 1024]
    store.put(names[0], "n", 1)
    with contextlib.ExitStack() as held:
        for name in names:
            held.enter_context(store.lease(name))
        page = http.get("/leases").text
        answer = http.get("/leases.json").json()
    assert [one["name"] for one in answer["leases"]] == sorted(names)
    for raw in ("<script>alert", "<img", "\u202e"):
        assert raw not in page


# -- in a browser ------------------------------------------------------------------------------------------------------

ON_FILE = pytest.mark.parametrize("target", ["file"], indirect=True)


@ON_FILE
def test_leases_come_and_go_while_one_looks(store: ContextStore, page: Page) -> None:
    hold_timers(page)
    page.goto("/leases")
    expect(page.get_by_text("No lease is held")).to_be_visible()
    store.put("nightly", "n", 1)
    with store.lease("nightly"), store.lease("other"):
        let_time_pass(page)
        expect(page.locator("td.what")).to_have_text(["nightly", "other"])
        page.keyboard.press("j")
        let_time_pass(page)
        expect(page.get_by_role("link", name="nightly", exact=True)).to_be_focused()
    let_time_pass(page)
    expect(page.get_by_text("No lease is held")).to_be_visible()


@ON_FILE
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.thorough)])
def test_the_checker_of_accessibility_finds_nothing(store: ContextStore, page: Page, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 800})
    store.put("nightly", "n", 1)
    with store.lease("nightly"), store.lease("x" * 1024):
        page.goto("/leases")
        report = Axe().run(page)
        assert report.violations_count == 0, report.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
