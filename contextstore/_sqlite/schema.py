"""What a store consists of in SQLite: tables and views, the marks of a store, and whether a file is one.

Rules of this module: it looks at what others may have made, and refuses what is not a store as it was found. It makes
a schema within one transaction; ``migrations`` brings one of before up to this one.
"""

from __future__ import annotations

import functools
import sqlite3
from typing import TypeAlias, cast

from ..errors import IncompatibleStoreError
from .connection import uri_of
from .errors import translated
from .former_schemas import FORMER_SCHEMAS, HIGHEST_ID
from .location import has_content, size_of

APPLICATION_ID = 0x43745374  # "CtSt"
SCHEMA_VERSION = 4
"""The store's format number, in the file as user_version. A version of this library writes one format, and no other."""

# The tables hold what the engine needs; the views are for people and their tools.
_SCHEMA = (
    """
CREATE TABLE flow_runs (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which runs were first seen; never given twice
    flow_run_id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,               -- microseconds since 1970, UTC, as all times here
    deleted_at INTEGER,                        -- not null: a tombstone
    marks INTEGER NOT NULL DEFAULT 0,          -- how many of its rows in node_outputs are marks of deleted outputs
    outputs INTEGER,                           -- how many rows there it has, up to the id that is counted; null: a run
    first_written_at INTEGER,                  -- of before schema 4, whose outputs are counted when somebody asks
    last_written_at INTEGER,
    state INTEGER NOT NULL DEFAULT 0,          -- 0: open, 1: completed, 2: failed, 3: cancelled
    state_changed_at INTEGER,
    begun_at INTEGER,                          -- null: it was never begun
    touched_at INTEGER,                        -- the last write to it that was none of an output
    change INTEGER,                            -- the place of the last such write among the commits: see run_news
    failures INTEGER NOT NULL DEFAULT 0,       -- how many attempts have failed, all that there ever were
    checksum INTEGER,                          -- CRC-32 over flow_run_id, begin, state, parent, attributes and error
    begun_attributes TEXT,                     -- the digest of those that its first begin gave
    parent TEXT,                               -- a flow_run_id, of a run that is there or not
    attributes TEXT,                           -- a JSON object, sorted; null: none
    error TEXT
)
    """,
    "CREATE INDEX runs_by_state ON flow_runs (state) WHERE deleted_at IS NULL",
    "CREATE INDEX runs_by_begin ON flow_runs (begun_at) WHERE begun_at IS NOT NULL AND deleted_at IS NULL",
    "CREATE INDEX runs_by_parent ON flow_runs (parent) WHERE parent IS NOT NULL AND deleted_at IS NULL",
    "CREATE INDEX runs_by_change ON flow_runs (change) WHERE change IS NOT NULL",
    """
CREATE TABLE run_attributes (
    name TEXT NOT NULL,
    value TEXT NOT NULL,                       -- as JSON
    run INTEGER NOT NULL,                      -- flow_runs.serial
    PRIMARY KEY (name, value, run)
) WITHOUT ROWID
    """,
    """
CREATE TABLE run_states (
    run INTEGER NOT NULL,                      -- flow_runs.serial
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    codec INTEGER NOT NULL,
    checksum INTEGER NOT NULL,                 -- CRC-32 over flow_run_id, key, codec and value
    written_at INTEGER NOT NULL,
    size INTEGER NOT NULL,                     -- bytes of value
    value NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID
    """,
    """
CREATE TABLE failed_attempts (
    run INTEGER NOT NULL,                      -- flow_runs.serial
    node_id TEXT NOT NULL,
    number INTEGER NOT NULL,                   -- among all attempts of the node, from 1 on
    started_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    error TEXT NOT NULL,
    inputs TEXT,                               -- the digest of the arguments; null: none was taken
    PRIMARY KEY (run, node_id, number)
) WITHOUT ROWID
    """,
    """
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    token INTEGER NOT NULL,
    holder TEXT NOT NULL,
    boot TEXT NOT NULL,                        -- since which start of the machine ends_at counts
    ends_at INTEGER NOT NULL,                  -- microseconds of a clock that nobody sets
    ttl INTEGER NOT NULL,                      -- microseconds
    expires_at INTEGER NOT NULL                -- the same as ends_at, for people
) WITHOUT ROWID
    """,
    "CREATE INDEX tombstones ON flow_runs (deleted_at) WHERE deleted_at IS NOT NULL",
    """
CREATE TABLE node_outputs (
    id INTEGER PRIMARY KEY                     -- rises with each commit; never given twice: see highest_id
        CHECK (id < 9223372036854775807),      -- SQLite would go on with any other number
    run INTEGER NOT NULL,                      -- flow_runs.serial; 0: no output, but the mark of the highest id
    node_id TEXT NOT NULL,
    codec INTEGER NOT NULL,                    -- 0: value is JSON text; 1: the bytes themselves; -1: deleted, a mark
    checksum INTEGER NOT NULL,                 -- CRC-32 over flow_run_id, node_id, codec, value, tag and attempt
    written_at INTEGER NOT NULL,
    size INTEGER NOT NULL,                     -- bytes of value
    value NOT NULL,
    tag TEXT,
    attempt TEXT,                              -- of the step that made it: JSON, [number, started_at, inputs]
    UNIQUE (run, node_id)
)
    """,
    HIGHEST_ID,
    """
CREATE TABLE append_counters (
    run INTEGER NOT NULL,                      -- flow_runs.serial
    prefix TEXT NOT NULL,
    last INTEGER NOT NULL,                     -- the number given last
    PRIMARY KEY (run, prefix)
) WITHOUT ROWID
    """,
    """
CREATE TABLE append_keys (
    run INTEGER NOT NULL,                      -- flow_runs.serial
    prefix TEXT NOT NULL,
    key TEXT NOT NULL,
    node_id TEXT NOT NULL,                     -- what was appended under the key
    PRIMARY KEY (run, prefix, key)
) WITHOUT ROWID
    """,
    """
CREATE TABLE global_values (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,                  -- stays when the global is deleted, and is counted on
    codec INTEGER,
    checksum INTEGER,                          -- CRC-32 over key, codec and value
    written_at INTEGER NOT NULL,
    size INTEGER,                              -- bytes of value
    value,                                     -- null: deleted
    expires_at INTEGER                         -- from then on it is not there; null: it stays
)
    """,
    "CREATE INDEX passing_globals ON global_values (expires_at) WHERE value IS NULL OR expires_at IS NOT NULL",
    """
CREATE TABLE store_facts (
    name TEXT PRIMARY KEY,                     -- history: what a cursor belongs to; freed_version: the highest version
    value NOT NULL                             -- of a global that was freed altogether; counted: the id up to which
                                               -- flow_runs counts outputs; last_token: that of the newest lease
) WITHOUT ROWID
    """,
    """
CREATE VIEW outputs AS
    SELECT flow_runs.flow_run_id, node_outputs.node_id, node_outputs.value,
           strftime('%Y-%m-%dT%H:%M:%fZ', node_outputs.written_at / 1e6, 'unixepoch') AS written_at,
           node_outputs.tag
    FROM flow_runs JOIN node_outputs ON node_outputs.run = flow_runs.serial
    WHERE flow_runs.deleted_at IS NULL AND node_outputs.codec >= 0
    """,
    """
CREATE VIEW run_summaries AS
    SELECT flow_run_id, CASE state WHEN 0 THEN 'open' WHEN 1 THEN 'completed' WHEN 2 THEN 'failed'
               WHEN 3 THEN 'cancelled' END AS state,
           coalesce(attributes, '{}') AS attributes, parent, failures, error,
           strftime('%Y-%m-%dT%H:%M:%fZ', begun_at / 1e6, 'unixepoch') AS begun_at,
           strftime('%Y-%m-%dT%H:%M:%fZ', state_changed_at / 1e6, 'unixepoch') AS state_changed_at
    FROM flow_runs WHERE deleted_at IS NULL
    """,
    """
CREATE VIEW globals AS
    SELECT key, value, version, strftime('%Y-%m-%dT%H:%M:%fZ', written_at / 1e6, 'unixepoch') AS written_at,
           strftime('%Y-%m-%dT%H:%M:%fZ', expires_at / 1e6, 'unixepoch') AS expires_at
    FROM global_values
    WHERE value IS NOT NULL
        AND (expires_at IS NULL OR expires_at / 1e6 > (julianday('now') - 2440587.5) * 86400.0)
    """,
)
FACTS_OF_3 = "INSERT INTO store_facts VALUES ('history', lower(hex(randomblob(16)))), ('freed_version', 0)"
FACTS_OF_4 = """
    INSERT INTO store_facts VALUES ('counted', (SELECT coalesce(max(id), 0) FROM node_outputs)), ('last_token', 0)
"""
"""What a store knows of itself since that schema."""
NEW_HISTORY = "UPDATE store_facts SET value = lower(hex(randomblob(16))) WHERE name = 'history'"
"""Of a copy, which goes its own way from then on: no cursor of before is one of it."""
NO_LEASES = "DELETE FROM leases"
"""Of a copy: its holders hold what was copied."""
KNOWN_SCHEMAS = {**FORMER_SCHEMAS, SCHEMA_VERSION: _SCHEMA}
"""By their number, as the statements that make them."""


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


