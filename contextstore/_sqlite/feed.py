"""What other connections have written to a store's file, for the callers that wait for it.

Rules of this module: to look is a matter of microseconds and never waits for a disk, while a hop to a worker costs two
thread wake-ups. So it has a connection of its own, on the host's loop.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence

from .._engine.epochs import Epochs, is_known
from .._engine.records import Cursor, OutputKey, Wanted
from ..errors import StorageError
from .clock import now
from .connection import set_up_reader, uri_of
from .deletion import alive_among, deleted_among
from .errors import code_of, translated
from .globals import globals_beyond
from .location import StoreFile
from .run_news import changed_since
from .schema import refuse_other_format

POLL_SECONDS = (0.001, 0.03)
"""How often to look, at first and in the end."""

_NEWS_ROWS = 5000
_NEWS = """
    SELECT node_outputs.id, flow_runs.flow_run_id, node_outputs.node_id
    FROM node_outputs JOIN flow_runs ON flow_runs.serial = node_outputs.run
    WHERE node_outputs.id > ? ORDER BY node_outputs.id LIMIT ?
"""


class FileFeed:
    """Of a file that this object may write to, too."""

    poll_seconds = POLL_SECONDS

    def __init__(self, file: StoreFile, epochs: Epochs) -> None:
        self._file = file
        self._epochs = epochs
        self._connection: sqlite3.Connection | None = None

    def deletion_epoch(self) -> int | None:
        return known_epoch(self._epochs)

    async def poll(self, cursor: Cursor | None, wanted: Callable[[], Wanted]) -> tuple[Cursor, list[OutputKey]]:
        self._file.check()
        try:
            return news_since(cursor, self._poll_connection())
        except sqlite3.Error as error:
            raise self._failure(error, "could not look for news in") from error

    async def globals_beyond(self, versions: Mapping[str, int]) -> Sequence[tuple[str, int]] | None:
        try:
            return look_for_globals(self._poll_connection(), versions)
        except sqlite3.Error as error:
            raise self._failure(error, "could not look for globals in") from error

    async def changed_runs(self, place: Cursor | None) -> tuple[Cursor, list[str]] | None:
        try:
            return look_for_changed_runs(self._poll_connection(), place)
        except sqlite3.Error as error:
            raise self._failure(error, "could not look for changed runs in") from error

    async def deleted_among(self, flow_run_ids: Sequence[str]) -> list[str]:
        try:
            return deleted_among(self._poll_connection(), flow_run_ids)
        except sqlite3.Error as error:
            raise self._failure(error, "could not look for deleted runs in") from error

    async def alive_among(self, serials: Sequence[int]) -> list[int]:
        try:
            return alive_among(self._poll_connection(), serials)
        except sqlite3.Error as error:
            raise self._failure(error, "could not look for deleted runs in") from error

    def _failure(self, error: sqlite3.Error, doing: str) -> StorageError:
        return failure_of_look(error, self._connection, self._file.location, doing)

    def _poll_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            uri = uri_of(self._file.path, "rw")
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0.0)
            set_up_reader(self._connection, 0)
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def news_since(cursor: Cursor | None, connection: sqlite3.Connection) -> tuple[Cursor, list[OutputKey]]:
    """Outputs that were committed after the cursor, not too many at once, and the cursor behind them; None: from now.

    A cursor is the last row's id, and a fingerprint of the file as that connection saw it; None: look in any case.
    """
    try:
        fingerprint = _fingerprint(connection)
        if cursor is None:
            ((last,),) = connection.execute("SELECT coalesce(max(id), 0) FROM node_outputs").fetchall()
            return (last, fingerprint), []
        last, last_fingerprint = cursor
        if fingerprint == last_fingerprint:
            return cursor, []
        rows = connection.execute(_NEWS, (last, _NEWS_ROWS)).fetchall()
    except sqlite3.Error as error:
        if cursor is not None and code_of(error) & 0xFF == sqlite3.SQLITE_BUSY:  # another process recovers the file
            return cursor, []
        raise
    new_cursor = (rows[-1][0] if rows else last, fingerprint if len(rows) < _NEWS_ROWS else None)
    return new_cursor, [(flow_run_id, node_id) for _, flow_run_id, node_id in rows]


def look_for_globals(connection: sqlite3.Connection, versions: Mapping[str, int]) -> Sequence[tuple[str, int]] | None:
    """As the feed's ``globals_beyond``."""
    try:
        return globals_beyond(connection, versions, now())
    except sqlite3.Error as error:
        if code_of(error) & 0xFF == sqlite3.SQLITE_BUSY:  # another process recovers the file
            return None
        raise


def look_for_changed_runs(connection: sqlite3.Connection, place: Cursor | None) -> tuple[Cursor, list[str]] | None:
    """As the feed's ``changed_runs``."""
    try:
        return changed_since(connection, place)
    except sqlite3.Error as error:
        if code_of(error) & 0xFF == sqlite3.SQLITE_BUSY:  # another process recovers the file
            return None
        raise


def failure_of_look(
    error: sqlite3.Error, connection: sqlite3.Connection | None, location: str, doing: str
) -> StorageError:
    """What it means. Raises IncompatibleStoreError if the store has another format, with other names of its tables."""
    with contextlib.suppress(sqlite3.Error):
        if connection is not None:
            refuse_other_format(connection, location)
    return translated(error, location, doing)


def _fingerprint(connection: sqlite3.Connection) -> int:
    """What changes with every commit of another connection. It needs no disk access."""
    ((version,),) = connection.execute("PRAGMA data_version").fetchall()
    return int(version)


def known_epoch(epochs: Epochs) -> int | None:
    """The present epoch if it is one to compare deletions by."""
    epoch = epochs.now[0] if epochs.is_exact else None
    return epoch if is_known(epoch) else None
