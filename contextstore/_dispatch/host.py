"""The engine host: the event-loop thread on which a store's engine lives, from its opening to its end.

Rules of this module: one thread per open store, whichever its face. It is asleep unless something is opened, closed or
watched: reads and writes go straight to where the engine runs them. A driver belongs to the loop that opened it, and
aiosqlite's threads die when they answer a loop that is closed. On a loop of our own they outlive the caller's loop,
finish what was accepted, and are closed in order, also if the caller is gone.
"""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import logging
import os
import threading
import warnings
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from .._engine.contract import Engine
from .._process.exit import forget, watch_for_exit
from .._process.own_threads import OwnThreads
from .._waiting.future import SharedFuture
from .._waiting.outcome import Outcome
from ..errors import StorageError, StoreClosedError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

logger = logging.getLogger("contextstore")


class _Loop(asyncio.SelectorEventLoop):
    """A loop that knows the threads in which it looks up the names of hosts for its store's."""

    def __init__(self, own_threads: OwnThreads) -> None:
        super().__init__()
        self._own_threads = own_threads

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        def run() -> T:
            ident = threading.get_ident()
            self._own_threads.add(ident)
            try:
                return func(*args)
            finally:
                self._own_threads.discard(ident)

        return super().run_in_executor(executor, run)


