"""The SQL of attempts: failures of steps and their numbers, written and read; what outputs say of those that made them.

Rules of this module: plain functions over a connection, in its thread, within the caller's transaction where they
write. Only one commit is made at a time, so that what is looked up here is so until it is committed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from .._engine.attempts import (
    MOST_FAILURES,
    AttemptKey,
    AttemptPage,
    MadeRow,
    attempt_page,
    attempt_text,
    is_failure,
    made_of,
)
from .._engine.records import AttemptRecord, Made
from .._engine.run_operations import LoadFailure, RecordFailure
from .._process.pacing import paced
from .._results import Problem
from .._values.run_facts import storable_text
from .history import next_changes

_HIGHEST_FAILURE = "SELECT max(number) FROM failed_attempts WHERE run = ? AND node_id = ?"
_HAS_FAILURES = "SELECT EXISTS (SELECT 1 FROM failed_attempts WHERE run = ?)"
_INSERT_FAILURE = """
    INSERT INTO failed_attempts (run, node_id, number, started_at, ended_at, error, inputs)
    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_REMOVE_OLD = """
    DELETE FROM failed_attempts WHERE run = ?1 AND node_id = ?2 AND number <= (
        SELECT number FROM failed_attempts WHERE run = ?1 AND node_id = ?2 ORDER BY number DESC LIMIT 1 OFFSET ?3
    )
"""
_COUNT_FAILURE = """
    UPDATE flow_runs SET failures = failures + 1, touched_at = max(coalesce(touched_at, 0), ?), change = ?
    WHERE serial = ?
"""
_COUNT_LOADED = """
    UPDATE flow_runs SET failures = max(failures, (SELECT count(*) FROM failed_attempts WHERE run = serial))
    WHERE serial = ?
"""


class Numbers:
    """The numbers that the outputs of one statement's steps get, as nothing else is written meanwhile."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._have_failures: dict[int, bool] = {}
        """Runs, by serial. Mostly there are none, and one look tells it for all of the run's outputs."""

    def text(self, made: Made, run: int, node_id: str) -> str:
        """What stands in the row of an output that is not there yet."""
        return attempt_text(made, self._next(run, node_id) if made.number is None else made.number)

    def _next(self, run: int, node_id: str) -> int:
        has_failures = self._have_failures.get(run)
        if has_failures is None:
            has_failures = bool(self._connection.execute(_HAS_FAILURES, (run,)).fetchone()[0])
            self._have_failures[run] = has_failures
        return 1 + _highest_failure(self._connection, run, node_id) if has_failures else 1


def _highest_failure(connection: sqlite3.Connection, run: int, node_id: str) -> int:
    ((number,),) = connection.execute(_HIGHEST_FAILURE, (run, node_id)).fetchall()
    return int(number or 0)


def record_failure(connection: sqlite3.Connection, failure: RecordFailure, run: int, now: int) -> int:
    """The number that it gets: above those of all failures, and of the output, should another process have made it."""
    node_id = failure.node_id
    query = "SELECT attempt FROM node_outputs WHERE run = ? AND node_id = ?"
    rows = connection.execute(query, (run, node_id)).fetchall()
    made = made_of(rows[0][0]) if rows else None
    of_output = made.number or 0 if made is not None else 0
    number = 1 + max(_highest_failure(connection, run, node_id), of_output)
    times = failure.started_at, failure.ended_at
    row = (run, node_id, number, *times, storable_text(failure.error), failure.inputs)
    connection.execute(_INSERT_FAILURE, row)
    if number > MOST_FAILURES:
        connection.execute(_REMOVE_OLD, (run, node_id, MOST_FAILURES))
    connection.execute(_COUNT_FAILURE, (now, next_changes(connection), run))
    return number


