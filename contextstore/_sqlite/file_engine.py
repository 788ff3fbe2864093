"""The embedded engine: one SQLite file, or a private store in memory.

Rules of this module: how a store is opened and closed, who may commit when, what is synced. The statements are those of
_sqlite_statements. WAL with synchronous=FULL; every commit and checkpoint under the lock file (_filelock).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

from .._engine.contract import Job
from .._engine.epochs import Epoch, LocalEpochs
from .._engine.operations import GiveBackSpace, Unit, value_bytes
from .._engine.records import Cursor, EngineStats, OutputKey, Wanted
from .._waiting.outcome import Outcome
from ..errors import (
    ContextStoreError,
    StorageError,
    StoreBusyError,
)
from .additions import check_schema_untouched, refuse_unreadable_schema
from .deletion import deleted_among
from .epochs import MappedEpochs
from .location import check_before_opening, refuse_emptied
from .lock import FileLock
from .schema import (
    check_identity,
    check_place,
    check_rights,
    code_of,
    create_file,
    create_schema,
    identity_of,
    migrate,
    probe,
    secure,
    size_of,
    sync_folder,
    sync_recovered_wal,
    translated,
    translated_os,
    uri_of,
)
from .statements import SQLiteEngine, set_busy_timeout
from .wal_owner import being_written, keep_stamp
from .worker import ConnectionWorker, LazyWorker

logger = logging.getLogger("contextstore")

_CHECKPOINT_FRAMES = 1000
"""Copy the WAL into the database after about so many frames (4 MB), as SQLite itself would."""

_TRUNCATE_WAL_BYTES = 64 * 2**20
"""A WAL that has grown beyond this is cut to nothing; a smaller one is quicker to overwrite than to grow anew."""

_WAL_HEAD_START_BYTES = 4 * 2**20

_NEWS_ROWS = 5000
_NEWS = """
    SELECT output_rows.id, runs.flow_run_id, output_rows.node_id
    FROM output_rows JOIN runs ON runs.serial = output_rows.run
    WHERE output_rows.id > ? ORDER BY output_rows.id LIMIT ?
