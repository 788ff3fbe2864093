"""Servers that are told to stop while browsers follow: they stop, and wait for nobody."""

from __future__ import annotations

import contextlib
import pathlib
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from contextstore import ContextStore
from contextstore.inspector.check_job import CheckJob

from ..support.processes import Child
from .commanded import TOKEN, commanded
from .site import PATIENCE
from .test_streams import live

PAGES = ("/runs", "/run?id=run-1", "/health", "/runs?state=open", "/run?id=run-2")

SERVICE = """
import contextlib, uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from contextstore.inspector import app

store = AsyncContextStore(sys.argv[1])

@contextlib.asynccontextmanager
async def lifespan(_):
    async with store:
        yield
    say("closed")

service = Starlette(lifespan=lifespan, routes=[Mount("/flows", app(store))])
uvicorn.run(service, port=int(sys.argv[2]), log_level="info", access_log=False)
"""


@pytest.fixture
def place(tmp_path: pathlib.Path) -> str:
    path = str(tmp_path / "store.db")
    with ContextStore(path) as store:
        for run in ("run-1", "run-2"):
            store.put(run, "extract", 1)
    return path


def fill(place: str) -> None:
    """So that a check goes on for a while."""
    with ContextStore(place) as store:
        for run in range(60):
            store.put_many(f"many-{run}", {f"node-{number}": number for number in range(1_000)})


@contextlib.contextmanager
def streams(http: httpx.Client, pages: tuple[str, ...]) -> Iterator[list[httpx.Response]]:
    """Open streams of these pages: each has begun, and is not read on."""
    with contextlib.ExitStack() as stack:
        answers = [stack.enter_context(http.stream("GET", live(http, page))) for page in pages]
        yield answers


def to_the_end(answer: httpx.Response) -> str:
    """What is sent until the server has completed its answer; it raises if that is cut off."""
    return "".join(answer.iter_text())


def test_the_command_ends_while_browsers_follow_and_a_check_goes_on(place: str) -> None:
    fill(place)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    with (
        commanded(place) as serving,
        httpx.Client(base_url=serving.site, headers=bearer, timeout=PATIENCE) as http,
        streams(http, PAGES),
    ):
        token = re.search(r'name="form_token" value="([^"]+)"', http.get("/health").text)
        assert token
        http.post("/health/check", data={"form_token": token[1]}, headers={"origin": serving.site})
        began = time.monotonic()
        assert serving.end(signal.SIGINT) == (0, "contextstore: Ctrl-C stops it\n")
        print(f"ended after {time.monotonic() - began:.2f} s")


def test_a_check_is_given_up_once_its_store_is_closed(place: str) -> None:
    """Whoever closes it would wait for the end of the check, which takes minutes where there is much."""
    fill(place)
    with ContextStore(place, read_only=True) as store:
        job = CheckJob(store)
        job.begin()
        deadline = time.monotonic() + PATIENCE
        while (progress := job.progress()) is None or not progress.total:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    while (progress := job.progress()) is None or progress.is_running:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert progress.report is None
    assert "closed" in (progress.failure or "")


def test_a_service_ends_at_a_signal_while_browsers_follow_pages_that_are_mounted_in_it(place: str) -> None:
    """Without timeout_graceful_shutdown. Nobody is cut off, so that no log has a word of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Child(SERVICE, place, port) as service, httpx.Client(timeout=PATIENCE) as http:
        http.base_url = httpx.URL(f"http://127.0.0.1:{port}")
        answering(http, service)
        with streams(http, tuple(f"/flows{page}" for page in PAGES)) as answers, ThreadPoolExecutor(9) as pool:
            reading = [pool.submit(to_the_end, answer) for answer in answers]
            began = time.monotonic()
            service.signal(signal.SIGTERM)
            status, said, err = service.end(PATIENCE)
            print(f"ended after {time.monotonic() - began:.2f} s")
            for one in reading:
                one.result(PATIENCE)
    assert status == -signal.SIGTERM  # which uvicorn raises again once it has ended
    assert said == ["closed"]
    assert "ERROR" not in err


def answering(http: httpx.Client, service: Child) -> None:
    """Wait until it answers."""
    deadline = time.monotonic() + PATIENCE
    while service.process.poll() is None:
        with contextlib.suppress(httpx.ConnectError):
            http.get("/flows/runs").raise_for_status()
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)
    raise AssertionError(service.end())
