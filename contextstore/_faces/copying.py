"""From one store to another: ``copy``.

Rules of this module: everything goes page by page and commit by commit, so that memory is bounded and an interrupted
copy goes on where it was. What is copied is the stored bytes with their times, versions, order and tombstones, which
the public calls do not show: this is the one room above the store that asks its engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Literal, TypeVar, overload

from .._engine.contract import Engine
from .._engine.operations import LoadGlobal, LoadOutput, LoadRun, Operation, value_bytes
from .._engine.records import Fetched, RunRow, is_time
from .._results import CopyReport, Problem
from .._values.arguments import check_function
from .._waiting.callers import run_now
from .._waiting.outcome import Outcome
from ..errors import CorruptStoreError, StorageError
from .async_store import AsyncContextStore
from .sync_store import ContextStore

T = TypeVar("T")
Store = AsyncContextStore | ContextStore
Progress = Callable[[int, int], Any]
Damaged = Literal["raise", "skip"]

_PAGE_ROWS = 200
_PAGE_BYTES = 2**20


@overload
def copy(
    source: ContextStore, target: ContextStore, *, damaged: Damaged = "raise", progress: Progress | None = None
) -> CopyReport: ...
@overload
def copy(
    source: AsyncContextStore, target: Store, *, damaged: Damaged = "raise", progress: Progress | None = None
) -> Awaitable[CopyReport]: ...
@overload
def copy(
    source: Store, target: AsyncContextStore, *, damaged: Damaged = "raise", progress: Progress | None = None
) -> Awaitable[CopyReport]: ...
def copy(
    source: Store, target: Store, *, damaged: Damaged = "raise", progress: Progress | None = None
) -> CopyReport | Awaitable[CopyReport]:
    """Copy everything that is in one store to another, then prove the two equal.

    Runs, deleted ones too, come over in their order, outputs and globals with their times and versions. Between any two
    stores: a file, memory, PostgreSQL. It is done in commits of bounded size; if it is interrupted, the same call goes
    on. What is written to the source meanwhile may or may not come along; the target must not be written meanwhile, and
    should be empty or hold an earlier copy: with anything else in it the two are not equal in the end.

    Args:
        source, target: open or not; neither is closed. To be awaited if either is an ``AsyncContextStore``.
        damaged: what to do with what is damaged in the source. ``"raise"``, or ``"skip"``: leave it out, and list it in
            ``CopyReport.skipped``. A run all of whose outputs are damaged is not copied; one that was deleted stays so.
            The proof is then of what was copied.
        progress: called with how many runs and globals are done, and how many there are.

    Raises:
        AlreadyExistsError, RunDeletedError, VersionConflictError: the target has something else in the same place.
        CorruptStoreError: something in the source is damaged; it says what.
        StorageError: an engine could not, or the two are not equal in the end.
    """
    for store in (source, target):
        if not isinstance(store, AsyncContextStore | ContextStore):
            raise TypeError(
                f"copy takes two stores, not {type(store).__name__}: open a path or a URL by ContextStore(...)"
            )
    if source is target:
        raise ValueError("source and target are the same store")
    if damaged not in ("raise", "skip"):
        raise ValueError(f"damaged must be 'raise' or 'skip', not {damaged!r}")
    if progress is not None:
        check_function("progress", progress)
    skipped: list[Problem] | None = [] if damaged == "skip" else None
    if isinstance(source, ContextStore) and isinstance(target, ContextStore):
        return run_now(_copy(_Side(source, False, skipped), _Side(target, False), source._core, progress))
    asked = target if isinstance(source, ContextStore) else source
    assert isinstance(asked, AsyncContextStore)
    return _copy(_Side(source, True, skipped), _Side(target, True), asked, progress)


class _Side:
    """One of the two stores, by whichever face.

    Args:
        skipped: takes what is damaged, and so left out. None: it is raised.
    """

    def __init__(self, store: Store, is_awaited: bool, skipped: list[Problem] | None = None) -> None:
        self.skipped = skipped
        self.core: AsyncContextStore = store._core if isinstance(store, ContextStore) else store
        # A blocking store beside an awaited one would block the loop.
        self._in_thread = is_awaited and isinstance(store, ContextStore)

    async def do(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._in_thread:
            return await asyncio.to_thread(lambda: run_now(call()))
        return await call()

    async def read(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self.do(lambda: self.core._read(call))

    async def load(self, operations: list[Operation]) -> None:
        if operations:
            await self.do(lambda: self.core._load(operations))

    async def contents(self) -> AsyncIterator[Operation]:
        """Everything, as what would load it: each run before its outputs; not runs without any, unless deleted."""
        engine = self.core._engine
        serial = 0
        while runs := await self.read(partial(engine.page_run_rows, serial, _PAGE_ROWS)):
            for run in runs:
                serial = run.serial
                load = self._load_of(run)
                if load is not None and load.deleted_at is None:
                    async for output in self._outputs(run.flow_run_id):
                        if load is not None:
                            yield load
                            load = None
                        yield output
                elif load is not None:
                    yield load
        key: str | None = None
        while some := await self.read(partial(engine.page_global_rows, key, _PAGE_ROWS)):
            for one in some:
                if isinstance(one.error, CorruptStoreError):
                    damaged = one.error
                    if damaged.key is None or (key is not None and damaged.key <= key):
                        raise damaged
                    self._skip(Problem("global", (damaged.key,), damaged.message), damaged)
                    key = damaged.key
                else:
                    key = one.result.key
                    yield LoadGlobal(*one.result)

    def _skip(self, problem: Problem, error: CorruptStoreError) -> None:
        if self.skipped is None:
            raise error
        self.skipped.append(problem)

    def _load_of(self, run: RunRow) -> LoadRun | None:
        """The run, mended as far as can be; None: it has to be left out."""
        whole = is_time(run.created_at) and (run.deleted_at is None or is_time(run.deleted_at))
        has_name = type(run.flow_run_id) is str
        if not (whole and has_name):
            what = "its row cannot be read" if run.created_at is None else "it has no time, or no name"
            message = f"flow run {run.flow_run_id!r} in {self.core._engine.location} is damaged: {what}"
            error = CorruptStoreError(message, flow_run_id=run.flow_run_id if has_name else None)
            self._skip(Problem("run", (str(run.flow_run_id),), message), error)
        if run.created_at is None or not has_name:
            return None
        # A time that is not known is the first there is. Whatever is there in place of a deletion's: it is deleted.
        created_at = run.created_at if is_time(run.created_at) else 0
        is_deleted_then = run.deleted_at is None or is_time(run.deleted_at)
        return LoadRun(run.flow_run_id, created_at, run.deleted_at if is_deleted_then else created_at)

    async def _outputs(self, flow_run_id: str) -> AsyncIterator[LoadOutput]:
        engine = self.core._engine
        after, run = "", None
        any_whole = any_damaged = False
        while page := await self._page(engine, flow_run_id, run, after):
            for outcome in page:
                record, damaged = outcome.result, outcome.error
                if record is not None:
                    after, run = record.node_id, record.run
                    any_whole = True
                    yield LoadOutput(flow_run_id, record.node_id, record.value, record.written_at)
                elif isinstance(damaged, CorruptStoreError):
                    any_damaged = True
                    if damaged.node_id is None or damaged.node_id <= after:  # there is no way round it
                        message = f"its outputs behind node {after!r} could not be read: {damaged.message}"
                        self._skip(Problem("run", (flow_run_id,), message), damaged)
                        return
                    self._skip(Problem("output", (flow_run_id, damaged.node_id), damaged.message), damaged)
                    after = damaged.node_id
        if self.skipped is not None and any_damaged and not any_whole:
            self.skipped.append(Problem("run", (flow_run_id,), "all of its outputs are damaged: it was not copied"))

    async def _page(self, engine: Engine, flow_run_id: str, run: int | None, after: str) -> list[Fetched]:
        try:
            return await self.read(partial(engine.page_outputs, flow_run_id, run, after, _PAGE_ROWS, _PAGE_BYTES))
        except CorruptStoreError as error:  # not even the names can be read
            return [Outcome.failure(error)]


class _Digest:
    """What was seen, in order: counted, and told apart from anything else."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.runs = self.outputs = self.globals = self.tombstones = self.bytes = 0

    def add(self, operation: Operation) -> None:
        value = getattr(operation, "value", None)
        facts = [type(operation).__name__, *(fact for fact in operation if fact is not value)]
        self._hash.update(repr(facts).encode())
        if value is not None:
            self._hash.update(f"{value.codec} {len(value.data)} ".encode())
            self._hash.update(value.data)
            self.bytes += len(value.data)
        match operation:
            case LoadRun(deleted_at=None):
                self.runs += 1
            case LoadRun():
                self.tombstones += 1
            case LoadOutput():
                self.outputs += 1
            case LoadGlobal():
                self.globals += value is not None

    def result(self) -> str:
        return self._hash.hexdigest()


