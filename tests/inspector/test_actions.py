"""Deleting from the pages: if that was allowed, by a form of ours, and told as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from contextstore import ContextStore, RunDeletedError
from contextstore.inspector import app

from .site import served


@pytest.fixture
def store(target: str) -> Iterator[ContextStore]:
    with ContextStore(target) as opened:
        opened.put("run-1", "extract", 1)
        opened.upsert_global("key", 1)
        yield opened


@pytest.fixture
def application(store: ContextStore) -> Any:
    return app(store, allow_delete=True)


@pytest.fixture
def http(application: Any) -> Iterator[httpx.Client]:
    with (
        served(application) as site,
        httpx.Client(base_url=site, timeout=60, headers={"sec-fetch-site": "same-origin"}) as client,
    ):
        yield client


def form(application: Any, **fields: str) -> dict[str, str]:
    return {"form_token": application.form_token, **fields}


def test_a_run_is_deleted_and_one_is_led_to_where_that_is_seen(
    application: Any, http: httpx.Client, store: ContextStore
) -> None:
    answer = http.post("/run/delete", data=form(application, id="run-1"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/run?id=run-1")
    with pytest.raises(RunDeletedError):
        store.put("run-1", "late", 1)
    assert http.post("/run/delete", data=form(application, id="run-1")).status_code == 303  # again, as after a reload


def test_a_global_is_deleted_and_one_is_led_to_the_others(
    application: Any, http: httpx.Client, store: ContextStore
) -> None:
    answer = http.post("/global/delete", data=form(application, key="key"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/globals")
    assert store.list_global_keys() == []
    again = http.post("/global/delete", data=form(application, key="key"))
    assert again.status_code == 404
    assert "nothing was deleted" in again.text


def test_what_is_not_there_is_told(application: Any, http: httpx.Client, store: ContextStore) -> None:
    answer = http.post("/run/delete", data=form(application, id="no-such-run"))
    assert answer.status_code == 404
    assert "There is no run no-such-run; nothing was deleted." in answer.text
    assert http.post("/run/delete", data=form(application, id="")).status_code == 400
    assert http.post("/run/delete", data=form(application)).status_code == 400
    assert http.get("/run/delete").status_code == 405


def test_a_form_without_the_token_of_these_pages_changes_nothing(http: httpx.Client, store: ContextStore) -> None:
    for token in ("", "x", "é"):
        answer = http.post("/run/delete", data={"id": "run-1", "form_token": token})
        assert answer.status_code == 403
        assert "load its page again" in answer.text
    assert http.post("/run/delete", data={"id": "run-1"}).status_code == 403
    assert store.list_keys("run-1") == ["extract"]


def test_what_is_deleted_stands_in_the_form_and_not_in_the_address(
    application: Any, http: httpx.Client, store: ContextStore
) -> None:
    store.put("run-2", "extract", 1)
    assert http.post("/run/delete?id=run-2", data=form(application, id="run-1")).status_code == 303
    assert http.post("/run/delete?id=run-2", data=form(application)).status_code == 400
    assert [run.flow_run_id for run in store.list_runs()] == ["run-2"]


def test_a_form_that_is_too_long_or_none_is_refused(application: Any, http: httpx.Client, store: ContextStore) -> None:
    kind = {"content-type": "application/x-www-form-urlencoded"}
    token = application.form_token
    for content, status, headers in (
        (b"id=run-1&x=" + b"a" * 70_000, 413, kind),
        (f"id=run-1&id=other&form_token={token}".encode(), 400, kind),
        (b"id=\xff", 400, kind),
        (b"id=%ff", 400, kind),
        (b'{"id": "run-1"}', 415, {"content-type": "application/json"}),
        (b"", 415, {}),
    ):
        answer = http.post("/run/delete", content=content, headers=headers)
        assert answer.status_code == status, content[:40]
    assert store.list_keys("run-1") == ["extract"]


def test_without_the_flag_nothing_is_deleted_and_the_flag_is_named(store: ContextStore) -> None:
    application: Any = app(store)
    with served(application) as site:
        for path in ("/run/delete", "/global/delete"):
            data = form(application, id="run-1", key="key")
            answer = httpx.post(f"{site}{path}", data=data, headers={"sec-fetch-site": "same-origin"})
            assert answer.status_code == 403
            assert "--allow-delete" in answer.text
    assert store.list_keys("run-1") == ["extract"]
    assert store.list_global_keys() == ["key"]


def test_a_store_that_is_read_only_says_so(target: str, store: ContextStore) -> None:
    with ContextStore(target, read_only=True) as looked_at:
        application: Any = app(looked_at, allow_delete=True)
        with served(application) as site:
            data = form(application, id="run-1")
            answer = httpx.post(f"{site}/run/delete", data=data, headers={"sec-fetch-site": "same-origin"})
    assert answer.status_code == 403
    assert "read_only" in answer.text
