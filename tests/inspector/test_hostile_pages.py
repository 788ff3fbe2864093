"""What hostile names and values look like in a browser: as themselves, wherever they stand and however they arrive."""

from __future__ import annotations

import json

import httpx
import pytest
from playwright.sync_api import Page, expect

from contextstore import ContextStore
from contextstore._display.text import shown_id

pytestmark = pytest.mark.parametrize("target", ["file"], indirect=True)

HOSTILE = [
    "<script>window.ran=1</script>",
    '"><img src=x onerror="window.ran=1">',
    "' onmouseover='window.ran=1",
    "{{7*7}}{% raw %}${7*7}",
    "javascript:window.ran=1",
    "</title></template></pre></noscript><svg onload=window.ran=1>",
]

IS_HARMED = """
() => [
  ...document.querySelectorAll("main script, main img, main iframe, main [onerror], main [onload], main [onmouseover]"),
  ...[...document.querySelectorAll("[href], [src], [action]")].filter((one) =>
    ["href", "src", "action"].some((name) => /^\\s*javascript:/i.test(one.getAttribute(name) ?? ""))),
].map((one) => one.outerHTML).concat(window.ran ?? [])
"""


def fill(store: ContextStore, text: str) -> None:
    run = store.run(text)
    run.begin(attributes={text: text, "flow": text}, parent=text)
    run.put(text, {text: [text, text * 400]})
    run.upsert_state(text, {text: text})
    run.update(state="failed", error=text)
    store.put("other", text, {text: [text, "changed"]})
    store.upsert_global(text, {text: text})


@pytest.mark.parametrize(
    "text",
    [*HOSTILE[:2], *(pytest.param(text, marks=pytest.mark.thorough) for text in HOSTILE[2:])],
    ids=range(len(HOSTILE)),
)
def test_every_view_shows_it_as_what_it_is(store: ContextStore, page: Page, text: str) -> None:
    fill(store, text)
    for path, given, where in [
        ("/runs", {"prefix": text, "parent": text, "attribute": f"flow={json.dumps(text)}"}, "#runs .run-name"),
        ("/run", {"id": text}, "h1"),
        ("/node", {"run": text, "id": text}, "h1"),
        ("/state", {"run": text, "key": text}, "h1"),
        ("/compare", {"a": text, "b": "other"}, "#nodes .what a"),
        ("/compare", {"a": text, "b": "other", "node": text}, "h1"),
        ("/globals", {"prefix": text}, ".globals .what"),
        ("/global", {"key": text}, "h1"),
    ]:
        page.goto(str(httpx.URL(path, params=given)))
        expect(page.locator(where)).to_have_text(shown_id(text))
        assert page.evaluate(IS_HARMED) == [], path
    with store.lease(text):
        page.goto("/leases")
        expect(page.locator(".leases .what")).to_have_text(shown_id(text))
        assert page.evaluate(IS_HARMED) == []


def test_what_arrives_while_one_looks_is_text_too(store: ContextStore, page: Page) -> None:
    page.goto("/runs")
    expect(page.locator("#live")).to_have_attribute("data-state", "on")
    for text in HOSTILE:
        fill(store, text)
    first, *others = map(shown_id, HOSTILE)
    expect(page.locator("#runs .run-name")).to_have_text([*others[::-1], "other", first])
    assert page.evaluate(IS_HARMED) == []
    page.goto("/run?id=other")
    expect(page.locator("#live")).to_have_attribute("data-state", "on")
    late = [f"late {text}" for text in HOSTILE]
    for text in late:
        store.put("other", text, text)
    expect(page.locator("#nodes .node-id")).to_have_text([shown_id(text) for text in (*HOSTILE, *late)])
    assert page.evaluate(IS_HARMED) == []


def test_what_is_unfolded_is_text_too(store: ContextStore, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "fragment=" in request.url else None)
    store.put("run", "value", {text: {text: {text: [{text: text}] * 300}} for text in HOSTILE})
    page.goto("/node?run=run&id=value")
    folded = page.locator("details.branch:not([open]) > summary")
    for _ in range(8):
        folded.first.click()
        expect(page.locator("details.branch[open]:not(:has(.leaf, .branch))")).to_have_count(0)
        assert page.evaluate(IS_HARMED) == []
    assert asked
    expect(page.locator(".leaf").first).to_contain_text(json.dumps(HOSTILE[0]))
