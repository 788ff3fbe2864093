"""Long work in a thread, with short pauses in which the other threads of the process get on.

Rules of this module: it knows nothing of the work, and sleeps for a tenth of a millisecond at a time.

Why: only one thread at a time runs Python code, the one that holds the GIL. Another thread that wants it asks, and
CPython makes the holder hand it over after 5 ms. A read of a store needs the GIL several times, and so waits 5 ms
several times. It is worse beside work that gives the GIL up for a microsecond now and then, as each step of a SQLite
statement does: the waiting thread is woken, comes too late since the worker has taken the GIL back, and its 5 ms begin
anew. A worker that sleeps for longer than a wake-up takes lets that thread have the GIL.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_WORK = 0.001
_PAUSE = 0.0001
"""Seconds of work, and of the pause after it. A read of another thread waits for their sum at each of its steps."""


class Pacer:
    """The pauses of one piece of work, in its thread."""

    def __init__(self) -> None:
        self._paused_at = time.perf_counter()

    def take(self) -> None:
        """Take a pause, if the last one was ``_WORK`` seconds ago or more."""
        if time.perf_counter() - self._paused_at >= _WORK:
            time.sleep(_PAUSE)
            self._paused_at = time.perf_counter()


def paced(items: Iterable[T]) -> Iterator[T]:
    """The items one after the other, with pauses between them."""
    pacer = Pacer()
    for item in items:
        yield item
        pacer.take()
