"""The embedded engine: one SQLite file, or a private store in memory.

Rules of this room: all SQL of SQLite, its connections, its schema and its lock file; errors are decided by SQLite's
codes. Two connections per store, one that writes and one that reads, each on an aiosqlite thread of its own, in which
everything here marked "in the connection's thread" runs from its first line to its last.

What each guards against is told where it is done. In short: WAL with synchronous=FULL, every commit and checkpoint
under a lock file of our own, and no descriptor of our own on the database file or the -shm, ever (closing one drops
the process's POSIX locks on them: https://sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import fcntl
import logging
import os
import queue
import sqlite3
import stat
import threading
import time
import urllib.parse
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from . import _codec
from ._callers import step
from ._codec import Encoded
from ._engine import (
    Fetched,
    GlobalRecord,
    GroupLimits,
    Job,
    Operation,
    Outcome,
    OutputKey,
    OutputRecord,
    PutGlobal,
    PutOutput,
    Unit,
    UpsertGlobal,
)
from .errors import (
    AlreadyExistsError,
    ContextStoreError,
    CorruptStoreError,
    GlobalAlreadyExistsError,
    IncompatibleStoreError,
    ReadOnlyStoreError,
    RunDeletedError,
    StorageError,
    StoreBusyError,
    StoreFullError,
    StoreNotFoundError,
    VersionConflictError,
)

logger = logging.getLogger("contextstore")

T = TypeVar("T")

APPLICATION_ID = 0x43745374  # "CtSt"
SCHEMA_VERSION = 1

# The tables hold what the engine needs; the views are for people and their tools.
_SCHEMA = """
CREATE TABLE runs (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which runs were first seen; never given twice
    flow_run_id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,               -- microseconds since 1970, UTC, as all times here
    deleted_at INTEGER                         -- not null: a tombstone
);
CREATE TABLE output_rows (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,                      -- runs.serial
    node_id TEXT NOT NULL,
    codec INTEGER NOT NULL,                    -- 0: value is JSON text; 1: value is the bytes themselves
    checksum INTEGER NOT NULL,                 -- CRC-32 over flow_run_id, node_id, codec and value
    written_at INTEGER NOT NULL,
    value NOT NULL,
    UNIQUE (run, node_id)
);
CREATE TABLE global_rows (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,                  -- stays when the global is deleted, and is counted on
    codec INTEGER,
    checksum INTEGER,                          -- CRC-32 over key, codec and value
    written_at INTEGER NOT NULL,
    value                                      -- null: deleted
);
CREATE VIEW outputs AS
    SELECT runs.flow_run_id, output_rows.node_id, output_rows.value,
           strftime('%Y-%m-%dT%H:%M:%fZ', output_rows.written_at / 1e6, 'unixepoch') AS written_at
    FROM runs JOIN output_rows ON output_rows.run = runs.serial
    WHERE runs.deleted_at IS NULL;
CREATE VIEW globals AS
    SELECT key, value, version, strftime('%Y-%m-%dT%H:%M:%fZ', written_at / 1e6, 'unixepoch') AS written_at
    FROM global_rows WHERE value IS NOT NULL;
"""

MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {}
"""From a schema version to the next: what is to be executed, within one transaction."""

_CHECKPOINT_FRAMES = 1000
"""Copy the WAL into the database after about so many frames (4 MB), as SQLite itself would."""

_TRUNCATE_WAL_BYTES = 64 * 2**20
"""A WAL that has grown beyond this is cut to nothing; a smaller one is quicker to overwrite than to grow anew."""

_WAL_HEAD_START_BYTES = 4 * 2**20

_POLL_SECONDS = (0.0001, 0.002)
"""How often a lock that somebody else holds is tried again, at first and in the end."""

_INSERT_SIZES = (64, 32, 16, 8, 4, 2, 1)


def _insert_outputs(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, ?, ?, ?)"] * rows)
    return (
        "INSERT INTO output_rows (run, node_id, codec, checksum, written_at, value) "
        f"VALUES {values} ON CONFLICT DO NOTHING"
    )


_INSERT_OUTPUTS = {rows: _insert_outputs(rows) for rows in _INSERT_SIZES}

_FETCH_OUTPUT = """
    SELECT output_rows.codec, CAST(output_rows.value AS BLOB), output_rows.checksum, output_rows.written_at
    FROM runs JOIN output_rows ON output_rows.run = runs.serial
    WHERE runs.flow_run_id = ? AND runs.deleted_at IS NULL AND output_rows.node_id = ?
