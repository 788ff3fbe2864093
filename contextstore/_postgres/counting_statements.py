"""The SQL for PostgreSQL that keeps how many outputs each run has.

Rules of this module: text only, as ``statements`` has it. Kept are the outputs of transactions before a certain one;
whoever asks adds those of later ones that he sees. So a put pays nothing, and no two transactions wait for each other.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class CountingStatements:
    """What is said of counts over the connection that writes."""

    # All transactions before xmin have ended: whoever sees this commit sees their rows, too. Another client that counts
    # just now is left to it; a run that is being deleted ends it (55P03). Puts share the lock on their runs. What one
    # transaction has written is never parted.
    fold_outputs: str = """
        WITH locked AS MATERIALIZED (
            SELECT before FROM {schema}.counted_outputs WHERE {is_known} FOR UPDATE SKIP LOCKED
        ), ends AS MATERIALIZED (
            SELECT before, least(xmin, coalesce((
                (
                    SELECT xact FROM {schema}.node_outputs WHERE xact >= before ORDER BY xact OFFSET $1 LIMIT 1
                )::text::bigint + 1
            )::text::xid8, xmin)) AS upto
            FROM locked CROSS JOIN (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS xmin) AS now
        ), tail AS MATERIALIZED (
            SELECT run, count(*) AS rows, min(written_at) FILTER (WHERE codec >= 0) AS first,
                max(written_at) FILTER (WHERE codec >= 0) AS last
            FROM ends CROSS JOIN LATERAL (
                SELECT run, codec, written_at FROM {schema}.node_outputs WHERE xact >= before AND xact < upto OFFSET 0
            ) AS late GROUP BY run
        ), there AS MATERIALIZED (
            SELECT serial FROM {schema}.flow_runs WHERE serial IN (SELECT run FROM tail)
            ORDER BY serial FOR NO KEY UPDATE NOWAIT
        ), added AS (
            UPDATE {schema}.flow_runs AS r SET outputs = r.outputs + tail.rows,
                first_written_at = least(r.first_written_at, tail.first),
                last_written_at = greatest(r.last_written_at, tail.last)
            FROM there JOIN tail ON tail.run = there.serial WHERE r.serial = there.serial
        )
        UPDATE {schema}.counted_outputs AS c SET before = greatest(c.before, ends.upto) FROM ends
    """
    # Of a store that comes from another server, whose transactions had other numbers: nothing is counted any more.
    forget_counts: str = """
        UPDATE {schema}.counted_outputs SET before = pg_snapshot_xmin(pg_current_snapshot()) WHERE {is_known}
    """
    uncount_runs: str = """
        UPDATE {schema}.flow_runs SET outputs = NULL WHERE {is_known} AND serial IN (
            SELECT serial FROM {schema}.flow_runs WHERE outputs IS NOT NULL LIMIT $1
        )
    """
