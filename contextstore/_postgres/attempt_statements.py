"""The SQL of attempts for PostgreSQL: outputs with the attempt that made them, failures and their numbers.

Rules of this module: text only, of the same form as in ``statements``, which puts the schema's name in. Whatever gives
a number has the run's row locked against whoever gives another one: an output that takes the number one, as no attempt
of the run has failed, shares its lock with other outputs, and a failure waits for them all, as they wait for it.
"""

from __future__ import annotations

import dataclasses

_NUMBER_OF_OUTPUT = r"left(substring(attempt FROM '^\[([0-9]+),'), 18)::bigint"
"""Null for a plain output, and where it is damaged."""


@dataclasses.dataclass(frozen=True)
class AttemptStatements:
    """What is said of attempts over the connection that writes."""

    # As ``insert_outputs`` and ``insert_output``. With $12, or $11, only into runs of which no attempt has failed: the
    # server looks at it again once it has the lock.
    insert_made_outputs: str = """
        INSERT INTO {schema}.node_outputs (run, node_id, codec, checksum, written_at, size, writer, value, tag, attempt)
        SELECT t.run, t.node_id, t.codec, t.checksum, t.written_at, length(t.value), $9, t.value, t.tag, t.attempt
        FROM unnest(
            $1::text::bigint[], $2::text::text[], $3::text::smallint[], $4::text::bigint[], $5::bytea[],
            $6::text::bigint[], $7::text::text[], $8::text[], $11::text[]
        ) AS t (run, node_id, codec, checksum, value, written_at, flow_run_id, tag, attempt)
        JOIN (
            SELECT serial, flow_run_id FROM {schema}.flow_runs
            WHERE serial = ANY($10::bigint[]) AND deleted_at IS NULL AND (failures = 0 OR NOT $12::boolean)
            ORDER BY serial FOR SHARE
        ) AS alive ON alive.serial = t.run AND alive.flow_run_id = t.flow_run_id
        WHERE {is_known} ORDER BY t.run, t.node_id
        ON CONFLICT (run, node_id) DO NOTHING RETURNING run, node_id
    """
    insert_made_output: str = """
        INSERT INTO {schema}.node_outputs (run, node_id, codec, checksum, written_at, size, writer, value, tag, attempt)
        SELECT serial, $2, $3, $4, $6, length($5::bytea), $9, $5, $8, $10 FROM {schema}.flow_runs
        WHERE {is_known} AND serial = $1 AND flow_run_id = $7 AND deleted_at IS NULL
            AND (failures = 0 OR NOT $11::boolean) FOR SHARE
        ON CONFLICT (run, node_id) DO NOTHING RETURNING run, node_id
    """
    # With the lock on the runs, by a statement behind the one that has waited for it.
    next_numbers: str = f"""
        SELECT 1 + greatest(
            (SELECT max(number) FROM {{schema}}.failed_attempts WHERE run = t.run AND node_id = t.node_id),
            (SELECT {_NUMBER_OF_OUTPUT} FROM {{schema}}.node_outputs WHERE run = t.run AND node_id = t.node_id),
            0
        )
        FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS t (run, node_id, nth)
        WHERE {{is_known}} ORDER BY t.nth
    """  # noqa: S608 - no input in it
    # Of an earlier attempt to write it, whose answer was lost.
    has_recorded: str = """
        SELECT FROM {schema}.failed_attempts WHERE {is_known} AND run = $1 AND node_id = $2 AND writer = $3 LIMIT 1
    """
    insert_failures: str = """
        INSERT INTO {schema}.failed_attempts (run, node_id, number, started_at, ended_at, error, inputs, writer)
        SELECT t.*, $8 FROM unnest(
            $1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[]
        ) AS t (run, node_id, number, started_at, ended_at, error, inputs)
        WHERE {is_known} ON CONFLICT (run, node_id, number) DO NOTHING
    """
    remove_old_failures: str = """
        DELETE FROM {schema}.failed_attempts WHERE {is_known} AND run = $1 AND node_id = $2 AND number <= (
            SELECT number FROM {schema}.failed_attempts WHERE run = $1 AND node_id = $2
            ORDER BY number DESC LIMIT 1 OFFSET $3
        )
    """
    count_failure: str = """
        UPDATE {schema}.flow_runs SET failures = failures + 1, touched_at = greatest(touched_at, $2),
            change = pg_current_xact_id()
        WHERE {is_known} AND serial = $1
    """
    count_loaded_failures: str = """
        UPDATE {schema}.flow_runs SET failures = greatest(
            failures, (SELECT count(*) FROM {schema}.failed_attempts WHERE run = serial)
        ) WHERE {is_known} AND serial = ANY($1::bigint[])
    """


_ALIVE = """(
    SELECT serial FROM {schema}.flow_runs
    WHERE flow_run_id = $1 AND deleted_at IS NULL AND serial = coalesce($2::bigint, serial)
)"""


@dataclasses.dataclass(frozen=True)
class AttemptReads:
    """What is read of attempts."""

    # Failures, and outputs with what they say; plain ones, too, so that a page has a bounded number of rows. Of one
    # moment: a number that is missing here is not given.
    page_attempts: str = f"""
        SELECT * FROM (
            SELECT true AS has_failed, node_id, number, started_at, ended_at, error, inputs, NULL AS attempt
            FROM {{schema}}.failed_attempts
            WHERE run = {_ALIVE} AND (node_id, number) > ($4, $5::bigint) AND ($3::text IS NULL OR node_id = $3)
            ORDER BY node_id, number LIMIT $6
        ) AS failures WHERE {{is_known}}
        UNION ALL
        SELECT * FROM (
            SELECT false, node_id, NULL::bigint, NULL::bigint, written_at, NULL, NULL, attempt
            FROM {{schema}}.node_outputs
            WHERE run = {_ALIVE} AND node_id >= $4 AND ($3::text IS NULL OR node_id = $3)
            ORDER BY node_id LIMIT $6
        ) AS outputs
    """  # noqa: S608 - no input in it
    check_attempts: str = """
        SELECT run, flow_run_id, failures, found FROM (
            SELECT run, count(*) AS found FROM {schema}.failed_attempts GROUP BY run
        ) AS kept LEFT JOIN {schema}.flow_runs ON serial = run
        WHERE {is_known} AND (serial IS NULL OR (deleted_at IS NULL AND failures < found))
    """
    check_failures: str = """
        SELECT flow_run_id, node_id, number FROM {schema}.failed_attempts JOIN {schema}.flow_runs ON serial = run
        WHERE {is_known} AND deleted_at IS NULL
            AND (number < 1 OR started_at NOT BETWEEN 0 AND $1 OR ended_at NOT BETWEEN 0 AND $1)
    """