"""
_FETCH_GLOBAL = "SELECT codec, CAST(value AS BLOB), checksum, version, written_at FROM global_rows WHERE key = ?"


# ------------------------------------------------------------------------------------------------------------- errors

# Primary result codes (the extended code's low byte): https://sqlite.org/rescode.html
_BY_CODE: dict[int, type[StorageError]] = {
    sqlite3.SQLITE_BUSY: StoreBusyError,
    sqlite3.SQLITE_LOCKED: StoreBusyError,
    sqlite3.SQLITE_FULL: StoreFullError,
    sqlite3.SQLITE_READONLY: ReadOnlyStoreError,
    sqlite3.SQLITE_PERM: ReadOnlyStoreError,
    sqlite3.SQLITE_CORRUPT: CorruptStoreError,
    sqlite3.SQLITE_NOTADB: IncompatibleStoreError,
    sqlite3.SQLITE_CANTOPEN: StorageError,
}
_ADVICE: dict[int, str] = {
    sqlite3.SQLITE_BUSY: "another program holds it; try again",
    sqlite3.SQLITE_FULL: "there is no room left; free some and try again",
    sqlite3.SQLITE_READONLY: "it cannot be written; check its permissions, or open it with read_only=True",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore a backup",
    sqlite3.SQLITE_NOTADB: "this is not a SQLite database, or it is cut off; nothing was changed",
    sqlite3.SQLITE_CANTOPEN: "check that it is a file, and its permissions and those of its folder",
}


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)


def _translated(error: sqlite3.Error, location: str, doing: str, outcome_unknown: bool = False) -> StorageError:
    code = _code(error)
    primary = code & 0xFF
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    advice = _ADVICE.get(primary)
    message = f"{doing} {location}: {error} ({name})" + (f": {advice}" if advice else "")
    translated = _BY_CODE.get(primary, StorageError)(message, outcome_unknown)
    translated.__cause__ = error
    return translated


def _translated_os(error: OSError, location: str, doing: str) -> StorageError:
    kind: type[StorageError] = StorageError
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        kind = StoreFullError
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        kind = ReadOnlyStoreError
    elif error.errno == errno.ENOENT:
        kind = StoreNotFoundError
    translated = kind(f"{doing} {location}: {error.strerror or error} ({errno.errorcode.get(error.errno or 0, '?')})")
    translated.__cause__ = error
    return translated


# --------------------------------------------------------------------------------------------------------------- lanes


class _LaneConnection(sqlite3.Connection):
    """A connection whose ``execute`` also takes a function, so that aiosqlite's public calls can carry one."""

    def execute(self, sql: Any, parameters: Any = (), /) -> Any:
        if callable(sql):
            sql(self)
            return super().execute("SELECT 1 WHERE 0")  # the caller fetches from what it gets
        return super().execute(sql, parameters)


class _Lane:
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
            database, uri=True, factory=_LaneConnection, isolation_level=None, timeout=0, cached_statements=256
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
            except BaseException as error:  # handed over, whatever it is
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


# ----------------------------------------------------------------------------------------------------------- lock file


