"""The SQL for PostgreSQL that tells which runs have changed: see ``run_news``.

Rules of this module: text only, as ``statements`` has it, which takes this in. Each statement looks at a bounded number
of rows.
"""

from __future__ import annotations

import dataclasses

from .run_listing_statements import FACT_COLUMNS

_FACTS = f"r.serial, r.flow_run_id, r.deleted_at IS NOT NULL, {FACT_COLUMNS}"

# Changes and outputs apart, each by its own index and bounded for itself: how far both reach is for the caller to say.
_CHANGES = """
    SELECT kind, xact::text::bigint, run FROM (
        (
            SELECT 0 AS kind, change AS xact, serial AS run FROM {{schema}}.flow_runs
            WHERE {in_changes} AND pg_visible_in_snapshot(change, $3::text::pg_snapshot)
                AND (change, serial) > ($1::text::xid8, $2::bigint)
            ORDER BY change, serial LIMIT $5
        ) UNION ALL (
            SELECT 1, xact, run FROM {{schema}}.node_outputs
            WHERE {in_outputs} AND pg_visible_in_snapshot(xact, $3::text::pg_snapshot)
                AND (xact, run) > ($1::text::xid8, $2::bigint)
            ORDER BY xact, run LIMIT $5
        )
    ) AS changes WHERE {{is_known}} ORDER BY kind, xact, run
"""


@dataclasses.dataclass(frozen=True)
class RunNewsWrites:
    """What is said over the connection that writes."""

    # Those that would count as not yet begun here, as of outputs.
    renew_changes: str = """
        UPDATE {schema}.flow_runs SET change = pg_current_xact_id()
        WHERE {is_known} AND serial IN (
            SELECT serial FROM {schema}.flow_runs WHERE change >= pg_snapshot_xmax(pg_current_snapshot()) LIMIT $1
        )
    """


@dataclasses.dataclass(frozen=True)
class RunNewsReads:
    """What is said over those that read."""

    run_changes_of_late: str = _CHANGES.format(
        in_changes="change = ANY($4::text[]::xid8[])", in_outputs="xact = ANY($4::text[]::xid8[])"
    )
    run_changes_of_new: str = _CHANGES.format(
        in_changes="change >= $4::text::xid8 AND change < pg_snapshot_xmax($3::text::pg_snapshot)",
        in_outputs="xact >= $4::text::xid8 AND xact < pg_snapshot_xmax($3::text::pg_snapshot)",
    )
    run_facts: str = f"""
        SELECT {_FACTS} FROM {{schema}}.flow_runs r WHERE {{is_known}} AND serial = ANY($1::bigint[])
    """  # noqa: S608 - no input in it
    # A write that was refused may have made a run, of which nothing else is there.
    page_run_facts: str = f"""
        SELECT r.touched_at IS NOT NULL OR EXISTS (SELECT FROM {{schema}}.node_outputs WHERE run = r.serial), {_FACTS}
        FROM {{schema}}.flow_runs r WHERE {{is_known}} AND serial > $1 ORDER BY serial LIMIT $2
    """  # noqa: S608 - no input in it
    snapshot_now: str = """
        SELECT {snapshot}::text, pg_is_in_recovery() FROM {schema}.store_format WHERE {is_known}
    """
    changed_runs: str = """
        SELECT s.now::text, r.flow_run_id FROM (SELECT {snapshot} AS now) AS s
        LEFT JOIN LATERAL (
            SELECT flow_run_id FROM {schema}.flow_runs
            WHERE change = ANY($1::text[]::xid8[]) AND pg_visible_in_snapshot(change, s.now)
            UNION ALL
            SELECT flow_run_id FROM {schema}.flow_runs
            WHERE change >= $2::text::xid8 AND pg_visible_in_snapshot(change, s.now)
        ) AS r ON true WHERE {is_known}
    """
