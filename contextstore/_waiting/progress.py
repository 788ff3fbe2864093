"""The progress of something that runs elsewhere, handed to the call that waits for it.

Rules of this module: it is conflating. A caller that is slower than the work gets the latest news alone, so that
nothing gathers.
"""

from __future__ import annotations

import threading

from .callers import Callers
from .waiters import Waiter, resolve


class ProgressChannel:
    """What happens elsewhere, handed to the caller that waits for it."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._lock = threading.Lock()
        self._latest: tuple[int, int] | None = None
        self._ended = False
        self._waiter: Waiter[None] | None = None

    def report(self, done: int, total: int) -> None:
        """From any thread. If the caller is slower, it gets only the latest."""
        self._tell((done, total), False)

    def end(self) -> None:
        """From any thread. There is nothing more to be told."""
        self._tell(None, True)

    def _tell(self, event: tuple[int, int] | None, ended: bool) -> None:
        with self._lock:
            self._latest = event or self._latest
            self._ended = self._ended or ended
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            resolve([(waiter, None)])

    async def next(self) -> tuple[int, int] | None:
        """The next event, waited for; None at the end."""
        while True:
            with self._lock:
                event, self._latest = self._latest, None
                if event is not None or self._ended:
                    return event
                waiter = self._waiter = self._callers.waiter()
            await self._callers.wait(waiter)
