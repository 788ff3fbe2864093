"""Parts of a run, as they are read of a store in SQLite: its node ids, and pages of its outputs, in either order.

Rules of this module: those of ``reads``, whose sibling it is. Marks of deleted outputs are left out, without a look at
the rows where a run has none: the index alone has its node ids.
"""

from __future__ import annotations

import functools
import sqlite3
from typing import TypeAlias

from .._engine.pages import OutputPage, PageTaker, Part
from .._process.pacing import Pacer
from .._values.codec import JSON, Encoded, decode
from ..errors import CorruptStoreError
from .reads import OUTPUT_COLUMNS, fetch_output, raise_unless_damage, snapshot, unreadable_output

_NODE_IDS = 5000
"""How many node ids are read at a time."""

_LEAST = "\0"  # no id has it, but a damaged one may

_Asked: TypeAlias = tuple[str, int | None, Part, int]
"""The id of a run, its serial if it is to be that one, which of its outputs, and how many at most."""


@functools.cache
def _query(columns: str, is_bounded: bool, is_of_run: bool, reverse: bool) -> str:
    """What reads these columns of a part. Its parameters: the run's id, the bounds, the run's serial, how many at most.

    The codec -1 is that of a mark. ``marks`` is asked first: where it is 0 the row is never looked for. CROSS: the run
    first, which is one.
    """
    return f"""
        SELECT {columns} FROM flow_runs CROSS JOIN node_outputs ON node_outputs.run = flow_runs.serial
        WHERE flow_runs.flow_run_id = ? AND flow_runs.deleted_at IS NULL AND node_outputs.node_id >= ?
            {"AND node_outputs.node_id < ?" if is_bounded else ""} {"AND flow_runs.serial = ?" if is_of_run else ""}
            AND (flow_runs.marks = 0 OR node_outputs.codec <> -1)
        ORDER BY node_outputs.node_id {"DESC" if reverse else "ASC"} LIMIT ?
    """  # noqa: S608 - no input in it


def first_node_ids(connection: sqlite3.Connection, flow_run_id: str, part: Part, limit: int) -> list[str]:
    low, high = part.bounds(_LEAST)
    # As one JSON array instead of a row each: 0.6 of the time. It takes no blob, which is above all text.
    rows = _query("node_outputs.node_id", True, False, part.reverse)
    query = f"SELECT json_group_array(node_id) FROM ({rows})"  # noqa: S608 - no input in it
    (nodes,) = connection.execute(query, (flow_run_id, low, b"" if high is None else high, limit)).fetchone()
    names: list[str] = decode(Encoded(JSON, nodes.encode()))
    return names


def list_node_ids(connection: sqlite3.Connection, flow_run_id: str, part: Part, limit: int | None) -> list[str]:
    names: list[str] = []
    with snapshot(connection):
        pacer = Pacer()
        while True:
            most = _NODE_IDS if limit is None else min(_NODE_IDS, limit - len(names))
            page = first_node_ids(connection, flow_run_id, part, most)
            names += page
            if len(page) < _NODE_IDS or len(names) == limit:
                return names
            part = part._replace(after=names[-1])
            pacer.take()


def list_outputs(connection: sqlite3.Connection, location: str, asked: _Asked, page: PageTaker) -> OutputPage:
    flow_run_id, run, part, limit = asked
    low, high = part.bounds(_LEAST)
    bound = [one for one in (flow_run_id, low, high, run, limit) if one is not None]
    cursor = connection.cursor()
    try:
        page.take(cursor.execute(_query(OUTPUT_COLUMNS, high is not None, run is not None, part.reverse), bound))
    except sqlite3.DatabaseError as error:
        raise_unless_damage(error)
        # Else it comes first of the next page.
        damaged = None if page.rows else _next_damaged(connection, location, asked, error)
        return OutputPage(page.rows, damaged, is_last=False)
    finally:
        cursor.close()  # an open one would pin its snapshot
    return page.page()


def _next_damaged(
    connection: sqlite3.Connection, location: str, asked: _Asked, error: sqlite3.DatabaseError
) -> CorruptStoreError:
    """Why the first of these outputs cannot be read. Its name is in the index, which lies on other pages."""
    flow_run_id, _, part, _ = asked
    low, high = part.bounds(_LEAST)
    query = f"""
        SELECT node_id FROM node_outputs INDEXED BY sqlite_autoindex_node_outputs_1
        WHERE run = (SELECT serial FROM flow_runs WHERE flow_run_id = ? AND deleted_at IS NULL)
            AND node_id >= ? AND node_id < ?
        ORDER BY node_id {"DESC" if part.reverse else "ASC"} LIMIT 1
    """  # noqa: S608 - no input in it
    row = connection.execute(query, (flow_run_id, low, b"" if high is None else high)).fetchone()
    if row is None:
        raise error
    key = (flow_run_id, row[0])
    found = fetch_output(connection, location, key).error
    return found if isinstance(found, CorruptStoreError) else unreadable_output(location, key, error)
