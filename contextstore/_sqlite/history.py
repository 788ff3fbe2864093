"""How far the history of a store in SQLite has come: the place of its last commit, behind which the next ones lie.

Rules of this module: with its siblings, all SQL of SQLite; plain functions over a connection, in its thread. A place is
a number: an output lies at its id, shifted, and any other change of a run behind the outputs that were there. No place
is given twice, also when what lay there is gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from ..errors import CorruptStoreError

SHIFT = 24
"""How far the id of an output is shifted to be its place."""
END_OF_CHANGES = 0x4000000000000000
"""Below it lies each change that was made: what is not, is damaged, and counts for none."""

_HIGHEST_ID = "SELECT coalesce(max(id), 0) FROM node_outputs"
_HIGHEST_CHANGE = f"""
    SELECT change FROM flow_runs WHERE change IS NOT NULL AND change < {END_OF_CHANGES} ORDER BY change DESC LIMIT 1
"""  # noqa: S608 - no input in it
_RAISE_HIGHEST_ID = """
    INSERT INTO node_outputs (id, run, node_id, codec, checksum, written_at, size, value)
    VALUES (?, 0, '', 0, 0, 0, 0, '') ON CONFLICT (run, node_id) DO UPDATE SET id = excluded.id
"""


def name_of_history(connection: sqlite3.Connection, location: str) -> str:
    """Of this store and no other, nor of a copy of it."""
    rows = connection.execute("SELECT value FROM store_facts WHERE name = 'history'").fetchall()
    if not rows or type(rows[0][0]) is not str:
        raise CorruptStoreError(f"{location} does not know its history any more; restore a backup")
    return str(rows[0][0])


def highest_id(connection: sqlite3.Connection) -> int:
    """That of the output that was committed last."""
    ((found,),) = connection.execute(_HIGHEST_ID).fetchall()
    return int(found)


def end_of_history(connection: sqlite3.Connection) -> int:
    """The place of what was committed last."""
    return max(highest_id(connection) << SHIFT, highest_change(connection))


def highest_change(connection: sqlite3.Connection) -> int:
    """The place of the last change that was none of an output."""
    (change,) = connection.execute(_HIGHEST_CHANGE).fetchone() or (0,)
    return int(change)


def next_changes(connection: sqlite3.Connection, count: int = 1) -> int:
    """The first of so many places behind all outputs and all changes so far, for changes. Within a commit.

    The next output lies behind them, also where more changes have come than its id leaves room for.
    """
    last_id = highest_id(connection)
    change = max(last_id << SHIFT, highest_change(connection)) + 1
    last = change + count - 1
    if last >> SHIFT > last_id:
        connection.execute(_RAISE_HIGHEST_ID, (last >> SHIFT,))
    return change


def forgetting(connection: sqlite3.Connection, forget: Callable[[], int]) -> int:
    """What ``forget()`` gives, which takes runs away, and with them their changes."""
    before = end_of_history(connection)
    count = forget()
    if count and end_of_history(connection) < before:
        connection.execute(_RAISE_HIGHEST_ID, ((before >> SHIFT) + 1,))
    return count
