"""The view of runs as programs and browsers without scripts see it: order, filters, pages, mistakes, hostile names."""

from __future__ import annotations

import datetime
import html
import re
from typing import Any

import httpx
import pytest

from contextstore import ContextStore
from contextstore._results import RunState

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a/b?c#d%2f&e=f",
    "..",
    "\u202eevil",
    "\x1b[31m",
    '"quoted"',
    " ",
    "x" * 1024,
]

FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"prefix": "f"}, ["first"]),
    ({"state": "open"}, ["third", "plain"]),
    ({"state": ["failed", "completed"]}, ["second", "first"]),
    ({"attribute": "flow=nightly"}, ["second", "first"]),
    ({"attribute": ["flow=nightly", "tries=3"]}, ["first"]),
    ({"attribute": "tries=3.0"}, []),
    ({"attribute": "ratio=0.5"}, ["first"]),
    ({"attribute": "late=true"}, ["first"]),
    ({"attribute": "day=1"}, []),
    ({"attribute": 'day="1"'}, ["third"]),
    ({"parent": "first"}, ["third", "second"]),
    ({"parent": "first", "state": ["open", "cancelled"]}, ["third"]),
    ({"since": "1h"}, ["third", "second", "first"]),
    ({"until": "1h"}, []),
    ({"since": "2020-01-01", "until": "2100-01-01T12:00+02:00", "prefix": "s"}, ["second"]),
    ({"prefix": "", "attribute": "", "since": "", "parent": ""}, ["third", "second", "first", "plain"]),
]

MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"state": "lost"}, "state", "'lost' is no state: it is open, completed, failed or cancelled"),
    ({"attribute": "flow"}, "attribute", "'flow' is no attribute: it is NAME=VALUE"),
    ({"attribute": ["a=1", "a=2"]}, "attribute", "'a' is there twice"),
    ({"attribute": "a=null"}, "attribute", "'a' cannot be looked for: a value is a text, a number, true or"),
    ({"attribute": "a=1e999"}, "attribute", "finite"),
    ({"attribute": "a=" + "x" * 2000}, "attribute", "2000 bytes"),
    ({"since": "soon"}, "since", "'soon' is no time: ISO 8601, such as 2026-03-01"),
    ({"until": "99999999w"}, "until", "is no time"),
    ({"prefix": "x" * 2000}, "prefix", "1024 is the most"),
    ({"parent": "a\0"}, "parent", "NUL"),
    ({"limit": "many"}, "limit", "'many' is no size of a page: it is from 1 to 200"),
    ({"limit": "1000"}, "limit", "'1000' is no size of a page"),
    ({"limit": "0000000019"}, "limit", "'0000000019' is no size of a page"),
    ({"limit": "000000001" + "9" * 5000}, "limit", "is no size of a page"),
]

PROGRESS: list[tuple[dict[str, Any], str | None]] = [
    ({"nodes": 4}, '<progress class="meter open" max="4" value="1" aria-label="1 of 4 outputs">'),
    ({"expected_outputs": 2}, '<progress class="meter open" max="2" value="1" aria-label="1 of 2 outputs">'),
    ({"nodes": "many", "expected_outputs": 1}, 'max="1" value="1" aria-label="1 of 1 outputs">'),
    ({"nodes": True}, None),
    ({"nodes": 0}, None),
    ({"nodes": 4.0}, None),
]


def began(store: ContextStore, name: str, state: RunState | None = None, **facts: Any) -> None:
    run = store.run(name)
    run.begin(**facts)
    if state is not None:
        run.update(state=state)


def rows_of(page: httpx.Response) -> list[str]:
    """The ids of the rows of a page, as its links have them."""
    links = re.findall(r'<span class="run-name"[^>]*><a [^>]*href="([^"]*)"', page.text)
    return [httpx.URL(html.unescape(link)).params["id"] for link in links]


def found(http: httpx.Client, **parameters: Any) -> list[str]:
    """What a search finds: the page's rows, which its JSON twin has, too."""
    page, twin = http.get("/runs", params=parameters), http.get("/runs.json", params=parameters)
    assert page.status_code == twin.status_code == 200, page.text
    ids = [run["flow_run_id"] for run in twin.json()["runs"]]
    assert rows_of(page) == ids
    return ids


def mistake(http: httpx.Client, field: str, **parameters: Any) -> str:
    """The sentence that stands beside a field, which the JSON twin has, too."""
    page, twin = http.get("/runs", params=parameters), http.get("/runs.json", params=parameters)
    assert page.status_code == twin.status_code == 400
    sentence = twin.json()["mistakes"][field]
    shown = re.search(rf'<span class="mistake" id="mistake-{field}">(.*?)</span>', page.text)
    assert shown is not None
    assert html.unescape(shown[1]) == sentence
    return str(sentence)


