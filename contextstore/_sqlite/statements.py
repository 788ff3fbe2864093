"""What is said to SQLite: each operation and each read of the engine's contract, as statements.

Rules of this module: with its siblings, all SQL of SQLite; nothing of files, locks or syncs, which are _sqlite's. Two
connections per store, one that writes and one that reads, and in a file a third one for what reads for long, each on an
aiosqlite thread of its own (_worker), in which everything here marked "in the connection's thread" runs from its first
line to its last.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, cast

from .._engine.contract import GroupLimits, Job
from .._engine.epochs import AskedEpochs, Epoch, LocalEpochs, is_known
from .._engine.operations import (
    DeleteGlobal,
    DeleteIdleRuns,
    DeleteRun,
    ForgetRuns,
    GiveBackSpace,
    IdleDeletion,
    LoadGlobal,
    LoadOutput,
    LoadRun,
    Operation,
    PutGlobal,
    PutOutput,
    RemoveOutputs,
    Unit,
    UpsertGlobal,
)
from .._engine.records import (
    Counts,
    Cursor,
    EngineStats,
    Extent,
    Fetched,
    GlobalRecord,
    GlobalRow,
    IdleRuns,
    OutputKey,
    RunRecord,
    RunRow,
    Wanted,
    after_prefix,
)
from .._engine.rules import (
    GlobalOperation,
    StoredGlobal,
    change_global,
    marks_deleted,
    read_global,
    read_global_row,
    read_output,
    refusal_of_put,
    run_record,
)
from .._engine.serials import Serials
from .._process.own_threads import OwnThreads
from .._process.pacing import Pacer, paced
from .._results import CheckReport
from .._values import codec as _codec
from .._values.codec import Encoded
from .._values.keys import named
from .._waiting.outcome import Outcome
from ..errors import (
    ContextStoreError,
    CorruptStoreError,
    RunDeletedError,
    StoreBusyError,
)
from .check import back_up, check_store
from .deletion import (
    delete_idle_runs,
    erase,
    forget_runs,
    give_back_space,
    json_array,
    measure_runs,
    page_idle_runs,
    page_unfinished_deletions,
    remove_outputs,
)
from .epochs import MappedEpochs
from .lock import POLL_SECONDS
from .schema import code_of, translated, translated_os
from .worker import ConnectionWorker

_INSERT_SIZES = (64, 32, 16, 8, 4, 2, 1)


def _insert_outputs(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * rows)
    columns = "run, node_id, codec, checksum, written_at, size, value"
    return f"INSERT INTO output_rows ({columns}) VALUES {values} ON CONFLICT DO NOTHING"  # noqa: S608 - no input in it


_INSERT_OUTPUTS = {rows: _insert_outputs(rows) for rows in _INSERT_SIZES}

_OUTPUT_COLUMNS = """
    output_rows.node_id, output_rows.codec, CAST(output_rows.value AS BLOB), output_rows.checksum,
    output_rows.written_at, output_rows.size, output_rows.run
"""
_FETCH_OUTPUT = f"""
    SELECT {_OUTPUT_COLUMNS} FROM runs JOIN output_rows ON output_rows.run = runs.serial
    WHERE runs.flow_run_id = ? AND runs.deleted_at IS NULL AND output_rows.node_id = ?
"""  # noqa: S608 - no input in it
_FETCH_OUTPUTS = f"""
    SELECT {_OUTPUT_COLUMNS} FROM output_rows
    WHERE run = (SELECT serial FROM runs WHERE flow_run_id = ? AND deleted_at IS NULL)
        AND node_id IN (SELECT value FROM json_each(?))
"""  # noqa: S608 - no input in it
_PAGE_OUTPUTS = f"""
    SELECT {_OUTPUT_COLUMNS} FROM output_rows
    WHERE run = (
        SELECT serial FROM runs WHERE flow_run_id = ? AND deleted_at IS NULL AND serial = coalesce(?, serial)
    ) AND node_id > ?
    ORDER BY node_id LIMIT ?
