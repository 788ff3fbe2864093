"""Which ids appends get: what is looked up for it, and held until they are committed.

Rules of this module: steps within a transaction of the caller's, no SQL; nothing is tried again here. Which id is next
is decided in ``_engine/appending``.

The counter of a prefix is moved by one transaction at a time, which has taken a lock on the prefix before anything
else. So the transactions that append to a prefix get their ids in the order of its numbers, by which a feed that goes
by these ids reports the outputs in their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from .._engine.appending import PAGE_ROWS, NextIds, end_of_ids
from .._engine.operations import Appended, AppendOutput, LoadOutput, PutOutput
from .._waiting.deadline import Deadline
from .._waiting.outcome import Outcome
from ..errors import InvalidKeyError, RunDeletedError
from .outputs import PutRow
from .write import WriteContext

Placed: TypeAlias = PutOutput | LoadOutput | AppendOutput
_Head: TypeAlias = tuple[int, str]
"""A run, by its serial, and a prefix."""


@dataclass
class Head:
    """A prefix that is appended to."""

    flow_run_id: str
    before: int
    """The number given last, as it is stored."""
    ids: NextIds


@dataclass
class Placement:
    """What becomes of appends that are written together. By index in the group, or in the unit."""

    rows: list[PutRow] = field(default_factory=list)
    """What is to be written,"""
    prefixes: dict[int, str] = field(default_factory=dict)
    """each with its prefix,"""
    keys: dict[int, str] = field(default_factory=dict)
    """some with a key,"""
    heads: dict[_Head, Head] = field(default_factory=dict)
    """and with the counters."""
    outcomes: dict[int, Outcome[Appended]] = field(default_factory=dict)
    """Of all; a new one's holds once its row is committed."""
    twins: dict[int, int] = field(default_factory=dict)
    """Appends that give what another one of these is the first to write."""

    def place(self, index: int, append: AppendOutput, serial: int, head: Head) -> None:
        """Give an append its id. Raises InvalidKeyError if there is none."""
        node_id = head.ids.give()
        put = PutOutput(append.flow_run_id, node_id, append.value, exist_ok=False, run=append.run)
        self.rows.append(PutRow(serial, index, put))
        self.prefixes[index] = append.prefix
        if append.key is not None:
            self.keys[index] = append.key
        self.outcomes[index] = Outcome(Appended(node_id, True))


