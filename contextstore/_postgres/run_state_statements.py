"""The SQL for PostgreSQL that is about state values of runs.

Rules of this module: text only, of the same form as in ``statements``, which puts the schema's name in.
"""

from __future__ import annotations

import dataclasses

_COLUMNS = "s.key, s.codec, s.value, s.checksum, s.version, s.written_at, s.size, s.run"


@dataclasses.dataclass(frozen=True)
class StateWrites:
    """What is said over the connection that writes."""

    # Of runs that are locked: so nobody else writes them. A value is read only where it is to be compared.
    stored_states: str = """
        SELECT s.run, s.key, s.version, s.writer, s.codec, CASE WHEN t.is_compared THEN s.value END, s.checksum,
            s.written_at, s.size
        FROM unnest($1::bigint[], $2::text[], $3::boolean[]) AS t (run, key, is_compared) CROSS JOIN LATERAL (
            SELECT * FROM {schema}.run_states WHERE run = t.run AND key = t.key OFFSET 0
        ) AS s
        WHERE {is_known}
    """
    write_states: str = """
        WITH touched AS (
            UPDATE {schema}.flow_runs r SET touched_at = greatest(r.touched_at, t.touched_at)
            FROM unnest($9::bigint[], $10::bigint[]) AS t (run, touched_at) WHERE r.serial = t.run
        )
        INSERT INTO {schema}.run_states AS s (run, key, version, codec, checksum, written_at, size, writer, value)
        SELECT t.run, t.key, t.version, t.codec, t.checksum, t.written_at, length(t.value), $8, t.value
        FROM unnest(
            $1::bigint[], $2::text[], $3::bigint[], $4::smallint[], $5::bigint[], $6::bytea[], $7::bigint[]
        ) AS t (run, key, version, codec, checksum, value, written_at)
        WHERE {is_known} ORDER BY t.run, t.key
        ON CONFLICT (run, key) DO UPDATE SET version = excluded.version, codec = excluded.codec,
            checksum = excluded.checksum, written_at = excluded.written_at, size = excluded.size,
            writer = excluded.writer, value = excluded.value
    """


@dataclasses.dataclass(frozen=True)
class StateReads:
    """What is said over those that read."""

    fetch_state: str = f"""
        SELECT r.serial, r.deleted_at IS NOT NULL, (SELECT deletions FROM {{schema}}.store_format), {_COLUMNS}
        FROM {{schema}}.flow_runs r LEFT JOIN {{schema}}.run_states s ON s.run = r.serial AND s.key = $2
        WHERE {{is_known}} AND r.flow_run_id = $1
    """  # noqa: S608 - no input in it
    # The run stands in a row of its own, also where there is no state value.
    page_states: str = f"""
        SELECT r.serial, r.deleted_at IS NOT NULL, (SELECT deletions FROM {{schema}}.store_format), {_COLUMNS}
        FROM {{schema}}.flow_runs r LEFT JOIN LATERAL (
            SELECT * FROM (
                SELECT *, sum(size) OVER (ORDER BY key) - size AS before FROM (
                    SELECT * FROM {{schema}}.run_states
                    WHERE run = r.serial AND r.deleted_at IS NULL AND r.serial = coalesce($2::bigint, r.serial)
                        AND key >= $3 AND key < $4 AND ($5::text IS NULL OR key > $5)
                    ORDER BY key LIMIT $6
                ) AS page
            ) AS sized WHERE before < $7
        ) AS s ON true
        WHERE {{is_known}} AND r.flow_run_id = $1 ORDER BY s.key
    """  # noqa: S608 - no input in it
    # Without the values, of which one could not be read.
    next_state: str = """
        SELECT key FROM {schema}.run_states
        WHERE {is_known} AND run = (
            SELECT serial FROM {schema}.flow_runs WHERE flow_run_id = $1 AND deleted_at IS NULL
        ) AND key >= $2 AND key < $3 AND ($4::text IS NULL OR key > $4) ORDER BY key LIMIT 1
    """
    # About so many bytes a page, one row at least.
    check_states: str = f"""
        SELECT r.flow_run_id, r.deleted_at IS NOT NULL, {_COLUMNS} FROM (
            SELECT * FROM (
                SELECT *, sum(size) OVER (ORDER BY run, key) - size AS before FROM (
                    SELECT * FROM {{schema}}.run_states WHERE (run, key) > ($1, $2) OR $3 ORDER BY run, key LIMIT 500
                ) AS page
            ) AS sized WHERE before < $4
        ) AS s LEFT JOIN {{schema}}.flow_runs r ON r.serial = s.run
        WHERE {{is_known}} ORDER BY s.run, s.key
    """  # noqa: S608 - no input in it
