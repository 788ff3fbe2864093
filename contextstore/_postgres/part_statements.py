"""The SQL for PostgreSQL that reads parts of a run: node ids and outputs between two bounds, in either order.

Rules of this module: those of ``statements``, which it is a part of. Marks of deleted outputs, whose codec is -1,
are left out.
"""

from __future__ import annotations

_ALIVE = "SELECT serial FROM {schema}.flow_runs WHERE flow_run_id = $1 AND deleted_at IS NULL"
# A run without marks is read from the index alone; of the two halves one has no run.
_FIRST_NODE_IDS = f"""
    SELECT array_agg(node_id) FROM (
        (
            SELECT node_id FROM {{schema}}.node_outputs
            WHERE run = ({_ALIVE} AND marks = 0) AND node_id >= $2 AND node_id < $3
            ORDER BY node_id {{order}} LIMIT $4
        ) UNION ALL (
            SELECT node_id FROM {{schema}}.node_outputs
            WHERE run = ({_ALIVE} AND marks <> 0) AND node_id >= $2 AND node_id < $3 AND codec <> -1
            ORDER BY node_id {{order}} LIMIT $4
        )
    ) AS page WHERE {{is_known}}
"""  # noqa: S608 - no input in it
_LIST_OUTPUTS = f"""
    SELECT node_id, codec, value, checksum, written_at, size, run, tag, attempt FROM (
        SELECT *, sum(size) OVER (ORDER BY node_id {{order}}) - size AS before FROM (
            SELECT * FROM {{schema}}.node_outputs
            WHERE run = ({_ALIVE} AND serial = coalesce($2::bigint, serial))
                AND node_id >= $3 AND node_id < $4 AND codec <> -1
            ORDER BY node_id {{order}} LIMIT $5
        ) AS page
    ) AS sized WHERE {{is_known}} AND before < $6 ORDER BY node_id {{order}}
"""  # noqa: S608 - no input in it
# Without the values, of which one could not be read.
_NEXT_NODE_ID = f"""
    SELECT node_id FROM {{schema}}.node_outputs
    WHERE {{is_known}} AND run = ({_ALIVE}) AND node_id >= $2 AND node_id < $3 AND codec <> -1
    ORDER BY node_id {{order}} LIMIT 1
"""  # noqa: S608 - no input in it

# By node id, and the other way round.
FIRST_NODE_IDS = _FIRST_NODE_IDS.replace("{order}", "ASC")
LAST_NODE_IDS = _FIRST_NODE_IDS.replace("{order}", "DESC")
LIST_OUTPUTS = _LIST_OUTPUTS.replace("{order}", "ASC")
LIST_OUTPUTS_REVERSED = _LIST_OUTPUTS.replace("{order}", "DESC")
NEXT_NODE_ID = _NEXT_NODE_ID.replace("{order}", "ASC")
NEXT_NODE_ID_REVERSED = _NEXT_NODE_ID.replace("{order}", "DESC")
