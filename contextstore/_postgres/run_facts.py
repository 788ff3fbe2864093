"""What is said of flow runs, on a server: begun, updated, taken over.

Rules of this module: steps within a transaction of ``units``; nothing is tried again here. Who says something of a run
holds a lock on its row, and leaves the id of the write in it. So whoever tries again, since the answer to a COMMIT was
lost, finds that id there, or the one that stood there before; else another client has said something since, and what
became of the update is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from .._engine.fact_rules import (
    TooManyAttributes,
    attribute_rows,
    facts_row,
    loaded,
    read_facts,
    said,
    with_facts,
)
from .._engine.records import RunFacts, RunRecord
from .._engine.rules import run_record
from .._engine.run_operations import BeginRun, LoadFacts, UpdateRun
from ..errors import RunDeletedError, StorageError
from .write import NO_WRITER, AlreadyDoneError, Write, WriteContext

OfFacts: TypeAlias = BeginRun | UpdateRun | LoadFacts

Writers: TypeAlias = dict[str, UUID | None]
"""Whose write stood in the rows of runs before they were written, by flow_run_id; None: there was no row."""


class _Locked(NamedTuple):
    serial: int
    facts: RunFacts
    touched_at: int | None


class Facts:
    """What a unit may have of facts, each within its transaction."""

    def __init__(self, context: WriteContext) -> None:
        self._location = context.location
        self._connection = context.connection
        self._statements = context.statements

    async def apply(self, operation: OfFacts, seen: Writers, in_doubt: Writers | None, write: Write) -> Any:
        """The operation's result.

        Args:
            seen: takes down whose write was there.
            in_doubt: what an earlier attempt has seen, that may have been committed.
        """
        if isinstance(operation, LoadFacts):
            return await self._load(operation, write)
        name = operation.flow_run_id
        row = await self._lock(name, write)
        if name not in seen:  # else this very unit has written it before
            self._settle(operation, row, seen, in_doubt, write)
        if row is None and operation.run is None:
            insert = self._statements.insert_runs
            await self._connection.fetch(write.deadline, insert, [name], NO_WRITER, write.now)
            row = await self._lock(name, write)
            if row is not None and row[2] == write.write_id:  # it was waited for until now
                raise AlreadyDoneError
        locked = self._alive(name, row, operation.run)
        facts = said(locked.facts, operation, write.now)
        if isinstance(facts, TooManyAttributes):
            return facts
        await self._write(name, locked, facts, write.now, write)
        return await self._record(name, write)

    def _settle(
        self, operation: BeginRun | UpdateRun, row: Any, seen: Writers, in_doubt: Writers | None, write: Write
    ) -> None:
        name = operation.flow_run_id
        writer = None if row is None else row[2]
        seen[name] = writer
        if writer == write.write_id and not row[1]:
            raise AlreadyDoneError
        # A begin may be made twice. An update that is, on top of what another client has said, would undo that.
        if in_doubt is not None and in_doubt.get(name) != writer and isinstance(operation, UpdateRun):
            raise StorageError(f"the connection to {self._location} was lost during a commit", True)

    async def _lock(self, name: str, write: Write) -> Any:
        rows = await self._connection.fetch(write.deadline, self._statements.lock_facts, name)
        return rows[0] if rows else None

    def _alive(self, name: str, row: Any, meant: int | None) -> _Locked:
        if row is None or row[1] or meant not in (None, row[0]):
            raise RunDeletedError(name)
        serial, _, _, touched_at, *facts, _ = row
        return _Locked(serial, read_facts(self._location, name, facts), touched_at)

    async def _load(self, load: LoadFacts, write: Write) -> None:
        name = load.flow_run_id
        insert = self._statements.insert_runs
        await self._connection.fetch(write.deadline, insert, [name], write.write_id, write.now)
        locked = self._alive(name, await self._lock(name, write), None)
        if loaded(locked.facts, locked.touched_at, load):
            await self._write(name, locked, load.facts, load.touched_at, write)
            failures = self._statements.load_failures
            await self._connection.execute(write.deadline, failures, locked.serial, load.failures)

    async def _write(self, name: str, before: _Locked, facts: RunFacts, at: int | None, write: Write) -> None:
        row = facts_row(name, facts)
        await self._connection.execute(
            write.deadline, self._statements.write_facts, before.serial, *row, at, write.write_id
        )
        if facts.attributes != before.facts.attributes:
            old, new = attribute_rows(before.facts.attributes), attribute_rows(facts.attributes)
            await self._change(self._statements.remove_run_attributes, before.serial, old, new, write)
            await self._change(self._statements.insert_run_attributes, before.serial, new, old, write)

    async def _change(
        self, statement: str, serial: int, some: Mapping[str, str], others: Mapping[str, str], write: Write
    ) -> None:
        rows = dict(sorted(some.items() - others.items()))
        if rows:
            await self._connection.execute(write.deadline, statement, serial, list(rows), list(rows.values()))

    async def _record(self, name: str, write: Write) -> RunRecord | None:
        (row,) = await self._connection.fetch(write.deadline, self._statements.run_record, name)
        return record_of(self._location, row)


def record_of(location: str, row: Sequence[Any]) -> RunRecord | None:
    """A run, by the columns of its record. None: no write to it has come so far, so it is not there yet."""
    _, serial, name, rows, marks, first, last, touched_at, *facts = row
    if not rows and touched_at is None:
        return None
    return with_facts(location, run_record(serial, name, rows - marks, 0, (first, last)), facts)
