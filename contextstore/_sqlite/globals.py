"""The SQL about globals: written, and many at once read, listed, deleted, freed, and looked at for who waits for them.

Rules of this module: with its siblings, all SQL of SQLite; plain functions over a connection, in its thread. A global
that has expired is as one that is deleted, by the time that is passed in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from .._engine.operations import DeleteGlobals, Freed, FreeGlobals
from .._engine.portions import Portion
from .._engine.records import GlobalRecord, after_prefix
from .._engine.rules import GlobalChange, StoredGlobal, read_global_there
from .._process.pacing import paced
from .._values.codec import checksum
from .._waiting.outcome import Outcome
from ..errors import CorruptStoreError
from .deletion import json_array
from .errors import code_of, translated
from .reads import GLOBAL_COLUMNS, IS_THERE
from .single_put import value_of

_FREED_VERSION = "SELECT value FROM store_facts WHERE name = 'freed_version'"
_RAISE_FREED_VERSION = """
    INSERT INTO store_facts (name, value) VALUES ('freed_version', ?)
    ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)
"""
# The conditions of the index as they stand in it, or SQLite would not take it. What has a damaged version stays: nobody
# could say above which one the key would begin again.
_DELETED = """
    FROM global_values INDEXED BY passing_globals
    WHERE value IS NULL AND expires_at IS NULL AND codec IS NULL AND typeof(version) = 'integer'
"""
_EXPIRED = """
    FROM global_values INDEXED BY passing_globals
    WHERE expires_at IS NOT NULL AND expires_at BETWEEN 0 AND ? AND typeof(version) = 'integer'
"""
_DELETE = """
    UPDATE global_values
    SET codec = NULL, checksum = NULL, written_at = ?, size = NULL, value = NULL, expires_at = NULL
