"""examples/web_service.py does what it says: one uvicorn with three workers, and clients that ask different ones.

What happens when workers are killed, stopped or left without a database is in test_web_service_failures.py.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import pathlib
import sqlite3
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import contextstore
from contextstore import ContextStore, errors

from ..conftest import new_location
from ..support.processes import ROOT
from ..support.web import Service, begin, events, follow

NODES = ["1-request", "2-outline", "3-draft", "4-answer", "5-report"]


@pytest.fixture(scope="module", params=["file", pytest.param("postgres", marks=pytest.mark.thorough)])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "postgres":
        return str(new_location("postgres", request))
    return str(tmp_path_factory.mktemp("web") / "flows.db")


@pytest.fixture(scope="module")
def service(target: str) -> Iterator[Service]:
    with Service(target, MODEL_TAKES=0) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as made:
        yield made


def wait_for_draft(client: httpx.Client, flow_run_id: str) -> None:
    with events(client, flow_run_id) as stream:
        for event in stream:
            if event["id"] == "3-draft":
                return


def finished(client: httpx.Client, key: str) -> str:
    flow_run_id = begin(client, key)
    wait_for_draft(client, flow_run_id)
    assert client.post(f"/runs/{flow_run_id}/answers", json={"text": "more"}).status_code == 204
    assert follow(client, flow_run_id, lambda _: None) == NODES
    return flow_run_id


# -------------------------------------------------------------------------------------------------------------- streams


def test_a_run_is_followed_to_its_end_with_the_answer_of_a_person_in_between(client: httpx.Client) -> None:
    flow_run_id = begin(client, "followed", "lamps")
    told: list[dict[str, Any]] = []
    with events(client, flow_run_id) as stream:
        for event in stream:
            told.append(event)
            if event["id"] == "3-draft":
                assert client.post(f"/runs/{flow_run_id}/answers", json={"text": "more"}).status_code == 204
    assert [event["id"] for event in told] == NODES
    outputs = client.get(f"/runs/{flow_run_id}").json()
    assert [event["data"] for event in told] == [{"node": node, "value": outputs[node]} for node in NODES]
    assert outputs["5-report"] == "report of draft of outline of lamps, with more"


def test_a_stream_that_is_asked_for_again_has_what_comes_after_the_last_event(client: httpx.Client) -> None:
    flow_run_id = finished(client, "again")
    with events(client, flow_run_id, last="3-draft") as stream:
        assert [event["id"] for event in stream] == NODES[3:]
    done = client.get(f"/runs/{flow_run_id}/events", headers={"Last-Event-ID": NODES[-1]})
    assert done.status_code == 204  # at which a browser stops asking


def test_a_stream_ends_when_its_run_is_deleted(client: httpx.Client) -> None:
    flow_run_id = begin(client, "deleted in its stream")
    with events(client, flow_run_id) as stream:
        told = []
        for event in stream:
            told.append(event)
            if event.get("id") == "3-draft":
                assert client.delete(f"/runs/{flow_run_id}").status_code == 204
    assert (told[-1]["event"], told[-1]["data"]) == ("deleted", flow_run_id)


# ----------------------------------------------------------------------------------------------------- one key, one run


def test_the_same_key_sent_through_different_workers_at_once_is_one_run(service: Service) -> None:
    with service.client_of_each() as clients, concurrent.futures.ThreadPoolExecutor() as threads:
        together = threading.Barrier(len(clients))

        def send(client: httpx.Client, key: str) -> str:
            together.wait(60)
            return begin(client, key)

        for number in range(5):
            sent = [threads.submit(send, client, f"at once {number}") for client in clients.values()]
            assert len({answer.result() for answer in sent}) == 1
    assert len(clients) == 3


def test_the_same_key_with_another_request_is_refused(client: httpx.Client) -> None:
    begin(client, "taken", "tea")
    refused = client.post("/runs", json={"topic": "coffee"}, headers={"Idempotency-Key": "taken"})
    assert refused.status_code == 422
    assert "another request" in refused.json()["detail"]


def test_an_idempotency_key_passes_by_itself_when_its_time_is_over(client: httpx.Client, target: str) -> None:
    assert client.post("/runs", json={"topic": "salt"}, headers={"Idempotency-Key": "passing"}).status_code == 202
    with ContextStore(target) as store:
        entry = store.get_global_entry("idempotency/passing")
    assert entry is not None
    assert entry.expires_at is not None
    assert 29 <= (entry.expires_at - entry.written_at).days <= 30


# ---------------------------------------------------------------------------------------------------------------- pages


def test_pages_give_each_run_once_newest_first(client: httpx.Client) -> None:
    begun = [begin(client, f"paged {number}") for number in range(5)]
    paged: list[str] = []
    while page := client.get("/runs", params={"limit": 2, **({"after": paged[-1]} if paged else {})}).json()["runs"]:
        assert len(page) <= 2
        paged += [run["flow_run_id"] for run in page]
    assert len(paged) == len(set(paged))
    assert [run for run in paged if run in begun] == begun[::-1]


def test_runs_are_listed_by_their_state_and_tell_what_was_tried(client: httpx.Client, target: str) -> None:
    complete, asleep = finished(client, "is complete"), begin(client, "waits for an answer")
    wait_for_draft(client, asleep)
    with ContextStore(target, read_only=True) as store:
        store.wait_for_run(complete, timeout=60)

    def runs_in(state: str) -> set[str]:
        return {run["flow_run_id"] for run in client.get("/runs", params={"state": state, "limit": 100}).json()["runs"]}

    assert (complete in runs_in("completed"), complete in runs_in("open")) == (True, False)
    assert (asleep in runs_in("completed"), asleep in runs_in("open")) == (False, True)
    told = client.get(f"/runs/{complete}/attempts").json()
    assert (told["run"]["state"], told["run"]["failures"]) == ("completed", 0)
    assert [(one["node"], one["number"], one["error"]) for one in told["attempts"]] == [
        ("2-outline", 1, None),
        ("3-draft", 1, None),
        ("5-report", 1, None),
    ]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "after=nobody-knows-it", "state=lost"])
def test_a_page_that_there_cannot_be_is_refused(client: httpx.Client, query: str) -> None:
    assert client.get(f"/runs?{query}").status_code == 422


# --------------------------------------------------------------------------------------------------------------- errors


def test_the_first_answer_stands_and_is_not_told_to_the_second(client: httpx.Client) -> None:
    flow_run_id = finished(client, "answered")
    again = client.post(f"/runs/{flow_run_id}/answers", json={"text": "more"})
    assert again.status_code == 204  # a retry
    other = client.post(f"/runs/{flow_run_id}/answers", json={"text": "less"})
    assert (other.status_code, other.json()) == (409, {"detail": "something else was written before"})


def test_an_answer_to_what_was_not_asked_is_a_conflict(client: httpx.Client, target: str) -> None:
    with ContextStore(target) as store:
        store.put("of another program", "1-request", {"topic": "tea"})
    refused = client.post("/runs/of another program/answers", json={"text": "more"})
    assert (refused.status_code, refused.json()) == (409, {"detail": "nothing was asked yet"})


def test_a_run_that_never_was_is_not_found(client: httpx.Client) -> None:
    for answer in (
        client.get("/runs/none"),
        client.get("/runs/none/events"),
        client.post("/runs/none/answers", json={"text": ""}),
        client.delete("/runs/none"),
    ):
        assert answer.status_code == 404
    assert client.get(f"/runs/{'x' * 2000}").status_code == 422


def test_a_deleted_run_is_gone(client: httpx.Client) -> None:
    flow_run_id = finished(client, "deleted")
    assert client.delete(f"/runs/{flow_run_id}").status_code == 204
    for answer in (
        client.get(f"/runs/{flow_run_id}"),
        client.get(f"/runs/{flow_run_id}/events"),
        client.post(f"/runs/{flow_run_id}/answers", json={"text": "more"}),
        client.delete(f"/runs/{flow_run_id}"),
        client.post("/runs", json={"topic": "tea"}, headers={"Idempotency-Key": "deleted"}),
    ):
        assert (answer.status_code, answer.json()) == (410, {"detail": "the run was deleted"})
    assert flow_run_id not in client.get("/runs", params={"limit": 100}).text


@pytest.mark.parametrize(("length", "status"), [(10_001, 422), (2**21, 413)])
def test_what_is_too_long_is_refused(client: httpx.Client, length: int, status: int) -> None:
    refused = client.post("/runs", json={"topic": "x" * length}, headers={"Idempotency-Key": f"long {length}"})
    assert refused.status_code == status


def test_a_store_that_is_busy_is_503_until_it_no_longer_is(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flows.db"
    with Service(str(path), workers=1, STORE_TIMEOUT=0.5, MODEL_TAKES=0) as service, service.client() as client:
        service.hear("pruned")  # the one write of its own accord
        with sqlite3.connect(path, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            busy = client.post("/runs", json={"topic": "tea"}, headers={"Idempotency-Key": "busy"})
        other.close()
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
        assert busy.json() == {"detail": "the store cannot be used now"}
        while busy.status_code == 503:  # what a client does; a slow disk may keep it waiting
            busy = client.post("/runs", json={"topic": "tea"}, headers={"Idempotency-Key": "busy"})
        assert busy.status_code == 202


STATUSES = {
    errors.RunDeletedError("run-1"): 410,
    errors.AlreadyExistsError("run-1", "secret node", False): 409,
    errors.InvalidKeyError("node_id", "of a secret"): 422,
    errors.SerializationError("$.secret", "is a set"): 422,
    errors.StoreBusyError("the secret lock"): 503,
    errors.StorageError("the secret server", True): 503,
    errors.StoreClosedError("/secret/flows.db"): 503,
    errors.StoreFullError("the secret disk"): 507,
    errors.CorruptStoreError("the secret output"): 500,
    errors.DeserializationError("$", "the secret"): 500,
}


@pytest.mark.parametrize("error", STATUSES, ids=lambda error: type(error).__name__)
def test_an_error_is_a_status_and_a_sentence_that_tells_nothing_of_what_is_stored(
    error: errors.ContextStoreError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import web_service

    request = web_service.Request({"type": "http", "method": "GET", "path": "/", "headers": [], "server": ("a", 1)})
    answer = asyncio.run(web_service.tell(request, error))
    assert answer.status_code == STATUSES[error]
    assert "secret" not in bytes(answer.body).decode()
    assert ("retry-after" in answer.headers) == (answer.status_code == 503)


# ------------------------------------------------------------------------------------------------------------ retention


def test_of_three_workers_one_prunes(service: Service, target: str) -> None:
    service.hear("pruned: PruneReport")
    with ContextStore(target) as store:
        entry = store.get_global_entry("retention")
    assert entry is not None
    assert entry.version == 1
    assert len(service.said("pruned: PruneReport")) == 1


def test_what_is_past_its_time_is_pruned_with_its_key(tmp_path: pathlib.Path) -> None:
    target = str(tmp_path / "flows.db")
    with ContextStore(target) as store:
        store.put("an old run", "1-request", {"topic": "tea"})
        store.put_global("idempotency/old", "an old run", ttl=0.001)
    with Service(target, workers=1, KEEP_DAYS=0) as service, service.client() as client:
        service.hear(r"pruned: PruneReport\(runs=1, outputs=1, .* globals=1\)")
        assert client.get("/runs/an old run").status_code == 410
    with ContextStore(target) as store:
        assert store.list_globals("idempotency/") == []


def test_both_modules_are_importable_without_a_store(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    for name in ("web_service", "web_worker"):
        sys.modules.pop(name, None)
        __import__(name)
    assert list(tmp_path.iterdir()) == []  # uvicorn imports the application in the parent of its workers, too
    assert contextstore.AsyncContextStore.__name__
