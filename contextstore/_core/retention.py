"""Deleting: one run, or all that are old, in commits of bounded size.

Rules of this module: no SQL, no values. Each commit is final, and leaves a store in which the next deletion goes on
where an interrupted one has ended. What is deleted shares commits up to their bounds, however many runs it is; what
stays is looked at in pages, where no other call has to wait for that.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from .._engine.operations import (
    DeleteIdleRuns,
    DeleteRun,
    ForgetRun,
    ForgetRuns,
    Forgetting,
    Freed,
    FreeGlobals,
    GiveBackSpace,
    IdleDeletion,
    Operation,
    Removal,
    RemoveOutputs,
)
from .._engine.records import RUN_STATES, Extent, IdleRuns
from .._process.log import log
from .._results import PruneReport
from .._values.arguments import check_function
from .._values.keys import Id, flow_run_key
from ..errors import RunDeletedError
from .lives import Life, Lives
from .run_watching import states_of
from .session import Session

_PAGE_ROWS = 500  # runs that are found by one look
_REMOVE_ROWS = 500  # outputs, or tombstones, that a commit removes
_GIVE_BACK_PAGES = 500  # pages that a commit gives back

_Progress: TypeAlias = Callable[[int, int], Coroutine[Any, Any, object]]


class RetentionService:
    """What ``delete_run`` and ``prune`` do: the async face has their documentation."""

    def __init__(self, session: Session, lives: Lives) -> None:
        self._session = session
        self._engine = session.engine
        self._lives = lives

    async def delete_run(self, flow_run_id: Id, forget: bool, life: Life | None = None) -> int:
        session = self._session
        await session.writable()
        flow_run = flow_run_key(flow_run_id)
        run = None if life is None else await self._lives.serial(life)
        try:
            outputs = await self._delete_run(DeleteRun(flow_run, run), forget, life)
        except RunDeletedError:  # the life is over, and nothing of it is left
            return 0
        arguments = (logging.INFO, "run_deleted", session.location, "deleted run %r with %d outputs", flow_run, outputs)
        log(*arguments, flow_run_id=flow_run, outputs=outputs, forgotten=forget)
        return outputs

    async def _delete_run(self, mark: DeleteRun, forget: bool, life: Life | None) -> int:
        flow_run = mark.flow_run_id
        remove, forget_all = RemoveOutputs((flow_run,), _REMOVE_ROWS), ForgetRun(flow_run, _REMOVE_ROWS)
        removal, forgetting = Removal(0, 0, (flow_run,)), Forgetting(0, is_done=not forget)
        if not self._engine.deletes_at_once:
            (run,) = await self._mark(life, [mark])
        elif forget:
            run, forgetting = await self._mark(life, [mark, forget_all])
            removal = Removal(0, 0, ())
        else:
            run, removal = await self._mark(life, [mark, remove])
        outputs = removal.outputs + forgetting.outputs + (await self._remove_outputs(removal.left)).outputs
        while not forgetting.is_done:  # by the serial: another life of the id, deleted by now, keeps its tombstone
            (forgetting,) = await self._session.commit([forget_all._replace(run=run)])
            outputs += forgetting.outputs
        return outputs

    async def _mark(self, life: Life | None, operations: list[Operation]) -> list[Any]:
        """The commit that deletes. It alone is fenced: what is removed behind it belongs to nobody any more."""
        if life is None or life.lease is None:
            return await self._session.commit(operations)
        return (await self._session.commit(self._lives.fenced(life, operations)))[1:]

    async def prune(
        self,
        older_than: datetime.timedelta | None,
        state: str | Iterable[str] | None,
        dry_run: bool,
        progress: Callable[[int, int], Any] | None,
    ) -> PruneReport:
        session = self._session
        await session.ready()
        idle = _idle(older_than, state)
        if progress is not None:
            check_function("progress", progress)
        if not dry_run:
            session.refuse_if_read_only()
        told = None if progress is None else partial(session.result_of, progress)
        if dry_run:
            return await self._plan(idle, told)
        began = time.monotonic()
        report = await self._prune(idle, told)
        seconds = time.monotonic() - began
        arguments = (
            logging.INFO,
            "pruned",
            session.location,
            "pruned %d runs, %d outputs",
            report.runs,
            report.outputs,
        )
        log(*arguments, seconds=seconds, **dataclasses.asdict(report))
        return report

    async def _prune(self, idle: _Idle | None, progress: _Progress | None) -> PruneReport:
        """Delete the runs last written to before, forget those deleted before, and give the space back."""
        runs = outputs = size = 0

        async def delete(page: IdleRuns, idle: _Idle) -> None:
            nonlocal runs, outputs, size
            left = page.runs
            while left:
                part = tuple(name for name, _ in _share_of_a_commit(left))
                deletion: IdleDeletion
                operation = DeleteIdleRuns(part, idle.since, _REMOVE_ROWS, page.cursor, idle.states)
                (deletion,) = await self._session.commit([operation])
                left = left[deletion.done :]
                rest = await self._remove_outputs(deletion.left)
                runs += deletion.runs
                outputs += deletion.outputs + rest.outputs
                size += deletion.bytes + rest.bytes

        if idle is not None:
            await self._look_at_runs(idle, delete, progress)
        await self._finish_deletions()
        tombstones = 0 if idle is None else await self._forget_runs(idle.since)
        freed = await self._free_globals()
        while (await self._session.commit([GiveBackSpace(_GIVE_BACK_PAGES)]))[0]:
            pass
        return PruneReport(runs, outputs, size, tombstones, freed)

    async def _plan(self, idle: _Idle | None, progress: _Progress | None) -> PruneReport:
        """What ``_prune`` would do."""
        passing = await self._session.scan(self._engine.count_passing_globals)
        if idle is None:
            return PruneReport(0, 0, 0, 0, passing)
        extents = [Extent(0, 0, 0)]

        async def measure(page: IdleRuns, _: _Idle) -> None:
            names = [name for name, _ in page.runs]
            if names:
                extents.append(await self._session.scan(self._engine.measure_runs, names))

        await self._look_at_runs(idle, measure, progress)
        tombstones = await self._session.scan(self._engine.count_tombstones, idle.since)
        runs, outputs, size = map(sum, zip(*extents, strict=True))
        return PruneReport(runs, outputs, size, tombstones, passing)

    async def _look_at_runs(
        self, idle: _Idle, act: Callable[[IdleRuns, _Idle], Coroutine[Any, Any, None]], progress: _Progress | None
    ) -> None:
        total = 0 if progress is None else await self._session.scan(self._engine.count_runs)
        looked_at = 0
        page = await self._page_idle_runs(0, idle)
        while page.after is not None:
            await act(page, idle)
            looked_at += page.looked_at
            if progress is not None:
                await progress(looked_at, max(total, looked_at))
            page = await self._page_idle_runs(page.after, idle)

    async def _page_idle_runs(self, after: int, idle: _Idle) -> IdleRuns:
        return await self._session.scan(self._engine.page_idle_runs, after, idle.since, _PAGE_ROWS, idle.states)

    async def _finish_deletions(self) -> None:
        """Those that were interrupted."""
        page = self._engine.page_unfinished_deletions
        runs, last = await self._session.scan(page, -1)
        while last is not None:
            await self._remove_outputs(runs)
            runs, last = await self._session.scan(page, last)

    async def _remove_outputs(self, flow_run_ids: Sequence[str]) -> Removal:
        """Of runs that are marked as deleted."""
        outputs = size = 0
        for start in range(0, len(flow_run_ids), _REMOVE_ROWS):
            left = tuple(flow_run_ids[start : start + _REMOVE_ROWS])
            while left:
                some, of_these, left = (await self._session.commit([RemoveOutputs(left, _REMOVE_ROWS)]))[0]
                outputs, size = outputs + some, size + of_these
        return Removal(outputs, size, ())

    async def _forget_runs(self, before: int) -> int:
        tombstones = 0
        since: int | None = 0
        while since is not None:
            some, since = (await self._session.commit([ForgetRuns(since, before, _REMOVE_ROWS)]))[0]
            tombstones += some
        return tombstones

    async def _free_globals(self) -> int:
        """Those that are deleted or expired, since whenever."""
        count, freed = 0, Freed(0, is_all=False)
        while not freed.is_all:
            (freed,) = await self._session.commit([FreeGlobals(_REMOVE_ROWS)])
            count += freed.globals
        return count


class _Idle(NamedTuple):
    """Which runs are to be deleted: those written to last before a time, in one of the states."""

    since: int
    states: tuple[int, ...] | None


def _idle(older_than: datetime.timedelta | None, state: str | Iterable[str] | None) -> _Idle | None:
    """As an engine has it. None: no runs are."""
    states = None if state is None else states_of(state, RUN_STATES)
    since = _time_before(older_than)
    if since is None:
        return None
    return _Idle(since, None if states is None else tuple(sorted(map(RUN_STATES.index, states))))


def _time_before(older_than: datetime.timedelta | None) -> int | None:
    """The time before which what is older lies. None: nothing is."""
    if older_than is None:
        return None
    if not isinstance(older_than, datetime.timedelta):
        raise TypeError(f"older_than must be a datetime.timedelta or None, not {type(older_than).__name__}")
    if older_than < datetime.timedelta(0):
        raise ValueError("older_than must not be negative")
    # Not below 0: a timedelta reaches further back than the integers of an engine.
    return max(0, time.time_ns() // 1000 - older_than // datetime.timedelta(microseconds=1))


def _share_of_a_commit(runs: Sequence[tuple[str, int]]) -> Sequence[tuple[str, int]]:
    """The first of them, one at least, as far as they have no more outputs than a commit removes."""
    outputs = 0
    for number, (_, count) in enumerate(runs):
        outputs += count
        if number and outputs > _REMOVE_ROWS:
            return runs[:number]
    return runs
