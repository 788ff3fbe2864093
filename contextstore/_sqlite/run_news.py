"""Which runs have changed in a store in SQLite behind a place in its history, for whoever follows them.

Rules of this module: plain functions over a connection, in its thread. A place is a number: an output lies at its id,
shifted by 24 bits, and any other change of a run behind the outputs that were there at its commit. So both have one
order, in which nothing comes to lie before a place any more. A call looks at a bounded number of rows.

Whoever begins is told first of the runs that there are, by their serials, from a place on that was taken before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from .._engine.fact_rules import NOTHING_SAID, read_facts
from .._engine.records import CursorFields, RunFacts, WatchStart
from .._engine.rules import run_record
from .._engine.run_feeds import RUNS, RunFilter, RunNews, RunNewsPage, changes_of
from .deletion import json_array
from .history import END_OF_CHANGES, SHIFT, end_of_history, highest_change, name_of_history
from .reads import snapshot
from .run_facts import FACT_COLUMNS
from .run_listing import described

_WINDOW_ROWS = 5000
"""So many rows of each kind one call goes through."""

_COLUMNS = f"serial, flow_run_id, deleted_at IS NOT NULL, {FACT_COLUMNS}"
_LISTED = f"SELECT {_COLUMNS} FROM flow_runs NOT INDEXED WHERE serial > ? ORDER BY serial LIMIT ?"  # noqa: S608 - no input in it
_BY_SERIAL = f"SELECT {_COLUMNS} FROM flow_runs WHERE serial IN (SELECT value FROM json_each(?))"  # noqa: S608 - no input in it
_CHANGES = f"""
    SELECT change, serial FROM flow_runs
    WHERE change IS NOT NULL AND change > ? AND change < {END_OF_CHANGES} ORDER BY change LIMIT ?
"""  # noqa: S608 - no input in it
_OUTPUTS = f"SELECT id << {SHIFT}, run FROM node_outputs NOT INDEXED WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 - no input in it
_CHANGED_SINCE = f"""
    SELECT change, flow_run_id FROM flow_runs
    WHERE change IS NOT NULL AND change > ? AND change < {END_OF_CHANGES} ORDER BY change LIMIT ?
"""  # noqa: S608 - no input in it


class RunPlace(NamedTuple):
    """A place in the history of a store in SQLite."""

    at: int
    """What lies up to it was told, but for the runs that are listed yet."""
    listed: int | None = None
    """The serial up to which they were listed. None: they all were."""

    def fields(self) -> CursorFields:
        return (RUNS, self.at) if self.listed is None else (RUNS, self.at, self.listed)


def changed_since(connection: sqlite3.Connection, place: int | None) -> tuple[int, list[str]]:
    """The runs that have changed otherwise than by outputs, some of them, and the place behind; None: from now."""
    if place is None:
        return highest_change(connection), []
    rows = connection.execute(_CHANGED_SINCE, (place, _WINDOW_ROWS)).fetchall()
    return rows[-1][0] if rows else place, [name for _, name in rows]


def watch_runs_from(
    connection: sqlite3.Connection, location: str, cursor: tuple[str, CursorFields] | None
) -> WatchStart:
    with snapshot(connection):
        history, end = name_of_history(connection, location), end_of_history(connection)
        place = RunPlace(end, 0) if cursor is None else _place_of(cursor, history, end)
        return WatchStart(history, place, False)


def newest_cursor(connection: sqlite3.Connection, location: str) -> tuple[str, CursorFields]:
    with snapshot(connection):
        return name_of_history(connection, location), RunPlace(end_of_history(connection)).fields()


def _place_of(cursor: tuple[str, CursorFields], history: str, end: int) -> RunPlace | None:
    named, fields = cursor
    match fields:
        case (str(kind), int(at), *rest) if kind == RUNS and named == history and 0 <= at <= end and len(rest) < 2:
            listed = rest[0] if rest else None
            return RunPlace(at, listed) if listed is None or (type(listed) is int and 0 <= listed < 2**63) else None
    return None


def page_runs_since(
    connection: sqlite3.Connection, location: str, wanted: RunFilter, place: RunPlace, limit: int
) -> RunNewsPage:
    reading = _Reading(connection, location, wanted, limit)
    with snapshot(connection):
        return reading.changed(place.at) if place.listed is None else reading.listed(place.at, place.listed)


class _Reading:
    """What one call reads."""

    def __init__(self, connection: sqlite3.Connection, location: str, wanted: RunFilter, limit: int) -> None:
        self._connection = connection
        self._location = location
        self._wanted = wanted
        self._limit = limit
        self._news: list[RunNews] = []

    def listed(self, at: int, behind: int) -> RunNewsPage:
        """Of the runs that there are, those with a higher serial."""
        rows = self._connection.execute(_LISTED, (behind, _WINDOW_ROWS)).fetchall()
        for row in rows:
            behind = row[0]
            if not row[2] and self._takes(row, RunPlace(at, behind)):
                return RunNewsPage(self._news, RunPlace(at, behind), False)
        return RunNewsPage(self._news, RunPlace(at, behind if len(rows) == _WINDOW_ROWS else None), False)

    def changed(self, at: int) -> RunNewsPage:
        """Of the runs that have changed behind the place, the next ones."""
        parts = [
            self._connection.execute(_CHANGES, (at, _WINDOW_ROWS)).fetchall(),
            self._connection.execute(_OUTPUTS, (at >> SHIFT, _WINDOW_ROWS)).fetchall(),
        ]
        changes = changes_of(parts, _WINDOW_ROWS)
        behind = end_of_history(self._connection) if changes.end is None else changes.end[0]
        serials = json_array([serial for _, serial in changes.newest])
        rows = {row[0]: row for row in self._connection.execute(_BY_SERIAL, (serials,)).fetchall()}
        for place, serial in changes.newest:
            if serial in rows and self._takes(rows[serial], RunPlace(place)):
                return RunNewsPage(self._news, RunPlace(place), False)
        return RunNewsPage(self._news, RunPlace(behind), changes.end is None)

    def _takes(self, row: Sequence[Any], place: RunPlace) -> bool:
        """Take the run, if it is wanted. Whether the page is full."""
        serial, flow_run_id, is_deleted, *columns, failures = row
        # Of a deleted run some may be there yet, as of outputs.
        facts = NOTHING_SAID if is_deleted else read_facts(self._location, flow_run_id, columns)
        if self._wanted.fits(facts, bool(is_deleted)):
            self._news.append(self._told(serial, flow_run_id, facts, failures, bool(is_deleted), place))
        return len(self._news) == self._limit

    def _told(
        self, serial: int, flow_run_id: str, facts: RunFacts, failures: int, is_deleted: bool, place: RunPlace
    ) -> RunNews:
        if is_deleted:
            return RunNews(run_record(serial, flow_run_id, 0, 0, (None, None)), True, place.fields())
        known = described(self._connection, self._location, [serial])
        record = known[0] if known else run_record(serial, flow_run_id, 0, 0, (None, None))
        return RunNews(record._replace(facts=facts, failures=failures), False, place.fields())
