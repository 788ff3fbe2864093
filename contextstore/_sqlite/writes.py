"""What is written to a store in SQLite: transactions one after the other, and in each the operations, as statements.

Rules of this module: with its siblings, all SQL of SQLite; in the writing connection's thread. ``Transactions`` alone
begins, commits and rolls back, and knows what a failure of these means. What an operation means, and when it is
refused, is decided in ``_engine/rules``. How other processes are kept out is not its business.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, cast

from .._engine.epochs import LocalEpochs
from .._engine.lease_operations import AcquireLease, ExpectLease, LoadLastToken, ReleaseLease, RenewLease
from .._engine.operations import (
    Appended,
    AppendOutput,
    DeleteGlobal,
    DeleteGlobals,
    DeleteIdleRuns,
    DeleteOutputs,
    DeleteRun,
    ExpectGlobal,
    FindRun,
    ForgetRun,
    ForgetRuns,
    Forgetting,
    Freed,
    FreeGlobals,
    GiveBackSpace,
    IdleDeletion,
    LoadAppendCounter,
    LoadAppendKey,
    LoadFreedVersion,
    LoadGlobal,
    LoadMark,
    LoadOutput,
    LoadRun,
    Operation,
    OutputDeletion,
    PutGlobal,
    PutOutput,
    Removal,
    RemoveOutputs,
    Unit,
    UpsertGlobal,
)
from .._engine.records import OutputRecord
from .._engine.rules import GlobalOperation, StoredGlobal, change_global, refusal_of_put
from .._engine.run_operations import BeginRun, LoadFacts, LoadFailure, LoadState, RecordFailure, UpdateRun, UpsertState
from .._engine.serials import Serials
from .._values.codec import MARK, Encoded, checksum
from .._waiting.deadline import Deadline
from .._waiting.outcome import Outcome
from ..errors import ContextStoreError, CorruptStoreError, RunDeletedError, StoreBusyError
from . import appends, attempts, leases, run_facts, run_states, runs
from .connection import roll_back
from .counting import Tally
from .deletion import delete_idle_runs, forget_run, forget_runs, give_back_space, remove_outputs
from .epochs import MappedEpochs
from .errors import code_of, translated, translated_os
from .globals import delete_globals, free_globals, freed_version, raise_freed_version, write_global
from .lock import try_again
from .marks import delete_outputs, load_mark
from .reads import codec_of, fetch_output, stored_global
from .run_listing import fetch_run
from .schema import refuse_other_format
from .single_put import put_alone, value_of

MAX_BYTES = 4 * 2**20
"""About so many bytes are written, or removed, by one commit."""

_INSERT_SIZES = (64, 32, 16, 8, 4, 2, 1)


def _insert_outputs(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?)"] * rows)
    columns = "run, node_id, codec, checksum, written_at, size, value, tag, attempt"
    return f"INSERT INTO node_outputs ({columns}) VALUES {values} ON CONFLICT DO NOTHING"  # noqa: S608 - no input in it


_INSERT_OUTPUTS = {rows: _insert_outputs(rows) for rows in _INSERT_SIZES}
_RUN_AND_NODE = itemgetter(0, 1)
"""Of an output's row."""


