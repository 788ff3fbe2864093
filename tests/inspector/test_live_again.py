"""Pages whose server is gone for a while, or comes back with another store: they go on, or begin anew."""

from __future__ import annotations

import os
import pathlib
import signal
import time
import urllib.parse
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Response, expect

from contextstore import ContextStore

from ..support.processes import Child
from .commanded import Command, commanded, signed_in
from .site import PATIENCE

WRITER = """
store = ContextStore(sys.argv[1])
stopped = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stopped.set()), daemon=True).start()
count = 0
while not stopped.wait(0.02):
    store.put("run-1", f"node-{count:04}", count)
    if count % 10 == 0:
        store.run(f"other-{count:04}").begin()
    count += 1
store.close()
say(count)
"""

NOTES = """
window.rows = [];
window.marks = [];
const table = document.querySelector("#nodes, #runs-rows");
const note = (row) => window.rows.push(row.querySelector("a").textContent);
for (const row of table.rows) note(row);
new MutationObserver((changes) => {
  for (const change of changes) [...change.addedNodes].filter((node) => node.tagName === "TR").forEach(note);
}).observe(table, { childList: true });
const live = document.getElementById("live");
new MutationObserver(() => {
  if (window.marks.at(-1) !== live.dataset.state) window.marks.push(live.dataset.state);
}).observe(live, { attributeFilter: ["data-state"] });
"""
"""Every row that comes into the page, each time it does, and what the live mark says."""

PROBE = """
window.told = [];
const probe = new EventSource(document.querySelector("[data-live]").dataset.live);
probe.addEventListener("message", (event) => {
  const part = document.createElement("template");
  part.innerHTML = event.data;
  for (const link of part.content.querySelectorAll("tr[id^=node-] a")) window.told.push(link.textContent);
});
"""
"""A stream that the browser itself goes on with, by the id of what came last."""


@pytest.fixture
def place(tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "store.db")


@pytest.fixture
def store(place: str) -> Iterator[ContextStore]:
    with ContextStore(place) as opened:
        opened.put("run-1", "first", 1)
        yield opened


@pytest.fixture
def serving(place: str, store: ContextStore) -> Iterator[Command]:
    with commanded(place) as command:
        yield command


@pytest.fixture
def context(browser: Browser, serving: Command) -> Iterator[BrowserContext]:
    with signed_in(browser, serving) as made:
        yield made


def followed(context: BrowserContext, address: str) -> Page:
    """A page that is live, and notes what happens to it."""
    page = context.new_page()
    page.goto(address)
    expect_mark(page, "on")
    page.evaluate(NOTES)
    return page


def expect_mark(page: Page, state: str) -> None:
    expect(page.locator("#live")).to_have_attribute("data-state", state, timeout=PATIENCE * 1000)


def until(page: Page, condition: str) -> None:
    """Wait for a condition of the page. (Its policy refuses playwright's own way to.)"""
    deadline = time.monotonic() + PATIENCE
    while not page.evaluate(condition):
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


def answers(page: Page) -> list[str]:
    """The paths that are answered from now on, without files; a part of a page has a # behind it."""
    paths: list[str] = []

    def note(response: Response) -> None:
        path = urllib.parse.urlsplit(response.url).path
        if not path.startswith("/static/"):
            paths.append(path + ("#" if "fragment=" in response.url else ""))

    page.on("response", note)
    return paths


