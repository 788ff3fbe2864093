"""The SQL for PostgreSQL that is about globals.

Rules of this module: as those of ``statements``, which puts the parts in braces into the texts.
"""

from __future__ import annotations

import dataclasses

NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""The time on the server, by which globals expire, in microseconds since 1970."""
IS_THERE = f"value IS NOT NULL AND (expires_at IS NULL OR expires_at NOT BETWEEN 0 AND (SELECT {NOW}))"
"""Of a global: neither deleted nor expired. Selected, the time is read once for each statement."""


@dataclasses.dataclass(frozen=True)
class GlobalWrites:
    """What is said over the connection that writes."""

    claim_globals: str = """
        INSERT INTO {schema}.global_values (key, version, written_at, writer)
        SELECT key, 0, 0, $2 FROM unnest($1::text[]) AS t (key)
        WHERE {is_known} ORDER BY key ON CONFLICT (key) DO NOTHING
    """
    # The time of each is read once it is locked.
    lock_globals: str = """
        SELECT key, codec, value, checksum, version, written_at, size, expires_at, writer, {now},
            (SELECT freed_version FROM {schema}.store_format)
        FROM (
            SELECT * FROM {schema}.global_values WHERE {is_known} AND key = ANY($1::text[]) ORDER BY key FOR UPDATE
        ) AS locked
    """
    write_global: str = """
        UPDATE {schema}.global_values SET version = $2, writer = $3, codec = $4, value = $5, checksum = $6, size = $7,
            written_at = $8, expires_at = $9
        WHERE {is_known} AND key = $1
    """
    lock_these_globals: str = """
        SELECT key, version, writer FROM {schema}.global_values
        WHERE {is_known} AND key = ANY($1::text[]) AND {is_there} ORDER BY key FOR UPDATE
    """
    lock_globals_below: str = """
        SELECT key, version, writer FROM {schema}.global_values
        WHERE {is_known} AND key >= $1 AND key < $2 AND {is_there} ORDER BY key FOR UPDATE
    """
    delete_globals: str = """
        UPDATE {schema}.global_values SET writer = $2, codec = NULL, value = NULL, checksum = NULL, size = NULL,
            written_at = $3, expires_at = NULL
        WHERE {is_known} AND key = ANY($1::text[])
    """
    # Found by their index, and not waited for: who locks several in another order would wait for this one in turn.
    lock_passing_globals: str = """
        SELECT key, version, size FROM (
            SELECT * FROM (
                SELECT key, version, 0 AS size FROM {schema}.global_values
                WHERE value IS NULL AND expires_at IS NULL AND codec IS NULL LIMIT $1 FOR UPDATE SKIP LOCKED
            ) AS deleted
            UNION ALL
            SELECT * FROM (
                SELECT key, version, coalesce(size, 0) FROM {schema}.global_values
                WHERE expires_at IS NOT NULL AND expires_at BETWEEN 0 AND (SELECT {now})
                LIMIT $1 FOR UPDATE SKIP LOCKED
            ) AS expired
        ) AS passing WHERE {is_known}
    """
    free_globals: str = "DELETE FROM {schema}.global_values WHERE {is_known} AND key = ANY($1::text[])"
    raise_freed_version: str = """
        UPDATE {schema}.store_format SET freed_version = greatest(freed_version, $1) WHERE {is_known}
    """


@dataclasses.dataclass(frozen=True)
class GlobalReads:
    """What is said over those that read."""

    next_global: str = """
        SELECT key FROM {schema}.global_values
        WHERE {is_known} AND version > 0 AND ($1::text IS NULL OR key > $1) ORDER BY key LIMIT 1
    """
    fetch_global: str = """
        SELECT key, codec, value, checksum, version, written_at, size, expires_at FROM {schema}.global_values
        WHERE {is_known} AND key = $1 AND {is_there}
    """
    fetch_globals: str = """
        SELECT key, codec, value, checksum, version, written_at, size, expires_at FROM {schema}.global_values
        WHERE {is_known} AND key = ANY($1::text[]) AND {is_there}
    """
    page_globals: str = """
        SELECT key, codec, value, checksum, version, written_at, size, expires_at FROM {schema}.global_values
        WHERE {is_known} AND key >= $1 AND key < $2 AND key IS DISTINCT FROM $3 AND {is_there}
        ORDER BY key LIMIT $4
    """
    list_global_keys: str = """
        SELECT key FROM {schema}.global_values
        WHERE {is_known} AND key >= $1 AND key < $2 AND key IS DISTINCT FROM $3 AND {is_there}
        ORDER BY key LIMIT $4
    """
    globals_beyond: str = """
        SELECT g.key, g.version FROM unnest($1::text[], $2::bigint[]) AS t (key, version)
        JOIN {schema}.global_values g ON g.key = t.key AND g.version > t.version
        WHERE {is_known} AND {is_there}
    """
    count_passing_globals: str = """
        SELECT (
                SELECT count(*) FROM {schema}.global_values
                WHERE value IS NULL AND expires_at IS NULL AND codec IS NULL AND version > 0
            ) + (
                SELECT count(*) FROM {schema}.global_values
                WHERE expires_at IS NOT NULL AND expires_at BETWEEN 0 AND (SELECT {now})
            )
        WHERE {is_known}
    """
    freed_version: str = "SELECT freed_version FROM {schema}.store_format WHERE {is_known}"
    page_global_rows: str = """
        SELECT key, codec, value, checksum, version, written_at, size, expires_at FROM (
            SELECT *, sum(coalesce(size, 0)) OVER (ORDER BY key) - coalesce(size, 0) AS before FROM (
                SELECT * FROM {schema}.global_values
                WHERE version > 0 AND ($1::text IS NULL OR key > $1) ORDER BY key LIMIT $2
            ) AS page
        ) AS sized WHERE {is_known} AND before < $3 ORDER BY key
    """
    check_globals: str = """
        SELECT key, version, written_at, coalesce(size, 0), codec IS NULL AND checksum IS NULL AND size IS NULL,
            expires_at
        FROM {schema}.global_values
        WHERE {is_known} AND (key > $1 OR $2) AND (version <> 0 OR value IS NOT NULL) ORDER BY key LIMIT 500
    """
    values_of_globals: str = """
        SELECT key, codec, value, checksum, version, written_at, size, expires_at FROM {schema}.global_values
        WHERE {is_known} AND key = ANY($1::text[]) ORDER BY key
    """
