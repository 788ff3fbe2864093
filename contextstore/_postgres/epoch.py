"""The epoch in the database, which tells every client's cache when to go: see ``_engine/epochs``.

Rules of this module: it is changed last in a transaction that deletes, since all deletions wait for each other there.
Stores of earlier versions have none, and are answered for without a cache until one of their clients may add it.
"""

from __future__ import annotations

import logging
import time

from .._engine.epochs import AskedEpochs, Epoch
from .._waiting.deadline import Deadline
from ..errors import StorageError
from .connection import Connection
from .errors import ConnectionLostError
from .statements import WriteStatements

logger = logging.getLogger("contextstore")


class StoreEpoch:
    """The stored epoch, and what this object knows of it."""

    def __init__(self, location: str, connection: Connection, statements: WriteStatements) -> None:
        self._location = location
        self._connection = connection
        self._statements = statements
        self.asked = AskedEpochs(location)
        self.is_there = False
        """Whether the store has one, as far as this object knows."""

    async def find(self, deadline: Deadline) -> None:
        """Look whether there is one. A store of an earlier version gets it from the first that may give it one."""
        try:
            asked_at = time.monotonic()
            ((epoch,),) = await self._connection.fetch(deadline, self._statements.epoch)
            self.asked.note((epoch,), asked_at)
            self.is_there = True
        except StorageError as error:
            if error.code not in ("42501", "42703"):
                raise
            # 42501: a role that may not read it. 42703: no such column.
            self.is_there = error.code == "42703" and await self._add(deadline)

    async def _add(self, deadline: Deadline) -> bool:
        try:
            await self._connection.execute(deadline, self._statements.add_epoch)
        except (StorageError, ConnectionLostError) as refusal:
            # Not its owner; a standby, or only reading; another client has been reading the table for a second.
            if refusal.code not in ("42501", "25006", "55P03"):
                raise
            logger.info("%s has no epoch yet: until it has, nothing is answered from memory", self._location)
            return False
        return True

    async def change(self, deadline: Deadline) -> tuple[Epoch, Epoch] | None:
        """The epochs before and after; None: the store has none."""
        if not self.is_there:  # unless another client has given it one since, by which others now go
            self.is_there = bool(await self._connection.fetch(deadline, self._statements.has_epoch))
        if not self.is_there:
            return None
        ((before, after),) = await self._connection.fetch(deadline, self._statements.change_epoch)
        return (before,), (after,)
