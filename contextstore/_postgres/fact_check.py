"""Looking at what is said of the runs of a store in PostgreSQL, for damage.

Rules of this module: it only reads, page by page. What others change meanwhile is no damage: each answer of the server
is of one moment, and what two of them say is compared where nothing has changed between them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from .._engine.fact_rules import attribute_rows, read_facts
from .._results import Problem
from ..errors import CorruptStoreError
from .pool import ReadPool
from .statements import Statements


class FactCheck:
    """One look at what is said of all runs."""

    def __init__(self, location: str, pool: ReadPool, statements: Statements) -> None:
        self._location = location
        self._pool = pool
        self._statements = statements

    async def problems(self) -> AsyncIterator[Problem]:
        async for problem in self._of_runs():
            yield problem
        after: tuple[Any, ...] = ("", "", 0)
        while rows := await self._pool.fetch(self._statements.check_attributes, *after):
            after = tuple(rows[-1][:3])
            for name, value, serial, flow_run_id, is_deleted, *facts, _ in rows:
                if flow_run_id is None:
                    yield _of_run(f"run number {serial}", f"the row of its attribute {name!r} belongs to no run")
                elif not is_deleted and not self._has(flow_run_id, facts, name, value):
                    yield _of_run(flow_run_id, f"it has no attribute {name!r} as a row says")

    async def _of_runs(self) -> AsyncIterator[Problem]:
        serial = 0
        while rows := await self._pool.fetch(self._statements.check_facts, serial):
            serial = rows[-1][0]
            names: dict[int, str] = {}
            expected: list[tuple[int, str, str, str]] = []
            for run, flow_run_id, *columns, _ in rows:
                names[run] = flow_run_id
                try:
                    attributes = read_facts(self._location, flow_run_id, columns).attributes
                except CorruptStoreError as error:
                    yield _of_run(flow_run_id, error.message)
                    continue
                expected += [(run, attributes or "", *row) for row in attribute_rows(attributes).items()]
            columns = [list(column) for column in zip(*expected, strict=True)] or [[], [], [], []]
            for run, name in await self._pool.fetch(self._statements.missing_attributes, *columns):
                yield _of_run(names[run], f"its attribute {name!r} has no row by which it would be found")

    def _has(self, flow_run_id: str, facts: Sequence[Any], name: str, value: str) -> bool:
        """Whether a run has the attribute. One whose facts are damaged is told of by itself."""
        try:
            return attribute_rows(read_facts(self._location, flow_run_id, facts).attributes).get(name) == value
        except CorruptStoreError:
            return True


def _of_run(flow_run_id: str, message: str) -> Problem:
    return Problem("run", (flow_run_id,), message)
