"""Streams over HTTP: what is sent, from which place on, and what is left when a browser goes."""

from __future__ import annotations

import contextlib
import html
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx

from contextstore import ContextStore
from contextstore.inspector import app

from .site import PATIENCE, served


class Events:
    """What a stream sends, as a browser reads it."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()

    def next(self) -> dict[str, str]:
        """The next event that has any data."""
        fields: dict[str, list[str]] = {}
        for line in self._lines:
            name, _, text = line.partition(": ")
            if line and name:
                fields.setdefault(name, []).append(text)
            elif not line and "data" in fields:
                return {name: "\n".join(texts) for name, texts in fields.items()}
            elif not line:
                fields = {}
        raise AssertionError("the stream has ended")

    def until(self, wanted: str) -> list[dict[str, str]]:
        """All events up to the one with this in it."""
        found = [self.next()]
        while wanted not in found[-1]["data"]:
            found.append(self.next())
        return found


@contextlib.contextmanager
def followed(http: httpx.Client, address: str, **headers: str) -> Iterator[Events]:
    with http.stream("GET", address, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Events(answer)


def live(http: httpx.Client, page: str) -> str:
    """Where a page is followed."""
    found = re.search(r'data-live="([^"]*)"', http.get(page).text)
    assert found
    return html.unescape(found[1])


def nodes(events: list[dict[str, str]]) -> list[str]:
    return re.findall(r">(node-\d+)</a>", "".join(event["data"] for event in events))


def test_a_run_that_is_begun_is_put_among_the_others(store: ContextStore, http: httpx.Client) -> None:
    store.put("run-1", "extract", 1)
    with followed(http, live(http, "/runs")) as events:
        store.put("run-2", "extract", 1)
        (event,) = events.until("run-2")
        assert 'data-into="runs-rows" data-at="start"' in event["data"]
        assert "run-1" not in event["data"]  # it has not changed


def test_a_run_that_does_not_fit_any_more_is_taken_away(store: ContextStore, http: httpx.Client) -> None:
    store.run("run-1").begin()
    with followed(http, live(http, "/runs?state=open")) as events:
        store.run("other").begin()
        assert "data-gone" not in events.until("other")[-1]["data"]
        store.run("run-1").update(state="completed")
        assert "run-1" not in events.until("data-gone")[-1]["data"]


def test_only_runs_that_are_looked_for_are_told(store: ContextStore, http: httpx.Client) -> None:
    with followed(http, live(http, "/runs?prefix=night")) as events:
        store.put("day-1", "extract", 1)
        store.put("night-1", "extract", 1)
        assert "day-1" not in "".join(event["data"] for event in events.until("night-1"))


def test_what_cannot_be_meant_is_refused(http: httpx.Client) -> None:
    assert "event: gone" in http.get("/runs/live?state=unheard-of").text
    assert "event: gone" in http.get("/run/live").text
    assert "event: gone" in http.get("/run/live?id=not-there").text


def test_a_place_that_is_none_has_the_page_begin_anew(store: ContextStore, http: httpx.Client) -> None:
    store.put("run-1", "extract", 1)
    assert "event: reload" in http.get("/runs/live?after=nowhere").text
    address = live(http, "/run?id=run-1").replace("after=", "after=no")
    assert "event: reload" in http.get(address).text


def test_outputs_failures_and_state_of_a_run_are_told(store: ContextStore, http: httpx.Client) -> None:
    run = store.run("run-1")
    run.begin()

    def fail() -> None:
        raise RuntimeError("<b>no</b>")

    with followed(http, live(http, "/run?id=run-1")) as events:
        store.put("run-1", "node-1", "<script>")
        assert "<script>" not in events.until("node-1")[-1]["data"]
        with contextlib.suppress(RuntimeError):
            run.step("node-2", fail)
        assert "&lt;b&gt;no" in events.until("data-failed")[-1]["data"]
        run.upsert_state("progress", 7)
        assert "progress" in events.until('data-into="states"')[-1]["data"]
        store.delete_run("run-1")
        while (event := events.next()).get("event") != "gone":
            pass
        assert "deleted" in event["data"]


def test_a_stream_goes_on_after_the_server_was_another_process(target: str, store: ContextStore) -> None:
    """Nothing is lost and nothing comes twice, by the ids of the events."""
    store.run("run-1").begin()
    seen: list[str] = []
    place, address = "", ""
    for first in (0, 10, 20):
        with (
            ContextStore(target, read_only=True) as looked_at,
            served(app(looked_at)) as site,
            httpx.Client(base_url=site, timeout=PATIENCE) as http,
        ):
            address = address or live(http, "/run?id=run-1")
            with followed(http, address, **({"last-event-id": place} if place else {})) as events:
                for number in range(first, first + 10):
                    store.put("run-1", f"node-{number}", number)
                    if number % 10 == 6:  # the last ones are written while nobody is told
                        told = events.until(f"node-{number}<")
                        seen += nodes(told)
                        place = [event["id"] for event in told if "id" in event][-1]
                        break
        for number in range(first + 7, first + 10):
            store.put("run-1", f"node-{number}", number)
    assert seen == [f"node-{number}" for number in range(27)]


def test_nothing_is_left_of_browsers_that_vanish(target: str, store: ContextStore) -> None:
    store.put("run-1", "node-1", 1)
    with ContextStore(target, read_only=True) as looked_at:
        guard: Any = app(looked_at)
        feeds = guard._app.state.feeds
        with served(guard) as site:
            clients = [httpx.Client(base_url=site, timeout=PATIENCE) for _ in range(8)]
            for client in clients:
                with followed(client, live(client, "/run?id=run-1")) as events:
                    events.until("run-head")
                    assert feeds.count > 0
                client.close()
            deadline = time.monotonic() + PATIENCE
            while feeds.count:
                assert time.monotonic() < deadline
                time.sleep(0.01)


def test_the_health_page_is_told_what_goes_on_and_what_a_check_has_found(
    store: ContextStore, http: httpx.Client
) -> None:
    store.put("run", "node", 1)
    token = re.search(r'name="form_token" value="([^"]+)"', http.get("/health").text)
    assert token
    with followed(http, live(http, "/health")) as events:
        events.until('id="health-plots"')
        begun = http.post("/health/check", data={"form_token": token[1]}, headers={"origin": str(http.base_url)})
        assert begun.status_code == 303
        events.until("Nothing is wrong")
