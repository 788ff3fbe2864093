"""How a call waits: as a task on an event loop, or as a blocked thread.

Rules of this room: this is the only difference between the two faces. Everything above asks its ``Callers`` for a
ticket, hands the ticket to whoever will do the work, and waits on it; whoever does the work answers many tickets at
once, from any thread, and learns nothing of who waits.

A thread's ``wait`` blocks inside the coroutine that awaits it, so a coroutine that awaits nothing but tickets never
suspends, and ``step`` runs it to its end in the calling thread. That is how the blocking face runs the same code as the
async one with two thread wake-ups a call instead of four: the thread that did the I/O wakes the caller directly.
Rejected: ``BlockingPortal.call`` and ``run_coroutine_threadsafe``, which go through the loop's thread both ways.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import inspect
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from .errors import ForkedProcessError, WrongLoopError

T = TypeVar("T")

Ticket = Any  # what Callers.ticket() made; an opaque thing to everybody else


class Callers(Protocol):
    def admit(self) -> None:
        """Raise if a call may not come from here: another loop, a forked child, a thread of the store's own."""

    def admit_close(self) -> None:
        """The same for ``close()``, which may also come from another loop once the own one is closed."""

    def ticket(self) -> Ticket:
        """A place to wait for one answer."""

    async def wait(self, ticket: Ticket, timeout: float | None, expire: Callable[[], object | None]) -> Any:
        """The answer. After ``timeout`` seconds ``expire()`` is asked once; what it returns, unless None, is it."""

    async def once(self, key: object, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of ``compute()``, run once for all callers that ask under the key while it runs.

        A caller that is cancelled does not cancel it for the others. An ``Exception`` of it reaches all of them.
        """

    async def awaited(self, awaitable: Awaitable[Any], function: object) -> Any:
        """What a function that the user passed in has returned to be awaited; refused where nothing can be awaited."""

    async def join(self, future: concurrent.futures.Future[T]) -> T:
        """The future's result. To be cancelled while waiting does nothing to the future."""

    async def join_thread(self, thread: threading.Thread) -> None:
        """Wait until a thread that is at its end is gone."""

    def answer(self, answers: Sequence[tuple[Ticket, Any]]) -> None:
        """Answer tickets, from any thread. Those that nobody waits for any more are passed over."""


class TaskCallers:
    """Tasks of the one event loop that the first call came from."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._flights: dict[object, _TaskFlight] = {}

    def admit(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProcessError(self._location)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                raise WrongLoopError(
                    f"the store {self._location} belongs to the event loop that opened it and was called from another "
                    "one: make one AsyncContextStore per loop, or use ContextStore, which may be called from anywhere"
                )
            self._loop = loop

    def admit_close(self) -> None:
        if self._loop is not None and self._loop.is_closed() and os.getpid() == self._pid:
            return
        self.admit()

    def ticket(self) -> asyncio.Future[Any]:
        assert self._loop is not None
        return self._loop.create_future()

    async def wait(
        self, ticket: asyncio.Future[Any], timeout: float | None, expire: Callable[[], object | None]
    ) -> Any:
        if timeout is None:
            return await ticket
        assert self._loop is not None
        timer = self._loop.call_later(timeout, _expire, ticket, expire)
        try:
            return await ticket
        finally:
            timer.cancel()

    async def once(self, key: object, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        flight = self._flights.get(key)
        if flight is not None:
            _refuse_own(self, key)
        else:
            with _marked(self, key):
                flight = self._flights[key] = _TaskFlight(asyncio.ensure_future(compute()))
            flight.task.add_done_callback(lambda _: self._land(key, flight))
        flight.waiters += 1
        try:
            result: T = await asyncio.shield(flight.task)
            return result
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():  # all who waited were cancelled
                self._land(key, flight)
                flight.task.cancel()

    def _land(self, key: object, flight: _TaskFlight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def awaited(self, awaitable: Awaitable[Any], function: object) -> Any:
        return await awaitable

    async def join(self, future: concurrent.futures.Future[T]) -> T:
        # Not asyncio.wrap_future: that cancels the future with its waiter, and complains of a loop closed meanwhile.
        loop = asyncio.get_running_loop()
        ticket: asyncio.Future[T] = loop.create_future()
        future.add_done_callback(lambda done: _answer_on(loop, [(ticket, done.result())]))
        return await ticket

    async def join_thread(self, thread: threading.Thread) -> None:
        while thread.is_alive():  # it has nothing left to do; to block the loop for it would still be wrong
            await asyncio.sleep(0)

    def answer(self, answers: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
        assert self._loop is not None
        _answer_on(self._loop, answers)


def _answer_on(loop: asyncio.AbstractEventLoop, answers: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    try:
        loop.call_soon_threadsafe(_settle, answers)
    except RuntimeError:
        if not loop.is_closed():
            raise
        # The loop is gone, and everybody who waited with it.


def _expire(ticket: asyncio.Future[Any], expire: Callable[[], object | None]) -> None:
    if not ticket.done():
        answer = expire()
        if answer is not None:
            ticket.set_result(answer)


def _settle(answers: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    # Errors are results here too: an exception that is set on a future and never fetched, since its waiter was
    # cancelled in the same turn, would be logged as forgotten.
    for ticket, answer in answers:
        if not ticket.done():
            ticket.set_result(answer)


class ThreadCallers:
    """Blocked threads: any but the store's own."""

    def __init__(self, location: str, own_threads: set[int]) -> None:
        self._location = location
        self._own_threads = own_threads
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._flights: dict[object, list[_ThreadTicket]] = {}

    def admit(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProcessError(self._location)
        if threading.get_ident() in self._own_threads:
            raise WrongLoopError(
                f"the store {self._location} was called from a thread of its own, which would wait for itself: "
                "hand the call to another thread"
            )

    def admit_close(self) -> None:
        self.admit()

    def ticket(self) -> _ThreadTicket:
        return _ThreadTicket()

    async def wait(self, ticket: _ThreadTicket, timeout: float | None, expire: Callable[[], object | None]) -> Any:
        if timeout is None:
            ticket.answered.acquire()
        elif not ticket.answered.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            answer = expire()
            if answer is not None:
                return answer
            ticket.answered.acquire()
        return ticket.answer

    async def once(self, key: object, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        while True:
            ticket = self.ticket()
            with self._lock:
                joined = self._flights.get(key)
                if joined is None:
                    waiting = self._flights[key] = []
                else:
                    _refuse_own(self, key)
                    joined.append(ticket)
            if joined is None:
                return await self._compute_for_all(key, compute, waiting)
            answer: tuple[bool, Any] | None = await self.wait(ticket, None, lambda: None)
            if answer is not None:
                succeeded, result = answer
                if not succeeded:
                    raise result
                value: T = result
                return value
            # Who computed was interrupted, and that is nobody else's business: compute it anew, or join who does.

    async def _compute_for_all(
        self, key: object, compute: Callable[[], Coroutine[Any, Any, T]], waiting: list[_ThreadTicket]
    ) -> T:
        answer: tuple[bool, Any] | None = None
        try:
            with _marked(self, key):
                result = await compute()
            answer = (True, result)
            return result
        except Exception as error:
            answer = (False, error)
            raise
        finally:
            with self._lock:
                del self._flights[key]
            self.answer([(ticket, answer) for ticket in waiting])

    async def awaited(self, awaitable: Awaitable[Any], function: object) -> Any:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        raise TypeError(
            f"{function!r} returned an awaitable, and ContextStore takes plain functions: use AsyncContextStore"
        )

    async def join(self, future: concurrent.futures.Future[T]) -> T:
        return future.result()

    async def join_thread(self, thread: threading.Thread) -> None:
        thread.join()

    def answer(self, answers: Sequence[tuple[_ThreadTicket, Any]]) -> None:
        for ticket, answer in answers:
            ticket.answer = answer
            ticket.answered.release()


class _ThreadTicket:
    """A lock that is held until the answer is there: the cheapest thing in CPython that a thread can sleep on."""

    __slots__ = ("answer", "answered")

    def __init__(self) -> None:
        self.answered = threading.Lock()
        self.answered.acquire()
        self.answer: Any = None


def step(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, here and now."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine that must not suspend did")


_own_turns: contextvars.ContextVar[frozenset[tuple[object, object]]] = contextvars.ContextVar(
    "turns", default=frozenset()
)
"""What is being computed or updated by the caller, so that it can be told that it would wait for itself."""


@contextlib.contextmanager
def _marked(owner: object, key: object) -> Iterator[None]:
    token = _own_turns.set(_own_turns.get() | {(owner, key)})
    try:
        yield
    finally:
        _own_turns.reset(token)


def _refuse_own(owner: object, key: object) -> None:
    if (owner, key) in _own_turns.get():
        raise RuntimeError(f"the function that computes or updates {key!r} asked for it: it would wait for itself")


class _TaskFlight:
    """A computation under way, and how many wait for it."""

    def __init__(self, task: asyncio.Future[Any]) -> None:
        self.task = task
        self.waiters = 0


class Turns:
    """Callers that queue by key."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Ticket]] = {}

    @contextlib.asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        ticket = self._callers.ticket()
        with self._lock:
            if key in self._waiting:
                _refuse_own(self, key)
            queue = self._waiting.setdefault(key, [])
            queue.append(ticket)
            is_first = len(queue) == 1
        try:
            if not is_first:
                await self._callers.wait(ticket, None, lambda: None)
            with _marked(self, key):
                yield
        finally:
            self._leave(key, ticket)

    def _leave(self, key: str, ticket: Ticket) -> None:
        with self._lock:
            queue = self._waiting[key]
            was_first = queue[0] is ticket
            queue.remove(ticket)
            if not queue:
                del self._waiting[key]
                return
            following = queue[0]
        if was_first:
            self._callers.answer([(following, None)])


class Events:
    """What happens elsewhere, handed to the caller that waits for it."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._lock = threading.Lock()
        self._latest: tuple[int, int] | None = None
        self._ended = False
        self._ticket: Ticket = None

    def report(self, done: int, total: int) -> None:
        """From any thread. If the caller is slower, it gets only the latest."""
        self._tell((done, total), False)

    def end(self) -> None:
        self._tell(None, True)

    def _tell(self, event: tuple[int, int] | None, ended: bool) -> None:
        with self._lock:
            self._latest = event or self._latest
            self._ended = self._ended or ended
            ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._callers.answer([(ticket, None)])

    async def next(self) -> tuple[int, int] | None:
        """The next event, waited for; None at the end."""
        while True:
            with self._lock:
                event, self._latest = self._latest, None
                if event is not None or self._ended:
                    return event
                ticket = self._ticket = self._callers.ticket()
            await self._callers.wait(ticket, None, lambda: None)
