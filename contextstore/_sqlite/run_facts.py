"""What is said of flow runs, in SQLite: begun, updated, taken over, and where each change stands among the commits.

Rules of this module: with its siblings, all SQL of SQLite; plain functions over a connection, in its thread. What is
said, and what is refused, is decided in ``_engine/fact_rules``. Nothing is written by what is refused.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from .._engine.fact_rules import (
    NOTHING_SAID,
    TooManyAttributes,
    attribute_rows,
    facts_row,
    loaded,
    read_facts,
    said,
)
from .._engine.records import RunFacts
from .._engine.run_operations import BeginRun, LoadFacts, UpdateRun
from .._process.pacing import paced
from .._results import Problem
from ..errors import CorruptStoreError, RunDeletedError
from .history import next_changes

_HERE = "this store"
FACT_COLUMNS = "state, state_changed_at, begun_at, begun_attributes, parent, attributes, error, checksum, failures"
"""As ``with_facts`` takes them."""
_FIND = f"SELECT serial, deleted_at, touched_at, {FACT_COLUMNS} FROM flow_runs WHERE flow_run_id = ?"  # noqa: S608 - no input in it
_WRITE = """
    UPDATE flow_runs SET state = ?, state_changed_at = ?, begun_at = ?, begun_attributes = ?, parent = ?,
        attributes = ?, error = ?, checksum = ?, touched_at = max(coalesce(touched_at, 0), ?), change = ?
    WHERE serial = ?
"""


def say(
    connection: sqlite3.Connection, location: str, operation: BeginRun | UpdateRun, now: int
) -> TooManyAttributes | None:
    """Begin or update a run, which is made if it is not there."""
    name = operation.flow_run_id
    serial, before, _ = _find(connection, location, name, operation.run)
    facts = said(before, operation, now)
    if isinstance(facts, TooManyAttributes):
        return facts
    if serial is None:
        insert = "INSERT INTO flow_runs (flow_run_id, created_at, outputs) VALUES (?, ?, 0)"
        serial = connection.execute(insert, (name, now)).lastrowid
        assert serial is not None
    _write(connection, serial, name, before, facts, now)
    return None


def load(connection: sqlite3.Connection, location: str, load: LoadFacts, now: int) -> None:
    """Take over what was said of a run in another store. The run is there."""
    serial, before, touched_at = _find(connection, location, load.flow_run_id, None)
    if serial is None:
        insert = "INSERT INTO flow_runs (flow_run_id, created_at, outputs) VALUES (?, ?, 0)"
        serial = connection.execute(insert, (load.flow_run_id, now)).lastrowid
        assert serial is not None
    if loaded(before, touched_at, load):
        _write(connection, serial, load.flow_run_id, before, load.facts, load.touched_at)
        failures = "UPDATE flow_runs SET failures = max(failures, ?) WHERE serial = ?"
        connection.execute(failures, (load.failures, serial))


def _find(
    connection: sqlite3.Connection, location: str, name: str, meant: int | None
) -> tuple[int | None, RunFacts, int | None]:
    """The serial of the run, its facts, and when it was written to last beside its outputs."""
    row = connection.execute(_FIND, (name,)).fetchone()
    if row is None and meant is None:
        return None, NOTHING_SAID, None
    if row is None or row[1] is not None or meant not in (None, row[0]):
        raise RunDeletedError(name)
    serial, _, touched_at, *facts, _ = row
    return serial, read_facts(location, name, facts), touched_at


def _write(
    connection: sqlite3.Connection, serial: int, name: str, before: RunFacts, facts: RunFacts, at: int | None
) -> None:
    connection.execute(_WRITE, (*facts_row(name, facts), at or 0, next_changes(connection), serial))
    if facts.attributes != before.attributes:
        old, new = attribute_rows(before.attributes), attribute_rows(facts.attributes)
        for key, value in old.items() - new.items():
            remove = "DELETE FROM run_attributes WHERE name = ? AND value = ? AND run = ?"
            connection.execute(remove, (key, value, serial))
        for key, value in new.items() - old.items():
            connection.execute("INSERT OR REPLACE INTO run_attributes VALUES (?, ?, ?)", (key, value, serial))


def stamp_deletion(connection: sqlite3.Connection, serials: Sequence[Any]) -> None:
    """A deletion is a change, too: of each of these runs, in their order."""
    change = next_changes(connection, len(serials))
    query = """
        UPDATE flow_runs SET change = ? + wanted.key FROM json_each(?) AS wanted WHERE serial = wanted.value
    """
    connection.execute(query, (change, orjson.dumps(serials).decode()))


def check(connection: sqlite3.Connection) -> Iterator[Problem]:
    """Whether what is said of each run is what was said, and its attributes are found by the rows that they have."""
    query = f"SELECT serial, flow_run_id, {FACT_COLUMNS} FROM flow_runs WHERE deleted_at IS NULL"  # noqa: S608 - no input in it
    for serial, name, *columns, _ in paced(connection.execute(query)):
        try:
            facts = read_facts(_HERE, name, columns)
        except CorruptStoreError as error:
            yield Problem("run", (str(name),), error.message)
            continue
        for key, value in attribute_rows(facts.attributes).items():
            look = "SELECT 1 FROM run_attributes WHERE name = ? AND value = ? AND run = ?"
            if not connection.execute(look, (key, value, serial)).fetchall():
                yield Problem("run", (str(name),), f"its attribute {key!r} has no row by which it would be found")
    query = f"""
        SELECT run, name, value, flow_run_id, deleted_at IS NOT NULL, {FACT_COLUMNS} FROM run_attributes
        LEFT JOIN flow_runs ON flow_runs.serial = run_attributes.run
    """  # noqa: S608 - no input in it
    for serial, key, value, name, is_deleted, *columns, _ in paced(connection.execute(query)):
        if name is None:
            yield Problem("run", (f"run number {serial}",), f"the row of its attribute {key!r} belongs to no run")
        elif not is_deleted and not _has(name, columns, key, value):
            yield Problem("run", (str(name),), f"it has no attribute {key!r} as a row says")


def _has(name: str, columns: Sequence[Any], key: str, value: str) -> bool:
    """Whether a run has the attribute. One whose facts are damaged is told of by itself."""
    with contextlib.suppress(CorruptStoreError):
        return attribute_rows(read_facts(_HERE, name, columns).attributes).get(key) == value
    return True
