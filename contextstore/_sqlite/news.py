"""What was committed to a store in SQLite behind a place in its history, for whoever watches it.

Rules of this module: plain functions over a connection that reads, in its thread. The ids of outputs rise with each
commit, and none is given twice, so a place is an id, and nothing comes to lie before it any more. A call looks at a
bounded number of rows, however few of them are watched, and whatever lies between the place and the end.
"""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from .._engine.portions import Portion
from .._engine.records import CursorFields, News, NewsPage, Watched, WatchStart, after_prefix
from .._engine.rules import read_output
from .._values.codec import DELETED
from .deletion import json_array
from .history import highest_id, name_of_history
from .reads import raise_unless_damage, snapshot, unreadable_output

_WINDOW_ROWS = 5000
"""So many rows one call goes through, in the order of their ids."""
_FAR = 20_000
"""From so many ids before the end on, the outputs of one run are found by its index, and not among all others."""
_AHEAD_IDS = 20_000
"""How many ids of one run are looked up at a time: each time goes through the index of the whole run."""

_COLUMNS = """
    o.id, r.flow_run_id, o.node_id, o.codec, CAST(o.value AS BLOB), o.checksum, o.written_at, o.size, o.run, o.tag,
    o.attempt
"""
_WITH_RUN = "CROSS JOIN flow_runs r ON r.serial = o.run AND r.deleted_at IS NULL"
# Of a mark only the one that ends the watching is told.
_IS_WATCHED = """
    (o.node_id = :until OR (o.codec >= 0 AND o.node_id >= :first AND o.node_id < :end))
"""
_IN_WINDOW = f"""
    SELECT {_COLUMNS} FROM node_outputs o {_WITH_RUN}
    WHERE o.id > :after AND o.id <= :last AND (:run IS NULL OR o.run = :run) AND {_IS_WATCHED}
    ORDER BY o.id LIMIT :limit
"""  # noqa: S608 - no input in it
_BY_ID = f"""
    SELECT {_COLUMNS} FROM json_each(:ids) AS wanted CROSS JOIN node_outputs o ON o.id = wanted.value {_WITH_RUN}
    WHERE {_IS_WATCHED}
"""  # noqa: S608 - no input in it
_IDS_OF_RUN = """
    SELECT id FROM node_outputs INDEXED BY sqlite_autoindex_node_outputs_1
    WHERE run = :run AND node_id >= :first AND node_id < :end AND id > :after
    UNION SELECT id FROM node_outputs WHERE run = :run AND node_id = :until AND id > :after
    ORDER BY id LIMIT :limit
"""
_END_OF_WINDOW = "SELECT max(id) FROM (SELECT id FROM node_outputs WHERE id > ? ORDER BY id LIMIT ?)"
_NAME_OF_NEXT = """
    SELECT r.flow_run_id, o.node_id
    FROM node_outputs o INDEXED BY sqlite_autoindex_node_outputs_1 JOIN flow_runs r ON r.serial = o.run
    WHERE o.id = (
        SELECT min(id) FROM node_outputs INDEXED BY sqlite_autoindex_node_outputs_1
        WHERE id > :after AND run > 0 AND (:run IS NULL OR run = :run)
    )
"""


class RowPlace(NamedTuple):
    """A place in the history of a store in SQLite."""

    id: int
    ahead: tuple[int, ...] = ()
    """Ids behind it that were looked up before: the next outputs of the run."""


def watch_from(
    connection: sqlite3.Connection, location: str, watched: Watched, cursor: tuple[str, CursorFields] | None
) -> WatchStart:
    with snapshot(connection):
        history = name_of_history(connection, location)
        if cursor is None:
            return WatchStart(history, RowPlace(0), False)
        place = _place_of(cursor, history, highest_id(connection))
        query = """
            SELECT 1 FROM node_outputs
            WHERE run = (SELECT serial FROM flow_runs WHERE flow_run_id = ? AND deleted_at IS NULL)
                AND node_id = ? AND id <= ?
        """
        key = (watched.flow_run_id, watched.until, place.id if place is not None else 0)
        return WatchStart(history, place, bool(connection.execute(query, key).fetchall()))


