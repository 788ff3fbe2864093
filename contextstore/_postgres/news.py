"""What was committed to a store in PostgreSQL behind a place in its history, for whoever watches it.

Rules of this module: ids and times are given before the commit, so an output may become visible behind another that was
told already. What tells the two apart is a snapshot: which transactions were committed. A look takes the present one
and tells of the rows that it has and the last one had not, by transaction, run and node; then it is the last one. So a
transaction that stays open, of this database or of another, holds nobody up, and nobody overtakes it.

A look goes on over several calls. A place in the middle of one has both snapshots, and the row that was told last. A
call looks at a bounded number of rows, however few of them are watched.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from .._engine.records import CursorFields, News, NewsPage, OutputRecord, Watched, WatchStart, after_prefix
from .._engine.rules import damaged_output, read_output
from .._values.codec import DELETED
from .._waiting.outcome import Outcome
from ..errors import CorruptStoreError, StorageError
from .pool import ReadPool
from .statements import Statements

_WINDOW_ROWS = 20_000
"""Rows whose keys one call looks at."""
_FAR = 20_000
"""So many transactions since a place: from then on, the outputs of one run are found by its index, not among all."""
_END = "\U0010ffff" * 1000  # sorts above every id
_FORM = re.compile(r"(\d{1,19}):(\d{1,19}):((?:\d{1,19}(?:,\d{1,19})*)?)", re.ASCII)


class Snapshot(NamedTuple):
    """Which transactions were committed at a moment, as the server tells it."""

    text: str
    first_open: int
    end: int
    """The first transaction that had not begun."""
    open: tuple[int, ...]
    """Those before it that were under way."""

    @classmethod
    def read(cls, text: str) -> Snapshot:
        """Raises ValueError if it is none."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError("not a snapshot")
        first_open, end = int(match[1]), int(match[2])
        opened = tuple(map(int, match[3].split(","))) if match[3] else ()
        in_order = list(opened) == sorted(set(opened)) and all(first_open <= one < end for one in opened)
        if not (1 <= first_open <= end < 2**63 and in_order):
            raise ValueError("not a snapshot")
        return cls(text, first_open, end, opened)

    def has(self, transaction: int) -> bool:
        """Whether it was committed, or undone."""
        return transaction < self.first_open or (transaction < self.end and transaction not in self.open)


class Key(NamedTuple):
    """An output that was committed, in the order in which it is told."""

    transaction: int
    run: int
    node_id: str


_BEGINNING = Key(0, 0, "")


class SnapshotPlace(NamedTuple):
    """A place in the history of a store in PostgreSQL."""

    last: Snapshot | None
    """All of this was told; None: nothing."""
    now: Snapshot | None = None
    """And, of the look that is under way, what this has up to the key; None: no look is."""
    key: Key = _BEGINNING
    ahead: tuple[Key, ...] = ()
    """Outputs up to the key that are yet to be told."""
    run: int | None = None
    """The one run that the look is about."""
    is_seen: bool = False
    """Whether the look has no more than these."""
    is_resumed: bool = False
    """Whether the look was begun before, by whoever has the cursor: it is not the last one."""

    @property
    def end(self) -> int:
        """The first transaction that had not begun when all this was looked at."""
        latest = self.now or self.last
        return 0 if latest is None else latest.end

    def fields(self, key: Key) -> CursorFields:
        """Of the place right behind an output."""
        assert self.now is not None
        return (self.last.text if self.last is not None else "", self.now.text, *key)


def place_of(fields: CursorFields) -> SnapshotPlace | None:
    """The place that a cursor names: behind all of a snapshot, or in the middle of a look. None: it is none."""
    try:
        match fields:
            case (str(last),):
                return SnapshotPlace(Snapshot.read(last))
            case (str(last), str(now), int(transaction), int(run), str(node_id)):
                before, during = Snapshot.read(last) if last else None, Snapshot.read(now)
                is_key = 0 <= transaction < 2**63 and 0 <= run < 2**63 and "\0" not in node_id
                is_in_order = before is None or before.end <= during.end
                if is_key and is_in_order:
                    return SnapshotPlace(before, during, Key(transaction, run, node_id), is_resumed=True)
    except ValueError:
        return None
    return None


