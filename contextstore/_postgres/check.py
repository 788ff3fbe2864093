"""Looking at all that a store in PostgreSQL holds, for damage.

Rules of this module: it only reads, page by page, first what is small and then the values. It stops at nothing: what
cannot be read is a problem of its own key and keeps no other from being looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from .._engine.check_progress import CheckProgress
from .._engine.portions import portions
from .._engine.records import OutputKey, is_time
from .._engine.rules import StoredGlobal, read_global
from .._engine.run_states import StoredState, problems_of
from .._results import CheckReport, Problem
from ..errors import CorruptStoreError
from .fact_check import FactCheck
from .pool import ReadPool
from .reads import PAGE_BYTES, Reads
from .retry import halved
from .statements import Statements

_MAX_TIME = 253_402_300_799_999_999
_PAGE_ROWS = 500
_COUNTED_RUNS = 20_000
"""Of how many runs one statement counts the outputs."""
"""As many as the statements of the check give."""


class Check:
    """One look at everything, with what it has found so far."""

    def __init__(self, location: str, pool: ReadPool, statements: Statements, reads: Reads) -> None:
        self._location = location
        self._pool = pool
        self._statements = statements
        self._reads = reads
        self._problems: list[Problem] = []
        self._outputs = self._globals = self._leftovers = 0
        self._marks: Counter[int] = Counter()
        """How many marks of deleted outputs there are, by the serial of the run."""
        self._progress: CheckProgress | None = None

    async def run(self, report: Callable[[int, int], None] | None) -> CheckReport:
        """``report`` is told how many outputs and globals were looked at, and how many there are."""
        if report is not None:
            ((total,),) = await self._pool.fetch(self._statements.check_total)
            self._progress = CheckProgress(report, total)
        found = await self._look()
        if self._progress is not None:
            self._progress.end()
        return found

    async def _look(self) -> CheckReport:
        await self._check_outputs()
        await self._check_globals()
        for flow_run_id, created_at, deleted_at in await self._pool.fetch(self._statements.check_runs, _MAX_TIME):
            self._report("run", (flow_run_id,), f"{created_at!r} or {deleted_at!r} is no time")
        await self._check_appends()
        await self._check_states()
        await self._check_marks()
        await self._check_attempts()
        await self._check_counts()
        async for problem in FactCheck(self._location, self._pool, self._statements).problems():
            self._problems.append(problem)
        note = f"{self._leftovers} outputs of deleted runs still take up space: prune() removes them"
        notes = (note,) if self._leftovers else ()
        runs = (await self._reads.count()).runs
        return CheckReport(runs, self._outputs, self._globals, tuple(self._problems), notes)

    def _has_looked_at(self, count: int) -> None:
        if self._progress is not None:
            self._progress.add(count)

    def _report(self, kind: Any, key: tuple[str, ...], problem: str) -> None:
        self._problems.append(Problem(kind, key, problem))

    # -- outputs ------------------------------------------------------------------------------------------------------

    async def _check_outputs(self) -> None:
        run, node_id = -1, ""
        while rows := await self._pool.fetch(self._statements.check_outputs, run, node_id):
            run, node_id = rows[-1][:2]
            sizes: dict[OutputKey, int] = {}
            for serial, node, flow_run_id, is_deleted, written_at, size, is_output in rows:
                self._outputs += is_output
                self._marks[serial] += not is_output
                self._leftovers += is_deleted
                if flow_run_id is None:
                    self._report("output", (f"run number {serial}", node), "it belongs to no run")
                elif not is_deleted:
                    sizes[flow_run_id, node] = size
                    if not is_time(written_at):
                        self._report("output", (flow_run_id, node), f"{written_at!r} is no time")
            self._has_looked_at(len(rows) - len(sizes))
            for part in portions(sizes.items(), _size_of, _PAGE_ROWS, PAGE_BYTES):
                await self._check_values([key for key, _ in part])
                self._has_looked_at(len(part))

    async def _check_values(self, keys: list[OutputKey]) -> None:
        _, outcomes = await self._reads.outputs(keys)
        for key, outcome in zip(keys, outcomes, strict=True):
            if outcome.error is not None and not any(problem.key == key for problem in self._problems):
                self._report("output", key, str(outcome.error))

    # -- appends ------------------------------------------------------------------------------------------------------

    async def _check_appends(self) -> None:
        for serial, flow_run_id, prefix, last in await self._pool.fetch(self._statements.check_append_counters):
            problem = "belongs to no run" if flow_run_id is None else f"is {last!r}, which is no number"
            name = f"run number {serial}" if flow_run_id is None else flow_run_id
            self._report("run", (name,), f"its counter of prefix {prefix!r} {problem}")
        for serial, key in await self._pool.fetch(self._statements.check_append_keys):
            self._report("run", (f"run number {serial}",), f"its append key {key!r} belongs to no run")

    async def _check_states(self) -> None:
        after: tuple[int, str] = (0, "")
        is_first = True
        while rows := await self._pool.fetch(self._statements.check_states, *after, is_first, PAGE_BYTES):
            is_first, after = False, (rows[-1][-1], rows[-1][2])
            for flow_run_id, is_deleted, *row in rows:
                if not is_deleted:
                    self._problems += problems_of(flow_run_id, StoredState(*row))

    async def _check_marks(self) -> None:
        """Whether each run has as many as its row says; looked at again, since others may have deleted some since."""
        said = dict(await self._pool.fetch(self._statements.said_marks))
        doubtful = [serial for serial in said.keys() | self._marks if said.get(serial, 0) != self._marks[serial]]
        for flow_run_id, marks, found in await self._pool.fetch(self._statements.check_marks, doubtful):
            message = f"{found} of its outputs are marked as deleted, and its row says {marks}"
            self._report("run", (flow_run_id,), message)

    async def _check_attempts(self) -> None:
        for serial, flow_run_id, said, found in await self._pool.fetch(self._statements.check_attempts):
            if flow_run_id is None:
                self._report("run", (f"run number {serial}",), "its failed attempts belong to no run")
            else:
                message = f"{found} failed attempts are kept of it, and its row says that {said} have failed"
                self._report("run", (flow_run_id,), message)
        for flow_run_id, node_id, number in await self._pool.fetch(self._statements.check_failures, _MAX_TIME):
            message = f"its failed attempt {number!r} of node {node_id!r} has no number, or no time"
            self._report("run", (flow_run_id,), message)

    async def _check_counts(self) -> None:
        """Whether each run has as many outputs as its row has counted."""
        after: int | None = -1
        while after is not None:
            rows = await self._pool.fetch(self._statements.check_counts, after, _COUNTED_RUNS)
            after = rows[0][0]
            for _, flow_run_id, said, found in rows:
                if flow_run_id is not None:
                    message = f"{found} outputs of it were counted, marks of deleted ones too, and its row says {said}"
                    self._report("run", (flow_run_id,), message)

    # -- globals ------------------------------------------------------------------------------------------------------

    async def _check_globals(self) -> None:
        after, is_first = "", True
        while rows := await self._pool.fetch(self._statements.check_globals, after, is_first):
            is_first, after = False, rows[-1][0]
            sizes: dict[str, int] = {}
            for name, version, written_at, size, is_deleted, expires_at in rows:
                if version < 1 or not is_time(written_at):
                    self._report("global", (name,), f"{version!r} is no version, or {written_at!r} no time")
                elif expires_at is not None and not is_time(expires_at):
                    self._report("global", (name,), f"{expires_at!r} is no time")
                elif not is_deleted:
                    sizes[name] = size
            self._globals += len(sizes)
            self._has_looked_at(len(rows) - len(sizes))
            for part in portions(sizes.items(), _size_of, _PAGE_ROWS, PAGE_BYTES):
                for damaged in await halved([name for name, _ in part], self._damaged_globals, _as_problem):
                    self._problems += damaged
                self._has_looked_at(len(part))

    async def _damaged_globals(self, names: Sequence[str]) -> list[Problem]:
        problems: list[Problem] = []
        for row in await self._pool.fetch(self._statements.values_of_globals, list(names)):
            try:
                read_global(self._location, StoredGlobal(*row))
            except CorruptStoreError as error:
                problems += _as_problem(row[0], error)
        return problems


def _as_problem(name: str, error: CorruptStoreError) -> list[Problem]:
    return [Problem("global", (name,), str(error))]


def _size_of(item: tuple[object, int]) -> int:
    return max(0, item[1])  # a damaged row may say that it has fewer than no bytes
