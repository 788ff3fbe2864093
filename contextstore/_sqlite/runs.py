"""The rows of runs: one is found, deleted, or loaded as it was elsewhere.

Rules of this module: with its siblings, all SQL of SQLite; plain functions over the writing connection, within its
transaction. What a deleted run leaves behind is removed by ``deletion``; the caller forgets its serial.
"""

from __future__ import annotations

import sqlite3
from typing import cast

from .._engine.operations import DeleteRun, FindRun, LoadRun
from .._engine.rules import marks_deleted
from ..errors import RunDeletedError
from .run_facts import stamp_deletion

_FIND = "SELECT serial, deleted_at FROM flow_runs WHERE flow_run_id = ?"
_INSERT = "INSERT INTO flow_runs (flow_run_id, created_at, deleted_at, outputs) VALUES (?, ?, ?, 0)"
_DELETE = "UPDATE flow_runs SET deleted_at = ? WHERE serial = ?"


def find_run(connection: sqlite3.Connection, find: FindRun) -> int | None:
    """The run's serial. Raises RunDeletedError."""
    serial, deleted_at = connection.execute(_FIND, find).fetchone() or (None, None)
    if deleted_at is not None:
        raise RunDeletedError(find.flow_run_id)
    return cast("int | None", serial)


def delete_run(connection: sqlite3.Connection, delete: DeleteRun, now: int) -> tuple[int, bool]:
    """The run's serial, and whether it was not deleted before. Raises RunDeletedError, if it is not the one meant."""
    name, meant = delete
    serial, deleted_at = connection.execute(_FIND, (name,)).fetchone() or (None, None)
    if meant not in (None, serial):
        raise RunDeletedError(name)
    if serial is None:
        serial = connection.execute(_INSERT, (name, now, now)).lastrowid
    elif deleted_at is None:
        connection.execute(_DELETE, (now, serial))
    else:
        return serial, False
    stamp_deletion(connection, [serial])
    return cast("int", serial), True


def load_run(connection: sqlite3.Connection, load: LoadRun) -> bool:
    """Whether it has deleted a run that was there."""
    row = connection.execute(_FIND, (load.flow_run_id,)).fetchone()
    if row is None:
        serial = connection.execute(_INSERT, (load.flow_run_id, load.created_at, load.deleted_at)).lastrowid
        if load.deleted_at is not None:
            stamp_deletion(connection, [cast("int", serial)])
        return False
    if not marks_deleted(load, row[1] is not None):
        return False
    connection.execute(_DELETE, (load.deleted_at, row[0]))
    stamp_deletion(connection, [row[0]])
    return True