class Transactions:
    """Those of one connection.

    Args:
        epochs: changed around each commit that deletes runs, or outputs.
        timeout: how long a second commit within one turn waits for a program that knows no lock file.
    """

    def __init__(
        self, connection: sqlite3.Connection, location: str, epochs: LocalEpochs | MappedEpochs, timeout: float
    ) -> None:
        self._connection = connection
        self._location = location
        self._epochs = epochs
        self._timeout = timeout
        # Serials of runs that exist, as these transactions alone know them.
        self._serials = Serials()
        self._data_version = -1
        self.tally = Tally()

    def put_alone(self, put: PutOutput) -> bool:
        """Commit a put in a statement of its own. False: nothing was done. In no transaction."""
        if self.tally.is_due or not put_alone(self._connection, self._location, put, _now()):
            return False
        self.tally.note()
        return True

    def begin(self, wanted: Callable[[], bool]) -> bool:
        """BEGIN IMMEDIATE, tried again while another program, which knows no lock file, is writing."""
        return self._try_to_begin() or try_again(self._try_to_begin, wanted)

    def _try_to_begin(self) -> bool:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if code_of(error) & 0xFF != sqlite3.SQLITE_BUSY:
                raise translated(error, self._location, "could not begin a commit to") from error
            return False
        return True

    def commit(self, units: Sequence[Unit]) -> tuple[list[Outcome[list[Any]]], Transaction]:
        """Commit the units that are not refused, all at once. What became of each, and what was done.

        A group of new outputs takes BEGIN IMMEDIATE, so that what is looked up stays so; data_version, which tells
        whether all that was known before still is; an INSERT for up to 64 of them; COMMIT.
        """
        if not self._connection.in_transaction:  # one of several commits within a turn
            self._begin_now()
        transaction = Transaction(self._connection, self._location, self._serials, self._begin_anew)
        try:
            self._look_at_commits_of_others()
            outcomes = transaction.apply(units)
            self.tally.note(sum(map(len, units)))
            self.tally.fold(self._connection)
        except BaseException as error:
            # SQLite may have rolled the whole transaction back by itself (SQLITE_FULL). A statement after that would
            # commit alone: the group ends here.
            self.roll_back()
            if isinstance(error, sqlite3.Error):
                raise translated(error, self._location, "could not write to") from error
            raise
        self._commit(transaction.deletes_runs)
        return outcomes, transaction

    def _begin_now(self) -> None:
        deadline = Deadline(self._timeout)
        if not self.begin(lambda: not deadline.is_over):
            raise StoreBusyError(f"another program is writing to {self._location}; nothing was stored: try again")

    def _begin_anew(self) -> None:
        """Undo all that this transaction has done so far."""
        self.roll_back()
        self._begin_now()
        self._look_at_commits_of_others()

    def _commit(self, deletes_runs: bool) -> None:
        try:
            if deletes_runs:
                with self._epochs.deleting():
                    self._connection.execute("COMMIT")
            else:
                self._connection.execute("COMMIT")
        except OSError as error:
            self.roll_back()
            raise translated_os(error, self._location, "could not note a deletion beside") from error
        except sqlite3.Error as error:
            self.roll_back()
            # Without room the frames are not all written, and when busy none is. After any other failure a valid commit
            # may stand in the file, to be found by the next recovery.
            certain = code_of(error) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)
            raise translated(error, self._location, "could not commit to", outcome_unknown=not certain) from error

    def end(self) -> None:
        """Leave nothing behind: a transaction that was begun may have found no unit that is still wanted."""
        if self._connection.in_transaction:
            self.roll_back()

    def roll_back(self) -> None:
        self._serials.clear()  # also when SQLite has rolled back by itself
        roll_back(self._connection)

    def _look_at_commits_of_others(self) -> None:
        # Another connection may have deleted a run, or brought the store to another format. data_version changes
        # whenever another one has committed.
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            refuse_other_format(self._connection, self._location)
            self._serials.clear()
            self._data_version = version


