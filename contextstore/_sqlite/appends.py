"""The SQL of appends: counters and keys of runs, read and written.

Rules of this module: with its siblings, all SQL of SQLite; plain functions over a connection, in its thread. Which id
an append gets is decided in ``_engine/appending``. Whoever writes has the right to commit, so that what is looked up
stays so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from .._engine.appending import PAGE_ROWS, NextIds, end_of_ids
from .._engine.operations import Appended, AppendOutput, LoadAppendCounter, LoadAppendKey, PutOutput
from .._engine.records import AppendCounter, AppendKey
from ..errors import AlreadyExistsError, CorruptStoreError

_COUNT_ON = """
    INSERT INTO append_counters (run, prefix, last) VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET last = max(last, excluded.last)
"""
_WRITE_KEY = "INSERT INTO append_keys (run, prefix, key, node_id) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_FIND_KEY = "SELECT node_id FROM append_keys WHERE run = ? AND prefix = ? AND key = ?"
_TAKEN = "SELECT node_id FROM node_outputs WHERE run = ? AND node_id >= ? AND node_id < ? ORDER BY node_id LIMIT ?"

_ERASE_KEYS = """
    DELETE FROM append_keys WHERE (run, prefix, key) IN (
        SELECT k.run, k.prefix, k.key FROM json_each(?) AS wanted CROSS JOIN append_keys AS k ON k.run = wanted.value
        LIMIT ?
    )
"""
_ERASE_COUNTERS = """
    DELETE FROM append_counters WHERE (run, prefix) IN (
        SELECT c.run, c.prefix FROM json_each(?) AS wanted CROSS JOIN append_counters AS c ON c.run = wanted.value
        LIMIT ?
    )
"""

HAS_APPENDS = "EXISTS (SELECT 1 FROM append_counters WHERE append_counters.run = flow_runs.serial)"
"""Of a row of ``flow_runs``: whether something was appended to the run. Each of its keys has a counter."""
HAS_APPEND_KEYS = "EXISTS (SELECT 1 FROM append_keys WHERE append_keys.run = flow_runs.serial)"


class Placing:
    """Appends of one transaction that are written together: each gets its id, then all are written.

    Args:
        serial_of: the serial of a run that is not deleted, which is made if it is new, unless another is meant.
    """

    def __init__(self, connection: sqlite3.Connection, serial_of: Callable[[str, int | None], int]) -> None:
        self._connection = connection
        self._serial_of = serial_of
        self._ids: dict[tuple[int, str], NextIds] = {}
        self._keys: dict[tuple[int, str, str], str] = {}
        self.puts: list[PutOutput] = []
        """What they come to, to be inserted by the caller."""

    def place(self, append: AppendOutput) -> Appended:
        """Raises what it is refused for; then nothing is left of it."""
        serial = self._serial_of(append.flow_run_id, append.run)
        if append.key is not None:
            key = (serial, append.prefix, append.key)
            node_id = self._keys.get(key) or self._stored(key)
            if node_id is not None:
                return Appended(node_id, False)
        ids = self._next_ids(serial, append.prefix)
        while (first := ids.unseen()) is not None:
            bounds = (serial, first, end_of_ids(append.prefix), PAGE_ROWS)
            ids.see(first, [node_id for (node_id,) in self._connection.execute(_TAKEN, bounds).fetchall()])
        node_id = ids.give()
        if append.key is not None:
            self._keys[key] = node_id
        self.puts.append(PutOutput(append.flow_run_id, node_id, append.value, exist_ok=False, run=append.run))
        return Appended(node_id, True)

    def _stored(self, key: tuple[int, str, str]) -> str | None:
        row = self._connection.execute(_FIND_KEY, key).fetchone()
        return None if row is None else str(row[0])

    def _next_ids(self, serial: int, prefix: str) -> NextIds:
        ids = self._ids.get((serial, prefix))
        if ids is None:
            query = "SELECT last FROM append_counters WHERE run = ? AND prefix = ?"
            (last,) = self._connection.execute(query, (serial, prefix)).fetchone() or (0,)
            if type(last) is not int:
                raise CorruptStoreError(f"the counter of prefix {prefix!r} is damaged; restore a backup")
            ids = self._ids[serial, prefix] = NextIds(prefix, last)
        return ids

    def write(self) -> None:
        """Counters and keys of those that were placed: one row for each prefix, however many they are."""
        for (serial, prefix), ids in self._ids.items():
            self._connection.execute(_COUNT_ON, (serial, prefix, ids.last))
        for key, node_id in self._keys.items():
            self._connection.execute(_WRITE_KEY, (*key, node_id))


def load(connection: sqlite3.Connection, serial: int, operation: LoadAppendCounter | LoadAppendKey) -> None:
    """Into a run that is not deleted."""
    if isinstance(operation, LoadAppendCounter):
        connection.execute(_COUNT_ON, (serial, operation.prefix, operation.last))
        return
    flow_run_id, prefix, key, node_id = operation
    if connection.execute(_WRITE_KEY, (serial, prefix, key, node_id)).rowcount == 0:
        ((stored,),) = connection.execute(_FIND_KEY, (serial, prefix, key)).fetchall()
        if stored != node_id:
            raise AlreadyExistsError(flow_run_id, stored, same_value=False)


# -- reading -----------------------------------------------------------------------------------------------------------


_RUN = "(SELECT serial FROM flow_runs WHERE flow_run_id = ? AND deleted_at IS NULL)"
_PAGE_COUNTERS = f"""
    SELECT prefix, last, run FROM append_counters WHERE run = {_RUN} AND (prefix > ? OR ?) ORDER BY prefix LIMIT ?
"""  # noqa: S608 - no input in it
_PAGE_KEYS = f"""
    SELECT prefix, key, node_id, EXISTS (
        SELECT 1 FROM node_outputs WHERE run = append_keys.run AND node_id = append_keys.node_id AND codec >= 0
    )
    FROM append_keys WHERE run = {_RUN} AND run = ? AND (prefix, key) > (?, ?) ORDER BY prefix, key LIMIT ?
"""  # noqa: S608 - no input in it


def page_counters(
    connection: sqlite3.Connection, flow_run_id: str, after: str | None, limit: int
) -> list[AppendCounter]:
    rows = connection.execute(_PAGE_COUNTERS, (flow_run_id, after or "", after is None, limit)).fetchall()
    return [AppendCounter(*row) for row in rows]


def page_keys(
    connection: sqlite3.Connection, flow_run_id: str, run: int, after: tuple[str, str] | None, limit: int
) -> list[AppendKey]:
    bounds = flow_run_id, run, *(after or ("", "")), limit  # no key is empty
    rows = connection.execute(_PAGE_KEYS, bounds).fetchall()
    return [AppendKey(*row)._replace(has_output=bool(row[-1])) for row in rows]


# -- deleting ----------------------------------------------------------------------------------------------------------


def erase(connection: sqlite3.Connection, serials: str, limit: int) -> int:
    """Remove so many keys and counters, at most, of the runs of a JSON array of serials; returns how many."""
    gone = 0
    for statement in (_ERASE_KEYS, _ERASE_COUNTERS):
        if gone < limit:
            gone += connection.execute(statement, (serials, limit - gone)).rowcount
    return gone
