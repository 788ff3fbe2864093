"""What all writes have in common: where they go, and how one is known again when its answer was lost.

Rules of this module: records, and what is raised between the parts of a write; no SQL, no I/O.

A network may lose an answer, so each write has an id, which is stored in the rows that it writes. A writer that gets no
answer connects anew and sends the same again under the same id: rows that bear it are its own. The server makes the
second wait for the first if that is still under way, so that no order of the two stores anything twice.
"""

from __future__ import annotations

import uuid
from typing import NamedTuple

from .._engine.serials import Serials
from .._waiting.deadline import Deadline
from .connection import Connection
from .statements import WriteStatements

NO_WRITER = uuid.UUID(int=0)
"""Stands in rows that are only there to be locked, and written afterwards."""


class WriteContext(NamedTuple):
    """The same for every write of a store object."""

    location: str
    connection: Connection
    statements: WriteStatements
    schema: str
    serials: Serials
    """Of runs that were alive when this object last looked. What is deleted since is seen by the insert."""


class Write(NamedTuple):
    """One write, over all its attempts."""

    write_id: uuid.UUID
    """Stands in each row that it writes, in the column ``writer``."""
    deadline: Deadline
    now: int
    """When its rows were written, in microseconds since 1970."""

    @classmethod
    def new(cls, deadline: Deadline, now: int) -> Write:
        return cls(uuid.uuid4(), deadline, now)


class AlreadyDoneError(Exception):
    """A row bears the id of the unit that is being tried again: it has been committed."""


class IdTakenError(Exception):
    """An id that an append was about to get was taken by a put of another client."""


class RunForgottenError(Exception):
    """A run's tombstone was removed, and so its serial; its id may be used anew."""
