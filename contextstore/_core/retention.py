"""Deleting: one run, or all that are old, in commits of bounded size.

Rules of this module: no SQL, no values. Each commit is final, and leaves a store in which the next deletion goes on
where an interrupted one has ended. What is deleted shares commits up to their bounds, however many runs it is; what
stays is looked at in pages, where it keeps nobody waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from .._dispatch.reader import Reader
from .._engine.contract import Engine
from .._engine.operations import (
    DeleteIdleRuns,
    DeleteRun,
    ForgetRuns,
    GiveBackSpace,
    IdleDeletion,
    Operation,
    Removal,
    RemoveOutputs,
)
from .._engine.records import Extent, IdleRuns
from .._results import PruneReport

_PAGE_ROWS = 500  # runs that are found by one look
_REMOVE_ROWS = 500  # outputs, or tombstones, that a commit removes
_GIVE_BACK_PAGES = 500  # pages that a commit gives back

Commit: TypeAlias = Callable[[list[Operation]], Coroutine[Any, Any, list[Any]]]
Progress: TypeAlias = Callable[[int, int], Coroutine[Any, Any, object]]


class Deletion:
    """Deletes from a store.

    Args:
        commit: commits operations as one unit, and returns their results.
    """

    def __init__(self, engine: Engine, reader: Reader, commit: Commit) -> None:
        self._engine = engine
        self._reader = reader
        self._commit = commit

    async def delete_run(self, flow_run_id: str) -> int:
        """How many outputs it had."""
        mark, remove = DeleteRun(flow_run_id), RemoveOutputs((flow_run_id,), _REMOVE_ROWS)
        if not self._engine.deletes_at_once:
            await self._commit([mark])
            return (await self._remove_outputs((flow_run_id,))).outputs
        removal: Removal
        _, removal = await self._commit([mark, remove])
        rest = await self._remove_outputs(removal.left)
        return removal.outputs + rest.outputs

    async def prune(self, before: int, progress: Progress | None) -> PruneReport:
        """Delete what was written before, forget whose deletion was before, and give the space back."""
        runs = outputs = size = 0

        async def delete(page: IdleRuns) -> None:
            nonlocal runs, outputs, size
            left = page.runs
            while left:
                part = tuple(name for name, _ in _share_of_a_commit(left))
                deletion: IdleDeletion
                (deletion,) = await self._commit([DeleteIdleRuns(part, before, _REMOVE_ROWS, page.cursor)])
                left = left[deletion.done :]
                rest = await self._remove_outputs(deletion.left)
                runs += deletion.runs
                outputs += deletion.outputs + rest.outputs
                size += deletion.bytes + rest.bytes

        await self._look_at_runs(before, delete, progress)
        await self._finish_deletions()
        tombstones = await self._forget_runs(before)
        while (await self._commit([GiveBackSpace(_GIVE_BACK_PAGES)]))[0]:
            pass
        return PruneReport(runs, outputs, size, tombstones)

    async def plan(self, before: int, progress: Progress | None) -> PruneReport:
        """What ``prune`` would do."""
        extents = [Extent(0, 0, 0)]

        async def measure(page: IdleRuns) -> None:
            names = [name for name, _ in page.runs]
            if names:
                extents.append(await self._reader.scan(lambda: self._engine.measure_runs(names)))

        await self._look_at_runs(before, measure, progress)
        tombstones = await self._reader.scan(lambda: self._engine.count_tombstones(before))
        runs, outputs, size = map(sum, zip(*extents, strict=True))
        return PruneReport(runs, outputs, size, tombstones)

    async def _look_at_runs(
        self, before: int, act: Callable[[IdleRuns], Coroutine[Any, Any, None]], progress: Progress | None
    ) -> None:
        total = 0 if progress is None else await self._reader.scan(self._engine.count_runs)
        looked_at = 0
        page = await self._page_idle_runs(0, before)
        while page.after is not None:
            await act(page)
            looked_at += page.looked_at
            if progress is not None:
                await progress(looked_at, max(total, looked_at))
            page = await self._page_idle_runs(page.after, before)

    async def _page_idle_runs(self, after: int, before: int) -> IdleRuns:
        return await self._reader.scan(lambda: self._engine.page_idle_runs(after, before, _PAGE_ROWS))

    async def _finish_deletions(self) -> None:
        """Those that were interrupted."""
        runs, last = await self._page_unfinished_deletions(-1)
        while last is not None:
            await self._remove_outputs(runs)
            runs, last = await self._page_unfinished_deletions(last)

    async def _page_unfinished_deletions(self, after: int) -> tuple[list[str], int | None]:
        return await self._reader.scan(lambda: self._engine.page_unfinished_deletions(after))

    async def _remove_outputs(self, flow_run_ids: Sequence[str]) -> Removal:
        """Of runs that are marked as deleted."""
        outputs = size = 0
        for start in range(0, len(flow_run_ids), _REMOVE_ROWS):
            left = tuple(flow_run_ids[start : start + _REMOVE_ROWS])
            while left:
                some, of_these, left = (await self._commit([RemoveOutputs(left, _REMOVE_ROWS)]))[0]
                outputs, size = outputs + some, size + of_these
        return Removal(outputs, size, ())

    async def _forget_runs(self, before: int) -> int:
        tombstones = 0
        since: int | None = 0
        while since is not None:
            some, since = (await self._commit([ForgetRuns(since, before, _REMOVE_ROWS)]))[0]
            tombstones += some
        return tombstones


def _share_of_a_commit(runs: Sequence[tuple[str, int]]) -> Sequence[tuple[str, int]]:
    """The first of them, one at least, as far as they have no more outputs than a commit removes."""
    outputs = 0
    for number, (_, count) in enumerate(runs):
        outputs += count
        if number and outputs > _REMOVE_ROWS:
            return runs[:number]
    return runs
