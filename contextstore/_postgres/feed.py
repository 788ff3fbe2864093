"""What other clients write, for the callers that wait for it.

Rules of this module: it looks for the outputs that are waited for, and for the runs that have any output which the last
snapshot had not: see ``news`` for why a snapshot. Who watches a run, or all of them, then looks for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .._engine.records import Cursor, OutputKey, Wanted
from .news import Snapshot
from .pool import ReadPool
from .reads import Reads
from .run_news import RunHistoryReads
from .statements import Statements


class Feed:
    """What the poller of a store object asks."""

    poll_seconds = (0.005, 0.25)

    def __init__(self, pool: ReadPool, statements: Statements, reads: Reads, run_history: RunHistoryReads) -> None:
        self._pool = pool
        self._run_history = run_history
        self._statements = statements
        self._reads = reads

    async def poll(self, cursor: Cursor | None, wanted: Callable[[], Wanted]) -> tuple[Cursor, list[OutputKey]]:
        """The cursor has the number of the look, and the snapshot of the last one that anybody watched at."""
        looks, since = cursor or (0, None)
        found: list[OutputKey] = []
        outputs, runs = wanted() if cursor is not None else ((), ())
        if outputs:
            columns = [key[0] for key in outputs], [key[1] for key in outputs]
            found += [(run, node) for run, node in await self._pool.fetch(self._statements.waited_for, *columns)]
        now = None
        if runs:
            now, written = await self._look(since)
            # Whoever has come before the first look has to look once more.
            found += [(run, "") for run in (written if since is not None else [run or "" for run in runs])]
        # Never the same cursor as before: a deletion changes nothing that is looked at here.
        return (looks + 1, now), found

    async def _look(self, since: Snapshot | None) -> tuple[Snapshot, list[str]]:
        """The present snapshot, and the runs with outputs that it has and the last one had not."""
        end = since.end if since is not None else 2**63 - 1
        late = [str(one) for one in since.open] if since is not None else []
        rows = await self._pool.fetch(self._statements.runs_with_news, late, str(end))
        return Snapshot.read(rows[0][0]), [name for _, name in rows if name is not None]

    async def globals_beyond(self, versions: Mapping[str, int]) -> Sequence[tuple[str, int]]:
        return await self._pool.fetch(self._statements.globals_beyond, list(versions), list(versions.values()))

    async def changed_runs(self, place: Cursor | None) -> tuple[Cursor, list[str]]:
        return await self._run_history.changed_since(place)

    def deletion_epoch(self) -> int | None:
        return None

    async def alive_among(self, serials: Sequence[int]) -> list[int]:
        return await self._reads.alive_among(serials)

    async def deleted_among(self, flow_run_ids: Sequence[str]) -> list[str]:
        return await self._reads.deleted_among(flow_run_ids)
