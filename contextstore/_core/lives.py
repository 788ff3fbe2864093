"""The lives of a run's id: the calls of a run object belong to one of them, whatever becomes of the id.

Rules of this module: no SQL, no values. An id that was deleted, forgotten and used anew names another run, which has
another serial; no serial is given twice. A run object is bound to the first run that one of its calls finds or makes.
A write names the serial that it means, and the engine looks at it inside the commit. What a read finds is of that run
if the run still has the id once the read is over, since it had it before, and has it without a gap. In an epoch in
which the run was seen alive nothing was deleted since: mostly one comparison tells, and no look at the engine.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from .._engine.epochs import Epoch, is_known
from .._engine.operations import AppendOutput, DeleteOutputs, FindRun, Operation, PutOutput
from .._engine.records import OutputKey, RunLife
from .._engine.run_operations import BeginRun, RecordFailure, UpdateRun, UpsertState
from .._values.codec import Encoded
from .._waiting.key_lock import KeyedLock
from ..errors import ContextStoreError, OutputDeletedError, RunDeletedError, StorageError
from .leases import Lease, expectation_of
from .session import Session

T = TypeVar("T")

_NEVER: Epoch = ()
"""Equal to no epoch that there is."""
_OF_A_LIFE = PutOutput | AppendOutput | DeleteOutputs | BeginRun | UpdateRun | RecordFailure | UpsertState
"""What may be meant for one life of an id."""
_MOST = 10_000
"""How many runs are known at most. With more it begins anew: what is forgotten is looked up again."""


class Life:
    """One life of a run's id, as a run object knows it. Any threads use it: each step here is atomic."""

    serial: int | None = None
    """Of its run. None: no call has found or made one yet."""

    def __init__(self, flow_run_id: str, lease: Lease | None = None) -> None:
        self.flow_run_id = flow_run_id
        self.lease = lease
        """The fence before all that its calls write."""
        self.epoch: Epoch = _NEVER
        """One in which its run was alive."""
        self.is_over = False
        """Whether a look has shown that its run is not alive any more. So it stays."""

    def owns(self, serial: int) -> bool:
        """Whether that run, which was found under the id, is this life's. The first one found is."""
        return bool(vars(self).setdefault("serial", serial) == serial)  # in one step: several calls may find one

    def end(self) -> None:
        self.is_over = True
        self.epoch = _NEVER

    def refuse_if_over(self) -> None:
        if self.is_over:
            raise RunDeletedError(self.flow_run_id)