class _FileLock:
    """``<file>-lock``: who holds it may commit, checkpoint, open or close. One descriptor per store object.

    SQLite's own lock would do for correctness of commits, but its waiting starves: of four processes the slowest got
    0.04 of the fastest's share. And a checkpoint must never run beside a commit (see _checkpoint). A flock that is
    waited for by trying again every 0.1 to 2 ms is fair enough, can be given up at any moment, and leaves no thread
    behind that sleeps in the kernel. Rejected: a blocking flock in a helper thread, which cannot be called back while a
    stopped process holds the lock.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self.path = database + "-lock"
        self._descriptor = -1
        _file_locks.add(self)

    def acquire(self, wanted: Callable[[], bool]) -> bool:
        pause, longest = _POLL_SECONDS
        while not self._try():
            if not wanted():
                return False
            time.sleep(pause)
            pause = min(pause * 1.2, longest)
        return True

    def _try(self) -> bool:
        if self._descriptor < 0:
            self._open()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._reopen_if_replaced()
            return False
        return not self._reopen_if_replaced()

    def _open(self) -> None:
        try:
            database = os.stat(self._database)
            mode = database.st_mode & 0o666
        except FileNotFoundError:  # about to be created
            database, mode = None, 0o600
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            self._descriptor = os.open(self.path, flags)
            return
        # Whoever may write the database must be able to lock it: the mode again, since the umask took its part.
        os.fchmod(self._descriptor, mode)
        if database is not None and os.geteuid() == 0:
            os.fchown(self._descriptor, database.st_uid, database.st_gid)

    def _reopen_if_replaced(self) -> bool:
        """Whether the file under the path is another one than ours, which then nobody else looks at."""
        mine = os.fstat(self._descriptor)
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            there = None
        if there is not None and (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
            return False
        self.close()
        return True

    def release(self) -> None:
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the descriptor, which also gives the lock back, unless a forked process shares it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


_file_locks: weakref.WeakSet[_FileLock] = weakref.WeakSet()


def _close_locks_in_child() -> None:
    # A forked child shares the lock with its parent. LOCK_UN here would free the parent's, and to keep the descriptor
    # would keep the lock held for as long as the child lives.
    for lock in list(_file_locks):
        lock.close()


os.register_at_fork(after_in_child=_close_locks_in_child)


# -------------------------------------------------------------------------------------------------------- the engines


class _SQLiteEngine:
    """What all SQLite stores share: the statements. The subclasses open the file, and wait, sync and tidy."""

    max_value_bytes = 256 * 2**20
    group_limits = GroupLimits(operations=512, bytes=4 * 2**20)
    linger = 0.0

    def __init__(self, location: str, timeout: float) -> None:
        self.location = location
        self._timeout = timeout
        self._writing = _Lane()
        self._reading = _Lane()
        # Serials of runs that exist, as the transactions of this object alone know them: see _serial.
        self._serials: dict[str, int] = {}

    def post_write(self, job: Job) -> None:
        self._writing.post(job)

    def post_read(self, job: Job) -> None:
        self._reading.post(job)

    def is_own_thread(self) -> bool:
        return self._writing.is_current_thread() or self._reading.is_current_thread()

    # -- commits: in the writing connection's thread -------------------------------------------------------------------

    async def begin_turn(self, wanted: Callable[[], bool]) -> bool:
        return self._begin(wanted)

    def end_turn(self) -> None:
        if self._writing.connection.in_transaction:  # a turn that nobody wanted any more
            self._roll_back()

    async def tidy(self) -> None:
        """Nothing to do unless there is a file."""

    def _begin(self, wanted: Callable[[], bool]) -> bool:
        """BEGIN IMMEDIATE, tried again while another program, which knows no lock file, is writing."""
        pause, longest = _POLL_SECONDS
        while True:
            try:
                self._writing.connection.execute("BEGIN IMMEDIATE")
                return True
            except sqlite3.Error as error:
                if _code(error) & 0xFF != sqlite3.SQLITE_BUSY:
                    raise _translated(error, self.location, "could not begin a commit to") from error
                if not wanted():
                    return False
            time.sleep(pause)
            pause = min(pause * 1.2, longest)

    async def commit(self, units: Sequence[Unit]) -> list[Outcome]:
        connection = self._writing.connection
        if not connection.in_transaction:  # one of several commits within a turn
            deadline = time.monotonic() + self._timeout
            if not self._begin(lambda: time.monotonic() < deadline):
                raise StoreBusyError(f"another program is writing to {self.location}; nothing was stored: try again")
        try:
            outcomes = self._apply(connection, units)
        except BaseException as error:
            # SQLite may have rolled the whole transaction back by itself (SQLITE_FULL), and whatever ran after that
            # would commit alone: the group ends here.
            self._roll_back()
            if isinstance(error, sqlite3.Error):
                raise _translated(error, self.location, "could not write to") from error
            raise
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            # Without room the frames are not all written, and when busy none is. After any other failure a valid commit
            # may stand in the file, to be found by the next recovery.
            certain = _code(error) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)
            raise _translated(error, self.location, "could not commit to", outcome_unknown=not certain) from error
        return outcomes

    def _roll_back(self) -> None:
        connection = self._writing.connection
        self._serials.clear()  # also when SQLite has rolled back by itself
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # an error that ended the transaction by itself
                connection.execute("ROLLBACK")

    def _apply(self, connection: sqlite3.Connection, units: Sequence[Unit]) -> list[Outcome]:
        now = time.time_ns() // 1000
        self._forget_stale_serials(connection)
        outcomes: list[Outcome | None] = [None] * len(units)
        puts: list[PutOutput] = [unit[0] for unit in units if len(unit) == 1 and type(unit[0]) is PutOutput]
        if len(puts) > 1 and self._put_all_new(connection, puts, now):
            outcomes = [[None] if len(unit) == 1 and type(unit[0]) is PutOutput else None for unit in units]
        return [
            self._apply_unit(connection, unit, now) if outcome is None else outcome
            for unit, outcome in zip(units, outcomes, strict=True)
        ]

    def _forget_stale_serials(self, connection: sqlite3.Connection) -> None:
        # Another connection may have deleted a run. data_version rises whenever another one has committed.
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version or len(self._serials) > 10_000:
            self._serials.clear()
            self._data_version = version

    _data_version = -1

    def _apply_unit(self, connection: sqlite3.Connection, unit: Unit, now: int) -> Outcome:
        if len(unit) == 1:  # a single statement that is refused undoes itself
            try:
                return [self._apply_operation(connection, unit[0], now)]
            except ContextStoreError as error:
                return error
        connection.execute("SAVEPOINT unit")
        try:
            puts = [operation for operation in unit if type(operation) is PutOutput]
            if len(puts) == len(unit) and self._put_all_new(connection, puts, now):
                outcome: Outcome = [None] * len(unit)
            else:
                outcome = [self._apply_operation(connection, operation, now) for operation in unit]
        except ContextStoreError as error:
            self._undo(connection, "unit")
            outcome = error
        connection.execute("RELEASE unit")
        return outcome

    def _undo(self, connection: sqlite3.Connection, savepoint: str) -> None:
        connection.execute(f"ROLLBACK TO {savepoint}")
        self._serials.clear()

    def _put_all_new(self, connection: sqlite3.Connection, puts: Sequence[PutOutput], now: int) -> bool:
        """Insert many outputs in few statements. False, and nothing done, unless every one of them is new.

        One INSERT of 64 rows takes 0.55 of the time of 64 INSERTs, and takes the GIL once instead of 64 times.
        """
        connection.execute("SAVEPOINT puts")
        try:
            rows = [self._output_row(connection, put, now) for put in puts]
        except RunDeletedError:
            complete = False
        else:
            complete, start = True, 0
            while complete and start < len(rows):
                size = next(size for size in _INSERT_SIZES if size <= len(rows) - start)
                parameters = [field for row in rows[start : start + size] for field in row]
                complete = connection.execute(_INSERT_OUTPUTS[size], parameters).rowcount == size
                start += size
        if not complete:
            self._undo(connection, "puts")
        connection.execute("RELEASE puts")
        return complete

    def _output_row(self, connection: sqlite3.Connection, put: PutOutput, now: int) -> tuple[Any, ...]:
        run = self._serial(connection, put.flow_run_id, now)
        checksum = _codec.checksum(put.flow_run_id, put.node_id, put.value)
        return (run, put.node_id, put.value.codec, checksum, now, _column(put.value))

    def _serial(self, connection: sqlite3.Connection, flow_run_id: str, now: int) -> int:
        """The run's serial; a run not seen before gets one. Raises RunDeletedError."""
        serial = self._serials.get(flow_run_id)
        if serial is None:
            row = connection.execute(
                "SELECT serial, deleted_at FROM runs WHERE flow_run_id = ?", (flow_run_id,)
            ).fetchone()
            if row is None:
                insert = "INSERT INTO runs (flow_run_id, created_at) VALUES (?, ?)"
                serial = cast("int", connection.execute(insert, (flow_run_id, now)).lastrowid)
            elif row[1] is not None:
                raise RunDeletedError(flow_run_id)
            else:
                serial = cast("int", row[0])
            self._serials[flow_run_id] = serial
        return serial

    def _apply_operation(self, connection: sqlite3.Connection, operation: Operation, now: int) -> Any:
        match operation:
            case PutOutput():
                return self._put_output(connection, operation, now)
            case PutGlobal():
                return self._put_global(connection, operation, now)
            case UpsertGlobal():
                return self._upsert_global(connection, operation, now)

    def _put_output(self, connection: sqlite3.Connection, put: PutOutput, now: int) -> None:
        row = self._output_row(connection, put, now)
        if connection.execute(_INSERT_OUTPUTS[1], row).rowcount == 1:
            return
        (stored,) = self._fetch_outputs(connection, [(put.flow_run_id, put.node_id)])
        if not isinstance(stored, OutputRecord):
            raise stored or CorruptStoreError(f"{self.location}: its indexes disagree; restore a backup")
        same_value = _codec.equal(stored.value, put.value)
        if not (put.exist_ok and same_value):
            raise AlreadyExistsError(put.flow_run_id, put.node_id, same_value)

    def _put_global(self, connection: sqlite3.Connection, put: PutGlobal, now: int) -> None:
        version, stored = self._global_state(connection, put.key)
        if stored is None:
            self._write_global(connection, put.key, version + 1, put.value, now)
            return
        same_value = _codec.equal(stored.value, put.value)
        if not (put.exist_ok and same_value):
            raise GlobalAlreadyExistsError(put.key, same_value)

    def _upsert_global(self, connection: sqlite3.Connection, upsert: UpsertGlobal, now: int) -> int:
        version, stored = self._global_state(connection, upsert.key, must_be_whole=False)
        actual = 0 if stored is None else version
        if upsert.expected_version is not None and upsert.expected_version != actual:
            raise VersionConflictError(upsert.key, upsert.expected_version, actual)
        self._write_global(connection, upsert.key, version + 1, upsert.value, now)
        return version + 1

    def _global_state(
        self, connection: sqlite3.Connection, key: str, must_be_whole: bool = True
    ) -> tuple[int, GlobalRecord | None]:
        """The last version that the key had, and what is there now."""
        row = connection.execute(_FETCH_GLOBAL, (key,)).fetchone()
        if row is None:
            return 0, None
        record = None if row[1] is None else self._global_record(key, row, must_be_whole)
        return row[3], record

    def _write_global(self, connection: sqlite3.Connection, key: str, version: int, value: Encoded, now: int) -> None:
        connection.execute(
            """
            INSERT INTO global_rows (key, version, codec, checksum, written_at, value) VALUES (?, ?, ?, ?, ?, ?)
            ON CONFLICT (key) DO UPDATE SET version = excluded.version, codec = excluded.codec,
                checksum = excluded.checksum, written_at = excluded.written_at, value = excluded.value
            """,
            (key, version, value.codec, _codec.checksum("", key, value), now, _column(value)),
        )

    # -- reads: in the reading connection's thread, and within commits -------------------------------------------------

    async def fetch(self, keys: Sequence[OutputKey]) -> list[Fetched]:
        with self._read("the outputs") as connection:
            return self._fetch_outputs(connection, keys)

    async def list_node_ids(self, flow_run_id: str, prefix: str) -> list[str]:
        end = _after_prefix(prefix)
        with self._read(f"the nodes of flow run {flow_run_id!r}") as connection:
            # One JSON array instead of a row each: 0.6 of the time for 100,000.
            (nodes,) = connection.execute(
                f"""
                SELECT json_group_array(node_id) FROM (
                    SELECT node_id FROM output_rows
                    WHERE run = (SELECT serial FROM runs WHERE flow_run_id = ? AND deleted_at IS NULL)
                        AND node_id >= ? {"" if end is None else "AND node_id < ?"}
                    ORDER BY node_id
                )
                """,
                (flow_run_id, prefix) if end is None else (flow_run_id, prefix, end),
            ).fetchone()
        names: list[str] = _codec.decode(Encoded(_codec.JSON, nodes.encode()))
        return names

    async def fetch_global(self, key: str) -> GlobalRecord | None:
        with self._read(f"global {key!r}") as connection:
            return self._global_state(connection, key)[1]

    @contextlib.contextmanager
    def _read(self, what: str) -> Iterator[sqlite3.Connection]:
        """The reading connection, in one snapshot; SQLite's errors translated."""
        connection = self._reading.connection
        try:
            yield connection
        except sqlite3.Error as error:
            raise _translated(error, self.location, f"could not read {what} from") from error

    def _fetch_outputs(self, connection: sqlite3.Connection, keys: Sequence[OutputKey]) -> list[Fetched]:
        try:
            return [
                None if row is None else self._output_record(key, row)
                for key, row in ((key, connection.execute(_FETCH_OUTPUT, key).fetchone()) for key in keys)
            ]
        except sqlite3.DatabaseError as error:
            if len(keys) == 1:
                raise
            if _code(error) & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
                raise
        # Some page is damaged. One by one, so that only those who need it are told.
        return [self._fetch_damaged(connection, key) for key in keys]

    def _fetch_damaged(self, connection: sqlite3.Connection, key: OutputKey) -> Fetched:
        try:
            return self._fetch_outputs(connection, [key])[0]
        except sqlite3.DatabaseError as error:
            translated = _translated(error, self.location, f"could not read the output of {_named(key)} from")
            corrupt = CorruptStoreError(translated.message)
            corrupt.__cause__ = error
            return corrupt

    def _output_record(self, key: OutputKey, row: tuple[Any, ...]) -> Fetched:
        codec, data, checksum, written_at = row
        encoded = Encoded(codec, data)
        if not _is_whole(*key, encoded, checksum) or type(written_at) is not int:
            return CorruptStoreError(
                f"the output of {_named(key)} in {self.location} is damaged: its checksum does not fit; "
                "restore it from a backup"
            )
        return OutputRecord(key[1], encoded, written_at)

    def _global_record(self, key: str, row: tuple[Any, ...], must_be_whole: bool = True) -> GlobalRecord:
        codec, data, checksum, version, written_at = row
        encoded = Encoded(codec, data)
        if must_be_whole and not _is_whole("", key, encoded, checksum):
            raise CorruptStoreError(
                f"global {key!r} in {self.location} is damaged: its checksum does not fit; "
                "restore it from a backup, or overwrite it with upsert_global"
            )
        return GlobalRecord(key, encoded, version, written_at)


