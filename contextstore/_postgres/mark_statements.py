"""The SQL for PostgreSQL that deletes single outputs, and leaves marks of them.

Rules of this module: text only, as ``statements`` has it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class MarkStatements:
    """What is said of marks over the connection that writes."""

    # By their serials, as prune locks them. Puts share another lock on the row, and do not wait.
    lock_runs: str = """
        SELECT flow_run_id, serial, deleted_at IS NOT NULL FROM {schema}.flow_runs
        WHERE {is_known} AND flow_run_id = ANY($1::text[]) ORDER BY serial FOR NO KEY UPDATE
    """
    # The lock of puts: against prune, which would wait for what this transaction has written.
    share_runs: str = """
        SELECT flow_run_id FROM {schema}.flow_runs
        WHERE {is_known} AND flow_run_id = ANY($1::text[]) ORDER BY serial FOR KEY SHARE
    """
    # With the lock on the run nobody else changes them: a put writes new rows alone.
    deletable_by_prefix: str = """
        SELECT node_id, size, written_at FROM {schema}.node_outputs
        WHERE {is_known} AND run = $1 AND node_id > $2 AND node_id >= $3 AND node_id < $4 AND codec >= 0
            AND node_id <> ALL($5::text[])
        ORDER BY node_id LIMIT $6
    """
    deletable_by_id: str = """
        SELECT node_id, size, written_at FROM {schema}.node_outputs
        WHERE {is_known} AND run = $1 AND node_id > $2 AND node_id = ANY($3::text[]) AND codec >= 0
            AND node_id <> ALL($4::text[])
        ORDER BY node_id LIMIT $5
    """
    mark_outputs: str = """
        UPDATE {schema}.node_outputs AS o
        SET codec = -1, checksum = t.checksum, written_at = t.written_at, size = 0, value = '', tag = NULL, writer = $5,
            attempt = NULL
        FROM unnest($2::text[], $3::text::bigint[], $4::text::bigint[]) AS t (node_id, checksum, written_at)
        WHERE {is_known} AND o.run = $1 AND o.node_id = t.node_id AND o.codec >= 0
    """
    insert_marks: str = """
        INSERT INTO {schema}.node_outputs (run, node_id, codec, checksum, written_at, size, writer, value)
        SELECT $1, t.node_id, -1, t.checksum, t.written_at, 0, $5, ''
        FROM unnest($2::text[], $3::text::bigint[], $4::text::bigint[]) AS t (node_id, checksum, written_at)
        WHERE {is_known} ORDER BY t.node_id
        ON CONFLICT (run, node_id) DO NOTHING RETURNING node_id
    """
    # With the times of what was marked, which the rows do not tell any more.
    count_marks: str = """
        UPDATE {schema}.flow_runs SET marks = marks + $2, first_written_at = least(first_written_at, $3::bigint),
            last_written_at = greatest(last_written_at, $4::bigint)
        WHERE {is_known} AND serial = $1
    """
    # Of an earlier attempt, whose answer was lost. Others may have marked more since.
    has_marked: str = """
        SELECT FROM {schema}.node_outputs WHERE {is_known} AND run = $1 AND codec = -1 AND writer = $2 LIMIT 1
    """