@pytest.fixture
def told(store: ContextStore) -> ContextStore:
    """Four runs, of which the first was never begun."""
    store.put("plain", "extract", 1)
    began(store, "first", "completed", attributes={"flow": "nightly", "tries": 3, "ratio": 0.5, "late": True})
    began(store, "second", "failed", attributes={"flow": "nightly", "tries": 1}, parent="first")
    began(store, "third", attributes={"flow": "hourly", "day": "1"}, parent="first")
    return store


@pytest.mark.usefixtures("told")
class TestFilters:
    def test_the_newest_comes_first(self, http: httpx.Client) -> None:
        assert found(http) == ["third", "second", "first", "plain"]

    def test_each_filter_leaves_the_runs_that_fit(self, http: httpx.Client) -> None:
        for parameters, ids in FILTERS:
            assert found(http, **parameters) == ids, parameters

    def test_since_and_until_are_times_of_the_begin(self, http: httpx.Client, told: ContextStore) -> None:
        info = told.get_run_info("second")
        assert info is not None
        assert info.begun_at is not None
        then, later = info.begun_at, info.begun_at + datetime.timedelta(microseconds=1)
        assert found(http, since=then.isoformat(), until=later.isoformat()) == ["second"]

    def test_what_cannot_be_meant_is_told_beside_its_field(self, http: httpx.Client) -> None:
        for parameters, field, sentence in MISTAKES:
            assert sentence in mistake(http, field, **parameters), parameters

    def test_a_mistake_leaves_the_form_as_it_was(self, http: httpx.Client) -> None:
        page = http.get("/runs", params={"prefix": "f", "since": "soon", "attribute": ["a=1", "b"], "state": "open"})
        for given in (
            'name="prefix" value="f"', 'name="since" value="soon"', 'name="attribute" value="b"',
            'type="hidden" name="attribute" value="a=1"', 'type="hidden" name="state" value="open"',
        ):  # fmt: skip
            assert given in page.text, given

    def test_a_chip_leads_to_the_search_without_it(self, http: httpx.Client) -> None:
        given = {"prefix": "s", "attribute": ["flow=nightly", "tries=1"], "since": "1h", "state": "failed"}
        page = http.get("/runs", params=given)
        links = [html.unescape(link) for link in re.findall(r'class="chip-off" href="([^"]*)"', page.text)]
        asked = [httpx.URL(link).params for link in links]
        assert [(sorted(params.keys()), params.get_list("attribute")) for params in asked] == [
            (["attribute", "since", "state"], ["flow=nightly", "tries=1"]),
            (["attribute", "prefix", "state"], ["flow=nightly", "tries=1"]),
            (["attribute", "prefix", "since", "state"], ["tries=1"]),
            (["attribute", "prefix", "since", "state"], ["flow=nightly"]),
        ]

    def test_an_attribute_of_a_row_leads_to_the_runs_that_have_it(self, http: httpx.Client) -> None:
        page = http.get("/runs", params={"prefix": "third"})
        links = [html.unescape(link) for link in re.findall(r'<a class="chip" href="([^"]*)"', page.text)]
        assert [httpx.URL(link).params["attribute"] for link in links] == ['day="1"', "flow=hourly"]
        assert rows_of(http.get(links[0])) == ["third"]

    def test_a_state_of_a_row_leads_to_the_runs_that_are_in_it(self, http: httpx.Client) -> None:
        assert 'href="/runs?prefix=second&amp;state=failed"' in http.get("/runs", params={"prefix": "second"}).text


