"""The SQL for PostgreSQL that finds the runs that are idle, which ``prune`` deletes.

Rules of this module: text only, as ``statements`` has it, which takes this in. A lease is held until it expires by the
server's clock.
"""

from __future__ import annotations

import dataclasses

_MAY_BE_IDLE = """
    deleted_at IS NULL AND created_at < {idle_since} AND coalesce(touched_at, 0) BETWEEN 0 AND {idle_since} - 1
    AND ({states}::smallint[] IS NULL OR state = ANY({states}::smallint[]))
    AND NOT EXISTS (SELECT FROM {{schema}}.leases WHERE name = flow_run_id AND expires_at > (SELECT {{now}}))
"""
_HAS_MORE = "(touched_at IS NOT NULL OR EXISTS (SELECT FROM {schema}.append_counters WHERE run = serial))"
"""Whether a run is there, also if it has no outputs."""


@dataclasses.dataclass(frozen=True)
class IdleWrites:
    """What is said over the connection that writes."""

    # Waits for the writes that are under way to these runs, and they for it.
    lock_idle_runs: str = """
        SELECT serial, flow_run_id, deleted_at IS NOT NULL, writer FROM {schema}.flow_runs
        WHERE {is_known} AND flow_run_id = ANY($1::text[]) ORDER BY serial FOR UPDATE
    """
    # By a statement of its own, which sees what those writes have left. Run by run, even if the planner would do
    # otherwise.
    idle_extents: str = f"""
        SELECT r.serial, c.outputs, c.bytes FROM (
            SELECT serial, {_HAS_MORE} AS has_more FROM {{schema}}.flow_runs
            WHERE serial = ANY($1::bigint[]) AND {_MAY_BE_IDLE.format(idle_since="$2", states="$3")} OFFSET 0
        ) AS r CROSS JOIN LATERAL (
            SELECT count(*) AS outputs, coalesce(sum(size), 0) AS bytes, min(written_at) AS first,
                max(written_at) AS last
            FROM {{schema}}.node_outputs WHERE run = r.serial
        ) AS c WHERE {{is_known}} AND CASE c.outputs WHEN 0 THEN has_more ELSE first >= 0 AND last < $2 END
    """  # noqa: S608 - no input in it


@dataclasses.dataclass(frozen=True)
class IdleReads:
    """What is said over those that read."""

    # What the run's own row says decides first, which costs least; then each of its outputs, but no more than many of
    # each run.
    idle_runs: str = f"""
        SELECT r.serial, r.flow_run_id, CASE WHEN EXISTS (
                SELECT FROM (
                    SELECT written_at FROM {{schema}}.node_outputs WHERE run = r.serial ORDER BY node_id DESC LIMIT $5
                ) AS newest WHERE written_at NOT BETWEEN 0 AND $3 - 1
            ) OR NOT (r.has_more OR EXISTS (SELECT FROM {{schema}}.node_outputs WHERE run = r.serial)) THEN NULL ELSE (
                SELECT count(*) FROM (SELECT FROM {{schema}}.node_outputs WHERE run = r.serial LIMIT $5 + 1) AS several
            ) END
        FROM (
            SELECT serial, flow_run_id, {_HAS_MORE} AS has_more FROM {{schema}}.flow_runs
            WHERE serial > $1 AND serial <= $2 AND {_MAY_BE_IDLE.format(idle_since="$3", states="$6")}
            ORDER BY serial LIMIT $4
        ) AS r WHERE {{is_known}} ORDER BY r.serial
    """  # noqa: S608 - no input in it
