"""Who commits with whom: group commit.

Rules of this module: no SQL, no values, no I/O. Callers put units into a queue and wait on their waiters. One job at a
time drains the queue where the engine writes: it takes all that has gathered while the last commit was running, has it
committed as one, and answers each caller with its own outcome. The running commit is the only timer.

    caller --commit()--> queue --drain--> engine.commit(units) --answer--> each caller

A unit is waiting (for room), then queued, then taken. Until it is taken it can be withdrawn, by its caller's
cancellation or by its deadline, and then nothing of it is stored. Once taken, it is brought to its end whether or not
its caller still waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .._engine.contract import Engine, Inline
from .._engine.epochs import Epoch
from .._engine.failures import error_for_caller, report_bug
from .._engine.operations import Operation, PutOutput, value_bytes
from .._waiting.callers import Callers
from .._waiting.outcome import Outcome
from .._waiting.waiters import Waiter, resolve
from ..errors import StorageError, StoreBusyError, StoreClosedError

QUEUE_BYTES = 64 * 2**20
"""How much encoded data may be queued before further writes wait for room."""

OPERATION_BYTES = 330
"""What an operation takes up beside its value, as the process measures it."""

UNIT_BYTES = 1800
"""The same for a unit that waits for its commit, with the task that awaits it."""

LEAST_PATIENCE = 1.0
"""Seconds that a caller leaves the writer at least to try once, which knows the deadline, too, and keeps to it."""

_WAITING, _QUEUED, _TAKEN, _WITHDRAWN = range(4)


class _Entry:
    """A unit on its way: its operations, and the caller that waits for its outcome."""

    __slots__ = ("bytes", "deadline", "operations", "state", "waiter")

    def __init__(self, operations: list[Operation], waiter: Waiter[Outcome[list[Any]]], deadline: float) -> None:
        self.operations = operations
        self.bytes = UNIT_BYTES + OPERATION_BYTES * len(operations)
        for operation in operations:
            self.bytes += value_bytes(operation)
        self.waiter = waiter
        self.deadline = deadline
        self.state = _WAITING


class Writer:
    def __init__(
        self,
        engine: Engine,
        callers: Callers,
        committed: Sequence[Callable[[list[Operation]], None]],
        timeout: float,
        committed_inline: Callable[[PutOutput, Epoch], None] | None = None,
    ) -> None:
        self._engine = engine
        self._inline = engine.inline if callers.may_block and committed_inline is not None else None
        self._note_inline = committed_inline
        self._callers = callers
        self._note_committed = committed
        self._timeout = timeout
        self.patience = max(timeout, LEAST_PATIENCE)
        # Guards what follows. Held for a few operations on the queues only: never while calling anything that waits.
        # Reentrant: a coroutine that is collected while it is held withdraws its unit in the same thread.
        self._lock = threading.RLock()
        self._queue: deque[_Entry] = deque()
        self._queued_bytes = 0
        self._waiting: deque[_Entry] = deque()
        self._draining = False
        self._closed = False
        self._counting = threading.Lock()
        self.inline_commits = 0
        # Counted where the engine writes, for stats().
        self.commits = 0
        self.writes = 0
        self.largest_group = 0

    async def commit(self, operations: list[Operation]) -> list[Any]:
        """Commit the operations as one unit; returns their results once they are durable.

        Raises what the unit was refused for, or ``StorageError``. If cancelled before a commit has taken the unit, it
        is withdrawn.
        """
        if self._inline is not None and len(operations) == 1 and self._commit_inline(self._inline, operations[0]):
            return [None]
        entry = _Entry(operations, self._callers.waiter(), time.monotonic() + self._timeout)
        try:
            self._submit(entry)
            outcome: Outcome[list[Any]] = await self._callers.wait_until(
                entry.waiter, self.patience, partial(self._expire, entry)
            )
        except BaseException:
            self._withdraw(entry)
            raise
        return outcome.unwrap()

    def _commit_inline(self, inline: Inline, operation: Operation) -> bool:
        """In the calling thread, which may block, unless others are before it."""
        if type(operation) is not PutOutput or self._draining or self._closed:
            return False
        return inline.put(operation, self._committed_inline)

    def _committed_inline(self, put: PutOutput, epoch: Epoch) -> None:
        with self._counting:
            self.inline_commits += 1
        assert self._note_inline is not None
        self._note_inline(put, epoch)

    def close(self) -> None:
        """Accept nothing more. What is queued will be committed; what waits for room is refused."""
        with self._lock:
            self._closed = True
            waiting = [entry for entry in self._waiting if entry.state == _WAITING]
            self._waiting.clear()
            for entry in waiting:
                entry.state = _WITHDRAWN
        refused = [(entry.waiter, Outcome.failure(StoreClosedError(self._engine.location))) for entry in waiting]
        resolve(refused)

    # -- in the caller's thread ---------------------------------------------------------------------------------------
    # A KeyboardInterrupt may come between any two steps here. Each order of steps below is chosen so that what is left
    # behind is mended by commit()'s withdrawal or by the next drain.

    def _submit(self, entry: _Entry) -> None:
        with self._lock:
            if self._closed:
                raise StoreClosedError(self._engine.location)
            # Behind the units that wait for room, too, or many small ones would keep out a large one for ever.
            if self._waiting or (self._queue and self._queued_bytes + entry.bytes > QUEUE_BYTES):
                self._waiting.append(entry)
            else:
                entry.state = _QUEUED
                self._queued_bytes += entry.bytes
                self._queue.append(entry)
            if not self._draining:
                self._engine.post_write(self._drain)
                self._draining = True

    def _withdraw(self, entry: _Entry) -> bool:
        """Take the unit back, unless a commit has taken it. It stays in its queue, to be passed over."""
        with self._lock:
            if entry.state == _QUEUED:
                self._queued_bytes -= entry.bytes
            elif entry.state != _WAITING:
                return False
            entry.state = _WITHDRAWN
            return True

    def _expire(self, entry: _Entry) -> Outcome[Any] | None:
        if not self._withdraw(entry):
            return None
        busy = StoreBusyError(
            f"the write to {self._engine.location} waited longer than timeout={self._timeout:g} seconds for another "
            "process, the server or room in the queue; nothing was stored: try again, or raise timeout"
        )
        return Outcome.failure(busy)

    # -- where the engine writes --------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        try:
            if not self._has_work():
                return
            await self._commit_next_group()
            await self._maintain()
            if self._has_work():
                self._engine.post_write(self._drain)  # behind others' jobs, where the thread is shared
        except BaseException as error:
            # Nothing but a bug or a dying interpreter comes here. Even so no caller may be left waiting.
            report_bug("the writer of %s failed; every queued write is refused", self._engine.location, error=error)
            self._refuse_all(StorageError(f"the writer of {self._engine.location} failed ({error!r})"))
            if not isinstance(error, Exception):
                raise

    async def _maintain(self) -> None:
        try:
            await self._engine.maintain()
        except Exception as error:  # noqa: BLE001 - a bug; no write depends on it
            report_bug("tidying up %s failed in an unforeseen way", self._engine.location, error=error)

    def _has_work(self) -> bool:
        with self._lock:
            self._admit_waiting()
            self._draining = bool(self._queue)
            return self._draining

    def _is_wanted(self) -> bool:
        """Whether a caller still waits for a commit; asked again and again until the engine may write."""
        self._drop_expired()
        return bool(self._queue)

    def _drop_expired(self) -> None:
        """Take units from the head of the queue, as long as their callers wait no more."""
        now = time.monotonic()
        expired = []
        while self._queue:  # only this job takes entries out, so that a look needs no lock
            first = self._queue[0]
            if first.state == _QUEUED:
                if first.deadline > now:
                    break
                # The caller would do so itself, unless its loop is busy or gone.
                expired.append((first.waiter, self._expire(first)))
            with self._lock:
                self._queue.popleft()
        if expired:
            resolve([(waiter, outcome) for waiter, outcome in expired if outcome is not None])

    async def _commit_next_group(self) -> None:
        try:
            granted = await self._engine.acquire_write(self._is_wanted)
        except StorageError as error:
            group = self._take()
            self._answer(group, self._failures(error, group))
            return
        if not granted:
            return
        group = []
        outcomes: list[Outcome[list[Any]]] | None = None
        try:
            try:
                group = self._take()
                told = await self._commit_group(group) if group else []
                if len(told) != len(group):
                    raise RuntimeError(f"{len(told)} outcomes of {len(group)} units")  # of which units is not known
                outcomes = told
            finally:
                self._engine.release_write()
        except BaseException as error:  # noqa: BLE001 - a bug; no caller of the group may be left waiting
            report_bug("a commit to %s failed in an unforeseen way", self._engine.location, error=error)
            if outcomes is None:  # what the bug left of the commit is not known
                unforeseen = f"the commit failed in an unforeseen way ({error!r})"
                outcomes = [Outcome.failure(StorageError(unforeseen, True)) for _ in group]
        self._answer(group, outcomes)

    async def _commit_group(self, group: list[_Entry]) -> list[Outcome[list[Any]]]:
        try:
            return await self._engine.commit([entry.operations for entry in group])
        except StorageError as error:
            # Not one by one if the store was busy: each unit would wait the full timeout again.
            if len(group) == 1 or error.outcome_unknown or isinstance(error, StoreBusyError):
                return self._failures(error, group)
        # Nothing of the group is stored. One by one, so that exactly the callers concerned are told.
        outcomes: list[Outcome[list[Any]]] = []
        for entry in group:
            try:
                outcomes += await self._engine.commit([entry.operations])
            except StorageError as error:
                outcomes.append(Outcome.failure(error))
        return outcomes

    def _failures(self, error: StorageError, group: list[_Entry]) -> list[Outcome[list[Any]]]:
        return [Outcome.failure(error_for_caller(error, self._engine.location)) for _ in group]

    def _take(self) -> list[_Entry]:
        limits = self._engine.group_limits
        group: list[_Entry] = []
        operations = size = 0
        with self._lock:
            while self._queue:
                entry = self._queue[0]
                if entry.state == _QUEUED:
                    operations += len(entry.operations)
                    size += entry.bytes
                    if group and (operations > limits.operations or size > limits.bytes):
                        break
                    entry.state = _TAKEN
                    self._queued_bytes -= entry.bytes
                    group.append(entry)
                self._queue.popleft()
            self._admit_waiting()
        return group

    def _admit_waiting(self) -> None:
        if not self._queue:
            self._queued_bytes = 0  # what an interrupt may have left here is mended
        while self._waiting:
            entry = self._waiting[0]
            if entry.state == _WAITING:
                if self._queue and self._queued_bytes + entry.bytes > QUEUE_BYTES:
                    return
                entry.state = _QUEUED
                self._queued_bytes += entry.bytes
                self._queue.append(entry)
            self._waiting.popleft()

    @property
    def queued(self) -> int:
        """How many writes wait for a commit, or for room in the queue."""
        return len(self._queue) + len(self._waiting)

    def _answer(self, group: list[_Entry], outcomes: list[Outcome[list[Any]]]) -> None:
        answers: list[tuple[Waiter[Any], Outcome[list[Any]]]] = []
        committed: list[Operation] = []
        writes = 0
        for entry, outcome in zip(group, outcomes, strict=True):
            answers.append((entry.waiter, outcome))
            if outcome.error is None:
                writes += 1
                committed += entry.operations
        if writes:
            self.commits += 1
            self.writes += writes
            self.largest_group = max(self.largest_group, writes)
        try:
            for note in self._note_committed:
                note(committed)
        finally:
            resolve(answers)

    def _refuse_all(self, error: StorageError) -> None:
        with self._lock:
            entries = [entry for entry in (*self._queue, *self._waiting) if entry.state in (_QUEUED, _WAITING)]
            for entry in entries:
                entry.state = _WITHDRAWN
            self._queue.clear()
            self._waiting.clear()
            self._queued_bytes = 0
            self._draining = False
        failures = self._failures(error, entries)
        resolve([(entry.waiter, failure) for entry, failure in zip(entries, failures, strict=True)])
