"""Which runs have changed in a store in PostgreSQL behind a place in its history, for whoever follows them.

Rules of this module: as those of ``news``. A look takes the present snapshot, and tells of the runs that a transaction
has changed, or written outputs of, which it has and the last one had not: by transaction and run, each run by its
newest change. It goes on over several calls, each of which looks at a bounded number of rows.

Whoever begins is told first of the runs that there are, by their serials, from a snapshot on that was taken before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .._engine.fact_rules import NOTHING_SAID, read_facts
from .._engine.records import Cursor, CursorFields, RunFacts, WatchStart
from .._engine.rules import run_record
from .._engine.run_feeds import RUNS, RunFilter, RunNews, RunNewsPage, changes_of
from ..errors import StorageError
from .news import Snapshot, read_history
from .pool import ReadPool
from .run_facts import record_of
from .statements import Statements

_WINDOW_ROWS = 5000
"""So many rows of each kind one call goes through."""


class RunPlace(NamedTuple):
    """A place in the history of a store in PostgreSQL."""

    last: Snapshot
    """All of this was told, but for the runs that are listed yet."""
    listed: int | None = None
    """The serial up to which they were listed. None: they all were."""
    now: Snapshot | None = None
    """And, of the look that is under way, what this has up to the key; None: no look is."""
    key: tuple[int, int] = (0, 0)
    """Transaction and run."""
    is_resumed: bool = False
    """Whether the look was begun before, by whoever has the cursor: it is not the last one."""

    @property
    def end(self) -> int:
        """The first transaction that had not begun when all this was looked at."""
        return (self.now or self.last).end

    def fields(self) -> CursorFields:
        if self.listed is not None:
            return (RUNS, self.last.text, self.listed)
        if self.now is None:
            return (RUNS, self.last.text)
        return (RUNS, self.last.text, self.now.text, *self.key)


def _place_of(fields: CursorFields) -> RunPlace | None:
    """The place that a cursor names; None: it is none."""
    try:
        match fields:
            case (str(kind), str(last)) if kind == RUNS:
                return RunPlace(Snapshot.read(last))
            case (str(kind), str(last), int(listed)) if kind == RUNS and 0 <= listed < 2**63:
                return RunPlace(Snapshot.read(last), listed)
            case (str(kind), str(last), str(now), int(transaction), int(run)) if kind == RUNS:
                before, during = Snapshot.read(last), Snapshot.read(now)
                if before.end <= during.end and 0 <= transaction < 2**63 and 0 <= run < 2**63:
                    return RunPlace(before, None, during, (transaction, run), is_resumed=True)
    except ValueError:
        return None
    return None


class RunHistoryReads:
    """The reads of whoever follows runs: see ``_engine/contract``."""

    def __init__(self, location: str, pool: ReadPool, statements: Statements) -> None:
        self._location = location
        self._pool = pool
        self._statements = statements

    async def changed_since(self, place: Cursor | None) -> tuple[Cursor, list[str]]:
        """As the feed's ``changed_runs``: a place is a snapshot."""
        late = [] if place is None else [str(one) for one in place.open]
        end = 2**63 - 1 if place is None else place.end
        rows = await self._pool.fetch(self._statements.changed_runs, late, str(end))
        return Snapshot.read(rows[0][0]), [name for _, name in rows if name is not None]

    async def watch_from(self, cursor: tuple[str, CursorFields] | None) -> WatchStart:
        history = read_history(self._location, await self._pool.fetch(self._statements.history))
        if cursor is None:
            return WatchStart(history.name, RunPlace(history.now, 0), False)
        place = _place_of(cursor[1]) if cursor[0] == history.name else None
        is_of_now = place is not None and history.may_have_come_to(place.end)
        return WatchStart(history.name, place if is_of_now else None, False)

    async def newest_cursor(self) -> tuple[str, CursorFields]:
        history = read_history(self._location, await self._pool.fetch(self._statements.history))
        return history.name, RunPlace(history.now).fields()

    async def page_since(self, wanted: RunFilter, place: RunPlace, limit: int) -> RunNewsPage:
        if place.listed is not None:
            return await self._page_of_list(wanted, place, place.listed, limit)
        is_resumed = place.is_resumed
        now = await self._snapshot(place) if place.now is None else place.now
        if now == place.last:
            return RunNewsPage([], RunPlace(now), True)
        place = place._replace(now=now)
        is_late = bool(place.last.open) and place.key[0] < place.last.end
        parts = await self._changes(place, now, is_late)
        changes = changes_of(parts, _WINDOW_ROWS)
        news, last = await self._news(wanted, place, changes.newest, limit)
        if last is not None:
            return RunNewsPage(news, place._replace(key=last), False)
        if changes.end is not None:
            return RunNewsPage(news, place._replace(key=changes.end), False)
        if is_late:
            return RunNewsPage(news, place._replace(key=(place.last.end, 0)), False)
        return RunNewsPage(news, RunPlace(now), not is_resumed)

    async def _snapshot(self, place: RunPlace) -> Snapshot:
        ((text, is_standby),) = await self._pool.fetch(self._statements.snapshot_now)
        now = Snapshot.read(text)
        if now.end >= place.last.end:
            return now
        if not is_standby:
            raise StorageError(
                f"{self._location} has lost what was committed last, by a fail-over, say, or was restored: what is "
                "there now may not be what was told before; begin anew"
            )
        return place.last  # until the standby has come to it

    async def _changes(self, place: RunPlace, now: Snapshot, is_late: bool) -> list[list[tuple[int, int]]]:
        transaction, run = place.key
        parts: list[list[tuple[int, int]]] = [[], []]
        statement = self._statements.run_changes_of_late if is_late else self._statements.run_changes_of_new
        which = [str(one) for one in place.last.open] if is_late else str(max(place.last.end, transaction))
        for kind, *key in await self._pool.fetch(statement, str(transaction), run, now.text, which, _WINDOW_ROWS):
            parts[kind].append((key[0], key[1]))
        return parts

    async def _news(
        self, wanted: RunFilter, place: RunPlace, newest: Sequence[tuple[int, int]], limit: int
    ) -> tuple[list[RunNews], tuple[int, int] | None]:
        """Those wanted of the runs, and the key of the last one if there may be more than so many."""
        if not newest:
            return [], None
        rows = await self._pool.fetch(self._statements.run_facts, [run for _, run in newest])
        there = {run.serial: run for row in rows if (run := self._run(row)).is_wanted(wanted)}
        keys = [key for key in newest if key[1] in there][:limit]
        places = [place._replace(key=key).fields() for key in keys]
        news = await self._told([there[run] for _, run in keys], places)
        return news, keys[-1] if len(keys) == limit else None

    async def _page_of_list(self, wanted: RunFilter, place: RunPlace, listed: int, limit: int) -> RunNewsPage:
        rows = await self._pool.fetch(self._statements.page_run_facts, listed, _WINDOW_ROWS)
        runs = [self._run(row) for is_there, *row in rows if is_there]
        some = [run for run in runs if not run.is_deleted and run.is_wanted(wanted)][:limit]
        news = await self._told(some, [place._replace(listed=run.serial).fields() for run in some])
        if len(some) == limit:
            return RunNewsPage(news, place._replace(listed=some[-1].serial), False)
        return RunNewsPage(news, place._replace(listed=rows[-1][1] if len(rows) == _WINDOW_ROWS else None), False)

    def _run(self, row: Sequence[Any]) -> _Run:
        serial, flow_run_id, is_deleted, *columns, failures = row
        if is_deleted:  # some of its facts and failures may be there yet
            return _Run(serial, flow_run_id, True, NOTHING_SAID, 0)
        return _Run(serial, flow_run_id, False, read_facts(self._location, flow_run_id, columns), failures)

    async def _told(self, runs: Sequence[_Run], places: Sequence[CursorFields]) -> list[RunNews]:
        """With what they have of outputs; of a deleted one some may be there yet."""
        serials = [run.serial for run in runs if not run.is_deleted]
        rows = await self._pool.fetch(self._statements.describe_runs, serials) if serials else []
        records = (record_of(self._location, row) for row in rows)
        found = {record.serial: record for record in records if record is not None}
        news: list[RunNews] = []
        for run, fields in zip(runs, places, strict=True):
            record = found.get(run.serial) or run_record(run.serial, run.flow_run_id, 0, 0, (None, None))
            news.append(RunNews(record._replace(facts=run.facts, failures=run.failures), run.is_deleted, fields))
        return news


class _Run(NamedTuple):
    serial: int
    flow_run_id: str
    is_deleted: bool
    facts: RunFacts
    failures: int

    def is_wanted(self, wanted: RunFilter) -> bool:
        return wanted.fits(self.facts, self.is_deleted)