class Part(enum.Enum):
    """Of a look, one after the other; or ``OF_RUN`` alone."""

    BEFORE = "rows that name no transaction, since they are from before they did"
    LATE = "those of transactions that were open at the last look"
    NEW = "those of transactions that have begun since"
    OF_RUN = "those of one run, by its own index"


def _part_of(place: SnapshotPlace) -> Part:
    last, now, transaction = place.last, place.now, place.key.transaction
    if place.run is not None and (last is None or (now is not None and now.end - last.end > _FAR)):
        return Part.OF_RUN
    if last is None:
        return Part.BEFORE if transaction == 0 else Part.NEW
    return Part.LATE if last.open and transaction < last.end else Part.NEW


class History(NamedTuple):
    """That of the store, as far as it has come."""

    name: str
    now: Snapshot
    is_standby: bool

    def may_have_come_to(self, end: int) -> bool:
        """Whether a place may be of this history. A standby may be behind the server that gave the cursor."""
        return end <= self.now.end or self.is_standby


def read_history(location: str, rows: Sequence[Any]) -> History:
    """By what the statement ``history`` gives. Raises StorageError if there is none just now."""
    ((name, cluster, present, now, is_standby),) = rows
    if cluster != present:
        raise StorageError(
            f"{location} came to this server by a dump, or from an earlier version, and nobody has opened it for "
            "writing since: open it once without read_only, as a role that may write, before it is watched"
        )
    return History(name, Snapshot.read(now), is_standby)


