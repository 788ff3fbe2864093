"""Every view on a phone, on a tablet and on a large screen, with the longest and strangest ids that there can be."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page

from contextstore import ContextStore
from contextstore.inspector import app

from .site import served

MIXED = "<script>alert(1)</script>\u202egpj.exe\x1b[31m עברית 🦄🦄🦄 w i d e "
HOSTILE = ["x" * 1000, MIXED * 14]
WIDTHS = [390, 820, 1920]

OUTSIDE = """
() => {
  const edge = document.documentElement.clientWidth;
  const cuts = (one) => one && (getComputedStyle(one).overflowX !== "visible" || cuts(one.parentElement));
  return [...document.querySelectorAll("a, button, input, select, summary, h1, h2")]
    .filter((one) => one.checkVisibility() && !one.matches(".skip") && !cuts(one.parentElement))
    .map((one) => [one, one.getBoundingClientRect()])
    .filter(([, box]) => box.width && (box.left < 0 || box.right > edge + 0.5))
    .map(([one]) => `beyond an edge: ${one.outerHTML.slice(0, 120)}`);
}
"""
"""What can be used, and titles, of which a part is beyond an edge of the window and cannot be scrolled to."""

HIT = """
(one) => {
  scrollBy(0, one.getBoundingClientRect().top - innerHeight / 2); // nothing but the window is scrolled
  const box = one.getBoundingClientRect();
  const first = one.getClientRects()[0];
  const edge = document.documentElement.clientWidth;
  if (!first || first.width < 4) return "is not seen";
  if (box.left < 0 || box.right > edge + 0.5) return `is from ${box.left} to ${box.right}`;
  const there = document.elementFromPoint(first.left + first.width / 2, first.top + first.height / 2);
  return one.contains(there) ? "" : `is covered by ${there?.outerHTML.slice(0, 120)}`;
}
"""
"""Why a mouse cannot get at something; nothing where it can."""

Useful = Callable[[Page], list[Locator]]


def links(*names: str) -> Useful:
    return lambda page: [page.get_by_role("link", name=name).first for name in names]


def buttons(*names: str) -> Useful:
    return lambda page: [page.get_by_role("button", name=name).first for name in names]


def rows(selector: str) -> Useful:
    """The first of its links, and the last one."""
    return lambda page: [page.locator(selector).first, page.locator(selector).last]


VIEWS: dict[str, tuple[str, dict[str, str], list[Useful]]] = {
    "runs": ("/runs", {}, [rows("#runs .run-name a"), buttons("Search"), links("completed", "cancelled")]),
    "runs searched": (
        "/runs",
        {"prefix": "{id}", "attribute": "name={id}", "parent": "{id}", "since": "1d", "state": "failed"},
        [rows(".chip-off"), buttons("Search"), links("Clear all")],
    ),
    "runs mistaken": ("/runs", {"since": "{id}", "attribute": "{id}"}, [buttons("Search"), links("open")]),
    "run": (
        "/run",
        {"id": "{id}"},
        [
            rows("#nodes .node-id a, #nodes .node-id .failures"),
            buttons("Copy id", "Delete run…"),
            links("Compare…", "JSON"),
        ],
    ),
    "run that is none": ("/run", {"id": "z{id}"}, [links("All runs")]),
    "value": ("/node", {"run": "{id}", "id": "{id}"}, [links("Download"), buttons("Search", "Copy Python path")]),
    "value found": ("/node", {"run": "{id}", "id": "{id}", "find": "e"}, [links("Download"), buttons("Search")]),
    "bytes": ("/node", {"run": "{id}", "id": "bytes"}, [links("Download"), buttons("Go")]),
    "failed": ("/node", {"run": "{id}", "id": "f{id}"}, [rows(".attempts summary"), rows("[data-back]")]),
    "state value": ("/state", {"run": "{id}", "key": "{id}"}, [links("Download"), buttons("Search")]),
    "compare": ("/compare", {"a": "{id}", "b": "other"}, [rows("#nodes .what a"), buttons("Compare"), links("Swap")]),
    "compared": ("/compare", {"a": "{id}", "b": "other", "node": "{id}"}, [links("the whole of it")]),
    "compare chosen": ("/compare", {"a": "z{id}", "b": "other"}, [buttons("Compare")]),
    "globals": ("/globals", {}, [rows(".globals .what a"), buttons("Search")]),
    "globals searched": ("/globals", {"prefix": "z{id}"}, [buttons("Search")]),
    "global": ("/global", {"key": "{id}"}, [links("Download"), rows("summary.button")]),
    "leases searched": ("/leases", {"prefix": "z{id}"}, [buttons("Search")]),
    "leases": ("/leases", {}, [rows(".leases .what a"), buttons("Search")]),
    "health": ("/health", {}, [buttons("Check the whole store")]),
}

OTHERS = {"value found", "bytes", "state value", "compare chosen", "leases searched"}
"""Made of the same parts as others."""


def fail(words: str) -> None:
    raise LookupError(words)


def fill(store: ContextStore, text: str) -> None:
    """All that has a name has this one, and there is more of it than views need."""
    run = store.run(text)
    run.begin(attributes={text[:60]: text[:200], "name": text[:200], "number": 2**62}, parent=text)
    run.put_many({text: {text: [text, {text: text}], "n": 1}, "bytes": text.encode()})
    store.put(text, "tagged", text, tag="t" * 64)
    with pytest.raises(LookupError):
        run.step(f"f{text}", lambda: fail(text))
    run.upsert_state(text, {text: text})
    run.update(state="failed", error=text)
    store.put("other", text, {text: [f"{text}!"]})
    store.upsert_global(text, {text: text}, ttl=3e8)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A store of such ids: nothing is changed by looking at it."""
    path = tmp_path_factory.mktemp("strange") / "store.db"
    with ContextStore(path) as store:
        for text in HOSTILE:
            fill(store, text)
    return path


@pytest.fixture
def strange(filled: pathlib.Path) -> Iterator[str]:
    """The pages that show it."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(ContextStore(filled))
        for text in HOSTILE:
            stack.enter_context(store.lease(text))
        yield stack.enter_context(served(app(store, allow_delete=True)))


@pytest.fixture
def wide(browser: Browser, strange: str) -> Iterator[Page]:
    with browser.new_context(base_url=strange, reduced_motion="reduce") as context:
        context.set_default_timeout(30_000)
        yield context.new_page()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) if name in OTHERS else name for name in VIEWS]
)
def test_no_view_is_wider_than_the_screen_and_what_it_offers_can_be_got_at(wide: Page, name: str) -> None:
    path, parameters, useful = VIEWS[name]
    wrong: list[str] = []
    for number, text in enumerate(HOSTILE if "{id}" in str(parameters) else [""]):
        given = {key: value.replace("{id}", text) for key, value in parameters.items()}
        wide.goto(str(httpx.URL(path, params=given)))
        for width in WIDTHS:
            wide.set_viewport_size({"width": width, "height": 900})
            found = wide.evaluate(OUTSIDE)
            for one in (one for each in useful for one in each(wide)):
                trouble = one.evaluate(HIT)
                found += [f"{str(one).rpartition('selector=')[2]} {trouble}"] if trouble else []
            has = wide.evaluate("document.documentElement.scrollWidth")
            found += [f"the page is {has} wide"] if has != width else []
            wrong += [f"id {number}, {width}: {each}" for each in found]
    assert not wrong, "\n".join(wrong)
