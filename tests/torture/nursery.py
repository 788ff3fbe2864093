"""Processes that come and go quickly: one that has everything imported forks a child whenever it is asked to.

A child is spoken to through a connection of its own, and may be killed at any moment. It ends with its connection; they
all end with the nursery, and the nursery ends with whoever started it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

from .shim import ROOT


class HungError(Exception):
    """No answer came for so long that none will come."""


class Child:
    """A process; what it is told and what it says are Python objects."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.pid = int(connection.recv())
        self.alive = True

    def tell(self, *words: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead, which hear() will tell
            self._connection.send(words)

    def hear(self, guard_seconds: float) -> Any:
        """What it says next. Raises EOFError if it is dead, HungError if it says nothing."""
        if not self._connection.poll(guard_seconds):
            raise HungError(f"process {self.pid} did not answer for {guard_seconds:g} seconds")
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            self.alive = False
            raise EOFError(f"process {self.pid} is dead") from None

    def kill(self) -> None:
        """SIGKILL. What it had said before can still be heard."""
        if self.alive:  # it waits for the end of its connection, so that the number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Have it end, and wait until it has."""
        self._connection.close()
        deadline = time.monotonic() + 10
        while _is_running(self.pid):
            assert time.monotonic() < deadline, f"process {self.pid} did not end"
            time.sleep(0.001)
        self.alive = False


class Nursery:
    """Starts ``python -m module nursery FD options...``, which is to call ``keep``."""

    def __init__(self, module: str, *options: str, errors: pathlib.Path | None = None) -> None:
        self._control, theirs = socket.socketpair()
        with contextlib.ExitStack() as stack:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, "nursery", str(theirs.fileno()), *options],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                pass_fds=[theirs.fileno()],
                stderr=None if errors is None else stack.enter_context(open(errors, "ab")),
            )
        theirs.close()

    def child(self) -> Child:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"."], [theirs.fileno()])
        return Child(Connection(ours.detach()))

    def close(self) -> None:
        self._control.close()
        self._process.wait(timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def keep(control: int, serve: Callable[[Connection], None]) -> None:
    """In the nursery's process: fork a child for each connection that comes in. Returns at the end of control."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the children that have ended are gone at once
    with socket.socket(fileno=control) as door:
        while True:
            said, descriptors, _, _ = socket.recv_fds(door, 1, 1)
            if not said:
                return
            if os.fork() == 0:
                status = 1
                try:
                    door.close()
                    connection = Connection(descriptors[0])
                    connection.send(os.getpid())
                    serve(connection)
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            os.close(descriptors[0])


def wait_for_end(connection: Connection) -> None:
    """Live on until whoever holds the other end lets go of it."""
    select.select([connection], [], [])


def own_threads_left(seconds: float = 2) -> list[str]:
    """The library's threads that are still there, those left out that are just about to end."""
    left = [
        thread
        for thread in threading.enumerate()
        if (thread.name.startswith("contextstore ") and "exit watcher" not in thread.name)
        or "_connection_worker_thread" in thread.name
    ]
    for thread in left:
        thread.join(seconds)
    return [thread.name for thread in left if thread.is_alive()]


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
