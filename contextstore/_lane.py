"""A SQLite connection, its aiosqlite thread, and the jobs that run there.

Rules of this room: no SQL. Nothing here knows what a job does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ._callers import step
from ._engine import Job

T = TypeVar("T")

logger = logging.getLogger("contextstore")


class _JobConnection(sqlite3.Connection):
    """A connection whose ``execute`` also takes a function, so that aiosqlite's public calls can carry one."""

    def execute(self, sql: Any, parameters: Any = (), /) -> Any:
        if callable(sql):
            sql(self)
            return super().cursor()  # from which the caller fetches nothing
        return super().execute(sql, parameters)


class Lane:
    """A connection, its aiosqlite thread, and the jobs that run there one after the other.

    The thread is kept in one long call that takes jobs from a queue of our own. So a job can be posted from any thread,
    with one wake-up, and needs no event loop: aiosqlite's own calls would need the loop's thread both ways.

    Args:
        own_threads: the ids of the store's own threads, kept up to date here.
    """

    def __init__(self, own_threads: set[int]) -> None:
        self._own_threads = own_threads
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._aiosqlite: Any = None
        self._serving: asyncio.Future[Any] | None = None
        self._thread: threading.Thread | None = None
        self.connection: sqlite3.Connection = cast("sqlite3.Connection", None)
        """To be touched by jobs of this lane alone."""

    async def open(self, database: str) -> None:
        """Connect, and begin to take jobs. On the engine room's loop."""
        import aiosqlite

        self._aiosqlite = await aiosqlite.connect(
            database, uri=True, factory=_JobConnection, isolation_level=None, timeout=0, cached_statements=256
        )
        self._serving = asyncio.ensure_future(self._aiosqlite.execute_fetchall(self._serve))

    def _serve(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._thread = threading.current_thread()
        self._own_threads.add(threading.get_ident())
        stopping = False
        while not (stopping and self._jobs.empty()):  # a job may have posted its continuation behind the stop
            job = self._jobs.get()
            if job is None:
                stopping = True
                continue
            try:
                job()
            except Exception:  # a bug; but the thread must live, since others wait for it
                logger.exception("a job failed in an unforeseen way")
        self._own_threads.discard(threading.get_ident())

    def post(self, job: Job) -> None:
        """Have the job run after those posted before. From any thread; never waits."""
        self._jobs.put(lambda: step(job()))

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """The job's result, awaited on the engine room's loop."""
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run_job() -> None:
            try:
                done.set_result(job(self.connection))
            except BaseException as error:  # noqa: BLE001 - handed over to whoever waits, whatever it is
                done.set_exception(error)

        self._jobs.put(run_job)
        return await asyncio.wrap_future(done)

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
        if connection is not None:
            await connection.close()
            if self._thread is not None:
                self._thread.join()  # it has nothing left to do