def _named(key: OutputKey) -> str:
    return f"node {key[1]!r} of flow run {key[0]!r}"


def _column(value: Encoded) -> str | bytes:
    """JSON goes in as TEXT, so that every SQLite tool shows it."""
    return str(value.data, "utf-8") if value.codec == _codec.JSON else value.data


def _is_whole(owner: str, name: str, encoded: Encoded, checksum: Any) -> bool:
    return (
        encoded.codec in (_codec.JSON, _codec.BYTES)
        and isinstance(encoded.data, bytes)
        and _codec.checksum(owner, name, encoded) == checksum
    )


def _after_prefix(prefix: str) -> str | None:
    """The least string that is above every string with this prefix, by code point; None: there is none."""
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index])
        if code < 0x10FFFF:
            return prefix[:index] + chr(0xE000 if code == 0xD7FF else code + 1)  # past the surrogates
    return None


class MemoryEngine(_SQLiteEngine):
    """A store private to its object: one connection, and nothing that needs a file."""

    def __init__(self, timeout: float) -> None:
        super().__init__(":memory:", timeout)
        self._reading = self._writing

    async def open(self) -> None:
        try:
            await self._writing.open(":memory:")
            await self._writing.run(_secure)
            await self._writing.run(_create_schema)
        except sqlite3.Error as error:
            raise _translated(error, self.location, "could not make a store in") from error

    async def close(self) -> None:
        await self._writing.close()


