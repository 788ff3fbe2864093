"""The embedded engine for a SQLite file that is only read.

Rules of this module: whatever is read is right at the moment at which it is answered, though others may open, write and
close the file at any time; nothing is written, and no lock is held between two reads but SQLite's own.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from .._engine.contract import Job
from .._engine.epochs import AskedEpochs, Epoch
from .._engine.records import Cursor, OutputKey, Wanted
from ..errors import ContextStoreError, ReadOnlyStoreError, StorageError
from .additions import refuse_unreadable_schema
from .epochs import read_epoch
from .file_engine import _SharedFileEngine
from .location import refuse_emptied
from .schema import check_place, code_of, identity_of, probe, translated, translated_os, uri_of
from .visit import NO_WRITER, ChangedMeanwhileError, Visit, set_up, visit
from .worker import ConnectionWorker, refuse_if_spoilt, worker_here


def _anew(read: Callable[..., Any]) -> Callable[..., Any]:
    """What was read from a file that was changed meanwhile is read again, until it was not."""

    @functools.wraps(read)
    async def read_until_right(self: ReadOnlyFileEngine, *args: Any) -> Any:
        deadline = self.deadline()
        while True:
            try:
                return await read(self, *args)
            except ChangedMeanwhileError:
                if time.monotonic() > deadline:
                    raise

    return read_until_right


def _reads_until_right(engine: type[ReadOnlyFileEngine]) -> type[ReadOnlyFileEngine]:
    """Every call of the engine, whoever adds one: none but _read and what is around it raises ChangedMeanwhileError."""
    for name in dir(engine):
        method = inspect.getattr_static(engine, name)
        if inspect.iscoroutinefunction(method) and name not in ("open", "close"):
            setattr(engine, name, _anew(method))
    return engine


def _is_left_unfinished(error: Exception) -> bool:
    """Whether the -shm was left in the middle of something by one who was killed, which only a writer may mend."""
    cause = error.__cause__ if isinstance(error, StorageError) else error
    return isinstance(cause, sqlite3.Error) and code_of(cause) & 0xFF == sqlite3.SQLITE_READONLY


@_reads_until_right
class ReadOnlyFileEngine(_SharedFileEngine):
    """A file that is only read: see visit.py. Its workers adopt a connection when they read, and anew as need be."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__(path, timeout)
        self.epochs: AskedEpochs = AskedEpochs(path)
        self._visits: dict[ConnectionWorker, Visit] = {}
        self._looking_visit: Visit | None = None
        self._polled: sqlite3.Connection | None = None
        self._openings = 0

    def deadline(self) -> float:
        return time.monotonic() + self._timeout

    def _epoch_before(self, connection: sqlite3.Connection) -> Epoch:
        asked_at = time.monotonic()
        noted = read_epoch(self._path + "-lock")
        epoch: Epoch = noted
        if noted is None:  # an archived file, or one that only other versions write
            version = connection.execute("PRAGMA data_version").fetchone()
            epoch = (self._openings, threading.get_ident(), *version)
        elif noted[0] & 1:  # somebody is deleting
            epoch = None
        self.epochs.note(epoch, asked_at)
        return epoch

    def _epoch_of(self, connection: sqlite3.Connection, before: Epoch) -> Epoch:
        # What was cached in the epoch before is answered for a while yet, and must be of the same lives as this.
        return before if self._epoch_before(connection) == before else None

    async def open(self) -> None:
        try:
            self._path = path = os.path.realpath(self._given_path)
            check_place(path, self.location, NO_WRITER)
            if not os.path.exists(path + "-lock"):
                refuse_emptied(path, self.location, False, NO_WRITER)
            self._identity = identity_of(path)
            try:
                probe(path, self.location)  # before SQLite makes files beside it
            except StorageError:
                if not os.path.exists(path + "-lock"):  # else somebody may be at work on it, whom SQLite waits for
                    raise
            await self._reading.open(":memory:")
            await self._reading.run(lambda _: self._visit_here())
            self._scanning.make_ready(":memory:", lambda _: None)  # it adopts a connection at its first read
        except BaseException as error:
            await self.close()
            if isinstance(error, sqlite3.Error):
                refuse_unreadable_schema(uri_of(self._path, "ro") + "&immutable=1", self.location, error)
                raise translated(error, self.location, "could not open") from error
            if isinstance(error, OSError) and not isinstance(error, ContextStoreError):
                raise translated_os(error, self.location, "could not open") from error
            raise

    def _visit(self) -> Visit:
        refuse_if_spoilt(uri_of(self._path, "ro"))
        self._openings += 1
        return visit(self._path, self.location, self._timeout, lambda connection: set_up(connection, self.location))

    def _visit_here(self) -> Visit:
        """The visit of the worker in whose thread this is; a new one, if what it saw has changed."""
        worker = worker_here()
        found = self._visits.get(worker)
        if found is None or not found.is_right():
            self._visits.pop(worker, None)
            worker.let_go()
            found = self._visit()
            worker.adopt(found.connection, found.uri)
            self._visits[worker] = found
        return found

    @contextlib.contextmanager
    def _read(self, what: str) -> Iterator[sqlite3.Connection]:
        self._check_identity()
        try:
            visit = self._visit_here()
        except sqlite3.Error as error:
            raise translated(error, self.location, f"could not read {what} from") from error
        try:
            with super()._read(what) as connection:
                yield connection
        except StorageError as error:
            visit.confirm()  # else it may be no damage, but half old and half new
            if _is_left_unfinished(error):
                del self._visits[worker_here()]
                raise ChangedMeanwhileError(error.message) from error.__cause__
            raise
        self._check_identity()
        visit.confirm()

    @contextlib.asynccontextmanager
    async def _spare_worker(self) -> AsyncIterator[ConnectionWorker]:
        self._check_identity()
        worker = ConnectionWorker(self.own_threads)
        try:
            await worker.open(":memory:")
            visit = await worker.run(lambda _: self._visit_here())
            try:
                yield worker
            except (sqlite3.Error, StorageError) as error:
                visit.confirm()
                if _is_left_unfinished(error):
                    raise ChangedMeanwhileError(f"could not read {self.location}: {error}") from error
                raise
            visit.confirm()
        finally:
            self._visits.pop(worker, None)
            await worker.close()

    def _confirm(self) -> None:
        self._visits[worker_here()].confirm()

    def _looking_connection(self) -> sqlite3.Connection:
        if self._looking_visit is None or not self._looking_visit.is_right():
            self._stop_looking()
            self._looking_visit = self._visit()
            self._looking = self._looking_visit.connection
            self._looking.execute("PRAGMA busy_timeout = 0").close()
        assert self._looking is not None
        return self._looking

    def _stop_looking(self) -> None:
        super()._stop_looking()
        self._looking_visit = None

    async def poll(self, place: Cursor | None, wanted: Callable[[], Wanted]) -> tuple[Cursor, list[OutputKey]]:
        with self._looking_right():
            while True:
                looking = self._looking_connection()
                if place is not None and looking is not self._polled:
                    place = (place[0], None)  # the version is counted by connection
                news = await super().poll(place, wanted)
                if looking is self._looking:
                    self._polled = looking
                    return news

    async def deleted_among(self, flow_run_ids: Sequence[str]) -> list[str]:
        with self._looking_right():
            return await super().deleted_among(flow_run_ids)

    @contextlib.contextmanager
    def _looking_right(self) -> Iterator[None]:
        self._check_identity()
        try:
            yield
        except sqlite3.Error as error:
            raise translated(error, self.location, "could not look for news in") from error
        except StorageError as error:
            if _is_left_unfinished(error):
                self._stop_looking()
                raise ChangedMeanwhileError(error.message) from error.__cause__
            raise
        if self._looking_visit is not None:
            self._looking_visit.confirm()

    def post_write(self, job: Job) -> None:
        raise ReadOnlyStoreError(f"{self.location} was opened with read_only=True")

    async def close(self) -> None:
        self._stop_looking()
        await self._scanning.close()
        await self._reading.close()
        self._visits.clear()
        self._reading = ConnectionWorker(self.own_threads)
