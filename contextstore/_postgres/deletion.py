"""Deleting runs: marking them, removing their outputs, forgetting their tombstones.

Rules of this module: steps within a transaction of ``units``; nothing is tried again here.

A deletion marks the run first, and removes its outputs in later commits. A put looks at the mark in the same statement;
one that began before the mark may still leave a row behind it, which no reader sees and the next ``prune`` removes. It
is as if the put had come first, which is right for ``delete_run``. ``prune`` must not delete a run that has just got an
output, and waits for the puts under way.
"""

from __future__ import annotations

from typing import Any

from .._engine.operations import (
    DeleteIdleRuns,
    DeleteRun,
    FindRun,
    ForgetRun,
    ForgetRuns,
    Forgetting,
    IdleDeletion,
    LoadRun,
    Removal,
    RemoveOutputs,
)
from .._engine.portions import Portion
from .._engine.rules import marks_deleted
from .._waiting.deadline import Deadline
from ..errors import RunDeletedError
from .remains import Remains
from .write import NO_WRITER, AlreadyDoneError, Write, WriteContext

_REMOVE_BYTES = 4 * 2**20
"""How many bytes of outputs a commit removes, about."""


class Deletions:
    """What a unit may have of deletions, each within its transaction."""

    def __init__(self, context: WriteContext) -> None:
        self._connection = context.connection
        self._statements = context.statements
        self._serials = context.serials
        self._remains = Remains(context)

    async def delete_run(self, delete: DeleteRun, write: Write) -> int:
        name, meant = delete
        if meant is None:
            insert = self._statements.insert_runs
            await self._connection.execute(write.deadline, insert, [name], NO_WRITER, write.now)
        rows = await self._connection.fetch(write.deadline, self._statements.lock_run, name)
        self._serials.forget([name])
        if not rows or meant not in (None, rows[0][0]):
            raise RunDeletedError(name)
        ((serial, is_deleted, writer),) = rows
        if is_deleted and writer == write.write_id:
            raise AlreadyDoneError
        if not is_deleted:
            await self._mark([serial], write.now, write)
        return int(serial)

    async def find_run(self, find: FindRun, write: Write) -> int | None:
        rows = await self._connection.fetch(write.deadline, self._statements.find_run, find.flow_run_id)
        if rows and rows[0][1]:
            raise RunDeletedError(find.flow_run_id)
        return rows[0][0] if rows else None

    async def load_run(self, load: LoadRun, write: Write) -> None:
        """Of a run that is there, and locked."""
        serial, is_deleted, _ = await self._lock(load.flow_run_id, write.deadline)
        if marks_deleted(load, is_deleted):
            await self._mark([serial], load.deleted_at, write)
            self._serials.forget([load.flow_run_id])

    async def _lock(self, flow_run_id: str, deadline: Deadline) -> Any:
        (row,) = await self._connection.fetch(deadline, self._statements.lock_run, flow_run_id)
        return row

    async def _mark(self, serials: list[int], deleted_at: int | None, write: Write) -> None:
        mark = self._statements.mark_deleted
        await self._connection.execute(write.deadline, mark, serials, write.write_id, deleted_at)

    async def delete_idle_runs(self, delete: DeleteIdleRuns, write: Write) -> IdleDeletion:
        idle = await self._lock_idle(delete, write)
        self._serials.forget(delete.flow_run_ids)
        marked: dict[int, str] = {}
        portion = Portion(delete.limit, _REMOVE_BYTES)
        done = 0
        for name in delete.flow_run_ids:
            if name in idle:
                serial, outputs, size = idle[name]
                if not portion.takes(size, outputs):
                    break  # in the next commit
                marked[serial] = name
            done += 1
        if not marked:
            return IdleDeletion(done, 0, 0, 0, ())
        await self._mark(list(marked), write.now, write)
        removal = await self._remove_outputs_of(marked, delete.limit, write.deadline)
        return IdleDeletion(done, len(marked), *removal)

    async def _lock_idle(self, delete: DeleteIdleRuns, write: Write) -> dict[str, tuple[int, int, int]]:
        """Those of the runs that are idle: their serials, and how many outputs and bytes they have."""
        names = list(delete.flow_run_ids)
        locked = await self._connection.fetch(write.deadline, self._statements.lock_idle_runs, names)
        if any(is_deleted and writer == write.write_id for *_, is_deleted, writer in locked):
            raise AlreadyDoneError
        alive = {serial: name for serial, name, *_ in locked}
        states = None if delete.states is None else list(delete.states)
        bounds = list(alive), delete.idle_since, states
        extents = await self._connection.fetch(write.deadline, self._statements.idle_extents, *bounds)
        return {alive[serial]: (serial, outputs, size) for serial, outputs, size in extents}

    async def remove_outputs(self, remove: RemoveOutputs, write: Write) -> Removal:
        statement = self._statements.deleted_serials
        rows = await self._connection.fetch(write.deadline, statement, list(remove.flow_run_ids))
        return await self._remove_outputs_of(dict(rows), remove.limit, write.deadline)

    async def _remove_outputs_of(self, runs: dict[int, str], limit: int, deadline: Deadline) -> Removal:
        """Of these runs, by serial."""
        remove = self._statements.remove_outputs
        serials = list(runs)
        gone = await self._connection.fetch(deadline, remove, serials, limit, _REMOVE_BYTES)
        await self._remains.remove(serials, limit - len(gone), _REMOVE_BYTES, deadline)
        left = await self._connection.fetch(deadline, self._statements.with_rest, serials)
        outputs = sum(is_output for _, is_output in gone)
        return Removal(outputs, sum(size for size, _ in gone), tuple(runs[serial] for (serial,) in left))

    async def forget_run(self, forget: ForgetRun, write: Write) -> Forgetting:
        name, limit, meant = forget
        rows = await self._connection.fetch(write.deadline, self._statements.lock_deleted, name, meant)
        serials = [serial for (serial,) in rows]
        if not serials:
            return Forgetting(0, True)
        # By a statement of its own, which sees what the puts have left that it has waited for.
        removal = await self._remove_outputs_of({serials[0]: name}, limit, write.deadline)
        if not removal.left:
            await self._connection.execute(write.deadline, self._statements.forget_runs, serials)
        return Forgetting(removal.outputs, not removal.left)

    async def forget_runs(self, forget: ForgetRuns, write: Write) -> tuple[int, int | None]:
        rows = await self._connection.fetch(write.deadline, self._statements.lock_forgettable, *forget)
        serials = [serial for serial, _ in rows]
        forgotten = await self._connection.execute(write.deadline, self._statements.forget_runs, serials)
        return forgotten, max(deleted_at for _, deleted_at in rows) if len(rows) == forget.limit else None
