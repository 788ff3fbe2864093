"""The engine for several machines: a schema in a PostgreSQL database.

Rules of this module: no SQL. It runs the store's jobs on the loop of the engine's thread, one of those that write at a
time, and hands each call to the part that it is about: writes to ``puts`` and ``units``, reads to ``reads``. One
connection writes, a few read. How a write is known again when its answer was lost stands in ``write``; why a deletion
marks first and removes later, in ``deletion``.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from .._engine.attempts import AttemptKey, AttemptPage
from .._engine.contract import Job
from .._engine.epochs import AskedEpochs, Epoch
from .._engine.failures import error_for_caller, report_bug
from .._engine.lease_operations import Held
from .._engine.operations import AppendOutput, PutOutput, Unit
from .._engine.pages import OutputPage, Part
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
from .._engine.reports import Reports
from .._engine.run_feeds import RunFilter, RunNewsPage
from .._engine.run_query import RunGathering, RunIndex, RunPlace, RunQuery, RunRange, RunStep
from .._engine.run_states import RunStates
from .._engine.serials import Serials
from .._process.log import log
from .._process.own_threads import OwnThreads
from .._results import CheckReport
from .._waiting.deadline import Deadline
from .._waiting.outcome import Outcome
from ..errors import StorageError
from .appends import Appends
from .check import Check
from .connection import Connection, import_driver
from .counting import Counting
from .epoch import StoreEpoch
from .errors import TransientError
from .feed import Feed
from .leases import LeaseReads
from .news import HistoryReads
from .opening import Opening, Terms, session_settings
from .outputs import GROUP_LIMITS, Outcomes
from .pool import ReadPool
from .puts import Puts
from .reads import Reads
from .retry import MIN_COMMIT_SECONDS, deadline_of_call, pauses
from .run_listing import RunListing
from .run_news import RunHistoryReads
from .run_states import StateReader
from .statements import statements_for
from .units import Units
from .url import Address
from .write import Write, WriteContext

_MAX_CONNECT_SECONDS = 5.0
"""Seconds that one attempt to reach the server gets at most, while a write waits for it."""


class _Jobs:
    """The jobs of a store, as tasks on the loop that this is made on."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._tasks: set[asyncio.Task[None]] = set()

    def post(self, job: Job) -> None:
        """Start a job. From any thread."""
        if threading.get_ident() == self._thread:
            self._start(job)
        else:  # in a context of its own, not in the first caller's for ever
            self._loop.call_soon_threadsafe(self._start, job, context=contextvars.Context())

    def _start(self, job: Job) -> None:
        task = asyncio.ensure_future(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Job) -> None:
        try:
            await job()
        except Exception as error:  # noqa: BLE001 - a bug; no caller waits for this task
            report_bug("a job of %s failed in an unforeseen way", self._location, error=error)

    async def finish(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)