class FileEngine(_SQLiteEngine):
    """A store in a file that several processes may have open at once."""

    linger = 0.0002

    def __init__(self, path: str, *, timeout: float, durability: str, create: bool) -> None:
        super().__init__(path, timeout)
        self._given_path = path
        self._synchronous = {"full": 2, "normal": 1}[durability]
        self._create = create
        self._path = ""
        self._lock: _FileLock = cast("_FileLock", None)
        self._identity = (0, 0)
        self._frames = 0
        self._checkpoint_at = _CHECKPOINT_FRAMES

    # -- opening and closing: in the engine room -----------------------------------------------------------------------

    async def open(self) -> None:
        try:
            await self._open()
        except sqlite3.Error as error:
            await self.close()
            raise _translated(error, self.location, "could not open") from error
        except OSError as error:
            await self.close()
            if isinstance(error, ContextStoreError):
                raise
            raise _translated_os(error, self.location, "could not open") from error
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> None:
        self._path = path = os.path.realpath(self._given_path)
        exists = _check_place(path, self.location, self._create)
        if exists:
            _probe(path, self.location)  # before the lock file is made: beside a file of others we leave nothing
        self._lock = _FileLock(path)
        deadline = time.monotonic() + self._timeout
        if not self._lock.acquire(lambda: time.monotonic() < deadline):
            raise StoreBusyError(
                f"could not open {self.location}: another process held {self._lock.path} for longer than "
                f"timeout={self._timeout:g} seconds: is it stopped?"
            )
        try:
            if not _check_place(path, self.location, self._create):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            await self._writing.open(_uri(path, "rw"))
            await self._writing.run(self._set_up)
            _sync_adopted_frames(path)
            _sync_folder(os.path.dirname(path))
            await self._reading.open(_uri(path, "rw"))
            await self._reading.run(self._set_up_reading)
            self._identity = _identity(path)
        finally:
            self._lock.release()

    def _set_up(self, connection: sqlite3.Connection) -> None:
        _secure(connection)
        # Nobody else opens, commits or checkpoints while we hold the lock file; a program that does not know it may.
        connection.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}").close()
        _bring_up_to_date(connection, self.location)
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

    def _set_up_reading(self, connection: sqlite3.Connection) -> None:
        _secure(connection)
        connection.execute("PRAGMA query_only = 1").close()
        connection.execute("PRAGMA wal_autocheckpoint = 0").close()
        # Readers wait for nobody in WAL mode, but for another program's recovery or its exclusive lock.
        connection.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}").close()

    async def close(self) -> None:
        # The last connection to close checkpoints and removes the WAL, and that must not run beside a commit. Without
        # the lock some other process has the file open, so that ours is not the last.
        deadline = time.monotonic() + self._timeout
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.acquire(lambda: time.monotonic() < deadline)
        try:
            await self._reading.close()
            await self._writing.close()
        finally:
            if self._lock is not None:
                self._lock.close()
                self._lock = cast("_FileLock", None)
            self._reading, self._writing = _Lane(), _Lane()

    # -- turns: in the writing connection's thread ---------------------------------------------------------------------

    async def begin_turn(self, wanted: Callable[[], bool]) -> bool:
        try:
            if not self._lock.acquire(wanted):
                return False
        except OSError as error:
            raise _translated_os(error, self.location, "could not lock") from error
        try:
            self._check_identity()
            if self._begin(wanted):
                return True
        except BaseException:
            self._lock.release()
            raise
        self._lock.release()
        return False

    def end_turn(self) -> None:
        super().end_turn()
        self._lock.release()

    def _check_identity(self) -> None:
        """Raise unless the path still leads to the file that was opened: a write to another would be lost."""
        try:
            there = _identity(self._path)
        except FileNotFoundError:
            raise StoreNotFoundError(
                f"{self.location} was deleted while it was open; nothing was stored: close this store object"
            ) from None
        if there != self._identity:
            raise StorageError(
                f"{self.location} was replaced by another file while it was open; nothing was stored: "
                "close this store object and make a new one"
            )

    async def commit(self, units: Sequence[Unit]) -> list[Outcome]:
        outcomes = await super().commit(units)
        pages = sum(len(operation.value.data) for unit in units for operation in unit) // 4096
        self._frames += 3 + pages + sum(len(unit) for unit in units)  # about; it only decides when to checkpoint
        return outcomes

    async def tidy(self) -> None:
        if self._frames < self._checkpoint_at:
            return
        connection = self._writing.connection
        # Wait for others' commits a little once it is overdue; never for long, since puts of our own queue behind it.
        deadline = time.monotonic() + (0.1 if self._frames > 4 * self._checkpoint_at else 0)
        if not self._lock.acquire(lambda: time.monotonic() < deadline):
            return
        try:
            wal = os.stat(self._path + "-wal").st_size
            # Under the lock, so that no commit runs beside it: up to SQLite 3.51.2 a checkpoint that meets a commit may
            # lose committed pages (https://sqlite.org/wal.html, "the WAL-reset bug"). busy_timeout is 0: a reader that
            # pins an old snapshot makes it incomplete, not long.
            mode = "TRUNCATE" if wal > _TRUNCATE_WAL_BYTES else "FULL"
            ((busy, frames, _),) = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
            self._frames = frames if busy else 0
            self._checkpoint_at = (frames if busy else 0) + _CHECKPOINT_FRAMES
        except (sqlite3.Error, OSError) as error:
            # What is committed stays committed in the WAL. Try again when it has grown further.
            logger.warning("%s: a checkpoint failed, its WAL stays longer: %s", self.location, error)
            self._checkpoint_at = self._frames + _CHECKPOINT_FRAMES
        finally:
            self._lock.release()


