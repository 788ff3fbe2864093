"""Tasks of trio: a loop of it as the other modules know loops.

Rules of this module: it alone imports trio, and is imported only by a task of trio's. What the store has a loop call,
and the tasks that it starts there, are trio's system tasks: an error that escaped from one would end the whole program,
so none does.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar, TypeVarTuple

import trio

from .waiters import Cancellable

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

logger = logging.getLogger("contextstore")


class TrioWaiter(Generic[T]):
    """The place of a task of trio's that waits for one answer."""

    __slots__ = ("_answer", "_is_done", "_loop", "_task")

    def __init__(self, loop: TrioLoop) -> None:
        self._loop = loop
        self._is_done = False
        self._answer: list[T] = []
        self._task: trio.lowlevel.Task | None = None

    def done(self) -> bool:
        return self._is_done

    def set_result(self, result: T, /) -> None:
        self._is_done = True
        self._answer.append(result)
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def get_loop(self) -> TrioLoop:
        return self._loop

    def __await__(self) -> Generator[Any, Any, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        if not self._is_done:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._cancelled)
        return self._answer[0]

    def _cancelled(self, _: object) -> trio.lowlevel.Abort:
        self._is_done, self._task = True, None
        return trio.lowlevel.Abort.SUCCEEDED


class TrioTask:
    """A system task of trio's, in no cancel scope but its own."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context) -> None:
        self._scope = trio.CancelScope()
        self._callbacks: list[Callable[[TrioTask], object]] = []
        try:
            trio.lowlevel.spawn_system_task(self._run, coroutine, context=context)
        except BaseException:
            coroutine.close()
            raise

    async def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            with self._scope:
                await coroutine
        except trio.Cancelled:  # trio is at its end
            raise
        except BaseException as error:  # trio would end the program
            if not _is_cancellation(error):
                logger.exception("a task of the store's failed, and no call waits for it")
        finally:
            for callback in self._callbacks:
                callback(self)

    def cancel(self) -> None:
        try:
            self._scope.cancel()
        except RuntimeError:  # called by the collector, outside of trio: the task is gone
            pass

    def add_done_callback(self, callback: Callable[[TrioTask], object], /) -> None:
        self._callbacks.append(callback)


def _is_cancellation(error: BaseException) -> bool:
    """Whether it is made of nothing else, as what several tasks of a nursery raise that are cancelled together."""
    return isinstance(error, BaseExceptionGroup) and error.split(trio.Cancelled)[1] is None


class TrioLoop:
    """What a call of ``trio.run`` runs: all that the store asks of a loop."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()

    def is_closed(self) -> bool:
        try:
            self._token.run_sync_soon(_nothing, idempotent=True)
        except trio.RunFinishedError:
            return True
        return False

    def call_soon_threadsafe(self, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        self._token.run_sync_soon(callback, *args)  # its RunFinishedError is a RuntimeError

    def create_future(self) -> TrioWaiter[Any]:
        return TrioWaiter(self)

    def time(self) -> float:
        return trio.current_time()

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Cancellable:
        async def call() -> None:
            await trio.sleep_until(when)
            callback(*args)

        try:
            return TrioTask(call(), context or contextvars.copy_context())
        except RuntimeError:  # trio ends, has async generators finalized, and takes no system tasks any more
            return trio.CancelScope()  # what they wait for is answered without a timer, too

    def call_later(self, delay: float, callback: Callable[[*Ts], object], *args: *Ts) -> Cancellable:
        return self.call_at(self.time() + delay, callback, *args)

    def create_task(self, coro: Coroutine[Any, Any, None], /) -> TrioTask:
        return TrioTask(coro, contextvars.copy_context())


def _nothing() -> None:
    """Called to see whether it can be."""


_loop: trio.lowlevel.RunVar[TrioLoop] = trio.lowlevel.RunVar("contextstore loop")


def trio_loop() -> TrioLoop:
    """The loop of the calling task: the same one for all of a run of trio's."""
    try:
        return _loop.get()
    except LookupError:
        loop = TrioLoop()
        _loop.set(loop)
        return loop
