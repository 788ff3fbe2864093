"""A store as everything that is in it: read page by page, loaded commit by commit, told apart by a digest.

Rules of this module: memory is bounded, and what was interrupted goes on where it was. What is read and loaded is the
stored bytes with their times, versions, order and tombstones, which no call of a store shows.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, Protocol, TypeVar

from .._engine.attempts import FIRST, damaged_failure
from .._engine.fact_rules import NOTHING_SAID
from .._engine.lease_operations import LoadLastToken
from .._engine.operations import (
    LoadAppendCounter,
    LoadAppendKey,
    LoadFreedVersion,
    LoadGlobal,
    LoadMark,
    LoadOutput,
    LoadRun,
    Operation,
    value_bytes,
)
from .._engine.records import Fetched, OutputMark, RunRow, is_time
from .._engine.run_operations import LoadFacts, LoadFailure, LoadState
from .._results import CopyReport, Problem
from .._waiting.outcome import Outcome
from ..errors import CorruptStoreError, StorageError
from .session import Session

T = TypeVar("T")

_PAGE_ROWS = 200
_PAGE_BYTES = 2**20
_ATTEMPTS = 2000

Progress = Callable[[int, int], Awaitable[Any]]


class Place(Protocol):
    """Where the calls of a store are made."""

    def __call__(self, call: Callable[[], Coroutine[Any, Any, T]], /) -> Awaitable[T]: ...


async def here(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """In the calling task, or the calling thread."""
    return await call()


class Selection(NamedTuple):
    """What of a store is asked for: by the ids of runs, and with globals or without."""

    runs: frozenset[str] | None = None  # None: all
    prefix: str = ""
    globals: bool = True

    def takes(self, flow_run_id: Any) -> bool:
        """Whether a run is of it. One whose id is damaged is of the whole alone."""
        if self.runs is None and not self.prefix:
            return True
        if type(flow_run_id) is not str:
            return False
        return flow_run_id.startswith(self.prefix) and (self.runs is None or flow_run_id in self.runs)


EVERYTHING = Selection()


class Archive:
    """What is in a store.

    Args:
        place: where the store's calls are made.
        skipped: takes what is damaged, and so left out. None: it is raised.
    """

    def __init__(self, session: Session, place: Place = here, skipped: list[Problem] | None = None) -> None:
        self.session = session
        self.skipped = skipped
        self._place = place

    async def open_to_read(self) -> None:
        await self._place(self.session.ready)

    async def open_to_load(self) -> None:
        await self._place(self.session.writable)

    async def read(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """What a call of the engine's gives: one of very many."""
        session = self.session

        async def read() -> T:
            await session.ready()
            return await session.scan(call, *args)

        return await self._place(read)

    async def load(self, operations: list[Operation]) -> None:
        """Commit what another store has."""
        session = self.session

        async def load() -> None:
            await session.writable()
            await session.commit(operations)

        if operations:
            await self._place(load)

    async def count(self) -> int:
        """How many runs and globals there are, deleted runs included."""
        counts = await self.read(self.session.engine.count)
        return counts.runs + counts.tombstones + counts.globals

    # -- everything ---------------------------------------------------------------------------------------------------

    async def contents(self, selection: Selection = EVERYTHING) -> AsyncIterator[Operation]:
        """Everything, as what would load it: each run, what is said of it, its outputs, its counters and keys; not runs
        without outputs of which nothing was said, unless deleted.
        """
        serial, left = 0, None if selection.runs is None else len(selection.runs)
        while left != 0 and (runs := await self.read(self.session.engine.page_run_rows, serial, _PAGE_ROWS)):
            for run in runs:
                serial = run.serial
                if not selection.takes(run.flow_run_id):
                    continue
                left = None if left is None else left - 1
                async for operation in self._run(run):
                    yield operation
        if selection.globals:
            async for one in self._globals():
                yield one
            # Behind the globals: so the versions of all that there were of these keys stand here already.
            if freed := await self._freed_version():
                yield LoadFreedVersion(freed)
            if token := await self.read(self.session.engine.last_token):
                yield LoadLastToken(token)

    async def _globals(self) -> AsyncIterator[LoadGlobal]:
        key: str | None = None
        while some := await self.read(self.session.engine.page_global_rows, key, _PAGE_ROWS):
            for one in some:
                if isinstance(one.error, CorruptStoreError):
                    key = self._skip_global(one.error, key)
                else:
                    key = one.result.key
                    yield LoadGlobal(*one.result)

    async def _freed_version(self) -> int:
        try:
            return await self.read(self.session.engine.freed_version)
        except CorruptStoreError as error:
            self._skip(Problem("file", (), error.message), error)
            return 0

    async def _run(self, run: RunRow) -> AsyncIterator[Operation]:
        load = self._load_of(run)
        if load is None:
            return
        if load.deleted_at is not None:
            yield load
            return
        is_first = True
        if run.facts is None:
            message = f"what is said of flow run {run.flow_run_id!r} in {self.session.location} is damaged"
            error = CorruptStoreError(message, flow_run_id=run.flow_run_id)
            self._skip(Problem("run", (run.flow_run_id,), message), error)
        if run.touched_at is not None:  # and it has failures and state values, perhaps
            yield load
            yield LoadFacts(run.flow_run_id, run.facts or NOTHING_SAID, run.touched_at, run.failures)
            is_first = False
        async for output in self._outputs(run.flow_run_id):
            if is_first:
                yield load
                is_first = False
            yield output
        if run.has_appends and not is_first:
            async for one in self._appends(run):
                yield one
        if run.failures and not is_first:
            async for failure in self._failures(run):
                yield failure
        if run.touched_at is not None:
            async for state in self._states(run):
                if is_first:
                    yield load
                    is_first = False
                yield state

    async def _appends(self, run: RunRow) -> AsyncIterator[LoadAppendCounter | LoadAppendKey]:
        """Its counters by prefix, then its keys by prefix and key."""
        engine, name = self.session.engine, run.flow_run_id
        after: str | None = None
        while counters := await self.read(engine.page_append_counters, name, after, _PAGE_ROWS):
            for prefix, last, _ in counters:
                after = prefix
                yield LoadAppendCounter(name, prefix, last)
        behind: tuple[str, str] | None = None
        while keys := await self.read(engine.page_append_keys, name, run.serial, behind, _PAGE_ROWS):
            for prefix, key, node_id, _ in keys:
                behind = prefix, key
                yield LoadAppendKey(name, prefix, key, node_id)

    async def _failures(self, run: RunRow) -> AsyncIterator[LoadFailure]:
        """By node id and number. An output that does not tell its attempt any more is told of with the outputs."""
        name, after = run.flow_run_id, FIRST
        while True:
            page = await self.read(self.session.engine.page_attempts, name, run.serial, None, after, _ATTEMPTS)
            if page.has_damaged_failure:
                raise damaged_failure(self.session.location, name)
            for node_id, number, started_at, ended_at, error, inputs in page.attempts:
                if error is not None:
                    yield LoadFailure(name, node_id, number, started_at, ended_at, error, inputs)
            if page.after is None:
                return
            after = page.after

    async def _states(self, run: RunRow) -> AsyncIterator[LoadState]:
        """Its state values, by key."""
        name, page = run.flow_run_id, self.session.engine.page_states
        after: str | None = None
        while True:
            try:
                found = await self.read(page, name, run.serial, ("", None), after, _PAGE_ROWS, _PAGE_BYTES)
                outcomes = found.states
            except CorruptStoreError as error:  # which the engine itself has found
                outcomes = [Outcome.failure(error)]
            if not outcomes:
                return
            for outcome in outcomes:
                damaged = outcome.error
                if not isinstance(damaged, CorruptStoreError):
                    key, value, version, written_at, _ = outcome.unwrap()
                    yield LoadState(name, key, value, version, written_at)
                elif damaged.key is None or (after is not None and damaged.key <= after):  # there is no way round it
                    message = f"its state values behind {after!r} could not be read: {damaged.message}"
                    self._skip(Problem("run", (name,), message), damaged)
                    return
                else:
                    key = damaged.key
                    self._skip(Problem("state", (name, key), damaged.message), damaged)
                after = key

    def _load_of(self, run: RunRow) -> LoadRun | None:
        """The run, mended as far as can be; None: it has to be left out."""
        has_name = type(run.flow_run_id) is str
        is_deleted_then = run.deleted_at is None or is_time(run.deleted_at)
        if not (is_time(run.created_at) and is_deleted_then and has_name):
            what = "its row cannot be read" if run.created_at is None else "it has no time, or no name"
            message = f"flow run {run.flow_run_id!r} in {self.session.location} is damaged: {what}"
            error = CorruptStoreError(message, flow_run_id=run.flow_run_id if has_name else None)
            self._skip(Problem("run", (str(run.flow_run_id),), message), error)
        if run.created_at is None or not has_name:
            return None
        # A time that is not known is the first there is. With anything in place of a deletion's, the run is deleted.
        created_at = run.created_at if is_time(run.created_at) else 0
        return LoadRun(run.flow_run_id, created_at, run.deleted_at if is_deleted_then else created_at)

    async def _outputs(self, flow_run_id: str) -> AsyncIterator[LoadOutput | LoadMark]:
        """With the marks of those that were deleted."""
        after, run = "", None
        any_whole = any_damaged = False
        while page := await self._page(flow_run_id, run, after):
            for outcome in page:
                record, damaged = outcome.result, outcome.error
                if record is not None:
                    after, run = record.node_id, record.run
                    any_whole = True
                    if isinstance(record, OutputMark):
                        yield LoadMark(flow_run_id, record.node_id, record.written_at)
                    else:
                        yield LoadOutput(flow_run_id, *record[:3], record.made)
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

    async def _page(self, flow_run_id: str, run: int | None, after: str) -> list[Fetched]:
        page = self.session.engine.page_outputs
        try:
            return await self.read(page, flow_run_id, run, after, _PAGE_ROWS, _PAGE_BYTES, True)
        except CorruptStoreError as error:  # not even the names can be read
            return [Outcome.failure(error)]

    def _skip_global(self, damaged: CorruptStoreError, after: str | None) -> str:
        """The key behind which to go on."""
        if damaged.key is None or (after is not None and damaged.key <= after):
            raise damaged
        self._skip(Problem("global", (damaged.key,), damaged.message), damaged)
        return damaged.key

    def _skip(self, problem: Problem, error: CorruptStoreError) -> None:
        if self.skipped is None:
            raise error
        self.skipped.append(problem)