def refuse_other_format(connection: sqlite3.Connection, location: str) -> None:
    """Raise if the store that is open has been migrated, by a process of a newer version, since it was opened."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        raise IncompatibleStoreError(
            f"{location} was brought to schema {version} while it was open, by a process of another version of "
            f"contextstore, and this one, which knows schema {SCHEMA_VERSION}, takes and gives nothing more: upgrade "
            "contextstore here, too, and open the store anew"
        )


def create_schema(connection: sqlite3.Connection) -> None:
    # Before the first table, and in SQLite's first journal mode: with the mark of ours in the file itself and not in a
    # WAL beside it, a file is told from another program's by a look that changes nothing.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL").close()  # so that prune can give space back bit by bit
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in (*_SCHEMA, FACTS_OF_3, FACTS_OF_4):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}").close()
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}").close()
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


_SCHEMA_QUERY = "SELECT type, name, tbl_name, sql FROM sqlite_schema"


Schema: TypeAlias = frozenset[tuple[str, str, str, str | None]]
"""Type, name, table and sql of each part, as SQLite has them."""


@functools.cache
def own_schema(version: int = SCHEMA_VERSION) -> Schema:
    """What a store of that schema consists of."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for statement in KNOWN_SCHEMAS[version]:
            connection.execute(statement)
        return schema_in(connection)
    finally:
        connection.close()


def schema_in(connection: sqlite3.Connection) -> Schema:
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
    versions = [version for version in (SCHEMA_VERSION, *FORMER_SCHEMAS) if own_schema(version) <= found]
    if versions:
        raise IncompatibleStoreError(
            f"{location} has the tables of a store, but not its marks, as after a dump (.dump) that was read into a "
            "new file; it was left as it is. To make it a store again, once all of the dump is in it, execute in it "
            f"'PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {versions[0]};', then open it and "
            "ask its check(). (That it has lost auto_vacuum is harmless: prune() frees room within it alone.)"
        )
