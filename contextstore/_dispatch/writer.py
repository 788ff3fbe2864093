"""Who commits with whom: group commit.

Rules of this module: no SQL, no values, no I/O, and no locks (see ``shared_job``). Callers put units into a queue and
wait on their waiters. One job at a time drains the queue where the engine writes: it takes all that has gathered while
the last commit was running, has it committed as one, and answers each caller with its own outcome. The running commit
is the only timer.

    caller --commit()--> queue --drain--> engine.commit(units) --answer--> each caller

A caller that may block commits a single put itself, by ``Inline``, if the engine can and nobody else is at it: then
nothing is queued, and nobody waits.

A unit is queued, then taken. Until it is taken it can be withdrawn, by its caller's cancellation or by its deadline,
and then nothing of it is stored. Which of the two it is decides one atomic step: whoever pops the unit's claim has it.
Once taken, it is brought to its end whether or not its caller still waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from .._engine.contract import Engine, Inline
from .._engine.epochs import Epoch
from .._engine.failures import error_for_caller, report_bug
from .._engine.operations import AppendOutput, Operation, PutOutput, as_committed, value_bytes
from .._process.log import SLOW_COMMIT, log
from .._waiting.callers import Callers
from .._waiting.future import SharedFuture
from .._waiting.outcome import Outcome
from .._waiting.waiters import ThreadWaiter, Waiter, resolve
from ..errors import StorageError, StoreBusyError, StoreClosedError
from .commits import Commit
from .shared_job import SharedJob
from .subscriptions import Subscriptions

QUEUE_BYTES = 64 * 2**20
"""How much encoded data is in the queue at most: what has come beyond that waits for room behind it."""

OPERATION_BYTES = 330
"""What an operation takes up beside its value, as the process measures it."""

UNIT_BYTES = 1800
"""The same for a unit that waits for its commit, with the task that awaits it."""

LEAST_PATIENCE = 1.0
"""Seconds that a caller leaves the writer at least to try once, which knows the deadline, too, and keeps to it."""


class QueuedUnit:
    """A unit on its way: its operations, and the caller that waits for its outcome."""

    __slots__ = ("_writer", "claim", "deadline", "operations", "waiter")

    def __init__(
        self, writer: Writer, operations: list[Operation], waiter: Waiter[Outcome[list[Any]]], deadline: float
    ) -> None:
        self._writer = writer
        self.operations = operations
        self.waiter = waiter
        self.deadline = deadline
        self.claim = [True]
        """Empty once the unit is taken, or withdrawn. To pop it is atomic: one of those who try it has the unit."""

    @property
    def bytes(self) -> int:
        """How much of the queue it takes up."""
        size = UNIT_BYTES
        for operation in self.operations:
            size += OPERATION_BYTES + value_bytes(operation)
        return size

    def take(self) -> bool:
        """Have the unit, to commit it or to withdraw it. False: another has it."""
        try:
            return self.claim.pop()
        except IndexError:
            return False

    def expire(self) -> Outcome[Any] | None:
        """Its time is up: withdraw it, unless a commit has taken it."""
        if not self.take():
            return None
        self._writer.count_timeout()
        return self._writer.too_late()


class _Receipt(ThreadWaiter[Outcome[list[Any]]]):
    """Stands for a caller that goes on, and may ask later."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        super().__init__()
        self.future: SharedFuture[Outcome[list[Any]]] = SharedFuture()

    def set_result(self, result: Outcome[list[Any]], /) -> None:
        super().set_result(result)
        self.future.set_result(result)


