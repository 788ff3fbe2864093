"""A store in a file that is only read: see ``visit`` for how.

Rules of this module: what is read is right at the moment of the answer, though other processes may open, write and
close the file at any time; nothing is written, and no lock is held between two reads but SQLite's own. A connection
comes from a visit alone, and what was read over it is given back after the visit is confirmed; else it is read again.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from .._engine.contract import Job
from .._engine.epochs import AskedEpochs, Epoch
from .._engine.records import Cursor, EngineStats, OutputKey, Wanted
from .._engine.reports import Reports
from .._process.own_threads import OwnThreads
from .._waiting.deadline import Deadline
from ..errors import ContextStoreError, ReadOnlyStoreError, StorageError
from .additions import refuse_unreadable_schema
from .connection import set_busy_timeout, uri_of
from .database import NoWrites, run_query
from .deletion import alive_among, deleted_among
from .epochs import read_epoch
from .errors import code_of, translated, translated_os
from .feed import POLL_SECONDS, failure_of_look, known_epoch, look_for_changed_runs, look_for_globals, news_since
from .file import file_stats
from .fork import refuse_if_spoilt
from .location import StoreFile, check_place, refuse_emptied
from .schema import probe, refuse_other_format
from .visit import NO_WRITER, ChangedMeanwhileError, Visit, set_up, visit
from .worker import ConnectionWorker, LazyWorker, worker_here

T = TypeVar("T")


class ReadOnlyDatabase:
    """Its workers adopt a connection when they read, and a new one as need be."""

    def __init__(self, path: str, timeout: float) -> None:
        self.location = path
        self._timeout = timeout
        self._file = StoreFile(path)
        self.own_threads = OwnThreads(path)
        self.reports = Reports(path, "sqlite", self.own_threads)
        self.epochs = AskedEpochs(path)
        self._visitor = Visitor(self._file, timeout)
        self.inline = None
        self.feed = ReadOnlyFeed(self._file, self.epochs, self._visitor)
        self.writes = NoWrites(self._refusal)
        self._reading = ConnectionWorker(self.own_threads)
        self._scanning = LazyWorker(self.own_threads, lambda: self._reading)
        self._visits: dict[ConnectionWorker, Visit] = {}

    def post_write(self, job: Job) -> None:
        raise self._refusal()

    def _refusal(self) -> ReadOnlyStoreError:
        return ReadOnlyStoreError(f"{self.location} was opened with read_only=True")

    def post_read(self, job: Job) -> None:
        self._reading.post(job)

    def post_scan(self, job: Job) -> None:
        self._scanning.post(job)

    async def open(self) -> None:
        try:
            await self._open()
        except BaseException as error:
            await self.close()
            if isinstance(error, sqlite3.Error):
                refuse_unreadable_schema(uri_of(self._file.path, "ro") + "&immutable=1", self.location, error)
                raise translated(error, self.location, "could not open") from error
            if isinstance(error, OSError) and not isinstance(error, ContextStoreError):
                raise translated_os(error, self.location, "could not open") from error
            raise

    async def _open(self) -> None:
        path = self._file.locate()
        check_place(path, self.location, NO_WRITER)
        if not os.path.exists(path + "-lock"):
            refuse_emptied(path, self.location, False, NO_WRITER)
        self._file.identify()
        try:
            probe(path, self.location)  # before SQLite makes files beside it
        except StorageError:
            if not os.path.exists(path + "-lock"):  # else a writer may be at work on it, for which SQLite waits
                raise
        await self._reading.open(":memory:")
        await self._reading.run(lambda _: self._visit_here())
        self._scanning.make_ready(":memory:", lambda _: None)  # it adopts a connection at its first read

    async def close(self) -> None:
        self.feed.close()
        await self._scanning.close()
        await self._reading.close()
        self._visits.clear()
        self._reading = ConnectionWorker(self.own_threads)

    # -- reads ---------------------------------------------------------------------------------------------------------

    def read(self, what: str, query: Callable[[sqlite3.Connection], T]) -> T:
        def query_in_format(connection: sqlite3.Connection) -> T:
            try:
                found = query(connection)
            except sqlite3.Error:
                refuse_other_format(connection, self.location)  # in which the tables may have other names
                raise
            refuse_other_format(connection, self.location)
            return found

        def read_once() -> T:
            self._file.check()
            try:
                visit = self._visit_here()
            except sqlite3.Error as error:
                raise translated(error, self.location, f"could not read {what} from") from error
            found = self._confirmed(visit, lambda: run_query(visit.connection, self.location, what, query_in_format))
            self._file.check()
            return found

        return until_right(self._timeout, read_once)

    async def run_aside(self, job: Callable[[sqlite3.Connection], T]) -> T:
        def run_once() -> T:
            visit = self._visit_here()
            return self._confirmed(visit, lambda: job(visit.connection))

        self._file.check()
        worker = ConnectionWorker(self.own_threads)
        try:
            await worker.open(":memory:")
            return await worker.run(lambda _: until_right(self._timeout, run_once))
        finally:
            self._visits.pop(worker, None)
            await worker.close()

    def _visit_here(self) -> Visit:
        """The visit of the worker that runs this thread; a new one, if what it saw has changed."""
        worker = worker_here()
        found = self._visits.get(worker)
        if found is None or not found.is_right():
            self._visits.pop(worker, None)
            worker.let_go()
            found = self._visitor.visit()
            worker.adopt(found.connection, found.uri)
            self._visits[worker] = found
        return found

    def _confirmed(self, visit: Visit, read: Callable[[], T]) -> T:
        """What is read, if it was right. Raises ChangedMeanwhileError if not, also where reading it failed by that."""
        try:
            found = read()
        except (sqlite3.Error, StorageError) as error:
            visit.confirm()  # else it may be no damage, but half old and half new
            if _is_left_unfinished(error):
                del self._visits[worker_here()]
                raise _changed_meanwhile(self.location, error) from _cause_of(error)
            raise
        visit.confirm()
        return found

    def confirm(self) -> None:
        self._visits[worker_here()].confirm()

    def stats(self) -> EngineStats:
        return file_stats(self._file.path, False)

    # -- epochs --------------------------------------------------------------------------------------------------------

    def epoch_before(self, connection: sqlite3.Connection) -> Epoch:
        asked_at = time.monotonic()
        noted = read_epoch(self._file.path + "-lock")
        epoch: Epoch = noted
        if noted is None:  # an archived file, or one that only other versions write
            version = connection.execute("PRAGMA data_version").fetchone()
            epoch = (self._visitor.visits, threading.get_ident(), *version)
        elif noted[0] & 1:  # a run is being deleted
            epoch = None
        self.epochs.note(epoch, asked_at)
        return epoch

    def epoch_after(self, connection: sqlite3.Connection, before: Epoch) -> Epoch:
        # What was cached in the epoch before is answered for a while yet, and must be of the same lives as this.
        return before if self.epoch_before(connection) == before else None


class ReadOnlyFeed:
    """What other processes write to a file that this object only reads: by a visit of its own, on the host's loop."""

    poll_seconds = POLL_SECONDS

    def __init__(self, file: StoreFile, epochs: AskedEpochs, visitor: Visitor) -> None:
        self._file = file
        self._epochs = epochs
        self._visitor = visitor
        self._visit: Visit | None = None
        self._polled: Visit | None = None
        """The one to which the last cursor's fingerprint belongs, since that is counted by connection."""

    def deletion_epoch(self) -> int | None:
        return known_epoch(self._epochs)

    async def poll(self, cursor: Cursor | None, wanted: Callable[[], Wanted]) -> tuple[Cursor, list[OutputKey]]:
        def poll(visit: Visit) -> tuple[Cursor, list[OutputKey]]:
            since = cursor
            if cursor is not None and visit is not self._polled:
                since = (cursor[0], None)
            news = news_since(since, visit.connection)
            self._polled = visit
            return news

        return until_right(self._visitor.timeout, lambda: self._read("news", poll))

    async def deleted_among(self, flow_run_ids: Sequence[str]) -> list[str]:
        def query(visit: Visit) -> list[str]:
            return deleted_among(visit.connection, flow_run_ids)

        return until_right(self._visitor.timeout, lambda: self._read("deleted runs", query))

    async def alive_among(self, serials: Sequence[int]) -> list[int]:
        def query(visit: Visit) -> list[int]:
            return alive_among(visit.connection, serials)

        return until_right(self._visitor.timeout, lambda: self._read("deleted runs", query))

    async def globals_beyond(self, versions: Mapping[str, int]) -> Sequence[tuple[str, int]] | None:
        def query(visit: Visit) -> Sequence[tuple[str, int]] | None:
            return look_for_globals(visit.connection, versions)

        return until_right(self._visitor.timeout, lambda: self._read("globals", query))

    async def changed_runs(self, place: Cursor | None) -> tuple[Cursor, list[str]] | None:
        def query(visit: Visit) -> tuple[Cursor, list[str]] | None:
            return look_for_changed_runs(visit.connection, place)

        return until_right(self._visitor.timeout, lambda: self._read("changed runs", query))

    def _read(self, what: str, query: Callable[[Visit], T]) -> T:
        self._file.check()
        try:
            visit = self._poll_visit()
            found = query(visit)
        except (sqlite3.Error, StorageError) as error:
            if _is_left_unfinished(error):
                self.close()
                raise _changed_meanwhile(self._file.location, error) from _cause_of(error)
            if isinstance(error, sqlite3.Error):
                connection = None if self._visit is None else self._visit.connection
                doing = f"could not look for {what} in"
                raise failure_of_look(error, connection, self._file.location, doing) from error
            raise
        visit.confirm()
        return found

    def _poll_visit(self) -> Visit:
        if self._visit is None or not self._visit.is_right():
            self.close()
            self._visit = self._visitor.visit()
            set_busy_timeout(self._visit.connection, 0)
        return self._visit

    def close(self) -> None:
        if self._visit is not None:
            self._visit.connection.close()
            self._visit = None


