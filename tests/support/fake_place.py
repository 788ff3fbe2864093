"""A place where several clients store: what is committed there, in memory.

What an operation means is decided by the rules of all engines; here stands how it is kept. Time is a number that rises
with each commit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from contextstore import AlreadyExistsError, ContextStoreError, RunDeletedError
from contextstore._engine.operations import (
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
    is_deletion,
    may_delete_outputs,
    runs_deleted_by,
)
from contextstore._engine.portions import Portion
from contextstore._engine.records import Fetched, OutputKey, OutputRecord
from contextstore._engine.rules import (
    GlobalOperation,
    StoredGlobal,
    change_global,
    marks_deleted,
    read_output,
    refusal_of_put,
)
from contextstore._values.codec import DELETED, MARK, Encoded, checksum
from contextstore._waiting.outcome import Outcome

LOCATION = "fake"


def delete_takes(delete: DeleteGlobals, key: str) -> bool:
    return key in delete.keys if delete.prefix is None else key.startswith(delete.prefix)


REMOVE_BYTES = 100_000
"""How many bytes of outputs a commit removes, about."""


class StoredOutput(NamedTuple):
    """An output's row as it was written. A test may put a damaged one in its place."""

    codec: Any
    data: Any
    checksum: Any
    written_at: Any
    size: Any
    tag: Any = None


@dataclasses.dataclass
class Run:
    serial: int
    created_at: int
    deleted_at: int | None = None
    outputs: dict[str, StoredOutput] = dataclasses.field(default_factory=dict)