class Transaction:
    """One commit's statements, and what they have done.

    Args:
        serials: of runs that are not deleted, as the transactions of this connection know them.
        begin_anew: undoes all that was done so far.
    """

    def __init__(
        self, connection: sqlite3.Connection, location: str, serials: Serials, begin_anew: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._location = location
        self._serials = serials
        self._begin_anew = begin_anew
        self._now = _now()
        self._before: dict[str, StoredGlobal | None] = {}
        """How the globals that a unit expects something of were before it."""
        self.deletes_runs = False
        """Or outputs: whether the epoch changes with the commit."""
        self.value_bytes = 0
        """How many bytes of values were written."""
        self.freed_pages = 0
        """About how many pages were written to delete outputs."""
        self.shortens_file = False
        """Whether the file gets shorter as soon as this is copied into it."""

    def apply(self, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        """Each unit that is refused undoes itself, and no other. Raises what undoes them all."""
        if not any(_is_append(unit) for unit in units):
            return self._apply(units)
        others = [unit for unit in units if not _is_append(unit)]
        of_others = iter(self._apply(others) if others else ())  # first: it may have to begin anew
        appended = iter(self._append([cast("AppendOutput", unit[0]) for unit in units if _is_append(unit)]))
        return [_listed(next(appended)) if _is_append(unit) else next(of_others) for unit in units]

    def _apply(self, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        """Units that are not a single append.

        The puts go first: where they are all new, they need no savepoint of their own, and where one is not, nothing
        else is lost by beginning anew.
        """
        if len(units) == 1:
            return [self._apply_only(units[0])]
        puts = [unit[0] for unit in units if len(unit) == 1 and type(unit[0]) is PutOutput]
        if len(puts) < 2 or not self._put_all_new_first(puts):
            return [self._apply_unit(unit) for unit in units]
        put: Outcome[list[Any]] = Outcome([True])
        if len(puts) == len(units):
            return [put] * len(units)
        return [put if len(unit) == 1 and type(unit[0]) is PutOutput else self._apply_unit(unit) for unit in units]

    def _apply_only(self, unit: Unit) -> Outcome[list[Any]]:
        """A unit that is all that this transaction has."""
        puts = [operation for operation in unit if type(operation) is PutOutput]
        if len(unit) > 1 and len(puts) == len(unit) and self._put_all_new_first(puts):
            return Outcome([True] * len(unit))
        try:
            return Outcome(self._apply_all(unit))
        except ContextStoreError as error:
            if len(unit) > 1:  # a single statement that is refused undoes itself
                self._begin_anew()
                self.deletes_runs = False
            return Outcome.failure(error)

    def _apply_unit(self, unit: Unit) -> Outcome[list[Any]]:
        if len(unit) == 1:  # a single statement that is refused undoes itself
            try:
                return Outcome(self._apply_all(unit))
            except ContextStoreError as error:
                return Outcome.failure(error)
        self._connection.execute("SAVEPOINT unit")
        try:
            puts = [operation for operation in unit if type(operation) is PutOutput]
            if len(puts) == len(unit) and self._put_all_new(puts):
                outcome: Outcome[list[Any]] = Outcome([True] * len(unit))
            else:
                if len(puts) == len(unit):
                    self._undo_unit()
                outcome = Outcome(self._apply_all(unit))
        except ContextStoreError as error:
            self._undo_unit()
            outcome = Outcome.failure(error)
        self._connection.execute("RELEASE unit")
        return outcome

    def _undo_unit(self) -> None:
        self._connection.execute("ROLLBACK TO unit")
        self._serials.clear()

    def _apply_all(self, unit: Unit) -> list[Any]:
        """Each in its turn. Puts alone go in the order in which watchers are told of one commit."""
        if len(unit) > 1 and type(unit[0]) is ExpectLease:
            return [self._apply_operation(unit[0]), *self._apply_all(unit[1:])]
        if len(unit) > 1 and all(type(operation) is PutOutput for operation in unit):
            return self._put_sorted(cast("Sequence[PutOutput]", unit))
        expected = {operation.key for operation in unit if type(operation) is ExpectGlobal}
        self._before = {key: stored_global(self._connection, key) for key in expected}
        results: list[Any] = []
        for kind, some in itertools.groupby(unit, key=type):
            if kind is AppendOutput:
                results += [outcome.unwrap() for outcome in self._append(cast("list[AppendOutput]", list(some)))]
            else:
                results += [self._apply_operation(operation) for operation in some]
        return results

    def _put_sorted(self, puts: Sequence[PutOutput]) -> list[Any]:
        """Of those that are refused, the first of the unit is raised."""
        results: list[Any] = [None] * len(puts)
        refused: dict[int, ContextStoreError] = {}
        order: list[tuple[int, str, int]] = []
        for index, put in enumerate(puts):
            try:
                order.append((self._serial(put.flow_run_id, self._now, put.run), put.node_id, index))
            except RunDeletedError as error:
                refused[index] = error
        for _, _, index in sorted(order):
            try:
                results[index] = self._apply_operation(puts[index])
            except ContextStoreError as error:
                refused[index] = error
        if refused:
            raise refused[min(refused)]
        return results

    def _apply_operation(self, operation: Operation) -> Any:
        match operation:
            case PutOutput():
                return self._put_output(operation, self._now)
            case PutGlobal() | UpsertGlobal() | DeleteGlobal() | ExpectGlobal() | LoadGlobal():
                return self._change_global(operation)
            case DeleteGlobals():
                return self._delete_globals(operation)
            case FreeGlobals():
                return self._free_globals(operation)
            case LoadFreedVersion():
                return raise_freed_version(self._connection, operation.version)
            case DeleteRun():
                return self._delete_run(operation)
            case DeleteIdleRuns():
                return self._delete_idle_runs(operation)
            case FindRun():
                return runs.find_run(self._connection, operation)
            case RemoveOutputs():
                return self._remove_outputs(operation)
            case ForgetRun():
                return self._forget_run(operation)
            case ForgetRuns():
                return forget_runs(self._connection, operation)
            case GiveBackSpace():
                return self._give_back_space(operation)
            case LoadRun():
                return self._load_run(operation)
            case LoadOutput():
                return self._put_output(operation, operation.written_at)
            case LoadAppendCounter() | LoadAppendKey():
                return appends.load(self._connection, self._serial(operation.flow_run_id, self._now), operation)
            case AppendOutput():
                raise AssertionError("appends are applied together")
            case DeleteOutputs():
                return self._delete_outputs(operation)
            case LoadMark():
                return self._load_mark(operation)
            case RecordFailure():
                return self._record_failure(operation)
            case LoadFailure():
                return attempts.load_failure(
                    self._connection, operation, self._serial(operation.flow_run_id, self._now)
                )
            case BeginRun() | UpdateRun():
                return self._say_of_run(operation)
            case LoadFacts():
                return run_facts.load(self._connection, self._location, operation, self._now)
            case UpsertState() | LoadState():
                return self._change_state(operation)
            case AcquireLease() | RenewLease() | ReleaseLease() | ExpectLease() | LoadLastToken():
                return leases.apply(self._connection, self._location, operation)

    # -- outputs -------------------------------------------------------------------------------------------------------

    def _put_all_new_first(self, puts: Sequence[PutOutput]) -> bool:
        """Insert many outputs, as the first that is done. False, and nothing done, unless every one of them is new."""
        is_done = self._put_all_new(puts)
        if not is_done:
            self._begin_anew()
            self.value_bytes = 0
        return is_done

    def _put_all_new(self, puts: Sequence[PutOutput]) -> bool:
        """Insert many outputs in few statements. False unless every one is new; what was done is then to be undone.

        One INSERT of 64 rows takes 0.55 of the time of 64 INSERTs, and takes the GIL once instead of 64 times.
        """
        numbers = attempts.Numbers(self._connection)
        try:
            rows = [self._output_row(put, self._now, numbers) for put in puts]
        except RunDeletedError:
            return False
        rows.sort(key=_RUN_AND_NODE)  # the order in which watchers are told of one commit
        start = 0
        while start < len(rows):
            size = next(size for size in _INSERT_SIZES if size <= len(rows) - start)
            parameters = [field for row in rows[start : start + size] for field in row]
            if self._connection.execute(_INSERT_OUTPUTS[size], parameters).rowcount != size:
                return False
            start += size
        return True

    def _put_output(self, put: PutOutput | LoadOutput, written_at: int) -> bool:
        row = self._output_row(put, written_at)
        if self._connection.execute(_INSERT_OUTPUTS[1], row).rowcount == 1:
            return True
        refusal = refusal_of_put(put, self._stored(put))
        if refusal is not None:
            raise refusal
        return False

    def _stored(self, put: PutOutput | LoadOutput) -> Encoded:
        """What keeps an output from being inserted: another one, or a mark."""
        key = (put.flow_run_id, put.node_id)
        if put.exist_ok == "keep":  # whatever it is: no value need be read, nor be whole
            return Encoded(codec_of(self._connection, key), b"")
        found = fetch_output(self._connection, self._location, key).unwrap()
        if found is None:
            raise CorruptStoreError(f"{self._location}: its indexes disagree; restore a backup")
        return found.value if isinstance(found, OutputRecord) else MARK

    def _append(self, some: Sequence[AppendOutput]) -> list[Outcome[Appended]]:
        """Append outputs, in their order; each is refused for itself."""
        placing = appends.Placing(self._connection, lambda run, meant: self._serial(run, self._now, meant))
        outcomes: list[Outcome[Appended]] = []
        for append in some:
            try:
                outcomes.append(Outcome(placing.place(append)))
            except ContextStoreError as error:
                outcomes.append(Outcome.failure(error))
        if not self._put_all_new(placing.puts):
            raise CorruptStoreError(f"{self._location}: its indexes disagree; restore a backup")
        placing.write()
        return outcomes

    def _output_row(
        self, put: PutOutput | LoadOutput, written_at: int, numbers: attempts.Numbers | None = None
    ) -> tuple[Any, ...]:
        run = self._serial(put.flow_run_id, written_at, put.run if type(put) is PutOutput else None)
        value = put.value
        size = len(value.data)
        self.value_bytes += size
        attempt = None
        if put.made is not None:
            attempt = (numbers or attempts.Numbers(self._connection)).text(put.made, run, put.node_id)
        of_all = checksum(put.flow_run_id, put.node_id, value, attempt)
        return (run, put.node_id, value.codec, of_all, written_at, size, value_of(value), value.tag, attempt)

    def _serial(self, flow_run_id: str, created_at: int, meant: int | None = None) -> int:
        """The run's serial; a run not seen before gets one. Raises RunDeletedError, also if it is not ``meant``."""
        serial = self._serials.get(flow_run_id)
        if serial is None:
            query = "SELECT serial, deleted_at FROM flow_runs WHERE flow_run_id = ?"
            row = self._connection.execute(query, (flow_run_id,)).fetchone()
            if row is None and meant is None:
                insert = "INSERT INTO flow_runs (flow_run_id, created_at, outputs) VALUES (?, ?, 0)"
                serial = cast("int", self._connection.execute(insert, (flow_run_id, created_at)).lastrowid)
            elif row is None or row[1] is not None:
                raise RunDeletedError(flow_run_id)
            else:
                serial = cast("int", row[0])
            self._serials.bound()  # also within a transaction: a serial that is forgotten is looked up again
            self._serials.add(flow_run_id, serial)
        if meant is not None and serial != meant:
            raise RunDeletedError(flow_run_id)
        return serial

    def _delete_outputs(self, delete: DeleteOutputs) -> OutputDeletion:
        deletion, pages = delete_outputs(self._connection, delete, self._now, MAX_BYTES)
        self.deletes_runs = self.deletes_runs or deletion.outputs > 0
        self.freed_pages += pages
        return deletion

    def _load_mark(self, load: LoadMark) -> bool:
        has_deleted = load_mark(self._connection, load, self._serial(load.flow_run_id, load.written_at))
        self.deletes_runs = self.deletes_runs or has_deleted
        return has_deleted

    # -- globals -------------------------------------------------------------------------------------------------------

    def _change_global(self, operation: GlobalOperation) -> Any:
        key = operation.key
        is_expected = type(operation) is ExpectGlobal
        stored = self._before[key] if is_expected else stored_global(self._connection, key)
        freed = freed_version(self._connection, self._location) if stored is None else 0
        change = change_global(self._location, stored, operation, self._now, freed)
        self.value_bytes += write_global(self._connection, key, change, self._now)
        return change.result

    def _delete_globals(self, delete: DeleteGlobals) -> int:
        deleted = delete_globals(self._connection, delete, self._now)
        self.freed_pages += deleted
        return deleted

    def _free_globals(self, free: FreeGlobals) -> Freed:
        freed, pages = free_globals(self._connection, free, self._now, MAX_BYTES)
        self.freed_pages += pages
        return freed

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _delete_run(self, delete: DeleteRun) -> int:
        serial, is_new = runs.delete_run(self._connection, delete, self._now)
        self._note_deletion(delete.flow_run_id, is_new)
        return serial

    def _load_run(self, load: LoadRun) -> None:
        self._note_deletion(load.flow_run_id, runs.load_run(self._connection, load))

    def _note_deletion(self, flow_run_id: str, is_new: bool) -> None:
        if is_new:
            self._serials.forget([flow_run_id])
            self.deletes_runs = True

    def _say_of_run(self, operation: BeginRun | UpdateRun) -> Any:
        refused = run_facts.say(self._connection, self._location, operation, self._now)
        return refused or fetch_run(self._connection, self._location, operation.flow_run_id)

    def _record_failure(self, failure: RecordFailure) -> Any:
        serial = self._serial(failure.flow_run_id, self._now, failure.run)
        return attempts.record_failure(self._connection, failure, serial, self._now)

    def _change_state(self, operation: UpsertState | LoadState) -> int:
        def serial_of(run: str, meant: int | None) -> int:
            return self._serial(run, self._now, meant)

        version, size = run_states.change(self._connection, self._location, operation, self._now, serial_of)
        self.value_bytes += size
        return version

    def _delete_idle_runs(self, delete: DeleteIdleRuns) -> IdleDeletion:
        self._serials.forget(delete.flow_run_ids)
        deletion, pages = delete_idle_runs(self._connection, delete, self._now, MAX_BYTES)
        self.deletes_runs = self.deletes_runs or deletion.runs > 0
        self.freed_pages += pages
        return deletion

    def _remove_outputs(self, remove: RemoveOutputs) -> Removal:
        removal, pages = remove_outputs(self._connection, remove, MAX_BYTES)
        self.freed_pages += pages
        return removal

    def _forget_run(self, forget: ForgetRun) -> Forgetting:
        forgetting, pages = forget_run(self._connection, forget, MAX_BYTES)
        self.freed_pages += pages
        return forgetting

    def _give_back_space(self, give_back: GiveBackSpace) -> int:
        pages = give_back_space(self._connection, give_back)
        self.shortens_file = self.shortens_file or pages > 0
        return pages


def _is_append(unit: Unit) -> bool:
    """Whether it is one, and nothing else."""
    return len(unit) == 1 and type(unit[0]) is AppendOutput


def _listed(outcome: Outcome[Appended]) -> Outcome[list[Any]]:
    """What became of an append, as of the unit that it is."""
    return Outcome([outcome.result]) if outcome.error is None else Outcome.failure(outcome.error)


def _now() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000
