"""The SQL for PostgreSQL about what is said of flow runs.

Rules of this module: text only, as ``statements`` has it.
"""

from __future__ import annotations

import dataclasses

from .run_listing_statements import DESCRIBE_RUN, FACT_COLUMNS

CHECK_FACTS = f"""
    SELECT serial, flow_run_id, {FACT_COLUMNS} FROM {{schema}}.flow_runs
    WHERE {{is_known}} AND serial > $1 AND deleted_at IS NULL AND (checksum IS NOT NULL OR touched_at IS NOT NULL)
    ORDER BY serial LIMIT 500
"""  # noqa: S608 - no input in it
# Of those alone that are still as they were read.
MISSING_ATTRIBUTES = """
    SELECT t.run, t.name
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS t (run, attributes, name, value)
    JOIN {schema}.flow_runs r ON r.serial = t.run AND r.deleted_at IS NULL AND r.attributes = t.attributes
    WHERE {is_known} AND NOT EXISTS (
        SELECT FROM {schema}.run_attributes a WHERE a.name = t.name AND a.value = t.value AND a.run = t.run
    )
"""
CHECK_ATTRIBUTES = f"""
    SELECT a.name, a.value, a.run, flow_run_id, deleted_at IS NOT NULL, {FACT_COLUMNS} FROM {{schema}}.run_attributes a
    LEFT JOIN {{schema}}.flow_runs ON serial = a.run
    WHERE {{is_known}} AND (a.name, a.value, a.run) > ($1, $2, $3) ORDER BY a.name, a.value, a.run LIMIT 500
"""  # noqa: S608 - no input in it


@dataclasses.dataclass(frozen=True)
class FactStatements:
    """What is said of facts over the connection that writes."""

    run_record: str = DESCRIBE_RUN
    # Who says something of a run holds this lock; puts share another one, and do not wait.
    lock_facts: str = f"""
        SELECT serial, deleted_at IS NOT NULL, writer, touched_at, {FACT_COLUMNS} FROM {{schema}}.flow_runs
        WHERE {{is_known}} AND flow_run_id = $1 FOR NO KEY UPDATE
    """  # noqa: S608 - no input in it
    write_facts: str = """
        UPDATE {schema}.flow_runs SET state = $2, state_changed_at = $3, begun_at = $4, begun_attributes = $5,
            parent = $6, attributes = $7, error = $8, checksum = $9, touched_at = greatest(touched_at, $10),
            change = pg_current_xact_id(), writer = $11
        WHERE {is_known} AND serial = $1
    """
    load_failures: str = """
        UPDATE {schema}.flow_runs SET failures = greatest(failures, $2) WHERE {is_known} AND serial = $1
    """
    remove_run_attributes: str = """
        DELETE FROM {schema}.run_attributes AS a USING unnest($2::text[], $3::text[]) AS t (name, value)
        WHERE {is_known} AND a.name = t.name AND a.value = t.value AND a.run = $1
    """
    insert_run_attributes: str = """
        INSERT INTO {schema}.run_attributes (name, value, run)
        SELECT t.name, t.value, $1 FROM unnest($2::text[], $3::text[]) AS t (name, value) WHERE {is_known}
        ON CONFLICT DO NOTHING
    """
