"""What is read of a store in SQLite: rows, as the records of the engines' contract.

Rules of this module: plain functions over a connection, in the thread that has it; with its siblings, all SQL of
SQLite. They raise SQLite's own errors, but for damage: where a page of the file cannot be read, they go round it, so
that only the calls that ask for what was on it are told. ``location`` is how messages name the store.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from .._engine.fact_rules import row_with_facts
from .._engine.portions import Portion
from .._engine.records import (
    Counts,
    Fetched,
    GlobalRecord,
    GlobalRow,
    OutputKey,
    RunLife,
    RunRecord,
    RunRow,
    after_prefix,
    is_time,
)
from .._engine.rules import StoredGlobal, read_global, read_global_row, read_output, run_record
from .._values.keys import named
from .._waiting.outcome import Outcome
from ..errors import CorruptStoreError
from .appends import HAS_APPENDS
from .clock import now
from .deletion import json_array
from .errors import code_of, translated
from .run_facts import FACT_COLUMNS

OUTPUT_COLUMNS = """
    node_outputs.node_id, node_outputs.codec, CAST(node_outputs.value AS BLOB), node_outputs.checksum,
    node_outputs.written_at, node_outputs.size, node_outputs.run, node_outputs.tag,
    node_outputs.attempt
"""
_FETCH_OUTPUT = f"""
    SELECT {OUTPUT_COLUMNS} FROM flow_runs JOIN node_outputs ON node_outputs.run = flow_runs.serial
    WHERE flow_runs.flow_run_id = ? AND flow_runs.deleted_at IS NULL AND node_outputs.node_id = ?
"""  # noqa: S608 - no input in it
_FETCH_OUTPUTS = f"""
    SELECT {OUTPUT_COLUMNS} FROM node_outputs
    WHERE run = (SELECT serial FROM flow_runs WHERE flow_run_id = ? AND deleted_at IS NULL)
        AND node_id IN (SELECT value FROM json_each(?))
"""  # noqa: S608 - no input in it
_PAGE_OUTPUTS = f"""
    SELECT {OUTPUT_COLUMNS} FROM node_outputs
    WHERE run = (
        SELECT serial FROM flow_runs WHERE flow_run_id = ? AND deleted_at IS NULL AND serial = coalesce(?, serial)
    ) AND node_id > ? AND (codec >= 0 OR ?)
    ORDER BY node_id LIMIT ?
"""  # noqa: S608 - no input in it
_NEXT_NODE_ID = """
    SELECT node_id FROM node_outputs INDEXED BY sqlite_autoindex_node_outputs_1
    WHERE run = (SELECT serial FROM flow_runs WHERE flow_run_id = ? AND deleted_at IS NULL) AND node_id > ?
    ORDER BY node_id LIMIT 1
"""
GLOBAL_COLUMNS = "key, codec, CAST(value AS BLOB), checksum, version, written_at, size, expires_at"
IS_THERE = "value IS NOT NULL AND (expires_at IS NULL OR expires_at NOT BETWEEN 0 AND ?)"
"""Of a global, by the time that is passed in: neither deleted nor expired."""
_FETCH_GLOBAL = f"SELECT {GLOBAL_COLUMNS} FROM global_values WHERE key = ?"  # noqa: S608 - no input in it

_GLOBAL_NAMES = """
    SELECT key FROM global_values INDEXED BY sqlite_autoindex_global_values_1 WHERE key > ? OR ? ORDER BY key LIMIT ?
"""

_COUNT = f"""
    SELECT (SELECT count(*) FROM flow_runs WHERE deleted_at IS NULL),
        (SELECT count(*) FROM flow_runs WHERE deleted_at IS NOT NULL), count(*),
        (SELECT count(*) FROM global_values WHERE {IS_THERE}),
        CAST(total(size) + (SELECT total(size) FROM global_values WHERE {IS_THERE}) AS INTEGER)
    FROM node_outputs WHERE run IN (SELECT serial FROM flow_runs WHERE deleted_at IS NULL) AND codec >= 0
