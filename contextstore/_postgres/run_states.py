"""State values of runs: written within a transaction, and read.

Rules of this module: what writes is a step within a transaction of ``units``; nothing is tried again here. What is
written, or refused, is decided in ``_engine/run_states``.

Who writes a state value locks its run first, as who deletes outputs of it does, by the same statement and in the same
order: so no two wait for each other in a circle, and what is read behind the lock is what will be written over. Puts
share another lock on the run, and do not wait.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from .._engine.epochs import Epoch
from .._engine.operations import DeleteOutputs, Unit
from .._engine.portions import portions
from .._engine.records import RunLife, StateRecord
from .._engine.run_operations import LoadState, UpsertState
from .._engine.run_states import RunStates, StateChange, StoredState, change_state, damaged_state, read_state
from .._values.codec import checksum
from .._waiting.outcome import Outcome
from ..errors import ContextStoreError, CorruptStoreError, RunDeletedError, StorageError
from .epoch import StoreEpoch
from .outputs import GROUP_LIMITS, Outcomes, OutputRows
from .pool import ReadPool
from .reads import end_of
from .statements import Statements
from .write import AlreadyDoneError, Write, WriteContext

OfStates: TypeAlias = UpsertState | LoadState
StateKey: TypeAlias = tuple[str, str]
"""flow_run_id, key"""
SeenStates: TypeAlias = dict[StateKey, tuple[Any, Any]]
"""How state values were before they were written: the version, and the id of the write that gave it."""


class Written(NamedTuple):
    """What a unit has done to state values."""

    outcomes: Outcomes
    """By index in the unit."""
    seen: SeenStates


class StateWriter:
    """What a unit may have of state values, within its transaction."""

    def __init__(self, context: WriteContext) -> None:
        self._location = context.location
        self._connection = context.connection
        self._statements = context.statements
        self._rows = OutputRows(context)

    async def apply(self, unit: Unit, write: Write, before: SeenStates | None) -> Written:
        """Do what the unit asks of state values.

        Args:
            before: what an earlier attempt has seen, which may have been committed. None: there is none.

        Raises AlreadyDoneError if it was committed, and that its outcome is unknown where nothing tells.
        """
        operations = {index: one for index, one in enumerate(unit) if isinstance(one, OfStates)}
        if not operations:
            return Written({}, {})
        serials = await self._lock(unit, operations, write)
        stored, seen = await self._stored(operations, serials, write)
        if any(writer == write.write_id for _, writer in seen.values()):
            raise AlreadyDoneError
        if before is not None and (seen != before or len(serials) < len({o.flow_run_id for o in operations.values()})):
            # Others have written one of them since, or deleted its run: before the earlier attempt, or after it.
            raise StorageError(f"the connection to {self._location} was lost during a commit", True)
        outcomes: Outcomes = {}
        changes: dict[StateKey, StateChange] = {}
        for index, operation in operations.items():
            try:
                outcomes[index] = Outcome([self._decide(operation, serials, stored, changes)])
            except ContextStoreError as error:
                outcomes[index] = Outcome.failure(error)
        if not any(outcome.error for outcome in outcomes.values()):
            await self._write(changes, serials, write)
        return Written(outcomes, seen)

    async def _lock(self, unit: Unit, operations: Mapping[int, OfStates], write: Write) -> dict[str, int]:
        """Serials of the runs that are not deleted. What the unit deletes outputs of is locked with them."""
        names = {one.flow_run_id for one in operations.values()}
        others = {one.flow_run_id for one in unit if isinstance(one, DeleteOutputs)}
        rows = await self._connection.fetch(write.deadline, self._statements.lock_runs, sorted(names | others))
        return {name: serial for name, serial, is_deleted in rows if name in names and not is_deleted}

    async def _stored(
        self, operations: Mapping[int, OfStates], serials: Mapping[str, int], write: Write
    ) -> tuple[dict[StateKey, StoredState], SeenStates]:
        compared: dict[StateKey, bool] = {}
        for one in operations.values():
            if one.flow_run_id in serials:
                key = one.flow_run_id, one.key
                compared[key] = compared.get(key, False) or isinstance(one, LoadState)
        names = {serial: name for name, serial in serials.items()}
        runs = [serials[name] for name, _ in compared]
        keys, are_compared = [key for _, key in compared], list(compared.values())
        rows = await self._connection.fetch(write.deadline, self._statements.stored_states, runs, keys, are_compared)
        stored: dict[StateKey, StoredState] = {}
        seen: SeenStates = {}
        for run, key, version, writer, codec, data, crc, written_at, size in rows:
            stored[names[run], key] = StoredState(key, codec, data, crc, version, written_at, size, run)
            seen[names[run], key] = version, writer
        return stored, seen

    def _decide(
        self,
        operation: OfStates,
        serials: Mapping[str, int],
        stored: dict[StateKey, StoredState],
        changes: dict[StateKey, StateChange],
    ) -> int | None:
        """The operation's result. What it changes is what the next one of the unit finds."""
        name, key = operation.flow_run_id, operation.key
        serial = serials.get(name)
        meant = operation.run if isinstance(operation, UpsertState) else None
        if serial is None or meant not in (None, serial):
            raise RunDeletedError(name)
        changed = change_state(self._location, stored.get((name, key)), operation)
        if changed is not None:
            changes[name, key] = changed
            value = changed.value
            crc = checksum(name, key, value)
            row = (value.codec, value.data, crc, changed.version, changed.written_at or 0, len(value.data), serial)
            stored[name, key] = StoredState(key, *row)
        return changed.version if changed is not None and isinstance(operation, UpsertState) else None

    async def _write(self, changes: Mapping[StateKey, StateChange], serials: Mapping[str, int], write: Write) -> None:
        rows = [
            (
                serials[name],
                key,
                changed.version,
                changed.value.codec,
                checksum(name, key, changed.value),
                changed.value.data,
                write.now if changed.written_at is None else changed.written_at,
            )
            for (name, key), changed in changes.items()
        ]
        rows.sort(key=lambda row: row[:2])
        for some in portions(rows, lambda row: len(row[5]), *GROUP_LIMITS):
            columns = [list(column) for column in zip(*some, strict=True)]
            touched = {row[0]: row[6] for row in sorted(some, key=lambda row: row[6])}  # with the last time of each
            times = list(touched), list(touched.values())
            statement = self._statements.write_states
            await self._connection.execute(write.deadline, statement, *columns, write.write_id, *times)


