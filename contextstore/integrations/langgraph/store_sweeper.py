"""A thread that frees the space of expired items now and then, as long as LangGraph's store is there.

Rules of this module: nothing is swept before the first interval is over; a sweep that fails is logged, and tried again.
The thread keeps nobody's store alive, and ends with it.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError

from ... import StoreClosedError

_logger = logging.getLogger("contextstore")


class Sweeper:
    """Calls a method of an object every ``seconds``, in a thread of its own."""

    def __init__(self, sweep: Callable[[], int], seconds: float) -> None:
        self.future: Future[None] = Future()
        self._over = threading.Event()
        # The bound method alone would keep its object alive.
        method = weakref.WeakMethod(sweep)
        weakref.finalize(getattr(sweep, "__self__"), self._over.set).atexit = False  # noqa: B009 - methods alone have it
        self.future.add_done_callback(lambda _: self._over.set())
        self._thread = threading.Thread(
            target=_sweep_until,
            args=(method, seconds, self._over, self.future),
            name="contextstore-sweeper",
            daemon=True,
        )
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive() and not self._over.is_set()

    def stop(self, timeout: float | None) -> bool:
        """Whether the thread has ended within so many seconds."""
        self._over.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()


def _sweep_until(
    method: weakref.WeakMethod[Callable[[], int]], seconds: float, over: threading.Event, future: Future[None]
) -> None:
    while not over.wait(seconds):
        sweep = method()
        if sweep is None:
            break
        try:
            sweep()
        except StoreClosedError:
            break
        except Exception:  # of whatever kind: the next sweep may succeed
            _logger.exception("expired items could not be swept")
        del sweep
    try:
        future.set_result(None)
    except InvalidStateError:  # it was cancelled, which ends the sweeping
        pass
