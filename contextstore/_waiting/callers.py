"""How a call waits: as a task on an event loop, or as a blocked thread.

Rules of this module: this is the only difference between the two faces. Everything above asks its ``Callers`` for a
waiter, hands the waiter to whoever will do the work, and waits on it; whoever does the work answers many waiters at
once, from any thread, and learns nothing of who waits.

A thread's ``wait`` blocks inside the coroutine that awaits it, so a coroutine that awaits nothing but waiters never
suspends, and ``step`` runs it to its end in the calling thread. That is how the blocking face runs the same code as the
async one with two thread wake-ups a call instead of four: the thread that did the I/O wakes the caller directly.
Rejected: ``BlockingPortal.call`` and ``run_coroutine_threadsafe``, which go through the loop's thread both ways.

A KeyboardInterrupt may come between any two steps of a blocked thread's call, and must leave nothing behind that
another call would wait for. ``with`` on a ``threading.Lock`` is safe from it, and little else: a ``Condition``, and so
an ``Event`` or a ``concurrent.futures.Future``, may stay locked for ever.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
import warnings
from asyncio import get_running_loop  # each call asks for it, and to look it up in the module takes as long
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from threading import get_ident
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from .._process.fork import at_fork
from .._process.own_threads import OWNERS, OwnThreads, owner_here
from ..errors import ForkedProcessError, StoreClosedError, WrongLoopError
from .deadlock import Computation, waiting_for, within
from .outcome import Outcome, outcome_of

T = TypeVar("T")

Waiter = Any  # what Callers.waiter() made; an opaque thing to everybody else


class SharedFuture(Generic[T]):
    """A result that will be there once, given by one thread and waited for by any number of callers.

    ``concurrent.futures.Future`` without its Condition, see above, and without exceptions.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[SharedFuture[T]], object]] = []
        self._results: list[T] = []

    def set_result(self, result: T) -> None:
        """Give it. Of several the first stands. If it is interrupted, once more tells those who were not told."""
        with self._lock:
            self._results.append(result)
        for callback in self._callbacks:  # there come no more
            callback(self)
        self._callbacks.clear()

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