class Lives:
    """What the calls of run objects add to those of their store."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._epochs = session.engine.epochs
        self._first_writes = KeyedLock()
        self._seen: dict[str, tuple[int, Epoch]] = {}
        """Runs that were seen alive, with the epoch: further run objects of their ids need not look."""

    # -- which life ---------------------------------------------------------------------------------------------------

    def recall(self, life: Life) -> int | None:
        """The serial of the life's run. None: a look is needed to know it.

        Not by an epoch that may be a second old: a new run object would be bound to a life that is over by then.
        """
        if life.serial is None and self._epochs.is_exact:
            serial, epoch = self._seen.get(life.flow_run_id, (0, _NEVER))
            if self._epochs.now[0] == epoch:
                self._note(life, serial, epoch)
        return life.serial

    def is_current(self, life: Life) -> bool:
        """Whether the life's run is alive at this moment, as far as that can be said without a look."""
        return self._epochs.is_exact and bool(self._epochs.now[0] == life.epoch)

    async def look(self, life: Life) -> RunLife | None:
        """What has the id, by the engine. The life takes note of it, and is bound by it if that is an alive run."""
        before = life.serial
        epoch, found = await self._session.read(self._session.engine.find_run, life.flow_run_id)
        self.see(life, before, epoch, found)
        return found

    def see(self, life: Life, before: int | None, epoch: Epoch, found: RunLife | None) -> bool:
        """A read has found this under the id, or nothing. Whether it is the life's run, alive.

        Args:
            before: the life's serial before the read: one that is bound since may be of a run that is newer than it.
        """
        if found is not None and not found.is_deleted and self._note(life, found.serial, epoch):
            return True
        if before is not None:
            life.end()
        return False

    async def serial(self, life: Life) -> int | None:
        """The serial of the life's run, alive or not; None: no run has the id."""
        if self.recall(life) is None:
            await self.look(life)
        return life.serial

    def _note(self, life: Life, serial: int, epoch: Epoch) -> bool:
        """A run was alive under the id, in this epoch if it is a known one. Whether it is the life's."""
        if not life.owns(serial):
            return False
        if is_known(epoch):
            life.epoch = epoch
            if len(self._seen) >= _MOST:
                self._seen.clear()
            self._seen[life.flow_run_id] = serial, epoch
        return True

    async def refuse_if_over(self, life: Life) -> None:
        """Raise RunDeletedError if the life is over, or the id is deleted."""
        found = await self.look(life)
        life.refuse_if_over()
        if found is not None and found.is_deleted:
            raise RunDeletedError(life.flow_run_id)

    # -- reads --------------------------------------------------------------------------------------------------------

    def cached(self, life: Life, key: OutputKey) -> Encoded | None:
        """An output of the life, if it can be had from memory."""
        if life.serial is None:
            self.recall(life)
        return self._session.cache.get_of(key, life.epoch)

    async def find(self, life: Life, key: OutputKey, *, refuse_deleted: bool = False) -> Encoded | None:
        """An output of the life, from the engine. Raises OutputDeletedError of a deleted one, if that is refused."""
        before = life.serial
        try:
            record = await self._session.fetch(key, refuse_deleted=refuse_deleted)
        except OutputDeletedError:
            await self.look(life)
            if life.is_over:  # it is another life's that is deleted
                return None
            raise
        if record is None:
            return None
        if self._note(life, record.run, self._session.cache.epoch_of(key, record.value)):
            return record.value
        if before is not None:
            life.end()
        return None

    async def get(self, life: Life, key: OutputKey) -> Encoded | None:
        """An output of the life, wherever it is. Without one the run may be there: then it is found all the same."""
        value = self.cached(life, key)
        if value is None and not life.is_over:
            value = await self.find(life, key)
            if value is None and life.serial is None:
                await self.look(life)
        return value

    async def read(self, life: Life | None, read: Coroutine[Any, Any, T], nothing: T) -> T:
        """What a read by the id gives, if that is of the life; else ``nothing``, as of a deleted run."""
        if life is None:
            return await read
        try:
            await self._session.ready()
            if self.recall(life) is None:
                await self.look(life)
        except BaseException:
            read.close()
            raise
        found = await read  # in any case: it says what is wrong with its arguments
        if life.serial is None:
            return nothing  # there was no run when this looked
        if not self.is_current(life):
            await self.look(life)
        return nothing if life.is_over else found

    # -- writes -------------------------------------------------------------------------------------------------------

    def commit(self, life: Life | None, operations: list[Operation]) -> Coroutine[Any, Any, list[Any]]:
        """Commit the operations as one unit, as the session does, each meant for the life's run.

        One that is not bound is bound by it to the run that has the id, or is made.
        """
        if life is None:
            return self._session.commit(operations)
        return self._commit(life, operations) if life.lease is None else self._commit_fenced(life, operations)

    async def _commit_fenced(self, life: Life, operations: list[Operation]) -> list[Any]:
        _, *results = await self._commit(life, self.fenced(life, operations))
        return results

    def fenced(self, life: Life, operations: list[Operation]) -> list[Operation]:
        """The operations, and before them what says that they go only under the life's lease, if it has one."""
        return operations if life.lease is None else [expectation_of(life.lease), *operations]

    def _commit(self, life: Life, operations: list[Operation]) -> Coroutine[Any, Any, list[Any]]:
        serial = self.recall(life)
        if serial is None:
            return self._commit_first(life, operations)
        return self._session.commit(_meant_for(serial, operations))

    async def _commit_first(self, life: Life, operations: list[Operation]) -> list[Any]:
        # One after the other: of two that are under way at once, each may come to another life of the id.
        bind = partial(self._bind_by_commit, life, operations)
        results = await self._first_writes.run_locked(self._session.callers, life.flow_run_id, bind)
        if results is not None:
            return results
        assert life.serial is not None
        return await self._session.commit(_meant_for(life.serial, operations))

    async def _bind_by_commit(self, life: Life, operations: list[Operation]) -> list[Any] | None:
        """The results. None: nothing was done, but the life is bound now."""
        if self.recall(life) is not None:
            return None
        before = self._epochs.now[0]
        try:
            *results, serial = await self._session.commit([*operations, FindRun(life.flow_run_id)])
        except (StorageError, RunDeletedError):
            raise
        except ContextStoreError:  # by what the run has, which is thereby found
            await self.look(life)
            if life.serial is None:  # and deleted since
                raise
            return None
        if serial is not None:
            # Between two looks at one epoch nothing was deleted.
            is_same = self._epochs.is_exact and self._epochs.now[0] == before
            self._note(life, serial, before if is_same else None)
        return results


def _meant_for(run: int, operations: Sequence[Operation]) -> list[Operation]:
    """The operations, with the serial of the run in those that go to a life of an id."""
    return [o._replace(run=run) if isinstance(o, _OF_A_LIFE) else o for o in operations]
