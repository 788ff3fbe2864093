"""Connections to the pages as the command serves them, whose other ends ask for nothing, or take nothing."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from contextstore import ContextStore

from ..support.processes import ROOT
from .commanded import TOKEN
from .site import PATIENCE

SERVER = f"""
import sys
from contextstore import ContextStore
from contextstore.inspector import serve
serve._SECONDS_TO_ASK, serve._SECONDS_TO_TAKE = 0.2, 1
with ContextStore(sys.argv[1], read_only=True) as store, serve.listener("127.0.0.1", 0) as listening:
    pages = serve.pages_of(store, {TOKEN!r}, ["127.0.0.1"], allow_delete=False)
    serve.serve(pages, listening, lambda: print(listening.getsockname()[1], flush=True))
"""


class Server:
    """The pages in a process of their own, which wait for nobody for long."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._process = process
        self._port = int(process.stdout.readline())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)

    def ask(self, target: str) -> socket.socket:
        connection = self.connect()
        head = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        connection.sendall(head.encode())
        return connection

    def connections(self) -> int:
        """How many sockets it has open."""
        found = 0
        for name in os.listdir(folder := f"/proc/{self._process.pid}/fd"):
            try:
                found += os.readlink(f"{folder}/{name}").startswith("socket:")
            except FileNotFoundError:
                continue
        return found


def has_ended(stream: socket.socket) -> bool:
    """Whether its end is behind what it has told so far."""
    stream.setblocking(False)
    try:
        while stream.recv(65536):
            pass
    except BlockingIOError:
        return False
    return True


@pytest.fixture
def server(file_path: pathlib.Path) -> Iterator[Server]:
    with ContextStore(file_path) as store:
        store.put("run", "large", ["x" * 1000] * 20_000)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(file_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield Server(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("said", [b"", b"GET /runs HTTP/1.1\r\nHos"])
def test_a_connection_over_which_nothing_is_asked_is_ended(said: bytes, server: Server) -> None:
    with server.ask("/runs/live") as stream, server.connect() as connection:
        assert stream.recv(1)
        connection.sendall(said)
        assert connection.recv(1) == b""
        assert not has_ended(stream)


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT, and /proc")
def test_a_browser_that_takes_nothing_is_given_up_and_all_that_was_kept_for_it(server: Server) -> None:
    with server.ask("/node.json?run=run&id=large") as connection:
        assert connection.recv(1)
        there = server.connections()
        deadline = time.monotonic() + PATIENCE
        while server.connections() == there:
            assert time.monotonic() < deadline, "it is waited for still"
            time.sleep(0.05)
