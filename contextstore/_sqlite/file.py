"""A store in a file that several processes may have open at once.

Rules of this module: how the file is opened and closed, and who may commit when. WAL with synchronous=FULL; every
opening, commit, checkpoint and closing under the lock file (``lock``), since SQLite's own locks do not keep a
checkpoint from meeting a commit. No statement of the store's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .._engine.contract import Job
from .._engine.epochs import Epoch, is_known
from .._engine.operations import PutOutput, Unit
from .._engine.records import EngineStats
from .._engine.reports import Reports
from .._process.log import log
from .._process.own_threads import OwnThreads
from .._waiting.outcome import Outcome
from ..errors import ContextStoreError, StorageError, StoreBusyError
from .additions import check_schema_untouched, refuse_unreadable_schema
from .connection import harden, set_busy_timeout, set_up_reader, uri_of
from .database import NoWrites, Writes, run_query
from .epochs import MappedEpochs
from .errors import translated, translated_os
from .feed import FileFeed
from .lending import Lender
from .location import StoreFile, check_place, create_file, refuse_emptied, size_of, sync_folder
from .lock import FileLock
from .migrations import migrate
from .placing import check_before_opening
from .rights import check_rights
from .schema import probe, refuse_other_format
from .wal import Wal, sync_recovered_wal
from .wal_owner import being_written, keep_stamp
from .worker import ConnectionWorker, LazyWorker, connect_here, connection_here
from .writes import Transactions

T = TypeVar("T")


class FileDatabase:
    """A file, which is made unless it is there.

    It has two connections, one that writes and one that reads, and a third one for what reads for long, each on an
    aiosqlite thread of its own. A job runs in its connection's thread from its first line to its last.

    Args:
        timeout: how long an opening, and a closing, wait for the lock, and SQLite for locks of other programs.
        durability: whether each commit is synced ("full"), or each checkpoint alone ("normal").
    """

    def __init__(self, path: str, *, timeout: float, durability: str, create: bool) -> None:
        self.location = path
        self._timeout = timeout
        self._synchronous = {"full": 2, "normal": 1}[durability]
        self._why_not_create = "" if create else "create=True would make one"
        self._file = StoreFile(path)
        self.own_threads = OwnThreads(path)
        self.reports = Reports(path, "sqlite", self.own_threads)
        self.epochs = MappedEpochs()
        self.feed = FileFeed(self._file, self.epochs)
        self._writing = ConnectionWorker(self.own_threads)
        self._reading = ConnectionWorker(self.own_threads)
        self._scanning = LazyWorker(self.own_threads, lambda: self._reading)
        self.inline = Lender(self._file, self.epochs, self.own_threads, self.read_over)
        self._lock: FileLock | None = None
        self._wal: Wal | None = None
        self._migrated_from: int | None = None
        self._format_seen_in: object = object()
        """The epoch, a known one, in which a read last looked at the store's format: a migration changes both."""
        self.writes: Writes = self._no_writes()

    def _no_writes(self) -> NoWrites:
        return NoWrites(lambda: StorageError(f"{self.location} is not open"))

    def post_write(self, job: Job) -> None:
        self._writing.post(job)

    def post_read(self, job: Job) -> None:
        self._reading.post(job)

    def post_scan(self, job: Job) -> None:
        self._scanning.post(job)

    # -- opening and closing: on the host's loop -----------------------------------------------------------------------

    async def open(self) -> None:
        try:
            await self._open()
        except sqlite3.Error as error:
            await self.close()
            refuse_unreadable_schema(self._uri, self.location, error)
            raise translated(error, self.location, "could not open") from error
        except OSError as error:
            await self.close()
            if isinstance(error, ContextStoreError):
                raise
            raise translated_os(error, self.location, "could not open") from error
        except BaseException:
            await self.close()
            raise

    @property
    def _uri(self) -> str:
        return uri_of(self._file.path, "rw")

    async def _open(self) -> None:
        path = self._file.locate()
        seems_foreign = self._seems_foreign(path)
        check_rights(path, self.location)
        lock = self._take_lock(path)
        try:
            self._prepare(path, lock, seems_foreign)
            lock.note(self._file.identify())
            self.epochs.begin_write(lock)
            with being_written(lock, path):
                await self._writing.open(self._uri)
                await self._writing.run(self._set_up)
            keep_stamp(lock, path)
            sync_recovered_wal(path)
            sync_folder(os.path.dirname(path))
            await self._reading.open(self._uri)
            await self._reading.run(self._set_up_reading)
            self._scanning.make_ready(self._uri, self._set_up_reading)
            self._file.check()
        finally:
            lock.release()
        if self._migrated_from is not None:  # only now: a logging handler that takes its time keeps no process waiting
            version, self._migrated_from = self._migrated_from, None
            problem = "it was of schema %d, and was migrated"
            log(logging.INFO, "migrated", self.location, problem, version, from_version=version)
        connection = self._writing.connection
        transactions = Transactions(connection, self.location, self.epochs, self._timeout)
        self._wal = Wal(self._file, lock, connection, self.reports)
        self.writes = FileWrites(self._file, lock, self.inline, self.epochs, transactions, self._wal, self.reports)
        self.inline.make_ready(self._uri, self._connect, self._wal, transactions.tally)

    def _seems_foreign(self, path: str) -> bool:
        """Look at a file that is there before the lock file is made: beside a file of others we leave nothing.

        Whether it seems to be none of ours, though a lock file is beside it: then another process was perhaps creating
        it just now, and it is looked at again under the lock.
        """
        if not check_place(path, self.location, self._why_not_create):
            return False
        if not os.path.exists(path + "-lock"):
            refuse_emptied(path, self.location, False, self._why_not_create)
        try:
            probe(path, self.location)
        except StorageError:
            if not os.path.exists(path + "-lock"):
                raise
            return True
        return False

    def _take_lock(self, path: str) -> FileLock:
        lock = self.own_threads.lock = FileLock(path)
        try:
            if not self._wait_for_lock(lock):
                raise StoreBusyError(
                    f"could not open {self.location}: another process held {lock.path} for longer than "
                    f"timeout={self._timeout:g} seconds: is it stopped?"
                )
        except BaseException:
            lock.close()
            raise
        self._lock = lock  # only now: close() waits for it once more, to close what was opened
        return lock

    def _wait_for_lock(self, lock: FileLock) -> bool:
        if lock.try_now():
            return True
        began = time.monotonic()
        is_taken = lock.acquire_within(self._timeout)
        self.reports.waited("lock", time.monotonic() - began, timed_out=not is_taken)
        return is_taken

    def _prepare(self, path: str, lock: FileLock, seems_foreign: bool) -> None:
        """See to it that there is a file that may be opened. While holding the lock."""
        if check_place(path, self.location, self._why_not_create):
            if seems_foreign:
                probe(path, self.location)
            check_before_opening(path, self.location, lock, self._why_not_create)
        else:
            lock.set_stamp("")
            create_file(path)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        harden(connection)
        # No other process opens, commits or checkpoints while we hold the lock file; a program that does not know it
        # may.
        set_busy_timeout(connection, self._timeout)
        connection.execute("PRAGMA wal_autocheckpoint = 0").close()  # before a migration commits anything
        # As a deletion it changes the epoch, by which those who have the store open see that it is another one.
        self._migrated_from = migrate(connection, self.location, self.epochs.deleting)
        # Reads its answer to the end: an I/O error here does not raise, it leaves the mode as it was.
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchall()[0][0]
        if mode != "wal":
            raise StorageError(f"could not open {self.location}: SQLite would not switch to WAL (it stays in {mode!r})")
        self._set_durability(connection)
        # A first look makes the -wal, so that the folder is synced with it there.
        check_schema_untouched(connection, self.location)

    def _set_durability(self, connection: sqlite3.Connection) -> None:
        for pragma, value in (("synchronous", self._synchronous), ("wal_autocheckpoint", 0), ("busy_timeout", 0)):
            connection.execute(f"PRAGMA {pragma} = {value}").close()
            if connection.execute(f"PRAGMA {pragma}").fetchall() != [(value,)]:
                raise StorageError(f"could not open {self.location}: SQLite does not take {pragma} = {value}")
        if self._synchronous == 2:  # macOS: fsync alone leaves data in the drive's cache
            connection.execute("PRAGMA fullfsync = 1").close()
            connection.execute("PRAGMA checkpoint_fullfsync = 1").close()

    def _set_up_reading(self, connection: sqlite3.Connection) -> None:
        set_up_reader(connection, self._timeout)

    def _connect(self, writes: bool) -> sqlite3.Connection:
        """A connection to be lent. It waits for no lock: a thread of the caller's could not be interrupted in it."""
        connection = connect_here(self._uri)
        try:
            self._file.check()  # again: it is opened by its name, and read by what follows
            if writes:
                harden(connection)
                self._set_durability(connection)
            else:
                set_up_reader(connection, 0)
        except BaseException:
            connection.close()
            raise
        return connection

    async def close(self) -> None:
        self.feed.close()
        await self._scanning.drain()
        await self._reading.drain()
        await self._writing.drain()
        try:
            with being_written(self._lock_to_close(), self._file.path):
                self.inline.close(self._timeout)
                await self._scanning.close()
                await self._reading.close()
                await self._writing.close()
        finally:
            self.epochs.close()
            self.writes, self._wal = self._no_writes(), None
            if self._lock is not None:
                self._lock.close()
                self._lock = self.own_threads.lock = None
            self._reading, self._writing = ConnectionWorker(self.own_threads), ConnectionWorker(self.own_threads)

    def _lock_to_close(self) -> FileLock | None:
        """The lock, held: the last connection to close checkpoints and removes the WAL, and that must not run beside a
        commit. None: another process has held it for so long, and has the file open, so that ours is not the last.
        """
        if self._lock is not None:
            with contextlib.suppress(OSError):
                if self._lock.acquire_within(self._timeout):
                    return self._lock
        return None

    # -- reads ---------------------------------------------------------------------------------------------------------

    def read(self, what: str, query: Callable[[sqlite3.Connection], T]) -> T:
        return self.read_over(connection_here(), what, query)

    def read_over(self, connection: sqlite3.Connection, what: str, query: Callable[[sqlite3.Connection], T]) -> T:
        """The same over a connection that this thread has."""
        self._file.check()
        try:
            found = run_query(connection, self.location, what, query)
        except StorageError:
            self._refuse_other_format(connection, what)  # in which the tables may have other names
            raise
        epoch = self.epochs.now[0]
        if epoch != self._format_seen_in:
            # After the query: no migration can have come in between that changed nothing here.
            self._refuse_other_format(connection, what)
            if is_known(epoch):
                self._format_seen_in = epoch
        return found

    def _refuse_other_format(self, connection: sqlite3.Connection, what: str) -> None:
        run_query(connection, self.location, what, lambda here: refuse_other_format(here, self.location))

    def epoch_before(self, _: sqlite3.Connection) -> Epoch:
        return self.epochs.before_a_read()

    def epoch_after(self, _: sqlite3.Connection, before: Epoch) -> Epoch:
        return before

    async def run_aside(self, job: Callable[[sqlite3.Connection], T]) -> T:
        self._file.check()
        worker = ConnectionWorker(self.own_threads)
        try:
            try:
                await worker.open(self._uri)
                await worker.run(self._set_up_reading)
            except sqlite3.Error as error:
                raise translated(error, self.location, "could not open") from error
            return await worker.run(job)
        finally:
            await worker.close()

    def confirm(self) -> None:
        """SQLite's locks see to it."""

    def stats(self) -> EngineStats:
        return file_stats(self._file.path, self._wal is not None and self._wal.is_pinned)


