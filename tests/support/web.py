"""A web service as it is deployed: uvicorn with its worker processes, and clients that speak HTTP to it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import httpx

from .processes import ROOT

PATIENCE = 120.0
"""Seconds after which a test gives up: a guard against hangs, far above what anything here takes."""


class Service:
    """``uvicorn --workers`` on a port of its own. All that its processes print is heard here, in its order."""

    def __init__(
        self,
        target: str,
        *,
        workers: int = 3,
        command: Sequence[str] | None = None,
        folder: pathlib.Path = ROOT,
        **settings: object,
    ) -> None:
        """``command``: the options and the application, where they are not those of the tests."""
        self.lines: list[str] = []
        self._heard = threading.Condition()
        self._marks = 0
        reading, self._writing = os.pipe()
        options = [*(command or ["--app-dir", "examples", "--workers", str(workers), "web_service:app"]), "--port", "0"]
        # A stopped or slow worker is no dead one (one that dies as it is asked is noticed only after that time),
        # and a connection that is kept is kept by the same worker.
        options += ["--timeout-worker-healthcheck", "20", "--timeout-keep-alive", "600"]
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-m", "uvicorn", *options],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._writing,
            stderr=self._writing,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                "CONTEXTSTORE_URL": target,
                **{name: str(value) for name, value in settings.items()},
            },
        )
        self._reader = threading.Thread(target=self._read, args=(reading,), name="reader of a service's output")
        self._reader.start()
        try:
            (port,) = self.hear(r"Uvicorn running on http://127\.0\.0\.1:(\d+)")
            self.hear(r"Application startup complete", workers)
        except BaseException:
            self.end()
            raise
        self.url = f"http://127.0.0.1:{port}"

    def _read(self, reading: int) -> None:
        with open(reading, encoding="utf-8", errors="replace") as output:
            for line in output:
                with self._heard:
                    self.lines.append(line.rstrip("\n"))
                    self._heard.notify_all()

    # -- what it says -------------------------------------------------------------------------------------------------

    def said(self, pattern: str, since: int = 0) -> list[str]:
        """What the group of the pattern has matched in each line that has it."""
        found = (re.search(pattern, line) for line in list(self.lines[since:]))
        return [match[match.lastindex or 0] for match in found if match]

    def hear(self, pattern: str, count: int = 1) -> list[str]:
        """The same, waited for until it was said so often."""
        with self._heard:
            heard = self._heard.wait_for(lambda: len(self.said(pattern)) >= count, PATIENCE)
        assert heard, f"{pattern!r} was not said:\n{self.output}"
        return self.said(pattern)

    def mark(self) -> int:
        """The number of lines so far: what any process has printed before this call stands before it."""
        self._marks += 1
        os.write(self._writing, f"mark {self._marks}\n".encode())
        self.hear(rf"^mark {self._marks}$")
        return next(number for number, line in enumerate(self.lines) if line == f"mark {self._marks}")

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    # -- its processes ------------------------------------------------------------------------------------------------

    @property
    def started(self) -> list[int]:
        """The worker processes, those among them that have ended since."""
        return [int(process) for process in self.said(r"Started server process \[(\d+)\]")]

    def end(self, timeout: float = PATIENCE) -> int:
        """SIGTERM, unless it has ended; the exit code. What does not end in time is killed, and fails the test."""
        try:
            self.process.terminate()
            return self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
                for process in self.started:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
            os.close(self._writing)
            self._reader.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.end()

    # -- its clients --------------------------------------------------------------------------------------------------

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE)

    @contextlib.contextmanager
    def client_of_each(self) -> Iterator[dict[int, httpx.Client]]:
        """A client of each worker, by process. While the others are stopped, a connection can be none of theirs."""
        with contextlib.ExitStack() as stack:
            clients = {}
            for process in self.started:
                others = [other for other in self.started if other != process]
                clients[process] = stack.enter_context(self._client_of(process, others))
            yield clients

    @contextlib.contextmanager
    def _client_of(self, process: int, others: list[int]) -> Iterator[httpx.Client]:
        while True:
            with self.client() as client:
                for other in others:
                    os.kill(other, signal.SIGSTOP)
                try:
                    found = client.get("/health/live").json()["process"]
                finally:
                    for other in others:
                        os.kill(other, signal.SIGCONT)
                if found == process:  # else another had taken the connection before the signal reached it
                    yield client
                    return


def begin(client: httpx.Client, key: str, topic: str = "tea") -> str:
    answer = client.post("/runs", json={"topic": topic}, headers={"Idempotency-Key": key})
    assert answer.status_code == 202, answer.text
    flow_run_id: str = answer.json()["flow_run_id"]
    assert answer.headers["location"] == f"/runs/{flow_run_id}"
    return flow_run_id


@contextlib.contextmanager
def events(client: httpx.Client, flow_run_id: str, last: str = "") -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a stream, each with its fields, until the server ends it."""
    with client.stream("GET", f"/runs/{flow_run_id}/events", headers={"Last-Event-ID": last} if last else {}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield _parsed(answer.iter_lines())


def _parsed(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line.startswith(":"):  # a comment
            continue
        if line:
            event[name] = json.loads(value) if name == "data" else value
        elif event.keys() - {"retry"}:
            yield event
            event = {}
        else:
            event = {}


def follow(client: httpx.Client, flow_run_id: str, on_node: Callable[[str], None]) -> list[str]:
    """What a browser does: to the end of a run, by as many streams as it takes. The nodes in the order of the news."""
    nodes: list[str] = []
    while True:
        headers = {"Last-Event-ID": nodes[-1]} if nodes else {}
        try:
            with client.stream("GET", f"/runs/{flow_run_id}/events", headers=headers) as answer:
                if answer.status_code == 204:
                    return nodes
                assert answer.status_code in (200, 503)
                for event in _parsed(answer.iter_lines()):
                    nodes.append(event["id"])
                    on_node(event["id"])
        except httpx.TransportError:  # its worker was killed
            continue
