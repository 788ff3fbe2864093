"""Pages whose place in the news is refused: they begin anew by themselves, and do not ask without end."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import BrowserContext, Request, Route, expect

from contextstore import ContextStore

from .test_live import hide

REFUSAL = "event: reload\ndata: no such place\n\n"


@pytest.fixture(params=["file"])
def target(request: pytest.FixtureRequest, tmp_path: object) -> str:
    return f"{tmp_path}/store.db"


@pytest.mark.parametrize("address", ["/runs", pytest.param("/run?id=run-1", marks=pytest.mark.slow)])
def test_a_place_that_is_refused_again_and_again_is_asked_for_at_most_once_a_second(
    address: str, store: ContextStore, context: BrowserContext
) -> None:
    store.put("run-1", "extract", 1)
    page = context.new_page()
    context.route(
        "**/live?**",
        lambda route: route.fulfill(content_type="text/event-stream", body=REFUSAL),
    )
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "static" not in request.url else None)
    began = time.monotonic()
    page.goto(address)
    page.wait_for_timeout(3500)
    lasted = time.monotonic() - began
    expect(page.locator("#live")).to_have_attribute("data-state", "lost")
    assert 3 <= len(asked) <= 2 + lasted  # the page itself and its first stream come at once


def test_a_page_that_was_hidden_while_it_began_anew_follows_one_stream(
    store: ContextStore, context: BrowserContext
) -> None:
    page = context.new_page()
    begun, ended, held = list[Request](), set[Request](), list[Route]()
    page.on("request", lambda request: begun.append(request) if "/live?" in request.url else None)
    for end in ("requestfailed", "requestfinished"):
        page.on(end, lambda request: ended.add(request))
    context.route("**/runs?fragment=*", lambda route: held.append(route))
    context.route(
        "**/runs/live?*",
        lambda route: route.fulfill(content_type="text/event-stream", body=REFUSAL),
        times=1,
    )
    page.goto("/runs")
    while not held:  # the part of the page is asked for, and does not come yet
        page.wait_for_timeout(20)
    hide(page, True)
    hide(page, False)
    expect(page.locator("#live")).to_have_attribute("data-state", "on")
    held[0].continue_()
    while len(begun) < 3 or len([request for request in begun if request not in ended]) > 1:
        page.wait_for_timeout(20)
    assert begun[2] not in ended
