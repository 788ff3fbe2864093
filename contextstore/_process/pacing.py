"""Long work in a thread, in pieces between which the other threads of the process get on.

Rules of this module: nothing here knows what is worked at.

CPython has who holds the GIL hand it over after 5 ms, and a read needs it several times. Work that leaves the GIL for a
microsecond now and then, as each step of a SQLite statement does, is worse: who waits for it is woken, comes too late,
and has its 5 ms counted anew. So whoever works for long pauses now and then, for longer than a wake-up takes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_WORK = 0.001
_PAUSE = 0.0001
"""Seconds. Together they are the time that a read of another thread waits for each of its steps."""


class Pacer:
    """Of one piece of work, in its thread."""

    def __init__(self) -> None:
        self._taken_at = time.perf_counter()

    def take(self) -> None:
        """Pause, if it has been worked for a while."""
        if time.perf_counter() - self._taken_at >= _WORK:
            time.sleep(_PAUSE)
            self._taken_at = time.perf_counter()


def paced(some: Iterable[T]) -> Iterator[T]:
    """One after the other, with pauses."""
    breath = Pacer()
    for one in some:
        yield one
        breath.take()
