"""A put that commits alone: one statement, which begins, looks, writes and commits in one call into SQLite.

Rules of this module: with its siblings, all SQL of SQLite; a connection is all that it needs, and nothing of the
caller's runs between the beginning of its transaction and the end.
"""

from __future__ import annotations

import sqlite3

from .._engine.operations import PutOutput
from .._values.codec import JSON, checksum
from .errors import code_of, translated

_PUT = """
    INSERT INTO output_rows (run, node_id, codec, checksum, written_at, size, value)
    SELECT serial, ?, ?, ?, ?, ?, ? FROM runs WHERE flow_run_id = ? AND deleted_at IS NULL
    ON CONFLICT DO NOTHING
"""


def put_alone(connection: sqlite3.Connection, location: str, put: PutOutput, now: int) -> bool:
    """Whether the output is stored, and durable. False: nothing was done, and a transaction decides what is to be."""
    value = put.value
    data = value.data
    of_all = checksum(put.flow_run_id, put.node_id, value)
    column = data.decode() if value.codec == JSON else data
    try:
        cursor = connection.execute(_PUT, (put.node_id, value.codec, of_all, now, len(data), column, put.flow_run_id))
    except sqlite3.Error as error:
        code = code_of(error) & 0xFF
        if code == sqlite3.SQLITE_BUSY:
            return False
        certain = code == sqlite3.SQLITE_FULL
        raise translated(error, location, "could not commit to", outcome_unknown=not certain) from error
    return cursor.rowcount == 1