class Visitor:
    """Visits one file."""

    def __init__(self, file: StoreFile, timeout: float) -> None:
        self._file = file
        self.timeout = timeout
        self.visits = 0
        """How many there were."""

    def visit(self) -> Visit:
        refuse_if_spoilt(uri_of(self._file.path, "ro"))
        self.visits += 1
        location = self._file.location
        return visit(self._file.path, location, self.timeout, lambda connection: set_up(connection, location))


def until_right(seconds: float, read: Callable[[], T]) -> T:
    """Read again what was read while the file changed, until it has not changed, or for so long."""
    deadline = Deadline(seconds)
    while True:
        try:
            return read()
        except ChangedMeanwhileError:
            if deadline.is_over:
                raise


def _is_left_unfinished(error: Exception) -> bool:
    """Whether a killed process left the -shm in the middle of something, which only a writer may mend."""
    cause = _cause_of(error)
    return isinstance(cause, sqlite3.Error) and code_of(cause) & 0xFF == sqlite3.SQLITE_READONLY


def _cause_of(error: Exception) -> BaseException | None:
    return error.__cause__ if isinstance(error, StorageError) else error


def _changed_meanwhile(location: str, error: Exception) -> ChangedMeanwhileError:
    message = error.message if isinstance(error, StorageError) else f"could not read {location}: {error}"
    return ChangedMeanwhileError(message)
