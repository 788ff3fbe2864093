"""The cache, the reader and the writer of a store that has observers: they note what passes through them.

Rules of this module: it adds to what they do, and changes none of it; a store without observers has nothing of this.
What a call reads and writes is noted in its ``Passage``, which its context carries: a task's, or a thread's. A commit
is told once its callers are answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

from .._engine.contract import Inline
from .._engine.epochs import Epoch
from .._engine.operations import Operation, value_bytes
from .._engine.pages import OutputPage
from .._engine.records import GlobalRecord, OutputKey, OutputRecord
from .._engine.reports import code_of
from .._values.codec import Encoded
from .._waiting.callers import Callers
from .._waiting.outcome import Outcome
from ..errors import StorageError
from ..observers import CommitEvent
from .cache import OutputCache
from .global_reader import GlobalReader
from .reader import Reader
from .writer import QueuedUnit, Writer

T = TypeVar("T")


class Passage:
    """What passes through the store for one call."""

    __slots__ = ("asked_cache", "operations", "size", "trips")

    def __init__(self) -> None:
        self.size: int | None = None
        self.operations = 0
        """How many it has had committed."""
        self.trips = 0
        """How often it went to the engine."""
        self.asked_cache = False

    def add(self, size: int) -> None:
        self.size = size + (self.size or 0)


passage: ContextVar[Passage | None] = ContextVar("passage", default=None)
"""That of the call which runs here."""


def _bytes_in(answer: object) -> int | None:
    """Of the values that an engine has answered with, in whatever form; None: there is none."""
    if isinstance(answer, OutputPage):
        return sum(len(row[2]) for row in answer.rows)
    if isinstance(answer, Encoded):
        return len(answer.data)
    if isinstance(answer, Outcome):
        return _bytes_in(answer.result)
    if isinstance(answer, OutputRecord) or hasattr(answer, "value"):
        return _bytes_in(answer.value)
    if isinstance(answer, list):
        sizes = [size for one in answer if (size := _bytes_in(one)) is not None]
        return sum(sizes) if sizes else None
    return None


def _note_trip(answer: object) -> None:
    here = passage.get()
    if here is not None:
        here.trips += 1
        size = _bytes_in(answer)
        if size is not None:
            here.add(size)


class ObservedCache(OutputCache):
    def find(self, key: tuple[object, object], quick: int = 1) -> None:
        """Nothing: a get of a face's goes the long way, on which it is told of, also to what is in memory."""
        return

    def find_of(self, key: tuple[object, object], epoch: Epoch, quick: int = 1) -> None:
        """Likewise."""
        return

    def get(self, key: OutputKey) -> Encoded | None:
        return _noted(self.counting(super().find(key, 0)))

    def get_of(self, key: OutputKey, epoch: Epoch) -> Encoded | None:
        return _noted(self.counting(super().find_of(key, epoch, 0)))

    def get_several(self, keys: list[OutputKey], *, in_part: bool) -> dict[OutputKey, Encoded]:
        found = super().get_several(keys, in_part=in_part)
        for key in keys:
            _noted(found.get(key))
        return found


def _noted(value: Encoded | None) -> Encoded | None:
    """What the cache has answered."""
    here = passage.get()
    if here is not None:
        here.asked_cache = True
        if value is not None:
            here.add(len(value.data))
    return value


class ObservedReader(Reader):
    async def fetch(self, key: OutputKey, callers: Callers, *, refuse_deleted: bool = False) -> OutputRecord | None:
        record = await super().fetch(key, callers, refuse_deleted=refuse_deleted)
        _note_trip(record)
        return record

    async def call(self, read: Callable[[], Coroutine[Any, Any, T]], callers: Callers) -> T:
        answer = await super().call(read, callers)
        _note_trip(answer)
        return answer

    async def scan(self, read: Callable[[], Coroutine[Any, Any, T]], callers: Callers) -> T:
        answer = await super().scan(read, callers)
        _note_trip(answer)
        return answer


class ObservedGlobalReader(GlobalReader):
    async def fetch(self, key: str, callers: Callers) -> GlobalRecord | None:
        record = await super().fetch(key, callers)
        _note_trip(record)
        return record


class ObservedWriter(Writer):
    async def commit(self, operations: list[Operation], callers: Callers) -> list[Any]:
        here = passage.get()
        if here is not None:
            here.trips += 1
            here.operations += len(operations)
            here.add(_size_of(operations))
        return await super().commit(operations, callers)

    def _commit_inline(self, inline: Inline, operation: Operation) -> bool:
        began = time.monotonic()
        try:
            is_stored = super()._commit_inline(inline, operation)
        except StorageError as error:
            self._tell_of(1, [operation], time.monotonic() - began, 0.0, error)
            raise
        if is_stored:
            self._tell_of(1, [operation], time.monotonic() - began, 0.0, None)
        return is_stored

    def _answered(self, group: list[QueuedUnit], outcomes: list[Outcome[list[Any]]], seconds: float) -> None:
        super()._answered(group, outcomes, seconds)
        if group:
            errors = [outcome.error for outcome in outcomes]
            failed = all(isinstance(error, StorageError) for error in errors)
            operations = [operation for unit in group for operation in unit.operations]
            queued = max(0.0, self._taken_at - (group[0].deadline - self._timeout))
            self._tell_of(len(group), operations, seconds, queued, errors[0] if failed else None)

    async def _maintain(self) -> None:
        await super()._maintain()
        self._engine.reports.tell_noted()

    def _tell_of(
        self,
        units: int,
        operations: Collection[Operation],
        seconds: float,
        queued_seconds: float,
        error: BaseException | None,
    ) -> None:
        reports = self._engine.reports
        if not reports.are_told("on_commit"):
            return
        event = CommitEvent(
            location=reports.location,
            engine=reports.engine,
            units=units,
            operations=len(operations),
            size=_size_of(operations),
            seconds=seconds,
            queued_seconds=queued_seconds,
            error=None if error is None else type(error).__name__,
            code=None if error is None else code_of(error),
            outcome_unknown=getattr(error, "outcome_unknown", False),
        )
        reports.tell("on_commit", event)


def _size_of(operations: Collection[Operation]) -> int:
    return sum(value_bytes(operation) for operation in operations)
