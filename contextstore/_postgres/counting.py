"""How many outputs a run has: kept in its row up to a transaction, by whoever has written some.

Rules of this module: no SQL. Counting is never waited for by a caller, and what keeps it from being done is no error of
anyone's: then the tail is longer, and lists cost more, until it is done later, or by another client.
"""

from __future__ import annotations

import logging
import random

from .._process.log import log
from ..errors import ReadOnlyStoreError, StorageError
from .connection import Connection
from .errors import TransientError
from .retry import deadline_of_call
from .statements import WriteStatements

_OUTPUTS = 256
"""After so many of them the tail is counted in."""
_STEP = 20_000
"""How many rows one statement counts, about."""
_SECONDS = 5.0


class Counting:
    """What a store object does for the counts."""

    def __init__(self, location: str, connection: Connection, statements: WriteStatements) -> None:
        self._location = location
        self._connection = connection
        self._statements = statements
        # At random, so that clients which write little before they end do their share as well.
        self._outputs = random.randrange(_OUTPUTS)  # noqa: S311 - no secret
        self._may_count = True

    def note(self, outputs: int) -> None:
        self._outputs += outputs

    @property
    def is_due(self) -> bool:
        return self._may_count and self._outputs >= _OUTPUTS

    async def fold(self) -> None:
        """Count the tail in, as far as one statement goes. With the right to write."""
        self._outputs = 0
        try:
            deadline = deadline_of_call(_SECONDS)
            await self._connection.execute(deadline, self._statements.fold_outputs, _STEP)
        except ReadOnlyStoreError as error:
            self._may_count = False
            problem = "this role may not keep counts, so lists of runs take longer: %s"
            log(logging.INFO, "not_counted", self._location, problem, error)
        except (StorageError, TransientError):
            return  # later, or by another client
