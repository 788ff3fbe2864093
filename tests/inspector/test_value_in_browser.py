"""The page of a value as people use it: unfolded as it is asked for, copied, found in; by keys, narrow, and dark."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Response, expect

from contextstore import ContextStore

pytestmark = pytest.mark.parametrize("target", ["file"], indirect=True)

REPORT = {
    "totals": {"modules": 200, "documented": 0.39, "ok": True, "missing": None},
    "rows": [{"name": f"row {number}", "amounts": [number] * 150} for number in range(300)],
    "text": "A line.\n" * 500,
    'a/b~"<script>alert(1)</script>': {"": ['"><img src=x onerror=alert(1)>']},
}


@pytest.fixture
def report(store: ContextStore) -> str:
    """The address of a node's page."""
    store.put("run", "report", REPORT)
    return "/node?run=run&id=report"


def copied(page: Page) -> str:
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def test_what_is_folded_is_fetched_in_its_place_when_it_is_unfolded(report: str, page: Page) -> None:
    asked: list[str] = []
    page.goto(report)
    page.on("request", lambda request: asked.append(request.url) if "fragment=" in request.url else None)
    rows = page.locator("details.branch[data-token=rows]")
    expect(rows.locator("> .inside > .branch")).to_have_count(100)
    rows.locator("> .inside > a").click()
    expect(rows.locator("> .inside > .branch")).to_have_count(200)
    expect(rows.get_by_text("… 100 more")).to_be_visible()
    row = rows.locator("> .inside > .branch[data-token='119']")
    row.locator("> summary").click()
    expect(row.get_by_text('"row 119"', exact=True)).to_be_visible()
    assert len(asked) == 2
    row.locator("> summary").click()
    row.locator("> summary").click()
    expect(row.get_by_text('"row 119"', exact=True)).to_be_visible()
    assert len(asked) == 2, "what was fetched is not fetched again"
    assert page.url.endswith(report)


def test_a_long_string_is_shown_whole_in_its_place(report: str, page: Page) -> None:
    page.goto(report)
    text = page.locator(".leaf[data-token=text]")
    text.get_by_role("link", name="show all").click()
    expect(text.locator("pre")).to_have_text("A line.\n" * 500)
    expect(text.locator(".string")).to_have_count(0)


def test_values_and_paths_are_copied(report: str, page: Page, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(report)
    page.get_by_role("button", name="Copy value").click()
    expect(page.locator(".said")).to_contain_text("Copied 1")
    assert json.loads(copied(page)) == REPORT
    page.locator(".string").filter(has_text="><img src=x").click()
    key, said = 'a/b~"<script>alert(1)</script>', page.locator(".said")
    for name, text in (
        ("value", json.dumps(REPORT[key][""][0])),  # type: ignore[index]  # it is a dict, as seen above
        ("pointer", '/a~1b~0"<script>alert(1)<~1script>//0'),
        ("Python path", r'["a/b~\"<script>alert(1)</script>"][""][0]'),
    ):
        page.get_by_role("button", name=f"Copy {name}").click()
        expect(said).to_have_text("Copied")
        assert copied(page) == text
        page.locator(".leaf[data-token=modules]").click()
        expect(said).to_have_text("")
        page.locator(".string").filter(has_text="><img src=x").click()
    assert eval(f"value{copied(page)}", {"value": REPORT}) == REPORT[key][""][0]  # type: ignore[index]  # as above


def test_a_clipboard_that_is_refused_is_told(report: str, page: Page, context: BrowserContext) -> None:
    page.add_init_script("navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed here'))")
    page.goto(report)
    page.get_by_role("button", name="Copy pointer").click()
    expect(page.locator(".said")).to_have_text("Not copied: not allowed here")


def test_lines_are_moved_over_and_unfolded_by_keys(report: str, page: Page) -> None:
    page.goto(report)
    page.keyboard.press("j")
    expect(page.locator("summary").first).to_be_focused()
    expect(page.locator(".here-path")).to_have_text("/totals")
    page.keyboard.press("j")
    expect(page.locator(".here-path")).to_have_text("/totals/modules")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    expect(page.locator(".here-path")).to_have_text("/rows")
    page.keyboard.press("/")
    page.keyboard.type("row 299")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 place with row 299")).to_be_visible()
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="/rows/299/name")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("navigation", name="Path")).to_contain_text("name")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_an_accessibility_checker_finds_nothing(
    store: ContextStore, report: str, page: Page, scheme: str, width: int
) -> None:
    store.put("run", "bytes", bytes(range(256)) * 20)
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 800})
    for address in (f"{report}&find=row", f"{report}&at=/text", "/node?run=run&id=bytes&offset=40"):
        page.goto(address)
        found = Axe().run(page)
        assert found.violations_count == 0, f"{address}: {found.generate_report()}"
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address


@pytest.fixture
def without_scripts(browser: Browser, site: str) -> Iterator[Page]:
    made = browser.new_context(base_url=site, java_script_enabled=False)
    yield made.new_page()
    made.close()


def test_without_scripts_links_lead_further_in_and_back(report: str, without_scripts: Page) -> None:
    page = without_scripts
    page.goto(report)
    expect(page.get_by_role("button", name="Copy value")).to_be_hidden()
    page.get_by_role("link", name="… 200 more").click()
    expect(page.locator(".tree > .branch")).to_have_count(100)
    page.locator(".branch[data-token='130'] > summary").click()
    page.locator(".branch[data-token='130']").get_by_role("link").click()
    expect(page.get_by_text('"row 130"', exact=True)).to_be_visible()
    page.get_by_role("navigation", name="Path").get_by_role("link", name="value").click()
    page.get_by_role("searchbox").fill("documented")
    page.get_by_role("searchbox").press("Enter")
    page.get_by_role("link", name="/totals/documented").click()
    expect(page.get_by_text("0.39")).to_be_visible()


@pytest.mark.slow
def test_of_a_large_value_little_is_sent_until_it_is_asked_for(
    target: str, site: str, http: httpx.Client, page: Page
) -> None:
    rows = [{"id": number, "name": f"customer {number}", "mail": "x" * 60} for number in range(200_000)]
    with ContextStore(target, max_value_bytes=2**26) as writer:
        writer.put("run", "large", {"rows": rows})
    received: list[int] = []

    def note(response: Response) -> None:
        received.append(len(response.body()))

    page.on("response", note)
    page.goto("/node?run=run&id=large")
    expect(page.get_by_text("[200,000]")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert sum(received) <= 200_000, received
    page.get_by_role("link", name="… 199,900 more").click()
    expect(page.locator(".branch[data-token='199']")).to_be_visible()
    assert sum(received) <= 300_000, received
    assert len(http.get("/node.json?run=run&id=large").json()["value"]["rows"]) == 200_000
