"""The page of a run: what it tells of the run, its nodes, its state; and its JSON twin."""

from __future__ import annotations

import html
import pathlib
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from contextstore import ContextStore
from contextstore.inspector import app

from ..contract.test_damaged import damage, output
from .site import served

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>\u202e\x1b[31m'


def fail() -> None:
    raise ConnectionError("the warehouse did not answer")


def failed(store: ContextStore, run: str, node: str, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError):
            store.run(run).step(node, fail)


def node_ids(text: str) -> list[str]:
    """The nodes that a page shows, from the top."""
    return [html.unescape(found) for found in re.findall(r'<td class="node-id"><a [^>]*>([^<]*)</a>', text)]


def page_of(http: httpx.Client, run: str, **parameters: Any) -> str:
    answer = http.get("/run", params={"id": run, **parameters})
    assert answer.status_code == 200
    return answer.text


def data_of(http: httpx.Client, run: str, **parameters: Any) -> dict[str, Any]:
    answer = http.get("/run.json", params={"id": run, **parameters})
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_the_head_tells_what_is_known_of_the_run(store: ContextStore, http: httpx.Client) -> None:
    run = store.run("run")
    run.begin(attributes={"branch": "main", "seed": 42}, parent="before")
    run.put("a", 1)
    failed(store, "run", "b", 2)
    run.update(state="failed", error="ConnectionError: no\nafter two attempts")
    store.run("child").begin(parent="run")
    text = page_of(http, "run")
    for fact in ("failed", "2 failed attempts", "ConnectionError: no\nafter two attempts", "branch", "main", "42"):
        assert fact in text
    for address in (
        "/run?id=before",
        "/run?id=child",
        "/runs?parent=run",
        "/compare?a=before&amp;b=run",
        "/run.json?id=run",
    ):
        assert f'href="{address}"' in text
    found = data_of(http, "run")
    assert (found["run"]["outputs"], found["run"]["failures"], found["run"]["parent"]) == (1, 2, "before")
    assert [child["flow_run_id"] for child in found["children"]] == ["child"]


def test_twenty_children_are_shown_and_the_rest_are_a_link_away(store: ContextStore, http: httpx.Client) -> None:
    store.put("run", "a", 1)
    for number in range(21):
        store.run(f"child-{number:02}").begin(parent="run")
    found = data_of(http, "run")
    assert len(found["children"]) == 20
    assert found["children_next_after"] == "child-01"
    text = page_of(http, "run")
    assert "All children" in text
    assert "child-01" in text
    assert "child-00" not in text


def test_the_lease_of_the_runs_name_is_shown_while_it_is_held(store: ContextStore, http: httpx.Client) -> None:
    store.put("run", "a", 1)
    with store.lease("run") as lease, store.lease("run-2"):
        assert lease.holder in page_of(http, "run")
        found = data_of(http, "run")["lease"]
        assert (found["name"], found["token"], found["holder"]) == ("run", lease.token, lease.holder)
    assert data_of(http, "run")["lease"] is None
    assert lease.holder not in page_of(http, "run")


def test_nodes_come_in_the_order_in_which_they_were_written(store: ContextStore, http: httpx.Client) -> None:
    for node in "cab":
        store.put("run", node, {"node": node})
    assert node_ids(page_of(http, "run")) == ["c", "a", "b"]
    assert [node["node_id"] for node in data_of(http, "run")["nodes"]] == ["a", "b", "c"]


def test_columns_order_the_nodes_of_a_page(store: ContextStore, http: httpx.Client) -> None:
    run = store.run("run")
    for node in "cab":
        run.step(node, lambda node=node: node * (10 + ord(node)))
    attempts = {one.node_id: one.ended_at - one.started_at for one in run.attempts()}
    assert node_ids(page_of(http, "run", order="id")) == ["a", "b", "c"]
    assert node_ids(page_of(http, "run", order="size")) == ["c", "b", "a"]
    assert node_ids(page_of(http, "run", order="took")) == sorted("abc", key=lambda node: (-attempts[node], node))
    assert "order=size" in page_of(http, "run")
    assert http.get("/run?id=run&order=colour").status_code == 400


def test_pages_of_nodes_are_all_the_nodes_once(store: ContextStore, http: httpx.Client) -> None:
    store.put_many("run", {f"n{number}": number for number in range(7)})
    failed(store, "run", "n3x")
    failed(store, "run", "n9")
    seen, after = list[str](), ""
    for _ in range(4):
        found = data_of(http, "run", limit=3, after=after)
        seen += [node["node_id"] for node in found["nodes"]]
        after = found["next_after"]
        if after is None:
            break
    assert seen == ["n0", "n1", "n2", "n3", "n3x", "n4", "n5", "n6", "n9"]
    text = page_of(http, "run", limit=3)
    assert "3 of 7 nodes" in text
    assert "after=n2" in text


def test_nodes_are_found_by_how_their_ids_begin(store: ContextStore, http: httpx.Client) -> None:
    store.put_many("run", {"extract-1": 1, "extract-2": 1, "load": 1})
    failed(store, "run", "extract-3")
    failed(store, "run", "loader")
    assert sorted(node_ids(page_of(http, "run", prefix="extract"))) == ["extract-1", "extract-2", "extract-3"]
    assert "No node of this run fits" in page_of(http, "run", prefix="x")


def test_failures_are_marks_with_their_errors_and_can_be_shown_alone(store: ContextStore, http: httpx.Client) -> None:
    run = store.run("run")
    run.put("fine", 1)
    failed(store, "run", "late", 2)
    run.step("late", lambda: "here")
    failed(store, "run", "never")
    text = page_of(http, "run")
    assert text.count('class="mark"') == 3
    assert "attempt 2: ConnectionError: the warehouse did not answer" in text
    assert node_ids(page_of(http, "run", failed=1)) == ["late", "never"]
    late, never = data_of(http, "run", failed=1)["nodes"]
    assert [one["error"] is None for one in late["attempts"]] == [False, False, True]
    assert (late["brief"], never["brief"], never["written_at"]) == ('"here"', None, None)


def test_a_bar_goes_from_the_attempts_begin_to_the_writing(store: ContextStore, http: httpx.Client) -> None:
    run = store.run("run")
    info = run.begin()
    run.step("a", lambda: 1)
    run.put("b", 2)
    (attempt,) = run.attempts()
    bar = re.search(r'<rect class="took" x="([\d.]+)" y="1.5" width="([\d.]+)"', page_of(http, "run"))
    assert bar is not None
    assert info.begun_at is not None
    began = (attempt.started_at - info.begun_at).total_seconds() * 1000
    took = (attempt.ended_at - attempt.started_at).total_seconds() * 1000
    assert float(bar[1]) == pytest.approx(began, abs=0.01)
    assert float(bar[2]) == pytest.approx(took, abs=0.01)
    assert page_of(http, "run").count('class="written"') == 2


def test_what_a_fork_has_inherited_has_marks_without_bars(store: ContextStore, http: httpx.Client) -> None:
    store.run("run").step("a", lambda: 1)
    fork = store.fork_run("run")
    text = page_of(http, fork)
    assert node_ids(text) == ["a"]
    assert 'class="took"' not in text
    assert text.count('class="written"') == 1


def test_damaged_outputs_say_what_is_wrong(
    target: str, store: ContextStore, http: httpx.Client, request: pytest.FixtureRequest
) -> None:
    store.put_many("run", {"a": 1, "b": 2, "c": 3})
    location = target if "://" in target else pathlib.Path(target)
    with ThreadPoolExecutor(1) as other:  # in this thread a loop may be running: playwright's
        change = (location, request, "node_outputs", "checksum = checksum + 1", output("run", "b"))
        other.submit(damage, *change).result()
    text = page_of(http, "run")
    assert node_ids(text) == ["a", "c", "b"]
    assert "damaged: " in text
    damaged = {node["node_id"]: node["damaged"] is not None for node in data_of(http, "run")["nodes"]}
    assert damaged == {"a": False, "b": True, "c": False}


def test_values_are_shown_in_short_alone(store: ContextStore, http: httpx.Client) -> None:
    store.put("run", "long", ["x" * 1000] * 1000)
    store.put("run", "data", b"\x00" * 100_000, tag="image/png")
    assert len(page_of(http, "run")) < 30_000
    data, long = data_of(http, "run")["nodes"]
    assert (data["size"], data["tag"], len(long["brief"])) == (100_000, "image/png", 160)
    assert "image/png" in page_of(http, "run")


def test_pages_end_early_where_values_are_large(
    store: ContextStore, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contextstore.inspector.run.PAGE_BYTES", 25_000)
    store.put_many("run", {f"n{number}": b"x" * 10_000 for number in range(5)})
    first = data_of(http, "run")
    assert (len(first["nodes"]), first["next_after"]) == (3, "n2")
    assert [node["node_id"] for node in data_of(http, "run", after="n2")["nodes"]] == ["n3", "n4"]


def test_state_values_are_shown_with_their_versions(store: ContextStore, http: httpx.Client) -> None:
    run = store.run("run")
    run.upsert_state("cursor", {"page": 17})
    run.upsert_state("cursor", {"page": 18})
    text = page_of(http, "run")
    assert 'href="/state?run=run&amp;key=cursor"' in text
    assert html.escape('{"page": 18}', quote=False) in html.unescape(text)
    (found,) = data_of(http, "run")["state"]
    assert (found["key"], found["brief"], found["version"]) == ("cursor", '{"page": 18}', 2)


def test_more_state_values_than_a_page_has_are_leafed_through(
    store: ContextStore, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contextstore.inspector.run.STATES", 2)
    for key in "abc":
        store.run("run").upsert_state(key, 1)
    assert "state_after=b" in page_of(http, "run")
    assert [entry["key"] for entry in data_of(http, "run", state_after="b")["state"]] == ["c"]


def test_a_run_without_outputs_says_so(store: ContextStore, http: httpx.Client) -> None:
    store.run("begun").begin()
    assert "This run has no outputs yet" in page_of(http, "begun")
    assert data_of(http, "begun")["nodes"] == []


def test_a_run_that_is_not_there_says_what_became_of_it(store: ContextStore, http: httpx.Client) -> None:
    store.put("gone", "a", 1)
    store.delete_run("gone")
    gone, never = (http.get("/run", params={"id": run}) for run in ("gone", "never"))
    assert (gone.status_code, never.status_code) == (410, 404)
    assert "was deleted" in gone.text
    assert "There is no run never" in never.text
    assert http.get("/run.json?id=never").json()["error"].startswith("There is no run never.")
    assert http.get("/run").status_code == 400
    assert http.get("/run?id=").status_code == 400


def test_what_runs_ends_now_and_what_has_ended_does_not(store: ContextStore, http: httpx.Client) -> None:
    run = store.run("run")
    run.put("a", 1)
    assert "data-running" in page_of(http, "run")
    run.update(state="completed")
    assert "data-running" not in page_of(http, "run")


def test_a_page_in_order_of_time_says_where_what_is_new_is_told(store: ContextStore, http: httpx.Client) -> None:
    store.put("run", "a", 1)
    live = re.search(r'data-live="([^"]*)"', page_of(http, "run", prefix="a"))
    assert live is not None
    address = httpx.URL(html.unescape(live[1]))
    assert address.path == "/run/live"
    assert (address.params["id"], address.params["prefix"]) == ("run", "a")
    store.put("run", "b", 2)
    assert next(store.watch("run", after=address.params["after"])).node_id == "b"
    assert "data-live" not in page_of(http, "run", order="size")


@pytest.mark.parametrize("run_id", [HOSTILE, "..", "a/b?c#d%2f&e=1", "i" * 1024])
def test_whatever_somebody_wrote_stays_text(run_id: str, store: ContextStore, http: httpx.Client) -> None:
    run = store.run(run_id)
    run.begin(attributes={HOSTILE: HOSTILE}, parent=HOSTILE * 2)
    run.put(HOSTILE, {HOSTILE: HOSTILE})
    run.upsert_state(HOSTILE, HOSTILE)
    run.update(state="failed", error=HOSTILE)

    def hostile() -> None:
        raise ValueError(HOSTILE)

    with pytest.raises(ValueError, match="onerror"):
        run.step("../..", hostile)
    text = page_of(http, run_id)
    assert "<img" not in text
    assert "<script>" not in text
    seen = re.sub(r'<input type="hidden"[^>]*>', "", text)
    assert not {"\u202e", "\x1b"} & set(seen)
    assert data_of(http, run_id)["run"]["error"] == HOSTILE
    links = [html.unescape(one) for one in re.findall(r'href="(/node[^"]*)"', text)]
    assert {(url.params["run"], url.params["id"]) for url in map(httpx.URL, links)} == {
        (run_id, HOSTILE),
        (run_id, "../.."),
    }


def test_a_run_may_be_deleted_only_where_that_is_allowed(store: ContextStore, http: httpx.Client) -> None:
    store.put("run", "a", 1)
    assert "Delete" not in page_of(http, "run")
    with served(app(store, allow_delete=True)) as address:
        text = httpx.get(f"{address}/run?id=run", timeout=60).text
    form = text.partition('<form method="post" action="/run/delete">')[2].partition("</form>")[0]
    assert '<input type="hidden" name="id" value="run">' in form
    assert re.search(r'<input type="hidden" name="form_token" value="[^"]+">', form)


@pytest.mark.parametrize("run_id", ["a\nb", "a\rb", '"quoted"', HOSTILE, "100%41"])
def test_the_run_that_is_deleted_is_the_one_that_was_shown(run_id: str, store: ContextStore) -> None:
    others = {"a\r\nb", "quoted", "100A"}
    for run in {run_id, *others}:
        store.put(run, "a", 1)
    with served(app(store, allow_delete=True)) as address, httpx.Client(base_url=address, timeout=60) as client:
        text = client.get("/run", params={"id": run_id}).text
        form = text.partition('<form method="post" action="/run/delete">')[2].partition("</form>")[0]
        sent = {
            name: html.unescape(value) for name, value in re.findall(r'name="(id|form_token)" value="([^"]*)"', form)
        }
        sent["id"] = re.sub("\r\n|\r|\n", "\r\n", sent["id"])  # as a browser sends it
        answer = client.post("/run/delete", data=sent, headers={"origin": address})
        assert answer.status_code == 303
    assert {run.flow_run_id for run in store.list_runs()} == others - {run_id}
