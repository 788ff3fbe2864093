"""One unit, one transaction: operations that are committed together or not at all.

Rules of this module: no SQL. An attempt is a record, and each begins with nothing of the one before it but whether that
may have been committed, and with what results. What an operation means stands in ``rules``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .._engine.lease_operations import ExpectLease, LeaseOperation, LoadLastToken
from .._engine.operations import (
    AppendOutput,
    DeleteIdleRuns,
    DeleteOutputs,
    DeleteRun,
    FindRun,
    ForgetRun,
    ForgetRuns,
    FreeGlobals,
    GiveBackSpace,
    LoadAppendCounter,
    LoadAppendKey,
    LoadMark,
    LoadRun,
    Operation,
    RemoveOutputs,
    Unit,
    is_deletion,
    may_delete_outputs,
)
from .._engine.portions import portions
from .._engine.records import OutputKey
from .._engine.rules import refusal_of_put
from .._engine.run_operations import LoadFailure, RecordFailure
from .._waiting.outcome import Outcome
from ..errors import (
    AlreadyExistsError,
    ContextStoreError,
    LeaseLostError,
    OutputDeletedError,
    RunDeletedError,
    StorageError,
)
from .attempts import Attempts
from .deletion import Deletions
from .epoch import StoreEpoch
from .errors import TransientError
from .globals import Globals, OfGlobals, Seen
from .leases import Leases
from .marks import Marks
from .outputs import GROUP_LIMITS, Outcomes, OutputRows, Put, PutRow, serial_meant
from .placing import Placing
from .retry import Retry
from .run_facts import Facts, OfFacts, Writers
from .run_locks import RunLocks
from .run_states import SeenStates, StateWriter
from .write import AlreadyDoneError, IdTakenError, RunForgottenError, Write, WriteContext


@dataclass
class Attempt:
    """One try to commit a unit: what it found, and what it comes to."""

    unit: Unit
    write: Write
    in_doubt: Attempt | None = None
    """An earlier one that may have been committed: the answer to its COMMIT was lost."""
    seen: Seen = field(default_factory=dict)
    """How the unit's globals were before this one wrote them."""
    states_seen: SeenStates = field(default_factory=dict)
    """The same of its state values."""
    refused: dict[int, ContextStoreError] = field(default_factory=dict)
    """By index in the unit. The first refuses the unit as a whole."""
    writers: Writers = field(default_factory=dict)
    """Whose writes stood in the rows of the unit's runs before this one said something of them."""
    appended: list[PutRow] = field(default_factory=list)
    """What it has appended."""
    results: list[Any] = field(init=False)
    is_applied: bool = False
    """Whether everything is done but the commit itself, and all results are known."""

    def __post_init__(self) -> None:
        self.results = [None] * len(self.unit)

    @property
    def may_be_settled(self) -> bool:
        """Whether a further attempt can tell what became of the one in doubt: by what that has written."""
        return self.in_doubt is None or not all(isinstance(o, _REMOVALS) for o in self.unit)

    def after(self, error: TransientError) -> Attempt:
        """The next one, which goes by the first that is in doubt: this one, if COMMIT may have been on its way.

        If it appends, by the last: this one has found, with the locks of its prefixes, that those before are undone.
        """
        is_in_doubt = self.is_applied and not error.is_refusal
        if is_in_doubt and self.appended:
            return Attempt(self.unit, self.write, self)
        return Attempt(self.unit, self.write, self.in_doubt or (self if is_in_doubt else None))


