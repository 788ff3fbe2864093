"""A mutex for each key: callers queue, on whichever loops and threads, and each is let in by the one before.

Rules of this module: nothing is held while anything waits but the turn itself, and no turn is left behind by a
caller that is interrupted. Under the lock nothing is called, see ``single_flight``.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar, cast

from .callers import Callers
from .deadline import Deadline
from .deadlock import Computation, running, waiting_for
from .outcome import outcome_of
from .waiters import Waiter, resolve

T = TypeVar("T")

_LOST_SECONDS = 5.0
"""Seconds between two looks at all queues, at least: it asks the loop of the first in each."""


class _Turn(Computation):
    """A caller in a queue."""

    def __init__(self, waiter: Waiter[None]) -> None:
        super().__init__(waiter.get_loop())
        self.waiter = waiter

    @property
    def is_lost(self) -> bool:
        """Whether its loop has ended, and it will never leave."""
        return self.loop is not None and self.loop.is_closed()


class KeyedLock:
    """Callers that queue by key, first come, first served."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._queues: dict[Hashable, list[_Turn]] = {}
        self._look_for_lost_at = 0.0

    async def run_locked(
        self,
        callers: Callers,
        key: Hashable,
        work: Callable[[], Coroutine[Any, Any, T]],
        deadline: Deadline | None = None,
    ) -> T:
        """The result of ``work()``, run while no other call runs one under the key.

        TimeoutError: its turn had not come at the deadline.
        """
        # Not a context manager: if it is interrupted as it is entered or left, the turn stays taken.
        own = _Turn(callers.waiter())
        try:
            with waiting_for(own, key), running(own):
                ahead = self._enter(key, own)
                for turn in ahead[-1:]:
                    with callers.waiting_for(turn, key):
                        await self._wait(callers, key, own, ahead, deadline)
                outcome = await outcome_of(work())
        finally:
            # Twice, since a KeyboardInterrupt may come in the middle of the first, and the others wait for it.
            try:
                self._leave(key, own)
            finally:
                self._leave(key, own)
        return outcome.unwrap()

    def _enter(self, key: Hashable, own: _Turn) -> list[_Turn]:
        self._drop_all_lost()
        self._drop_lost(key)
        queues, new, last = self._queues, list[_Turn](), [own]
        with self._lock:
            if key not in queues:
                queues[key] = new
            queue = queues[key]
            queue += last
        there = queue.copy()  # a caller that leaves from now on lets this one in
        return there[: there.index(own)] if own in there else []

    async def _wait(
        self, callers: Callers, key: Hashable, own: _Turn, ahead: list[_Turn], deadline: Deadline | None
    ) -> None:
        is_bounded = deadline is not None and deadline.left < math.inf
        if not {turn.loop for turn in ahead} <= {None, own.loop}:  # one of them may end without a word
            await callers.wait_watchfully(own.waiter, lambda: self._look(key, own, deadline))
        elif deadline is not None and is_bounded:
            await callers.wait_until(cast("Waiter[Any]", own.waiter), deadline.left, lambda: True)
        else:
            await callers.wait(own.waiter)
        if is_bounded and self._queues.get(key, [])[:1] != [own]:
            raise TimeoutError

    def _look(self, key: Hashable, own: _Turn, deadline: Deadline | None) -> None:
        self._let_in(key)
        if deadline is not None and deadline.is_over:
            resolve([(own.waiter, None)])

    def _leave(self, key: Hashable, own: _Turn) -> None:
        own.is_done = True
        _remove(self._queues.get(key, []), own)
        self._let_in(key)

    def _let_in(self, key: Hashable) -> None:
        """Tell the caller whose turn it is.

        It may have been told already: by a call that was interrupted after that, or that left from further back.
        """
        self._drop_lost(key)
        first = self._queues.get(key, [])[:1]
        if not first:
            queues = self._queues
            with self._lock:
                if key in queues and not queues[key]:
                    del queues[key]
        resolve([(turn.waiter, None) for turn in first])

    def _drop_all_lost(self) -> None:
        """Now and then: of a key that is asked for no more, one that is lost would be kept, and its loop."""
        now = time.monotonic()
        if now >= self._look_for_lost_at:
            self._look_for_lost_at = now + _LOST_SECONDS
            for key in list(self._queues):
                self._let_in(key)

    def _drop_lost(self, key: Hashable) -> None:
        queue = self._queues.get(key, [])
        for first in queue.copy():  # it may be collected, and leave, while it is looked at
            if not first.is_lost:
                return
            first.is_done = True
            _remove(queue, first)


def _remove(queue: list[_Turn], turn: _Turn) -> None:
    with contextlib.suppress(ValueError):
        queue.remove(turn)