class PostgresEngine:
    """A store in a schema of a PostgreSQL database, shared with any number of clients."""

    max_value_bytes = 16 * 2**20
    group_limits = GROUP_LIMITS
    deletes_at_once = False  # a put that began before may leave a row: runs are marked, and only then removed

    def __init__(
        self,
        address: Address,
        *,
        timeout: float,
        durability: str,
        read_only: bool,
        create: bool,
        max_connections: int = 4,
    ) -> None:
        import_driver()
        self.location = address.location
        self.own_threads = OwnThreads(self.location)
        self.reports = Reports(self.location, "postgresql", self.own_threads)
        self._timeout = timeout
        self._jobs: _Jobs | None = None
        self._write_lock = asyncio.Lock()
        self._turn_deadline = Deadline(timeout)
        """Until when the callers of this turn want to wait, about: from ``acquire_write`` for the commits after it."""
        terms = Terms(timeout, durability, read_only, create)
        settings = session_settings(terms)
        self._statements = statements = statements_for(address.schema)
        self._writing = Connection(address, settings, self.reports)
        self._serials = Serials()
        context = WriteContext(self.location, self._writing, statements, address.schema, self._serials)
        self._epoch = StoreEpoch(self.location, self._writing, statements)
        self._opening = Opening(address, terms, settings, context, self._epoch)
        self._puts = Puts(context)
        self._appends = Appends(context)
        self._units = Units(context, self._epoch)
        self._counting = Counting(self.location, self._writing, statements)
        self._pool = ReadPool(address, settings, self.reports, timeout, max_connections - 1)  # the other one writes
        self._reads = Reads(self.location, self._pool, statements, self._epoch, timeout)
        self._listing = RunListing(self.location, self._pool, statements)
        self._states = StateReader(self.location, self._pool, statements, self._epoch)
        self._history = HistoryReads(self.location, self._pool, statements)
        self._leases = LeaseReads(self._pool, statements)
        self.inline = None
        self._run_history = RunHistoryReads(self.location, self._pool, statements)
        self.feed = Feed(self._pool, statements, self._reads, self._run_history)

    @property
    def epochs(self) -> AskedEpochs:
        return self._epoch.asked

    # -- opening and closing ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        self._jobs = _Jobs(self.location)
        try:
            await self._opening.run()
        except BaseException as error:
            await self.close()
            if isinstance(error, ModuleNotFoundError) and error.name == "asyncpg":
                raise StorageError(
                    f"{self.location} needs asyncpg, which is not installed: pip install asyncpg"
                ) from error
            raise

    async def close(self) -> None:
        if self._jobs is not None:
            await self._jobs.finish()
            self._jobs = None
        await self._writing.close()
        await self._pool.close()
        self._serials.clear()

    def post_write(self, job: Job) -> None:
        self._post(job)

    def post_read(self, job: Job) -> None:
        self._post(job)

    def post_scan(self, job: Job) -> None:
        async def scan() -> None:
            async with self._pool.scans:
                await job()

        self._post(scan)

    def _post(self, job: Job) -> None:
        jobs = self._jobs
        if jobs is None:
            raise StorageError(f"{self.location} is closed")
        jobs.post(job)

    # -- writes -------------------------------------------------------------------------------------------------------

    async def acquire_write(self, wanted: Callable[[], bool]) -> bool:
        await self._write_lock.acquire()
        self.epochs.begin_write()
        self._turn_deadline = Deadline(self._timeout)
        is_reached = False
        try:
            is_reached = self._writing.is_connected or await self._reach_server(wanted)
        finally:
            if not is_reached:
                self._write_lock.release()
        return is_reached

    async def _reach_server(self, wanted: Callable[[], bool]) -> bool:
        """Connect, for as long as it is wanted; False: it is not any more."""
        backoff = pauses()
        while not self._writing.is_connected:
            try:
                await self._writing.connect(deadline_of_call(min(self._timeout, _MAX_CONNECT_SECONDS)))
            except TransientError as error:
                log(logging.INFO, "not_reached", self.location, "the server does not answer: %s", error)
                await asyncio.sleep(backoff.pause())
                if not wanted():
                    return False
        return True

    async def put_alone(self, _: PutOutput) -> bool:
        return False  # a group of one is one statement as it is

    async def begin_commit(self, _: Callable[[], bool]) -> bool:
        return True

    def release_write(self) -> None:
        self._write_lock.release()

    async def maintain(self) -> None:
        """Keep the counts of outputs; the rest the server does."""
        if self._counting.is_due and self._writing.is_connected and not self._write_lock.locked():
            async with self._write_lock:
                await self._counting.fold()

    async def commit(self, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        deadline = Deadline(max(self._turn_deadline.left, MIN_COMMIT_SECONDS))
        # By this machine's clock, as on SQLite: an age is reckoned by the clock of the machine that asks for it.
        now = time.time_ns() // 1000
        self._counting.note(sum(map(len, units)))
        alone = {index: unit[0] for index, unit in enumerate(units) if len(unit) == 1}
        puts = {index: put for index, put in alone.items() if type(put) is PutOutput}
        appends = {index: append for index, append in alone.items() if type(append) is AppendOutput}
        outcomes = await self._commit_puts(puts, deadline, now, len(units)) if puts else {}
        if appends:
            outcomes |= await self._commit_appends(appends, Write.new(deadline, now), len(appends) == len(units))
        for index, unit in enumerate(units):
            if index not in outcomes:
                outcomes[index] = await self._units.commit(unit, Write.new(deadline, now))
        return [outcomes[index] for index in range(len(units))]

    async def _commit_puts(self, puts: dict[int, PutOutput], deadline: Deadline, now: int, units: int) -> Outcomes:
        """Those of so many units that are a single put."""
        made = {i: put for i, put in puts.items() if put.made is not None and put.made.number is None}
        plain = {i: put for i, put in puts.items() if i not in made} if made else puts
        outcomes = await self._puts.commit(plain, Write.new(deadline, now)) if plain else {}
        if made:
            outcomes |= await self._commit_made(made, Write.new(deadline, now), is_all=len(made) == units)
        return outcomes

    async def _commit_appends(self, appends: dict[int, AppendOutput], write: Write, is_all: bool) -> Outcomes:
        try:
            return await self._appends.commit(appends, write)
        except StorageError as error:
            if is_all:
                raise
            return {index: Outcome.failure(error_for_caller(error, self.location)) for index in appends}

    async def _commit_made(self, puts: dict[int, PutOutput], write: Write, is_all: bool) -> Outcomes:
        """The outputs of steps that are first attempts. Of the others it gives nothing: they go one by one."""
        try:
            return await self._puts.commit(puts, write, are_made=True)
        except StorageError as error:
            if is_all:
                raise
            return {index: Outcome.failure(error_for_caller(error, self.location)) for index in puts}

    # -- reads --------------------------------------------------------------------------------------------------------

    async def fetch(self, keys: Sequence[OutputKey]) -> tuple[Epoch, list[Fetched]]:
        return await self._reads.outputs(keys)

    async def exists(self, key: OutputKey) -> bool:
        return await self._reads.exists(key)

    async def ping(self) -> None:
        await self._reads.ping()

    async def first_node_ids(self, flow_run_id: str, part: Part, limit: int) -> list[str]:
        return await self._reads.first_node_ids(flow_run_id, part, limit)

    async def list_node_ids(self, flow_run_id: str, part: Part, limit: int | None) -> list[str]:
        return await self._reads.list_node_ids(flow_run_id, part, limit)

    async def list_outputs(
        self, flow_run_id: str, run: int | None, part: Part, limit: int, max_bytes: int
    ) -> OutputPage:
        return await self._reads.list_outputs(flow_run_id, run, part, limit, max_bytes)

    async def page_outputs(
        self, flow_run_id: str, run: int | None, after: str, limit: int, max_bytes: int, with_marks: bool = False
    ) -> list[Fetched]:
        return await self._reads.page_outputs(flow_run_id, run, after, limit, max_bytes, with_marks)

    async def find_run_place(self, flow_run_id: str) -> RunPlace | None:
        return await self._listing.find_run_place(flow_run_id)

    async def list_runs(
        self, query: RunQuery, index: RunIndex, place: RunPlace | None, most: int, limit: int
    ) -> RunStep:
        return await self._listing.list_runs(query, index, place, most, limit)

    async def count_index(self, query: RunQuery, index: RunIndex, place: RunPlace | None, most: int) -> int:
        return await self._listing.count_index(query, index, place, most)

    async def gather_runs(
        self, query: RunQuery, index: RunIndex, within: RunRange, after: str | int | None, most: int, limit: int
    ) -> RunGathering:
        return await self._listing.gather_runs(query, index, within, after, most, limit)

    async def describe_runs(self, query: RunQuery, serials: Sequence[int]) -> list[RunRecord]:
        return await self._listing.describe_runs(query, serials)

    async def fetch_run(self, flow_run_id: str) -> RunRecord | None:
        return await self._listing.fetch_run(flow_run_id)

    async def page_idle_runs(
        self, after: int, idle_since: int, limit: int, states: tuple[int, ...] | None = None
    ) -> IdleRuns:
        return await self._reads.page_idle_runs(after, idle_since, limit, states)

    async def measure_runs(self, flow_run_ids: Sequence[str]) -> Extent:
        return await self._reads.measure_runs(flow_run_ids)

    async def count_runs(self) -> int:
        return await self._reads.count_runs()

    async def find_run(self, flow_run_id: str) -> tuple[Epoch, RunLife | None]:
        return await self._reads.find_run(flow_run_id)

    async def page_unfinished_deletions(self, after: int) -> tuple[list[str], int | None]:
        return await self._reads.page_unfinished_deletions(after)

    async def count_tombstones(self, deleted_before: int) -> int:
        return await self._reads.count_tombstones(deleted_before)

    async def fetch_state(self, flow_run_id: str, key: str) -> RunStates:
        return await self._states.fetch(flow_run_id, key)

    async def page_states(
        self,
        flow_run_id: str,
        run: int | None,
        bounds: tuple[str, str | None],
        after: str | None,
        limit: int,
        max_bytes: int,
    ) -> RunStates:
        return await self._states.page(flow_run_id, run, bounds, after, limit, max_bytes)

    async def fetch_global(self, key: str) -> GlobalRecord | None:
        return await self._reads.fetch_global(key)

    async def page_globals(self, prefix: str, after: str | None, limit: int) -> list[GlobalRecord]:
        return await self._reads.page_globals(prefix, after, limit)

    async def fetch_globals(self, keys: Sequence[str]) -> list[Outcome[GlobalRecord | None]]:
        return await self._reads.fetch_globals(keys)

    async def list_global_keys(self, prefix: str, after: str | None, limit: int | None) -> list[str]:
        return await self._reads.list_global_keys(prefix, after, limit)

    async def count_passing_globals(self) -> int:
        return await self._reads.count_passing_globals()

    async def freed_version(self) -> int:
        return await self._reads.freed_version()

    async def find_lease(self, name: str) -> Held | None:
        return await self._leases.find(name)

    async def list_leases(self, prefix: str) -> list[LeaseRecord]:
        return await self._leases.page(prefix)

    async def last_token(self) -> int:
        return await self._leases.last_token()

    async def page_run_rows(self, after: int, limit: int) -> list[RunRow]:
        return await self._reads.page_run_rows(after, limit)

    async def page_append_counters(self, flow_run_id: str, after: str | None, limit: int) -> list[AppendCounter]:
        return await self._reads.page_append_counters(flow_run_id, after, limit)

    async def page_append_keys(
        self, flow_run_id: str, run: int, after: tuple[str, str] | None, limit: int
    ) -> list[AppendKey]:
        return await self._reads.page_append_keys(flow_run_id, run, after, limit)

    async def page_attempts(
        self, flow_run_id: str, run: int | None, node_id: str | None, after: AttemptKey, limit: int
    ) -> AttemptPage:
        return await self._reads.page_attempts(flow_run_id, run, node_id, after, limit)

    async def page_global_rows(self, after: str | None, limit: int) -> list[Outcome[GlobalRow]]:
        return await self._reads.page_global_rows(after, limit)

    async def count(self) -> Counts:
        return await self._reads.count()

    async def watch_from(self, watched: Watched, cursor: tuple[str, CursorFields] | None) -> WatchStart:
        return await self._history.watch_from(watched, cursor)

    async def page_since(self, watched: Watched, place: Place, limit: int, max_bytes: int) -> NewsPage:
        return await self._history.page_since(watched, place, limit, max_bytes)

    async def newest_cursor(self) -> tuple[str, CursorFields]:
        return await self._history.newest_cursor()

    async def watch_runs_from(self, cursor: tuple[str, CursorFields] | None) -> WatchStart:
        return await self._run_history.watch_from(cursor)

    async def page_runs_since(self, wanted: RunFilter, place: Place, limit: int) -> RunNewsPage:
        return await self._run_history.page_since(wanted, place, limit)

    async def newest_run_cursor(self) -> tuple[str, CursorFields]:
        return await self._run_history.newest_cursor()

    # -- beside the reads and writes ----------------------------------------------------------------------------------

    async def stats(self) -> EngineStats:
        version, size = await self._reads.size()
        return EngineStats(f"PostgreSQL {version}", size, 0, False)

    async def check(self, report: Callable[[int, int], None] | None) -> CheckReport:
        async with self._pool.scans:
            return await Check(self.location, self._pool, self._statements, self._reads).run(report)

    async def backup(self, path: str, report: Callable[[int, int], None], check: bool, overwrite: bool) -> None:
        raise StorageError(
            f"{self.location} is not copied to a file by backup(): use copy(store, ContextStore({path!r})), or the "
            "server's pg_dump"
        )
