"""Which runs there are, on a server: by filters, each of which has an index, and with how many outputs each run has.

Rules of this module: no SQL. Each call is one statement, so that all it says is of one moment.
"""

from __future__ import annotations

from collections.abc import Sequence

from .._engine.records import RunRecord
from .._engine.run_query import RunGathering, RunIndex, RunPlace, RunQuery, RunRange, RunStep
from .pool import ReadPool
from .run_facts import record_of
from .run_listing_statements import ListingText
from .statements import Statements


class RunListing:
    """The reads of an engine that are about lists of runs: see ``_engine/contract`` for what each one answers."""

    def __init__(self, location: str, pool: ReadPool, statements: Statements) -> None:
        self._location = location
        self._pool = pool
        self._statements = statements

    async def find_run_place(self, flow_run_id: str) -> RunPlace | None:
        rows = await self._pool.fetch(self._statements.find_run_place, flow_run_id)
        return RunPlace(*rows[0]) if rows else None

    async def list_runs(
        self, query: RunQuery, index: RunIndex, place: RunPlace | None, most: int, limit: int
    ) -> RunStep:
        text, parameters = ListingText(self._statements, query, index, place).listing(most, limit)
        rows = await self._pool.fetch(text, *parameters)
        end, last, found = rows[0][:2], rows[0][2:4], rows[0][4]
        described = [record_of(self._location, row[5:]) for row in rows if row[5] is not None]
        after = last if found == limit else end
        runs = [record for record in described if record is not None]
        return RunStep(runs, None if after[0] is None else _place(query, *after))

    async def count_index(self, query: RunQuery, index: RunIndex, place: RunPlace | None, most: int) -> int:
        text, parameters = ListingText(self._statements, query, index, place).count(most)
        ((count,),) = await self._pool.fetch(text, *parameters)
        return int(count)

    async def gather_runs(
        self, query: RunQuery, index: RunIndex, within: RunRange, after: str | int | None, most: int, limit: int
    ) -> RunGathering:
        text, parameters = ListingText(self._statements, query, index, within.place).gathering(
            within.before, after, most, limit
        )
        rows = await self._pool.fetch(text, *parameters)
        return RunGathering([_place(query, *row[1:]) for row in rows if row[1] is not None], rows[0][0])

    async def describe_runs(self, query: RunQuery, serials: Sequence[int]) -> list[RunRecord]:
        rows = await self._pool.fetch(self._statements.describe_runs, list(serials))
        records = [record_of(self._location, row) for row in rows]
        return [record for record in records if record is not None and query.fits(record)]

    async def fetch_run(self, flow_run_id: str) -> RunRecord | None:
        """One run; None: it is not there."""
        rows = await self._pool.fetch(self._statements.run_record, flow_run_id)
        return record_of(self._location, rows[0]) if rows else None


def _place(query: RunQuery, serial: int, begun_at: int | None) -> RunPlace:
    return RunPlace(serial, begun_at if query.is_by_begin else None)