class Units:
    """Commits units that are more than one put."""

    def __init__(self, context: WriteContext, epoch: StoreEpoch) -> None:
        self._location = context.location
        self._connection = context.connection
        self._statements = context.statements
        self._epoch = epoch
        self._rows = OutputRows(context)
        self._run_locks = RunLocks(context)
        self._placing = Placing(context)
        self._globals = Globals(context)
        self._deletions = Deletions(context)
        self._marks = Marks(context)
        self._attempts = Attempts(context)
        self._facts = Facts(context)
        self._states = StateWriter(context)
        self._leases = Leases(context)

    async def commit(self, unit: Unit, write: Write) -> Outcome[list[Any]]:
        try:
            if isinstance(unit[0], LeaseOperation):  # alone, and more often than not in one statement
                return Outcome([await self._leases.commit(unit[0], write)])
            return Outcome(await self._commit(unit, write))
        except ContextStoreError as error:
            if _deletes(unit):
                self._epoch.asked.lose()
            return Outcome.failure(error)

    async def _commit(self, unit: Unit, write: Write) -> list[Any]:
        retry = Retry(self._location, write.deadline)
        attempt = Attempt(unit, write)
        while True:
            try:
                return await self._try(attempt)
            except AlreadyDoneError:
                return self._results_in_doubt(attempt)
            except (RunForgottenError, IdTakenError):  # since it was looked up
                attempt = Attempt(unit, write, attempt.in_doubt)
            except TransientError as error:
                attempt = attempt.after(error)
                if not await retry.may_go_on(error) or not attempt.may_be_settled:
                    raise retry.failure(in_doubt=attempt.in_doubt is not None) from error
            except StorageError as error:  # refused for good
                if attempt.in_doubt is None or error.outcome_unknown:
                    raise
                raise retry.unknown(error) from error

    async def _try(self, attempt: Attempt) -> list[Any]:
        changed = None
        appends = [operation for operation in attempt.unit if isinstance(operation, AppendOutput)]
        async with self._connection.transaction(attempt.write.deadline):
            if appends:  # before anything that gives the transaction an id
                await self._placing.lock(appends, attempt.write.deadline)
            await self._apply(attempt)
            attempt.is_applied = True
            if _has_deleted(attempt):
                changed = await self._epoch.change(attempt.write.deadline)
        if changed is not None:
            self._epoch.asked.deleted(*changed)
        return attempt.results

    def _results_in_doubt(self, attempt: Attempt) -> list[Any]:
        """Of the attempt that has been committed after all."""
        assert attempt.in_doubt is not None
        if _deletes(attempt.unit):
            self._epoch.asked.lose()
        return attempt.in_doubt.results

    async def _apply(self, attempt: Attempt) -> None:
        fence = attempt.unit[0]
        if isinstance(fence, ExpectLease) and not await self._leases.lock(fence, attempt.write.deadline):
            attempt.refused[0] = LeaseLostError(fence.name)
            if attempt.in_doubt is None:
                raise attempt.refused[0]
        await self._run_locks.take(attempt.unit, attempt.write)
        for operation in attempt.unit:  # before their outputs
            if isinstance(operation, LoadRun):
                await self._deletions.load_run(operation, attempt.write)
        is_anything_new = await self._apply_puts(attempt)
        await self._load_appends(attempt)
        await self._apply_failures(attempt)
        _refuse_puts_of_deleted(attempt)
        # What was not there before cannot be of an earlier attempt, which thus cannot have succeeded.
        in_doubt = None if is_anything_new else attempt.in_doubt
        await self._apply_globals(attempt, in_doubt)
        await self._apply_states(attempt, in_doubt)
        if attempt.refused:
            self._raise_unknown(attempt, in_doubt)
            raise attempt.refused[min(attempt.refused)]
        await self._delete_outputs(attempt, in_doubt)
        await self._load_marks(attempt)
        for index, operation in enumerate(attempt.unit):
            if isinstance(operation, OfFacts):
                before = None if in_doubt is None else in_doubt.writers
                attempt.results[index] = await self._facts.apply(operation, attempt.writers, before, attempt.write)
        for index, operation in enumerate(attempt.unit):
            if isinstance(operation, _DELETIONS):
                attempt.results[index] = await self._delete(operation, attempt.write)

    def _raise_unknown(self, attempt: Attempt, in_doubt: Attempt | None) -> None:
        """Where the lease is lost by now, but an earlier attempt may have been committed before that: of outputs and
        globals it was found that it was not, and nothing tells of other writes.
        """
        is_found = any(isinstance(one, Put | AppendOutput | OfGlobals) for one in attempt.unit)
        if in_doubt is not None and isinstance(attempt.refused.get(0), LeaseLostError) and not is_found:
            raise StorageError(f"the connection to {self._location} was lost during a commit", True)

    async def _delete(self, operation: Operation, write: Write) -> Any:
        match operation:
            case DeleteRun():
                return await self._deletions.delete_run(operation, write)
            case DeleteIdleRuns():
                return await self._deletions.delete_idle_runs(operation, write)
            case FindRun():
                return await self._deletions.find_run(operation, write)
            case RemoveOutputs():
                return await self._deletions.remove_outputs(operation, write)
            case ForgetRun():
                return await self._deletions.forget_run(operation, write)
            case ForgetRuns():
                return await self._deletions.forget_runs(operation, write)
            case LoadLastToken():
                return await self._leases.load_last_token(operation, write.deadline)
            case GiveBackSpace():  # the server does so by itself
                return 0
            case _:
                return None

    # -- outputs ------------------------------------------------------------------------------------------------------

    async def _apply_puts(self, attempt: Attempt) -> bool:
        """Whether any of them was new."""
        outputs = {index: one for index, one in enumerate(attempt.unit) if isinstance(one, Put | AppendOutput)}
        if not outputs:
            return False
        serials = await self._rows.serials_for(outputs.values(), attempt.write)
        puts = await self._placed(outputs, serials, attempt)
        rows, second = _rows_of(puts, serials, attempt)
        rows = await self._attempts.number(rows, attempt.write)
        is_anything_new = False
        for some in portions(rows, lambda row: len(row.put.value.data), *GROUP_LIMITS):
            is_anything_new |= await self._insert(some, attempt)
        if attempt.in_doubt and rows and not is_anything_new and await self._rows.is_written_by(attempt.write, rows):
            raise AlreadyDoneError
        for some in portions(second, lambda row: len(row.put.value.data), *GROUP_LIMITS):
            _settle(await self._rows.compare_stored(some, attempt.write), attempt)
        return is_anything_new

    async def _placed(
        self, outputs: dict[int, Put | AppendOutput], serials: dict[str, int | None], attempt: Attempt
    ) -> dict[int, Put]:
        """All as puts: the appends under the ids that they get."""
        puts = {index: one for index, one in outputs.items() if isinstance(one, Put)}
        if len(puts) == len(outputs):
            return puts
        in_doubt = attempt.in_doubt.appended if attempt.in_doubt else []
        if await self._rows.is_written_by(attempt.write, in_doubt):
            raise AlreadyDoneError
        deadline = attempt.write.deadline
        placement = await self._placing.place(outputs, serials, deadline)
        for index, outcome in placement.outcomes.items():
            if isinstance(outcome.error, ContextStoreError):
                attempt.refused[index] = outcome.error
            attempt.results[index] = outcome.result
        attempt.appended = placement.rows
        await self._placing.write(placement, deadline)
        puts |= {row.index: row.put for row in placement.rows}
        return dict(sorted(puts.items()))

    async def _apply_failures(self, attempt: Attempt) -> None:
        """Those of steps that have failed: recorded, or taken over."""
        failures = {i: one for i, one in enumerate(attempt.unit) if isinstance(one, RecordFailure)}
        if failures:
            in_doubt = attempt.in_doubt is not None
            for index, number in (await self._attempts.record(failures, attempt.write, in_doubt=in_doubt)).items():
                attempt.results[index] = number
        loads = [one for one in attempt.unit if isinstance(one, LoadFailure)]
        if loads:
            await self._attempts.load(loads, attempt.write)

    async def _load_appends(self, attempt: Attempt) -> None:
        """Take over counters and keys of another store."""
        deadline = attempt.write.deadline
        loads = {i: one for i, one in enumerate(attempt.unit) if isinstance(one, LoadAppendCounter | LoadAppendKey)}
        if not loads:
            return
        serials = await self._rows.serials_of(sorted({one.flow_run_id for one in loads.values()}), attempt.write)
        counters: list[tuple[int, str, int]] = []
        keys: list[tuple[int, str, str, str]] = []
        of_keys: list[tuple[int, LoadAppendKey]] = []
        for index, load in loads.items():
            serial = serials[load.flow_run_id]
            if serial is None:
                attempt.refused[index] = RunDeletedError(load.flow_run_id)
            elif isinstance(load, LoadAppendCounter):
                counters.append((serial, load.prefix, load.last))
            else:
                keys.append((serial, load.prefix, load.key, load.node_id))
                of_keys.append((index, load))
        await self._placing.count_on(counters, deadline)
        await self._placing.write_keys(keys, deadline)
        for (index, load), stored in zip(of_keys, await self._placing.ids_of_keys(keys, deadline), strict=True):
            if stored is not None and stored != load.node_id:
                attempt.refused[index] = AlreadyExistsError(load.flow_run_id, stored, same_value=False)

    async def _insert(self, rows: Sequence[PutRow], attempt: Attempt) -> bool:
        inserted = await self._rows.insert(rows, attempt.write)
        conflicts = [row for row in rows if row.index not in inserted]
        outcomes = await self._rows.resolve_conflicts(conflicts, attempt.write)
        for row in conflicts:
            if row.index not in outcomes:
                raise RunForgottenError  # of a put that means no run in particular
            is_taken = isinstance(outcomes[row.index].error, AlreadyExistsError | OutputDeletedError)
            if is_taken and isinstance(attempt.unit[row.index], AppendOutput):
                raise IdTakenError
        for index in inserted:
            if isinstance(attempt.unit[index], Put):
                attempt.results[index] = True
        _settle({index: one for index, one in outcomes.items() if isinstance(attempt.unit[index], Put)}, attempt)
        return bool(inserted)

    async def _delete_outputs(self, attempt: Attempt, in_doubt: Attempt | None) -> None:
        """After all puts, which wait for a row that is being marked: so that no two units wait for each other."""
        deletions = [(i, operation) for i, operation in enumerate(attempt.unit) if isinstance(operation, DeleteOutputs)]
        if not deletions:
            return
        serials = await self._marks.lock({delete.flow_run_id for _, delete in deletions}, attempt.write.deadline)
        if in_doubt is not None:
            deleted = {delete.flow_run_id: in_doubt.results[index] for index, delete in deletions}
            await self._marks.refuse_if_done(deleted, attempt.write)
            self._marks.refuse_if_unknown(deleted, serials)
        for index, delete in deletions:
            spared = _put_behind(index, delete, attempt)
            serial = serials.get(delete.flow_run_id)
            attempt.results[index] = await self._marks.delete(delete, serial, spared, attempt.write)

    async def _load_marks(self, attempt: Attempt) -> None:
        by_run: dict[str, dict[int, LoadMark]] = {}
        for index, operation in enumerate(attempt.unit):
            if isinstance(operation, LoadMark):
                by_run.setdefault(operation.flow_run_id, {})[index] = operation
        for _, loads in sorted(by_run.items()):
            replaced = await self._marks.load(list(loads.values()), attempt.write)
            attempt.results = [
                loads[index].node_id in replaced if index in loads else result
                for index, result in enumerate(attempt.results)
            ]

    # -- globals ------------------------------------------------------------------------------------------------------

    async def _apply_globals(self, attempt: Attempt, in_doubt: Attempt | None) -> None:
        operations = {index: o for index, o in enumerate(attempt.unit) if isinstance(o, OfGlobals)}
        if not operations:
            return
        locked = await self._globals.lock(operations, attempt.write)
        attempt.seen = locked.seen
        if any(writer == attempt.write.write_id for _, writer in attempt.seen.values()):
            raise AlreadyDoneError
        if in_doubt is not None and attempt.seen != in_doubt.seen:
            # Others have written, or deleted, one of them since: before the earlier attempt, or after it.
            raise StorageError(f"the connection to {self._location} was lost during a commit", True)
        for index, operation in operations.items():
            try:
                change = self._globals.decide(operation, locked)
            except ContextStoreError as error:
                attempt.refused[index] = error
            else:
                attempt.results[index] = await self._globals.apply(operation, change, locked, attempt.write)

    async def _apply_states(self, attempt: Attempt, in_doubt: Attempt | None) -> None:
        before = None if in_doubt is None else in_doubt.states_seen
        written = await self._states.apply(attempt.unit, attempt.write, before)
        attempt.states_seen = written.seen
        _settle(written.outcomes, attempt)


