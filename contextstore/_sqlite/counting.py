"""How many outputs a run has: kept in its row up to an id, and counted behind it.

Rules of this module: with its siblings, all SQL of SQLite; plain functions over a connection. A put pays nothing for
it: what lies behind the id, the tail, is counted by whoever asks, and added to the rows by a transaction now and then.
A damaged row or page refuses no write, and no read: then the tail stays, and outputs are counted anew.
"""

from __future__ import annotations

import sqlite3
from typing import Any, TypeAlias

from .reads import raise_unless_damage

_SHORT = 512
"""How many rows the tail may have without being folded in."""
_STEP = 4096
"""How many rows one statement folds in."""
_PUTS = 256
"""After so many puts a writer looks how long the tail is."""

_ENDS = "SELECT (SELECT value FROM store_facts WHERE name = 'counted'), max(id) FROM node_outputs"
_STEP_END = "SELECT max(id) FROM (SELECT id FROM node_outputs WHERE id > ? ORDER BY id LIMIT ?)"
# Marks have the time of the deletion, and what they were was noted then.
_TAIL = """
    SELECT run, count(*), min(written_at) FILTER (WHERE codec >= 0), max(written_at) FILTER (WHERE codec >= 0)
    FROM node_outputs WHERE id > ? AND id <= ? AND run <> 0 GROUP BY run
"""
_ADD = """
    UPDATE flow_runs SET outputs = outputs + :rows,
        first_written_at = min(coalesce(first_written_at, :first), coalesce(:first, first_written_at)),
        last_written_at = max(coalesce(last_written_at, :last), coalesce(:last, last_written_at))
    WHERE serial = :run
"""
_NOTE_TIMES = """
    UPDATE flow_runs SET
        first_written_at = min(coalesce(first_written_at, :first), coalesce(:first, first_written_at)),
        last_written_at = max(coalesce(last_written_at, :last), coalesce(:last, last_written_at))
    WHERE serial = :run
"""

WRONG_COUNTS = """
    SELECT flow_run_id, outputs, found FROM (
        SELECT flow_run_id, outputs, (
            SELECT count(*) FROM node_outputs INDEXED BY sqlite_autoindex_node_outputs_1
            WHERE run = serial AND id <= (SELECT value FROM store_facts WHERE name = 'counted')
        ) AS found FROM flow_runs WHERE outputs IS NOT NULL AND deleted_at IS NULL
    ) WHERE outputs <> found
"""
"""Runs whose rows have not counted what is there: each with both numbers."""

Tail: TypeAlias = "dict[int, tuple[int, Any, Any]]"
"""By the serial of a run: how many rows it has behind what is counted, and the first and the last time of these."""


class Tally:
    """How many puts were made since a writer has looked how long the tail is. For all writers of a store object."""

    def __init__(self) -> None:
        self._puts = _PUTS
        """As if there were many: what other processes have left is not known."""

    def note(self, puts: int = 1) -> None:
        self._puts += puts

    @property
    def is_due(self) -> bool:
        return self._puts >= _PUTS

    def fold(self, connection: sqlite3.Connection) -> None:
        """Within a transaction: add the tail to the rows if it has become long."""
        if self.is_due:
            fold(connection)
            self._puts = 0


def fold(connection: sqlite3.Connection) -> bool:
    """Add the tail to the rows of its runs, if it has so many. False: something there is damaged, so it stays."""
    connection.execute("SAVEPOINT folding")
    try:
        _fold(connection)
    except sqlite3.DatabaseError as error:
        if not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO folding")
        connection.execute("RELEASE folding")
        raise_unless_damage(error)
        return False
    connection.execute("RELEASE folding")
    return True


def _fold(connection: sqlite3.Connection) -> None:
    ends = _ends(connection)
    if ends is None or ends[1] - ends[0] < _SHORT:
        return
    counted = ends[0]
    while (end := connection.execute(_STEP_END, (counted, _STEP)).fetchone()[0]) is not None:
        rows = connection.execute(_TAIL, (counted, end)).fetchall()
        names = ("run", "rows", "first", "last")
        connection.cursor().executemany(_ADD, (dict(zip(names, row, strict=True)) for row in rows))
        counted = end
    connection.execute("UPDATE store_facts SET value = ? WHERE name = 'counted'", (counted,))


def _ends(connection: sqlite3.Connection) -> tuple[int, int] | None:
    """The id up to which outputs are counted, and the highest that there is. None: the first is damaged."""
    ((counted, highest),) = connection.execute(_ENDS).fetchall()
    return (counted, highest or 0) if type(counted) is int else None


def tail_of(connection: sqlite3.Connection) -> Tail | None:
    """What is not counted yet. None: it cannot be read."""
    try:
        ends = _ends(connection)
        rows = connection.execute(_TAIL, ends or (0, 0)).fetchall()
    except sqlite3.DatabaseError as error:
        raise_unless_damage(error)
        return None
    return None if ends is None else {run: (count, first, last) for run, count, first, last in rows}


def note_times(connection: sqlite3.Connection, run: int, times: list[Any]) -> None:
    """Of outputs that are about to be marked as deleted: what their rows will not tell any more."""
    if times:
        connection.execute(_NOTE_TIMES, {"run": run, "first": min(times), "last": max(times)})
