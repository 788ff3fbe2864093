"""The -wal beside a store's file: how long it is, when it is copied into the file, and that it is on the disk.

Rules of this module: it alone checkpoints, and every checkpoint is made while holding the lock file. Of the -wal,
unlike of the database and the -shm, a descriptor of our own may be opened and closed: no process holds a lock on it.
"""

from __future__ import annotations

import bisect
import logging
import os
import sqlite3
from collections.abc import Sequence

from .._engine.operations import PutOutput, Unit
from .._engine.reports import Reports
from .._process.log import log
from ..errors import StorageError
from .connection import roll_back
from .errors import code_of
from .location import StoreFile, size_of
from .lock import FileLock
from .wal_owner import being_written
from .writes import Transaction

_CHECKPOINT_FRAMES = 1000
"""Copy the WAL into the database after about so many frames (4 MB), as SQLite itself would."""

_TRUNCATE_WAL_BYTES = 64 * 2**20
"""A WAL that has grown beyond this is cut to nothing; a smaller one is quicker to overwrite than to grow anew."""

_WAL_HEAD_START_BYTES = 4 * 2**20

_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24


class Wal:
    """That of a store object's file, as far as this object writes to it and copies it.

    Args:
        connection: the one that writes; all methods are called in its thread. ``note_put`` and ``is_due`` are also
            called by a thread of the caller's that commits.
    """

    def __init__(self, file: StoreFile, lock: FileLock, connection: sqlite3.Connection, reports: Reports) -> None:
        self._file = file
        self._lock = lock
        self._connection = connection
        self._reports = reports
        self.is_pinned = False
        """Whether a reader of an old snapshot kept the last checkpoint from being complete."""
        self._is_grown = False
        self._shortens_file = False
        """Whether the next checkpoint gives space back, and so is made however few frames there are."""
        self._checkpoint_at = _CHECKPOINT_FRAMES
        # Short-lived stores make no thousand frames each, but together they do, if one that writes nothing keeps the
        # file open: an object that finds a long WAL copies it with its first commit.
        self._frames = self._checkpoint_at if size_of(file.path + "-wal") > 2 * _WAL_HEAD_START_BYTES else 0

    def note(self, units: Sequence[Unit], transaction: Transaction) -> None:
        """Count how many frames a commit has added at most, more or less. It only decides when to checkpoint."""
        pages = transaction.value_bytes // 4096 + transaction.freed_pages
        self._frames += 3 + pages + sum(len(unit) for unit in units)
        if transaction.shortens_file:  # at the next checkpoint: at once
            self._shortens_file = True
            self._frames = max(self._frames, self._checkpoint_at)

    def note_put(self, put: PutOutput) -> None:
        """The same for a put by itself: a page of the table, one of its index, and those of a long value."""
        self._frames += 2 + len(put.value.data) // 4096

    @property
    def is_due(self) -> bool:
        """Whether ``maintain`` has something to do."""
        return not self._is_grown or self._frames >= self._checkpoint_at

    def maintain(self) -> None:
        """Grow it ahead once, and copy it into the file when it has become long."""
        if not self.is_due:
            return
        try:
            self._file.check()
        except StorageError:
            return  # our WAL may be the new file's by now
        if not self._is_grown:
            self._is_grown = self._grow()
        if self._frames >= self._checkpoint_at and not self._shortens_file:
            # Many puts at once share most of their pages: a sixth of the frames that were counted is there. A look is
            # a thousand times cheaper than a checkpoint.
            self._frames = min(self._frames, frames_in(self._file.path + "-wal", self._frames))
        if self._frames >= self._checkpoint_at:
            self._checkpoint()

    def _grow(self) -> bool:
        """Let the WAL be some megabytes long from the start: fdatasync after overwriting takes half the time of
        fdatasync after growing a file, 220 against 400 µs a put.

        SQLite itself grows it, by spilling a transaction that is then rolled back. Rejected: growing the live -wal by a
        descriptor of our own, which lost acknowledged rows.

        Returns whether that is settled; else it is tried again.
        """
        if not self._lock.acquire_within(0):
            return False
        trouble: Exception | None = None
        try:
            disk = os.statvfs(self._file.path)
            if disk.f_bavail * disk.f_frsize < 16 * _WAL_HEAD_START_BYTES:
                return True  # what room there is belongs to what is put
            if os.stat(self._file.path + "-wal").st_size < _WAL_HEAD_START_BYTES:
                self._spill()
                sync_recovered_wal(self._file.path)  # now, and not by the next commit
        except (sqlite3.Error, OSError) as error:
            trouble = error
        finally:
            roll_back(self._connection)
            self._connection.execute("PRAGMA cache_size = -2000").close()  # KiB: SQLite's own default
            self._lock.release()
        if trouble is not None:  # only now: a logging handler that takes its time keeps no process from the file
            problem = "no room to grow the WAL ahead, so puts take longer: %s"
            log(logging.INFO, "wal_not_grown", self._file.location, problem, trouble)
        return True

    def _spill(self) -> None:
        self._connection.execute("PRAGMA cache_size = 16").close()  # pages: spill beyond that
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("CREATE TABLE filler (content)")
        for _ in range(16):
            self._connection.execute("INSERT INTO filler VALUES (zeroblob(?))", (_WAL_HEAD_START_BYTES // 16,))
        self._connection.execute("ROLLBACK")

    def _checkpoint(self) -> None:
        # Wait for others' commits a little once it is overdue; never for long, since puts of our own queue behind it.
        if not self._lock.acquire_within(0.1 if self._frames > 4 * self._checkpoint_at else 0):
            return
        trouble: Exception | None = None
        was_pinned = self.is_pinned
        try:
            # While a program that knows no lock file is writing, SQLite would go on as PASSIVE, beside its commit.
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("ROLLBACK")
            self._copy_to_file()
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error) and code_of(error) & 0xFF == sqlite3.SQLITE_BUSY:
                return  # try again after the next commit
            # What is committed stays committed in the WAL. Try again when it has grown further.
            trouble = error
            self._checkpoint_at = self._frames + _CHECKPOINT_FRAMES
        finally:
            self._lock.release()
        if trouble is not None:  # only now: a logging handler that takes its time keeps no process from the file
            self._reports.trouble("checkpoint", trouble)
            problem = "a checkpoint failed, its WAL stays longer: %s"
            log(logging.WARNING, "checkpoint_failed", self._file.location, problem, trouble)
        elif self.is_pinned and not was_pinned:
            problem = "a reader of an old snapshot keeps the WAL from being copied, it grows: %d frames"
            log(logging.INFO, "checkpoint_pinned", self._file.location, problem, self._frames, frames=self._frames)

    def _copy_to_file(self) -> None:
        size = os.stat(self._file.path + "-wal").st_size
        # Under the lock, so that no commit runs beside it: up to SQLite 3.51.2 a checkpoint that meets a commit may
        # lose committed pages (https://sqlite.org/wal.html, "the WAL-reset bug"). busy_timeout is 0: a reader that
        # pins an old snapshot makes it incomplete, not long.
        mode = "TRUNCATE" if size > _TRUNCATE_WAL_BYTES else "FULL"
        self._is_grown = mode == "FULL"
        with being_written(self._lock, self._file.path):
            ((busy, frames, _),) = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        self._shortens_file = False
        self.is_pinned = bool(busy)
        self._frames = frames if busy else 0
        self._checkpoint_at = self._frames + _CHECKPOINT_FRAMES


def frames_in(wal: str, most: int) -> int:
    """How many frames were written to a -wal since it was begun anew, at most so many. If it cannot be read: so many.

    Frames bear the salts of the header that they were written under, and those behind them the salts of one before. A
    transaction that was rolled back may have left some as well. https://sqlite.org/fileformat.html, 4.1.
    """
    try:
        with open(wal, "rb", buffering=0) as file:
            header = file.read(_WAL_HEADER_BYTES)
            salts, frame_bytes = header[16:24], _FRAME_HEADER_BYTES + int.from_bytes(header[8:12])

            def is_of_before(frame: int) -> bool:
                return os.pread(file.fileno(), 8, _WAL_HEADER_BYTES + frame * frame_bytes + 8) != salts

            return bisect.bisect_left(range(most), True, key=is_of_before)
    except OSError:
        return most


def sync_recovered_wal(path: str) -> None:
    """Make durable what a killed process has committed but not synced, before a caller is told that it exists.

    SQLite's recovery takes up frames that stand in the WAL whether or not they were synced.
    """
    try:
        descriptor = os.open(path + "-wal", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if os.fstat(descriptor).st_size:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
