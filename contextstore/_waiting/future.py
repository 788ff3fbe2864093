"""A result that one thread will give, and any number of callers wait for.

Rules of this module: it may be interrupted anywhere. A KeyboardInterrupt comes between any two steps of a thread, and
must leave nothing behind that another call would wait for. ``with`` on a lock is safe from it, and little else: a
``threading.Condition``, and so an ``Event`` or a ``concurrent.futures.Future``, may stay locked for ever.

There is no lock here either: the thread that gives the result would wait for a caller that holds it, and that caller
may be in a finalizer, which waits for that thread. Each step is atomic in CPython, under the GIL. A caller puts itself
down first and looks then whether the result is there; the other thread gives the result first and looks then who is
there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .waiters import Waiter, resolve

T = TypeVar("T")


class SharedFuture(Generic[T]):
    """A result that will be there once, given by one thread and waited for by any number of callers.

    ``concurrent.futures.Future`` without its Condition, see above, and without exceptions.
    """

    def __init__(self) -> None:
        self._callbacks: list[Callable[[SharedFuture[T]], object]] = []
        self._waiters: list[Waiter[Any]] = []
        self._results: list[T] = []

    def set_result(self, result: T) -> None:
        """Give it. Of several the first stands. If it is interrupted, once more tells the callers not yet told."""
        self._results.append(result)
        # Whoever comes from now on sees it. They are told first and forgotten then, since this may be interrupted.
        for callback in list(self._callbacks):
            callback(self)
        self._callbacks.clear()
        resolve([(waiter, self._results[0]) for waiter in list(self._waiters)])
        self._waiters.clear()

    def done(self) -> bool:
        return bool(self._results)

    def result(self) -> T:
        """What it is. Only once it is there."""
        return self._results[0]

    def add_done_callback(self, callback: Callable[[SharedFuture[T]], object]) -> None:
        """Call it with this future: now if the result is there, else in the thread that will give it.

        In both, if it is given just now.
        """
        self._callbacks.append(callback)
        if self._results:
            callback(self)

    def add_waiter(self, waiter: Waiter[Any]) -> None:
        """Answer the waiter with the result: now, or once it is there."""
        self._waiters.append(waiter)
        if self._results:
            resolve([(waiter, self._results[0])])