class ReadOnlyFileEngine(_SQLiteEngine):
    """A file that is only read: no lock file, and nothing written but perhaps the -shm beside a WAL."""

    def __init__(self, path: str, *, timeout: float) -> None:
        super().__init__(path, timeout)
        self._given_path = path

    async def open(self) -> None:
        try:
            path = os.path.realpath(self._given_path)
            _check_place(path, self.location, create=False)
            try:
                await self._reading.open(_uri(path, "ro"))
                await self._reading.run(self._set_up)
            except sqlite3.OperationalError as error:
                # In a folder that cannot be written SQLite cannot make the -shm that it needs beside a WAL. Without a
                # WAL nobody is writing, and the file can be read as it is.
                if _code(error) & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or _has_content(
                    path + "-wal"
                ):
                    raise
                await self._reading.close()
                self._reading = _Lane()
                await self._reading.open(_uri(path, "ro") + "&immutable=1")
                await self._reading.run(self._set_up)
        except BaseException as error:
            await self.close()
            if isinstance(error, sqlite3.Error):
                raise _translated(error, self.location, "could not open") from error
            if isinstance(error, OSError) and not isinstance(error, ContextStoreError):
                raise _translated_os(error, self.location, "could not open") from error
            raise

    def _set_up(self, connection: sqlite3.Connection) -> None:
        _secure(connection)
        connection.execute("PRAGMA query_only = 1").close()
        connection.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}").close()
        if _schema_version(connection, self.location) != SCHEMA_VERSION:
            raise IncompatibleStoreError(
                f"{self.location} is of an older schema: open it once without read_only=True, which migrates it"
            )

    def post_write(self, job: Job) -> None:
        raise ReadOnlyStoreError(f"{self.location} was opened with read_only=True")

    async def close(self) -> None:
        await self._reading.close()
        self._reading = _Lane()


