"""Rows of outputs: inserting them, and finding out what became of those that were not inserted.

Rules of this module: a statement goes over the connection that writes, in a transaction of the caller's or in one of
its own; nothing is tried again here. The SQL stands in ``statements``; whether a put is refused, in ``rules``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .._engine.attempts import attempt_text
from .._engine.contract import GroupLimits
from .._engine.operations import AppendOutput, LoadOutput, PutOutput
from .._engine.portions import portions
from .._engine.records import is_intact
from .._engine.rules import damaged_output, refusal_of_put
from .._engine.run_operations import RecordFailure
from .._values.codec import DELETED, Encoded, checksum
from .._waiting.outcome import Outcome
from ..errors import CorruptStoreError, OutputDeletedError, RunDeletedError
from .arrays import integers, texts
from .retry import halved
from .write import Write, WriteContext

GROUP_LIMITS = GroupLimits(operations=256, bytes=2**20)
"""How much one statement writes, or reads back to compare it, at most."""

Put: TypeAlias = PutOutput | LoadOutput
Outcomes: TypeAlias = dict[int, Outcome[list[Any]]]
"""By index in the group, or in the unit."""


def serial_meant(operation: Put | AppendOutput | RecordFailure) -> int | None:
    """Of the run that alone may take the output. None: whichever has the id."""
    return None if isinstance(operation, LoadOutput) else operation.run


@dataclass(slots=True)
class PutRow:
    serial: int
    """Of its run."""
    index: int
    """In the group, or in the unit."""
    put: Put


class OutputRows:
    """The rows of outputs, for the modules that write them."""

    def __init__(self, context: WriteContext) -> None:
        self._location = context.location
        self._connection = context.connection
        self._statements = context.statements
        self._serials = context.serials

    async def serials_of(self, flow_run_ids: Sequence[str], write: Write) -> dict[str, int | None]:
        """The serials of the runs, which are made if they are new; None: the run is deleted."""
        found = {run: self._serials.get(run) for run in flow_run_ids}
        missing = [run for run, serial in found.items() if serial is None]
        while missing:
            rows = await self._connection.fetch(write.deadline, self._statements.find_runs, missing)
            looked_up = {run: None if is_deleted else serial for run, serial, is_deleted in rows}
            found |= looked_up
            missing = [run for run in missing if run not in looked_up]
            if missing:
                insert = self._statements.insert_runs
                new = await self._connection.fetch(write.deadline, insert, missing, write.write_id, write.now)
                found |= dict(new)
                missing = [run for run in missing if found[run] is None]  # another client has made them meanwhile
        return found

    async def serials_for(
        self, operations: Iterable[Put | AppendOutput | RecordFailure], write: Write
    ) -> dict[str, int | None]:
        """Those that the operations go to; new runs are made in the order of these.

        No run is made for one that means a certain run, and so another life.
        """
        operations = list(operations)
        free = dict.fromkeys(one.flow_run_id for one in operations if serial_meant(one) is None)
        serials = await self.serials_of(list(free), write)
        others = sorted({one.flow_run_id for one in operations} - free.keys())
        if others:
            rows = await self._connection.fetch(write.deadline, self._statements.find_runs, others)
            serials |= dict.fromkeys(others)
            serials |= {run: None if is_deleted else serial for run, serial, is_deleted in rows}
        return serials

    def remember(self, serials: Mapping[str, int | None]) -> None:
        """What is committed, and so may be gone by."""
        self._serials.bound()
        for run, serial in serials.items():
            if serial is not None:
                self._serials.add(run, serial)

    async def insert(self, rows: Sequence[PutRow], write: Write) -> set[int]:
        """The indexes of those rows that were not there and are now."""
        columns = columns_of(rows, write.now)
        if any(row.put.made is not None for row in rows):
            new = await self._insert_made(rows, columns, write)
        elif len(rows) == 1:
            statement, row = self._statements.insert_output, [column[0] for column in columns]
            new = await self._connection.fetch(write.deadline, statement, *row, write.write_id)
        else:
            statement, arrays = self._statements.insert_outputs, arrays_of(*columns)
            runs = list({row.serial for row in rows})
            new = await self._connection.fetch(write.deadline, statement, *arrays, write.write_id, runs)
        if len(new) == len(rows):
            return {row.index for row in rows}
        keys = {tuple(row) for row in new}
        return {row.index for row in rows if (row.serial, row.put.node_id) in keys}

    async def _insert_made(self, rows: Sequence[PutRow], columns: tuple[list[Any], ...], write: Write) -> list[Any]:
        """The same where attempts of steps have made some of them; the number is one where none was looked up."""
        mades = [row.put.made for row in rows if row.put.made is not None]
        is_first = any(made.number is None for made in mades)
        attempts = [_attempt_of(row.put) for row in rows]
        deadline = write.deadline
        if len(rows) == 1:
            statement, row = self._statements.insert_made_output, [column[0] for column in columns]
            return await self._connection.fetch(deadline, statement, *row, write.write_id, attempts[0], is_first)
        statement, runs = self._statements.insert_made_outputs, list({row.serial for row in rows})
        given = *arrays_of(*columns), write.write_id, runs, attempts, is_first
        return await self._connection.fetch(deadline, statement, *given)

    async def resolve_conflicts(self, rows: Sequence[PutRow], write: Write) -> Outcomes:
        """What became of rows that were not inserted; an index that is missing is to be tried again."""
        outcomes: Outcomes = {}
        of_others: list[tuple[PutRow, int]] = []
        for row, (run_is_there, is_deleted, writer, size, codec) in await self._conflicts(rows, write):
            run = row.put.flow_run_id
            if not run_is_there or is_deleted:
                self._serials.forget([run])
            if is_deleted or (not run_is_there and serial_meant(row.put) is not None):
                outcomes[row.index] = Outcome.failure(RunDeletedError(run))
            elif writer == write.write_id:
                outcomes[row.index] = Outcome([True])
            elif writer is None:
                continue
            elif codec == DELETED:
                outcomes[row.index] = Outcome.failure(OutputDeletedError(run, row.put.node_id))
            elif row.put.exist_ok == "keep":  # whatever it is: nothing of it need be read
                outcomes[row.index] = Outcome([False])
            else:
                of_others.append((row, size))
        for some in portions(of_others, lambda row_and_size: max(0, row_and_size[1]), *GROUP_LIMITS):
            outcomes |= await self.compare_stored([row for row, _ in some], write)
        return outcomes

    async def is_written_by(self, write: Write, rows: Sequence[PutRow]) -> bool:
        """Whether one of the rows bears the id: an earlier attempt has been committed."""
        return bool(await self.written_by(write, rows))

    async def written_by(self, write: Write, rows: Sequence[PutRow]) -> list[PutRow]:
        """Those of the rows that bear the id."""
        return [row for row, found in await self._conflicts(rows, write) if found[2] == write.write_id]

    async def _conflicts(self, rows: Sequence[PutRow], write: Write) -> list[tuple[PutRow, Any]]:
        """Each with what stands there: whether its run is there, and deleted; the output's writer, size and codec."""
        if not rows:
            return []
        names = [row.put.flow_run_id for row in rows]
        statement = self._statements.find_conflicts
        found = await self._connection.fetch(write.deadline, statement, *_keys(rows), names)
        return list(zip(rows, found, strict=True))

    async def compare_stored(self, rows: Sequence[PutRow], write: Write) -> Outcomes:
        """The outcomes of puts to outputs that another write has stored; none of one that is deleted since."""

        async def compare(some: Sequence[PutRow]) -> Outcomes:
            statement = self._statements.stored_values
            found = await self._connection.fetch(write.deadline, statement, *_keys(some))
            stored = zip(some, found, strict=True)
            return {row.index: self._compared(row.put, columns) for row, columns in stored if columns[1] is not None}

        outcomes: Outcomes = {}
        for part in await halved(rows, compare, lambda row, error: {row.index: self._damaged(row.put, error)}):
            outcomes |= part
        return outcomes

    def _compared(self, put: Put, columns: Sequence[Any]) -> Outcome[list[Any]]:
        codec, data, crc, size, tag, attempt = columns
        stored = Encoded(codec, data, tag)
        if codec != DELETED and not is_intact(put.flow_run_id, put.node_id, stored, crc, size, attempt):
            return self._damaged(put)
        refusal = refusal_of_put(put, stored)
        return Outcome([False]) if refusal is None else Outcome.failure(refusal)

    def _damaged(self, put: Put, error: CorruptStoreError | None = None) -> Outcome[list[Any]]:
        return Outcome.failure(damaged_output(self._location, put.flow_run_id, put.node_id, error))


