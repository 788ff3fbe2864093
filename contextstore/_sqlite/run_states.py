"""The SQL of state values of runs: read, listed, and written over.

Rules of this module: with its siblings, all SQL of SQLite; plain functions over a connection, in its thread. What is
written, or refused, is decided in ``_engine/run_states``. Whoever writes has the right to commit, so that what is
looked up stays so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .._engine.portions import Portion
from .._engine.records import RunLife, StateRecord
from .._engine.run_operations import LoadState, UpsertState
from .._engine.run_states import StoredState, change_state, problems_of, read_state
from .._process.pacing import paced
from .._results import Problem
from .._values.codec import checksum
from .._waiting.outcome import Outcome
from .reads import find_run, snapshot
from .single_put import value_of

_COLUMNS = "s.key, s.codec, CAST(s.value AS BLOB), s.checksum, s.version, s.written_at, s.size, s.run"
_FETCH = f"""
    SELECT r.serial, r.deleted_at IS NOT NULL, {_COLUMNS} FROM flow_runs AS r
    LEFT JOIN run_states AS s ON s.run = r.serial AND s.key = ? WHERE r.flow_run_id = ?
"""  # noqa: S608 - no input in it
_PAGE = f"""
    SELECT {_COLUMNS} FROM run_states AS s
    WHERE s.run = ? AND s.key >= ? AND s.key < ? AND (s.key > ? OR ?) ORDER BY s.key LIMIT ?
"""  # noqa: S608 - no input in it
_ALL = f"""
    SELECT r.flow_run_id, r.deleted_at IS NOT NULL, {_COLUMNS}
    FROM run_states AS s LEFT JOIN flow_runs AS r ON r.serial = s.run ORDER BY s.run, s.key
"""  # noqa: S608 - no input in it
_WRITE = """
    INSERT INTO run_states (run, key, version, codec, checksum, written_at, size, value) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (run, key) DO UPDATE SET version = excluded.version, codec = excluded.codec,
        checksum = excluded.checksum, written_at = excluded.written_at, size = excluded.size, value = excluded.value
"""
_TOUCH = "UPDATE flow_runs SET touched_at = max(coalesce(touched_at, 0), ?) WHERE serial = ?"

_Found = tuple[RunLife | None, list[Outcome[StateRecord]]]


def fetch_state(connection: sqlite3.Connection, location: str, flow_run_id: str, key: str) -> _Found:
    row = connection.execute(_FETCH, (key, flow_run_id)).fetchone()
    if row is None:
        return None, []
    run = RunLife(row[0], bool(row[1]))
    is_there = row[-1] is not None and not run.is_deleted
    return run, [read_state(location, flow_run_id, row[2:])] if is_there else []


class Wanted(NamedTuple):
    """A page of a run's state values: see ``page_states`` of the engines' contract."""

    flow_run_id: str
    run: int | None
    bounds: tuple[str, str | None]
    after: str | None


def page_states(connection: sqlite3.Connection, location: str, wanted: Wanted, portion: Portion) -> _Found:
    flow_run_id, meant, (low, high), after = wanted
    page: list[Outcome[StateRecord]] = []
    with snapshot(connection):
        run = find_run(connection, flow_run_id)
        if run is None or run.is_deleted or meant not in (None, run.serial):
            return run, []
        # A blob lies above every text.
        bounds = (run.serial, low, b"" if high is None else high, after or "", after is None, portion.most)
        for row in connection.execute(_PAGE, bounds).fetchall():
            if portion.is_full or not portion.takes(len(row[2] or b"")):
                break
            page.append(read_state(location, flow_run_id, row))
    return run, page


def check_states(connection: sqlite3.Connection) -> Iterator[Problem]:
    """What is wrong with any of them; those of deleted runs are passed over."""
    for flow_run_id, is_deleted, *row in paced(connection.execute(_ALL)):
        if not is_deleted:
            yield from problems_of(flow_run_id, StoredState(*row))


def change(
    connection: sqlite3.Connection,
    location: str,
    operation: UpsertState | LoadState,
    now: int,
    serial_of: Callable[[str, int | None], int],
) -> tuple[int, int]:
    """Apply it. The version that is there now, and how many bytes of a value were written.

    Args:
        serial_of: the serial of a run that is not deleted, which is made if it is new, unless another is meant.
    """
    flow_run_id, key = operation.flow_run_id, operation.key
    meant = operation.run if isinstance(operation, UpsertState) else None
    row = connection.execute(_FETCH, (key, flow_run_id)).fetchone()
    if row is not None or meant is not None:
        serial_of(flow_run_id, meant)  # raises, if that is not to be written to
    stored = None if row is None or row[-1] is None else StoredState(*row[2:])
    changed = change_state(location, stored, operation)
    if changed is None:
        return operation.version if isinstance(operation, LoadState) else 0, 0
    serial = serial_of(flow_run_id, meant)  # a run that is new is made only now: nothing of a refused write is left
    value, size = changed.value, len(changed.value.data)
    at = now if changed.written_at is None else changed.written_at
    of_all = checksum(flow_run_id, key, value)
    connection.execute(_WRITE, (serial, key, changed.version, value.codec, of_all, at, size, value_of(value)))
    connection.execute(_TOUCH, (at, serial))
    return changed.version, size
