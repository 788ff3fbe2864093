"""The embedded engine: the contract of all engines, over a database of SQLite.

Rules of this module: it maps each call to statements (``writes``, ``reads``, ``deletion``, ``check``, ``backup``) and
to the database that they run on, which says where they run and what has to be looked at around them. No SQL, and
nothing of files.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .._engine.attempts import AttemptKey, AttemptPage
from .._engine.contract import GroupLimits
from .._engine.epochs import Epoch
from .._engine.lease_operations import Held
from .._engine.operations import PutOutput, Unit
from .._engine.pages import OutputPage, PageTaker, Part
from .._engine.portions import Portion
from .._engine.records import (
    AppendCounter,
    AppendKey,
    Counts,
    CursorFields,
    EngineStats,
    Extent,
    Fetched,
    GlobalRecord,
    GlobalRow,
    IdleRuns,
    LeaseRecord,
    NewsPage,
    OutputKey,
    Place,
    RunLife,
    RunRecord,
    RunRow,
    Watched,
    WatchStart,
)
from .._engine.run_feeds import RunFilter, RunNewsPage
from .._engine.run_query import RunGathering, RunIndex, RunPlace, RunQuery, RunRange, RunStep
from .._engine.run_states import RunStates
from .._results import CheckReport
from .._values.keys import named, named_state
from .._waiting.outcome import Outcome
from ..errors import ContextStoreError
from . import appends, attempts, deletion, idle_runs, leases, news, parts, reads, run_listing, run_news, run_states
from . import globals as many_globals
from .backup import back_up
from .check import check_and_tell, check_store
from .clock import now
from .database import Database
from .errors import translated, translated_os
from .writes import MAX_BYTES

T = TypeVar("T")


class SQLiteEngine:
    """A store in SQLite.

    Args:
        database: what it is kept in.
    """

    max_value_bytes = 256 * 2**20
    group_limits = GroupLimits(operations=512, bytes=MAX_BYTES)
    deletes_at_once = True  # one commit at a time

    def __init__(self, database: Database) -> None:
        self._database = database
        self.location = database.location
        self.own_threads = database.own_threads
        self.epochs = database.epochs
        self.feed = database.feed
        self.inline = database.inline
        self.reports = database.reports
        self.post_write = database.post_write
        self.post_read = database.post_read
        self.post_scan = database.post_scan

    async def open(self) -> None:
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    # -- within a write job --------------------------------------------------------------------------------------------

    async def acquire_write(self, wanted: Callable[[], bool]) -> bool:
        return self._database.writes.acquire(wanted)

    async def put_alone(self, put: PutOutput) -> bool:
        return self._database.writes.put_alone(put)

    async def begin_commit(self, wanted: Callable[[], bool]) -> bool:
        return self._database.writes.begin(wanted)

    async def commit(self, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        return self._database.writes.commit(units)

    def release_write(self) -> None:
        self._database.writes.release()

    async def maintain(self) -> None:
        self._database.writes.maintain()

    # -- within a read job, or a scan ----------------------------------------------------------------------------------

    async def fetch(self, keys: Sequence[OutputKey]) -> tuple[Epoch, list[Fetched]]:
        def query(connection: sqlite3.Connection) -> tuple[Epoch, list[Fetched]]:
            before = self._database.epoch_before(connection)
            found = reads.fetch_outputs(connection, self.location, keys)
            return self._database.epoch_after(connection, before), found

        return self._database.read("the outputs", query)

    async def exists(self, key: OutputKey) -> bool:
        return self._database.read(f"the output of {named(*key)}", lambda here: reads.exists(here, key))

    async def ping(self) -> None:
        self._database.read("the schema", reads.look)

    async def first_node_ids(self, flow_run_id: str, part: Part, limit: int) -> list[str]:
        what = f"the nodes of flow run {flow_run_id!r}"
        return self._database.read(what, lambda here: parts.first_node_ids(here, flow_run_id, part, limit))

    async def list_node_ids(self, flow_run_id: str, part: Part, limit: int | None) -> list[str]:
        what = f"the nodes of flow run {flow_run_id!r}"
        return self._database.read(what, lambda here: parts.list_node_ids(here, flow_run_id, part, limit))

    async def list_outputs(
        self, flow_run_id: str, run: int | None, part: Part, limit: int, max_bytes: int
    ) -> OutputPage:
        def query(connection: sqlite3.Connection) -> OutputPage:
            page = PageTaker(self.location, flow_run_id, limit, max_bytes)
            return parts.list_outputs(connection, self.location, (flow_run_id, run, part, limit), page)

        return self._database.read(f"the outputs of flow run {flow_run_id!r}", query)

    async def page_outputs(
        self, flow_run_id: str, run: int | None, after: str, limit: int, max_bytes: int, with_marks: bool = False
    ) -> list[Fetched]:
        def query(connection: sqlite3.Connection) -> list[Fetched]:
            portion = Portion(limit, max_bytes)
            return reads.page_outputs(connection, self.location, flow_run_id, run, after, portion, with_marks)

        return self._database.read(f"the outputs of flow run {flow_run_id!r}", query)

    async def fetch_run(self, flow_run_id: str) -> RunRecord | None:
        def query(connection: sqlite3.Connection) -> RunRecord | None:
            with reads.snapshot(connection):
                return run_listing.fetch_run(connection, self.location, flow_run_id)

        return self._database.read(f"flow run {flow_run_id!r}", query)

    async def find_run_place(self, flow_run_id: str) -> RunPlace | None:
        return self._database.read("the runs", lambda here: run_listing.find_run_place(here, flow_run_id))

    async def list_runs(
        self, query: RunQuery, index: RunIndex, place: RunPlace | None, most: int, limit: int
    ) -> RunStep:
        return self._database.read(
            "the runs", lambda here: run_listing.list_runs(here, self.location, query, index, place, most, limit)
        )

    async def count_index(self, query: RunQuery, index: RunIndex, place: RunPlace | None, most: int) -> int:
        return self._database.read("the runs", lambda here: run_listing.count_index(here, query, index, place, most))

    async def gather_runs(
        self, query: RunQuery, index: RunIndex, within: RunRange, after: str | int | None, most: int, limit: int
    ) -> RunGathering:
        return self._database.read(
            "the runs", lambda here: run_listing.gather_runs(here, query, index, within, after, most, limit)
        )

    async def describe_runs(self, query: RunQuery, serials: Sequence[int]) -> list[RunRecord]:
        return self._database.read(
            "the runs", lambda here: run_listing.describe_runs(here, self.location, query, serials)
        )

    async def page_idle_runs(
        self, after: int, idle_since: int, limit: int, states: tuple[int, ...] | None = None
    ) -> IdleRuns:
        def query(connection: sqlite3.Connection) -> IdleRuns:
            with reads.snapshot(connection):
                return idle_runs.page_idle_runs(connection, after, idle_since, limit, states)

        return self._database.read("the runs", query)

    async def measure_runs(self, flow_run_ids: Sequence[str]) -> Extent:
        return self._database.read("the runs", lambda here: deletion.measure_runs(here, flow_run_ids))

    async def count_runs(self) -> int:
        return self._database.read("the runs", reads.count_runs)

    async def find_run(self, flow_run_id: str) -> tuple[Epoch, RunLife | None]:
        def query(connection: sqlite3.Connection) -> tuple[Epoch, RunLife | None]:
            before = self._database.epoch_before(connection)
            found = reads.find_run(connection, flow_run_id)
            return self._database.epoch_after(connection, before), found

        return self._database.read(f"flow run {flow_run_id!r}", query)

    async def page_unfinished_deletions(self, after: int) -> tuple[list[str], int | None]:
        def query(connection: sqlite3.Connection) -> tuple[list[str], int | None]:
            with reads.snapshot(connection):
                return deletion.page_unfinished_deletions(connection, after)

        return self._database.read("the deleted runs", query)

    async def count_tombstones(self, deleted_before: int) -> int:
        return self._database.read("the deleted runs", lambda here: reads.count_tombstones(here, deleted_before))

    async def fetch_state(self, flow_run_id: str, key: str) -> RunStates:
        def query(connection: sqlite3.Connection) -> RunStates:
            before = self._database.epoch_before(connection)
            found = run_states.fetch_state(connection, self.location, flow_run_id, key)
            return RunStates(self._database.epoch_after(connection, before), *found)

        return self._database.read(named_state(flow_run_id, key), query)

    async def page_states(
        self,
        flow_run_id: str,
        run: int | None,
        bounds: tuple[str, str | None],
        after: str | None,
        limit: int,
        max_bytes: int,
    ) -> RunStates:
        def query(connection: sqlite3.Connection) -> RunStates:
            before = self._database.epoch_before(connection)
            wanted = run_states.Wanted(flow_run_id, run, bounds, after)
            found = run_states.page_states(connection, self.location, wanted, Portion(limit, max_bytes))
            return RunStates(self._database.epoch_after(connection, before), *found)

        return self._database.read(f"the state values of flow run {flow_run_id!r}", query)

    async def fetch_global(self, key: str) -> GlobalRecord | None:
        return self._database.read(f"global {key!r}", lambda here: reads.fetch_global(here, self.location, key))

    async def page_globals(self, prefix: str, after: str | None, limit: int) -> list[GlobalRecord]:
        return self._database.read(
            "the globals", lambda here: reads.page_globals(here, self.location, prefix, after, limit)
        )

    async def fetch_globals(self, keys: Sequence[str]) -> list[Outcome[GlobalRecord | None]]:
        return self._database.read("globals", lambda here: many_globals.fetch_globals(here, self.location, keys, now()))

    async def list_global_keys(self, prefix: str, after: str | None, limit: int | None) -> list[str]:
        return self._database.read(
            "the globals", lambda here: many_globals.list_global_keys(here, prefix, after, limit, now())
        )

    async def count_passing_globals(self) -> int:
        return self._database.read("the globals", lambda here: many_globals.count_passing_globals(here, now()))

    async def freed_version(self) -> int:
        return self._database.read("the globals", lambda here: many_globals.freed_version(here, self.location))

    async def find_lease(self, name: str) -> Held | None:
        return self._database.read(f"lease {name!r}", lambda here: leases.find_lease(here, name))

    async def list_leases(self, prefix: str) -> list[LeaseRecord]:
        return self._database.read("the leases", lambda here: leases.list_leases(here, prefix))

    async def last_token(self) -> int:
        return self._database.read("the leases", lambda here: leases.last_token(here, self.location))

    async def page_run_rows(self, after: int, limit: int) -> list[RunRow]:
        return self._database.read("the runs", lambda here: reads.page_run_rows(here, self.location, after, limit))

    async def page_append_counters(self, flow_run_id: str, after: str | None, limit: int) -> list[AppendCounter]:
        return self._database.read("the counters", lambda here: appends.page_counters(here, flow_run_id, after, limit))

    async def page_append_keys(
        self, flow_run_id: str, run: int, after: tuple[str, str] | None, limit: int
    ) -> list[AppendKey]:
        return self._database.read(
            "the append keys", lambda here: appends.page_keys(here, flow_run_id, run, after, limit)
        )

    async def page_attempts(
        self, flow_run_id: str, run: int | None, node_id: str | None, after: AttemptKey, limit: int
    ) -> AttemptPage:
        def query(connection: sqlite3.Connection) -> AttemptPage:
            with reads.snapshot(connection):
                return attempts.page_attempts(connection, flow_run_id, run, node_id, after, limit)

        return self._database.read(f"the attempts of flow run {flow_run_id!r}", query)

    async def page_global_rows(self, after: str | None, limit: int) -> list[Outcome[GlobalRow]]:
        return self._database.read(
            "the globals", lambda here: reads.page_global_rows(here, self.location, after, limit)
        )

    async def count(self) -> Counts:
        return self._database.read("the counts", reads.count)

    async def watch_from(self, watched: Watched, cursor: tuple[str, CursorFields] | None) -> WatchStart:
        return self._database.read("the history", lambda here: news.watch_from(here, self.location, watched, cursor))

    async def page_since(self, watched: Watched, place: Place, limit: int, max_bytes: int) -> NewsPage:
        def query(connection: sqlite3.Connection) -> NewsPage:
            return news.page_since(connection, self.location, watched, place, Portion(limit, max_bytes))

        return self._database.read("the outputs", query)

    async def newest_cursor(self) -> tuple[str, CursorFields]:
        return self._database.read("the history", lambda here: news.newest_cursor(here, self.location))

    async def watch_runs_from(self, cursor: tuple[str, CursorFields] | None) -> WatchStart:
        return self._database.read("the history", lambda here: run_news.watch_runs_from(here, self.location, cursor))

    async def page_runs_since(self, wanted: RunFilter, place: Place, limit: int) -> RunNewsPage:
        def query(connection: sqlite3.Connection) -> RunNewsPage:
            return run_news.page_runs_since(connection, self.location, wanted, place, limit)

        return self._database.read("the runs", query)

    async def newest_run_cursor(self) -> tuple[str, CursorFields]:
        return self._database.read("the history", lambda here: run_news.newest_cursor(here, self.location))

    # -- on the host's loop, beside the reads and writes ---------------------------------------------------------------

    async def stats(self) -> EngineStats:
        return self._database.stats()

    async def check(self, report: Callable[[int, int], None] | None) -> CheckReport:
        try:
            if report is None:
                return await self._database.run_aside(check_store)
            return await self._database.run_aside(lambda here: check_and_tell(here, report))
        except sqlite3.Error as error:  # where it cannot even be opened for it
            raise translated(error, self.location, "could not check") from error

    async def backup(self, path: str, report: Callable[[int, int], None], check: bool, overwrite: bool) -> None:
        def copy(connection: sqlite3.Connection) -> None:
            confirm = self._database.confirm
            back_up(connection, self.location, path, report, check=check, overwrite=overwrite, confirm=confirm)

        try:
            await self._database.run_aside(copy)
        except sqlite3.Error as error:
            raise translated(error, self.location, "could not back up") from error
        except OSError as error:
            if isinstance(error, ContextStoreError):
                raise
            raise translated_os(error, path, "could not make the backup") from error
