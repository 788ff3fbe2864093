"""A waiter: the place of one call that waits for one answer, and how the answer gets there from any thread.

Rules of this module: a waiter belongs to the loop that it was made on, or to the thread that made it, and nothing else
is known of the caller. The threads that do the work hold waiters of many loops and threads in one queue, and answer
them all alike. A loop that is closed takes its own waiters with it, and no others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import Context
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Waiter(Protocol[T]):
    """The place of one call that waits for one answer. An asyncio future is one."""

    def done(self) -> bool:
        """Whether the answer is there, or the call waits no more."""

    def set_result(self, result: T, /) -> None:
        """Give the answer: once, and on the waiter's own loop if it has one."""

    def get_loop(self) -> Loop | None:
        """The loop that it was made on. None: a thread waits, which any other thread may wake directly."""

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for the answer."""


class Loop(Protocol):
    """What a waiter needs of its loop. A loop of asyncio is one; for those of others see ``foreign``."""

    def is_closed(self) -> bool:
        """Whether it has ended, with all that waited on it."""

    def call_soon_threadsafe(self, callback: Callable[[*Ts], object], *args: *Ts) -> object:
        """Have the loop call it. From any thread; a RuntimeError if the loop has ended."""


class TaskLoop(Loop, Protocol):
    """What the callers on a loop need of it besides."""

    def create_future(self) -> Waiter[Any]:
        """A waiter of the running task's."""

    def time(self) -> float:
        """Seconds by the loop's clock."""

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> Cancellable:
        """Have the loop call it at this time of its clock."""

    def call_later(self, delay: float, callback: Callable[[*Ts], object], *args: *Ts) -> Cancellable:
        """Have the loop call it after so many seconds."""

    def create_task(self, coro: Coroutine[Any, Any, None], /) -> LoopTask:
        """Run the coroutine in a task of its own, with a copy of the running context."""


class Cancellable(Protocol):
    """What a loop will do, or does just now, unless it is cancelled. To be used on that loop."""

    def cancel(self) -> object:
        """Have it not done, or end it."""


class LoopTask(Cancellable, Protocol):
    """A task of a loop."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> object:
        """Call it with the task once that has ended, also if it was cancelled before its first step."""


def resolve(answers: Sequence[tuple[Waiter[Any], Any]]) -> None:
    """Answer waiters, from any thread. A waiter is passed over if its call waits no more.

    Each loop is woken once, however many of the waiters are its own.
    """
    by_loop: dict[Loop, list[tuple[Waiter[Any], Any]]] = {}
    for answer in answers:
        loop = answer[0].get_loop()
        if loop is None:
            answer[0].set_result(answer[1])
        elif loop in by_loop:
            by_loop[loop].append(answer)
        else:
            by_loop[loop] = [answer]
    for loop, some in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, some)
        except RuntimeError:
            if not loop.is_closed():
                raise
            # The loop has ended, and every call that waited on it.


def _settle(answers: Sequence[tuple[Waiter[Any], Any]]) -> None:
    # Errors are results here too: an exception that is set on a future and never fetched, since its waiter was
    # cancelled in the same turn, would be logged as forgotten.
    for waiter, answer in answers:
        if not waiter.done():
            waiter.set_result(answer)


class ThreadWaiter(Generic[T]):
    """A blocked thread, on a lock that is held until the answer is there: nothing in CPython that a thread can sleep on
    is cheaper.

    Awaited, it blocks, and so the coroutine that awaits it never suspends.
    """

    __slots__ = ("answer", "answered")

    def __init__(self) -> None:
        self.answered = threading.Lock()
        self.answered.acquire()
        self.answer: Any = None

    def done(self) -> bool:
        return not self.answered.locked()

    def set_result(self, result: T, /) -> None:
        self.answer = result
        try:
            self.answered.release()
        except RuntimeError:  # answered twice: see KeyedLock
            pass

    def get_loop(self) -> None:
        return None

    def __await__(self) -> Generator[Any, Any, T]:
        self.answered.acquire()
        answer: T = self.answer
        return answer
        yield  # never: it makes a generator of this
