"""Single-flight: of calls that ask for one key at the same time, one computes, and the others wait for it.

Rules of this module: it knows who waits for which flight, and starts nothing. A flight is the same for all loops and
threads. It ends in one of three ways: with an outcome, which all who wait get; interrupted, which is the business of
the caller that started it alone, so that the others compute anew, one of them; or with its loop, and then those who
wait elsewhere compute anew as well.

One lock is waited for here, for two steps of the table at a time in which nothing is called. CPython lets in a
finalizer or a signal handler at calls alone (and in loops, and up to 3.11 as an object is made): so none comes while
the lock is held, that would wait for a thread which waits for the lock. All else is done in single steps.
"""

from __future__ import annotations

import threading
from typing import Any

from .deadlock import Computation
from .future import SharedFuture
from .loops import is_running_here
from .outcome import Outcome
from .waiters import Loop, LoopTask

_SWEEP_AT = 64


class Flight(Computation):
    """One computation under way, and the callers that wait for it.

    Args:
        loop: where it runs, in a task of its own. None: in the thread of the caller that started it.
    """

    def __init__(self, loop: Loop | None) -> None:
        super().__init__(loop)
        self.task: LoopTask | None = None
        self.callers: set[object] = {self}
        """A mark for each. The flight itself is that of the caller that started it."""
        self.landed: SharedFuture[None] = SharedFuture()
        self.outcome: Outcome[Any] | None = None
        self.interruption: BaseException | None = None
        """What ended it instead of an outcome: an error that is no ``Exception``."""
        self.may_be_cancelled = [True]
        """Empty once the last caller has gone. To pop it is atomic: of several who find that none is left, one does."""

    @property
    def is_lost(self) -> bool:
        """Whether its loop has ended before it did."""
        return not self.is_done and self.loop is not None and self.loop.is_closed()

    def cancel(self) -> None:
        """Have its task end. From any thread."""
        if self.loop is None or self.task is None:
            return
        if is_running_here(self.loop):
            self.task.cancel()
            return
        try:
            self.loop.call_soon_threadsafe(self.task.cancel)
        except RuntimeError:
            if not self.loop.is_closed():
                raise


class Flights:
    """The computations under way, by key."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.by_key: dict[object, Flight] = {}
        self._sweep_at = _SWEEP_AT

    def enter(self, key: object, own: Flight) -> Flight:
        """The flight under way for the key; ``own``, to be started by the caller, if there is none."""
        self.end_if_lost(key)
        if len(self.by_key) >= self._sweep_at:  # no call need ever come again for the key of a lost one
            self._end_all_lost()
            self._sweep_at = max(_SWEEP_AT, 2 * len(self.by_key))
        return self.by_key.setdefault(key, own)

    def leave(self, key: object, flight: Flight, caller: object) -> bool:
        """A caller waits no more. Returns whether it was the last one, and the flight is cancelled on that account."""
        flight.callers.discard(caller)
        if flight.callers or flight.is_done or flight.task is None:
            return False
        try:
            flight.may_be_cancelled.pop()
        except IndexError:
            return False
        self._forget(key, flight)  # a call that comes from now on computes anew
        flight.cancel()
        return True

    def finish(self, key: object, flight: Flight) -> None:
        """It has come to its end, and all that it came to is written in it. Any number of times."""
        flight.is_done = True
        self._forget(key, flight)
        flight.landed.set_result(None)

    def end_if_lost(self, key: object, flight: Flight | None = None) -> None:
        """End this flight, or the one that is under way for the key, if its loop has ended before it did."""
        lost = flight or self.by_key.get(key)
        if lost is not None and lost.is_lost:
            self.finish(key, lost)

    def _end_all_lost(self) -> None:
        for key, flight in list(self.by_key.items()):
            self.end_if_lost(key, flight)

    def _forget(self, key: object, flight: Flight) -> None:
        by_key = self.by_key
        with self._lock:  # nothing may be called in here
            if key in by_key and by_key[key] is flight:
                del by_key[key]