class Placing:
    """Gives appends their ids."""

    def __init__(self, context: WriteContext) -> None:
        self._connection = context.connection
        self._statements = context.statements
        self._schema = context.schema

    def locks(self, appends: Iterable[AppendOutput]) -> list[int]:
        """The numbers by which they lock their prefixes, sorted. Every client must come to the same."""
        return sorted({self._lock(append) for append in appends})

    def _lock(self, append: AppendOutput) -> int:
        name = f"{self._schema}\0{append.flow_run_id}\0{append.prefix}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), signed=True)

    async def lock(self, appends: Iterable[AppendOutput], deadline: Deadline) -> None:
        """Keep others from appending to the same prefixes, until the transaction ends. The first that it does."""
        await self._connection.execute(deadline, self._statements.lock_appends, self.locks(appends))

    async def place(
        self, operations: Mapping[int, Placed], serials: Mapping[str, int | None], deadline: Deadline
    ) -> Placement:
        """Give the appends among these their ids, in their order; an id that a put before them takes is passed over.

        Args:
            serials: of their runs; None: the run is deleted.
        """
        placement = Placement()
        appends = {
            index: one
            for index, one in operations.items()
            if isinstance(one, AppendOutput) and _is_alive(one, serials[one.flow_run_id])
        }
        known = await self._known_keys(appends, serials, deadline)
        taken: dict[str, set[str]] = {append.flow_run_id: set() for append in appends.values()}
        placement.heads = await self._heads(appends.values(), serials, taken, deadline)
        firsts: dict[tuple[int, str, str], int] = {}
        for index, operation in operations.items():
            serial = serials[operation.flow_run_id]
            if not isinstance(operation, AppendOutput):
                if operation.flow_run_id in taken:
                    taken[operation.flow_run_id].add(operation.node_id)
            elif serial is None or index not in appends:
                placement.outcomes[index] = Outcome.failure(RunDeletedError(operation.flow_run_id))
            elif index in known:
                placement.outcomes[index] = Outcome(Appended(known[index], False))
            elif operation.key is not None and (serial, operation.prefix, operation.key) in firsts:
                first = placement.twins[index] = firsts[serial, operation.prefix, operation.key]
                placement.outcomes[index] = Outcome(Appended(placement.outcomes[first].result.node_id, False))
            else:
                try:
                    await self._place(placement, index, operation, serial, deadline)
                except InvalidKeyError as error:
                    placement.outcomes[index] = Outcome.failure(error)
                    continue
                if operation.key is not None:
                    firsts[serial, operation.prefix, operation.key] = index
        return placement

    async def _place(
        self, placement: Placement, index: int, append: AppendOutput, serial: int, deadline: Deadline
    ) -> None:
        head = placement.heads[serial, append.prefix]
        while (first := head.ids.unseen()) is not None:
            bounds = serial, first, end_of_ids(append.prefix), PAGE_ROWS
            rows = await self._connection.fetch(deadline, self._statements.taken_ids, *bounds)
            head.ids.see(first, [node_id for (node_id,) in rows])
        placement.place(index, append, serial, head)

    async def _known_keys(
        self, appends: Mapping[int, AppendOutput], serials: Mapping[str, int | None], deadline: Deadline
    ) -> dict[int, str]:
        """What was appended before under the keys of these, by their index."""
        keyed = [
            (index, serial, append.prefix, append.key)
            for index, append in appends.items()
            if append.key is not None and (serial := serials[append.flow_run_id]) is not None
        ]
        if not keyed:
            return {}
        indexes, *columns = map(list, zip(*keyed, strict=True))
        rows = await self._connection.fetch(deadline, self._statements.find_append_keys, *columns)
        return {index: node_id for index, (node_id,) in zip(indexes, rows, strict=True) if node_id is not None}

    async def _heads(
        self,
        appends: Iterable[AppendOutput],
        serials: Mapping[str, int | None],
        taken: Mapping[str, set[str]],
        deadline: Deadline,
    ) -> dict[_Head, Head]:
        runs = {
            (serial, append.prefix): append.flow_run_id
            for append in appends
            if (serial := serials[append.flow_run_id]) is not None
        }
        if not runs:
            return {}
        columns = [serial for serial, _ in runs], [prefix for _, prefix in runs]
        rows = await self._connection.fetch(deadline, self._statements.last_appended, *columns, PAGE_ROWS)
        heads: dict[_Head, Head] = {}
        for (key, run), (last, ids_behind) in zip(runs.items(), rows, strict=True):
            ids = NextIds(key[1], last, taken[run])
            heads[key] = Head(run, last, ids)
            try:
                first = ids.unseen()
            except InvalidKeyError:  # told to those who ask for the next one
                continue
            if first is not None:
                ids.see(first, ids_behind)
        return heads

    # -- what is written ----------------------------------------------------------------------------------------------

    async def write(self, placement: Placement, deadline: Deadline) -> None:
        """Counters and keys of what was placed, in the same transaction as its rows."""
        heads = placement.heads
        counters = [(serial, prefix, head.ids.last) for (serial, prefix), head in heads.items()]
        await self.count_on(counters, deadline)
        await self.write_keys(
            [
                (row.serial, placement.prefixes[row.index], placement.keys[row.index], row.put.node_id)
                for row in placement.rows
                if row.index in placement.keys
            ],
            deadline,
        )

    async def count_on(self, counters: Sequence[tuple[int, str, int]], deadline: Deadline) -> None:
        """Move counters to these numbers, unless they are beyond them."""
        if counters:
            columns = map(list, zip(*counters, strict=True))
            await self._connection.execute(deadline, self._statements.count_on, *columns)

    async def write_keys(self, keys: Sequence[tuple[int, str, str, str]], deadline: Deadline) -> None:
        """Those that are there stay as they are."""
        if keys:
            columns = map(list, zip(*keys, strict=True))
            await self._connection.execute(deadline, self._statements.write_append_keys, *columns)

    async def ids_of_keys(self, keys: Sequence[tuple[int, str, str, str]], deadline: Deadline) -> list[str | None]:
        if not keys:
            return []
        columns = map(list, zip(*(key[:3] for key in keys), strict=True))
        rows = await self._connection.fetch(deadline, self._statements.find_append_keys, *columns)
        return [node_id for (node_id,) in rows]


def _is_alive(append: AppendOutput, serial: int | None) -> bool:
    """Whether the run that has the id is one that the append may go to."""
    return serial is not None and append.run in (None, serial)
