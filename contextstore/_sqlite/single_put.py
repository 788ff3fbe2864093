"""A single put, in the one statement that it takes.

Rules of this module: one call of ``execute``, over a connection that is in no transaction. SQLite itself begins and
commits around the statement, so that between the two runs nothing of ours, and nothing of a caller's. What the
statement does not do is left to ``writes``: it alone makes runs, refuses, gives other numbers than the first, and says
why.
"""

from __future__ import annotations

import sqlite3

from .._engine.attempts import attempt_text
from .._engine.operations import PutOutput
from .._values.codec import JSON, Encoded, checksum
from ..errors import StorageError
from .errors import code_of, translated
from .schema import SCHEMA_VERSION

# One call of SQLite where a transaction takes four: BEGIN IMMEDIATE, a look at what has changed, the INSERT, COMMIT.
# All that a put has to know, looked up within its own transaction: the run is there and not deleted, the store is of
# this format. A run that is missing is a NULL, which OR IGNORE passes over, as it does an output that is there already.
# VALUES and no SELECT ... FROM: SQLite keeps no journal of a statement that writes one row.
_PUT = f"""
    INSERT OR IGNORE INTO node_outputs (run, node_id, codec, checksum, written_at, size, value, tag)
    VALUES ((
        SELECT serial FROM flow_runs
        WHERE flow_run_id = ? AND deleted_at IS NULL
            AND (SELECT user_version FROM pragma_user_version) = {SCHEMA_VERSION}
    ), ?, ?, ?, ?, ?, ?, ?)
"""  # noqa: S608 - no input in it
# With the attempt that made it, of which the number is one: unless an attempt of the node has failed before.
_PUT_MADE = (
    _PUT.replace("value, tag)", "value, tag, attempt)")
    .replace("?, ?)\n", "?, ?, ?)\n")
    .replace(
        "deleted_at IS NULL\n",
        "deleted_at IS NULL\n"
        "            AND NOT EXISTS (SELECT 1 FROM failed_attempts WHERE run = serial AND node_id = ?)\n",
    )
)


def _to_run(put: str) -> str:
    """The same for one run alone, whoever has its id by now."""
    return put.replace("flow_run_id = ?", "flow_run_id = ? AND serial = ?")


_PUT_TO_RUN = _to_run(_PUT)
_PUT_MADE_TO_RUN = _to_run(_PUT_MADE)

_BEFORE_THE_COMMIT = frozenset(
    [
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR_READ,
        sqlite3.SQLITE_IOERR_SHORT_READ,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_TOOBIG,
    ]
)
"""Codes of errors after which no commit of this statement stands in the -wal.

Most are found before anything is written. Without room (FULL) the last frame, which makes the others a commit, is not
written. A frame that cannot be read (READ) is one that the last frame's checksum would need. Any other error of the
system, and want of memory, may come when that frame has been written: in its sync, or as the -shm learns of it.
(CORRUPT may come there, too, if the -shm is damaged; the usual transaction then writes the same frames anew.)
"""


def put_alone(connection: sqlite3.Connection, location: str, put: PutOutput, now: int) -> bool:
    """Commit an output by one call of the connection's ``execute``. Whether it is stored, and durable.

    False: nothing was done. There is no such run yet, or it was deleted, or the output is there already, or another
    program is writing, or the store has another format, or it failed before the commit: the usual transaction decides,
    and says what is the matter. Raises StorageError with ``outcome_unknown`` if the commit itself failed.
    """
    run, node, value, _, serial, made = put
    if made is not None:
        return _put_made(connection, location, put, now)
    row = (node, value.codec, checksum(run, node, value), now, len(value.data), value_of(value), value.tag)
    try:
        if serial is None:
            return connection.execute(_PUT, (run, *row)).rowcount == 1
        return connection.execute(_PUT_TO_RUN, (run, serial, *row)).rowcount == 1
    except (sqlite3.Error, MemoryError) as error:
        return _not_put(error, location)


def _put_made(connection: sqlite3.Connection, location: str, put: PutOutput, now: int) -> bool:
    run, node, value, _, serial, made = put
    if made is None or made.number is not None:  # it may be any other number
        return False
    attempt = attempt_text(made, 1)
    of_all = checksum(run, node, value, attempt)
    row = (node, node, value.codec, of_all, now, len(value.data), value_of(value), value.tag, attempt)
    try:
        if serial is None:
            return connection.execute(_PUT_MADE, (run, *row)).rowcount == 1
        return connection.execute(_PUT_MADE_TO_RUN, (run, serial, *row)).rowcount == 1
    except (sqlite3.Error, MemoryError) as error:
        return _not_put(error, location)


def _not_put(error: sqlite3.Error | MemoryError, location: str) -> bool:
    """False, where nothing was done; raises the rest."""
    if isinstance(error, MemoryError):  # SQLite's, too: perhaps when the last frame was written
        raise StorageError(f"could not commit to {location}: there is no memory left", outcome_unknown=True) from error
    code = code_of(error)
    if code in _BEFORE_THE_COMMIT or code & 0xFF in _BEFORE_THE_COMMIT:
        return False
    raise translated(error, location, "could not commit to", outcome_unknown=True) from error


def value_of(value: Encoded) -> str | bytes:
    """JSON goes in as TEXT, so that every SQLite tool shows it."""
    return str(value.data, "utf-8") if value.codec == JSON else value.data