class HistoryReads:
    """The reads of whoever watches: see ``_engine/contract``."""

    def __init__(self, location: str, pool: ReadPool, statements: Statements) -> None:
        self._location = location
        self._pool = pool
        self._statements = statements

    async def watch_from(self, watched: Watched, cursor: tuple[str, CursorFields] | None) -> WatchStart:
        history = read_history(self._location, await self._pool.fetch(self._statements.history))
        if cursor is None:
            return WatchStart(history.name, SnapshotPlace(None), False)
        place = place_of(cursor[1]) if cursor[0] == history.name else None
        if place is None or not history.may_have_come_to(place.end):
            return WatchStart(history.name, None, False)
        return WatchStart(history.name, place, await self._is_past(watched, place))

    async def newest_cursor(self) -> tuple[str, CursorFields]:
        history = read_history(self._location, await self._pool.fetch(self._statements.history))
        return history.name, (history.now.text,)

    async def _is_past(self, watched: Watched, place: SnapshotPlace) -> bool:
        if watched.until is None:
            return False
        rows = await self._pool.fetch(self._statements.transaction_of, watched.flow_run_id, watched.until)
        return any(_is_behind(Key(transaction, run, watched.until), place) for transaction, run in rows)

    async def page_since(self, watched: Watched, place: SnapshotPlace, limit: int, max_bytes: int) -> NewsPage:
        run, is_resumed = place.run, place.is_resumed
        if place.now is None or (run is None and watched.flow_run_id is not None):
            now, run, is_deleted = await self._look(watched, place)
            if watched.flow_run_id is not None and (run is None or is_deleted):
                return NewsPage([], SnapshotPlace(now), True, run, is_deleted)
            if now == place.last or (place.now is not None and now.end < place.now.end):
                return NewsPage([], place, True, run, False)  # a standby may have to come to it yet
            place = place._replace(now=place.now or now, run=run)
        if not place.ahead:
            place = await self._look_ahead(watched, place)
        news: list[News] = []
        if place.ahead:
            news, place = await self._take(watched, place, limit, max_bytes)
        if place.is_seen and not place.ahead:
            place = SnapshotPlace(place.now)
        return NewsPage(news, place, place.now is None and not is_resumed, run, False)

    async def _look(self, watched: Watched, place: SnapshotPlace) -> tuple[Snapshot, int | None, bool]:
        """The present snapshot; the serial of the run, and whether it is deleted."""
        rows = await self._pool.fetch(self._statements.look, watched.flow_run_id)
        text, is_standby, run, is_deleted = rows[0]
        now = Snapshot.read(text)
        if place.last is not None and now.end < place.last.end:
            if not is_standby:
                raise StorageError(
                    f"{self._location} has lost what was committed last, by a fail-over, say, or was restored: what is "
                    "there now may not be what was told before; begin anew"
                )
            now = place.last  # until the standby has come to it
        return now, run, is_deleted

    # -- which outputs ------------------------------------------------------------------------------------------------

    async def _look_ahead(self, watched: Watched, place: SnapshotPlace) -> SnapshotPlace:
        """The keys of some more, and the place behind them."""
        part = _part_of(place)
        transaction, *rest = place.key
        end = after_prefix(watched.prefix) or _END
        bounds = (str(transaction), *rest, place.run, watched.prefix, end, watched.until, _WINDOW_ROWS)
        rows = await self._rows(part, place, bounds)
        ahead = tuple(Key(*row[:3]) for row in rows if row[4])
        if rows and rows[-1][3] == _WINDOW_ROWS:
            return place._replace(key=Key(*rows[-1][:3]), ahead=ahead)
        if part is Part.BEFORE:
            return place._replace(key=Key(1, 0, ""), ahead=ahead)
        if part is Part.LATE and place.last is not None:
            return place._replace(key=Key(place.last.end, 0, ""), ahead=ahead)
        return place._replace(ahead=ahead, is_seen=True)

    async def _rows(self, part: Part, place: SnapshotPlace, bounds: tuple[Any, ...]) -> list[Any]:
        last, now = place.last, place.now
        assert now is not None
        if part is Part.BEFORE:
            return await self._pool.fetch(self._statements.rows_of_before, *bounds)
        if part is Part.LATE and last is not None:
            late = [str(one) for one in last.open]
            return await self._pool.fetch(self._statements.rows_of_late, *bounds, now.text, late)
        if part is Part.NEW:
            first = max(0 if last is None else last.end, place.key.transaction)
            return await self._pool.fetch(self._statements.rows_of_new, *bounds, now.text, str(first))
        async with self._pool.scans:
            text = None if last is None else last.text
            return await self._pool.fetch(self._statements.rows_of_run, *bounds, now.text, text)

    # -- the outputs --------------------------------------------------------------------------------------------------

    async def _take(
        self, watched: Watched, place: SnapshotPlace, limit: int, max_bytes: int
    ) -> tuple[list[News], SnapshotPlace]:
        """The next of those that are known, as far as they are there still, and the place behind them."""
        keys = place.ahead[:limit]
        columns = [key.run for key in keys], [key.node_id for key in keys]
        try:
            rows = await self._pool.fetch(self._statements.news, *columns, watched.until, max_bytes)
        except CorruptStoreError as error:
            if len(keys) > 1:
                return await self._take(watched, place, 1, max_bytes)
            return await self._damaged(keys[0], place, error), place._replace(ahead=place.ahead[1:])
        news = [self._news(row, keys[row[-1] - 1], place) for row in rows]
        # Where bytes have cut it short, one was left out that is there: the next call begins with it.
        is_cut = sum(max(0, row[6]) for row in rows) >= max_bytes
        taken = rows[-1][-1] if is_cut else len(keys)
        return news, place._replace(ahead=place.ahead[taken:])

    def _news(self, row: Sequence[Any], key: Key, place: SnapshotPlace) -> News:
        flow_run_id, node_id, codec = row[:3]
        output: Outcome[OutputRecord] | None = None
        if codec != DELETED:
            output = read_output(self._location, flow_run_id, row[1:10])  # type: ignore[assignment]  # a row is there
        return News(flow_run_id, node_id, output, place.fields(key))

    async def _damaged(self, key: Key, place: SnapshotPlace, error: CorruptStoreError) -> list[News]:
        """An output that the server itself cannot read."""
        names = await self._pool.fetch(self._statements.name_of, key.run)
        return [
            News(name, key.node_id, Outcome.failure(damaged_output(self._location, name, key.node_id, error)), fields)
            for (name,) in names
            for fields in [place.fields(key)]
        ]


def _is_behind(key: Key, place: SnapshotPlace) -> bool:
    """Whether an output was to be told up to this place."""
    if place.last is not None and place.last.has(key.transaction):
        return True
    return place.now is not None and place.now.has(key.transaction) and key <= place.key
