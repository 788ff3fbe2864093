"""The SQL of appends for PostgreSQL: counters and keys of runs, written, read and removed.

Rules of this module: text only, of the same form as in ``statements``, which puts the schema's name in.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class AppendStatements:
    """What is said of appends."""

    # In the order of the array, which all sort in one way, so that no two wait for each other in a circle. By itself,
    # and first: a transaction that has waited here has no id yet. So among those that append to a prefix the ids of the
    # transactions rise with the numbers.
    lock_appends: str = "SELECT pg_advisory_xact_lock(t.lock) FROM unnest($1::bigint[]) AS t (lock)"
    # The number given last to each prefix, and the ids behind it that are taken.
    last_appended: str = """
        SELECT coalesce(c.last, 0), ARRAY(
            SELECT node_id FROM {schema}.node_outputs
            WHERE run = t.run AND node_id < t.prefix || ':'
                AND node_id >= t.prefix || lpad(next.number, greatest(12, length(next.number)), '0')
            ORDER BY node_id LIMIT $3
        )
        FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS t (run, prefix, nth)
        LEFT JOIN {schema}.append_counters c ON c.run = t.run AND c.prefix = t.prefix
        CROSS JOIN LATERAL (SELECT (coalesce(c.last, 0)::numeric + 1)::text AS number) AS next
        WHERE {is_known} ORDER BY t.nth
    """
    taken_ids: str = """
        SELECT node_id FROM {schema}.node_outputs
        WHERE {is_known} AND run = $1 AND node_id >= $2 AND node_id < $3 ORDER BY node_id LIMIT $4
    """
    find_append_keys: str = """
        SELECT k.node_id FROM unnest($1::bigint[], $2::text[], $3::text[]) WITH ORDINALITY AS t (run, prefix, key, nth)
        LEFT JOIN LATERAL (
            SELECT node_id FROM {schema}.append_keys WHERE run = t.run AND prefix = t.prefix AND key = t.key OFFSET 0
        ) AS k ON true
        WHERE {is_known} ORDER BY t.nth
    """
    # Many appends, with the counters and keys of their prefixes, in one statement. It does nothing for a prefix whose
    # counter is not where the client thinks, or of which a key is there already. So what was read before, or by this
    # very statement, still holds where it writes: whatever gives a number or a key moves the counter.
    #
    # The locks come before all that would give the transaction an id. They are not waited for here, since the statement
    # sees the tables as they were before it would have waited; without one of them it does nothing at all.
    append_outputs: str = """
        WITH gate AS MATERIALIZED (
            SELECT {is_known} AND coalesce(bool_and(pg_try_advisory_xact_lock(t.lock)), true) AS is_open
            FROM unnest($16::bigint[]) AS t (lock)
        ), heads AS MATERIALIZED (
            SELECT * FROM unnest($11::bigint[], $12::text[], $13::text[], $14::bigint[], $15::bigint[])
                AS t (run, prefix, flow_run_id, before, after)
        ), new AS MATERIALIZED (
            SELECT * FROM unnest(
                $1::text::bigint[], $2::text::text[], $3::text::smallint[], $4::text::bigint[], $5::bytea[],
                $6::text::bigint[], $7::text[], $9::text[], $10::text[]
            ) AS t (run, node_id, codec, checksum, value, written_at, tag, prefix, key)
        ), alive AS MATERIALIZED (
            SELECT serial, flow_run_id FROM {schema}.flow_runs
            WHERE (SELECT is_open FROM gate) AND serial = ANY($11::bigint[]) AND deleted_at IS NULL
            ORDER BY serial FOR KEY SHARE
        ), moved AS (
            INSERT INTO {schema}.append_counters AS c (run, prefix, last)
            SELECT h.run, h.prefix, h.after FROM heads h
            JOIN alive ON alive.serial = h.run AND alive.flow_run_id = h.flow_run_id
            WHERE NOT EXISTS (
                SELECT FROM new CROSS JOIN LATERAL (
                    SELECT FROM {schema}.append_keys
                    WHERE run = new.run AND prefix = new.prefix AND key = new.key OFFSET 0
                ) AS known
                WHERE new.run = h.run AND new.prefix = h.prefix AND new.key IS NOT NULL
            )
            ORDER BY h.run, h.prefix
            ON CONFLICT (run, prefix) DO UPDATE SET last = excluded.last WHERE c.last = (
                SELECT h.before FROM heads h WHERE h.run = excluded.run AND h.prefix = excluded.prefix
            )
            RETURNING c.run, c.prefix
        ), keyed AS (
            INSERT INTO {schema}.append_keys (run, prefix, key, node_id)
            SELECT new.run, new.prefix, new.key, new.node_id FROM new JOIN moved USING (run, prefix)
            WHERE new.key IS NOT NULL
        )
        INSERT INTO {schema}.node_outputs (run, node_id, codec, checksum, written_at, size, writer, value, tag)
        SELECT new.run, new.node_id, new.codec, new.checksum, new.written_at, length(new.value), $8, new.value, new.tag
        FROM new JOIN moved USING (run, prefix) ORDER BY new.run, new.node_id
        RETURNING run, node_id
    """
    count_on: str = """
        INSERT INTO {schema}.append_counters AS c (run, prefix, last)
        SELECT t.run, t.prefix, t.last FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS t (run, prefix, last)
        WHERE {is_known} ORDER BY t.run, t.prefix
        ON CONFLICT (run, prefix) DO UPDATE SET last = greatest(c.last, excluded.last)
    """
    write_append_keys: str = """
        INSERT INTO {schema}.append_keys (run, prefix, key, node_id)
        SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS t (run, prefix, key, node_id)
        WHERE {is_known} ORDER BY t.run, t.prefix, t.key ON CONFLICT (run, prefix, key) DO NOTHING
    """
    remove_append_keys: str = """
        DELETE FROM {schema}.append_keys WHERE {is_known} AND (run, prefix, key) IN (
            SELECT k.run, k.prefix, k.key FROM unnest($1::bigint[]) AS t (serial)
            CROSS JOIN LATERAL (
                SELECT run, prefix, key FROM {schema}.append_keys WHERE run = t.serial LIMIT $2
            ) AS k LIMIT $2
        )
    """
    remove_append_counters: str = """
        DELETE FROM {schema}.append_counters WHERE {is_known} AND (run, prefix) IN (
            SELECT c.run, c.prefix FROM unnest($1::bigint[]) AS t (serial)
            CROSS JOIN LATERAL (
                SELECT run, prefix FROM {schema}.append_counters WHERE run = t.serial LIMIT $2
            ) AS c LIMIT $2
        )
    """
    page_append_counters: str = """
        SELECT prefix, last, run FROM {schema}.append_counters
        WHERE {is_known} AND run = (
            SELECT serial FROM {schema}.flow_runs WHERE flow_run_id = $1 AND deleted_at IS NULL
        ) AND ($2::text IS NULL OR prefix > $2) ORDER BY prefix LIMIT $3
    """
    page_append_keys: str = """
        SELECT prefix, key, node_id, EXISTS (
            SELECT FROM {schema}.node_outputs o WHERE o.run = k.run AND o.node_id = k.node_id AND codec >= 0
        )
        FROM {schema}.append_keys k
        WHERE {is_known} AND run = (
            SELECT serial FROM {schema}.flow_runs WHERE flow_run_id = $1 AND deleted_at IS NULL AND serial = $2
        ) AND (prefix, key) > ($3, $4) ORDER BY prefix, key LIMIT $5
    """
    check_append_counters: str = """
        SELECT c.run, r.flow_run_id, c.prefix, c.last FROM {schema}.append_counters c
        LEFT JOIN {schema}.flow_runs r ON r.serial = c.run
        WHERE {is_known} AND (r.serial IS NULL OR c.last < 1) ORDER BY c.run, c.prefix
    """
    check_append_keys: str = """
        SELECT k.run, k.key FROM {schema}.append_keys k
        WHERE {is_known} AND NOT EXISTS (SELECT FROM {schema}.flow_runs WHERE serial = k.run) ORDER BY k.run, k.key
    """