class EngineHost:
    """An engine that is open, or about to be, on a thread of its own.

    Args:
        refuse_calls: called once, before the engine is closed for any reason: nothing more may be posted to it.
            Must not hold the store object, which would never be collected then.
        is_warned_of: whether nobody is to be warned of it: the end of the interpreter is what closes it.
    """

    def __init__(
        self, engine: Engine, refuse_calls: Callable[[], None] = lambda: None, *, is_warned_of: bool = False
    ) -> None:
        self._engine = engine
        self._refuse_calls = refuse_calls
        self._pid = os.getpid()
        self._started = threading.Lock()  # taken by the thread that lives here, for good
        # No lock guards the next four: this thread would wait for it, while the caller that holds it is in a finalizer,
        # say, that waits for this thread. Each side writes what the other one reads, and then looks at what that wrote.
        self._loop: asyncio.AbstractEventLoop | None = None  # as long as calls are taken
        self._stopped: asyncio.Event | None = None
        self._stopping = False
        self._takes_no_calls = False
        self._calls: set[asyncio.Task[None]] = set()
        self.is_warned_of = is_warned_of
        # Both give an error as their result instead of raising it, so that no call raises another's exception object.
        self.opened: SharedFuture[Outcome[None]] = SharedFuture()
        """Kept once the engine is open, or has failed to open and the thread is at its end."""
        self.closed: SharedFuture[Outcome[None]] = SharedFuture()
        """Kept once the engine is closed and the thread is at its end."""
        self.thread = threading.Thread(target=self._run, name=f"contextstore {engine.location}", daemon=False)

    def start(self) -> None:
        """Start the thread. Any number of times: an interrupt may have cut short an earlier call anywhere.

        By way of a thread that only starts the other: Thread.start() blocks, and an interrupt there leaves the thread
        half-started, as it does in Thread.is_alive().
        """
        if not self._started.locked():
            try:
                _thread.start_new_thread(self._start_thread, (threading.current_thread(),))
            except RuntimeError as error:
                self._fail_to_start(error)

    def _start_thread(self, caller: threading.Thread) -> None:
        own_threads, ident = self._engine.own_threads, threading.get_ident()
        own_threads.add(ident)  # a finalizer that runs here and calls the store would wait for what this is about to do
        try:
            # Unless called by the main thread after its end, in an atexit callback, when no thread is joined any more.
            if caller is not threading.main_thread() or caller.is_alive():
                watch_for_exit(self)
            threading.Thread(target=self._run, name=self.thread.name, daemon=False).start()
        except RuntimeError as error:
            self._fail_to_start(error)
        finally:
            own_threads.discard(ident)

    def _fail_to_start(self, error: RuntimeError) -> None:
        if self._started.acquire(blocking=False):
            refused = StorageError(f"could not open {self._engine.location}: it needs a thread: {error}")
            refused.__cause__ = error
            self._leave(Outcome.failure(refused))

    def call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> SharedFuture[Outcome[T]]:
        """Run a coroutine function on the engine's loop. From any thread."""
        future: SharedFuture[Outcome[T]] = SharedFuture()

        async def run() -> None:
            try:
                future.set_result(Outcome(await function()))
            except Exception as error:  # noqa: BLE001 - any error is handed over to the call that waits
                future.set_result(Outcome.failure(error))

        def begin() -> None:
            if self._takes_no_calls:
                future.set_result(Outcome.failure(StoreClosedError(self._engine.location)))
                return
            task = asyncio.ensure_future(run())
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

        loop = self._loop
        if loop is not None:
            _call_soon(loop, begin)
        if self._loop is None:  # also if it was there a moment ago: it may have made its last turn
            raise StoreClosedError(self._engine.location)
        return future

    def stop(self) -> None:
        """Have the engine closed. From any thread, any number of times; does not wait."""
        self._stopping = True
        loop, stopped = self._loop, self._stopped
        if loop is not None and stopped is not None:
            _call_soon(loop, stopped.set)

    def owns(self, thread: threading.Thread) -> bool:
        """Whether a thread is one of this store's own."""
        return thread is self.thread or thread.ident in self._engine.own_threads

    def warn_unclosed(self, store: object = None) -> None:
        """Warn, once, and by the place where the store was made, if tracemalloc knows it."""
        if not self.is_warned_of:
            self.is_warned_of = True
            message = f"the store {self._engine.location} was not closed: use 'with' or call close()"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=store)

    def is_running_here(self) -> bool:
        """Whether the thread lives, and in this process: a forked child has the object only."""
        return self._pid == os.getpid() and not self.closed.done()

    def _run(self) -> None:
        if not self._started.acquire(blocking=False):
            return
        self.thread = threading.current_thread()
        self._engine.own_threads.add(threading.get_ident())
        outcome: Outcome[None] = Outcome(None)
        try:
            # Not in debug mode: opening and closing block this loop, which has no other task.
            # Not by the program's policy: some make loops that run in the main thread only. Not uvloop (0.23): under
            # connections that a server refuses, its C code crashed the process with one store in a few hundred.
            with asyncio.Runner(loop_factory=partial(_Loop, self._engine.own_threads), debug=False) as runner:
                runner.run(self._live())
        except BaseException as raised:  # noqa: BLE001 - handed over to the calls that wait: none may wait for ever
            outcome = Outcome.failure(raised)
            if isinstance(raised, OSError) and not isinstance(raised, StorageError):  # no descriptors for a loop
                error = StorageError(f"could not open {self._engine.location}: {raised}")
                error.__cause__ = raised
                outcome = Outcome.failure(error)
        finally:
            self._engine.own_threads.clear()
            self._leave(outcome)

    def _leave(self, outcome: Outcome[None]) -> None:
        forget(self)
        if not self.opened.done():
            self.opened.set_result(outcome)
            outcome = Outcome(None)
        self.closed.set_result(outcome)

    async def _live(self) -> None:
        await self._engine.open()
        try:
            stopped = asyncio.Event()
            self._stopped, self._loop = stopped, asyncio.get_running_loop()
            if self._stopping:
                stopped.set()
            self.opened.set_result(Outcome(None))
            await stopped.wait()
            await self._end_calls()
        finally:
            await self._engine.close()

    async def _end_calls(self) -> None:
        self._refuse_calls()
        self._loop = None
        await asyncio.sleep(0)  # what was accepted becomes tasks now
        while self._calls:
            await asyncio.wait(self._calls)
        self._takes_no_calls = True


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """From any thread; nothing if it is closed by now.

    In a context of its own: what is begun here may outlive the caller, and would keep its trace span.
    """
    try:
        loop.call_soon_threadsafe(callback, context=contextvars.Context())
    except RuntimeError:
        if not loop.is_closed():
            raise