class StateReader:
    """What reads have of state values: see ``_engine/contract``."""

    def __init__(self, location: str, pool: ReadPool, statements: Statements, epoch: StoreEpoch) -> None:
        self._location = location
        self._pool = pool
        self._statements = statements
        self._epoch = epoch

    async def fetch(self, flow_run_id: str, key: str) -> RunStates:
        asked_at = time.monotonic()
        try:
            rows = await self._pool.fetch(self._statements.fetch_state, flow_run_id, key)
        except CorruptStoreError as error:
            raise damaged_state(self._location, flow_run_id, key, error) from error
        return self._found(flow_run_id, rows, asked_at)

    async def page(
        self,
        flow_run_id: str,
        run: int | None,
        bounds: tuple[str, str | None],
        after: str | None,
        limit: int,
        max_bytes: int,
    ) -> RunStates:
        low, high = bounds[0], end_of("") if bounds[1] is None else bounds[1]
        asked_at = time.monotonic()
        statement = self._statements.page_states
        try:
            rows = await self._pool.fetch(statement, flow_run_id, run, low, high, after, limit, max_bytes)
        except CorruptStoreError as error:
            if limit > 1:
                return await self.page(flow_run_id, run, bounds, after, 1, max_bytes)
            names = await self._pool.fetch(self._statements.next_state, flow_run_id, low, high, after)
            if not names:
                raise
            raise damaged_state(self._location, flow_run_id, names[0][0], error) from error
        return self._found(flow_run_id, rows, asked_at)

    def _found(self, flow_run_id: str, rows: Sequence[Any], asked_at: float) -> RunStates:
        if not rows:
            return RunStates(None, None, [])
        serial, is_deleted, deletions = rows[0][:3]
        epoch: Epoch = (deletions,)
        self._epoch.asked.note((deletions,), asked_at)
        states: list[Outcome[StateRecord]] = []
        if not is_deleted:
            states = [read_state(self._location, flow_run_id, row[3:]) for row in rows if row[-1] is not None]
        return RunStates(epoch, RunLife(serial, is_deleted), states)