class Digest:
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
            if value.tag is not None:  # told apart from what follows by its length
                self._hash.update(f"{len(value.tag)} {value.tag} ".encode())
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


class DigestOfRuns(Digest):
    """The same for some runs, in whichever order a store has them."""

    def __init__(self) -> None:
        super().__init__()
        self._by_run: dict[str, Any] = {}

    def add(self, operation: Any) -> None:
        self._hash = self._by_run.setdefault(operation.flow_run_id, hashlib.sha256())
        super().add(operation)

    def result(self) -> str:
        digests = [f"{name!r} {self._by_run[name].hexdigest()}" for name in sorted(self._by_run)]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()


async def copy_archive(
    source: Archive, target: Archive, progress: Progress | None, selection: Selection = EVERYTHING
) -> CopyReport:
    """Load everything of the selection from one store into another, then prove the two equal in it."""
    await source.open_to_read()
    await target.open_to_load()
    digest = Digest if selection is EVERYTHING else DigestOfRuns
    copied = await _load_all(source, target, progress, selection, digest())
    arrived = digest()
    async for operation in target.contents(selection):
        arrived.add(operation)
    if arrived.result() != copied.result():
        raise StorageError(
            f"{target.session.location} is not equal to {source.session.location} after the copy: it had "
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


async def _load_all(
    source: Archive, target: Archive, progress: Progress | None, selection: Selection, copied: Digest
) -> Digest:
    total = 0
    if selection.runs is not None:
        total = len(selection.runs)
    elif progress is not None:
        with contextlib.suppress(*([] if source.skipped is None else [CorruptStoreError])):
            total = await source.count()
    done = size = 0
    waiting: list[Operation] = []
    async for operation in source.contents(selection):
        copied.add(operation)
        # A run that is not deleted goes in one commit with the first of its outputs: without any it cannot be.
        if (len(waiting) >= _PAGE_ROWS or size > _PAGE_BYTES) and not isinstance(waiting[-1], LoadRun):
            await target.load(waiting)
            waiting, size = [], 0
        waiting.append(operation)
        size += value_bytes(operation)
        if isinstance(operation, LoadRun | LoadGlobal):
            done += 1
            if progress is not None:
                await progress(done, max(total, done))
    await target.load(waiting)
    return copied