"""  # noqa: S608 - no input in it
_NEXT_NODE_ID = """
    SELECT node_id FROM output_rows INDEXED BY sqlite_autoindex_output_rows_1
    WHERE run = (SELECT serial FROM runs WHERE flow_run_id = ? AND deleted_at IS NULL) AND node_id > ?
    ORDER BY node_id LIMIT 1
"""
_NODE_IDS = 5000
"""How many node ids are read at a time."""

# As one JSON array instead of a row each: 0.6 of the time.
_FIRST_NODE_IDS = """
    SELECT json_group_array(node_id) FROM (
        SELECT node_id FROM output_rows
        WHERE run = (SELECT serial FROM runs WHERE flow_run_id = ? AND deleted_at IS NULL)
            AND node_id >= ? AND node_id < ?
        ORDER BY node_id LIMIT ?
    )
"""
_NEXT_NODE_IDS = """
    SELECT json_group_array(node_id) FROM (
        SELECT node_id FROM output_rows
        WHERE run = (SELECT serial FROM runs WHERE flow_run_id = ? AND deleted_at IS NULL)
            AND node_id > ? AND node_id < ?
        ORDER BY node_id LIMIT ?
    )
"""

_FEW = 5000
"""So many runs are put in order in the time that a page takes otherwise, about."""
_COUNT_PREFIX = "SELECT count(*) FROM (SELECT 1 FROM runs WHERE flow_run_id >= ? AND flow_run_id < ? LIMIT ?)"

_GLOBAL_COLUMNS = "key, codec, CAST(value AS BLOB), checksum, version, written_at, size"
_FETCH_GLOBAL = f"SELECT {_GLOBAL_COLUMNS} FROM global_rows WHERE key = ?"  # noqa: S608 - no input in it

_GLOBAL_NAMES = """
    SELECT key FROM global_rows INDEXED BY sqlite_autoindex_global_rows_1 WHERE key > ? OR ? ORDER BY key LIMIT ?
"""

_COUNT = """
    SELECT (SELECT count(*) FROM runs WHERE deleted_at IS NULL),
        (SELECT count(*) FROM runs WHERE deleted_at IS NOT NULL), count(*),
        (SELECT count(*) FROM global_rows WHERE value IS NOT NULL),
        CAST(total(size) + (SELECT total(size) FROM global_rows) AS INTEGER)
    FROM output_rows WHERE run IN (SELECT serial FROM runs WHERE deleted_at IS NULL)