class Writer:
    def __init__(
        self,
        engine: Engine,
        committed: Sequence[Callable[[list[Operation]], None]],
        timeout: float,
        committed_inline: Callable[[PutOutput, Epoch], None] | None = None,
        subscriptions: Subscriptions | None = None,
    ) -> None:
        self._engine = engine
        self._inline = engine.inline if committed_inline is not None else None
        self._note_inline = committed_inline
        self._note_committed = committed
        self._subscriptions = Subscriptions(engine) if subscriptions is None else subscriptions
        self._timeout = timeout
        self.patience = max(timeout, LEAST_PATIENCE)
        self._queue: deque[QueuedUnit] = deque()
        """Callers append, the drain alone takes out. A unit that was withdrawn stays, to be passed over."""
        self._drains = SharedJob(engine.post_write, self._queue)
        self._closed = False
        self._taken_at = 0.0
        """When the running commit has taken its units. Where the engine writes."""
        self._counting = threading.Lock()
        self.inline_commits = 0
        self.committed_at: float | None = None
        """When this object has made its last commit: seconds since 1970."""
        self._is_shared = False
        """Whether the last group had several units: while one thread commits alone, its fellows would gather."""
        # Counted where the engine writes, for stats().
        self.commits = 0
        self.writes = 0
        self.largest_group = 0

    async def commit(self, operations: list[Operation], callers: Callers) -> list[Any]:
        """Commit the operations as one unit; returns their results once they are durable.

        Raises what the unit was refused for, or ``StorageError``. If cancelled before a commit has taken the unit, it
        is withdrawn.
        """
        inline = self._inline if callers.may_block else None
        if inline is not None and len(operations) == 1 and self._commit_inline(inline, operations[0]):
            return [True]
        entry = QueuedUnit(self, operations, callers.waiter(), time.monotonic() + self._timeout)
        try:
            self._submit(entry)
            outcome: Outcome[list[Any]] = await callers.wait_until(entry.waiter, self.patience, entry.expire)
        except BaseException:
            entry.take()
            raise
        return outcome.unwrap()

    def post(self, operations: list[Operation]) -> SharedFuture[Outcome[list[Any]]]:
        """Have the operations committed as one unit, whether or not somebody waits for that. Never waits itself."""
        receipt = _Receipt()
        self._submit(QueuedUnit(self, operations, receipt, time.monotonic() + self.patience))
        return receipt.future

    # -- in the caller's thread ---------------------------------------------------------------------------------------

    def _commit_inline(self, inline: Inline, operation: Operation) -> bool:
        """In the calling thread, which may block, unless others are before it, or are likely to come with it."""
        if type(operation) is not PutOutput or self._drains.is_asked_for or self._is_shared or self._closed:
            return False
        commit = Commit([(operation.flow_run_id, operation.node_id)])
        began = time.monotonic()
        try:
            is_stored = inline.put(operation, partial(self._subscriptions.announce, commit), self._committed_inline)
            if not is_stored:
                commit.found = ()
        finally:
            self._subscriptions.committed_inline(commit)
        if time.monotonic() - began >= SLOW_COMMIT and is_stored:
            self._log_slow(1, time.monotonic() - began)
        return is_stored

    def _committed_inline(self, put: PutOutput, epoch: Epoch) -> None:
        with self._counting:
            self.inline_commits += 1
        self.committed_at = time.time()
        assert self._note_inline is not None
        self._note_inline(put, epoch)

    def _submit(self, entry: QueuedUnit) -> None:
        # A KeyboardInterrupt may come between any two steps here, or a finalizer that calls the store. What an
        # interrupt leaves in the queue is withdrawn by commit().
        if self._closed:
            raise StoreClosedError(self._engine.location)
        self._queue.append(entry)
        try:
            self._drains.ask(self._drain)
        except Exception:  # the engine is at its end, and so this is closed, or it is a bug
            if not self._closed:
                raise
        # Closed meanwhile: the engine may have been at its end, too, by the time it was told.
        if self._closed and entry.take():
            raise StoreClosedError(self._engine.location)

    def close(self) -> None:
        """Accept nothing more. What is queued will be committed; what waits for room is refused.

        If it is interrupted when it has withdrawn what it refuses, the drain answers it.
        """
        self._closed = True
        refused = [entry.waiter for entry in self._waiting_for_room() if entry.take()]
        resolve([(waiter, self._refusal()) for waiter in refused])

    def _waiting_for_room(self) -> list[QueuedUnit]:
        """The first unit that is beyond the room, and all behind it: small ones do not overtake it.

        One that is larger than all the room has it for itself.
        """
        queued, size = self._queued(), 0
        for place, entry in enumerate(queued):
            size += entry.bytes
            if place and size > QUEUE_BYTES:
                return queued[place:]
        return []

    def _refusal(self) -> Outcome[Any]:
        return Outcome.failure(StoreClosedError(self._engine.location))

    def too_late(self) -> Outcome[Any]:
        """What a unit comes to that was withdrawn at its deadline."""
        busy = StoreBusyError(
            f"the write to {self._engine.location} waited longer than timeout={self._timeout:g} seconds for another "
            "process, the server or room in the queue; nothing was stored: try again, or raise timeout"
        )
        return Outcome.failure(busy)

    def count_timeout(self) -> None:
        """Once for each unit that was withdrawn at its deadline, and for none that its caller has withdrawn."""
        self._engine.reports.waited("commit", self._timeout, timed_out=True)

    @property
    def queued(self) -> int:
        """How many writes wait for a commit, or for room in the queue."""
        return len(self._queued())

    @property
    def queued_bytes(self) -> int:
        """How much the process holds for them."""
        return sum(entry.bytes for entry in self._queued())

    def _queued(self) -> list[QueuedUnit]:
        # By way of a copy, which is made in one step: others append meanwhile.
        return [entry for entry in list(self._queue) if entry.claim]

    # -- where the engine writes --------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        try:
            await self._commit_next_group()
            await self._maintain()
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

    def _is_wanted(self) -> bool:
        """Whether a caller still waits for a commit; asked again and again until the engine may write."""
        queue = self._queue
        while queue:
            first = queue[0]  # this job alone takes entries out
            if first.claim:
                if first.deadline > time.monotonic():
                    return True
                if first.take():  # the caller would do so itself, unless its loop is busy or gone
                    self.count_timeout()
            self._pass_over(queue.popleft())
        return False

    def _pass_over(self, entry: QueuedUnit) -> None:
        """It was withdrawn, and its caller told, unless whoever did that was interrupted: so it is told here, too."""
        if not entry.waiter.done():
            resolve([(entry.waiter, self._refusal() if self._closed else self.too_late())])

    async def _commit_next_group(self) -> None:
        try:
            granted = await self._engine.acquire_write(self._is_wanted)
        except StorageError as error:
            group = self._take()
            self._answer(group, self._failures(error, group), [])
            return
        if not granted:
            return
        group = []
        outcomes: list[Outcome[list[Any]]] | None = None
        committed: list[Operation] = []
        commit = None
        try:
            try:
                group = self._take_only_put()
                told = await self._put_alone(group) if group else None
                if told is None:
                    group = []
                    group, told = await self._begin_and_take()
                    if told is None:
                        told = await self._commit_group(group) if group else []
                if len(told) != len(group):
                    raise RuntimeError(f"{len(told)} outcomes of {len(group)} units")  # of which units is not known
                committed = _committed(group, told)
                commit = self._subscriptions.announce_operations(committed)
                outcomes = told
            finally:
                self._engine.release_write()
        except BaseException as error:  # noqa: BLE001 - a bug; no caller of the group may be left waiting
            report_bug("a commit to %s failed in an unforeseen way", self._engine.location, error=error)
            if outcomes is None:  # what the bug left of the commit is not known
                unforeseen = f"the commit failed in an unforeseen way ({error!r})"
                outcomes = [Outcome.failure(StorageError(unforeseen, True)) for _ in group]
        self._answer(group, outcomes, committed, commit)

    async def _put_alone(self, group: list[QueuedUnit]) -> list[Outcome[list[Any]]] | None:
        """What became of a single put. None: nothing was done, and it is queued again, in its place."""
        (entry,) = group
        try:
            is_stored = await self._engine.put_alone(cast("PutOutput", entry.operations[0]))
        except StorageError as error:
            return self._failures(error, group)
        if is_stored:
            return [Outcome([True])]
        entry.claim.append(True)
        self._queue.appendleft(entry)
        return None

    async def _begin_and_take(self) -> tuple[list[QueuedUnit], list[Outcome[list[Any]]] | None]:
        """The next group, once it can be committed, or with what became of it if it cannot."""
        try:
            if not await self._engine.begin_commit(self._is_wanted):
                return [], []
        except StorageError as error:
            group = self._take()
            return group, self._failures(error, group)
        return self._take(), None

    async def _commit_group(self, group: list[QueuedUnit]) -> list[Outcome[list[Any]]]:
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

    def _failures(self, error: StorageError, group: list[QueuedUnit]) -> list[Outcome[list[Any]]]:
        return [Outcome.failure(error_for_caller(error, self._engine.location)) for _ in group]

    def _take(self) -> list[QueuedUnit]:
        self._taken_at = time.monotonic()
        limits = self._engine.group_limits
        queue = self._queue
        group: list[QueuedUnit] = []
        operations = size = 0
        while queue:
            entry = queue[0]
            if entry.claim:
                operations += len(entry.operations)
                size += entry.bytes
                if group and (operations > limits.operations or size > limits.bytes):
                    break
            if entry.take():
                group.append(entry)
            else:
                self._pass_over(entry)
            queue.popleft()
        return group

    def _take_only_put(self) -> list[QueuedUnit]:
        """What is queued, if it is nothing but one single put."""
        self._taken_at = time.monotonic()
        queue = self._queue
        if len(queue) == 1:
            entry = queue[0]
            if len(entry.operations) == 1 and type(entry.operations[0]) is PutOutput and entry.take():
                queue.popleft()  # and no more: others may have come by now
                return [entry]
        return []

    def _answer(
        self,
        group: list[QueuedUnit],
        outcomes: list[Outcome[list[Any]]],
        committed: list[Operation],
        commit: Commit | None = None,
    ) -> None:
        seconds = time.monotonic() - self._taken_at
        self._is_shared = len(group) > 1
        writes = sum(outcome.error is None for outcome in outcomes)
        if writes:
            self.commits += 1
            self.writes += writes
            self.committed_at = time.time()
            self.largest_group = max(self.largest_group, writes)
        try:
            for note in self._note_committed:
                note(committed)
            if commit is not None:
                self._subscriptions.committed(commit)
        finally:
            resolve([(entry.waiter, outcome) for entry, outcome in zip(group, outcomes, strict=True)])
        self._answered(group, outcomes, seconds)

    def _answered(self, group: list[QueuedUnit], outcomes: list[Outcome[list[Any]]], seconds: float) -> None:
        """The callers of a commit are told what it came to, which took so long."""
        if group and seconds >= SLOW_COMMIT:
            self._log_slow(len(group), seconds)

    def _log_slow(self, units: int, seconds: float) -> None:
        message, location = "a commit of %d units took %.1f seconds", self._engine.location
        log(logging.INFO, "slow_commit", location, message, units, seconds, units=units, seconds=seconds)

    def _refuse_all(self, error: StorageError) -> None:
        refused = []
        while self._queue:
            entry = self._queue.popleft()
            if entry.take():
                refused.append(entry)
            else:
                self._pass_over(entry)
        failures = self._failures(error, refused)
        resolve([(entry.waiter, failure) for entry, failure in zip(refused, failures, strict=True)])


def _committed(group: list[QueuedUnit], outcomes: list[Outcome[list[Any]]]) -> list[Operation]:
    operations: list[Operation] = []
    for entry, outcome in zip(group, outcomes, strict=True):
        if outcome.error is None:
            unit = entry.operations
            operations += as_committed(unit, outcome.result) if AppendOutput in map(type, unit) else unit
    return operations
