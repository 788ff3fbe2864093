"""Reading what a store has: single outputs and globals, pages of them, lists of runs.

Rules of this module: each call is a statement or a few, over a connection that reads. What may be damaged is read as a
row and judged in ``rules``; damage that the server itself finds is told for the row that has it, and for no other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TypeAlias

from .._engine.attempts import AttemptKey, AttemptPage, MadeRow, attempt_page
from .._engine.epochs import Epoch
from .._engine.fact_rules import row_with_facts
from .._engine.pages import OutputPage, PageTaker, Part
from .._engine.records import (
    AppendCounter,
    AppendKey,
    AttemptRecord,
    Counts,
    Extent,
    Fetched,
    GlobalRecord,
    GlobalRow,
    IdleRuns,
    OutputKey,
    RunLife,
    RunRow,
    after_prefix,
)
from .._engine.rules import (
    StoredGlobal,
    damaged_output,
    read_global,
    read_global_row,
    read_global_there,
    read_output,
)
from .._values.keys import MAX_KEY_BYTES
from .._waiting.deadline import Deadline
from .._waiting.outcome import Outcome
from ..errors import CorruptStoreError
from .arrays import texts
from .connection import Connection
from .epoch import StoreEpoch
from .pool import ReadPool
from .retry import deadline_of_call, halved
from .statements import Statements

PAGE_BYTES = 2**20
"""How many bytes of values one answer of the server has, about."""
_RUNS_A_PAGE = 20_000
"""How many runs, and tombstones, one statement looks through at most."""
_MANY = 1000
"""How many outputs of a run are looked at together with those of other runs."""
_NODE_IDS = 5000
"""How many node ids one answer of the server has."""
_END = "\U0010ffff" * (MAX_KEY_BYTES // 4 + 1)
"""Above every id: it begins with the highest one that there can be."""

_Outputs: TypeAlias = tuple[Epoch, list[Fetched]]


class Reads:
    """The reads of an engine: see ``_engine/contract`` for what each one answers."""

    def __init__(
        self, location: str, pool: ReadPool, statements: Statements, epoch: StoreEpoch, timeout: float
    ) -> None:
        self._location = location
        self._pool = pool
        self._statements = statements
        self._epoch = epoch
        self._timeout = timeout

    # -- outputs ------------------------------------------------------------------------------------------------------

    async def outputs(self, keys: Sequence[OutputKey]) -> tuple[Epoch, list[Fetched]]:
        parts = await halved(keys, self._outputs, self._damaged)
        epoch, found = parts[0]
        for of_part, more in parts[1:]:
            epoch = epoch if epoch == of_part else None
            found += more
        return epoch, found

    async def _outputs(self, keys: Sequence[OutputKey]) -> _Outputs:
        found: list[Fetched] = [Outcome(None)] * len(keys)
        asked_at = time.monotonic()
        # The epoch comes with what was read, by the same snapshot: else a run that another client has begun anew under
        # its id would stand in the cache beside its former life. None comes where nothing is there to be kept.
        flow_run_ids, node_ids = texts([key[0] for key in keys]), texts([key[1] for key in keys])
        rows = await self._pool.fetch(self._statements.fetch_outputs, flow_run_ids, node_ids)
        epoch: Epoch = None
        for row in rows:
            flow_run_id, node_id = keys[row[0] - 1]
            found[row[0] - 1] = read_output(self._location, flow_run_id, (node_id, *row[2:]))
        if rows:
            epoch = (rows[0][1],)
            self._epoch.asked.note(epoch, asked_at)
        return epoch, found

    def _damaged(self, key: OutputKey, error: CorruptStoreError) -> _Outputs:
        return None, [Outcome.failure(damaged_output(self._location, *key, error))]

    async def exists(self, key: OutputKey) -> bool:
        return bool(await self._pool.fetch(self._statements.exists, *key))

    async def ping(self) -> None:
        await self._pool.fetch(self._statements.format)

    async def first_node_ids(self, flow_run_id: str, part: Part, limit: int) -> list[str]:
        statement = self._statements.last_node_ids if part.reverse else self._statements.first_node_ids
        ((names,),) = await self._pool.fetch(statement, flow_run_id, *_bounds(part), limit)
        return names or []

    async def list_node_ids(self, flow_run_id: str, part: Part, limit: int | None) -> list[str]:
        async def list_all(connection: Connection, deadline: Deadline) -> list[str]:
            async with connection.transaction(deadline, snapshot=True):
                return await self._page_node_ids(connection, flow_run_id, part, limit)

        return await self._pool.run(list_all)

    async def _page_node_ids(
        self, connection: Connection, flow_run_id: str, part: Part, limit: int | None
    ) -> list[str]:
        names: list[str] = []
        while True:
            most = _NODE_IDS if limit is None else min(_NODE_IDS, limit - len(names))
            deadline = deadline_of_call(self._timeout)  # of each answer: there may be many
            statement = self._statements.last_node_ids if part.reverse else self._statements.first_node_ids
            ((page,),) = await connection.fetch(deadline, statement, flow_run_id, *_bounds(part), most)
            names += page or []
            if len(page or []) < _NODE_IDS or len(names) == limit:
                return names
            part = part._replace(after=names[-1])

    async def every_node_id(self, flow_run_id: str) -> list[str]:
        """All of a run, by a single answer where that has them."""
        names = await self.first_node_ids(flow_run_id, Part(), _NODE_IDS)
        return await self.list_node_ids(flow_run_id, Part(), None) if len(names) == _NODE_IDS else names

    async def list_outputs(
        self, flow_run_id: str, run: int | None, part: Part, limit: int, max_bytes: int
    ) -> OutputPage:
        listed = self._statements.list_outputs_reversed if part.reverse else self._statements.list_outputs
        page = PageTaker(self._location, flow_run_id, limit, max_bytes)
        try:
            page.take(await self._pool.fetch(listed, flow_run_id, run, *_bounds(part), limit, max_bytes))
        except CorruptStoreError as error:
            if limit > 1:
                return (await self.list_outputs(flow_run_id, run, part, 1, max_bytes))._replace(is_last=False)
            last, first = self._statements.last_node_id_in_part, self._statements.next_node_id_in_part
            names = await self._pool.fetch(last if part.reverse else first, flow_run_id, *_bounds(part))
            if not names:
                raise
            return OutputPage([], damaged_output(self._location, flow_run_id, names[0][0], error), is_last=False)
        return page.page()

    async def page_outputs(
        self, flow_run_id: str, run: int | None, after: str, limit: int, max_bytes: int, with_marks: bool = False
    ) -> list[Fetched]:
        statement = self._statements.page_outputs
        try:
            rows = await self._pool.fetch(statement, flow_run_id, run, after, limit, max_bytes, with_marks)
        except CorruptStoreError as error:
            if limit > 1:
                return await self.page_outputs(flow_run_id, run, after, 1, max_bytes, with_marks)
            names = await self._pool.fetch(self._statements.next_node_id, flow_run_id, after)
            if not names:
                raise
            return [Outcome.failure(damaged_output(self._location, flow_run_id, names[0][0], error))]
        return [read_output(self._location, flow_run_id, row) for row in rows]

    # -- runs ---------------------------------------------------------------------------------------------------------

    async def page_idle_runs(self, after: int, idle_since: int, limit: int, states: Sequence[int] | None) -> IdleRuns:
        ((last,),) = await self._pool.fetch(self._statements.end_of_page, after, _RUNS_A_PAGE)
        if last is None:
            return IdleRuns([], 0, None, None)
        bounds = after, last, idle_since, limit, _MANY, None if states is None else list(states)
        rows = await self._pool.fetch(self._statements.idle_runs, *bounds)
        if len(rows) == limit:
            last = rows[-1][0]
        large = [serial for serial, _, count in rows if count is not None and count > _MANY]
        busy = await self._not_idle(large, idle_since)
        ((looked_at,),) = await self._pool.fetch(self._statements.count_page, after, last)
        idle = [(name, count) for serial, name, count in rows if count is not None and serial not in busy]
        return IdleRuns(idle, looked_at, last, None)

    async def _not_idle(self, large: list[int], idle_since: int) -> set[int]:
        """Those of the runs that are not idle, by all of their outputs."""
        if not large:
            return set()
        return {
            serial
            for serial, _, _, first, last in await self._pool.fetch(self._statements.extents, large)
            if first is None or not (first >= 0 and last < idle_since)  # None: removed since by another client
        }

    async def measure_runs(self, flow_run_ids: Sequence[str]) -> Extent:
        (row,) = await self._pool.fetch(self._statements.measure_runs, list(flow_run_ids))
        return Extent(*map(int, row))

    async def count_runs(self) -> int:
        ((count,),) = await self._pool.fetch(self._statements.count_runs)
        return int(count)

    async def find_run(self, flow_run_id: str) -> tuple[Epoch, RunLife | None]:
        asked_at = time.monotonic()
        rows = await self._pool.fetch(self._statements.find_run, flow_run_id)
        if not rows:
            return None, None
        ((serial, is_deleted, deletions),) = rows
        self._epoch.asked.note((deletions,), asked_at)
        return (deletions,), RunLife(serial, is_deleted)

    async def alive_among(self, serials: Sequence[int]) -> list[int]:
        rows = await self._pool.fetch(self._statements.alive_among, list(serials))
        return [serial for (serial,) in rows]

    async def deleted_among(self, flow_run_ids: Sequence[str]) -> list[str]:
        rows = await self._pool.fetch(self._statements.deleted_among, list(flow_run_ids))
        return [flow_run_id for (flow_run_id,) in rows]

    async def page_unfinished_deletions(self, after: int) -> tuple[list[str], int | None]:
        ((last,),) = await self._pool.fetch(self._statements.end_of_deletions, after, _RUNS_A_PAGE)
        if last is None:
            return [], None
        rows = await self._pool.fetch(self._statements.unfinished_deletions, after, last)
        return [flow_run_id for (flow_run_id,) in rows], int(last)

    async def count_tombstones(self, deleted_before: int) -> int:
        ((count,),) = await self._pool.fetch(self._statements.count_tombstones, deleted_before)
        return int(count)

    async def page_run_rows(self, after: int, limit: int) -> list[RunRow]:
        rows = await self._pool.fetch(self._statements.page_run_rows, after, limit)
        return [row_with_facts(self._location, RunRow(*row[:5]), row[5:]) for row in rows]

    async def page_append_counters(self, flow_run_id: str, after: str | None, limit: int) -> list[AppendCounter]:
        statement = self._statements.page_append_counters
        return [AppendCounter(*row) for row in await self._pool.fetch(statement, flow_run_id, after, limit)]

    async def page_append_keys(
        self, flow_run_id: str, run: int, after: tuple[str, str] | None, limit: int
    ) -> list[AppendKey]:
        bounds = flow_run_id, run, *(after or ("", "")), limit  # no key is empty
        return [AppendKey(*row) for row in await self._pool.fetch(self._statements.page_append_keys, *bounds)]

    async def page_attempts(
        self, flow_run_id: str, run: int | None, node_id: str | None, after: AttemptKey, limit: int
    ) -> AttemptPage:
        rows = await self._pool.fetch(self._statements.page_attempts, flow_run_id, run, node_id, *after, limit)
        failures = [AttemptRecord(*row[1:7]) for row in rows if row[0]]
        outputs = [MadeRow(row[1], row[7], row[4]) for row in rows if not row[0]]
        return attempt_page(failures, outputs, after, limit)

    # -- globals ------------------------------------------------------------------------------------------------------

    async def fetch_global(self, key: str) -> GlobalRecord | None:
        rows = await self._pool.fetch(self._statements.fetch_global, key)
        return self._global_record(rows[0]) if rows else None

    async def page_globals(self, prefix: str, after: str | None, limit: int) -> list[GlobalRecord]:
        where = max(prefix, after or ""), end_of(prefix), after
        rows = await self._pool.fetch(self._statements.page_globals, *where, limit)
        return [self._global_record(row) for row in rows]

    async def fetch_globals(self, keys: Sequence[str]) -> list[Outcome[GlobalRecord | None]]:
        parts = await halved(keys, self._fetch_globals, lambda _, error: [Outcome.failure(error)])
        return [outcome for part in parts for outcome in part]

    async def _fetch_globals(self, keys: Sequence[str]) -> list[Outcome[GlobalRecord | None]]:
        rows = await self._pool.fetch(self._statements.fetch_globals, list(keys))
        found = {row[0]: read_global_there(self._location, StoredGlobal(*row)) for row in rows}
        return [found.get(key) or Outcome(None) for key in keys]

    async def list_global_keys(self, prefix: str, after: str | None, limit: int | None) -> list[str]:
        where = max(prefix, after or ""), end_of(prefix), after
        return [key for (key,) in await self._pool.fetch(self._statements.list_global_keys, *where, limit)]

    async def count_passing_globals(self) -> int:
        ((count,),) = await self._pool.fetch(self._statements.count_passing_globals)
        return int(count)

    async def freed_version(self) -> int:
        ((version,),) = await self._pool.fetch(self._statements.freed_version)
        return int(version)

    def _global_record(self, row: Sequence[Any]) -> GlobalRecord:
        return read_global(self._location, StoredGlobal(*row))

    async def page_global_rows(self, after: str | None, limit: int) -> list[Outcome[GlobalRow]]:
        try:
            rows = await self._pool.fetch(self._statements.page_global_rows, after, limit, PAGE_BYTES)
        except CorruptStoreError as error:
            if limit > 1:
                return await self.page_global_rows(after, 1)
            names = await self._pool.fetch(self._statements.next_global, after)
            if not names:
                raise
            return [Outcome.failure(CorruptStoreError(error.message, key=names[0][0], code=error.code))]
        return [read_global_row(self._location, StoredGlobal(*row)) for row in rows]

    # -- everything ---------------------------------------------------------------------------------------------------

    async def count(self) -> Counts:
        (row,) = await self._pool.fetch(self._statements.count)
        return Counts(*map(int, row))

    async def size(self) -> tuple[str, int]:
        """The server's version, and how many bytes the tables have there."""
        ((version, size),) = await self._pool.fetch(self._statements.size)
        return version, int(size)


def end_of(prefix: str) -> str:
    """What sorts above every id with this prefix, and below all others above it: an index can be searched up to it."""
    return after_prefix(prefix) or _END


def _bounds(part: Part) -> tuple[str, str]:
    low, high = part.bounds("\1")  # the server stores no NUL
    return low, _END if high is None else high
