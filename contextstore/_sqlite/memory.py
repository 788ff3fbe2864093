"""A store in memory, private to its object.

Rules of this module: one connection, and nothing that needs a file. No other connection can read it or write to it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .._engine.contract import Job
from .._engine.epochs import Epoch, LocalEpochs
from .._engine.operations import PutOutput, Unit
from .._engine.records import EngineStats
from .._engine.reports import Reports
from .._process.own_threads import OwnThreads
from .._waiting.outcome import Outcome
from ..errors import StorageError
from .connection import harden
from .database import NoWrites, Writes, run_query
from .errors import translated
from .schema import create_schema
from .worker import ConnectionWorker
from .writes import Transactions

T = TypeVar("T")


class MemoryDatabase:
    """SQLite's own ``:memory:``."""

    location = ":memory:"
    feed = None
    inline = None

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.own_threads = OwnThreads(self.location)
        self.reports = Reports(self.location, "sqlite", self.own_threads)
        self.epochs = LocalEpochs()
        self._worker = ConnectionWorker(self.own_threads)
        self.writes: Writes = NoWrites(lambda: StorageError(f"{self.location} is not open"))

    async def open(self) -> None:
        try:
            await self._worker.open(self.location)
            await self._worker.run(self._set_up)
        except sqlite3.Error as error:
            raise translated(error, self.location, "could not make a store in") from error

    def _set_up(self, connection: sqlite3.Connection) -> None:
        harden(connection)
        create_schema(connection)
        transactions = Transactions(connection, self.location, self.epochs, self._timeout)
        self.writes = MemoryWrites(self.epochs, transactions)

    async def close(self) -> None:
        await self._worker.close()

    def post_write(self, job: Job) -> None:
        self._worker.post(job)

    def post_read(self, job: Job) -> None:
        self._worker.post(job)

    def post_scan(self, job: Job) -> None:
        self._worker.post(job)

    def read(self, what: str, query: Callable[[sqlite3.Connection], T]) -> T:
        return run_query(self._worker.connection, self.location, what, query)

    def epoch_before(self, _: sqlite3.Connection) -> Epoch:
        return self.epochs.now[0]

    def epoch_after(self, _: sqlite3.Connection, before: Epoch) -> Epoch:
        return before

    async def run_aside(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._worker.run(job)

    def confirm(self) -> None:
        """No other connection writes."""

    def stats(self) -> EngineStats:
        return EngineStats(f"SQLite {sqlite3.sqlite_version}", 0, 0, False)


class MemoryWrites:
    """Commits that wait for nothing, and are as durable as their object."""

    def __init__(self, epochs: LocalEpochs, transactions: Transactions) -> None:
        self._epochs = epochs
        self._transactions = transactions

    def acquire(self, _: Callable[[], bool]) -> bool:
        self._epochs.begin_write()
        return True

    def put_alone(self, put: PutOutput) -> bool:
        return self._transactions.put_alone(put)

    def begin(self, wanted: Callable[[], bool]) -> bool:
        return self._transactions.begin(wanted)

    def commit(self, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        outcomes, _ = self._transactions.commit(units)
        return outcomes

    def release(self) -> None:
        self._transactions.end()
        self._epochs.end_write()

    def maintain(self) -> None:
        """There is nothing to be done."""
