"""Parts of a run, as they are read of a store in SQLite: its node ids, and pages of its outputs, in either order.

Rules of this module: those of ``reads``, whose sibling it is. Marks of deleted outputs are left out, without a look at
the rows where a run has none: the index alone has its node ids.
"""

from __future__ import annotations

import sqlite3
from typing import TypeAlias

from .._engine.pages import OutputPage, PageTaker, Part
from .._process.pacing import Pacer
from .._values.codec import DELETED, JSON, Encoded, decode
from ..errors import CorruptStoreError
from .reads import OUTPUT_COLUMNS, fetch_output, raise_unless_damage, snapshot, unreadable_output

_NODE_IDS = 5000
"""How many node ids are read at a time."""

_LEAST = "\0"  # no id has it, but a damaged one may

_Asked: TypeAlias = tuple[str, int | None, Part, int]
"""The id of a run, its serial if it is to be that one, which of its outputs, and how many at most."""

# ``marks`` is asked first, so that where it is 0 the row is never looked for. CROSS: the run first, which is one.
_OF_PART = f"""
    FROM flow_runs CROSS JOIN node_outputs ON node_outputs.run = flow_runs.serial
    WHERE flow_runs.flow_run_id = :flow_run_id AND flow_runs.deleted_at IS NULL AND node_outputs.node_id >= :low
        AND (flow_runs.marks = 0 OR node_outputs.codec <> {DELETED})
"""
_BELOW = "AND node_outputs.node_id < :high"
_OF_RUN = "AND flow_runs.serial = :run"


def _order(part: Part) -> str:
    return f"ORDER BY node_outputs.node_id {'DESC' if part.reverse else 'ASC'} LIMIT :limit"


def first_node_ids(connection: sqlite3.Connection, flow_run_id: str, part: Part, limit: int) -> list[str]:
    low, high = part.bounds(_LEAST)
    # As one JSON array instead of a row each: 0.6 of the time. A blob is above all text.
    query = f"SELECT json_group_array(node_id) FROM (SELECT node_outputs.node_id {_OF_PART} {_BELOW} {_order(part)})"  # noqa: S608 - no input in it
    bound = {"flow_run_id": flow_run_id, "low": low, "high": b"" if high is None else high, "limit": limit}
    (nodes,) = connection.execute(query, bound).fetchone()
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
    cursor = connection.cursor()
    try:
        page.take(cursor.execute(*_rows(OUTPUT_COLUMNS, asked)))
    except sqlite3.DatabaseError as error:
        raise_unless_damage(error)
        # Else it comes first of the next page.
        damaged = None if page.rows else _next_damaged(connection, location, asked, error)
        return OutputPage(page.rows, damaged, is_last=False)
    finally:
        cursor.close()  # an open one would pin its snapshot
    return page.page()


def _rows(columns: str, asked: _Asked) -> tuple[str, dict[str, object]]:
    flow_run_id, run, part, limit = asked
    low, high = part.bounds(_LEAST)
    below, of_run = _BELOW if high is not None else "", _OF_RUN if run is not None else ""
    query = f"SELECT {columns} {_OF_PART} {below} {of_run} {_order(part)}"
    return query, {"flow_run_id": flow_run_id, "run": run, "low": low, "high": high, "limit": limit}


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