def written(store: ContextStore, count: int) -> None:
    """Wait until so many outputs are there."""
    deadline = time.monotonic() + PATIENCE
    while outputs(store) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def outputs(store: ContextStore) -> int:
    info = store.get_run_info("run-1")
    return 0 if info is None else info.outputs


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_each_output_is_shown_once_though_the_server_was_gone_meanwhile(
    number: signal.Signals, serving: Command, store: ContextStore, place: str, context: BrowserContext
) -> None:
    of_run, of_runs = followed(context, "/run?id=run-1"), followed(context, "/runs?limit=200")
    of_run.evaluate(PROBE)
    with Child(WRITER, place) as writer:
        until(of_run, "window.told.length > 5 && window.rows.length > 5")
        serving.end(number)
        expect_mark(of_run, "lost")
        expect_mark(of_runs, "lost")
        written(store, outputs(store) + 20)  # of which nobody is told
        serving.start()
        expect_mark(of_run, "on")
        expect_mark(of_runs, "on")
        written(store, outputs(store) + 20)
        writer.tell()
        count = int(writer.hear())
    names = [f"node-{one:04}" for one in range(count)]
    until(of_run, f"window.rows.at(-1) === '{names[-1]}' && window.told.at(-1) === '{names[-1]}'")
    expect(of_runs.locator("#runs-rows .run-count").last).to_have_text(str(count + 1))
    assert of_run.evaluate("window.rows") == ["first", *names]
    assert of_run.evaluate("window.told") == names
    assert of_runs.evaluate("window.rows") == ["run-1", *(f"other-{one:04}" for one in range(0, count, 10))]
    assert [of_run.evaluate("window.marks"), of_runs.evaluate("window.marks")] == [["lost", "on"]] * 2


def replaced(place: str, run_id: str) -> None:
    """Another store is where this one was."""
    with ContextStore(place + ".other") as other:
        other.put(run_id, "elsewhere", 1)
    for suffix in ("-wal", "-shm"):
        pathlib.Path(place + suffix).unlink(missing_ok=True)
    os.replace(place + ".other", place)


def followed_into_another_store(
    address: str, run_id: str, serving: Command, store: ContextStore, place: str, context: BrowserContext
) -> tuple[Page, list[str]]:
    """A page whose server comes back with another store, and what it has asked for since."""
    page = followed(context, address)
    serving.end(signal.SIGKILL)
    expect_mark(page, "lost")
    store.close()
    replaced(place, run_id)
    paths = answers(page)
    serving.start()
    return page, paths


def test_runs_of_another_store_take_the_place_of_those_that_were_there(
    serving: Command, store: ContextStore, place: str, context: BrowserContext
) -> None:
    page, paths = followed_into_another_store("/runs", "run-2", serving, store, place, context)
    expect(page.get_by_role("link", name="run-2")).to_be_visible(timeout=PATIENCE * 1000)
    expect(page.locator("#runs-rows > tr")).to_have_count(1)
    expect_mark(page, "on")
    with ContextStore(place) as other:
        other.put("run-3", "extract", 1)
        expect(page.get_by_role("link", name="run-3")).to_be_visible()
    assert paths == ["/runs/live", "/runs#", "/runs/live"]


@pytest.mark.slow
def test_a_run_of_another_store_is_shown_anew(
    serving: Command, store: ContextStore, place: str, context: BrowserContext
) -> None:
    page, paths = followed_into_another_store("/run?id=run-1", "run-1", serving, store, place, context)
    expect(page.locator("#nodes a")).to_have_text(["elsewhere"], timeout=PATIENCE * 1000)
    expect_mark(page, "on")
    with ContextStore(place) as other:
        other.put("run-1", "extract", 1)
        expect(page.locator("#nodes a")).to_have_text(["elsewhere", "extract"])
    assert paths == ["/run/live", "/run", "/run/live"]


@pytest.mark.slow
def test_a_run_that_was_deleted_meanwhile_is_asked_for_once_and_then_no_more(
    serving: Command, store: ContextStore, context: BrowserContext
) -> None:
    page = followed(context, "/run?id=run-1")
    serving.end(signal.SIGKILL)
    expect_mark(page, "lost")
    store.delete_run("run-1")
    paths = answers(page)
    serving.start()
    expect(page.locator("#live .live-word")).to_have_text("No longer live", timeout=PATIENCE * 1000)
    expect(page.locator(".note[role=alert]")).to_contain_text("not there any more")
    page.wait_for_timeout(2500)  # in which it would have asked again
    assert paths == ["/run/live"]