"""


class MemoryEngine(SQLiteEngine):
    """A store private to its object: one connection, and nothing that needs a file."""

    def __init__(self, timeout: float) -> None:
        super().__init__(":memory:", timeout)
        self._reading = self._writing
        self.epochs: LocalEpochs = LocalEpochs()

    async def open(self) -> None:
        try:
            await self._writing.open(":memory:")
            await self._writing.run(secure)
            await self._writing.run(create_schema)
        except sqlite3.Error as error:
            raise translated(error, self.location, "could not make a store in") from error

    async def close(self) -> None:
        await self._writing.close()

    async def acquire_write(self, wanted: Callable[[], bool]) -> bool:
        self.epochs.begin_write()
        return await super().acquire_write(wanted)

    def release_write(self) -> None:
        super().release_write()
        self.epochs.end_write()

    def _deleting(self) -> contextlib.AbstractContextManager[None]:
        return self.epochs.deleting()


class _SharedFileEngine(SQLiteEngine):
    """A file that others may write to meanwhile."""

    poll_seconds: tuple[float, float] | None = (0.001, 0.03)

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__(path, timeout)
        self._given_path = path
        self._path = ""
        self._uri = ""
        self._identity = (0, 0)
        self._scanning = LazyWorker(self.own_threads, lambda: self._reading)
        self._is_pinned = False
        self._looking: sqlite3.Connection | None = None

    def _check_identity(self) -> None:
        check_identity(self._path, self._identity, self.location)

    def post_scan(self, job: Job) -> None:
        self._scanning.post(job)

    def _connection_here(self) -> sqlite3.Connection:
        return self._scanning.connection if self._scanning.is_here() else super()._connection_here()

    async def stats(self) -> EngineStats:
        return EngineStats(
            f"SQLite {sqlite3.sqlite_version}", size_of(self._path), size_of(self._path + "-wal"), self._is_pinned
        )

    # Looking for news is a matter of microseconds and never waits for a disk, while a hop to a worker costs two thread
    # wake-ups. So it has a connection of its own, in the engine room's thread.

    def _looking_connection(self) -> sqlite3.Connection:
        if self._looking is None:
            self._looking = sqlite3.connect(self._uri, uri=True, isolation_level=None, timeout=0.0)
            secure(self._looking)
            self._looking.execute("PRAGMA query_only = 1").close()
            self._looking.execute("PRAGMA wal_autocheckpoint = 0").close()
        return self._looking

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.close()
            self._looking = None

    async def poll(self, place: Cursor | None, wanted: Callable[[], Wanted]) -> tuple[Cursor, list[OutputKey]]:
        self._check_identity()
        try:
            connection = self._looking_connection()
            # It needs no disk access, and changes with every commit of another connection.
            ((version,),) = connection.execute("PRAGMA data_version").fetchall()
            if place is None:
                ((last,),) = connection.execute("SELECT coalesce(max(id), 0) FROM output_rows").fetchall()
                return (last, version), []
            last, last_version = place
            if version == last_version:
                return place, []
            rows = connection.execute(_NEWS, (last, _NEWS_ROWS)).fetchall()
        except sqlite3.Error as error:
            if place is not None and code_of(error) & 0xFF == sqlite3.SQLITE_BUSY:  # somebody recovers the file
                return place, []
            raise translated(error, self.location, "could not look for news in") from error
        new_place = (rows[-1][0] if rows else last, version if len(rows) < _NEWS_ROWS else None)
        return new_place, [(flow_run_id, node_id) for _, flow_run_id, node_id in rows]

    async def deleted_among(self, flow_run_ids: Sequence[str]) -> list[str]:
        try:
            return deleted_among(self._looking_connection(), flow_run_ids)
        except sqlite3.Error as error:
            raise translated(error, self.location, "could not look for deleted runs in") from error


class FileEngine(_SharedFileEngine):
    """A store in a file that several processes may have open at once."""

    def __init__(self, path: str, *, timeout: float, durability: str, create: bool) -> None:
        super().__init__(path, timeout)
        self.epochs: MappedEpochs = MappedEpochs()
        self._synchronous = {"full": 2, "normal": 1}[durability]
        self._why_not_create = "" if create else "create=True would make one"
        self._lock: FileLock = cast("FileLock", None)
        self._wal_is_grown = False
        self._frames = 0
        self._checkpoint_at = _CHECKPOINT_FRAMES

    # -- opening and closing: in the engine room -----------------------------------------------------------------------

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

    async def _open(self) -> None:
        self._path = path = os.path.realpath(self._given_path)
        self._uri = uri_of(path, "rw")
        seems_foreign = False
        if check_place(path, self.location, self._why_not_create):
            if not os.path.exists(path + "-lock"):
                refuse_emptied(path, self.location, False, self._why_not_create)
            try:
                probe(path, self.location)  # before the lock file is made: beside a file of others we leave nothing
            except StorageError:
                if not os.path.exists(path + "-lock"):
                    raise
                seems_foreign = True  # or somebody was creating it while we looked: look again under the lock
        check_rights(path, self.location)
        lock = self.own_threads.lock = FileLock(path)
        deadline = time.monotonic() + self._timeout
        try:
            if not lock.acquire(lambda: time.monotonic() < deadline):
                raise StoreBusyError(
                    f"could not open {self.location}: another process held {lock.path} for longer than "
                    f"timeout={self._timeout:g} seconds: is it stopped?"
                )
        except BaseException:
            lock.close()
            raise
        self._lock = lock  # only now: close() waits for it once more, to close what was opened
        try:
            if check_place(path, self.location, self._why_not_create):
                if seems_foreign:
                    probe(path, self.location)
                check_before_opening(path, self.location, lock, self._why_not_create)
            else:
                lock.set_stamp("")
                create_file(path)
            self._identity = identity_of(path)
            lock.note(self._identity[1])
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
            self._check_identity()
        finally:
            lock.release()
        # Short-lived stores make no thousand frames each, but together they do, if one that writes nothing keeps the
        # file open: who finds a long WAL cuts in.
        self._frames = self._checkpoint_at if size_of(path + "-wal") > 2 * _WAL_HEAD_START_BYTES else 0

    def _set_up(self, connection: sqlite3.Connection) -> None:
        secure(connection)
        # Nobody else opens, commits or checkpoints while we hold the lock file; a program that does not know it may.
        set_busy_timeout(connection, self._timeout)
        connection.execute("PRAGMA wal_autocheckpoint = 0").close()  # before a migration commits anything
        migrate(connection, self.location)
        # Reads its answer to the end: an I/O error here does not raise, it leaves the mode as it was.
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchall()[0][0]
        if mode != "wal":
            raise StorageError(f"could not open {self.location}: SQLite would not switch to WAL (it stays in {mode!r})")
        for pragma, value in (("synchronous", self._synchronous), ("wal_autocheckpoint", 0), ("busy_timeout", 0)):
            connection.execute(f"PRAGMA {pragma} = {value}").close()
            if connection.execute(f"PRAGMA {pragma}").fetchall() != [(value,)]:
                raise StorageError(f"could not open {self.location}: SQLite does not take {pragma} = {value}")
        if self._synchronous == 2:  # macOS: fsync alone leaves data in the drive's cache
            connection.execute("PRAGMA fullfsync = 1").close()
            connection.execute("PRAGMA checkpoint_fullfsync = 1").close()
        # A first look makes the -wal, so that the folder is synced with it there.
        check_schema_untouched(connection, self.location)

    def _set_up_reading(self, connection: sqlite3.Connection) -> None:
        secure(connection)
        connection.execute("PRAGMA query_only = 1").close()
        connection.execute("PRAGMA wal_autocheckpoint = 0").close()
        # Readers wait for nobody in WAL mode, but for another program's recovery or its exclusive lock.
        set_busy_timeout(connection, self._timeout)

    async def close(self) -> None:
        self._stop_looking()
        await self._scanning.drain()
        await self._reading.drain()
        await self._writing.drain()
        # The last connection to close checkpoints and removes the WAL, and that must not run beside a commit. Without
        # the lock some other process has the file open, so that ours is not the last.
        deadline = time.monotonic() + self._timeout
        held = None
        if self._lock is not None:
            with contextlib.suppress(OSError):
                held = self._lock if self._lock.acquire(lambda: time.monotonic() < deadline) else None
        try:
            with being_written(held, self._path):
                await self._scanning.close()
                await self._reading.close()
                await self._writing.close()
        finally:
            self.epochs.close()
            if self._lock is not None:
                self._lock.close()
                self._lock = cast("FileLock", None)
                self.own_threads.lock = None
            self._reading, self._writing = ConnectionWorker(self.own_threads), ConnectionWorker(self.own_threads)

    @contextlib.asynccontextmanager
    async def _spare_worker(self) -> AsyncIterator[ConnectionWorker]:
        self._check_identity()
        worker = ConnectionWorker(self.own_threads)
        try:
            try:
                await worker.open(self._uri)
                await worker.run(self._set_up_reading)
            except sqlite3.Error as error:
                raise translated(error, self.location, "could not open") from error
            yield worker
        finally:
            await worker.close()

    # -- turns: in the writing connection's thread ---------------------------------------------------------------------

    async def acquire_write(self, wanted: Callable[[], bool]) -> bool:
        try:
            if not self._lock.acquire(wanted):
                return False
        except OSError as error:
            raise translated_os(error, self.location, "could not lock") from error
        try:
            self._check_identity()
            while not self.epochs.begin_write(self._lock):
                self._lock.release()
                if not self._lock.acquire(wanted):
                    return False
            if self._begin(wanted):
                return True
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError) and not isinstance(error, ContextStoreError):
                raise translated_os(error, self.location, "could not look beside") from error
            raise
        self._lock.release()
        return False

    def release_write(self) -> None:
        super().release_write()
        self.epochs.end_write()
        self._lock.release()

    def _deleting(self) -> contextlib.AbstractContextManager[None]:
        return self.epochs.deleting()

    def _epoch_before(self, connection: sqlite3.Connection) -> Epoch:
        self.epochs.look()
        return super()._epoch_before(connection)

    async def commit(self, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        outcomes = await super().commit(units)
        pages = sum(value_bytes(operation) for unit in units for operation in unit) // 4096
        self._frames += 3 + pages + sum(len(unit) for unit in units)  # about; it only decides when to checkpoint
        return outcomes

    def _erase(self, connection: sqlite3.Connection, rows: Sequence[int]) -> None:
        ((before,),) = connection.execute("PRAGMA freelist_count").fetchall()
        super()._erase(connection, rows)
        ((after,),) = connection.execute("PRAGMA freelist_count").fetchall()
        # About. Where SQLite is built with secure_delete, as on Debian, each page that becomes free is overwritten.
        self._frames += len(rows) + max(0, after - before)

    def _give_back_space(self, connection: sqlite3.Connection, give_back: GiveBackSpace) -> int:
        freed = super()._give_back_space(connection, give_back)
        if freed:  # the file gets shorter at the next checkpoint: at once
            self._frames = max(self._frames, self._checkpoint_at)
        return freed

    async def maintain(self) -> None:
        if self._wal_is_grown and self._frames < self._checkpoint_at:
            return
        try:
            self._check_identity()
        except StorageError:
            return  # our WAL may be the new file's by now
        if not self._wal_is_grown:
            self._wal_is_grown = self._grow_wal()
        if self._frames >= self._checkpoint_at:
            self._checkpoint()

    def _grow_wal(self) -> bool:
        """Let the WAL be some megabytes long from the start: fdatasync after overwriting takes half the time of
        fdatasync after growing a file, 220 against 400 µs a put.

        SQLite itself grows it, by spilling a transaction that is then rolled back. Rejected: growing the live -wal by a
        descriptor of our own, which lost acknowledged rows.
        """
        if not self._lock.acquire(lambda: False):
            return False
        connection = self._writing.connection
        trouble: Exception | None = None
        try:
            room = os.statvfs(self._path)
            if room.f_bavail * room.f_frsize < 16 * _WAL_HEAD_START_BYTES:
                return True  # what room there is belongs to what is put
            if os.stat(self._path + "-wal").st_size < _WAL_HEAD_START_BYTES:
                connection.execute("PRAGMA cache_size = 16").close()  # pages: spill beyond that
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("CREATE TABLE filler (content)")
                for _ in range(16):
                    connection.execute("INSERT INTO filler VALUES (zeroblob(?))", (_WAL_HEAD_START_BYTES // 16,))
                connection.execute("ROLLBACK")
                sync_recovered_wal(self._path)  # now, and not by the next commit
        except (sqlite3.Error, OSError) as error:
            trouble = error
        finally:
            self._roll_back()
            connection.execute("PRAGMA cache_size = -2000").close()  # KiB: SQLite's own default
            self._lock.release()
        if trouble is not None:  # only now: a logging handler that takes its time keeps nobody from the file
            logger.info("%s: no room to grow the WAL ahead, so puts take longer: %s", self.location, trouble)
        return True

    def _checkpoint(self) -> None:
        connection = self._writing.connection
        # Wait for others' commits a little once it is overdue; never for long, since puts of our own queue behind it.
        deadline = time.monotonic() + (0.1 if self._frames > 4 * self._checkpoint_at else 0)
        if not self._lock.acquire(lambda: time.monotonic() < deadline):
            return
        trouble: Exception | None = None
        try:
            # While a program that knows no lock file is writing, SQLite would go on as PASSIVE, beside its commit.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
            wal = os.stat(self._path + "-wal").st_size
            # Under the lock, so that no commit runs beside it: up to SQLite 3.51.2 a checkpoint that meets a commit may
            # lose committed pages (https://sqlite.org/wal.html, "the WAL-reset bug"). busy_timeout is 0: a reader that
            # pins an old snapshot makes it incomplete, not long.
            mode = "TRUNCATE" if wal > _TRUNCATE_WAL_BYTES else "FULL"
            self._wal_is_grown = mode == "FULL"
            with being_written(self._lock, self._path):
                ((busy, frames, _),) = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
            self._is_pinned = bool(busy)
            self._frames = frames if busy else 0
            self._checkpoint_at = (frames if busy else 0) + _CHECKPOINT_FRAMES
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error) and code_of(error) & 0xFF == sqlite3.SQLITE_BUSY:
                return  # try again after the next commit
            # What is committed stays committed in the WAL. Try again when it has grown further.
            trouble = error
            self._checkpoint_at = self._frames + _CHECKPOINT_FRAMES
        finally:
            self._lock.release()
        if trouble is not None:  # only now: a logging handler that takes its time keeps nobody from the file
            logger.warning("%s: a checkpoint failed, its WAL stays longer: %s", self.location, trouble)
