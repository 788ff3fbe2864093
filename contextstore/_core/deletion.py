"""Deleting single outputs, in commits of bounded size.

Rules of this module: operations; no SQL, no values. Each commit is final: whatever interrupts a call, what it has
deleted so far stays so, and the same call again deletes the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from .._engine.operations import DeleteOutputs, OutputDeletion
from .._values.keys import Id, flow_run_key, node_key, prefix_key
from ..errors import RunDeletedError
from .arguments import several
from .lives import Life, Lives
from .session import Session

DELETE_ROWS = 500  # outputs that a commit deletes

Nodes: TypeAlias = "Iterable[Id] | None"


class DeletionService:
    """What ``delete_outputs`` does: the async face has its documentation."""

    def __init__(self, session: Session, lives: Lives) -> None:
        self._session = session
        self._lives = lives

    async def delete_outputs(
        self, flow_run_id: Id, node_ids: Nodes, prefix: str | None, life: Life | None = None
    ) -> int:
        await self._session.writable()
        whole = deletion_of(flow_run_id, node_ids, prefix)
        outputs, run = 0, None
        for part in _parts(whole):
            after: str | None = ""
            while after is not None:
                deletion: OutputDeletion
                try:
                    operation = part._replace(after=after, limit=DELETE_ROWS, run=run)
                    (deletion,) = await self._lives.commit(life, [operation])
                except RunDeletedError:
                    if run is None:
                        raise
                    return outputs  # deleted since the last commit, and so with all that was to be deleted
                outputs += deletion.outputs
                if deletion.run is None:
                    return outputs
                after, run = deletion.after, deletion.run
        return outputs


def deletion_of(flow_run_id: Id, node_ids: Nodes, prefix: str | None) -> DeleteOutputs:
    """All that a call is to delete."""
    flow_run = flow_run_key(flow_run_id)
    if prefix is not None and node_ids is None:
        return DeleteOutputs(flow_run, None, prefix_key(prefix))
    if node_ids is not None and prefix is None:
        return DeleteOutputs(flow_run, frozenset(node_key(node_id) for node_id in several(node_ids)))
    raise TypeError("delete_outputs takes either node_ids or a prefix: pass prefix='' for all outputs of the run")


def _parts(whole: DeleteOutputs) -> Iterator[DeleteOutputs]:
    """Such that none names more ids than a commit deletes outputs."""
    if whole.node_ids is None:
        yield whole
        return
    names = sorted(whole.node_ids)
    for start in range(0, len(names), DELETE_ROWS):
        yield whole._replace(node_ids=frozenset(names[start : start + DELETE_ROWS]))