def load_failure(connection: sqlite3.Connection, load: LoadFailure, run: int) -> None:
    times = load.started_at, load.ended_at
    row = (run, load.node_id, load.number, *times, storable_text(load.error), load.inputs)
    if connection.execute(_INSERT_FAILURE, row).rowcount == 1:
        connection.execute(_COUNT_LOADED, (run,))


# -- read --------------------------------------------------------------------------------------------------------------

_ALIVE = """
    (SELECT serial FROM flow_runs WHERE flow_run_id = :flow_run_id AND deleted_at IS NULL
        AND serial = coalesce(:run, serial))
"""
_FAILURES = f"""
    SELECT node_id, number, started_at, ended_at, error, inputs FROM failed_attempts
    WHERE run = {_ALIVE} AND (node_id, number) > (:node_id, :number) {{of_node}} ORDER BY node_id, number LIMIT :limit
"""  # noqa: S608 - no input in it
# A null is told by the head of the row: of a plain output nothing else is read, however large its value is.
_OUTPUTS = f"""
    SELECT node_id, attempt, CASE WHEN attempt IS NULL THEN NULL ELSE written_at END FROM node_outputs
    WHERE run = {_ALIVE} AND node_id >= :node_id {{of_node}} ORDER BY node_id LIMIT :limit
"""  # noqa: S608 - no input in it
_OF_NODE = "AND node_id = :only"


def page_attempts(
    connection: sqlite3.Connection,
    flow_run_id: str,
    run: int | None,
    node_id: str | None,
    after: AttemptKey,
    limit: int,
) -> AttemptPage:
    of_node = "" if node_id is None else _OF_NODE
    parameters = {
        "flow_run_id": flow_run_id,
        "run": run,
        "only": node_id,
        "node_id": after[0],
        "number": after[1],
        "limit": limit,
    }
    failures = connection.execute(_FAILURES.format(of_node=of_node), parameters).fetchall()
    outputs = connection.execute(_OUTPUTS.format(of_node=of_node), parameters).fetchall()
    return attempt_page([AttemptRecord(*row) for row in failures], [MadeRow(*row) for row in outputs], after, limit)


# -- checked -----------------------------------------------------------------------------------------------------------

_FAILURES_OF_NO_RUN = """
    SELECT DISTINCT run FROM failed_attempts WHERE NOT EXISTS (SELECT 1 FROM flow_runs WHERE serial = run)
"""
_TOO_FEW_COUNTED = """
    SELECT flow_run_id, failures, found FROM (
        SELECT run, count(*) AS found FROM failed_attempts GROUP BY run
    ) JOIN flow_runs ON serial = run
    WHERE deleted_at IS NULL AND typeof(failures) = 'integer' AND failures BETWEEN 0 AND found - 1
    UNION ALL
    SELECT flow_run_id, failures, (SELECT count(*) FROM failed_attempts WHERE run = serial) FROM flow_runs
    WHERE deleted_at IS NULL AND (typeof(failures) <> 'integer' OR failures < 0)
"""


def check_attempts(connection: sqlite3.Connection) -> Iterator[Problem]:
    """Whether each failure has a run, which counts it, and is one."""
    for (run,) in connection.execute(_FAILURES_OF_NO_RUN).fetchall():
        yield Problem("run", (f"run number {run}",), "its failed attempts belong to no run")
    for flow_run_id, said, found in connection.execute(_TOO_FEW_COUNTED).fetchall():
        message = f"{found} failed attempts are kept of it, and its row says that {said} have failed"
        yield Problem("run", (str(flow_run_id),), message)
    query = """
        SELECT flow_run_id, node_id, number, started_at, ended_at, f.error, inputs
        FROM failed_attempts AS f JOIN flow_runs ON serial = run WHERE deleted_at IS NULL
    """
    for flow_run_id, *row in paced(connection.execute(query)):
        if not is_failure(AttemptRecord(*row)):
            message = f"its failed attempt {row[1]!r} of node {str(row[0])!r} is none that was written so"
            yield Problem("run", (str(flow_run_id),), message)
