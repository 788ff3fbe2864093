"""A SQLite connection, its aiosqlite thread, and the jobs that run there.

Rules of this room: no SQL. Nothing here knows what a job does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ._callers import step
from ._engine import Job

T = TypeVar("T")


class _JobConnection(sqlite3.Connection):
    """A connection whose ``execute`` also takes a function, so that aiosqlite's public calls can carry one."""

    def execute(self, sql: Any, parameters: Any = (), /) -> Any:
        if callable(sql):
            sql(self)
            return super().execute("SELECT 1 WHERE 0")  # the caller fetches from what it gets
        return super().execute(sql, parameters)


class Lane:
    """A connection, its aiosqlite thread, and the jobs that run there one after the other.

    The thread is kept in one long call that takes jobs from a queue of our own. So a job can be posted from any thread,
    with one wake-up, and needs no event loop: aiosqlite's own calls would need the loop's thread both ways.
    """

    def __init__(self) -> None:
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
        while (job := self._jobs.get()) is not None:
            job()

    def post(self, job: Job) -> None:
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

    def is_current_thread(self) -> bool:
        return threading.current_thread() is self._thread

    async def close(self) -> None:
        """Run what was posted, close the connection, and see the thread gone."""
        if self._aiosqlite is None:
            return
        self._jobs.put(None)
        try:
            if self._serving is not None:
                await self._serving
        finally:
            connection, self._aiosqlite = self._aiosqlite, None
            try:
                await connection.close()
            finally:
                if self._thread is not None:
                    self._thread.join()  # it has nothing left to do
