"""The SQL for PostgreSQL that reads parts of a run: node ids and outputs between two bounds, in either order.

Rules of this module: those of ``statements``, which it is a part of. Marks of deleted outputs are left out.
"""

from __future__ import annotations

import dataclasses

from .._values.codec import DELETED

_ALIVE = "SELECT serial FROM {schema}.flow_runs WHERE flow_run_id = $1 AND deleted_at IS NULL"
_FIRST_NODE_IDS = f"""
    SELECT array_agg(node_id) FROM (
        (
            SELECT node_id FROM {{schema}}.node_outputs
            WHERE run = ({_ALIVE} AND marks = 0) AND node_id >= $2 AND node_id < $3
            ORDER BY node_id {{order}} LIMIT $4
        ) UNION ALL (
            SELECT node_id FROM {{schema}}.node_outputs
            WHERE run = ({_ALIVE} AND marks <> 0) AND node_id >= $2 AND node_id < $3 AND codec <> {DELETED}
            ORDER BY node_id {{order}} LIMIT $4
        )
    ) AS page WHERE {{is_known}}
"""  # noqa: S608 - no input in it
_LIST_OUTPUTS = f"""
    SELECT node_id, codec, value, checksum, written_at, size, run, tag FROM (
        SELECT *, sum(size) OVER (ORDER BY node_id {{order}}) - size AS before FROM (
            SELECT * FROM {{schema}}.node_outputs
            WHERE run = ({_ALIVE} AND serial = coalesce($2::bigint, serial))
                AND node_id >= $3 AND node_id < $4 AND codec <> {DELETED}
            ORDER BY node_id {{order}} LIMIT $5
        ) AS page
    ) AS sized WHERE {{is_known}} AND before < $6 ORDER BY node_id {{order}}
"""  # noqa: S608 - no input in it
_NEXT_NODE_ID = f"""
    SELECT node_id FROM {{schema}}.node_outputs
    WHERE {{is_known}} AND run = ({_ALIVE}) AND node_id >= $2 AND node_id < $3 AND codec <> {DELETED}
    ORDER BY node_id {{order}} LIMIT 1
"""  # noqa: S608 - no input in it


@dataclasses.dataclass(frozen=True)
class PartStatements:
    """What is said to read a part of a run."""

    # A run without marks of deleted outputs is read from the index alone; of the two halves one has no run.
    first_node_ids: str = _FIRST_NODE_IDS.replace("{order}", "ASC")
    last_node_ids: str = _FIRST_NODE_IDS.replace("{order}", "DESC")
    list_outputs: str = _LIST_OUTPUTS.replace("{order}", "ASC")
    list_outputs_reversed: str = _LIST_OUTPUTS.replace("{order}", "DESC")
    # Without the values, of which one could not be read.
    next_node_id_in_part: str = _NEXT_NODE_ID.replace("{order}", "ASC")
    last_node_id_in_part: str = _NEXT_NODE_ID.replace("{order}", "DESC")

    # By whether the order is reversed.

    @property
    def first_node_ids_in(self) -> tuple[str, str]:
        return self.first_node_ids, self.last_node_ids

    @property
    def list_outputs_in(self) -> tuple[str, str]:
        return self.list_outputs, self.list_outputs_reversed

    @property
    def next_node_id_in(self) -> tuple[str, str]:
        return self.next_node_id_in_part, self.last_node_id_in_part