# ------------------------------------------------------------------------------------------------------------ the file


def _uri(path: str, mode: str) -> str:
    return f"file:{urllib.parse.quote(os.fsencode(path))}?mode={mode}"


def _identity(path: str) -> tuple[int, int]:
    there = os.stat(path)
    return there.st_dev, there.st_ino


def _has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False


def _check_place(path: str, location: str, create: bool) -> bool:
    """Whether the file exists. Raises if it cannot be a store, or is missing and not to be created."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            raise StoreNotFoundError(
                f"could not open {location}: there is no folder {folder}; create it first"
            ) from None
        if not create:
            raise StoreNotFoundError(f"there is no store at {location}; create=True would make one") from None
        _refuse_network_file_system(folder, location)
        return False
    except NotADirectoryError:
        raise StoreNotFoundError(f"could not open {location}: a part of its path is a file, not a folder") from None
    if stat.S_ISDIR(there.st_mode):
        raise IncompatibleStoreError(f"{location} is a folder; name a file in it")
    if not stat.S_ISREG(there.st_mode):
        raise IncompatibleStoreError(f"{location} is not a regular file")
    _refuse_network_file_system(path, location)
    return True


_NETWORK_FILE_SYSTEMS = frozenset(
    "nfs nfs4 cifs smb3 smbfs 9p afs ceph lustre gfs2 ocfs2 beegfs glusterfs fuse.glusterfs fuse.sshfs".split()
)


def _refuse_network_file_system(path: str, location: str) -> None:
    """Locks and shared memory do not work across hosts. Linux tells what a path is mounted from; others don't."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            lines = mounts.read().splitlines()
    except OSError:
        return
    for line in lines:
        fields, _, source = line.partition(" - ")
        if fields.split()[2] == number and source.split()[0] in _NETWORK_FILE_SYSTEMS:
            raise IncompatibleStoreError(
                f"{location} is on a network file system ({source.split()[0]}), where its locks do not hold: "
                "put it on a local disk, or use PostgreSQL"
            )


