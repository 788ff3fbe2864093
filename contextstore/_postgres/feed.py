"""What other clients write, for the callers that wait for it.

Rules of this module: it looks for what is waited for, and for nothing else. There is no feed of all that is committed:
ids and times are given before the commit, so that one may become visible behind another that was seen already. To look
for what is waited for misses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .._engine.records import Cursor, OutputKey, Wanted
from .pool import ReadPool
from .reads import Reads
from .statements import Statements


class Feed:
    """What the poller of a store object asks."""

    poll_seconds = (0.005, 0.25)

    def __init__(self, pool: ReadPool, statements: Statements, reads: Reads) -> None:
        self._pool = pool
        self._statements = statements
        self._reads = reads

    async def poll(self, cursor: Cursor | None, wanted: Callable[[], Wanted]) -> tuple[Cursor, list[OutputKey]]:
        """The cursor has, of each run that is waited for, its serial and how many outputs it had."""
        counts = dict(cursor or {})
        found: list[OutputKey] = []
        outputs, runs = wanted() if cursor is not None else ((), ())
        if outputs:
            columns = [key[0] for key in outputs], [key[1] for key in outputs]
            found += [(run, node) for run, node in await self._pool.fetch(self._statements.waited_for, *columns)]
        for flow_run_id, *count in await self._count(runs):
            if counts.get(flow_run_id) != count:  # or another run of that id has as many
                counts[flow_run_id] = count
                found += [(flow_run_id, node_id) for node_id in await self._reads.every_node_id(flow_run_id)]
        # Never the same cursor as before: a deletion changes nothing that is looked at here.
        return counts | {"": counts.get("", 0) + 1}, found

    async def _count(self, runs: Sequence[str]) -> list[tuple[str, int, int]]:
        return await self._pool.fetch(self._statements.count_of_runs, list(runs)) if runs else []

    def deletion_epoch(self) -> int | None:
        return None

    async def deleted_among(self, flow_run_ids: Sequence[str]) -> list[str]:
        return await self._reads.deleted_among(flow_run_ids)
