"""Two runs side by side: what differs, where, and how it is shown."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from contextstore import ContextStore
from contextstore._inspect.differences import difference_page

from ..contract.test_damaged import output
from .harm import harm

TWO = {"a": "one", "b": "two"}


@pytest.fixture
def two(store: ContextStore) -> ContextStore:
    """A run and another one, with a node of each kind."""
    store.put_many("one", {"same": {"x": 1, "y": 2}, "gone": 1, "other": {"items": [1, {"score": 0.5}]}, "z": 1})
    store.put_many("two", {"same": {"y": 2, "x": 1}, "new": [2], "other": {"items": [1, {"score": 0.7}]}, "z": 1.0})
    return store


def nodes_of(http: httpx.Client, **parameters: str) -> list[tuple[str, str]]:
    nodes = http.get("/compare.json", params={**TWO, **parameters}).json()["nodes"]
    return [(one["node_id"], one["kind"]) for one in nodes]


def rows_of(page: str) -> list[str]:
    """The nodes that a page lists."""
    return [
        html.unescape(one) for one in re.findall(r'<a class="id mono clamp" href="[^"]*node=[^"]*">([^<]*)</a>', page)
    ]


@pytest.mark.usefixtures("two")
class TestTwoRuns:
    def test_what_differs_is_listed_by_node_and_what_is_the_same_is_counted(self, http: httpx.Client) -> None:
        answer = http.get("/compare.json", params=TWO).json()
        assert [
            (one["node_id"], one["kind"], one["first"], one["second"], one["place"]) for one in answer["nodes"]
        ] == [
            ("gone", "only in the first", "1", None, None),
            ("new", "only in the second", None, "[2]", None),
            ("other", "different", "0.5", "0.7", "$.items[1].score"),
            ("z", "different", "1", "1.0", "$"),
        ]
        assert answer["counts"] == {
            "only in the first": 1,
            "only in the second": 1,
            "different": 2,
            "same": 1,
        }
        assert (answer["looked_at"], answer["next_after"]) == (5, None)
        assert rows_of(http.get("/compare", params=TWO).text) == ["gone", "new", "other", "z"]

    @pytest.mark.parametrize(
        ("show", "nodes"),
        [("a", ["gone"]), ("b", ["new"]), ("different", ["other", "z"]), ("damaged", []), ("same", ["same"])],
    )
    def test_one_kind_of_nodes_is_listed_alone(self, http: httpx.Client, show: str, nodes: list[str]) -> None:
        assert [node for node, _ in nodes_of(http, show=show)] == nodes
        assert rows_of(http.get("/compare", params={**TWO, "show": show}).text) == nodes

    def test_what_cannot_be_shown_is_refused(self, http: httpx.Client) -> None:
        answer = http.get("/compare", params={**TWO, "show": "<b>"})
        assert answer.status_code == 400
        assert "show is one of a, b, different, damaged, same" in answer.text

    def test_the_sides_are_swapped_by_a_link(self, http: httpx.Client) -> None:
        page = http.get("/compare", params={**TWO, "show": "a"}).text
        link = re.search(r'class="button swap" href="([^"]*)"', page)
        assert link is not None
        assert rows_of(http.get(html.unescape(link[1])).text) == ["gone"]
        assert nodes_of(http, a="two", b="one", show="b") == [("gone", "only in the second")]

    def test_a_node_shows_the_places_where_its_values_differ(self, http: httpx.Client) -> None:
        answer = http.get("/compare.json", params={**TWO, "node": "other"}).json()
        assert [(one["path"], one["first"], one["second"]) for one in answer["places"]] == [
            ("$.items[1].score", "0.5", "0.7")
        ]
        assert answer["first"]["value"] == {"items": [1, {"score": 0.5}]}
        assert (answer["second"]["value"]["items"][1], answer["is_cut"]) == ({"score": 0.7}, False)
        page = http.get("/compare", params={**TWO, "node": "other"}).text
        assert "<mark>0.5</mark>" in page
        assert "<mark>0.7</mark>" in page
        assert "1 place differs" in page

    def test_a_node_of_one_run_shows_what_that_has(self, http: httpx.Client) -> None:
        page = http.get("/compare", params={**TWO, "node": "new"}).text
        assert "This run has no output of the node" in page
        assert ">[2]<" in page

    def test_a_node_that_is_the_same_says_so(self, http: httpx.Client) -> None:
        assert "The same in both runs" in http.get("/compare", params={**TWO, "node": "same"}).text

    def test_a_node_of_neither_run_is_not_there(self, http: httpx.Client) -> None:
        answer = http.get("/compare", params={**TWO, "node": "<b>"})
        assert answer.status_code == 404
        assert "neither of the two runs has an output of node &lt;b&gt;" in answer.text


def test_facts_of_the_runs_are_shown_where_they_differ(store: ContextStore, http: httpx.Client) -> None:
    store.run("one").begin(attributes={"model": "m-1", "owner": "ada", "seed": 1})
    store.run("two").begin(attributes={"model": "m-2", "owner": "ada", "seed": 1.0}, parent="one")
    store.run("two").update(state="failed", error="no\ncredit")
    page = http.get("/compare", params=TWO).text
    table = page.partition('facts-of-two">')[2].partition("</table>")[0]
    names = [re.sub("<[^>]*>", "", one) for one in re.findall(r'<th scope="row">(.*?)</th>', table)]
    assert names == ["State", "Error", "Parent", "model", "seed", "Begun", "State since"]
    assert "ada" not in table
    assert r"no\ncredit" in table


def test_the_same_facts_and_no_outputs_are_said_to_be_so(store: ContextStore, http: httpx.Client) -> None:
    store.put_many("one", {"a": 1})
    store.fork_run("one", new_flow_run_id="two")
    assert "Nothing differs" in http.get("/compare", params=TWO).text
    for run in ("three", "four"):
        store.run(run).begin()
    assert "No outputs in either run" in http.get("/compare", params={"a": "three", "b": "four"}).text


def test_a_tag_is_part_of_a_value(store: ContextStore, http: httpx.Client) -> None:
    store.put("one", "page", b"x", tag="text/html")
    store.put("two", "page", b"x")
    found = http.get("/compare.json", params=TWO).json()["nodes"]
    assert [(one["kind"], one["first"], one["second"], one["place"]) for one in found] == [
        ("different", "text/html", "no tag", "tag")
    ]
    assert "Their tags differ" in http.get("/compare", params={**TWO, "node": "page"}).text


def test_what_is_damaged_is_listed_and_shown(
    two: ContextStore, target: str, http: httpx.Client, request: pytest.FixtureRequest
) -> None:
    harm(target, request, "node_outputs", output("two", "other"))
    assert ("other", "damaged") in nodes_of(http)
    assert nodes_of(http, show="damaged") == [("other", "damaged")]
    answer = http.get("/compare.json", params={**TWO, "node": "other"}).json()
    assert (answer["second"], answer["damaged"][0], answer["places"]) == (None, None, None)
    assert "is damaged" in answer["damaged"][1]
    assert "Damaged: " in http.get("/compare", params={**TWO, "node": "other"}).text


def test_pages_of_differences_have_each_once(store: ContextStore, http: httpx.Client) -> None:
    store.put_many("one", {f"n{number:03}": number for number in range(250)})
    store.put_many("two", {f"n{number:03}": number if number % 5 == 0 else -number for number in range(300)})
    seen: list[str] = []
    address = "/compare?a=one&b=two"
    pages = 0
    while address:
        page = http.get(address).text
        seen += rows_of(page)
        link = re.search(r'rel="next" href="([^"]*)"', page)
        address = html.unescape(link[1]) if link else ""
        pages += 1
    assert pages == 3
    assert seen == [f"n{number:03}" for number in range(300) if number % 5 or number >= 250]
    first = http.get("/compare.json", params=TWO).json()
    assert first["counts"] == {"different": 200, "same": 50, "only in the second": 50}
    assert len(first["nodes"]) == 100
    assert first["next_after"] == first["nodes"][-1]["node_id"]


@pytest.mark.parametrize("bound", [{"most_nodes": 3}, {"most_bytes": 2500}])
def test_no_more_is_looked_at_than_a_page_may(store: ContextStore, bound: dict[str, int]) -> None:
    values = {f"{number}": "x" * 1000 for number in range(8)}
    store.put_many("one", values)
    store.put_many("two", {**values, "7": "y"})
    found, after, looks = [], None, []
    while True:
        page = difference_page(store, "one", "two", after=after, **bound)  # type: ignore[arg-type] # a key of each
        found += [one.node_id for one in page.found]
        looks.append(page.looked_at)
        assert (page.next_after is None) == (page.last is None)
        if page.next_after is None:
            break
        after = page.next_after
    assert found == ["7"]
    assert sum(looks) == 8
    assert max(looks) == (3 if "most_nodes" in bound else 2)


class TestWhatCannotBeCompared:
    def test_a_run_that_is_not_there_is_told_with_those_that_begin_so(
        self, two: ContextStore, http: httpx.Client
    ) -> None:
        two.delete_run("two")
        answer = http.get("/compare", params={"a": "on", "b": "two"})
        assert answer.status_code == 404
        assert "A: run on is not there." in answer.text
        assert 'href="/compare?a=one&amp;b=two"' in answer.text
        assert "B: run two was deleted." in answer.text
        twin = http.get("/compare.json", params={"a": "on", "b": "two"})
        assert twin.json()["trouble"] == {"on": "is not there", "two": "was deleted"}
        assert twin.status_code == 404

    def test_the_same_run_twice_is_told(self, two: ContextStore, http: httpx.Client) -> None:
        assert "The same run twice" in http.get("/compare", params={"a": "one", "b": "one"}).text

    def test_without_runs_one_is_told_how_to_make_them(self, http: httpx.Client) -> None:
        page = http.get("/compare").text
        assert "No runs yet" in page
        assert "contextstore fork" in page

    def test_the_newest_runs_are_offered(self, two: ContextStore, http: httpx.Client) -> None:
        page = http.get("/compare", params={"a": "one"}).text
        assert re.findall(r'<option value="([^"]*)">', page) == ["two", "one"] * 2
        assert "Two runs, side by side" in page

    def test_an_id_too_long_to_be_one_is_refused(self, http: httpx.Client) -> None:
        assert http.get("/compare", params={"a": "x" * 1025, "b": "one"}).status_code == 400


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\u202ecod.exe",
    "line\nbreak\x1b[31m",
    "..",
    "a/b?c#d%2f",
    '"quoted"',
    "x" * 1024,
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_ids_and_values_stay_text(store: ContextStore, http: httpx.Client, hostile: str) -> None:
    store.put(hostile, hostile, {hostile: hostile})
    store.put("two", hostile, {hostile: f"{hostile}!"})
    store.run("two").begin(attributes={"note": hostile[:900]}, parent=hostile)
    store.run("two").update(error=hostile)
    pair = {"a": hostile, "b": "two"}
    answer = http.get("/compare.json", params=pair).json()
    assert [one["node_id"] for one in answer["nodes"]] == [hostile]
    assert answer["first"]["flow_run_id"] == hostile
    for parameters in (pair, {**pair, "node": hostile}, {"a": hostile}, {"a": f"{hostile[:999]}!", "b": hostile}):
        page = http.get("/compare", params=parameters).text
        for raw in ("<script>alert", "<img", "\u202e", "\x1b"):
            assert raw not in page
    assert http.get("/compare.json", params={**pair, "node": hostile}).json()["first"]["value"] == {hostile: hostile}


def test_an_id_may_be_given_as_the_pages_show_it(store: ContextStore, http: httpx.Client) -> None:
    store.put("line\nbreak", "n", 1)
    store.put("two", "n", 2)
    shown = json.dumps("line\nbreak")
    assert html.escape(shown).replace("&quot;", "&#34;") in http.get("/compare", params={"a": "line\nbreak"}).text
    answer = http.get("/compare.json", params={"a": shown, "b": "two"}).json()
    assert answer["first"]["flow_run_id"] == "line\nbreak"


# -- in a browser ------------------------------------------------------------------------------------------------------

ON_FILE = pytest.mark.parametrize("target", ["file"], indirect=True)


@ON_FILE
def test_a_difference_is_opened_and_left_by_keys(two: ContextStore, page: Page) -> None:
    page.goto("/compare?a=one&b=two")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="new", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("new")
    page.wait_for_load_state()  # keys are listened to from then on
    page.keyboard.press("b")
    expect(page.get_by_role("heading", level=1)).to_have_text("Compare")
    expect(page.locator("[data-back]")).to_have_attribute("href", "/run?id=one")


@ON_FILE
def test_runs_are_offered_while_an_id_is_typed(store: ContextStore, page: Page) -> None:
    for number in range(60):
        store.put(f"run-{number:02}", "n", 1)
    page.goto("/compare")
    offered = page.locator("#runs-a option")
    expect(offered).to_have_count(50)
    page.keyboard.press("/")
    page.keyboard.type("run-0")
    expect(offered).to_have_count(10)
    expect(offered.first).to_have_attribute("value", "run-09")


@ON_FILE
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.thorough)])
def test_the_checker_of_accessibility_finds_nothing(two: ContextStore, page: Page, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    for address in ("/compare?a=one&b=two", "/compare?a=one&b=two&node=other"):
        page.goto(address)
        report = Axe().run(page)
        assert report.violations_count == 0, report.generate_report()


@ON_FILE
def test_nothing_is_wider_than_a_narrow_screen(store: ContextStore, page: Page) -> None:
    store.put("r" * 1024, "n" * 1024, {"k" * 900: "v" * 900})
    store.put("two", "n" * 1024, {"k" * 900: "v" * 899})
    page.set_viewport_size({"width": 390, "height": 800})
    for address in (
        "/compare?a=two",
        f"/compare?a={'r' * 1024}&b=two",
        f"/compare?a={'r' * 1024}&b=two&node={'n' * 1024}",
    ):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") == 390, address


@ON_FILE
def test_two_runs_are_chosen_without_scripts(two: ContextStore, site: str, browser: Browser) -> None:
    with browser.new_context(base_url=site, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto("/compare")
        page.get_by_label("One run").fill("one")
        page.get_by_label("Another, or its fork").fill("two")
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("#nodes tbody tr")).to_have_count(4)
