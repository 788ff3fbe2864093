"""The progress of something that runs elsewhere, handed to the call that waits for it.

Rules of this module: it is conflating. A caller that is slower than the work gets the latest news alone, so that
nothing gathers. There is no lock, for which the thread that reports would wait: see ``future``.
"""

from __future__ import annotations

from collections import deque

from .callers import Callers
from .waiters import Waiter, resolve


class ProgressChannel:
    """What happens elsewhere, handed to the caller that waits for it."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._latest: deque[tuple[int, int]] = deque(maxlen=1)
        self._ended = False
        self._waiter: Waiter[None] | None = None

    def report(self, done: int, total: int) -> None:
        """From any thread. If the caller is slower, it gets only the latest."""
        self._latest.append((done, total))
        self._wake()

    def end(self) -> None:
        """From any thread. There is nothing more to be told."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            resolve([(waiter, None)])

    async def next(self) -> tuple[int, int] | None:
        """The next event, waited for; None at the end."""
        while True:
            waiter = self._waiter = self._callers.waiter()  # first: what comes from now on wakes it
            has_ended = self._ended
            try:
                return self._latest.pop()
            except IndexError:
                if has_ended:
                    return None
            await self._callers.wait(waiter)
