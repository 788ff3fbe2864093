"""The epoch in the database, which tells every client's cache when to go: see ``_engine/epochs``.

Rules of this module: it is changed last in a transaction that deletes, since all deletions wait for each other there.
"""

from __future__ import annotations

import time

from .._engine.epochs import AskedEpochs, Epoch
from .._waiting.deadline import Deadline
from .connection import Connection
from .statements import WriteStatements


class StoreEpoch:
    """The stored epoch, and what this object knows of it."""

    def __init__(self, location: str, connection: Connection, statements: WriteStatements) -> None:
        self._connection = connection
        self._statements = statements
        self.asked = AskedEpochs(location)

    async def ask(self, deadline: Deadline) -> None:
        asked_at = time.monotonic()
        ((epoch,),) = await self._connection.fetch(deadline, self._statements.epoch)
        self.asked.note((epoch,), asked_at)

    async def change(self, deadline: Deadline) -> tuple[Epoch, Epoch]:
        """The epochs before and after."""
        ((before, after),) = await self._connection.fetch(deadline, self._statements.change_epoch)
        return (before,), (after,)
