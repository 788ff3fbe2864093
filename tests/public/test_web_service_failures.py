"""examples/web_service.py when things end: a worker is killed, the server is stopped, the database goes away.

The servers are real ones with three workers each, which are killed by SIGKILL or stopped by SIGTERM.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import re
import signal
import threading
from typing import Any

import httpx
import pytest

from contextstore import ContextStore

from ..conftest import new_location
from ..support.processes import complaints
from ..support.servers import running_server
from ..support.web import Service, begin, events, follow
from .test_web_service import NODES

pytestmark = pytest.mark.slow


@pytest.fixture(params=["file", "postgres"])
def target(request: pytest.FixtureRequest) -> str:
    return str(new_location(request.param, request))


def problems(service: Service) -> list[str]:
    """What a server should not have said. Its parent leaves its own listening socket to the end of the process."""
    lines = complaints(service.output).splitlines()
    bad = [line for line in lines if re.search(r"Traceback|Warning|ERROR|CRITICAL|Exception|Cancel ", line)]
    ours = rf"^sys:1: ResourceWarning: unclosed <socket\.socket fd=\d+.*laddr=\('127.0.0.1', {service.url[17:]}\)>$"
    tracing = "ResourceWarning: Enable tracemalloc to get the object allocation traceback"
    return [line for line in bad if not re.search(ours, line) and line != tracing]


def answer_when_asked(client: httpx.Client, flow_run_id: str) -> Any:
    """Follows a run and answers it, as often as it takes to be told that the answer is there."""

    def on_node(node_id: str) -> None:
        answered = None
        while node_id == "3-draft" and answered != 204:
            try:
                answered = client.post(f"/runs/{flow_run_id}/answers", json={"text": "more"}).status_code
            except httpx.TransportError:  # of the worker that was killed
                continue

    return follow(client, flow_run_id, on_node)


def test_of_what_was_acknowledged_nothing_is_lost_or_computed_again_when_a_worker_is_killed(target: str) -> None:
    with (
        Service(target, CLAIM_LASTS=3, MODEL_TAKES=0.3) as service,
        service.client_of_each() as clients,
        concurrent.futures.ThreadPoolExecutor(20) as threads,
    ):
        victim, *_ = clients
        begun = [begin(client, f"{process} {number}") for process, client in clients.items() for number in range(3)]
        with service.client() as client:  # its connections are anybody's
            followed = {run: threads.submit(answer_when_asked, client, run) for run in begun}
            service.hear(r"computing 3-draft of", 3)
            os.kill(victim, signal.SIGKILL)
            other = list(clients.values())[1]
            recorded = {run: other.get(f"/runs/{run}").json() for run in begun}
            marked = service.mark()
            for run, following in followed.items():
                assert following.result() == NODES, run
            ended = {run: client.get(f"/runs/{run}").json() for run in begun}
        service.hear(r"Application startup complete", 4)

        assert len(service.started) == 4
        assert sum(len(outputs) for outputs in recorded.values()) > len(begun)
        for run, outputs in recorded.items():
            assert {node: ended[run][node] for node in outputs} == outputs
            computed = service.said(rf"computing (\S+) of {run}", since=marked)
            assert not set(computed) & set(outputs)
        assert service.end() == 0
    assert problems(service) == []
    with ContextStore(target) as store:
        assert {run.flow_run_id: run.outputs for run in store.list_runs()} == dict.fromkeys(begun, len(NODES))
        assert store.list_globals("open/") == []
        assert store.check().ok


def test_at_sigterm_open_streams_end_and_all_processes_with_them(target: str) -> None:
    with Service(target, MODEL_TAKES=0) as service, service.client_of_each() as clients:
        runs = [begin(client, str(process)) for process, client in clients.items()]
        asked = threading.Barrier(len(runs) + 1)

        def to_the_end(client: httpx.Client, run: str) -> list[str]:
            told = []
            with events(client, run) as stream:
                for event in stream:
                    told.append(event["id"])
                    if event["id"] == "3-draft":
                        asked.wait(60)
            return told

        with concurrent.futures.ThreadPoolExecutor() as threads:
            told = [threads.submit(to_the_end, client, run) for client, run in zip(clients.values(), runs, strict=True)]
            asked.wait(60)
            assert service.end() == 0  # it would wait for the streams
            # Each has come to its end as HTTP has it, and the browser asks the next server for what comes after.
            assert [stream.result() for stream in told] == [NODES[:3]] * len(runs)
    assert problems(service) == []


def test_what_a_stopped_server_was_computing_the_next_one_computes_at_once(target: str) -> None:
    # A claim that was not given back would last for longer than the test.
    with Service(target, CLAIM_LASTS=3600, MODEL_TAKES=3600) as service, service.client() as client:
        run = begin(client, "left")
        service.hear(r"computing 2-outline of")
        assert service.end() == 0
    assert problems(service) == []
    with Service(target, CLAIM_LASTS=3600, MODEL_TAKES=0) as service, service.client() as client:
        assert begin(client, "left") == run  # its answer may have been lost
        assert answer_when_asked(client, run) == NODES
        assert service.end() == 0
    assert problems(service) == []


def test_a_server_without_its_database_is_not_ready_and_is_again_when_that_is_back(tmp_path: pathlib.Path) -> None:
    with running_server() as server, Service(server.url(), STORE_TIMEOUT=2, MODEL_TAKES=0) as service:
        with service.client_of_each() as clients:
            for client in clients.values():
                assert client.get("/health/ready").status_code == 200
            server.stop()
            for client in clients.values():
                gone = client.get("/health/ready")
                assert (gone.status_code, gone.headers["retry-after"]) == (503, "1")
                assert gone.json() == {"detail": "the store cannot be used now"}
                assert client.get("/health/live").status_code == 200  # a restart would not mend the database
                begun = client.post("/runs", json={"topic": "tea"}, headers={"Idempotency-Key": "1"})
                assert begun.status_code == 503
            server.start()
            for client in clients.values():
                while client.get("/health/ready").status_code == 503:  # as an orchestrator asks
                    pass
        with service.client() as client:
            assert answer_when_asked(client, begin(client, "1")) == NODES
        assert service.end() == 0
    assert problems(service) == []
