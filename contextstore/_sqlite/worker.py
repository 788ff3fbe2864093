"""A SQLite connection, its aiosqlite thread, and the jobs that run there.

Rules of this module: no SQL. Nothing here knows what a job does. aiosqlite starts the thread, connects and closes; what
goes on in between is one long call of it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Protocol, TypeVar, cast

import aiosqlite  # here, and not at the first opening: a fork in the middle of an import leaves it locked in the child

from .._engine.contract import Job
from .._process.own_threads import OwnThreads
from .._waiting.threads import run_now
from ..errors import StorageError
from .fork import deregister, file_of, refuse_if_spoilt, register, without_fork

T = TypeVar("T")

logger = logging.getLogger("contextstore")


class _JobConnection(sqlite3.Connection):
    """A connection whose ``executemany`` takes a function, so that a public call of aiosqlite's can carry one.

    No statement of this package is executed by it. ``execute``, which they all are, stays SQLite's own.
    """

    def executemany(self, function: Any, parameters: Any, /) -> sqlite3.Cursor:
        function(self)
        return self.cursor()  # for aiosqlite to wrap; it is never fetched from


class _Started:
    """What was asked for, on its way: to await it goes on with it."""

    def __init__(self, asked: Awaitable[Any]) -> None:
        self._rest = asked.__await__()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._rest


class ConnectionWorker:
    """A connection, its aiosqlite thread, and the jobs that run there one after the other.

    The thread is kept in one long call that takes jobs from a queue of our own. So a job can be posted from any thread,
    with one wake-up, and needs no event loop: aiosqlite's own calls would need the loop's thread both ways.

    Args:
        own_threads: the ids of the store's own threads, kept up to date here.
    """

    def __init__(self, own_threads: OwnThreads) -> None:
        self._own_threads = own_threads
        self._registered: list[threading.Thread] = []  # its thread, and what may be it until that is known
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._aiosqlite: Any = None
        self._serving: asyncio.Future[Any] | None = None
        self._thread: threading.Thread | None = None
        self.database = ""
        """What its connection is to."""
        self._adopted: sqlite3.Connection | None = None
        self._busy = threading.RLock()  # held whenever SQLite may be at work on this connection
        self._connection: sqlite3.Connection | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """To be touched by jobs of this worker alone."""
        if self._connection is None:
            raise StorageError(f"{self._own_threads.place} is not open")
        return self._connection

    async def open(self, database: str) -> None:
        """Connect, and begin to take jobs. On the host's loop."""
        self.database = database
        refuse_if_spoilt(database)
        register(self)
        with self._busy:
            try:
                self._aiosqlite = await self._start(
                    lambda: aiosqlite.connect(
                        database,
                        uri=True,
                        factory=self._connect,
                        isolation_level=None,
                        timeout=0,
                        cached_statements=256,
                        check_same_thread=False,  # a forked child closes it in the thread that is left to it
                    )
                )
            except RuntimeError as error:  # there are too many, or the interpreter is at its end
                raise StorageError(f"could not open {file_of(database)}: it needs a thread: {error}") from error
            except BaseException:
                # aiosqlite's thread is about to end and to tell this loop so. If the loop were closed by then, the
                # thread would end by an error of its own.
                while self._thread is not None and self._thread.is_alive():
                    await asyncio.sleep(0.001)
                self._deregister()
                raise
        self._serving = asyncio.ensure_future(self._aiosqlite.executemany(self._serve, ()))

    def _start(self, connect: Callable[[], aiosqlite.Connection]) -> _Started:
        """Have aiosqlite start its thread, and register that before it does anything: it logs what it is about to do.

        aiosqlite does not tell which thread it is. So it is looked for among those that are there now and were not
        before; of several, when another part of the program starts one just now, _connect will tell.
        """
        with without_fork():  # one worker at a time
            before = {thread.ident for thread in threading.enumerate()}
            started = _Started(connect())
            self._registered = [
                thread
                for thread in threading.enumerate()
                if thread.ident not in before and "_connection_worker" in thread.name
            ]
            for thread in self._registered:
                self._own_threads.add(cast("int", thread.ident), thread)
        return started

    def _deregister(self, but: threading.Thread | None = None) -> None:
        for thread in self._registered:
            if thread is not but:
                self._own_threads.discard(cast("int", thread.ident), thread)
        self._registered = [] if but is None else [but]

    def _connect(self, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        self._thread = threading.current_thread()
        self._own_threads.add(threading.get_ident(), self._thread)
        self._deregister(but=self._thread)
        self._connection = _JobConnection(*args, **kwargs)
        return self._connection

    def _serve(self, _: sqlite3.Connection) -> None:
        _here.worker = self
        stopping = False
        while not (stopping and self._jobs.empty()):  # a job may have posted its continuation behind the stop
            job = self._jobs.get()
            if job is None:
                stopping = True
            else:
                self._do(job)
                del job  # or it, and all that it holds, would stay alive until the next one comes

    def _do(self, job: Job) -> None:
        try:
            with self._busy:
                run_now(job())
        except BaseException:  # a bug; but the thread must live, since callers wait for it
            # Not even a logging handler that raises may end it.
            with contextlib.suppress(BaseException):
                logger.exception("a job failed in an unforeseen way")

    def post(self, job: Job) -> None:
        """Have the job run after those posted before. From any thread; never waits."""
        self._jobs.put(job)

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """The job's result, awaited on the host's loop."""
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        async def run_job() -> None:
            try:
                done.set_result(job(self.connection))
            except BaseException as error:  # noqa: BLE001 - any error is handed over to the waiter
                done.set_exception(error)

        self._jobs.put(run_job)
        return await asyncio.wrap_future(done)

    def is_here(self) -> bool:
        """Whether a job of this worker is what runs now, in this thread."""
        return self._thread is threading.current_thread()

    def adopt(self, connection: sqlite3.Connection, database: str) -> None:
        """Go on with another connection. In a job of this worker."""
        refuse_if_spoilt(database)
        self.let_go()
        self._connection, self.database = connection, database
        self._adopted = connection

    def let_go(self) -> None:
        """Close a connection that was adopted."""
        adopted, self._adopted = self._adopted, None
        if adopted is not None:
            adopted.close()

    async def drain(self) -> None:
        """Run what was posted, and take no more."""
        serving, self._serving = self._serving, None
        if serving is not None:
            self._jobs.put(None)
            await serving

    async def close(self) -> None:
        """Run what was posted, close the connection, and see the thread gone."""
        await self.drain()
        connection, self._aiosqlite = self._aiosqlite, None
        try:
            if connection is not None:
                with self._busy:
                    self.let_go()
                    await connection.close()
                if self._thread is not None:
                    self._thread.join()  # it has nothing left to do
                self._deregister()  # only now: it logs to its end
        finally:
            deregister(self)

    # -- around a fork, in whichever thread forks ----------------------------------------------------------------------

    def hold(self, seconds: float) -> None:
        if not self.is_here():  # a job that forks is in the middle of something
            self._busy.acquire(timeout=seconds)

    def let_go_on(self) -> bool:
        if self.is_here():
            return False
        try:
            self._busy.release()
        except RuntimeError:  # not ours
            return False
        return True

    def close_in_child(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()


class LazyWorker:
    """A worker that is opened when the first job comes, by the host's loop: most stores have none for it.

    Args:
        own_threads: as a worker has them.
        instead: where its jobs run while it cannot be opened, for want of a thread, say.
    """

    def __init__(self, own_threads: OwnThreads, instead: Callable[[], ConnectionWorker]) -> None:
        self._own_threads = own_threads
        self._instead = instead
        self._waiting: deque[Job] = deque()
        """Posted by callers, taken out on the host's loop alone. No lock: it would keep that loop waiting for them."""
        self._worker: ConnectionWorker | None = None
        self._opening: asyncio.Task[None] | None = None
        self._database = ""
        self._set_up: Callable[[sqlite3.Connection], None] = lambda _: None
        self._loop: asyncio.AbstractEventLoop | None = None

    def make_ready(self, database: str, set_up: Callable[[sqlite3.Connection], None]) -> None:
        """Say what is opened, and how. On the host's loop, which is to live as long as jobs come."""
        self._loop = asyncio.get_running_loop()
        self._database, self._set_up = database, set_up

    def post(self, job: Job) -> None:
        """Have the job run after those posted before. From any thread; never waits."""
        worker = self._worker
        if worker is not None and not self._waiting:
            worker.post(job)
            return
        assert self._loop is not None
        self._waiting.append(job)
        self._loop.call_soon_threadsafe(self._begin, context=contextvars.Context())

    def _begin(self) -> None:
        if self._worker is not None:
            self._hand_over(self._worker)
        elif self._waiting and (self._opening is None or self._opening.done()):
            self._opening = asyncio.ensure_future(self._open())

    def _hand_over(self, worker: ConnectionWorker) -> None:
        while self._waiting:
            worker.post(self._waiting[0])
            self._waiting.popleft()  # only now: until then, what comes is put behind it

    async def _open(self) -> None:
        worker = ConnectionWorker(self._own_threads)
        try:
            await worker.open(self._database)
            await worker.run(self._set_up)
        except Exception as error:  # noqa: BLE001 - the jobs find out any error where they run instead
            logger.info("%s: what takes long keeps other reads waiting: %s", file_of(self._database), error)
            await worker.close()
            self._hand_over(self._instead())
        else:
            self._worker = worker
            self._hand_over(worker)

    async def drain(self) -> None:
        """Run what was posted, and take no more. On the host's loop."""
        if self._waiting:
            self._begin()
        if self._opening is not None:
            await self._opening
        if self._worker is not None:
            await self._worker.drain()

    async def close(self) -> None:
        """Run what was posted, close the connection, and see the thread gone."""
        await self.drain()
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()


_here = threading.local()


def connect_here(database: str) -> sqlite3.Connection:
    """A connection like a worker's, without a thread of its own."""
    return sqlite3.connect(
        database,
        uri=True,
        factory=_JobConnection,
        isolation_level=None,
        timeout=0,
        cached_statements=64,
        check_same_thread=False,
    )


class HasConnection(Protocol):
    @property
    def connection(self) -> sqlite3.Connection: ...


def run_over(holder: HasConnection, job: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What a job gives, run in this thread over that connection instead of a worker's."""
    before = getattr(_here, "worker", None)
    _here.worker = holder
    try:
        return run_now(job())
    finally:
        _here.worker = before


def connection_here() -> sqlite3.Connection:
    """The connection of the worker of which a job runs in this thread."""
    connection: sqlite3.Connection = _here.worker.connection
    return connection


def worker_here() -> ConnectionWorker:
    """The worker of which a job runs in this thread."""
    worker: ConnectionWorker = _here.worker
    return worker
