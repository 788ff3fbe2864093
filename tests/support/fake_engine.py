"""An engine in memory, in which the test chooses every interleaving.

It answers the whole contract of an engine, and decides by the rules of all engines. Nothing happens in it by itself: a
job that is posted lies in its queue until the test runs it, step by step if it likes, in the test's own thread.

    engine.run_next_write()             a job from its beginning to its end
    engine.hold("commit"); job = engine.begin_write(); ...; job.go_on()
    engine.fail("commit", error)        the next call raises it, and nothing is done
    engine.lose_answer()                the next commit is done, and then its answer is lost
    engine.place.put(...), .delete(...) what another client does meanwhile
    await engine.let_poll()             one look for what others have written
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from contextstore import CorruptStoreError, StorageError
from contextstore._engine.contract import Feed, GroupLimits, Job
from contextstore._engine.epochs import Epoch
from contextstore._engine.lease_operations import Held
from contextstore._engine.operations import PutOutput, Unit, is_deletion, may_delete_outputs
from contextstore._engine.pages import OutputPage, OutputRow, Part
from contextstore._engine.portions import Portion
from contextstore._engine.records import (
    Counts,
    Cursor,
    CursorFields,
    EngineStats,
    Extent,
    Fetched,
    GlobalRecord,
    GlobalRow,
    IdleRuns,
    LeaseRecord,
    News,
    NewsPage,
    OutputKey,
    RunLife,
    RunRecord,
    RunRow,
    Wanted,
    Watched,
    WatchStart,
    after_prefix,
)
from contextstore._engine.reports import Reports
from contextstore._engine.rules import read_global, read_global_row, read_global_there, run_record
from contextstore._engine.run_feeds import RunFilter, RunNews, RunNewsPage
from contextstore._engine.run_query import RunGathering, RunIndex, RunPlace, RunQuery, RunRange, RunStep
from contextstore._process.own_threads import OwnThreads
from contextstore._results import CheckReport
from contextstore._waiting.future import SharedFuture
from contextstore._waiting.outcome import Outcome
from contextstore._waiting.threads import run_now

from .fake_callers import LoopHost, bound, outcomes_of, spawn, task_callers, thread_callers, turns, until
from .fake_jobs import FakeEpochs, Hold, RunningJob
from .fake_place import LOCATION, Place, Run

__all__ = [  # how calls wait comes from here alone
    "FakeEngine",
    "LoopHost",
    "RunningJob",
    "SharedFuture",
    "bound",
    "outcomes_of",
    "run_now",
    "spawn",
    "task_callers",
    "thread_callers",
    "turns",
    "until",
]


class FakeEngine:
    max_value_bytes = 2**20
    deletes_at_once = True
    location = LOCATION
    inline = None

    def __init__(self, place: Place | None = None, *, polls: bool = True) -> None:
        self.place = place or Place()
        self.group_limits = GroupLimits(operations=4, bytes=100_000)
        self.poll_seconds = (0.0, 0.0)
        self.feed: Feed | None = self if polls else None
        self.own_threads = OwnThreads(LOCATION)
        self.reports = Reports(LOCATION, "fake", self.own_threads)
        self.epochs = FakeEpochs(self.place)
        self.writes: deque[Job] = deque()
        self.reads: deque[Job] = deque()
        self.scans: deque[Job] = deque()
        self.is_open = True
        self.is_locked = False
        self.calls: list[str] = []
        """What was asked of it, one after the other."""
        self.groups: list[list[Unit]] = []
        """The units of each call of commit."""
        self.trips: list[list[OutputKey]] = []
        """The keys of each call of fetch."""
        self.wanted: Callable[[], bool] = lambda: True
        """What the write that waits for the right to commit says of whether it is still wanted."""
        self.knows_deletions = True
        self.polls_at_once = False
        """Whether a poller looks without being let."""
        self.tells_more = False
        """Whether a look finds also what no one waits for, as an engine may."""
        self._held: set[str] = set()
        self._failures: dict[str, deque[BaseException | None]] = {}
        self._answers_to_lose = 0
        self._polls: deque[asyncio.Future[None]] = deque()

    # -- the test's side ----------------------------------------------------------------------------------------------

    def hold(self, *points: str) -> None:
        """Hold jobs there from now on: at the names of the calls, before anything is done, and at a few more.

        "deleting": a deletion is about to be committed; "committed", "fetched", "run_found": it is done, and not
        answered.
        """
        self._held |= set(points)

    def release(self) -> None:
        self._held.clear()

    def fail(self, call: str, *errors: BaseException | None) -> None:
        """Have the next calls raise these, one after the other. None: do what it does."""
        self._failures.setdefault(call, deque()).extend(errors)

    def lose_answer(self) -> None:
        self._answers_to_lose += 1

    def begin_write(self) -> RunningJob:
        return RunningJob(self.writes.popleft())

    def begin_read(self) -> RunningJob:
        return RunningJob(self.reads.popleft())

    def run_next_write(self) -> None:
        job = self.begin_write()
        assert job.at is None, f"it is held at {job.at}"

    def run_writes(self) -> None:
        """And what these post, until there is none."""
        while self.writes:
            self.run_next_write()

    def run_reads(self) -> None:
        """Scans, too, and what these post, until there is none."""
        while self.reads or self.scans:
            job = RunningJob((self.reads or self.scans).popleft())
            assert job.at is None, f"it is held at {job.at}"

    @property
    def is_polled(self) -> bool:
        """Whether a poller stands before its next look."""
        return any(not poll.done() for poll in self._polls)

    async def let_poll(self) -> None:
        """Let the poller look once. What it tells has come to those who wait when this returns."""
        await until(lambda: self.is_polled)
        poll = next(poll for poll in self._polls if not poll.done())
        self._polls.remove(poll)
        poll.set_result(None)
        await turns()

    # -- the engine's side --------------------------------------------------------------------------------------------

    async def _called(self, call: str) -> None:
        self.calls.append(call)
        await self._stand_at(call)
        failures = self._failures.get(call)
        error = failures.popleft() if failures else None
        if error is not None:
            raise error

    async def _stand_at(self, point: str) -> None:
        if point in self._held:
            await Hold(point)

    async def open(self) -> None:
        await self._called("open")
        self.is_open = True

    async def close(self) -> None:
        self.run_writes()
        self.run_reads()
        self.is_open = False
        await self._called("close")

    def post_write(self, job: Job) -> None:
        self._post(self.writes, job)

    def post_read(self, job: Job) -> None:
        self._post(self.reads, job)

    def post_scan(self, job: Job) -> None:
        self._post(self.scans, job)

    def _post(self, jobs: deque[Job], job: Job) -> None:
        if not self.is_open:
            raise StorageError(f"{self.location} is closed")
        jobs.append(job)

    async def acquire_write(self, wanted: Callable[[], bool]) -> bool:
        self.wanted = wanted
        await self._called("acquire_write")
        if not wanted():
            return False
        assert not self.is_locked, "the right to commit was not given back"
        self.is_locked = True
        self.epochs.begin_write()
        return True

    async def put_alone(self, _: PutOutput) -> bool:
        return False

    async def begin_commit(self, wanted: Callable[[], bool]) -> bool:
        return wanted()

    async def commit(self, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        assert self.is_locked, "a commit without the right to commit"
        self.groups.append([list(unit) for unit in units])
        await self._called("commit")
        before = self.place.epoch
        if any(is_deletion(operation) or may_delete_outputs(operation) for unit in units for operation in unit):
            self.place.epoch += 1
            await self._stand_at("deleting")
            self.place.epoch -= 1
            before = self.place.epoch
        outcomes = self.place.commit_units(units)
        self.epochs.end_write(self.place.epoch - before)
        await self._stand_at("committed")
        if self._answers_to_lose:
            self._answers_to_lose -= 1
            raise StorageError(f"the connection to {self.location} was lost during a commit", True)
        return outcomes

    def release_write(self) -> None:
        assert self.is_locked
        self.calls.append("release_write")
        self.is_locked = False

    async def maintain(self) -> None:
        await self._called("maintain")

    async def fetch(self, keys: Sequence[OutputKey]) -> tuple[Epoch, list[Fetched]]:
        self.trips.append(list(keys))
        await self._called("fetch")
        found = self.place.epoch, [self.place.read(key) for key in keys]
        await self._stand_at("fetched")
        return found

    async def exists(self, key: OutputKey) -> bool:
        await self._called("exists")
        return self.place.has(key)

    async def ping(self) -> None:
        await self._called("ping")

    async def first_node_ids(self, flow_run_id: str, part: Part, limit: int) -> list[str]:
        return await self.list_node_ids(flow_run_id, part, limit)

    async def list_node_ids(self, flow_run_id: str, part: Part, limit: int | None) -> list[str]:
        await self._called("list_node_ids")
        return self._node_ids(flow_run_id, part)[:limit]

    def _node_ids(self, flow_run_id: str, part: Part) -> list[str]:
        run = self.place.alive(flow_run_id)
        names = [] if run is None else [node_id for node_id in run.outputs if node_id.startswith(part.prefix)]
        found = [node_id for node_id in names if self.place.has((flow_run_id, node_id))]
        if part.after:
            found = [one for one in found if (one < part.after if part.reverse else one > part.after)]
        return sorted(found, reverse=part.reverse)

    async def list_outputs(
        self, flow_run_id: str, run: int | None, part: Part, limit: int, max_bytes: int
    ) -> OutputPage:
        await self._called("list_outputs")
        there = self.place.alive(flow_run_id)
        if there is None or run not in (None, there.serial):
            return OutputPage([], None, is_last=True)
        rows: list[OutputRow] = []
        portion = Portion(limit, max_bytes)
        for node_id in self._node_ids(flow_run_id, part):
            if portion.is_full:
                return OutputPage(rows, None, is_last=False)
            outcome = self.place.read((flow_run_id, node_id))
            if isinstance(outcome.error, CorruptStoreError):
                return OutputPage(rows, outcome.error, is_last=False)
            record = outcome.unwrap()
            assert record is not None
            portion.takes(len(record.value.data))
            codec, data, tag = record.value
            rows.append((node_id, codec, data, 0, record.written_at, len(data), record.run, tag))
        return OutputPage(rows, None, is_last=True)

    async def page_outputs(
        self, flow_run_id: str, run: int | None, after: str, limit: int, max_bytes: int, with_marks: bool = False
    ) -> list[Fetched]:
        await self._called("page_outputs")
        there = self.place.alive(flow_run_id)
        if there is None or run not in (None, there.serial):
            return []
        page: list[Fetched] = []
        portion = Portion(limit, max_bytes)
        for node_id in sorted(node_id for node_id in there.outputs if node_id > after):
            if not (with_marks or self.place.has((flow_run_id, node_id))):
                continue
            if portion.is_full:
                break
            portion.takes(len(there.outputs[node_id].data or b""))
            page.append(self.place.read((flow_run_id, node_id)))
        return page

    async def find_run_place(self, flow_run_id: str) -> RunPlace | None:
        await self._called("find_run_place")
        run = self.place.runs.get(flow_run_id)
        return None if run is None else RunPlace(run.serial)

    async def list_runs(
        self, query: RunQuery, index: RunIndex, place: RunPlace | None, most: int, limit: int
    ) -> RunStep:
        """Of nothing was ever said here: all runs are open, and have no attributes."""
        await self._called("list_runs")
        found = self._listed(query, place)[:most]
        page = [_record(name, run) for name, run in found if self._fits(query, name)][:limit]
        last = page[-1].serial if len(page) == limit else found[-1][1].serial if len(found) == most else None
        return RunStep(page, None if last is None else RunPlace(last))

    def _listed(self, query: RunQuery, place: RunPlace | None) -> list[tuple[str, Run]]:
        found = list(self.place.all_alive())
        if place is not None:
            found = [one for one in found if _is_behind(one[1], query, place)]
        return found if query.oldest_first else found[::-1]

    def _fits(self, query: RunQuery, name: str) -> bool:
        said = query.attributes or query.state or query.is_by_begin or query.parent is not None
        return name.startswith(query.prefix) and not said

    async def count_index(self, query: RunQuery, index: RunIndex, place: RunPlace | None, most: int) -> int:
        await self._called("count_index")
        return most

    async def gather_runs(
        self, query: RunQuery, index: RunIndex, within: RunRange, after: str | int | None, most: int, limit: int
    ) -> RunGathering:
        await self._called("gather_runs")
        found = [RunPlace(run.serial) for name, run in self._listed(query, within.place) if self._fits(query, name)]
        return RunGathering(found[:limit], None)

    async def describe_runs(self, query: RunQuery, serials: Sequence[int]) -> list[RunRecord]:
        await self._called("describe_runs")
        by_serial = {run.serial: _record(name, run) for name, run in self.place.all_alive()}
        return [by_serial[serial] for serial in serials if serial in by_serial]

    async def fetch_run(self, flow_run_id: str) -> RunRecord | None:
        await self._called("fetch_run")
        run = self.place.alive(flow_run_id)
        return None if run is None else _record(flow_run_id, run)

    async def page_idle_runs(
        self, after: int, idle_since: int, limit: int, states: tuple[int, ...] | None = None
    ) -> IdleRuns:
        await self._called("page_idle_runs")
        found: list[tuple[str, int]] = []
        looked_at = 0
        for name, run in self.place.all_alive():
            if run.serial > after:
                looked_at += 1
                if self.place.is_idle(run, idle_since):
                    found.append((name, len(run.outputs)))
                if len(found) == limit:
                    return IdleRuns(found, looked_at, run.serial, None)
        return IdleRuns(found, looked_at, None, None)

    async def measure_runs(self, flow_run_ids: Sequence[str]) -> Extent:
        await self._called("measure_runs")
        runs = [run for name in flow_run_ids if (run := self.place.alive(name)) is not None]
        rows = [row for run in runs for row in run.outputs.values()]
        return Extent(len(runs), len(rows), sum(row.size for row in rows))

    async def count_runs(self) -> int:
        await self._called("count_runs")
        return len(list(self.place.all_alive()))

    async def find_run(self, flow_run_id: str) -> tuple[Epoch, RunLife | None]:
        await self._called("find_run")
        run = self.place.runs.get(flow_run_id)
        found = None if run is None else RunLife(run.serial, run.deleted_at is not None)
        epoch = self.place.epoch
        await self._stand_at("run_found")
        return epoch, found

    async def page_unfinished_deletions(self, after: int) -> tuple[list[str], int | None]:
        await self._called("page_unfinished_deletions")
        return [name for name, run in self.place.by_serial() if (run.deleted_at or 0) > after and run.outputs], None

    async def count_tombstones(self, deleted_before: int) -> int:
        await self._called("count_tombstones")
        times = [run.deleted_at for run in self.place.runs.values() if run.deleted_at is not None]
        return sum(time < deleted_before for time in times)

    async def fetch_global(self, key: str) -> GlobalRecord | None:
        await self._called("fetch_global")
        stored = self.place.globals.get(key)
        return read_global(self.location, stored) if stored is not None and stored.is_there(self.place.now) else None

    async def fetch_globals(self, keys: Sequence[str]) -> list[Outcome[GlobalRecord | None]]:
        await self._called("fetch_globals")
        rows = [self.place.globals.get(key) for key in keys]
        there = [row is not None and row.is_there(self.place.now) for row in rows]
        pairs = zip(rows, there, strict=True)
        return [read_global_there(LOCATION, row) if row and is_there else Outcome(None) for row, is_there in pairs]

    async def list_global_keys(self, prefix: str, after: str | None, limit: int | None) -> list[str]:
        return [record.key for record in await self.page_globals(prefix, after, limit or 10**6)]

    async def count_passing_globals(self) -> int:
        await self._called("count_passing_globals")
        return len(self.place.passing_globals())

    async def freed_version(self) -> int:
        await self._called("freed_version")
        return self.place.freed_version

    async def find_lease(self, name: str) -> Held | None:
        await self._called("find_lease")
        return None

    async def list_leases(self, prefix: str) -> list[LeaseRecord]:
        await self._called("list_leases")
        return []

    async def last_token(self) -> int:
        await self._called("last_token")
        return 0

    async def page_globals(self, prefix: str, after: str | None, limit: int) -> list[GlobalRecord]:
        await self._called("page_globals")
        end = after_prefix(prefix)
        found = [
            row
            for key, row in sorted(self.place.globals.items())
            if prefix <= key and (end is None or key < end) and (after is None or key > after)
        ]
        there = [row for row in found if row.is_there(self.place.now)]
        return [read_global(self.location, row) for row in there[:limit]]

    async def page_run_rows(self, after: int, limit: int) -> list[RunRow]:
        await self._called("page_run_rows")
        rows = [RunRow(run.serial, name, run.created_at, run.deleted_at) for name, run in self.place.by_serial()]
        return [row for row in rows if row.serial > after][:limit]

    async def page_global_rows(self, after: str | None, limit: int) -> list[Outcome[GlobalRow]]:
        await self._called("page_global_rows")
        keys = sorted(key for key in self.place.globals if after is None or key > after)
        return [read_global_row(self.location, self.place.globals[key]) for key in keys[:limit]]

    async def count(self) -> Counts:
        await self._called("count")
        alive = [run for _, run in self.place.all_alive()]
        rows = [row for run in alive for row in run.outputs.values()]
        values = [row for row in self.place.globals.values() if row.is_there(self.place.now)]
        size = sum(row.size for row in rows) + sum(row.size for row in values)
        return Counts(len(alive), len(self.place.runs) - len(alive), len(rows), len(values), size)

    async def watch_from(self, watched: Watched, cursor: tuple[str, CursorFields] | None) -> WatchStart:
        await self._called("watch_from")
        if cursor is None:
            return WatchStart("fake", 0, False)
        place = int(cursor[1][0])
        return WatchStart("fake", place, (watched.flow_run_id, watched.until) in self.place.history[:place])

    async def page_since(self, watched: Watched, place: int, limit: int, max_bytes: int) -> NewsPage:
        await self._called("page_since")
        name = watched.flow_run_id
        run = None if name is None else self.place.runs.get(name)
        is_deleted = run is not None and run.deleted_at is not None
        news: list[News] = []
        portion = Portion(limit, max_bytes)
        while place < len(self.place.history) and not portion.is_full:
            key = self.place.history[place]
            place += 1
            if key is not None and name in (None, key[0]) and _is_watched(watched, key[1]):
                output = self.place.read(key)
                if output.result is not None or output.error is not None:
                    portion.takes(0 if output.result is None else len(output.result.value.data))
                    news.append(News(*key, output, (place,)))  # type: ignore[arg-type]  # it is there
        is_last = place == len(self.place.history)
        return NewsPage(news, place, is_last, None if run is None else run.serial, is_deleted)

    async def newest_cursor(self) -> tuple[str, CursorFields]:
        await self._called("newest_cursor")
        return "fake", (len(self.place.history),)

    async def watch_runs_from(self, cursor: tuple[str, CursorFields] | None) -> WatchStart:
        await self._called("watch_runs_from")
        return WatchStart("history", len(self.place.history), False)

    async def page_runs_since(self, wanted: RunFilter, place: int, limit: int) -> RunNewsPage:
        await self._called("page_runs_since")
        news: list[RunNews] = []
        while place < len(self.place.history) and len(news) < limit:
            key = self.place.history[place]
            place += 1
            run = None if key is None else self.place.alive(key[0])
            if key is not None and run is not None:
                news.append(RunNews(_record(key[0], run), False, (place,)))
        return RunNewsPage(news, place, place == len(self.place.history))

    async def newest_run_cursor(self) -> tuple[str, CursorFields]:
        await self._called("newest_run_cursor")
        return "history", (len(self.place.history),)

    # -- beside the reads and writes ----------------------------------------------------------------------------------

    async def changed_runs(self, place: Cursor | None) -> tuple[Cursor, list[str]] | None:
        await self._called("changed_runs")
        changed = self.place.changed_runs
        return len(changed), [] if place is None else changed[place:]

    async def globals_beyond(self, versions: Mapping[str, int]) -> Sequence[tuple[str, int]] | None:
        await self._called("globals_beyond")
        rows = [row for key in versions if (row := self.place.globals.get(key)) is not None]
        return [
            (row.key, row.version) for row in rows if row.is_there(self.place.now) and row.version > versions[row.key]
        ]

    async def poll(self, cursor: Cursor | None, wanted: Callable[[], Wanted]) -> tuple[Cursor, list[OutputKey]]:
        if not self.polls_at_once:
            let = asyncio.get_running_loop().create_future()
            self._polls.append(let)
            await let
        await self._called("poll")
        history = self.place.history
        if cursor is None:
            return len(history), []
        outputs, runs = wanted()
        written = [key for key in itertools.islice(history, cursor, None) if key is not None]
        is_any = self.tells_more or None in runs
        return len(history), [key for key in written if is_any or key in outputs or key[0] in runs]

    def deletion_epoch(self) -> int | None:
        return self.place.deletions if self.knows_deletions else None

    async def alive_among(self, serials: Sequence[int]) -> list[int]:
        await self._called("alive_among")
        return [run.serial for _, run in self.place.all_alive() if run.serial in serials]

    async def deleted_among(self, flow_run_ids: Sequence[str]) -> list[str]:
        await self._called("deleted_among")
        return [name for name in flow_run_ids if self.place.is_deleted(name)]

    async def stats(self) -> EngineStats:
        return EngineStats("fake", 0, 0, False)

    async def check(self, report: Callable[[int, int], None] | None) -> CheckReport:
        await self._called("check")
        counts = await self.count()
        return CheckReport(counts.runs, counts.outputs, counts.globals, (), ())

    async def backup(self, path: str, report: Callable[[int, int], None], check: bool, overwrite: bool) -> None:
        raise StorageError(f"{self.location} is in memory alone and has no backups")


def _is_watched(watched: Watched, node_id: str) -> bool:
    return node_id == watched.until or node_id.startswith(watched.prefix)


def _is_behind(run: Run, query: RunQuery, place: RunPlace) -> bool:
    return run.serial > place.serial if query.oldest_first else run.serial < place.serial


def _record(name: str, run: Run) -> RunRecord:
    times = [row.written_at for row in run.outputs.values()] or [None]
    size = sum(row.size for row in run.outputs.values())
    return run_record(run.serial, name, len(run.outputs), size, (min(times), max(times)))
