"""The calls of tasks, on whichever and however many event loops.

Rules of this module: a call waits on the loop it was made on, and nothing of a loop is kept here. What is kept for a
loop (its timer) belongs to that loop, and is known here by a weak reference alone. So a loop that ends takes its own
waiting calls with it, and leaves nothing.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import get_running_loop  # each call asks for it, and to look it up in the module takes as long
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from sys import modules
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary, ref

from .callers import LOOK_AGAIN, Binding
from .deadlock import Computation, running, waiting_for
from .future import SharedFuture
from .loops import out_of_reach, running_loop
from .outcome import outcome_of
from .single_flight import Flight, Flights
from .timer import SharedTimer, end
from .waiters import Cancellable, TaskLoop, Waiter, resolve

T = TypeVar("T")


class TaskCallers:
    """Tasks of any event loops.

    Args:
        binding: of the store that they call.
        usual_timeout: seconds. Waits that last so long at most share one timer for each loop.
        flights: those of the same store's threads, if threads call it, too.
    """

    may_block = False

    def __init__(self, binding: Binding, usual_timeout: float, flights: Flights | None = None) -> None:
        self.admit = binding.admit
        self._usual_timeout = usual_timeout
        self._flights = flights or Flights()
        # By the id of the loop, which a timer keeps from being given to another one.
        self._timers: WeakValueDictionary[int, SharedTimer] = WeakValueDictionary()
        self._latest: Callable[[], SharedTimer | None] = _no_timer

    def waiter(self) -> Waiter[Any]:
        if "trio" in modules:
            return running_loop().create_future()
        return get_running_loop().create_future()

    def wait(self, waiter: Waiter[T]) -> Awaitable[T]:
        self._timer_of(waiter).add(waiter, None)
        return waiter

    def wait_until(self, waiter: Waiter[T], timeout: float | None, expire: Callable[[], T | None]) -> Awaitable[T]:
        # Not a coroutine, which each put and get would make and run through for nothing but the usual cases below.
        if timeout == self._usual_timeout:
            self._timer_of(waiter).add(waiter, expire)
            return waiter
        if timeout is None:
            return waiter
        return _wait(waiter, _loop_of(waiter).call_later(timeout, end, waiter, expire))

    def _timer_of(self, waiter: Waiter[Any]) -> SharedTimer:
        loop: Any = waiter.get_loop()
        timer = self._latest()  # nearly always it is of the same loop
        if timer is None or timer.loop is not loop:
            timer = self._timers.get(id(loop)) or self._new_timer(loop)
            self._latest = ref(timer)
        return timer

    def _new_timer(self, loop: TaskLoop) -> SharedTimer:
        timer = self._timers[id(loop)] = SharedTimer(loop, self._usual_timeout)
        return timer

    def wait_watchfully(self, waiter: Waiter[T], look: Callable[[], object]) -> Awaitable[T]:
        return _wait(waiter, _Repeated(_loop_of(waiter), look))

    def waiting_for(self, computation: Computation, key: object) -> AbstractContextManager[None]:
        return waiting_for(computation, key)

    async def single_flight(self, key: object, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        while True:
            own = Flight(running_loop())
            flight = self._flights.enter(key, own)
            if flight is own:
                self._start(key, own, compute)
            await self._await_landing(key, flight, own)
            if own.interruption is not None:
                raise own.interruption
            if flight.outcome is not None:
                result: T = flight.outcome.unwrap()
                return result
            # It was interrupted, or its loop has ended, which is no other caller's business: compute anew, or join one.

    def _start(self, key: object, flight: Flight, compute: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Have it run on this loop, in a task of its own, to which no cancel scope of this call reaches."""

        async def fly() -> None:
            try:
                flight.outcome = await outcome_of(compute())
            except BaseException as error:
                # The caller that started it raises it, if it still waits.
                if flight in flight.callers:
                    flight.interruption = error
                if flight not in flight.callers or isinstance(error, asyncio.CancelledError | GeneratorExit):
                    raise
            finally:
                self._flights.finish(key, flight)

        try:
            with running(flight):
                flight.task = running_loop().create_task(fly())
            flight.task.add_done_callback(lambda _: self._flights.finish(key, flight))
        except BaseException:  # RecursionError, MemoryError: or no call could ask for the key any more
            self._flights.finish(key, flight)
            raise

    async def _await_landing(self, key: object, flight: Flight, own: Flight) -> None:
        caller: object = own if flight is own else object()
        with self.waiting_for(flight, key):
            flight.callers.add(caller)
            try:
                await self._landing(key, flight)
            except BaseException as error:
                if self._flights.leave(key, flight, caller) and not isinstance(error, GeneratorExit):
                    # As if it had run in this task: when the call is over, so is what it has called.
                    async with out_of_reach(None):
                        await self._landing(key, flight)
                raise

    def _landing(self, key: object, flight: Flight) -> Awaitable[None]:
        waiter = self._waiter_for(flight.landed)
        if flight.loop in (None, waiter.get_loop()):
            return waiter
        return self.wait_watchfully(waiter, lambda: self._flights.end_if_lost(key, flight))

    async def awaited(self, awaitable: Awaitable[Any], function: object) -> Any:
        return await awaitable

    async def join(self, future: SharedFuture[T]) -> T:
        return await self.wait(self._waiter_for(future))

    def _waiter_for(self, future: SharedFuture[T]) -> Waiter[T]:
        waiter = self.waiter()
        future.add_waiter(waiter)
        return waiter

    async def to_the_end(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await call()
        except BaseException as error:
            if not isinstance(error, Exception | GeneratorExit | KeyboardInterrupt | SystemExit):  # it was cancelled
                async with out_of_reach(self._usual_timeout):
                    await call()
            raise

    async def join_thread(self, thread: threading.Thread) -> None:
        while thread.is_alive():  # it has nothing left to do; to block the loop for it would still be wrong
            waiter = self.waiter()
            resolve([(waiter, None)])  # in the next turn of the loop
            await waiter


def _no_timer() -> None:
    """Stands for a reference to a timer that is gone."""


async def _wait(waiter: Waiter[T], timer: Cancellable) -> T:
    try:
        return await waiter
    finally:
        timer.cancel()


def _loop_of(waiter: Waiter[Any]) -> TaskLoop:
    return cast("TaskLoop", waiter.get_loop())


class _Repeated:
    """A call that a loop makes again and again."""

    def __init__(self, loop: TaskLoop, call: Callable[[], object]) -> None:
        self._loop = loop
        self._call = call
        self._next = loop.call_later(LOOK_AGAIN, self._look)

    def _look(self) -> None:
        self._next = self._loop.call_later(LOOK_AGAIN, self._look)
        self._call()

    def cancel(self) -> None:
        self._next.cancel()
