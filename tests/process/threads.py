"""Threads that a test starts, and what a store has of threads and open files."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import threading
from collections.abc import Callable
from typing import Any

HANG = 60  # seconds after which a call is taken to hang


def run_threads(work: Callable[[int], Any], count: int) -> list[Any]:
    """The result, or the exception, of each of several threads at once. None of them hangs."""
    outcomes: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            outcomes[number] = work(number)
        except BaseException as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert not any(thread.is_alive() for thread in threads)
    return outcomes


def in_thread(work: Callable[[], Any], *, daemon: bool = False) -> Any:
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=daemon)
    thread.start()
    thread.join(HANG)
    return future.result(timeout=0)


def open_files(path: pathlib.Path) -> list[str]:
    """What of the store's files this process has open."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if target.startswith(str(path)):
                found.append(target)
    return found


def own_threads(path: pathlib.Path) -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if str(path) in thread.name or "_connection_worker_thread" in thread.name
    ]


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = threading.Event()
    for _ in range(HANG * 1000):
        if condition():
            return
        deadline.wait(0.001)
    raise AssertionError("it did not come to pass")