class TestPages:
    def test_pages_have_no_gap_and_no_repeat_while_runs_are_added(
        self, store: ContextStore, http: httpx.Client
    ) -> None:
        with store.batch() as batch:
            for number in range(130):
                batch.put(f"run-{number:03}", "extract", 1)
        ids: list[str] = []
        address = "/runs.json?limit=50"
        while address:
            page = http.get(address).json()
            ids += [run["flow_run_id"] for run in page["runs"]]
            assert page["next_after"] == (ids[-1] if page["next"] else None)
            address = page["next"]
            store.put(f"new-{len(ids)}", "extract", 1)
        assert ids == [f"run-{number:03}" for number in reversed(range(130))]

    def test_the_link_to_older_runs_keeps_the_search_and_the_first_page_is_one_away(
        self, store: ContextStore, http: httpx.Client
    ) -> None:
        for number in range(3):
            began(store, f"run-{number}", attributes={"flow": "nightly"})
        page = http.get("/runs", params={"attribute": "flow=nightly", "limit": 2})
        older = re.search(r'rel="next" href="([^"]*)"', page.text)
        assert older is not None
        second = http.get(html.unescape(older[1]))
        assert rows_of(second) == ["run-0"]
        assert 'rel="next"' not in second.text
        first = re.search(r'href="([^"]*)">First page', second.text)
        assert first is not None
        assert rows_of(http.get(html.unescape(first[1]))) == ["run-2", "run-1"]

    def test_pages_go_on_through_several_states(self, store: ContextStore, http: httpx.Client) -> None:
        for number in range(12):
            began(store, f"run-{number:02}", ["completed", "failed", "cancelled"][number % 3])
        ids, after = list[str](), ""
        while True:
            page = http.get("/runs.json", params={"state": ["completed", "failed"], "limit": 3, "after": after}).json()
            ids += [run["flow_run_id"] for run in page["runs"]]
            after = page["next_after"]
            if after is None:
                break
        assert ids == [f"run-{number:02}" for number in reversed(range(12)) if number % 3 != 2]

    def test_a_place_that_is_forgotten_says_begin_anew(self, store: ContextStore, http: httpx.Client) -> None:
        store.put("run-1", "extract", 1)
        page = http.get("/runs", params={"after": "nobody", "prefix": "run"})
        assert page.status_code == 400
        assert '<a href="/runs?prefix=run">Begin anew</a>' in page.text
        assert "begin anew" in http.get("/runs.json", params={"after": "nobody"}).json()["error"]

    def test_an_empty_page_says_what_to_do(self, store: ContextStore, http: httpx.Client) -> None:
        assert "No runs yet" in http.get("/runs").text
        store.put("run-1", "extract", 1)
        assert "No run fits" in http.get("/runs?prefix=other").text
        assert "No runs behind that one" in http.get("/runs?after=run-1").text

    def test_the_stream_of_a_page_begins_before_it(self, store: ContextStore, http: httpx.Client) -> None:
        began(store, "run-1", attributes={"flow": "nightly"})
        page = http.get("/runs", params={"attribute": "flow=nightly", "state": "open"})
        live = re.search(r'data-live="([^"]*)"', page.text)
        assert live is not None
        asked = httpx.URL(html.unescape(live[1]))
        assert asked.path == "/runs/live"
        assert (asked.params["attribute"], asked.params["state"]) == ("flow=nightly", "open")
        began(store, "run-2")
        assert next(iter(store.watch_runs(after=asked.params["after"]))).flow_run_id == "run-2"


class TestRows:
    def test_progress_is_of_as_many_outputs_as_an_attribute_says(self, store: ContextStore, http: httpx.Client) -> None:
        for number, (attributes, shown) in enumerate(PROGRESS):
            began(store, f"run-{number}", attributes=attributes)
            store.put(f"run-{number}", "extract", 1)
            text = http.get("/runs", params={"limit": 1}).text
            assert (shown in text) if shown else ("<progress" not in text), attributes

    def test_a_failed_run_says_why_in_a_line(self, store: ContextStore, http: httpx.Client) -> None:
        store.run("run-1").update(state="failed", error="Traceback (most recent call last):\n  File x\nKeyError: 'a'\n")
        assert ">KeyError: &#39;a&#39;</span>" in http.get("/runs").text

    def test_failures_and_the_parent_are_told(self, store: ContextStore, http: httpx.Client) -> None:
        began(store, "child", parent="the/parent")
        with pytest.raises(ZeroDivisionError):
            store.run("child").step("divide", lambda: 1 / 0)
        text = http.get("/runs").text
        assert ">1 failed</span>" in text
        assert 'child of <a class="id mono" href="/run?id=the%2Fparent">the/parent</a>' in text

    def test_hostile_names_stay_text(self, store: ContextStore, http: httpx.Client) -> None:
        for name in HOSTILE:
            attributes = {name[:80]: name[:300], "a=b": name[:300]}
            began(store, name, attributes=attributes, parent=name)
            store.run(name).update(state="failed", error=name)
        page = http.get("/runs")
        assert rows_of(page) == HOSTILE[::-1]
        assert "<script>alert" not in page.text
        assert "<img" not in page.text
        assert not re.search("[\u202e\x1b]", page.text)
        for link in re.findall(r'<a class="chip" href="([^"]*)"', page.text):
            assert len(rows_of(http.get(html.unescape(link)))) == 1, link

    def test_hostile_searches_stay_text(self, http: httpx.Client) -> None:
        for text in HOSTILE[:-1]:
            for name in ("prefix", "state", "attribute", "parent", "since", "until", "after", "limit", "path", "self"):
                page = http.get("/runs", params={name: text})
                assert page.status_code in (200, 400), (name, text)
                assert "<script>alert" not in page.text
                assert "<img" not in page.text


def test_runs_of_one_millisecond_have_places_of_their_own(store: ContextStore, http: httpx.Client) -> None:
    """A row that arrives is put between the others by these."""
    for number in range(200):
        store.put(f"run-{number:03}", "node", 1)
    places = re.findall(r'data-order="([^"]+)"', http.get("/runs?limit=200").text)
    assert len(set(places)) == 200
    assert places == sorted(places, reverse=True)
