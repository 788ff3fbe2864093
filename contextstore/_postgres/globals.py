"""Writing globals within a transaction: locked by key, changed as ``rules`` say, deleted and freed many at a time.

Rules of this module: steps within a transaction of ``units``; nothing is tried again here. The time is the server's,
read once the rows are locked.

Who frees a global removes its row and raises the highest freed version by one commit. Who makes a row of that key anew
waits for it, and reads that version in a later statement. So no version of a key is given twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from .._engine.operations import DeleteGlobal, DeleteGlobals, Freed, FreeGlobals, LoadFreedVersion
from .._engine.portions import Portion
from .._engine.rules import GlobalChange, GlobalOperation, StoredGlobal, change_global
from .._values.codec import checksum
from .reads import end_of
from .write import NO_WRITER, Write, WriteContext

_FREE_BYTES = 4 * 2**20
"""How many bytes of values a commit frees, about."""

Seen: TypeAlias = dict[str, tuple[Any, Any]]
"""How globals were before they were written, by key: the last version, and the id of the write that gave it."""

OfGlobals: TypeAlias = GlobalOperation | DeleteGlobals | FreeGlobals | LoadFreedVersion


class Locked(NamedTuple):
    """What no other client writes until the end of the transaction."""

    stored: dict[str, StoredGlobal]
    several: list[str]
    """What ``DeleteGlobals`` deletes."""
    seen: Seen
    now: int
    freed_version: int


class Globals:
    """What a unit may have of globals, each within its transaction."""

    def __init__(self, context: WriteContext) -> None:
        self._location = context.location
        self._connection = context.connection
        self._statements = context.statements

    async def lock(self, operations: Mapping[int, OfGlobals], write: Write) -> Locked:
        """How all globals of the operations are. Of one that is to be written and is not there a row is made."""
        locked = Locked({}, [], {}, 0, 0)
        for operation in operations.values():
            if isinstance(operation, DeleteGlobals):
                await self._lock_several(operation, locked, write)
        singles = [operation for operation in operations.values() if isinstance(operation, GlobalOperation)]
        keys = sorted({operation.key for operation in singles})
        claimed = sorted({operation.key for operation in singles if not isinstance(operation, DeleteGlobal)})
        while keys:
            if claimed:
                await self._connection.execute(write.deadline, self._statements.claim_globals, claimed, NO_WRITER)
            locked = await self._lock(keys, locked, write)
            if locked.stored.keys() >= set(claimed):  # else one was freed between the two statements
                break
        return locked

    async def _lock(self, keys: list[str], before: Locked, write: Write) -> Locked:
        now, freed = before.now, before.freed_version
        for row in await self._connection.fetch(write.deadline, self._statements.lock_globals, keys):
            key, codec, data, crc, version, written_at, size, expires_at, writer, at, freed = row
            before.stored[key] = StoredGlobal(key, codec, data, crc, version, written_at, size, expires_at)
            # Of one that was freed no row tells any more that it was written. The highest freed version does.
            before.seen[key] = version or freed, writer
            now = max(now, at)
        return before._replace(now=now, freed_version=freed)

    async def _lock_several(self, delete: DeleteGlobals, locked: Locked, write: Write) -> None:
        fetch, deadline = self._connection.fetch, write.deadline
        if delete.prefix is None:
            rows = await fetch(deadline, self._statements.lock_these_globals, list(delete.keys))
        else:
            bounds = delete.prefix, end_of(delete.prefix)
            rows = await fetch(deadline, self._statements.lock_globals_below, *bounds)
        for key, version, writer in rows:
            locked.several.append(key)
            locked.seen[key] = version, writer

    def decide(self, operation: OfGlobals, locked: Locked) -> GlobalChange | None:
        """What an operation makes of its one global; None: it is about several. Raises what it is refused for."""
        if not isinstance(operation, GlobalOperation):
            return None
        stored = locked.stored.get(operation.key)
        return change_global(self._location, stored, operation, locked.now, locked.freed_version)

    async def apply(self, operation: OfGlobals, change: GlobalChange | None, locked: Locked, write: Write) -> Any:
        """Do what was decided. The operation's result."""
        match operation:
            case DeleteGlobals():
                delete = self._statements.delete_globals
                await self._connection.execute(write.deadline, delete, locked.several, write.write_id, write.now)
                return len(locked.several)
            case FreeGlobals():
                return await self._free(operation, write)
            case LoadFreedVersion():
                await self._raise_freed_version(operation.version, write)
                return None
        assert change is not None
        if change.version is not None:
            await self._write(operation.key, change, write)
        return change.result

    async def _write(self, key: str, change: GlobalChange, write: Write) -> None:
        columns: tuple[Any, ...] = (None, None, None, None)
        if change.value is not None:
            columns = (*change.value[:2], checksum("", key, change.value), len(change.value.data))
        at = write.now if change.written_at is None else change.written_at
        row = (key, change.version, write.write_id, *columns, at, change.expires_at)
        await self._connection.execute(write.deadline, self._statements.write_global, *row)

    async def _free(self, free: FreeGlobals, write: Write) -> Freed:
        """Of those alone that no other client is writing: none is waited for."""
        statement = self._statements.lock_passing_globals
        rows = (await self._connection.fetch(write.deadline, statement, free.limit + 1))[: free.limit + 1]
        portion = Portion(free.limit, _FREE_BYTES)
        freed: list[str] = []
        highest = 0
        for key, version, size in rows[: free.limit]:
            if not portion.takes(max(0, size)):
                break
            freed.append(key)
            highest = max(highest, version)
        if freed:
            await self._connection.execute(write.deadline, self._statements.free_globals, freed)
            await self._raise_freed_version(highest, write)
        written = sum(version > 0 for _, version, _ in rows[: len(freed)])  # the others were only there to be locked
        return Freed(written, len(freed) == len(rows))

    async def _raise_freed_version(self, version: int, write: Write) -> None:
        await self._connection.execute(write.deadline, self._statements.raise_freed_version, version)
