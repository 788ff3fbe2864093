"""Leases: taken, renewed and given back by statements that commit by themselves, and the fence before other writes.

Rules of this module: no SQL. A take-over waits until those who write under the lease have committed, by trying again:
the row that they have locked is passed over, and said to be held. An answer that was lost is known again by the id of
its write, or since the holder is one acquisition's alone.
"""

from __future__ import annotations

from .._engine.lease_operations import (
    Acquired,
    AcquireLease,
    ExpectLease,
    Held,
    LeaseOperation,
    LoadLastToken,
    ReleaseLease,
    RenewLease,
)
from .._engine.records import LeaseRecord
from .._waiting.deadline import Deadline
from ..errors import LeaseLostError, StorageError
from .errors import TransientError
from .pool import ReadPool
from .reads import end_of
from .retry import Retry
from .statements import Statements
from .write import Write, WriteContext


class LeaseReads:
    """What is read of leases."""

    def __init__(self, pool: ReadPool, statements: Statements) -> None:
        self._pool = pool
        self._statements = statements

    async def find(self, name: str) -> Held | None:
        rows = await self._pool.fetch(self._statements.find_lease, name)
        return Held(*rows[0][:5]) if rows else None

    async def page(self, prefix: str) -> list[LeaseRecord]:
        rows = await self._pool.fetch(self._statements.list_leases, prefix, end_of(prefix))
        return [LeaseRecord(*row) for row in rows]

    async def last_token(self) -> int:
        ((token,),) = await self._pool.fetch(self._statements.last_token)
        return int(token)


class Leases:
    """What is written of leases, over the connection that writes."""

    def __init__(self, context: WriteContext) -> None:
        self._location = context.location
        self._connection = context.connection
        self._statements = context.statements

    async def commit(self, operation: LeaseOperation, write: Write) -> Acquired | Held | int | bool:
        """Commit what is alone in its unit. Its result."""
        retry = Retry(self._location, write.deadline)
        in_doubt = False
        while True:
            try:
                return await self._try(operation, write, in_doubt)
            except TransientError as error:
                in_doubt = in_doubt or not error.is_refusal
                if not await retry.may_go_on(error):
                    raise retry.failure(in_doubt=in_doubt) from error
            except StorageError as error:  # refused for good
                if not in_doubt or error.outcome_unknown:
                    raise
                raise retry.unknown(error) from error

    async def _try(self, operation: LeaseOperation, write: Write, in_doubt: bool) -> Acquired | Held | int | bool:
        match operation:
            case AcquireLease():
                return await self._acquire(operation, write)
            case RenewLease(name, token, ttl):
                statement = self._statements.renew_lease
                rows = await self._connection.fetch(write.deadline, statement, name, token, ttl, write.write_id)
                if not rows:
                    raise LeaseLostError(name)
                return int(rows[0][0])
            case ReleaseLease(name, holder):
                statement = self._statements.release_lease
                return await self._connection.execute(write.deadline, statement, name, holder) == 1 or in_doubt

    async def _acquire(self, acquire: AcquireLease, write: Write) -> Acquired | Held:
        fetch, deadline = self._connection.fetch, write.deadline
        row = (acquire.name, acquire.holder, acquire.ttl, write.write_id)
        while True:
            found = await fetch(deadline, self._statements.find_lease, acquire.name)
            if not found:
                taken = await fetch(deadline, self._statements.take_free_lease, *row)
                if not taken:  # by another, between the two
                    continue
                return Acquired(*taken[0])
            *facts, writer = found[0]
            held = Held(*facts)
            if writer == write.write_id:
                return Acquired(held.token, held.expires_at)
            seen = held.token, held.expires_at
            if held.left > 0 and acquire.abandoned != seen:
                return held
            taken = await fetch(deadline, self._statements.take_over_lease, *row, *seen)
            return Acquired(*taken[0]) if taken else held  # someone writes under it, or was quicker

    # -- within a transaction of units ---------------------------------------------------------------------------------

    async def lock(self, fence: ExpectLease, deadline: Deadline) -> bool:
        """Keep the lease from being taken over until the end of the transaction. False: it was, or was given back."""
        return bool(await self._connection.fetch(deadline, self._statements.lock_lease, *fence))

    async def load_last_token(self, load: LoadLastToken, deadline: Deadline) -> None:
        await self._connection.execute(deadline, self._statements.raise_last_token, load.token)
