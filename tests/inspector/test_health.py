"""The page on a store's health: how much there is, what goes on, whether it is well."""

from __future__ import annotations

import re
import sqlite3
import time
from typing import Any

import httpx
import pytest

from contextstore import ContextStore
from contextstore.inspector import CommitFigures, app
from contextstore.inspector.sampling import Sampler

from .site import PATIENCE, served
from .test_streams import followed, live


def test_it_says_how_much_there_is(store: ContextStore, http: httpx.Client) -> None:
    store.put_many("run-1", {f"node-{number}": number for number in range(12)})
    store.put_global("key", 1)
    store.delete_run("run-2")
    stats = http.get("/health.json").json()["stats"]
    assert (stats["runs"], stats["outputs"], stats["globals"], stats["tombstones"]) == (1, 12, 1, 1)
    assert stats["file_bytes"] > 0
    page = http.get("/health")
    assert page.status_code == 200
    for title in ("Outputs per second", "Commits per second", "Commit latency", "Cache hits", "Write-ahead log"):
        assert title in page.text


def test_samples_tell_what_was_written_by_whichever_process(target: str, store: ContextStore) -> None:
    with ContextStore(target, read_only=True) as looked_at:
        sampler = Sampler(looked_at, None)
        assert sampler.samples() == []
        store.put_many("run-1", {f"node-{number}": number for number in range(50)})
        deadline = time.monotonic() + PATIENCE
        while not (rates := [s.outputs_per_second for s in sampler.samples() if s.outputs_per_second]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert rates[0] > 0


def test_commits_of_the_looked_at_store_are_plotted(tmp_path: Any) -> None:
    figures = CommitFigures()
    with ContextStore(tmp_path / "store.db", observers=[figures]) as store:
        sampler = Sampler(store, figures)
        sampler.samples()
        store.put("run", "node", 1)
        deadline = time.monotonic() + PATIENCE
        while not (samples := sampler.samples()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert samples[0].commits.commits == 1
        assert samples[0].commits_per_second > 0
        assert samples[0].writes_per_second > 0


def test_who_looks_again_within_a_second_sees_the_same_samples(tmp_path: Any) -> None:
    with ContextStore(tmp_path / "store.db") as store:
        sampler = Sampler(store, None)
        sampler.samples()
        pings = store.counters().calls.get("ping", 0)
        for _ in range(20):
            sampler.samples()
        assert store.counters().calls["ping"] - pings <= 1


def test_a_store_in_memory_has_a_health_too() -> None:
    with ContextStore(":memory:") as store, served(app(store)) as address:
        store.put("run", "node", 1)
        assert httpx.get(f"{address}/health.json").json()["stats"]["outputs"] == 1


def test_a_check_runs_to_its_end_and_says_what_it_found(store: ContextStore, http: httpx.Client) -> None:
    store.put_many("run-1", {f"node-{number}": number for number in range(12)})
    assert http.get("/health.json").json()["check"] is None
    assert _begun(http).status_code == 303
    report = _ended(http)["report"]
    assert (report["runs"], report["outputs"], report["problems"]) == (1, 12, [])
    assert "Nothing is wrong" in http.get("/health").text


def test_damage_is_shown_with_its_place(embedded_target: str, tmp_path: Any) -> None:
    with ContextStore(embedded_target) as store:
        store.put("<script>alert(1)</script>", "node", "value")
    with sqlite3.connect(embedded_target) as connection:
        connection.execute("UPDATE node_outputs SET value = 'other'")
    connection.close()
    with (
        ContextStore(embedded_target, read_only=True) as store,
        served(app(store)) as address,
        httpx.Client(base_url=address) as http,
    ):
        _begun(http)
        assert len(_ended(http)["report"]["problems"]) == 1
        page = http.get("/health").text
    assert "1 problem found" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page


@pytest.fixture
def embedded_target(tmp_path: Any) -> str:
    return str(tmp_path / "store.db")


def _begun(http: httpx.Client) -> httpx.Response:
    token = re.search(r'name="form_token" value="([^"]+)"', http.get("/health").text)
    assert token is not None
    origin = str(http.base_url).rstrip("/")
    return http.post("/health/check", data={"form_token": token[1]}, headers={"origin": origin})


def _ended(http: httpx.Client) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while (check := http.get("/health.json").json()["check"])["report"] is None and check["failure"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    found: dict[str, Any] = check
    return found


def test_a_browser_that_leaves_a_run_counts_as_no_error(store: ContextStore, http: httpx.Client) -> None:
    store.put("run-1", "extract", 1)
    with followed(http, live(http, "/run?id=run-1")):
        pass
    deadline = time.monotonic() + PATIENCE
    while not http.get("/health.json").json()["counters"]["errors"].get("CancelledError"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    page = http.get("/health").text
    assert re.search(r"<dt>Errors</dt><dd>none</dd>\s+<dt>Cancelled calls</dt><dd [^>]*>[1-9]", page)