class Place:
    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.globals: dict[str, StoredGlobal] = {}
        self.freed_version = 0
        self.history: list[OutputKey | None] = []
        """What was committed, one after the other: the outputs by their keys, and None for anything else."""
        self.changed_runs: list[str] = []
        """Runs that were deleted, one after the other."""
        self.epoch = 0
        """Even, and another one after each deletion; odd while one is being committed."""
        self.deletions = 0
        self.now = 0
        self._serials = 0

    # -- what clients ask for -----------------------------------------------------------------------------------------

    def commit(self, *operations: Operation) -> list[Any]:
        """What another client commits: one unit, at once."""
        (outcome,) = self.commit_units([operations])
        return outcome.unwrap()

    def commit_units(self, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        """Those that are not refused, at one moment."""
        deletes = any(is_deletion(operation) or may_delete_outputs(operation) for unit in units for operation in unit)
        self.epoch += deletes
        self.now += 1
        outcomes = [self._commit_unit(unit) for unit in units]
        self.changed_runs += [name for unit in units for operation in unit for name in runs_deleted_by(operation)]
        self.deletions += deletes
        self.epoch += deletes
        return outcomes

    def put(self, flow_run_id: str, node_id: str, value: Encoded) -> None:
        self.commit(PutOutput(flow_run_id, node_id, value, False))

    def delete(self, flow_run_id: str) -> None:
        self.commit(DeleteRun(flow_run_id))

    def begin_anew(self, flow_run_id: str) -> None:
        """Delete a run and forget it, so that its id can be used anew."""
        self.commit(DeleteRun(flow_run_id), RemoveOutputs((flow_run_id,), 10**6))
        self.commit(ForgetRuns(0, self.now + 1, 10**6))

    # -- what is stored -----------------------------------------------------------------------------------------------

    def alive(self, flow_run_id: str) -> Run | None:
        run = self.runs.get(flow_run_id)
        return run if run is not None and run.deleted_at is None else None

    def all_alive(self) -> Iterator[tuple[str, Run]]:
        """Oldest first."""
        return ((name, run) for name, run in self.by_serial() if run.deleted_at is None)

    def by_serial(self) -> list[tuple[str, Run]]:
        return sorted(self.runs.items(), key=lambda item: item[1].serial)

    def read(self, key: OutputKey) -> Fetched:
        run = self.alive(key[0])
        row = None if run is None else run.outputs.get(key[1])
        if run is None or row is None:
            return Outcome(None)
        return read_output(LOCATION, key[0], (key[1], *row[:-1], run.serial, row.tag, None))

    def value(self, flow_run_id: str, node_id: str) -> Encoded | None:
        """What every reader gets; None: nothing."""
        record = self.read((flow_run_id, node_id)).unwrap()
        return record.value if isinstance(record, OutputRecord) else None

    def has(self, key: OutputKey) -> bool:
        run = self.alive(key[0])
        return run is not None and key[1] in run.outputs and run.outputs[key[1]].codec != DELETED

    def is_deleted(self, flow_run_id: str) -> bool:
        run = self.runs.get(flow_run_id)
        return run is not None and run.deleted_at is not None

    # -- operations ---------------------------------------------------------------------------------------------------

    def _commit_unit(self, unit: Unit) -> Outcome[list[Any]]:
        before = (
            {name: dataclasses.replace(run, outputs=dict(run.outputs)) for name, run in self.runs.items()},
            dict(self.globals),
            list(self.history),
            self._serials,
        )
        try:
            self._globals_before = dict(self.globals)
            return Outcome([self._apply(operation) for operation in unit])
        except ContextStoreError as error:
            self.runs, self.globals, self.history, self._serials = before
            return Outcome.failure(error)

    def _apply(self, operation: Operation) -> Any:
        self.history.append(
            (operation.flow_run_id, operation.node_id)
            if isinstance(operation, PutOutput | LoadOutput | LoadMark)
            else None
        )
        match operation:
            case PutOutput():
                return self._put(operation, self.now)
            case LoadOutput():
                return self._put(operation, operation.written_at)
            case PutGlobal() | UpsertGlobal() | DeleteGlobal() | ExpectGlobal() | LoadGlobal():
                return self._change_global(operation)
            case DeleteGlobals():
                names = [key for key in self.globals if delete_takes(operation, key)]
                return sum(self._change_global(DeleteGlobal(key)) for key in names)
            case FreeGlobals():
                return self._free_globals(operation)
            case LoadFreedVersion():
                self.freed_version = max(self.freed_version, operation.version)
                return None
            case DeleteOutputs():
                return self._delete_outputs(operation)
            case LoadMark():
                return self._load_mark(operation)
            case DeleteRun():
                return self._mark_deleted(operation)
            case FindRun():
                return self._find_run(operation)
            case ForgetRun():
                return self._forget_run(operation)
            case LoadRun():
                return self._load_run(operation)
            case DeleteIdleRuns():
                return self._delete_idle_runs(operation)
            case RemoveOutputs():
                return self._remove_outputs(operation.flow_run_ids, operation.limit)
            case ForgetRuns():
                return self._forget_runs(operation)
            case GiveBackSpace():
                return 0

    def _run(self, flow_run_id: str, created_at: int) -> Run:
        if flow_run_id not in self.runs:
            self._serials += 1
            self.runs[flow_run_id] = Run(self._serials, created_at)
        return self.runs[flow_run_id]

    def _put(self, put: PutOutput | LoadOutput, written_at: int) -> bool:
        run, meant = self.runs.get(put.flow_run_id), put.run if isinstance(put, PutOutput) else None
        if self.is_deleted(put.flow_run_id) or (meant is not None and (run is None or run.serial != meant)):
            raise RunDeletedError(put.flow_run_id)
        stored = self.read((put.flow_run_id, put.node_id)).unwrap()
        if stored is not None:
            refusal = refusal_of_put(put, stored.value if isinstance(stored, OutputRecord) else MARK)
            if refusal is not None:
                raise refusal
            return False
        codec, data, tag = put.value
        whole = checksum(put.flow_run_id, put.node_id, put.value)
        row = StoredOutput(codec, data, whole, written_at, len(data), tag)
        self._run(put.flow_run_id, self.now).outputs[put.node_id] = row
        return True

    def _delete_outputs(self, delete: DeleteOutputs) -> OutputDeletion:
        run = self.alive(delete.flow_run_id)
        if delete.run is not None and (run is None or run.serial != delete.run):
            raise RunDeletedError(delete.flow_run_id)
        if run is None:
            return OutputDeletion(0)
        there = [name for name, row in sorted(run.outputs.items()) if row.codec != DELETED]
        wanted = [name for name in there if delete.takes(delete.flow_run_id, name)]
        some = wanted[: delete.limit]
        for name in some:
            run.outputs[name] = _mark(delete.flow_run_id, name, self.now)
        return OutputDeletion(len(some), some[-1] if len(some) < len(wanted) else None, run.serial)

    def _load_mark(self, load: LoadMark) -> bool:
        if self.is_deleted(load.flow_run_id):
            raise RunDeletedError(load.flow_run_id)
        run = self._run(load.flow_run_id, self.now)
        replaces = self.has((load.flow_run_id, load.node_id))
        if replaces and not load.replaces:
            raise AlreadyExistsError(load.flow_run_id, load.node_id, False)
        if load.node_id not in run.outputs or replaces:
            run.outputs[load.node_id] = _mark(load.flow_run_id, load.node_id, load.written_at)
        return replaces

    def _change_global(self, operation: GlobalOperation) -> Any:
        key = operation.key
        stored = (self._globals_before if isinstance(operation, ExpectGlobal) else self.globals).get(key)
        change = change_global(LOCATION, stored, operation, self.now, self.freed_version)
        if change.version is not None:
            at = self.now if change.written_at is None else change.written_at
            row = StoredGlobal(key, None, None, None, change.version, at, None, change.expires_at)
            if change.value is not None:
                codec, data, _ = change.value
                row = row._replace(codec=codec, data=data, checksum=checksum("", key, change.value), size=len(data))
            self.globals[key] = row
        return change.result

    def _free_globals(self, free: FreeGlobals) -> Freed:
        passing = self.passing_globals()
        for row in passing[: free.limit]:
            self.freed_version = max(self.freed_version, row.version)
            del self.globals[row.key]
        return Freed(len(passing[: free.limit]), len(passing) <= free.limit)

    def passing_globals(self) -> list[StoredGlobal]:
        """Those that are deleted or expired."""
        return [row for row in self.globals.values() if not row.is_there(self.now)]

    def _mark_deleted(self, delete: DeleteRun) -> int:
        there = self.runs.get(delete.flow_run_id)
        if delete.run is not None and (there is None or there.serial != delete.run):
            raise RunDeletedError(delete.flow_run_id)
        run = self._run(delete.flow_run_id, self.now)
        if run.deleted_at is None:
            run.deleted_at = self.now
        return run.serial

    def _find_run(self, find: FindRun) -> int | None:
        if self.is_deleted(find.flow_run_id):
            raise RunDeletedError(find.flow_run_id)
        run = self.runs.get(find.flow_run_id)
        return None if run is None else run.serial

    def _forget_run(self, forget: ForgetRun) -> Forgetting:
        run = self.runs.get(forget.flow_run_id)
        if run is None or run.deleted_at is None or forget.run not in (None, run.serial):
            return Forgetting(0, True)
        removal = self._remove_outputs([forget.flow_run_id], forget.limit)
        if not removal.left:
            del self.runs[forget.flow_run_id]
        return Forgetting(removal.outputs, not removal.left)

    def _load_run(self, load: LoadRun) -> None:
        is_new = load.flow_run_id not in self.runs
        run = self._run(load.flow_run_id, load.created_at)
        if is_new or marks_deleted(load, run.deleted_at is not None):
            run.deleted_at = load.deleted_at

    def is_idle(self, run: Run, idle_since: int) -> bool:
        times = [row.written_at for row in run.outputs.values()]
        return run.deleted_at is None and run.created_at < idle_since and bool(times) and max(times) < idle_since

    def _delete_idle_runs(self, delete: DeleteIdleRuns) -> IdleDeletion:
        portion = Portion(delete.limit, REMOVE_BYTES)
        marked: list[str] = []
        done = 0
        for name in delete.flow_run_ids:
            run = self.runs.get(name)
            if run is not None and self.is_idle(run, delete.idle_since):
                if not portion.takes(sum(row.size for row in run.outputs.values()), len(run.outputs)):
                    break
                run.deleted_at = self.now
                marked.append(name)
            done += 1
        return IdleDeletion(done, len(marked), *self._remove_outputs(marked, delete.limit))

    def _remove_outputs(self, flow_run_ids: Iterable[str], limit: int) -> Removal:
        deleted = {name: self.runs[name] for name in flow_run_ids if self.is_deleted(name)}
        portion = Portion(limit, REMOVE_BYTES)
        removed = size = 0
        for run in deleted.values():
            for node_id, row in list(run.outputs.items()):
                if portion.takes(row.size):
                    del run.outputs[node_id]
                    removed, size = removed + 1, size + row.size
        return Removal(removed, size, tuple(name for name, run in deleted.items() if run.outputs))

    def _forget_runs(self, forget: ForgetRuns) -> tuple[int, int | None]:
        old = [
            (run.deleted_at, name)
            for name, run in self.runs.items()
            if run.deleted_at is not None
            and forget.deleted_from <= run.deleted_at < forget.deleted_before
            and not run.outputs
        ]
        some = sorted(old)[: forget.limit]
        for _, name in some:
            del self.runs[name]
        return len(some), some[-1][0] if len(some) == forget.limit else None


def _mark(flow_run_id: str, node_id: str, written_at: int) -> StoredOutput:
    codec, data, tag = MARK
    return StoredOutput(codec, data, checksum(flow_run_id, node_id, MARK), written_at, 0, tag)
