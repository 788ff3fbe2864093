"""When a call to a server that may be away for a while is tried again, and the error once it is given up.

Rules of this module: no SQL, no connection. Only what is a ``TransientError`` is tried again. An outcome that is not
known is never called a failure.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from .._waiting.deadline import Backoff, Deadline
from ..errors import CorruptStoreError, ReadOnlyStoreError, StorageError, StoreBusyError
from .errors import STANDBY, TransientError

T = TypeVar("T")
R = TypeVar("R")

SHORTEST_PAUSE, LONGEST_PAUSE = 0.01, 0.5
"""Seconds between two attempts to reach the server, at first and in the end."""
MIN_COMMIT_SECONDS = 1.0
"""Seconds that a commit gets at least, however long it has waited for its turn. A read, the opening, and an attempt to
connect for a write get them too."""
_MIN_ATTEMPT_SECONDS = 0.05
"""Seconds without which nothing is tried again: an attempt that is cut off leaves an unknown outcome."""


def pauses() -> Backoff:
    return Backoff(SHORTEST_PAUSE, LONGEST_PAUSE, 2)


def deadline_of_call(timeout: float) -> Deadline:
    return Deadline(max(timeout, MIN_COMMIT_SECONDS))


class Retry:
    """The attempts at one thing, until a deadline."""

    def __init__(self, location: str, deadline: Deadline) -> None:
        self.deadline = deadline
        self._location = location
        self._pauses: Backoff | None = None
        self._last: TransientError | None = None

    async def may_go_on(self, error: TransientError) -> bool:
        """After a failure: wait a little. False: the time is up."""
        self._last = error
        # So that two that collide do not meet again.
        self._pauses = self._pauses or pauses()
        pause = self._pauses.pause() * random.uniform(0.5, 1)  # noqa: S311 - no secret
        if pause + _MIN_ATTEMPT_SECONDS > self.deadline.left:
            return False
        await asyncio.sleep(pause)
        return True

    def failure(self, *, in_doubt: bool) -> StorageError:
        """Why it was given up; ``in_doubt``: the answer to a commit was lost on the way."""
        assert self._last is not None
        error = self._last
        if in_doubt:
            return self.unknown(error)
        failure: StorageError
        if error.is_refusal and error.code == STANDBY:
            message = f"{self._location} cannot be written: {error}; nothing was stored"
            failure = ReadOnlyStoreError(message, code=error.code)
        else:
            message = f"{self._location} did not answer in time; nothing was stored: {error}"
            failure = StoreBusyError(message, code=error.code)
        failure.__cause__ = error
        return failure

    def unknown(self, error: TransientError | StorageError) -> StorageError:
        """The answer to a commit was lost, and it could not be found out what became of it."""
        message = f"the connection to {self._location} was lost during a commit: {error}"
        unknown = StorageError(message, True, error.code)
        unknown.__cause__ = error
        return unknown


async def halved(
    items: Sequence[T],
    call: Callable[[Sequence[T]], Awaitable[R]],
    damaged: Callable[[T, CorruptStoreError], R],
) -> list[R]:
    """What a call gives for the items: at once, or in parts if it finds damage.

    The server does not say which of many rows it could not read. So the call is made for each half by itself, until the
    damaged item stands alone, and only the callers that need it are told.
    """
    try:
        return [await call(items)]
    except CorruptStoreError as error:
        if len(items) == 1:
            return [damaged(items[0], error)]
    half = len(items) // 2
    return [*await halved(items[:half], call, damaged), *await halved(items[half:], call, damaged)]