_REMOVALS = RemoveOutputs | ForgetRuns | FreeGlobals
_DELETIONS = (
    DeleteRun | DeleteIdleRuns | FindRun | RemoveOutputs | ForgetRun | ForgetRuns | GiveBackSpace | LoadLastToken
)
"""What comes last, and each by itself."""


def _deletes(unit: Unit) -> bool:
    """Whether a run, or an output, may be deleted when the unit is committed."""
    return any(is_deletion(operation) or may_delete_outputs(operation) for operation in unit)


def _has_deleted(attempt: Attempt) -> bool:
    """Whether one is. A deletion that has found nothing keeps no cache from being of use."""
    for operation, result in zip(attempt.unit, attempt.results, strict=True):
        if isinstance(operation, DeleteOutputs):
            if result.outputs:
                return True
        elif is_deletion(operation) or (isinstance(operation, LoadMark) and result):
            return True
    return False


def _refuse_puts_of_deleted(attempt: Attempt) -> None:
    """A put that finds an output which the same unit deletes, before it, comes to its mark."""
    deletions = [(i, operation) for i, operation in enumerate(attempt.unit) if isinstance(operation, DeleteOutputs)]
    if not deletions:
        return
    for index, put in enumerate(attempt.unit):
        if isinstance(put, Put) and attempt.results[index] is not True:
            key = put.flow_run_id, put.node_id
            is_refused = isinstance(attempt.refused.get(index), AlreadyExistsError) or index not in attempt.refused
            if is_refused and any(at < index and delete.takes(*key) for at, delete in deletions):
                attempt.refused[index] = OutputDeletedError(*key)


