"""What a store consists of in SQLite: tables and views, the marks of a store, migrations, and whether a file is one.

Rules of this module: it looks at what others may have made, and refuses what is not a store as it was found. It makes
a schema, or changes one, within one transaction.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Mapping
from typing import cast

from ..errors import IncompatibleStoreError
from .connection import uri_of
from .errors import translated
from .location import has_content, size_of

APPLICATION_ID = 0x43745374  # "CtSt"
SCHEMA_VERSION = 1

# The tables hold what the engine needs; the views are for people and their tools.
_SCHEMA = """
CREATE TABLE runs (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which runs were first seen; never given twice
    flow_run_id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,               -- microseconds since 1970, UTC, as all times here
    deleted_at INTEGER                         -- not null: a tombstone
);
CREATE INDEX tombstones ON runs (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE TABLE output_rows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,      -- rises with each commit; never given twice
    run INTEGER NOT NULL,                      -- runs.serial
    node_id TEXT NOT NULL,
    codec INTEGER NOT NULL,                    -- 0: value is JSON text; 1: value is the bytes themselves
    checksum INTEGER NOT NULL,                 -- CRC-32 over flow_run_id, node_id, codec and value
    written_at INTEGER NOT NULL,
    size INTEGER NOT NULL,                     -- bytes of value
    value NOT NULL,
    UNIQUE (run, node_id)
);
CREATE TABLE global_rows (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,                  -- stays when the global is deleted, and is counted on
    codec INTEGER,
    checksum INTEGER,                          -- CRC-32 over key, codec and value
    written_at INTEGER NOT NULL,
    size INTEGER,                              -- bytes of value
    value                                      -- null: deleted
);
CREATE VIEW outputs AS
    SELECT runs.flow_run_id, output_rows.node_id, output_rows.value,
           strftime('%Y-%m-%dT%H:%M:%fZ', output_rows.written_at / 1e6, 'unixepoch') AS written_at
    FROM runs JOIN output_rows ON output_rows.run = runs.serial
    WHERE runs.deleted_at IS NULL;
CREATE VIEW globals AS
    SELECT key, value, version, strftime('%Y-%m-%dT%H:%M:%fZ', written_at / 1e6, 'unixepoch') AS written_at
    FROM global_rows WHERE value IS NOT NULL;
"""

MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {}
"""From a schema version to the next: what is to be executed, within one transaction."""


def probe(path: str, location: str) -> None:
    """Raise unless the file is a store or may become one. Changes nothing, not even beside it."""
    pages_before = _pages_before(path + "-journal")
    if pages_before in (0, 1):
        return  # a store whose creation was cut off: SQLite will take it back to nothing, and we shall look again
    if size_of(path) == 1:  # SQLite would take it for an empty file, and overwrite it
        raise IncompatibleStoreError(f"{location} is not a SQLite database, or it is cut off; nothing was changed")
    has_wal = has_content(path + "-wal")
    try:
        connection = sqlite3.connect(uri_of(path, "ro") + "&immutable=1", uri=True, isolation_level=None)
        try:
            # A checkpoint that was cut off may leave a header that speaks of pages which only the WAL has yet. That is
            # sound, but here, where the WAL is not looked at, it would pass for damage.
            connection.execute(f"PRAGMA writable_schema = {int(has_wal)}").close()
            (application_id,) = connection.execute("PRAGMA application_id").fetchall()[0]
            if application_id == APPLICATION_ID:
                schema_version(connection, location)
                return
            if application_id == 0 and not has_wal and pages_before is None:
                (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0]
                if not objects:
                    return
            refuse_unmarked(connection, location)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, location, "could not open") from error
    raise IncompatibleStoreError(f"{location} is a database of another program; it was left as it is")


def _pages_before(journal: str) -> int | None:
    """How long a database was before the transaction that this journal undoes, in pages; None: it undoes none.

    https://sqlite.org/fileformat.html, 3.
    """
    try:
        with open(journal, "rb") as file:  # no process holds a lock on it
            header = file.read(20)
    except OSError:
        return None
    if len(header) < 20 or header[:8] != bytes.fromhex("d9d505f920a163d7"):
        return None
    return int.from_bytes(header[16:20])


def schema_version(connection: sqlite3.Connection, location: str) -> int:
    """The file's schema, 0 for an empty database. Raises for a database of others and for a newer schema."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchall()[0]
    (version,) = connection.execute("PRAGMA user_version").fetchall()[0]
    if application_id != APPLICATION_ID:
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0]
        if application_id != 0 or objects:
            refuse_unmarked(connection, location)
            raise IncompatibleStoreError(f"{location} is a database of another program; it was left as it is")
        return 0
    if version > SCHEMA_VERSION:
        raise IncompatibleStoreError(
            f"{location} has schema {version}, and this version of contextstore knows schemas up to {SCHEMA_VERSION}: "
            "upgrade contextstore; the file was left as it is"
        )
    (encoding,) = connection.execute("PRAGMA encoding").fetchall()[0]
    if encoding != "UTF-8":  # by some other program's dump: what is put there would not come back as it was
        raise IncompatibleStoreError(f"{location} holds its text as {encoding}, and a store holds UTF-8")
    return cast("int", version)


def migrate(connection: sqlite3.Connection, location: str) -> None:
    version = schema_version(connection, location)
    if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0][0]:
        create_schema(connection)
        return
    steps = range(version, SCHEMA_VERSION)
    if not all(step in MIGRATIONS for step in steps):
        raise IncompatibleStoreError(f"{location} has schema {version}, from which there is no way to a newer one")
    if not steps:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in steps:
            MIGRATIONS[step](connection)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}").close()
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def create_schema(connection: sqlite3.Connection) -> None:
    # Before the first table, and in SQLite's first journal mode: with the mark of ours in the file itself and not in a
    # WAL beside it, a file is told from another program's by a look that changes nothing.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL").close()  # so that prune can give space back bit by bit
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}").close()
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}").close()
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


_SCHEMA_QUERY = "SELECT type, name, tbl_name, sql FROM sqlite_schema"


@functools.cache
def own_schema() -> frozenset[tuple[str, str, str, str | None]]:
    """What a store consists of: type, name, table and sql of each part."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        create_schema(connection)
        return schema_in(connection)
    finally:
        connection.close()


def schema_in(connection: sqlite3.Connection) -> frozenset[tuple[str, str, str, str | None]]:
    return frozenset(connection.execute(_SCHEMA_QUERY).fetchall())


def refuse_unmarked(connection: sqlite3.Connection, location: str) -> None:
    """Raise, with the way out, if this is a store but for its marks: what a dump of one makes."""
    marks = [connection.execute(f"PRAGMA {name}").fetchall()[0][0] for name in ("application_id", "user_version")]
    if marks != [0, 0]:
        return
    try:
        found = schema_in(connection)
    except sqlite3.DatabaseError:  # damaged, so it may or may not be a store's
        return
    if own_schema() <= found:
        raise IncompatibleStoreError(
            f"{location} has the tables of a store, but not its marks, as after a dump (.dump) that was read into a "
            "new file; it was left as it is. To make it a store again, once all of the dump is in it, execute in it "
            f"'PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};', then open it and "
            "ask its check(). (That it has lost auto_vacuum is harmless: prune() frees room within it alone.)"
        )