def _keys(rows: Sequence[PutRow]) -> tuple[list[int], list[str]]:
    return [row.serial for row in rows], [row.put.node_id for row in rows]


def columns_of(rows: Sequence[PutRow], now: int) -> tuple[list[Any], ...]:
    """What is written of outputs, as ``arrays_of`` takes it."""
    puts = [row.put for row in rows]
    return (
        *_keys(rows),
        [put.value.codec for put in puts],
        [checksum(put.flow_run_id, put.node_id, put.value, _attempt_of(put)) for put in puts],
        [put.value.data for put in puts],
        [put.written_at if isinstance(put, LoadOutput) else now for put in puts],
        [put.flow_run_id for put in puts],
        [put.value.tag for put in puts],
    )


def _attempt_of(put: Put) -> str | None:
    """What stands in its row: see ``_insert_made``."""
    made = put.made
    if made is None:
        return None
    return attempt_text(made, 1 if made.number is None else made.number)


def arrays_of(
    runs: list[int],
    node_ids: list[str],
    codecs: list[int],
    checksums: list[int],
    values: list[bytes],
    times: list[int],
    flow_run_ids: list[str],
    tags: list[str | None],
) -> tuple[Any, ...]:
    """The columns as the statement for many rows takes them."""
    numbers = integers(codecs), integers(checksums)
    return integers(runs), texts(node_ids), *numbers, values, integers(times), texts(flow_run_ids), tags
