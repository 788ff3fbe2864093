"""The calls of blocked threads, and how such a thread runs what is written to be awaited.

Rules of this module: nothing here suspends. A KeyboardInterrupt may come between any two steps of a blocked thread's
call, and must leave nothing behind that another call would wait for. See ``future`` for what is safe from it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import warnings
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from .callers import LOOK_AGAIN, Binding
from .deadlock import Computation, blocking, running, waiting_for
from .future import SharedFuture
from .loops import loop_here
from .outcome import Outcome, outcome_of
from .single_flight import Flight, Flights
from .waiters import ThreadWaiter, Waiter

T = TypeVar("T")


class ThreadCallers:
    """Blocked threads: any but the store's own.

    Args:
        binding: of the store that they call.
        flights: those of the same store's tasks, if tasks call it, too.
    """

    may_block = True

    def __init__(self, binding: Binding, flights: Flights | None = None) -> None:
        self.admit = binding.admit
        self._flights = flights or Flights()

    def waiter(self) -> Waiter[Any]:
        return ThreadWaiter()

    def wait(self, waiter: Waiter[T]) -> Awaitable[T]:
        return waiter

    async def wait_until(self, waiter: Waiter[T], timeout: float | None, expire: Callable[[], T | None]) -> T:
        assert isinstance(waiter, ThreadWaiter)
        if not waiter.answered.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            answer = expire()
            if answer is not None:
                return answer
            waiter.answered.acquire()
        result: T = waiter.answer
        return result

    async def wait_watchfully(self, waiter: Waiter[T], look: Callable[[], object]) -> T:
        assert isinstance(waiter, ThreadWaiter)
        while not waiter.answered.acquire(timeout=LOOK_AGAIN):
            self.admit()  # as in join
            look()
        result: T = waiter.answer
        return result

    @contextlib.contextmanager
    def waiting_for(self, computation: Computation, key: object) -> Iterator[None]:
        loop = loop_here()
        with waiting_for(computation, key):
            if loop is None:
                yield
            else:
                with blocking(loop, computation, key):
                    yield

    async def single_flight(self, key: object, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        while True:
            own = Flight(None)
            try:
                flight = self._flights.enter(key, own)
                if flight is own:
                    with waiting_for(own, key), running(own):
                        own.outcome = await outcome_of(compute())
                    result: T = own.outcome.unwrap()
                    return result
            except Exception as error:
                own.outcome = Outcome.failure(error)
                raise
            finally:
                # Twice, since a KeyboardInterrupt may come in the middle of the first, and the others wait for it.
                try:
                    self._flights.finish(key, own)
                finally:
                    self._flights.finish(key, own)
            await self._await_landing(key, flight)
            if flight.outcome is not None:
                value: T = flight.outcome.unwrap()
                return value
            # The call that computed was interrupted, which is no other's business: compute anew, or join one that does.

    async def _await_landing(self, key: object, flight: Flight) -> None:
        caller = object()
        with self.waiting_for(flight, key):
            try:
                flight.callers.add(caller)
                waiter = self.waiter()
                flight.landed.add_waiter(waiter)
                await self.wait_watchfully(waiter, lambda: self._flights.end_if_lost(key, flight))
            finally:
                self._flights.leave(key, flight, caller)

    async def awaited(self, awaitable: Awaitable[Any], function: object) -> Any:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        while isinstance(function, functools.partial):  # a step's: the caller knows what is within
            function = function.func
        raise TypeError(
            f"{function!r} returned an awaitable, and ContextStore takes plain functions: use AsyncContextStore"
        )

    async def join(self, future: SharedFuture[T]) -> T:
        waiter: ThreadWaiter[T] = ThreadWaiter()
        future.add_waiter(waiter)
        while not waiter.answered.acquire(timeout=LOOK_AGAIN):
            self.admit()  # this thread may be one that has just been started for what is waited for
        result: T = waiter.answer
        return result

    async def to_the_end(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await call()

    async def join_thread(self, thread: threading.Thread) -> None:
        thread.join()


def warn_on_a_loop(call: str, instead: str) -> None:
    """Warn a caller that is about to block the thread of a running event loop without end, by a line of its own."""
    try:
        get_running_loop()
    except RuntimeError:
        return
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("contextstore."):
        level, frame = level + 1, frame.f_back
    warnings.warn(
        f"{call} blocks the event loop of this thread, perhaps for ever: what writes the output may run on that very "
        f"loop; {instead}",
        RuntimeWarning,
        stacklevel=level,
    )


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, here and now."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine that must not suspend did")
