"""The SQL that finds the runs that are idle, which ``prune`` deletes: a page of them, and whether one is so still.

Rules of this module: with its siblings, all SQL of SQLite; plain functions over a connection, in its thread. A look is
bounded by what it looks at. A lease is held as long as the clock of leases says, in which its end is counted.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from typing import Any

import orjson

from .._engine.operations import DeleteIdleRuns
from .._engine.records import IdleRuns
from .._process import boot_clock
from .._process.pacing import Pacer
from .appends import HAS_APPENDS

_RUNS_A_PAGE = 20_000
"""How many runs are looked at by one call at most."""
_MANY = 1000
"""How many outputs of a run are looked at together with those of other runs."""
_ENOUGH = 20_000
"""A page ends once about so many outputs were looked at."""

_END_OF_PAGE = "SELECT max(serial) FROM (SELECT serial FROM flow_runs WHERE serial > ? ORDER BY serial LIMIT ?)"
_HAS_MORE = f"(touched_at IS NOT NULL OR {HAS_APPENDS})"
"""Whether a run is there, also if it has no outputs."""
# What the run's own row says decides first, which costs least.
_MAY_BE_IDLE = """
    deleted_at IS NULL AND created_at < :idle_since AND coalesce(touched_at, 0) BETWEEN 0 AND :idle_since - 1
    AND (:states IS NULL OR state IN (SELECT value FROM json_each(:states)))
    AND NOT EXISTS (SELECT 1 FROM leases WHERE name = flow_run_id AND boot = :boot AND ends_at > :now)
"""
# Then its last output by name, which is often the newest; then, of those that are left, each output, but no more than
# many of each run.
_IDLE_RUNS = f"""
    SELECT serial, flow_run_id, CASE WHEN EXISTS (
            SELECT 1 FROM (
                SELECT written_at FROM node_outputs WHERE run = flow_runs.serial ORDER BY node_id DESC LIMIT :many
            ) WHERE written_at NOT BETWEEN 0 AND :idle_since - 1
        ) THEN NULL ELSE (
            SELECT count(*) FROM (SELECT 1 FROM node_outputs WHERE run = flow_runs.serial LIMIT :many + 1)
        ) END
    FROM flow_runs NOT INDEXED
    WHERE serial > :after AND serial <= :last AND {_MAY_BE_IDLE} AND coalesce((
        SELECT written_at FROM node_outputs WHERE run = flow_runs.serial ORDER BY node_id DESC LIMIT 1
    ), {_HAS_MORE} - 1) BETWEEN 0 AND :idle_since - 1
    ORDER BY serial
"""  # noqa: S608 - no input in it
_COUNT_PAGE = "SELECT count(*) FROM flow_runs WHERE serial > ? AND serial <= ? AND deleted_at IS NULL"
_NEXT_OUTPUTS = """
    SELECT max(node_id), total(written_at NOT BETWEEN 0 AND ? - 1) FROM (
        SELECT node_id, written_at FROM node_outputs WHERE run = ? AND node_id > ? ORDER BY node_id LIMIT ?
    )
"""
_STILL = f"""
    SELECT flow_run_id, serial, {_HAS_MORE} FROM flow_runs
    WHERE flow_run_id IN (SELECT value FROM json_each(:names)) AND {_MAY_BE_IDLE}
"""  # noqa: S608 - no input in it


def idle_but_for_outputs(connection: sqlite3.Connection, delete: DeleteIdleRuns) -> dict[str, tuple[int, bool]]:
    """Those of the runs that are idle, unless by their outputs: the serial, and whether it is there without any."""
    bounds = _bounds(delete.idle_since, delete.states) | {"names": orjson.dumps(delete.flow_run_ids).decode()}
    rows = connection.execute(_STILL, bounds).fetchall()
    return {name: (serial, bool(has_more)) for name, serial, has_more in rows}


def page_idle_runs(
    connection: sqlite3.Connection, after: int, idle_since: int, limit: int, states: Sequence[int] | None
) -> IdleRuns:
    ((last,),) = connection.execute(_END_OF_PAGE, (after, _RUNS_A_PAGE)).fetchall()
    if last is None:
        return IdleRuns([], 0, None, None)
    ((cursor,),) = connection.execute("SELECT coalesce(max(id), 0) FROM node_outputs").fetchall()
    runs: list[tuple[str, int]] = []
    outputs = 0
    pacer = Pacer()
    bounds = _bounds(idle_since, states) | {"after": after, "last": last, "many": _MANY}
    with contextlib.closing(connection.execute(_IDLE_RUNS, bounds)) as rows:
        for serial, flow_run_id, count in rows:
            outputs += _MANY if count is None else count
            if count is not None and (count <= _MANY or _is_idle(connection, serial, idle_since, pacer)):
                runs.append((flow_run_id, count))
            if len(runs) == limit or outputs >= _ENOUGH:
                last = serial
                break
            pacer.take()
    ((looked_at,),) = connection.execute(_COUNT_PAGE, (after, last)).fetchall()
    return IdleRuns(runs, looked_at, last, cursor)


def _bounds(idle_since: int, states: Sequence[int] | None) -> dict[str, Any]:
    return {
        "idle_since": idle_since,
        "states": None if states is None else orjson.dumps(states).decode(),
        "boot": boot_clock.boot(),
        "now": boot_clock.now(),
    }


def _is_idle(connection: sqlite3.Connection, serial: int, idle_since: int, pacer: Pacer) -> bool:
    """Whether all outputs of a run, however many, were written before."""
    after: str | None = ""
    while after is not None:
        look = (idle_since, serial, after, _ENOUGH)
        ((after, young),) = connection.execute(_NEXT_OUTPUTS, look).fetchall()
        if young:
            return False
        pacer.take()
    return True
