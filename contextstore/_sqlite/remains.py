"""The SQL that removes what deleted runs have beside their outputs: append keys, state values, failures, facts.

Rules of this module: with its siblings, all SQL of SQLite; plain functions over a connection, in its thread. What one
commit removes is bounded, in rows and in bytes.
"""

from __future__ import annotations

import sqlite3

import orjson

from .._engine.portions import Portion
from .._engine.remains import attribute_rows
from . import appends
from .appends import HAS_APPEND_KEYS, HAS_APPENDS

HAS_REMAINS = f"""(
    {HAS_APPENDS} OR {HAS_APPEND_KEYS}
    OR EXISTS (SELECT 1 FROM run_states WHERE run_states.run = flow_runs.serial)
    OR EXISTS (SELECT 1 FROM failed_attempts WHERE failed_attempts.run = flow_runs.serial)
    OR flow_runs.checksum IS NOT NULL OR flow_runs.attributes IS NOT NULL
)"""  # noqa: S608 - no input in it
"""Of a row of ``flow_runs``, of a deleted run: whether anything of it is left beside its outputs and its tombstone."""

_STATES = """
    SELECT s.run, s.key, CAST(s.size AS INTEGER)
    FROM json_each(?) AS wanted CROSS JOIN run_states AS s ON s.run = wanted.value LIMIT ?
"""
_ERASE_STATES = """
    DELETE FROM run_states WHERE (run, key) IN (
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)
    )
"""
_ERASE_FAILURES = """
    DELETE FROM failed_attempts WHERE (run, node_id, number) IN (
        SELECT f.run, f.node_id, f.number
        FROM json_each(?) AS wanted CROSS JOIN failed_attempts AS f ON f.run = wanted.value LIMIT ?
    )
"""
_WITH_FACTS = """
    SELECT serial, attributes FROM flow_runs
    WHERE serial IN (SELECT value FROM json_each(?)) AND (checksum IS NOT NULL OR attributes IS NOT NULL)
    ORDER BY serial LIMIT ?
"""
_ERASE_ATTRIBUTES = "DELETE FROM run_attributes WHERE name = ? AND value = ? AND run = ?"
_ERASE_ALL_ATTRIBUTES = "DELETE FROM run_attributes WHERE run = ?"
# But for when it began: a page of a listing may have ended with the run.
_ERASE_FACTS = """
    UPDATE flow_runs SET state = 0, state_changed_at = NULL, begun_attributes = NULL, parent = NULL, attributes = NULL,
        error = NULL, failures = 0, checksum = NULL
    WHERE serial IN (SELECT value FROM json_each(?))
"""


def erase(connection: sqlite3.Connection, serials: str, limit: int, max_bytes: int) -> bool:
    """Remove so many rows at most, and about so many bytes, of the deleted runs of a JSON array of serials.

    False: there may be more.
    """
    left = limit - appends.erase(connection, serials, max(0, limit))
    if left <= 0:
        return False
    some, is_all = _some_states(connection, serials, left, max_bytes)
    if some:
        left -= connection.execute(_ERASE_STATES, (orjson.dumps(some).decode(),)).rowcount
    if not is_all or left <= 0:
        return False
    left -= connection.execute(_ERASE_FAILURES, (serials, left)).rowcount
    return left > 0 and _erase_facts(connection, serials, left)


def _some_states(
    connection: sqlite3.Connection, serials: str, limit: int, max_bytes: int
) -> tuple[list[tuple[int, str]], bool]:
    """Keys of state values, and whether there are no others."""
    some: list[tuple[int, str]] = []
    portion = Portion(limit, max_bytes)
    rows = connection.execute(_STATES, (serials, limit + 1)).fetchall()
    for run, key, size in rows:
        if portion.is_full or not portion.takes(size):
            return some, False
        some.append((run, key))
    return some, True


def _erase_facts(connection: sqlite3.Connection, serials: str, limit: int) -> bool:
    """Of a run all of its attributes go at once: there are few."""
    done: list[int] = []
    rows = connection.execute(_WITH_FACTS, (serials, limit + 1)).fetchall()
    for serial, attributes in rows:
        if limit <= 0:
            break
        limit -= 1 + _erase_attributes(connection, serial, attributes)
        done.append(serial)
    connection.execute(_ERASE_FACTS, (orjson.dumps(done).decode(),))
    return len(done) == len(rows)


def _erase_attributes(connection: sqlite3.Connection, serial: int, attributes: object) -> int:
    if attributes is None:
        return 0
    rows = attribute_rows(attributes) if type(attributes) is str else None
    if rows is None:  # damaged: they are looked for among those of all runs
        return connection.execute(_ERASE_ALL_ATTRIBUTES, (serial,)).rowcount
    for name, value in rows:
        connection.execute(_ERASE_ATTRIBUTES, (name, value, serial))
    return len(rows)
