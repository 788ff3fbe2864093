"""A store that a dump has brought here from another server, and its history, which begins anew.

Rules of this module: outputs, and changes of runs, name the transactions that wrote them, and another server counts
these from elsewhere on. Those that have not begun here yet would be news for ever, so they get one that has. In commits
of bounded size, each final if interrupted: what is left to do is found by the next opening. Clients that open the store
at one moment take turns, and none watches anything before all is done.
"""

from __future__ import annotations

import logging

from .._process.log import log
from .._waiting.deadline import Deadline
from ..errors import ReadOnlyStoreError
from .connection import Connection
from .errors import STANDBY, TransientError
from .retry import deadline_of_call
from .statements import WriteStatements

_ROWS = 5000
"""How many outputs, or runs, one commit renews."""


class Adoption:
    """Makes a store one of the server that it is on."""

    def __init__(self, location: str, connection: Connection, statements: WriteStatements, timeout: float) -> None:
        self._location = location
        self._connection = connection
        self._statements = statements
        self._timeout = timeout

    async def run(self, deadline: Deadline) -> None:
        """Returns at once where there is nothing to do, or where this role, or a standby, may not do it."""
        ((cluster, present),) = await self._connection.fetch(deadline, self._statements.clusters)
        if cluster == present:
            return
        try:
            while not await self._is_done(present, deadline_of_call(self._timeout)):
                pass
        except ReadOnlyStoreError as error:
            self._log_why_not(error)
        except TransientError as error:
            if error.code != STANDBY:
                raise
            self._log_why_not(error)

    async def _is_done(self, present: int, deadline: Deadline) -> bool:
        """One commit of it."""
        async with self._connection.transaction(deadline):
            ((cluster,),) = await self._connection.fetch(deadline, self._statements.lock_format)
            if cluster == present:  # another client was quicker
                return True
            # By a statement of its own, which sees what the one before it in the turn has done.
            if await self._connection.execute(deadline, self._statements.renew_transactions, _ROWS):
                return False
            # What was counted goes by the other server's transactions. In this order: a run that is made meanwhile is
            # counted by those of here, from the first of its outputs on.
            await self._connection.execute(deadline, self._statements.forget_counts)
            if await self._connection.execute(deadline, self._statements.uncount_runs, _ROWS):
                return False
            if await self._connection.execute(deadline, self._statements.renew_changes, _ROWS):
                return False
            await self._connection.execute(deadline, self._statements.begin_history, present)
        log(logging.INFO, "adopted", self._location, "its history begins anew on this server")
        return True

    def _log_why_not(self, error: Exception) -> None:
        log(logging.INFO, "not_adopted", self._location, "it cannot be watched from here yet: %s", error)
