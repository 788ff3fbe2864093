"""The SQL for PostgreSQL that removes what deleted runs have beside their outputs: append keys, state values, failures,
facts.

Rules of this module: text only, of the same form as in ``statements``, which puts the schema's name in.
"""

from __future__ import annotations

import dataclasses

HAS_REST = """(
    EXISTS (SELECT FROM {schema}.node_outputs WHERE run = r.serial)
    OR EXISTS (SELECT FROM {schema}.append_counters WHERE run = r.serial)
    OR EXISTS (SELECT FROM {schema}.append_keys WHERE run = r.serial)
    OR EXISTS (SELECT FROM {schema}.run_states WHERE run = r.serial)
    OR EXISTS (SELECT FROM {schema}.failed_attempts WHERE run = r.serial)
    OR r.checksum IS NOT NULL OR r.attributes IS NOT NULL
)"""
"""Of a deleted run, the row ``r`` of ``flow_runs``: whether anything of it is left beside its tombstone."""


@dataclasses.dataclass(frozen=True)
class RemainStatements:
    """What is said over the connection that writes."""

    with_rest: str = """
        SELECT serial FROM {schema}.flow_runs r WHERE {is_known} AND serial = ANY($1::bigint[]) AND {has_rest}
    """
    # Each run by itself, as its outputs are.
    remove_states: str = """
        DELETE FROM {schema}.run_states WHERE {is_known} AND (run, key) IN (
            SELECT run, key FROM (
                SELECT run, key, sum(size) OVER (ORDER BY run, key) - size AS before FROM (
                    SELECT s.run, s.key, s.size FROM unnest($1::bigint[]) AS t (serial) CROSS JOIN LATERAL (
                        SELECT run, key, size FROM {schema}.run_states WHERE run = t.serial ORDER BY key LIMIT $2
                    ) AS s LIMIT $2
                ) AS page
            ) AS sized WHERE before < $3
        )
    """
    remove_failures: str = """
        DELETE FROM {schema}.failed_attempts WHERE {is_known} AND (run, node_id, number) IN (
            SELECT f.run, f.node_id, f.number FROM unnest($1::bigint[]) AS t (serial) CROSS JOIN LATERAL (
                SELECT run, node_id, number FROM {schema}.failed_attempts WHERE run = t.serial LIMIT $2
            ) AS f LIMIT $2
        )
    """
    with_facts: str = """
        SELECT serial, attributes FROM {schema}.flow_runs
        WHERE {is_known} AND serial = ANY($1::bigint[]) AND (checksum IS NOT NULL OR attributes IS NOT NULL)
        ORDER BY serial LIMIT $2
    """
    remove_attributes: str = """
        DELETE FROM {schema}.run_attributes AS a
        USING unnest($1::text[], $2::text[], $3::bigint[]) AS t (name, value, run)
        WHERE {is_known} AND a.name = t.name AND a.value = t.value AND a.run = t.run
    """
    # Of runs whose attributes are damaged: among those of all runs.
    remove_all_attributes: str = """
        DELETE FROM {schema}.run_attributes WHERE {is_known} AND run = ANY($1::bigint[])
    """
    # But for when it began: a page of a listing may have ended with the run.
    remove_facts: str = """
        UPDATE {schema}.flow_runs SET state = 0, state_changed_at = NULL, begun_attributes = NULL,
            parent = NULL, attributes = NULL, error = NULL, failures = 0, checksum = NULL
        WHERE {is_known} AND serial = ANY($1::bigint[]) AND deleted_at IS NOT NULL
    """