def _probe(path: str, location: str) -> None:
    """Raise unless the file is a store or may become one. Changes nothing, not even beside it."""
    try:
        connection = sqlite3.connect(_uri(path, "ro") + "&immutable=1", uri=True, isolation_level=None)
        try:
            (application_id,) = connection.execute("PRAGMA application_id").fetchall()[0]
            if application_id == APPLICATION_ID:
                _schema_version(connection, location)
                return
            (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0]
        finally:
            connection.close()
    except sqlite3.Error as error:
        if _has_content(path + "-journal"):
            return  # perhaps a store whose creation was cut off; SQLite mends it, and we look again
        raise _translated(error, location, "could not open") from error
    if application_id != 0 or objects or _has_content(path + "-wal"):
        raise IncompatibleStoreError(f"{location} is a database of another program; it was left as it is")


def _schema_version(connection: sqlite3.Connection, location: str) -> int:
    """The file's schema, 0 for an empty database. Raises for a database of others and for a newer schema."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchall()[0]
    (version,) = connection.execute("PRAGMA user_version").fetchall()[0]
    if application_id != APPLICATION_ID:
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0]
        if application_id != 0 or objects:
            raise IncompatibleStoreError(f"{location} is a database of another program; it was left as it is")
        return 0
    if version > SCHEMA_VERSION:
        raise IncompatibleStoreError(
            f"{location} has schema {version}, and this version of contextstore knows schemas up to {SCHEMA_VERSION}: "
            "upgrade contextstore; the file was left as it is"
        )
    return cast("int", version)


def _secure(connection: sqlite3.Connection) -> None:
    """Nothing in a file that somebody else made may run code or pass for sound: https://sqlite.org/security.html."""
    connection.execute("PRAGMA trusted_schema = 0").close()
    connection.execute("PRAGMA cell_size_check = 1").close()


def _bring_up_to_date(connection: sqlite3.Connection, location: str) -> None:
    version = _schema_version(connection, location)
    if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0][0]:
        _create_schema(connection)
        return
    while version < SCHEMA_VERSION:
        if version not in MIGRATIONS:
            raise IncompatibleStoreError(f"{location} has schema {version}, from which there is no way to a newer one")
        connection.execute("BEGIN IMMEDIATE")
        try:
            MIGRATIONS[version](connection)
            version += 1
            connection.execute(f"PRAGMA user_version = {version}").close()
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _create_schema(connection: sqlite3.Connection) -> None:
    # Before the first table, and in SQLite's first journal mode: with the mark of ours in the file itself and not in a
    # WAL beside it, a file is told from another program's by a look that changes nothing.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL").close()  # so that prune can give space back bit by bit
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}").close()
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}").close()
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _sync_adopted_frames(path: str) -> None:
    """Make durable what a killed process has committed but not synced, before anybody is told that it exists.

    SQLite's recovery takes up frames that stand in the WAL whether or not they were synced. Of the -wal, unlike of the
    database and the -shm, a descriptor of our own may be opened and closed: no process holds a lock on it.
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


def _sync_folder(folder: str) -> None:
    """A new file is found after a power cut only if its folder was synced, too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
