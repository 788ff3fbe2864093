"""Attempts of steps: the numbers that they get, and failures, which are recorded or taken over.

Rules of this module: steps within a transaction of ``units``; nothing is tried again here, and no SQL. A number is
looked up by a statement behind the one that has waited for the run's row, which every giver of numbers locks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .._engine.attempts import MOST_FAILURES
from .._engine.run_operations import LoadFailure, RecordFailure
from .._values.run_facts import storable_text
from .._waiting.deadline import Deadline
from ..errors import RunDeletedError
from .outputs import OutputRows, PutRow
from .write import AlreadyDoneError, Write, WriteContext


class Attempts:
    """What a unit may have of attempts, within its transaction."""

    def __init__(self, context: WriteContext) -> None:
        self._connection = context.connection
        self._statements = context.statements
        self._rows = OutputRows(context)

    async def number(self, rows: Sequence[PutRow], write: Write) -> list[PutRow]:
        """The rows, those of steps with the numbers that their attempts get."""
        open_ones = [row for row in rows if row.put.made is not None and row.put.made.number is None]
        if not open_ones:
            return list(rows)
        await self._lock({row.put.flow_run_id for row in open_ones}, write.deadline)
        keys = [(row.serial, row.put.node_id) for row in open_ones]
        numbers = dict(zip(keys, await self._next_numbers(keys, write.deadline), strict=True))
        return [_numbered(row, numbers.get((row.serial, row.put.node_id))) for row in rows]

    async def _lock(self, flow_run_ids: Iterable[str], deadline: Deadline) -> dict[str, int | None]:
        """The serials of these runs; None: it is deleted."""
        rows = await self._connection.fetch(deadline, self._statements.lock_runs, sorted(flow_run_ids))
        return {run: None if is_deleted else serial for run, serial, is_deleted in rows}

    async def _next_numbers(self, keys: Sequence[tuple[int, str]], deadline: Deadline) -> list[int]:
        runs, nodes = [run for run, _ in keys], [node for _, node in keys]
        return [
            number for (number,) in await self._connection.fetch(deadline, self._statements.next_numbers, runs, nodes)
        ]

    async def record(self, failures: Mapping[int, RecordFailure], write: Write, *, in_doubt: bool) -> dict[int, int]:
        """The numbers that they get, by index in the unit.

        Args:
            in_doubt: whether an earlier attempt to write them may have been committed.
        """
        await self._rows.serials_for(failures.values(), write)  # a run that is missing is made
        locked = await self._lock({failure.flow_run_id for failure in failures.values()}, write.deadline)
        numbers: dict[int, int] = {}
        for index, failure in failures.items():
            run, node = locked.get(failure.flow_run_id), failure.node_id
            if run is None or failure.run not in (None, run):
                raise RunDeletedError(failure.flow_run_id)
            statement = self._statements.has_recorded
            if in_doubt and await self._connection.fetch(write.deadline, statement, run, node, write.write_id):
                raise AlreadyDoneError
            (number,) = await self._next_numbers([(run, node)], write.deadline)
            await self._insert([(run, failure, number)], write)
            if number > MOST_FAILURES:
                remove = self._statements.remove_old_failures
                await self._connection.execute(write.deadline, remove, run, node, MOST_FAILURES)
            await self._connection.execute(write.deadline, self._statements.count_failure, run, write.now)
            numbers[index] = number
        return numbers

    async def load(self, loads: Sequence[LoadFailure], write: Write) -> None:
        await self._rows.serials_of(sorted({load.flow_run_id for load in loads}), write)
        locked = await self._lock({load.flow_run_id for load in loads}, write.deadline)
        rows: list[tuple[int, LoadFailure, int]] = []
        for load in loads:
            run = locked.get(load.flow_run_id)
            if run is None:
                raise RunDeletedError(load.flow_run_id)
            rows.append((run, load, load.number))
        await self._insert(rows, write)
        runs = sorted({run for run, _, _ in rows})
        await self._connection.execute(write.deadline, self._statements.count_loaded_failures, runs)

    async def _insert(self, rows: Sequence[tuple[int, RecordFailure | LoadFailure, int]], write: Write) -> None:
        failures = [failure for _, failure, _ in rows]
        await self._connection.execute(
            write.deadline,
            self._statements.insert_failures,
            [run for run, _, _ in rows],
            [failure.node_id for failure in failures],
            [number for _, _, number in rows],
            [failure.started_at for failure in failures],
            [failure.ended_at for failure in failures],
            [storable_text(failure.error) for failure in failures],
            [failure.inputs for failure in failures],
            write.write_id,
        )


def _numbered(row: PutRow, number: int | None) -> PutRow:
    made = row.put.made
    if made is None or made.number is not None or number is None:
        return row
    return PutRow(row.serial, row.index, row.put._replace(made=made._replace(number=number)))
