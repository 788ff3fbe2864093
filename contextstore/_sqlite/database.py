"""What the engine of SQLite keeps a store in: the contract between it and a store in memory, a file, a file only read.

Rules of this module: a database says where jobs run, what a connection has to be to be read, and who may commit when.
It knows no operation and no record.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from .._engine.contract import Feed, Inline, Job
from .._engine.epochs import Epoch, Epochs
from .._engine.operations import PutOutput, Unit
from .._engine.records import EngineStats
from .._engine.reports import Reports
from .._process.own_threads import OwnThreads
from .._waiting.outcome import Outcome
from ..errors import CorruptStoreError, StorageError
from .errors import translated

T = TypeVar("T")


class Writes(Protocol):
    """The right to commit, and commits. Within a write job, in the writing connection's thread."""

    def acquire(self, wanted: Callable[[], bool]) -> bool:
        """Acquire the right to commit. Give up and return False once ``wanted()`` is false."""

    def put_alone(self, put: PutOutput) -> bool:
        """Commit a put, durably, in a statement of its own. False: nothing was done."""

    def begin(self, wanted: Callable[[], bool]) -> bool:
        """Keep out programs that do not ask for the right. Give up and return False once ``wanted()`` is false."""

    def commit(self, units: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        """Commit the units that are not refused, durably, all at once."""

    def release(self) -> None:
        """Give up the right to commit."""

    def maintain(self) -> None:
        """Periodic maintenance, after the callers have been answered."""


class NoWrites:
    """Of a database that is not open, or is only read. Raises the error at every call."""

    def __init__(self, error: Callable[[], StorageError]) -> None:
        self._error = error

    def acquire(self, _: Callable[[], bool]) -> bool:
        raise self._error()

    def put_alone(self, _: PutOutput) -> bool:
        raise self._error()

    def begin(self, _: Callable[[], bool]) -> bool:
        raise self._error()

    def commit(self, _: Sequence[Unit]) -> list[Outcome[list[Any]]]:
        raise self._error()

    def release(self) -> None:
        raise self._error()

    def maintain(self) -> None:
        raise self._error()


class Database(Protocol):
    @property
    def location(self) -> str:
        """How messages name the store."""

    @property
    def own_threads(self) -> OwnThreads: ...

    @property
    def reports(self) -> Reports: ...

    @property
    def epochs(self) -> Epochs: ...

    @property
    def feed(self) -> Feed | None:
        """What other connections write to it. None: none can."""

    @property
    def inline(self) -> Inline | None:
        """Its connections for threads of the caller's, if it has any."""

    @property
    def writes(self) -> Writes: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def post_write(self, job: Job) -> None: ...

    def post_read(self, job: Job) -> None: ...

    def post_scan(self, job: Job) -> None: ...

    # -- within a read job, or a scan: in the thread that has a connection ---------------------------------------------

    def read(self, what: str, query: Callable[[sqlite3.Connection], T]) -> T:
        """What the query gives, over the connection of this thread.

        The one way to it: what is given back is right, and SQLite's errors are translated, and name what was
        read. The query may be called more than once.
        """

    def epoch_before(self, connection: sqlite3.Connection) -> Epoch:
        """The epoch, for what is read next. Within a query."""

    def epoch_after(self, connection: sqlite3.Connection, before: Epoch) -> Epoch:
        """The epoch of what has been read since. The one before will do if it is seen to be over as soon as it is."""

    # -- on the host's loop --------------------------------------------------------------------------------------------

    async def run_aside(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """What a job gives that may take long: over a connection of its own, if there can be one, and in its thread.

        SQLite's errors are raised as they are. The job may be called more than once.
        """

    def confirm(self) -> None:
        """Raise unless what the job here has read so far is of one moment."""

    def stats(self) -> EngineStats: ...


def run_query(connection: sqlite3.Connection, location: str, what: str, query: Callable[[sqlite3.Connection], T]) -> T:
    """What the query gives; SQLite's errors are translated."""
    try:
        return query(connection)
    except sqlite3.Error as error:
        raise translated(error, location, f"could not read {what} from") from error
    except UnicodeDecodeError as error:  # in SQLite's own message, which quotes a damaged schema
        raise CorruptStoreError(f"could not read {what} from {location}: it is damaged ({error})") from error
