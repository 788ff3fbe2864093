"""Pages that live, in a real browser: what is written is seen, and nothing is asked for where nobody looks."""

from __future__ import annotations

import subprocess
import sys

import pytest
from playwright.sync_api import Page, expect

from contextstore import ContextStore

WRITER = """
import sys, time
from contextstore import ContextStore
with ContextStore(sys.argv[1]) as store:
    run = store.run("run-1")
    for number in range(10):
        store.put("run-1", f"node-{number}", time.time())
        time.sleep(0.03)
    run.update(state="completed")
"""

SEEN = """
window.seen = {};
new MutationObserver(() => {
  for (const link of document.querySelectorAll("#nodes a"))
    window.seen[link.textContent] ??= Date.now() / 1000;
}).observe(document.getElementById("nodes"), { childList: true, subtree: true });
"""


@pytest.fixture(params=["file"])
def target(request: pytest.FixtureRequest, tmp_path: object) -> str:
    return f"{tmp_path}/store.db"


def hide(page: Page, is_hidden: bool) -> None:
    page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        is_hidden,
    )


def test_a_run_of_another_process_is_followed_to_its_end(store: ContextStore, target: str, page: Page) -> None:
    store.run("run-1").begin()
    page.goto("/run?id=run-1")
    expect(page.locator("#live")).to_have_attribute("data-state", "on")
    page.evaluate(SEEN)
    subprocess.run([sys.executable, "-c", WRITER, target], check=True, timeout=60)
    expect(page.locator("#run-head .state.completed")).to_be_visible()
    expect(page.locator("#nodes > tr")).to_have_count(10)
    seen: dict[str, float] = page.evaluate("window.seen")
    delays = sorted(at - store.get("run-1", node) for node, at in seen.items())
    print(f"seen after {delays[0] * 1000:.0f} to {delays[-1] * 1000:.0f} ms")
    assert len(delays) == 10


def test_a_hidden_page_asks_for_nothing_and_goes_on_where_it_was(store: ContextStore, page: Page) -> None:
    store.put("run-1", "extract", 1)
    page.goto("/runs")
    expect(page.locator("#live")).to_have_attribute("data-state", "on")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    hide(page, True)
    expect(page.locator("#live")).to_have_attribute("data-state", "off")
    store.put("run-2", "extract", 1)
    page.wait_for_timeout(1200)  # as long as it would take to ask again
    assert asked == []
    hide(page, False)
    expect(page.get_by_role("link", name="run-2")).to_be_visible()
    assert len(asked) == 1


def test_a_row_that_has_the_focus_keeps_it(store: ContextStore, page: Page) -> None:
    store.put("run-1", "extract", 1)
    page.goto("/runs")
    expect(page.locator("#live")).to_have_attribute("data-state", "on")
    page.keyboard.press("j")
    store.put("run-1", "load", 1)
    store.put("run-2", "extract", 1)
    expect(page.locator("#runs-rows > tr")).to_have_count(2)
    expect(page.locator(".run-count").last).to_have_text("2")
    expect(page.get_by_role("link", name="run-1")).to_be_focused()