"""


class SQLiteEngine:
    """What all SQLite stores share: the statements. The subclasses open the file, and wait, sync and maintain."""

    max_value_bytes = 256 * 2**20
    group_limits = GroupLimits(operations=512, bytes=4 * 2**20)
    poll_seconds: tuple[float, float] | None = None
    epochs: LocalEpochs | MappedEpochs | AskedEpochs
    deletes_at_once = True  # one commit at a time

    def __init__(self, location: str, timeout: float) -> None:
        self.location = location
        self._timeout = timeout
        self.own_threads = OwnThreads(location)
        self._writing = ConnectionWorker(self.own_threads)
        self._reading = ConnectionWorker(self.own_threads)
        # Serials of runs that exist, as the transactions of this object alone know them: see _serial.
        self._serials = Serials()
        self._deletes = False
        """Whether what is about to be committed deletes runs."""

    def post_write(self, job: Job) -> None:
        self._writing.post(job)

    def post_read(self, job: Job) -> None:
        self._reading.post(job)

    def post_scan(self, job: Job) -> None:
        self._reading.post(job)  # there is one connection alone to a store in memory

    # -- commits: in the writing connection's thread -------------------------------------------------------------------

    async def acquire_write(self, wanted: Callable[[], bool]) -> bool:
        return self._begin(wanted)

    def release_write(self) -> None:
        if self._writing.connection.in_transaction:  # a turn that nobody wanted any more
            self._roll_back()

    def _deleting(self) -> contextlib.AbstractContextManager[None]:
        """Around a commit that deletes runs."""
        raise AssertionError("a store that is only read")

    async def maintain(self) -> None:
        """Nothing to do unless there is a file."""

    def _begin(self, wanted: Callable[[], bool]) -> bool:
        """BEGIN IMMEDIATE, tried again while another program, which knows no lock file, is writing."""
        pause, longest = POLL_SECONDS
        while True:
            try:
                self._writing.connection.execute("BEGIN IMMEDIATE")
                return True
            except sqlite3.Error as error:
                if code_of(error) & 0xFF != sqlite3.SQLITE_BUSY:
                    raise translated(error, self.location, "could not begin a commit to") from error
                if not wanted():
                    return False
            time.sleep(pause)
            pause = min(pause * 1.2, longest)

    async def commit(self, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        connection = self._writing.connection
        if not connection.in_transaction:  # one of several commits within a turn
            deadline = time.monotonic() + self._timeout
            if not self._begin(lambda: time.monotonic() < deadline):
                raise StoreBusyError(f"another program is writing to {self.location}; nothing was stored: try again")
        self._deletes = False
        try:
            outcomes = self._apply(connection, units)
        except BaseException as error:
            # SQLite may have rolled the whole transaction back by itself (SQLITE_FULL), and whatever ran after that
            # would commit alone: the group ends here.
            self._roll_back()
            if isinstance(error, sqlite3.Error):
                raise translated(error, self.location, "could not write to") from error
            raise
        try:
            if self._deletes:
                with self._deleting():
                    connection.execute("COMMIT")
            else:
                connection.execute("COMMIT")
        except OSError as error:
            self._roll_back()
            raise translated_os(error, self.location, "could not note a deletion beside") from error
        except sqlite3.Error as error:
            self._roll_back()
            # Without room the frames are not all written, and when busy none is. After any other failure a valid commit
            # may stand in the file, to be found by the next recovery.
            certain = code_of(error) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)
            raise translated(error, self.location, "could not commit to", outcome_unknown=not certain) from error
        return outcomes

    def _roll_back(self) -> None:
        connection = self._writing.connection
        self._serials.clear()  # also when SQLite has rolled back by itself
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # an error that ended the transaction by itself
                connection.execute("ROLLBACK")

    def _apply(self, connection: sqlite3.Connection, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        now = time.time_ns() // 1000
        self._forget_stale_serials(connection)
        outcomes: list[Outcome[list[Any]] | None] = [None] * len(units)
        puts: list[PutOutput] = [unit[0] for unit in units if len(unit) == 1 and type(unit[0]) is PutOutput]
        if len(puts) > 1 and self._put_all_new(connection, puts, now):
            outcomes = [Outcome([None]) if len(unit) == 1 and type(unit[0]) is PutOutput else None for unit in units]
        return [
            self._apply_unit(connection, unit, now) if outcome is None else outcome
            for unit, outcome in zip(units, outcomes, strict=True)
        ]

    def _forget_stale_serials(self, connection: sqlite3.Connection) -> None:
        # Another connection may have deleted a run. data_version rises whenever another one has committed.
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            self._serials.clear()
            self._data_version = version
        self._serials.bound()

    _data_version = -1

    def _apply_unit(self, connection: sqlite3.Connection, unit: Unit, now: int) -> Outcome[list[Any]]:
        if len(unit) == 1:  # a single statement that is refused undoes itself
            try:
                return Outcome([self._apply_operation(connection, unit[0], now)])
            except ContextStoreError as error:
                return Outcome.failure(error)
        connection.execute("SAVEPOINT unit")
        try:
            puts = [operation for operation in unit if type(operation) is PutOutput]
            if len(puts) == len(unit) and self._put_all_new(connection, puts, now):
                outcome: Outcome[list[Any]] = Outcome([None] * len(unit))
            else:
                outcome = Outcome([self._apply_operation(connection, operation, now) for operation in unit])
        except ContextStoreError as error:
            self._undo(connection, "unit")
            outcome = Outcome.failure(error)
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

    def _output_row(self, connection: sqlite3.Connection, put: PutOutput | LoadOutput, now: int) -> tuple[Any, ...]:
        run = self._serial(connection, put.flow_run_id, now)
        checksum = _codec.checksum(put.flow_run_id, put.node_id, put.value)
        return (run, put.node_id, put.value.codec, checksum, now, len(put.value.data), _column(put.value))

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
            self._serials.add(flow_run_id, serial)
        return serial

    def _apply_operation(self, connection: sqlite3.Connection, operation: Operation, now: int) -> Any:
        match operation:
            case PutOutput():
                return self._put_output(connection, operation, now)
            case PutGlobal() | UpsertGlobal() | DeleteGlobal() | LoadGlobal():
                return self._change_global(connection, operation, now)
            case DeleteRun():
                return self._delete_run(connection, operation, now)
            case DeleteIdleRuns():
                return self._delete_idle_runs(connection, operation, now)
            case RemoveOutputs():
                return remove_outputs(connection, operation, self.group_limits.bytes, self._erase)
            case ForgetRuns():
                return forget_runs(connection, operation)
            case GiveBackSpace():
                return self._give_back_space(connection, operation)
            case LoadRun():
                return self._load_run(connection, operation)
            case LoadOutput():
                return self._put_output(connection, operation, operation.written_at)

    def _put_output(self, connection: sqlite3.Connection, put: PutOutput | LoadOutput, now: int) -> None:
        row = self._output_row(connection, put, now)
        if connection.execute(_INSERT_OUTPUTS[1], row).rowcount == 1:
            return
        (stored,) = self._fetch_outputs(connection, [(put.flow_run_id, put.node_id)])
        record = stored.unwrap()
        if record is None:
            raise CorruptStoreError(f"{self.location}: its indexes disagree; restore a backup")
        refusal = refusal_of_put(put, record.value)
        if refusal is not None:
            raise refusal

    def _stored_global(self, connection: sqlite3.Connection, key: str) -> StoredGlobal | None:
        row = connection.execute(_FETCH_GLOBAL, (key,)).fetchone()
        return None if row is None else StoredGlobal(*row)

    def _change_global(self, connection: sqlite3.Connection, operation: GlobalOperation, now: int) -> Any:
        change = change_global(self.location, self._stored_global(connection, operation.key), operation)
        if change.version is not None:
            at = now if change.written_at is None else change.written_at
            self._write_global(connection, operation.key, change.version, change.value, at)
        return change.result

    def _write_global(
        self, connection: sqlite3.Connection, key: str, version: int, value: Encoded | None, now: int
    ) -> None:
        columns: tuple[Any, ...] = (None, None, now, None, None)
        if value is not None:
            columns = (value.codec, _codec.checksum("", key, value), now, len(value.data), _column(value))
        connection.execute(
            """
            INSERT INTO global_rows (key, version, codec, checksum, written_at, size, value)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (key) DO UPDATE SET version = excluded.version, codec = excluded.codec,
                checksum = excluded.checksum, written_at = excluded.written_at, size = excluded.size,
                value = excluded.value
            """,
            (key, version, *columns),
        )

    def _delete_run(self, connection: sqlite3.Connection, delete: DeleteRun, now: int) -> bool:
        run = connection.execute(
            "SELECT serial, deleted_at FROM runs WHERE flow_run_id = ?", (delete.flow_run_id,)
        ).fetchone()
        if run is None:
            insert = "INSERT INTO runs (flow_run_id, created_at, deleted_at) VALUES (?, ?, ?)"
            connection.execute(insert, (delete.flow_run_id, now, now))
        elif run[1] is None:
            connection.execute("UPDATE runs SET deleted_at = ? WHERE serial = ?", (now, run[0]))
        else:
            return False
        self._serials.forget([delete.flow_run_id])
        self._deletes = True
        return True

    def _delete_idle_runs(self, connection: sqlite3.Connection, delete: DeleteIdleRuns, now: int) -> IdleDeletion:
        self._serials.forget(delete.flow_run_ids)
        deletion = delete_idle_runs(connection, delete, now, self.group_limits.bytes, self._erase)
        self._deletes = self._deletes or deletion.runs > 0
        return deletion

    def _erase(self, connection: sqlite3.Connection, rows: Sequence[int]) -> None:
        erase(connection, rows)

    def _give_back_space(self, connection: sqlite3.Connection, give_back: GiveBackSpace) -> int:
        return give_back_space(connection, give_back)

    def _load_run(self, connection: sqlite3.Connection, load: LoadRun) -> None:
        query = "SELECT deleted_at FROM runs WHERE flow_run_id = ?"
        row = connection.execute(query, (load.flow_run_id,)).fetchone()
        if row is None:
            connection.execute("INSERT INTO runs (flow_run_id, created_at, deleted_at) VALUES (?, ?, ?)", load)
        elif marks_deleted(load, row[0] is not None):
            mark = "UPDATE runs SET deleted_at = ? WHERE flow_run_id = ?"
            connection.execute(mark, (load.deleted_at, load.flow_run_id))
            self._serials.forget([load.flow_run_id])
            self._deletes = True

    # -- reads: in the reading connection's thread, and within commits -------------------------------------------------

    def _epoch_before(self, _: sqlite3.Connection) -> Epoch:
        """The epoch, for what is read next."""
        epoch: Epoch = self.epochs.now[0]
        return epoch

    def _epoch_of(self, _: sqlite3.Connection, before: Epoch) -> Epoch:
        """The epoch of what has been read since. The one before will do if it is seen to be over as soon as it is."""
        return before

    async def fetch(self, keys: Sequence[OutputKey]) -> tuple[Epoch, list[Fetched]]:
        with self._read("the outputs") as connection:
            epoch = self._epoch_before(connection)
            if len(keys) == 1:
                found = self._fetch_outputs(connection, keys)
            else:
                connection.execute("BEGIN")  # or each statement would lock and unlock the file: two system calls
                try:
                    found = self._fetch_outputs(connection, keys)
                finally:
                    connection.execute("ROLLBACK")
            return self._epoch_of(connection, epoch), found

    async def exists(self, key: OutputKey) -> bool:
        with self._read(f"the output of {named(*key)}") as connection:
            query = """
                SELECT 1 FROM output_rows
                WHERE run = (SELECT serial FROM runs WHERE flow_run_id = ? AND deleted_at IS NULL) AND node_id = ?
            """
            return connection.execute(query, key).fetchone() is not None

    async def first_node_ids(self, flow_run_id: str, prefix: str, limit: int) -> list[str]:
        with self._read(f"the nodes of flow run {flow_run_id!r}") as connection:
            return self._node_ids(connection, _FIRST_NODE_IDS, flow_run_id, prefix, prefix, limit)

    async def list_node_ids(self, flow_run_id: str, prefix: str) -> list[str]:
        with self._snapshot(f"the nodes of flow run {flow_run_id!r}") as connection:
            names = page = self._node_ids(connection, _FIRST_NODE_IDS, flow_run_id, prefix, prefix, _NODE_IDS)
            breath = Pacer()
            while len(page) == _NODE_IDS:
                breath.take()
                page = self._node_ids(connection, _NEXT_NODE_IDS, flow_run_id, names[-1], prefix, _NODE_IDS)
                names += page
            return names

    def _node_ids(
        self, connection: sqlite3.Connection, query: str, flow_run_id: str, bound: str, prefix: str, limit: int
    ) -> list[str]:
        (nodes,) = connection.execute(query, (flow_run_id, bound, after_prefix(prefix) or b"", limit)).fetchone()
        names: list[str] = _codec.decode(Encoded(_codec.JSON, nodes.encode()))
        return names

    async def page_outputs(
        self, flow_run_id: str, run: int | None, after: str, limit: int, max_bytes: int
    ) -> list[Fetched]:
        with self._read(f"the outputs of flow run {flow_run_id!r}") as connection:
            page: list[Fetched] = []
            cursor = connection.cursor()
            try:
                for row in cursor.execute(_PAGE_OUTPUTS, (flow_run_id, run, after, limit)):
                    page.append(read_output(self.location, flow_run_id, row))
                    max_bytes -= len(row[2] or b"")
                    if max_bytes <= 0:
                        break
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                if not page:  # else it comes first of the next page
                    page.append(self._next_damaged(connection, flow_run_id, after, error))
            finally:
                cursor.close()  # an open one would pin its snapshot
            return page

    def _next_damaged(
        self, connection: sqlite3.Connection, flow_run_id: str, after: str, error: sqlite3.DatabaseError
    ) -> Fetched:
        """The output above ``after``, which cannot be read: by its name, which the index has, on other pages."""
        row = connection.execute(_NEXT_NODE_ID, (flow_run_id, after)).fetchone()
        if row is None:
            raise error
        key = (flow_run_id, row[0])
        found = self._fetch_output(connection, key)
        return Outcome.failure(self._damaged(key, error)) if found.result is None and found.error is None else found

    async def list_runs(self, prefix: str, after: str | None, limit: int) -> list[RunRecord]:
        with self._snapshot("the runs") as connection:
            below = 2**63 - 1
            if after is not None:
                row = connection.execute("SELECT serial FROM runs WHERE flow_run_id = ?", (after,)).fetchone()
                if row is None:
                    raise LookupError(after)
                (below,) = row
            # By the serial, whatever statistics of another day advise: so a page costs the same at any size. But a few
            # that have the prefix are found by it, instead of going through all runs for them.
            bounds = (prefix, after_prefix(prefix) or b"")
            is_rare = prefix and connection.execute(_COUNT_PREFIX, (*bounds, _FEW + 1)).fetchone()[0] <= _FEW
            index = "INDEXED BY sqlite_autoindex_runs_1" if is_rare else "NOT INDEXED"
            query = f"""
                SELECT serial, flow_run_id FROM runs {index}
                WHERE serial < ? AND deleted_at IS NULL AND flow_run_id >= ? AND flow_run_id < ?
                ORDER BY serial DESC
            """  # noqa: S608 - no input in it
            return self._run_records(connection, query, (below, *bounds), limit)

    def _run_records(
        self, connection: sqlite3.Connection, query: str, parameters: tuple[Any, ...], limit: int
    ) -> list[RunRecord]:
        records = []
        rows = list(paced(connection.execute(f"{query} LIMIT ?", (*parameters, limit))))
        for serial, flow_run_id in paced(rows):
            outputs, size, first, last = self._run_counts(connection, serial)
            records.append(run_record(serial, flow_run_id, outputs, int(size), (first, last)))
        return records

    def _run_counts(self, connection: sqlite3.Connection, serial: int) -> tuple[Any, ...]:
        query = "SELECT count(*), total(size), min(written_at), max(written_at) FROM output_rows WHERE run = ?"
        try:
            counts: tuple[Any, ...] = connection.execute(query, (serial,)).fetchone()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            # By the index alone, which lies on other pages.
            query = "SELECT count(*) FROM output_rows INDEXED BY sqlite_autoindex_output_rows_1 WHERE run = ?"
            counts = (*connection.execute(query, (serial,)).fetchone(), 0, None, None)
        return counts

    async def is_deleted(self, flow_run_id: str) -> bool:
        with self._read(f"flow run {flow_run_id!r}") as connection:
            query = "SELECT 1 FROM runs WHERE flow_run_id = ? AND deleted_at IS NOT NULL"
            return connection.execute(query, (flow_run_id,)).fetchone() is not None

    async def page_idle_runs(self, after: int, idle_since: int, limit: int) -> IdleRuns:
        with self._snapshot("the runs") as connection:
            return page_idle_runs(connection, after, idle_since, limit)

    async def measure_runs(self, flow_run_ids: Sequence[str]) -> Extent:
        with self._read("the runs") as connection:
            return measure_runs(connection, flow_run_ids)

    async def count_runs(self) -> int:
        with self._read("the runs") as connection:
            return int(connection.execute("SELECT count(*) FROM runs WHERE deleted_at IS NULL").fetchone()[0])

    async def page_unfinished_deletions(self, after: int) -> tuple[list[str], int | None]:
        with self._snapshot("the deleted runs") as connection:
            return page_unfinished_deletions(connection, after)

    async def count_tombstones(self, deleted_before: int) -> int:
        with self._read("the deleted runs") as connection:
            query = "SELECT count(*) FROM runs WHERE deleted_at < ?"
            return int(connection.execute(query, (deleted_before,)).fetchone()[0])

    async def fetch_global(self, key: str) -> GlobalRecord | None:
        with self._read(f"global {key!r}") as connection:
            stored = self._stored_global(connection, key)
            return None if stored is None or stored.is_deleted else read_global(self.location, stored)

    async def page_globals(self, prefix: str, after: str | None, limit: int) -> list[GlobalRecord]:
        is_next_page = after is not None and after >= prefix
        bound = "key > ?" if is_next_page else "key >= ?"  # one of the two, so that the index leads to the page at once
        query = f"""
            SELECT {_GLOBAL_COLUMNS} FROM global_rows
            WHERE value IS NOT NULL AND {bound} AND key < ? ORDER BY key LIMIT ?
        """  # noqa: S608 - no input in it
        with self._read("the globals") as connection:
            parameters = (after if is_next_page else prefix, after_prefix(prefix) or b"", limit)
            rows = connection.execute(query, parameters).fetchall()
            return [read_global(self.location, StoredGlobal(*row)) for row in rows]

    async def page_run_rows(self, after: int, limit: int) -> list[RunRow]:
        with self._read("the runs") as connection:
            query = """
                SELECT serial, flow_run_id, created_at, deleted_at FROM runs WHERE serial > ? ORDER BY serial LIMIT ?
            """
            try:
                rows = connection.execute(query, (after, limit)).fetchall()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                rows = self._run_rows_around_damage(connection, after, limit)
            return [RunRow(*row) for row in rows]

    def _run_rows_around_damage(
        self, connection: sqlite3.Connection, after: int, limit: int
    ) -> list[tuple[int, str, int | None, int | None]]:
        query = "SELECT serial, flow_run_id FROM runs INDEXED BY sqlite_autoindex_runs_1 WHERE serial > ?"
        rows: list[tuple[int, str, int | None, int | None]] = []
        for serial, flow_run_id in sorted(connection.execute(query, (after,)).fetchall())[:limit]:
            times: tuple[int | None, int | None] | None = None
            with contextlib.suppress(sqlite3.DatabaseError):
                query = "SELECT created_at, deleted_at FROM runs WHERE serial = ?"
                times = connection.execute(query, (serial,)).fetchone()
            rows.append((serial, flow_run_id, *(times or (None, None))))
        return rows

    async def page_global_rows(self, after: str | None, limit: int) -> list[Outcome[GlobalRow]]:
        query = f"SELECT {_GLOBAL_COLUMNS} FROM global_rows WHERE key > ? OR ? ORDER BY key LIMIT ?"  # noqa: S608 - no input in it
        parameters = (after or "", after is None, limit)
        with self._read("the globals") as connection:
            try:
                rows = connection.execute(query, parameters).fetchall()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                names = connection.execute(_GLOBAL_NAMES, parameters).fetchall()
                return [self._global_row_by_name(connection, name) for (name,) in names]
            return [read_global_row(self.location, StoredGlobal(*row)) for row in rows]

    def _global_row_by_name(self, connection: sqlite3.Connection, key: str) -> Outcome[GlobalRow]:
        try:
            row = connection.execute(_FETCH_GLOBAL, (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            row = (key, *[0] * 6)
        return read_global_row(self.location, StoredGlobal(*(row or (key, *[0] * 6))))

    async def count(self) -> Counts:
        with self._read("the counts") as connection:
            return Counts(*connection.execute(_COUNT).fetchone())

    # -- care: in the engine room --------------------------------------------------------------------------------------

    async def poll(self, place: Cursor | None, wanted: Callable[[], Wanted]) -> tuple[Cursor, list[OutputKey]]:
        raise AssertionError("poll_seconds is None: nobody else can write")

    def deletion_epoch(self) -> int | None:
        epoch = self.epochs.now[0] if self.epochs.is_exact else None
        return epoch if is_known(epoch) else None

    async def deleted_among(self, flow_run_ids: Sequence[str]) -> list[str]:
        raise AssertionError("poll_seconds is None: nobody else can write")

    async def stats(self) -> EngineStats:
        return EngineStats(f"SQLite {sqlite3.sqlite_version}", 0, 0, False)

    async def check(self) -> CheckReport:
        async with self._spare_worker() as worker:
            return await worker.run(check_store)

    async def backup(self, path: str, report: Callable[[int, int], None], check: bool, overwrite: bool) -> None:
        def copy(connection: sqlite3.Connection) -> None:
            back_up(connection, path, report, check=check, overwrite=overwrite, confirm=self._confirm)

        try:
            async with self._spare_worker() as worker:
                await worker.run(copy)
        except sqlite3.Error as error:
            raise translated(error, self.location, "could not back up") from error
        except OSError as error:
            if isinstance(error, ContextStoreError):
                raise
            raise translated_os(error, path, "could not make the backup") from error

    @contextlib.asynccontextmanager
    async def _spare_worker(self) -> AsyncIterator[ConnectionWorker]:
        """Where something may take long: a connection of its own, if there can be one."""
        self._check_identity()
        yield self._reading

    def _check_identity(self) -> None:
        """Raise unless what was opened is still where it was."""

    def _confirm(self) -> None:
        """Raise unless what the connection here has read is of one moment."""

    @contextlib.contextmanager
    def _read(self, what: str) -> Iterator[sqlite3.Connection]:
        """The connection of this thread; SQLite's errors translated."""
        self._check_identity()
        connection = self._connection_here()
        try:
            yield connection
        except sqlite3.Error as error:
            raise translated(error, self.location, f"could not read {what} from") from error
        except UnicodeDecodeError as error:  # in SQLite's own message, which quotes a damaged schema
            raise CorruptStoreError(f"could not read {what} from {self.location}: it is damaged ({error})") from error

    @contextlib.contextmanager
    def _snapshot(self, what: str) -> Iterator[sqlite3.Connection]:
        """The same, within one transaction: what is read is of one moment."""
        with self._read(what) as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    def _connection_here(self) -> sqlite3.Connection:
        return self._reading.connection

    def _fetch_outputs(self, connection: sqlite3.Connection, keys: Sequence[OutputKey]) -> list[Fetched]:
        if len(keys) == 1:
            return [self._fetch_output(connection, keys[0])]
        # A statement for each run: 64 outputs of one take 0.4 of the time of 64 statements.
        by_run: dict[str, list[str]] = {}
        for flow_run_id, node_id in keys:
            by_run.setdefault(flow_run_id, []).append(node_id)
        found: dict[OutputKey, Fetched] = {}
        for flow_run_id, node_ids in by_run.items():
            try:
                rows = connection.execute(_FETCH_OUTPUTS, (flow_run_id, json_array(node_ids))).fetchall()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                # Some page is damaged. One by one, so that only those who need it are told.
                found |= {(flow_run_id, one): self._fetch_output(connection, (flow_run_id, one)) for one in node_ids}
            else:
                found |= {(flow_run_id, row[0]): read_output(self.location, flow_run_id, row) for row in rows}
        return [found.get(key) or Outcome(None) for key in keys]

    def _fetch_output(self, connection: sqlite3.Connection, key: OutputKey) -> Fetched:
        try:
            row = connection.execute(_FETCH_OUTPUT, key).fetchone()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            return Outcome.failure(self._damaged(key, error))
        return Outcome(None) if row is None else read_output(self.location, key[0], row)

    def _damaged(self, key: OutputKey, error: sqlite3.DatabaseError) -> CorruptStoreError:
        unreadable = translated(error, self.location, f"could not read the output of {named(*key)} from")
        corrupt = CorruptStoreError(unreadable.message, flow_run_id=key[0], node_id=key[1])
        corrupt.__cause__ = error
        return corrupt


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return code_of(error) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR)


def set_busy_timeout(connection: sqlite3.Connection, timeout: float) -> None:
    """Have SQLite itself wait for others' locks. It takes a number beyond 31 bits for less than nothing."""
    connection.execute(f"PRAGMA busy_timeout = {int(min(timeout * 1000, 2**31 - 1))}").close()


def _column(value: Encoded) -> str | bytes:
    """JSON goes in as TEXT, so that every SQLite tool shows it."""
    return str(value.data, "utf-8") if value.codec == _codec.JSON else value.data
