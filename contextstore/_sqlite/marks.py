"""The SQL that deletes single outputs: of each a mark stays in its row, so that its id is used up.

Rules of this module: with its siblings, all SQL of SQLite; plain functions over a connection, within a transaction. A
mark is the row of its output without the value: so a put finds it where it would find an output, and pays nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any, NamedTuple

from .._engine.operations import DeleteOutputs, LoadMark, OutputDeletion
from .._engine.portions import Portion
from .._engine.records import after_prefix
from .._values.codec import DELETED, MARK, checksum
from ..errors import AlreadyExistsError, RunDeletedError
from .counting import note_times
from .deletion import json_array

_LOOKED_AT = 20_000
"""How many rows one commit looks at, of which all may be marks already."""

_COLUMNS = "id, node_id, CAST(size AS INTEGER), codec, written_at"
_BY_PREFIX = f"""
    SELECT {_COLUMNS} FROM node_outputs
    WHERE run = ? AND node_id > ? AND node_id >= ? AND node_id < ? ORDER BY node_id
"""  # noqa: S608 - no input in it
_BY_ID = f"""
    SELECT {_COLUMNS} FROM node_outputs
    WHERE run = ? AND node_id > ? AND node_id IN (SELECT value FROM json_each(?)) ORDER BY node_id
"""  # noqa: S608 - no input in it
_MARK = f"""
    UPDATE node_outputs SET codec = {DELETED}, checksum = ?, written_at = ?, size = 0, value = x'', tag = NULL,
        attempt = NULL
    WHERE id = ?
"""  # noqa: S608 - no input in it
_INSERT_MARK = f"""
    INSERT INTO node_outputs (run, node_id, codec, checksum, written_at, size, value)
    VALUES (?, ?, {DELETED}, ?, ?, 0, x'')
"""  # noqa: S608 - no input in it
_COUNT = "UPDATE flow_runs SET marks = marks + ? WHERE serial = ?"


class _Row(NamedTuple):
    id: int
    node_id: str
    written_at: Any


class _Look(NamedTuple):
    """What is to be deleted by one commit, and above which node id the next one goes on; None: there is none."""

    rows: list[_Row]
    after: str | None


def delete_outputs(
    connection: sqlite3.Connection, delete: DeleteOutputs, now: int, max_bytes: int
) -> tuple[OutputDeletion, int]:
    """What became of it, and about how many pages were written."""
    query = "SELECT serial FROM flow_runs WHERE flow_run_id = ? AND deleted_at IS NULL"
    found = connection.execute(query, (delete.flow_run_id,)).fetchone()
    serial: int | None = None if found is None else found[0]
    if delete.run is not None and serial != delete.run:
        raise RunDeletedError(delete.flow_run_id)
    if serial is None:
        return OutputDeletion(0), 0
    look = _look(connection, delete, serial, max_bytes)
    pages = _free_pages(connection)
    note_times(connection, serial, [row.written_at for row in look.rows])
    for row in look.rows:
        connection.execute(_MARK, (checksum(delete.flow_run_id, row.node_id, MARK), now, row.id))
    if look.rows:
        connection.execute(_COUNT, (len(look.rows), serial))
    pages = max(0, _free_pages(connection) - pages)
    return OutputDeletion(len(look.rows), look.after, serial), len(look.rows) + pages


def _look(connection: sqlite3.Connection, delete: DeleteOutputs, serial: int, max_bytes: int) -> _Look:
    bounds: tuple[str | bytes, ...] = (delete.prefix, after_prefix(delete.prefix) or b"")
    query = _BY_PREFIX
    if delete.node_ids is not None:
        query, bounds = _BY_ID, (json_array(sorted(delete.node_ids)),)
    portion = None if delete.limit is None else Portion(delete.limit, max_bytes)
    rows: list[_Row] = []
    last = delete.after
    with contextlib.closing(connection.execute(query, (serial, delete.after, *bounds))) as found:
        for number, (row_id, node_id, size, codec, written_at) in enumerate(found):
            if portion is not None and (portion.is_full or number >= _LOOKED_AT):
                return _Look(rows, last)
            if codec != DELETED:
                if portion is not None and not portion.takes(size):
                    return _Look(rows, last)
                rows.append(_Row(row_id, node_id, written_at))
            last = node_id
    return _Look(rows, None)


def _free_pages(connection: sqlite3.Connection) -> int:
    ((pages,),) = connection.execute("PRAGMA freelist_count").fetchall()
    return int(pages)


def load_mark(connection: sqlite3.Connection, load: LoadMark, serial: int) -> bool:
    """Whether an output went for it."""
    query = "SELECT id, codec, written_at FROM node_outputs WHERE run = ? AND node_id = ?"
    row = connection.execute(query, (serial, load.node_id)).fetchone()
    whole = checksum(load.flow_run_id, load.node_id, MARK)
    if row is not None and row[1] == DELETED:
        return False
    if row is not None and not load.replaces:
        raise AlreadyExistsError(load.flow_run_id, load.node_id, False)
    if row is None:
        connection.execute(_INSERT_MARK, (serial, load.node_id, whole, load.written_at))
    else:
        note_times(connection, serial, [row[2]])
        connection.execute(_MARK, (whole, load.written_at, row[0]))
    connection.execute(_COUNT, (1, serial))
    return row is not None