def newest_cursor(connection: sqlite3.Connection, location: str) -> tuple[str, CursorFields]:
    with snapshot(connection):
        return name_of_history(connection, location), (highest_id(connection),)


def _place_of(cursor: tuple[str, CursorFields], history: str, last: int) -> RowPlace | None:
    named, fields = cursor
    match fields:
        case (int(id),) if named == history and 0 <= id <= last:
            return RowPlace(id)
    return None


def page_since(
    connection: sqlite3.Connection, location: str, watched: Watched, place: RowPlace, portion: Portion
) -> NewsPage:
    with snapshot(connection):
        last = highest_id(connection)
        run = None
        if watched.flow_run_id is not None:
            query = "SELECT serial, deleted_at IS NOT NULL FROM flow_runs WHERE flow_run_id = ?"
            run, is_deleted = connection.execute(query, (watched.flow_run_id,)).fetchone() or (None, False)
            if run is None or is_deleted:
                return NewsPage([], RowPlace(last), True, run, bool(is_deleted))
        parameters = {
            "run": run,
            "until": watched.until,
            "first": watched.prefix,
            "end": after_prefix(watched.prefix) or b"",
            "after": place.id,
            "limit": portion.most,
        }
        if not place.ahead and run is not None and last - place.id > _FAR:
            ids = connection.execute(_IDS_OF_RUN, parameters | {"limit": _AHEAD_IDS}).fetchall()
            if not ids:
                return NewsPage([], RowPlace(last), True, run, False)
            place = RowPlace(place.id, tuple(row[0] for row in ids))
        reading = _Reading(connection, location, parameters)
        if place.ahead:
            news, behind = reading.ahead(place, portion)
        else:
            ((end,),) = connection.execute(_END_OF_WINDOW, (place.id, _WINDOW_ROWS)).fetchall()
            news, behind = reading.window(place.id, last if end is None else end, portion)
        return NewsPage(news, behind, not behind.ahead and behind.id >= last, run, False)


class _Reading:
    """What one call reads of the rows themselves."""

    def __init__(self, connection: sqlite3.Connection, location: str, parameters: dict[str, Any]) -> None:
        self._connection = connection
        self._location = location
        self._parameters = parameters

    def window(self, after: int, last: int, portion: Portion) -> tuple[list[News], RowPlace]:
        """Those up to the id ``last``, and the place behind them."""
        news, is_all = self._watched_rows(_IN_WINDOW, {"last": last}, portion)
        is_all = is_all and len(news) < portion.most
        return news, RowPlace(last if is_all else int(news[-1].cursor[0]))

    def ahead(self, place: RowPlace, portion: Portion) -> tuple[list[News], RowPlace]:
        """Those with the next ids that are known, as far as they are there still."""
        ids, later = place.ahead[: portion.most], place.ahead[portion.most :]
        news, is_all = self._watched_rows(_BY_ID, {"ids": json_array(ids)}, portion)
        if is_all:
            return news, RowPlace(ids[-1], later)
        last = int(news[-1].cursor[0])
        return news, RowPlace(last, tuple(one for one in ids if one > last) + later)

    def _watched_rows(self, query: str, more: dict[str, Any], portion: Portion) -> tuple[list[News], bool]:
        """As many as go into the portion, and whether these are all."""
        news: list[News] = []
        cursor = self._connection.cursor()
        try:
            for row_id, flow_run_id, *row in cursor.execute(query, self._parameters | more):
                if not portion.takes(len(row[2] or b"")):
                    return news, False
                output = None if row[1] == DELETED else read_output(self._location, flow_run_id, row)
                news.append(News(flow_run_id, row[0], output, (row_id,)))  # type: ignore[arg-type]  # a row is there
        except sqlite3.DatabaseError as error:
            raise_unless_damage(error)
            if not news:
                raise self._named(error) from error
            return news, False  # it comes first of the next page
        finally:
            cursor.close()  # an open one would pin its snapshot
        return news, True

    def _named(self, error: sqlite3.DatabaseError) -> Exception:
        """The damage, by the name of the first output behind the place, which the index has, on other pages."""
        row = self._connection.execute(_NAME_OF_NEXT, self._parameters).fetchone()
        return error if row is None else unreadable_output(self._location, row, error)