"""  # noqa: S608 - no input in it


@contextlib.contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction: what is read in it is of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def raise_unless_damage(error: sqlite3.DatabaseError) -> None:
    if code_of(error) & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
        raise error


# -- outputs -----------------------------------------------------------------------------------------------------------


def fetch_outputs(connection: sqlite3.Connection, location: str, keys: Sequence[OutputKey]) -> list[Fetched]:
    """The outputs under the keys, in their order, all as they were at one moment."""
    if len(keys) == 1:
        return [fetch_output(connection, location, keys[0])]
    by_run: dict[str, list[str]] = {}
    for flow_run_id, node_id in keys:
        by_run.setdefault(flow_run_id, []).append(node_id)
    found: dict[OutputKey, Fetched] = {}
    with snapshot(connection):  # or each statement would lock and unlock the file: two system calls
        for flow_run_id, node_ids in by_run.items():
            found |= _fetch_outputs_of_run(connection, location, flow_run_id, node_ids)
    return [found.get(key) or Outcome(None) for key in keys]


def _fetch_outputs_of_run(
    connection: sqlite3.Connection, location: str, flow_run_id: str, node_ids: list[str]
) -> dict[OutputKey, Fetched]:
    """By one statement: 64 outputs take 0.4 of the time of 64 statements."""
    try:
        rows = connection.execute(_FETCH_OUTPUTS, (flow_run_id, json_array(node_ids))).fetchall()
    except sqlite3.DatabaseError as error:
        raise_unless_damage(error)
        # One by one, so that only the calls that need the damaged page are told.
        return {(flow_run_id, one): fetch_output(connection, location, (flow_run_id, one)) for one in node_ids}
    return {(flow_run_id, row[0]): read_output(location, flow_run_id, row) for row in rows}


def fetch_output(connection: sqlite3.Connection, location: str, key: OutputKey) -> Fetched:
    try:
        row = connection.execute(_FETCH_OUTPUT, key).fetchone()
    except sqlite3.DatabaseError as error:
        raise_unless_damage(error)
        return Outcome.failure(unreadable_output(location, key, error))
    return Outcome(None) if row is None else read_output(location, key[0], row)


def unreadable_output(location: str, key: OutputKey, error: sqlite3.DatabaseError) -> CorruptStoreError:
    unreadable = translated(error, location, f"could not read the output of {named(*key)} from")
    corrupt = CorruptStoreError(unreadable.message, flow_run_id=key[0], node_id=key[1])
    corrupt.__cause__ = error
    return corrupt


def codec_of(connection: sqlite3.Connection, key: OutputKey) -> int:
    """Of an output that is there, or of its mark."""
    query = """
        SELECT codec FROM node_outputs WHERE run = (SELECT serial FROM flow_runs WHERE flow_run_id = ?) AND node_id = ?
    """
    ((codec,),) = connection.execute(query, key).fetchall()
    return int(codec)


def exists(connection: sqlite3.Connection, key: OutputKey) -> bool:
    query = """
        SELECT 1 FROM node_outputs
        WHERE run = (SELECT serial FROM flow_runs WHERE flow_run_id = ? AND deleted_at IS NULL) AND node_id = ?
            AND codec >= 0
    """
    return connection.execute(query, key).fetchone() is not None


def look(connection: sqlite3.Connection) -> None:
    """The least that reads the store: a transaction that looks at its first page."""
    connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()


def page_outputs(
    connection: sqlite3.Connection,
    location: str,
    flow_run_id: str,
    run: int | None,
    after: str,
    portion: Portion,
    with_marks: bool = False,
) -> list[Fetched]:
    page: list[Fetched] = []
    cursor = connection.cursor()
    try:
        for row in cursor.execute(_PAGE_OUTPUTS, (flow_run_id, run, after, with_marks, portion.most)):
            page.append(read_output(location, flow_run_id, row))
            if not portion.takes(len(row[2] or b"")) or portion.is_full:
                break
    except sqlite3.DatabaseError as error:
        raise_unless_damage(error)
        if not page:  # else it comes first of the next page
            page.append(_next_damaged(connection, location, flow_run_id, after, error))
    finally:
        cursor.close()  # an open one would pin its snapshot
    return page


def _next_damaged(
    connection: sqlite3.Connection, location: str, flow_run_id: str, after: str, error: sqlite3.DatabaseError
) -> Fetched:
    """The output above ``after``, which cannot be read: by its name, which the index has, on other pages."""
    row = connection.execute(_NEXT_NODE_ID, (flow_run_id, after)).fetchone()
    if row is None:
        raise error
    key = (flow_run_id, row[0])
    found = fetch_output(connection, location, key)
    is_there = found.result is not None or found.error is not None
    return found if is_there else Outcome.failure(unreadable_output(location, key, error))


# -- runs --------------------------------------------------------------------------------------------------------------


def counted_record(
    connection: sqlite3.Connection, serial: int, flow_run_id: str, kept: tuple[Any, Any] = (None, None)
) -> RunRecord:
    """A run whose outputs are counted now. ``kept``: the times of some that it had."""
    query = """
        SELECT count(*), total(size), min(written_at), max(written_at) FROM node_outputs WHERE run = ? AND codec >= 0
    """
    try:
        outputs, size, first, last = connection.execute(query, (serial,)).fetchone()
    except sqlite3.DatabaseError as error:
        raise_unless_damage(error)
        # By the index alone, which lies on other pages.
        query = """
            SELECT count(*) - (SELECT marks FROM flow_runs WHERE serial = run)
            FROM node_outputs INDEXED BY sqlite_autoindex_node_outputs_1 WHERE run = ?
        """
        (outputs,) = connection.execute(query, (serial,)).fetchone()
        return run_record(serial, flow_run_id, outputs, 0, (None, None))
    return run_record(serial, flow_run_id, outputs, int(size), times_of_all(kept, (first, last)))


def times_of_all(kept: Sequence[Any], found: Sequence[Any]) -> tuple[Any, Any]:
    """The first and the last of the times of two parts, each of which may be without any. Of damaged ones: neither."""
    first = [time for time in (kept[0], found[0]) if time is not None]
    last = [time for time in (kept[1], found[1]) if time is not None]
    if not all(map(is_time, (*first, *last))):
        return None, None
    return min(first, default=None), max(last, default=None)


def find_run(connection: sqlite3.Connection, flow_run_id: str) -> RunLife | None:
    query = "SELECT serial, deleted_at IS NOT NULL FROM flow_runs WHERE flow_run_id = ?"
    row = connection.execute(query, (flow_run_id,)).fetchone()
    return None if row is None else RunLife(row[0], bool(row[1]))


def count_runs(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM flow_runs WHERE deleted_at IS NULL").fetchone()[0])


def count_tombstones(connection: sqlite3.Connection, deleted_before: int) -> int:
    query = "SELECT count(*) FROM flow_runs WHERE deleted_at < ?"
    return int(connection.execute(query, (deleted_before,)).fetchone()[0])


def page_run_rows(connection: sqlite3.Connection, location: str, after: int, limit: int) -> list[RunRow]:
    query = f"""
        SELECT serial, flow_run_id, created_at, deleted_at, {HAS_APPENDS}, touched_at, {FACT_COLUMNS} FROM flow_runs
        WHERE serial > ? ORDER BY serial LIMIT ?
    """  # noqa: S608 - no input in it
    try:
        rows = connection.execute(query, (after, limit)).fetchall()
    except sqlite3.DatabaseError as error:
        raise_unless_damage(error)
        return _run_rows_around_damage(connection, location, after, limit)
    some = [row_with_facts(location, RunRow(*row[:5]), row[5:]) for row in rows]
    return [row._replace(has_appends=bool(row.has_appends)) for row in some]


def _run_rows_around_damage(connection: sqlite3.Connection, location: str, after: int, limit: int) -> list[RunRow]:
    query = "SELECT serial, flow_run_id FROM flow_runs INDEXED BY sqlite_autoindex_flow_runs_1 WHERE serial > ?"
    rows: list[RunRow] = []
    for serial, flow_run_id in sorted(connection.execute(query, (after,)).fetchall())[:limit]:
        row = RunRow(serial, flow_run_id, None, None, True, None)  # with appends, perhaps
        with contextlib.suppress(sqlite3.DatabaseError):
            query = f"SELECT created_at, deleted_at, touched_at, {FACT_COLUMNS} FROM flow_runs WHERE serial = ?"  # noqa: S608 - no input in it
            created_at, deleted_at, *facts = connection.execute(query, (serial,)).fetchone()
            row = row_with_facts(location, row._replace(created_at=created_at, deleted_at=deleted_at), facts)
        rows.append(row)
    return rows


# -- globals -----------------------------------------------------------------------------------------------------------


def stored_global(connection: sqlite3.Connection, key: str) -> StoredGlobal | None:
    """The row as it is, deleted or not; None: the store has no trace of it."""
    row = connection.execute(_FETCH_GLOBAL, (key,)).fetchone()
    return None if row is None else StoredGlobal(*row)


def fetch_global(connection: sqlite3.Connection, location: str, key: str) -> GlobalRecord | None:
    stored = stored_global(connection, key)
    return read_global(location, stored) if stored is not None and stored.is_there(now()) else None


def page_globals(
    connection: sqlite3.Connection, location: str, prefix: str, after: str | None, limit: int
) -> list[GlobalRecord]:
    is_next_page = after is not None and after >= prefix
    bound = "key > ?" if is_next_page else "key >= ?"  # one of the two, so that the index leads to the page at once
    query = f"""
        SELECT {GLOBAL_COLUMNS} FROM global_values
        WHERE {bound} AND key < ? AND {IS_THERE} ORDER BY key LIMIT ?
    """  # noqa: S608 - no input in it
    parameters = (after if is_next_page else prefix, after_prefix(prefix) or b"", now(), limit)
    rows = connection.execute(query, parameters).fetchall()
    return [read_global(location, StoredGlobal(*row)) for row in rows]


def page_global_rows(
    connection: sqlite3.Connection, location: str, after: str | None, limit: int
) -> list[Outcome[GlobalRow]]:
    query = f"SELECT {GLOBAL_COLUMNS} FROM global_values WHERE key > ? OR ? ORDER BY key LIMIT ?"  # noqa: S608 - no input in it
    parameters = (after or "", after is None, limit)
    try:
        rows = connection.execute(query, parameters).fetchall()
    except sqlite3.DatabaseError as error:
        raise_unless_damage(error)
        names = connection.execute(_GLOBAL_NAMES, parameters).fetchall()
        return [_global_row_by_name(connection, location, name) for (name,) in names]
    return [read_global_row(location, StoredGlobal(*row)) for row in rows]


def _global_row_by_name(connection: sqlite3.Connection, location: str, key: str) -> Outcome[GlobalRow]:
    stored = None
    try:
        stored = stored_global(connection, key)
    except sqlite3.DatabaseError as error:
        raise_unless_damage(error)
    # The index has it: where its row cannot be read, or is not there, it is damaged.
    return read_global_row(location, stored or StoredGlobal(key, 0, 0, 0, 0, 0, 0))


def count(connection: sqlite3.Connection) -> Counts:
    at = now()
    return Counts(*connection.execute(_COUNT, (at, at)).fetchone())