class Callers(Protocol):
    def admit(self) -> None:
        """Raise if a call may not come from here: another loop, a forked child, a thread of the store's own."""

    def settle(self) -> None:
        """Whoever was admitted is about to open the store, or to close it: from now on it is of this process."""

    def bind(self) -> None:
        """The store is open now, and belongs to whoever was admitted; a failed opening binds nobody."""

    def end(self) -> None:
        """The store is closed."""

    def admit_close(self) -> bool:
        """The same for ``close()``, which may also come from another loop once the own one is closed.

        False: there is nothing to be done, the store was closed before a fork.
        """

    def waiter(self) -> Waiter:
        """A place to wait for one answer."""

    def wait(self, waiter: Waiter) -> Awaitable[Any]:
        """The result, waited for as long as it takes."""

    def wait_until(self, waiter: Waiter, timeout: float, expire: Callable[[], object | None]) -> Awaitable[Any]:
        """Wait for the result. After ``timeout`` seconds call ``expire()`` once: if it returns a value, that becomes
        the result; if None, keep waiting."""

    async def single_flight(self, key: object, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of ``compute()``, run once for all callers that ask under the key while it runs.

        A caller that is cancelled does not cancel it for the others. An ``Exception`` of it reaches all of them.
        """

    async def awaited(self, awaitable: Awaitable[Any], function: object) -> Any:
        """What a function that the user passed in has returned to be awaited; refused where nothing can be awaited."""

    async def join(self, future: SharedFuture[T]) -> T:
        """The future's result. To be cancelled while waiting does nothing to the future."""

    async def join_thread(self, thread: threading.Thread) -> None:
        """Wait until a thread that is at its end is gone."""

    def resolve(self, answers: Sequence[tuple[Waiter, Any]]) -> None:
        """Answer waiters, from any thread. Those that nobody waits for any more are passed over."""


_process = object()
"""Another one in a forked child. Each call looks at it; os.getpid() is a system call, a tenth of a get."""


def _note_fork() -> None:
    global _process
    _process = object()


at_fork(in_child=_note_fork)


class _Process:
    """Which process a store object is of: the first that opens it. None, and any may, until then."""

    def __init__(self, location: str, own_threads: OwnThreads) -> None:
        self._location = location
        self._own_threads = own_threads
        self._process: object = None
        self._is_bound = False
        self._is_closed = False

    def bind(self) -> None:
        self._is_bound = True

    def end(self) -> None:
        self._is_closed = True

    def _refuse_in_child(self) -> NoReturn:
        # A fork may have come at any point of what another thread was doing with the store: nothing of it is touched.
        if self._is_closed:
            raise StoreClosedError(self._location)
        raise ForkedProcessError(self._location, self._is_bound)

    def _refuse_own_thread(self) -> None:
        owner = owner_here()
        if owner is not None and not owner.may_call(self._own_threads):
            raise WrongLoopError(
                f"the store {self._location} was called from a thread of its own, which would wait for itself: "
                "hand the call to another thread"
            )


class TaskCallers(_Process):
    """Tasks of the one event loop that opened the store."""

    def __init__(self, location: str, usual_timeout: float, own_threads: OwnThreads) -> None:
        super().__init__(location, own_threads)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._usual_timeout = usual_timeout
        self._waits = _Waits(usual_timeout)
        self._settling = threading.Lock()
        self._flights: dict[object, _TaskFlight] = {}

    def admit(self) -> None:
        if self._process is not _process and self._process is not None:
            self._refuse_in_child()
        loop = get_running_loop()
        if loop is not self._loop:
            self._refuse_own_thread()
            if self._loop is not None and (self._is_bound or not self._loop.is_closed()):
                raise WrongLoopError(
                    f"the store {self._location} belongs to the event loop that opened it and was called from another "
                    "one: make one AsyncContextStore per loop, or use ContextStore, which may be called from anywhere"
                )

    def settle(self) -> None:
        self._process = _process  # first of all: a fork that comes now finds what follows in the middle
        with self._settling:
            self.admit()  # another loop may have been quicker
            loop = get_running_loop()
            if loop is not self._loop:
                self._loop = loop
                self._waits = _Waits(self._usual_timeout)

    def admit_close(self) -> bool:
        if self._process not in (None, _process) and self._is_closed:
            return False
        if self._loop is None or not self._loop.is_closed() or self._process is not _process:
            self.admit()
        self._process = _process
        return True

    def waiter(self) -> asyncio.Future[Any]:
        assert self._loop is not None
        return self._loop.create_future()

    def wait(self, waiter: asyncio.Future[Any]) -> Awaitable[Any]:
        return waiter

    def wait_until(
        self, waiter: asyncio.Future[Any], timeout: float, expire: Callable[[], object | None]
    ) -> Awaitable[Any]:
        # Not a coroutine, which each put and get would make and run through for nothing but the usual cases below.
        assert self._loop is not None
        if timeout == self._usual_timeout:
            self._waits.add(self._loop, waiter, expire)
            return waiter
        return self._wait(self._loop.call_later(timeout, _expire, waiter, expire), waiter)

    async def _wait(self, timer: asyncio.TimerHandle, waiter: asyncio.Future[Any]) -> Any:
        try:
            return await waiter
        finally:
            timer.cancel()

    async def single_flight(self, key: object, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _TaskFlight()
            try:
                with within(flight):
                    flight.task = asyncio.ensure_future(compute())
                flight.task.add_done_callback(lambda _: self._land(key, flight))
            except BaseException:  # RecursionError, MemoryError: or nobody could ask for the key any more
                self._land(key, flight)
                raise
        with waiting_for(flight, key):
            flight.callers += 1
            try:
                outcome = await outcome_of(asyncio.shield(flight.task))
            except asyncio.CancelledError:
                if flight.callers == 1 and not flight.task.done():  # all who waited were cancelled
                    self._land(key, flight)
                    flight.task.cancel()
                    # As if it had run in this task: when the call is over, so is what it has called.
                    await asyncio.wait([flight.task])
                raise
            finally:
                flight.callers -= 1
        result: T = outcome.unwrap()
        return result

    def _land(self, key: object, flight: _TaskFlight) -> None:
        flight.is_done = True
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def awaited(self, awaitable: Awaitable[Any], function: object) -> Any:
        return await awaitable

    async def join(self, future: SharedFuture[T]) -> T:
        loop = asyncio.get_running_loop()  # not always the own one, see admit_close
        waiter: asyncio.Future[T] = loop.create_future()
        future.add_done_callback(lambda done: _answer_on(loop, [(waiter, done.result())]))
        if loop is self._loop:
            self._waits.add(loop, waiter, lambda: None)
        return await waiter

    async def join_thread(self, thread: threading.Thread) -> None:
        while thread.is_alive():  # it has nothing left to do; to block the loop for it would still be wrong
            await asyncio.sleep(0)

    def resolve(self, answers: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
        if self._loop is not None:  # else it is closed unopened, and nobody has asked for anything
            _answer_on(self._loop, answers)


class _Waits:
    """Waits for the store's own threads. All have the same timeout, and so end in the order in which they began: one
    timer does for all. (A timer of its own for each took a tenth of what a put among many takes.)

    The timer also sees to it that those threads get on. A loop that has something to do at each turn leaves the GIL for
    a microsecond between two turns, to look at its sockets. Who waits for the GIL is woken by that, and comes too late;
    and CPython, which has a holder hand it over after 5 ms, counts these anew each time. Beside a task that works for a
    millisecond at a time, a thread got the GIL 1 to 20 times a second, and a put took up to 30 seconds. So a loop
    that keeps a call waiting while it is busy itself takes a breath now and then.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._waits: deque[tuple[float, asyncio.Future[Any], Callable[[], object | None]]] = deque()
        self._sweep_at = _SWEEP_AT
        self._overdue: list[asyncio.Future[Any]] = []  # what is under way, however long it takes
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _PATIENCE
        self._looked_at = self._worked_until = 0.0

    def add(
        self, loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[Any], expire: Callable[[], object | None]
    ) -> None:
        waits = self._waits
        while waits and waits[0][1].done():  # so that what is answered is not kept,
            waits.popleft()
        if len(waits) >= self._sweep_at:  # nor behind one that is not answered
            waits = self._waits = deque(wait for wait in waits if not wait[1].done())
            self._sweep_at = max(_SWEEP_AT, 2 * len(waits))
        now = loop.time()
        waits.append((now, waiter, expire))
        if self._timer is None:
            self._pause = _PATIENCE
            self._looked_at, self._worked_until = now, time.thread_time()
            # In a context of its own: the timer goes on after the first call, whose trace span it would keep.
            begin = min(now + _PATIENCE, now + self._timeout)
            self._timer = loop.call_at(begin, self._look, loop, context=contextvars.Context())

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        waits = self._waits
        now = loop.time()
        while waits and (waits[0][1].done() or waits[0][0] + self._timeout <= now):
            _, waiter, expire = waits.popleft()
            _expire(waiter, expire)
            if not waiter.done():
                self._overdue.append(waiter)
        self._overdue = [waiter for waiter in self._overdue if not waiter.done()]
        if not waits and not self._overdue:
            return
        worked_until = time.thread_time()
        is_busy = worked_until - self._worked_until > (now - self._looked_at) / 2
        self._pause = _PATIENCE if is_busy else min(2 * self._pause, _MOST_PATIENCE)
        if is_busy and (self._overdue or now - waits[0][0] >= _PATIENCE):
            time.sleep(_BREATH)
        self._looked_at, self._worked_until = loop.time(), worked_until
        next_look = self._looked_at + self._pause
        if waits:
            next_look = min(next_look, waits[0][0] + self._timeout)
        self._timer = loop.call_at(next_look, self._look, loop)


_SWEEP_AT = 64
_PATIENCE, _MOST_PATIENCE = 0.002, 0.1
"""Seconds between two looks at what waits: at first and while the loop is busy; in the end, if it is not."""
_BREATH = 0.0002
"""Seconds that a busy loop leaves the GIL to others. Less than a thread's wake-up would be in vain."""


def _answer_on(loop: asyncio.AbstractEventLoop, answers: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    try:
        loop.call_soon_threadsafe(_settle, answers)
    except RuntimeError:
        if not loop.is_closed():
            raise
        # The loop is gone, and everybody who waited with it.


def _expire(waiter: asyncio.Future[Any], expire: Callable[[], object | None]) -> None:
    if not waiter.done():
        answer = expire()
        if answer is not None:
            waiter.set_result(answer)


def _settle(answers: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    # Errors are results here too: an exception that is set on a future and never fetched, since its waiter was
    # cancelled in the same turn, would be logged as forgotten.
    for waiter, answer in answers:
        if not waiter.done():
            waiter.set_result(answer)


class ThreadCallers(_Process):
    """Blocked threads: any but the store's own."""

    def __init__(self, location: str, own_threads: OwnThreads) -> None:
        super().__init__(location, own_threads)
        self._lock = threading.Lock()
        self._flights: dict[object, _ThreadFlight] = {}

    def admit(self) -> None:
        if self._process is not _process and self._process is not None:
            self._refuse_in_child()
        if get_ident() in OWNERS:
            self._refuse_own_thread()

    def settle(self) -> None:
        self._process = _process

    def admit_close(self) -> bool:
        if self._process not in (None, _process) and self._is_closed:
            return False
        self.admit()
        self.settle()
        return True

    def waiter(self) -> _ThreadWaiter:
        return _ThreadWaiter()

    async def wait(self, waiter: _ThreadWaiter) -> Any:
        waiter.answered.acquire()
        return waiter.answer

    async def wait_until(self, waiter: _ThreadWaiter, timeout: float, expire: Callable[[], object | None]) -> Any:
        if not waiter.answered.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            answer = expire()
            if answer is not None:
                return answer
            waiter.answered.acquire()
        return waiter.answer

    async def single_flight(self, key: object, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        while True:
            own = _ThreadFlight()
            try:
                with self._lock:
                    flight = self._flights.setdefault(key, own)
                if flight is own:
                    with waiting_for(own, key), within(own):
                        own.outcome = await outcome_of(compute())
                    result: T = own.outcome.unwrap()
                    return result
            except Exception as error:
                own.outcome = Outcome.failure(error)
                raise
            finally:
                # Twice, since a KeyboardInterrupt may come in the middle of the first, and the others wait for it.
                try:
                    self._land(key, own)
                finally:
                    self._land(key, own)
            with waiting_for(flight, key):
                await self.join(flight.landed)
            if flight.outcome is not None:
                value: T = flight.outcome.unwrap()
                return value
            # Who computed was interrupted, and that is nobody else's business: compute it anew, or join who does.

    def _land(self, key: object, flight: _ThreadFlight) -> None:
        flight.is_done = True
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.landed.set_result(None)

    async def awaited(self, awaitable: Awaitable[Any], function: object) -> Any:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        raise TypeError(
            f"{function!r} returned an awaitable, and ContextStore takes plain functions: use AsyncContextStore"
        )

    async def join(self, future: SharedFuture[T]) -> T:
        waiter = self.waiter()
        future.add_done_callback(lambda done: self.resolve([(waiter, done.result())]))
        while not waiter.answered.acquire(timeout=_LOOK_AGAIN):
            self.admit()  # this thread may be one that has just been started for what is waited for
        result: T = waiter.answer
        return result

    async def join_thread(self, thread: threading.Thread) -> None:
        thread.join()

    def resolve(self, answers: Sequence[tuple[_ThreadWaiter, Any]]) -> None:
        for waiter, answer in answers:
            waiter.answer = answer
            try:
                waiter.answered.release()
            except RuntimeError:  # answered twice: see KeyedLock
                pass


_LOOK_AGAIN = 0.1
"""Seconds after which a thread that waits for an opening looks again whether it may."""


class _ThreadWaiter:
    """A lock that is held until the answer is there: the cheapest thing in CPython that a thread can sleep on."""

    __slots__ = ("answer", "answered")

    def __init__(self) -> None:
        self.answered = threading.Lock()
        self.answered.acquire()
        self.answer: Any = None


def warn_on_a_loop(call: str, instead: str) -> None:
    """Warn whoever is about to block the thread of a running event loop without end, by a line of his."""
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


class _TaskFlight(Computation):
    """A computation under way, and how many wait for it."""

    task: asyncio.Future[Any]
    callers = 0


class _ThreadFlight(Computation):
    """A computation under way in some thread, and its outcome. None: it has none, for now or for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.landed: SharedFuture[None] = SharedFuture()
        self.outcome: Outcome[Any] | None = None


class _Turn(Computation):
    """A caller in a queue."""

    def __init__(self, waiter: Waiter) -> None:
        super().__init__()
        self.waiter = waiter


class KeyedLock:
    """Callers that queue by key."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._lock = threading.RLock()  # reentrant: a coroutine that is collected while it is held leaves its queue
        self._queues: dict[str, list[_Turn]] = {}

    async def run_locked(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        # Not a context manager: if it is interrupted as it is entered or left, the turn stays taken.
        own = _Turn(self._callers.waiter())
        try:
            with waiting_for(own, key), within(own):
                with self._lock:
                    queue = self._queues.setdefault(key, [])
                    before = queue[-1:]
                    queue.append(own)
                for turn in before:
                    with waiting_for(turn, key):
                        await self._callers.wait(own.waiter)
                outcome = await outcome_of(work())
            return outcome.unwrap()
        finally:
            # Twice, since a KeyboardInterrupt may come in the middle of the first, and the others wait for it.
            try:
                self._leave(key, own)
            finally:
                self._leave(key, own)

    def _leave(self, key: str, own: _Turn) -> None:
        own.is_done = True
        with self._lock:
            queue = self._queues.get(key, [])
            if own in queue:
                queue.remove(own)
            if not queue:
                self._queues.pop(key, None)
            first = queue[:1]
        # It may have been told already, by whoever was interrupted after that, or left from further back.
        self._callers.resolve([(turn.waiter, None) for turn in first])


class ProgressChannel:
    """What happens elsewhere, handed to the caller that waits for it."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._lock = threading.Lock()
        self._latest: tuple[int, int] | None = None
        self._ended = False
        self._ticket: Waiter = None

    def report(self, done: int, total: int) -> None:
        """From any thread. If the caller is slower, it gets only the latest."""
        self._tell((done, total), False)

    def end(self) -> None:
        self._tell(None, True)

    def _tell(self, event: tuple[int, int] | None, ended: bool) -> None:
        with self._lock:
            self._latest = event or self._latest
            self._ended = self._ended or ended
            waiter, self._ticket = self._ticket, None
        if waiter is not None:
            self._callers.resolve([(waiter, None)])

    async def next(self) -> tuple[int, int] | None:
        """The next event, waited for; None at the end."""
        while True:
            with self._lock:
                event, self._latest = self._latest, None
                if event is not None or self._ended:
                    return event
                waiter = self._ticket = self._callers.waiter()
            await self._callers.wait(waiter)
