"""From one store to another: ``copy``.

Rules of this room: everything goes page by page and commit by commit, so that memory is bounded and an interrupted copy
goes on where it was. What is copied is the stored bytes with their times, versions, order and tombstones, which the
public calls do not show: this is the one room above the store that asks its engine.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar, overload

from ._callers import step
from ._engine import LoadGlobal, LoadOutput, LoadRun, Operation, OutputRecord, value_bytes
from ._keys import check_function
from ._results import CopyReport
from ._store import AsyncContextStore
from ._sync import ContextStore
from .errors import StorageError

T = TypeVar("T")
Store = AsyncContextStore | ContextStore
Progress = Callable[[int, int], Any]

_PAGE_ROWS = 200
_PAGE_BYTES = 2**20


@overload
def copy(source: ContextStore, target: ContextStore, *, progress: Progress | None = None) -> CopyReport: ...
@overload
def copy(source: AsyncContextStore, target: Store, *, progress: Progress | None = None) -> Awaitable[CopyReport]: ...
@overload
def copy(source: Store, target: AsyncContextStore, *, progress: Progress | None = None) -> Awaitable[CopyReport]: ...
def copy(source: Store, target: Store, *, progress: Progress | None = None) -> CopyReport | Awaitable[CopyReport]:
    """Copy everything that is in one store to another, then prove the two equal.

    Runs, deleted ones too, come over in their order, outputs and globals with their times and versions. Between any two
    stores: a file, memory, PostgreSQL. It is done in commits of bounded size; if it is interrupted, the same call goes
    on. What is written to the source meanwhile may or may not come along; the target must not be written meanwhile, and
    should be empty or hold an earlier copy: with anything else in it the two are not equal in the end.

    Args:
        source, target: open or not; neither is closed. To be awaited if either is an ``AsyncContextStore``.
        progress: called with how many runs and globals are done, and how many there are.

    Raises:
        AlreadyExistsError, RunDeletedError, VersionConflictError: the target has something else in the same place.
        CorruptStoreError: something in the source is damaged.
        StorageError: an engine could not, or the two are not equal in the end.
    """
    for store in (source, target):
        if not isinstance(store, AsyncContextStore | ContextStore):
            raise TypeError(
                f"copy takes two stores, not {type(store).__name__}: open a path or a URL by ContextStore(...)"
            )
    if source is target:
        raise ValueError("source and target are the same store")
    if progress is not None:
        check_function("progress", progress)
    if isinstance(source, ContextStore) and isinstance(target, ContextStore):
        return step(_copy(_Side(source, False), _Side(target, False), source._core, progress))
    asked = target if isinstance(source, ContextStore) else source
    assert isinstance(asked, AsyncContextStore)
    return _copy(_Side(source, True), _Side(target, True), asked, progress)


class _Side:
    """One of the two stores, by whichever face."""

    def __init__(self, store: Store, is_awaited: bool) -> None:
        self.core: AsyncContextStore = store._core if isinstance(store, ContextStore) else store
        # A blocking store beside an awaited one would block the loop.
        self._in_thread = is_awaited and isinstance(store, ContextStore)

    async def do(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._in_thread:
            return await asyncio.to_thread(lambda: step(call()))
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
        while runs := await self.read(partial(engine.page_run_traces, serial, _PAGE_ROWS)):
            for run in runs:
                serial = run.serial
                load: LoadRun | None = LoadRun(run.flow_run_id, run.created_at, run.deleted_at)
                if run.deleted_at is None:
                    async for output in self._outputs(run.flow_run_id):
                        if load is not None:
                            yield load
                            load = None
                        yield output
                elif load is not None:
                    yield load
        key: str | None = None
        while some := await self.read(partial(engine.page_global_traces, key, _PAGE_ROWS)):
            for one in some:
                key = one.key
                yield LoadGlobal(*one)

    async def _outputs(self, flow_run_id: str) -> AsyncIterator[LoadOutput]:
        engine = self.core._engine
        after, run = "", None
        while page := await self.read(partial(engine.page_outputs, flow_run_id, run, after, _PAGE_ROWS, _PAGE_BYTES)):
            for record in page:
                if isinstance(record, OutputRecord):
                    after, run = record.node_id, record.run
                    yield LoadOutput(flow_run_id, record.node_id, record.value, record.written_at)
                elif record is not None:
                    raise record


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
        copied.runs, copied.outputs, copied.globals, copied.tombstones, copied.bytes, digest=copied.result()
    )