def _put_behind(index: int, delete: DeleteOutputs, attempt: Attempt) -> list[str]:
    """Those of the nodes that the unit has put behind the deletion: when it was their turn, there was nothing yet."""
    later = attempt.unit[index + 1 :]
    return [put.node_id for put in later if isinstance(put, Put) and put.flow_run_id == delete.flow_run_id]


def _settle(outcomes: Outcomes, attempt: Attempt) -> None:
    for index, outcome in outcomes.items():
        if isinstance(outcome.error, ContextStoreError):
            attempt.refused[index] = outcome.error
        else:
            (attempt.results[index],) = outcome.result


def _rows_of(
    puts: dict[int, Put], serials: dict[str, int | None], attempt: Attempt
) -> tuple[list[PutRow], list[PutRow]]:
    """What is to be inserted, sorted by key; a second put of the same key is refused, or not, by the first.

    And those for which the first does not decide, since it leaves alone whatever is there: to be compared with that.
    """
    rows: list[PutRow] = []
    second: list[PutRow] = []
    first: dict[OutputKey, Put] = {}
    for index, put in puts.items():
        meant = serial_meant(put)
        serial = serials[put.flow_run_id] if meant is None else meant
        twin = first.setdefault((put.flow_run_id, put.node_id), put)
        refusal = None if twin is put else refusal_of_put(put, twin.value)
        if serial is None:
            attempt.refused[index] = RunDeletedError(put.flow_run_id)
        elif twin is put:
            rows.append(PutRow(serial, index, put))
        elif twin.exist_ok == "keep":
            second.append(PutRow(serial, index, put))
        elif refusal is not None:
            attempt.refused[index] = refusal
        else:
            attempt.results[index] = False
    return sorted(rows, key=lambda row: (row.serial, row.put.node_id)), second