"""
_WRITE_GLOBAL = """
    INSERT INTO global_values (key, version, codec, checksum, written_at, size, value, expires_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET version = excluded.version, codec = excluded.codec,
        checksum = excluded.checksum, written_at = excluded.written_at, size = excluded.size,
        value = excluded.value, expires_at = excluded.expires_at
"""


# -- reads -------------------------------------------------------------------------------------------------------------


def fetch_globals(
    connection: sqlite3.Connection, location: str, keys: Sequence[str], now: int
) -> list[Outcome[GlobalRecord | None]]:
    """In the order of the keys."""
    query = f"""
        SELECT {GLOBAL_COLUMNS} FROM global_values
        WHERE key IN (SELECT value FROM json_each(?)) AND {IS_THERE}
    """  # noqa: S608 - no input in it
    try:
        rows = connection.execute(query, (json_array(keys), now)).fetchall()
    except sqlite3.DatabaseError as error:
        if len(keys) == 1 or code_of(error) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        # One by one, so that only the calls that need the damaged page are told.
        return [_fetch_global(connection, location, key, now) for key in keys]
    found = {row[0]: read_global_there(location, StoredGlobal(*row)) for row in rows}
    return [found.get(key) or Outcome(None) for key in keys]


def _fetch_global(connection: sqlite3.Connection, location: str, key: str, now: int) -> Outcome[GlobalRecord | None]:
    try:
        return fetch_globals(connection, location, [key], now)[0]
    except sqlite3.DatabaseError as error:
        return Outcome.failure(translated(error, location, f"could not read global {key!r} from"))


def list_global_keys(
    connection: sqlite3.Connection, prefix: str, after: str | None, limit: int | None, now: int
) -> list[str]:
    bounds = _bounds(prefix, after)
    query = f"SELECT key FROM global_values WHERE {bounds} AND {IS_THERE} ORDER BY key LIMIT ?"  # noqa: S608 - no input in it
    parameters = (*_bound_values(prefix, after), now, -1 if limit is None else limit)
    return [key for (key,) in paced(connection.execute(query, parameters))]


def _bounds(prefix: str, after: str | None) -> str:
    """One bound at each end, so that the index leads to the first key at once."""
    return f"key {'>' if after is not None and after >= prefix else '>='} ? AND key < ?"


def _bound_values(prefix: str, after: str | None) -> tuple[str, str | bytes]:
    first = after if after is not None and after >= prefix else prefix
    return first, after_prefix(prefix) or b""


def count_passing_globals(connection: sqlite3.Connection, now: int) -> int:
    """How many are deleted or expired."""
    ((deleted,),) = connection.execute(f"SELECT count(*) {_DELETED}").fetchall()
    ((expired,),) = connection.execute(f"SELECT count(*) {_EXPIRED}", (now,)).fetchall()
    return int(deleted + expired)


def freed_version(connection: sqlite3.Connection, location: str) -> int:
    row = connection.execute(_FREED_VERSION).fetchone()
    version = 0 if row is None else row[0]
    if type(version) is not int:
        message = f"the highest version of a freed global in {location} is damaged; restore a backup"
        raise CorruptStoreError(message)
    return version


def globals_beyond(connection: sqlite3.Connection, versions: Mapping[str, int], now: int) -> list[tuple[str, int]]:
    """Those of the globals that are there with a version above the one named, and their versions."""
    is_there = IS_THERE.replace("value", "global_values.value")
    query = f"""
        SELECT global_values.key, version FROM json_each(?) AS wanted
        CROSS JOIN global_values ON global_values.key = json_extract(wanted.value, '$[0]')
        WHERE version > json_extract(wanted.value, '$[1]') AND {is_there}
    """  # noqa: S608 - no input in it
    pairs = orjson.dumps(list(versions.items())).decode()
    return connection.execute(query, (pairs, now)).fetchall()


# -- writes ------------------------------------------------------------------------------------------------------------


def write_global(connection: sqlite3.Connection, key: str, change: GlobalChange, now: int) -> int:
    """Store what becomes of a global, if anything does. The bytes of its value."""
    if change.version is None:
        return 0
    at = now if change.written_at is None else change.written_at
    columns: tuple[Any, ...] = (None, None, at, None, None)
    size = 0
    if change.value is not None:
        value, size = change.value, len(change.value.data)
        columns = (value.codec, checksum("", key, value), at, size, value_of(value))
    connection.execute(_WRITE_GLOBAL, (key, change.version, *columns, change.expires_at))
    return size


def delete_globals(connection: sqlite3.Connection, delete: DeleteGlobals, now: int) -> int:
    if delete.prefix is not None:
        statement = f"{_DELETE} WHERE {_bounds(delete.prefix, None)} AND {IS_THERE}"
        values = _bound_values(delete.prefix, None)
        return connection.execute(statement, (now, *values, now)).rowcount
    statement = f"{_DELETE} WHERE key IN (SELECT value FROM json_each(?)) AND {IS_THERE}"  # noqa: S608 - no input in it
    return connection.execute(statement, (now, json_array(delete.keys), now)).rowcount


def free_globals(connection: sqlite3.Connection, free: FreeGlobals, now: int, max_bytes: int) -> tuple[Freed, int]:
    """What became of it, and about how many pages were written."""
    columns, limit = "id, version, CAST(coalesce(size, 0) AS INTEGER)", free.limit + 1
    found = connection.execute(f"SELECT {columns} {_DELETED} LIMIT ?", (limit,)).fetchall()
    if len(found) < limit:
        query = f"SELECT {columns} {_EXPIRED} LIMIT ?"
        found += connection.execute(query, (now, limit - len(found))).fetchall()
    portion = Portion(free.limit, max_bytes)
    some = []
    for row in found[: free.limit]:
        if not portion.takes(max(0, row[2])):
            break
        some.append(row)
    if some:
        ids = orjson.dumps([row[0] for row in some]).decode()
        connection.execute("DELETE FROM global_values WHERE id IN (SELECT value FROM json_each(?))", (ids,))
        raise_freed_version(connection, max(row[1] for row in some))
    pages = len(some) + sum(max(0, size) for _, _, size in some) // 4096
    return Freed(len(some), len(some) == len(found)), pages


def raise_freed_version(connection: sqlite3.Connection, version: int) -> None:
    connection.execute(_RAISE_FREED_VERSION, (version,))
