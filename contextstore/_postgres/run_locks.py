"""The locks on the runs of a unit, taken before all others.

Rules of this module: a step within a transaction of ``units``, and no SQL. All of a unit's runs are locked by one
statement, in the order of their serials, before the unit has written anything that another transaction could wait for:
so no two units wait for each other in a circle, nor does one with a prune. Units of plain puts alone need none of it:
they lock their runs and write their rows in that same order.
"""

from __future__ import annotations

from typing import TypeAlias

from .._engine.operations import (
    AppendOutput,
    DeleteOutputs,
    LoadAppendCounter,
    LoadAppendKey,
    LoadMark,
    LoadOutput,
    LoadRun,
    PutOutput,
    Unit,
)
from .._engine.run_operations import LoadFacts, LoadFailure, LoadState, RecordFailure, UpsertState
from .outputs import OutputRows
from .write import RunForgottenError, Write, WriteContext

_OF_STATES = UpsertState | LoadState
_OF_APPENDS = AppendOutput | LoadAppendCounter | LoadAppendKey
_CHANGES_RUN = _OF_STATES | RecordFailure | LoadFailure | LoadFacts | LoadMark | LoadRun | DeleteOutputs
"""Of these the row of the run itself is changed, or what one writer at a time may change."""
OfRuns: TypeAlias = PutOutput | LoadOutput | _OF_APPENDS | _CHANGES_RUN


class RunLocks:
    """What a unit does first to its runs, within its transaction."""

    def __init__(self, context: WriteContext) -> None:
        self._connection = context.connection
        self._statements = context.statements
        self._serials = context.serials
        self._rows = OutputRows(context)

    async def take(self, unit: Unit, write: Write) -> None:
        """Make the runs that are missing, and lock them all. A single operation that locks its run is left to do so."""
        operations = [one for one in unit if isinstance(one, OfRuns)]
        if await self._load(operations, write) or _is_to_be_locked(operations):
            await self._lock(operations, await self._make(operations, write), write)
        elif any(isinstance(one, _OF_STATES) for one in operations):
            await self._make(operations, write)

    async def _load(self, operations: list[OfRuns], write: Write) -> bool:
        """Make those that are taken over from another store. Whether there are any."""
        loads = [one for one in operations if isinstance(one, LoadRun)]
        for load in loads:
            row = load.flow_run_id, load.created_at, load.deleted_at, write.write_id
            await self._connection.execute(write.deadline, self._statements.load_run, *row)
        return bool(loads)

    async def _lock(self, operations: list[OfRuns], made: set[str], write: Write) -> None:
        is_changed = any(_changes_run(one) for one in operations)
        statement = self._statements.lock_runs if is_changed else self._statements.share_runs
        names = sorted({one.flow_run_id for one in operations})
        rows = await self._connection.fetch(write.deadline, statement, names)
        if gone := made - {row[0] for row in rows}:  # to make one now would be out of order
            self._serials.forget(gone)
            raise RunForgottenError

    async def _make(self, operations: list[OfRuns], write: Write) -> set[str]:
        """Those of the runs that are there then. In the order of the calls, in which new runs are listed."""
        # Of one that means a certain life no other is made.
        makers = [one for one in operations if not isinstance(one, DeleteOutputs) and getattr(one, "run", None) is None]
        names = dict.fromkeys(one.flow_run_id for one in makers)
        await self._rows.serials_of(list(names), write)
        return set(names)


def _is_to_be_locked(operations: list[OfRuns]) -> bool:
    appends = any(isinstance(one, _OF_APPENDS) for one in operations)
    return appends or (len(operations) > 1 and any(_changes_run(one) for one in operations))


def _changes_run(operation: OfRuns) -> bool:
    if isinstance(operation, PutOutput):  # of a step, whose attempt has no number yet
        return operation.made is not None and operation.made.number is None
    return isinstance(operation, _CHANGES_RUN)
