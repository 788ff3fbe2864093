"""Migration: the steps by which a store of an earlier version becomes one of this.

Rules of this module: a step is a text of SQL, numbered by the version that it starts from. It is one transaction, so
that a kill at any moment leaves that version or the next. It rewrites no table, and waits for none for long, since all
other clients would wait behind it. Clients that open the store at one moment each try it; one succeeds, and the others
find the old names gone, and look again.

A step renames every table that the version before writes to. So a process of that version which has the store open gets
an error at its next statement; what it had under way is waited for, and kept.
"""

from __future__ import annotations

import asyncio

from .._waiting.deadline import Deadline
from ..errors import IncompatibleStoreError, StorageError, StoreBusyError
from .connection import Connection
from .errors import STANDBY, ConnectionLostError

_STEPS = {
    # The tables are locked in the order in which the version before has them in its transactions. They keep their
    # indexes, constraints, grants and views, whatever these are called.
    1: """
        SET LOCAL lock_timeout = '{patience}ms';
        LOCK TABLE "{schema}".runs, "{schema}".output_rows, "{schema}".global_rows, "{schema}".store_format
            IN ACCESS EXCLUSIVE MODE;
        ALTER TABLE "{schema}".runs RENAME TO flow_runs;
        ALTER TABLE "{schema}".output_rows RENAME TO node_outputs;
        ALTER TABLE "{schema}".global_rows RENAME TO global_values;
        ALTER TABLE "{schema}".store_format ADD COLUMN IF NOT EXISTS deletions bigint NOT NULL DEFAULT 0;
        UPDATE "{schema}".store_format SET version = 2
    """,
}
_PATIENCE = 2.0
"""Seconds that a step waits for a lock at a time: longer than the server takes to have its own vacuum make way."""
_PAUSE = 1.0
"""Seconds that the other clients get between two tries."""
_SHORTEST_TRY = 0.2
_NO_RIGHT = "42501"
_NAME_TAKEN = "42P07"


class Migration:
    """The way of one store to this version."""

    def __init__(self, location: str, connection: Connection, schema: str) -> None:
        self._location = location
        self._connection = connection
        self._schema = schema

    def is_known(self, version: int) -> bool:
        """Whether there is a step from this version on."""
        return version in _STEPS

    async def step(self, version: int, deadline: Deadline) -> None:
        """Take one step, or find, by a StorageError 42P01, that another client has taken it."""
        while True:
            try:
                return await self._try(version, deadline)
            except StoreBusyError as error:
                if deadline.left < _SHORTEST_TRY:
                    raise StoreBusyError(
                        f"{self._location} is of version {version} and could not be migrated: other clients had its "
                        f"tables locked, by a dump, say, or a long transaction; it was left as it is: {error}",
                        code=error.code,
                    ) from error
            await asyncio.sleep(min(_PAUSE, deadline.left / 2))

    async def _try(self, version: int, deadline: Deadline) -> None:
        # A step waits for several locks at most, and has its answer before the deadline.
        patience = min(_PATIENCE, deadline.left / 8)
        step = _STEPS[version].replace("{schema}", self._schema).replace("{patience}", f"{int(patience * 1000) + 1}")
        try:
            await self._connection.execute(deadline, step)
        except ConnectionLostError as lost:
            if lost.code == STANDBY:
                raise self.refusal(version, "here it can only be read: open it once where it can be written") from lost
            raise
        except StorageError as error:
            if error.code == _NO_RIGHT:
                reason = (
                    "this role may not migrate it: open it once as the owner of its tables, with the right to create "
                    "in their schema"
                )
                raise self.refusal(version, reason, _NO_RIGHT) from error
            if error.code == _NAME_TAKEN:
                reason = "something else has a name that it needs: rename or drop that, then open it again"
                raise self.refusal(version, f"{reason} ({error.message})", _NAME_TAKEN) from error
            raise

    def refusal(self, version: int, reason: str, code: str | None = None) -> IncompatibleStoreError:
        message = f"{self._location} is of the earlier version {version}, and {reason}; it was left as it is"
        return IncompatibleStoreError(message, code=code)