async def _copy(source: _Side, target: _Side, asked: AsyncContextStore, progress: Progress | None) -> CopyReport:
    await source.do(source.core._ready)
    await target.do(target.core._writable)
    total = 0
    if progress is not None:
        with contextlib.suppress(*([] if source.skipped is None else [CorruptStoreError])):
            counts = await source.read(source.core._engine.count)
            total = counts.runs + counts.tombstones + counts.globals
    copied, done, size = _Digest(), 0, 0
    waiting: list[Operation] = []
    async for operation in source.contents():
        copied.add(operation)
        # A run that is not deleted goes in one commit with the first of its outputs: without any it cannot be.
        if (len(waiting) >= _PAGE_ROWS or size > _PAGE_BYTES) and not isinstance(waiting[-1], LoadRun):
            await target.load(waiting)
            waiting, size = [], 0
        waiting.append(operation)
        size += value_bytes(operation)
        if not isinstance(operation, LoadOutput):
            done += 1
            if progress is not None:
                await asked._result_of(progress, done, max(total, done))
    await target.load(waiting)
    arrived = _Digest()
    async for operation in target.contents():
        arrived.add(operation)
    if arrived.result() != copied.result():
        raise StorageError(
            f"{target.core._engine.location} is not equal to {source.core._engine.location} after the copy: it had "
            f"other content before, or was written meanwhile ({arrived.runs} runs and {arrived.outputs} outputs, "
            f"copied were {copied.runs} and {copied.outputs})"
        )
    return CopyReport(
        copied.runs,
        copied.outputs,
        copied.globals,
        copied.tombstones,
        copied.bytes,
        digest=copied.result(),
        skipped=tuple(source.skipped or ()),
    )