class FileWrites:
    """Commits to a file. In the writing connection's thread."""

    def __init__(
        self,
        file: StoreFile,
        lock: FileLock,
        lender: Lender,
        epochs: MappedEpochs,
        transactions: Transactions,
        wal: Wal,
        reports: Reports,
    ) -> None:
        self._file = file
        self._lock = lock
        self._lender = lender
        self._epochs = epochs
        self._transactions = transactions
        self._wal = wal
        self._reports = reports

    def acquire(self, wanted: Callable[[], bool]) -> bool:
        try:
            if not self._take_lock(wanted):
                return False
        except OSError as error:
            raise translated_os(error, self._file.location, "could not lock") from error
        try:
            self._file.check()
            while not self._epochs.begin_write(self._lock):  # the lock file was replaced just now
                self._lock.release()
                if not self._lock.acquire(wanted):
                    return False
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError) and not isinstance(error, ContextStoreError):
                raise translated_os(error, self._file.location, "could not look beside") from error
            raise
        return True

    def put_alone(self, put: PutOutput) -> bool:
        is_stored = self._transactions.put_alone(put)
        if is_stored:
            self._wal.note_put(put)
        return is_stored

    def begin(self, wanted: Callable[[], bool]) -> bool:
        return self._transactions.begin(wanted)

    def _take_lock(self, wanted: Callable[[], bool]) -> bool:
        for _ in range(100):
            if self._lock.try_now():
                return True
            if not self._lender.wait_for_borrower():
                break
        began = time.monotonic()
        is_taken = self._lock.acquire(wanted)
        self._reports.waited("lock", time.monotonic() - began, timed_out=not is_taken)
        return is_taken

    def commit(self, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        outcomes, transaction = self._transactions.commit(units)
        self._wal.note(units, transaction)
        return outcomes

    def release(self) -> None:
        self._transactions.end()
        self._epochs.end_write()
        self._lock.release()

    def maintain(self) -> None:
        self._wal.maintain()


def file_stats(path: str, is_pinned: bool) -> EngineStats:
    return EngineStats(f"SQLite {sqlite3.sqlite_version}", size_of(path), size_of(path + "-wal"), is_pinned)
