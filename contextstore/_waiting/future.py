"""A result that one thread will give, and any number of callers wait for.

Rules of this module: it may be interrupted anywhere. A KeyboardInterrupt comes between any two steps of a thread, and
must leave nothing behind that another call would wait for. ``with`` on a lock is safe from it, and little else: a
``threading.Condition``, and so an ``Event`` or a ``concurrent.futures.Future``, may stay locked for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .waiters import Waiter, resolve

T = TypeVar("T")


class SharedFuture(Generic[T]):
    """A result that will be there once, given by one thread and waited for by any number of callers.

    ``concurrent.futures.Future`` without its Condition, see above, and without exceptions.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a coroutine that is collected while it is held may give the result
        self._callbacks: list[Callable[[SharedFuture[T]], object]] = []
        self._waiters: list[Waiter[Any]] = []
        self._results: list[T] = []

    def set_result(self, result: T) -> None:
        """Give it. Of several the first stands. If it is interrupted, once more tells the callers not yet told."""
        with self._lock:
            self._results.append(result)
        for callback in self._callbacks:  # there come no more
            callback(self)
        self._callbacks.clear()
        resolve([(waiter, self._results[0]) for waiter in self._waiters])
        self._waiters.clear()

    def done(self) -> bool:
        return bool(self._results)

    def result(self) -> T:
        """What it is. Only once it is there."""
        return self._results[0]

    def add_done_callback(self, callback: Callable[[SharedFuture[T]], object]) -> None:
        """Call it with this future: now if the result is there, else in the thread that will give it."""
        with self._lock:
            if not self._results:
                self._callbacks.append(callback)
                return
        callback(self)

    def add_waiter(self, waiter: Waiter[Any]) -> None:
        """Answer the waiter with the result: now, or once it is there."""
        with self._lock:
            if not self._results:
                self._waiters.append(waiter)
                return
        resolve([(waiter, self._results[0])])
