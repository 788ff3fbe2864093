"""The schemas that stores had before the present one, as the statements that made them.

Rules of this module: text alone. Nothing here changes any more: files that were made so are compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping

_SCHEMA_1 = (
    """
CREATE TABLE runs (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which runs were first seen; never given twice
    flow_run_id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,               -- microseconds since 1970, UTC, as all times here
    deleted_at INTEGER                         -- not null: a tombstone
)
    """,
    "CREATE INDEX tombstones ON runs (deleted_at) WHERE deleted_at IS NOT NULL",
    """
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
)
    """,
    """
CREATE TABLE global_rows (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,                  -- stays when the global is deleted, and is counted on
    codec INTEGER,
    checksum INTEGER,                          -- CRC-32 over key, codec and value
    written_at INTEGER NOT NULL,
    size INTEGER,                              -- bytes of value
    value                                      -- null: deleted
)
    """,
    """
CREATE VIEW outputs AS
    SELECT runs.flow_run_id, output_rows.node_id, output_rows.value,
           strftime('%Y-%m-%dT%H:%M:%fZ', output_rows.written_at / 1e6, 'unixepoch') AS written_at
    FROM runs JOIN output_rows ON output_rows.run = runs.serial
    WHERE runs.deleted_at IS NULL
    """,
    """
CREATE VIEW globals AS
    SELECT key, value, version, strftime('%Y-%m-%dT%H:%M:%fZ', written_at / 1e6, 'unixepoch') AS written_at
    FROM global_rows WHERE value IS NOT NULL
    """,
)

HIGHEST_ID = """
CREATE TRIGGER highest_id AFTER DELETE ON node_outputs
WHEN old.id > coalesce((SELECT max(id) FROM node_outputs), 0)
BEGIN
    -- SQLite gives max(id) + 1: so the highest id stays, as that of a mark. No put has to write or read one.
    INSERT INTO node_outputs (id, run, node_id, codec, checksum, written_at, size, value)
    VALUES (old.id, 0, '', 0, 0, 0, 0, '')
    ON CONFLICT (run, node_id) DO UPDATE SET id = excluded.id;
END
"""

_SCHEMA_2 = (
    """
CREATE TABLE flow_runs (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which runs were first seen; never given twice
    flow_run_id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,               -- microseconds since 1970, UTC, as all times here
    deleted_at INTEGER                         -- not null: a tombstone
)
    """,
    "CREATE INDEX tombstones ON flow_runs (deleted_at) WHERE deleted_at IS NOT NULL",
    """
CREATE TABLE node_outputs (
    id INTEGER PRIMARY KEY                     -- rises with each commit; never given twice: see highest_id
        CHECK (id < 9223372036854775807),      -- SQLite would go on with any other number
    run INTEGER NOT NULL,                      -- flow_runs.serial; 0: no output, but the mark of the highest id
    node_id TEXT NOT NULL,
    codec INTEGER NOT NULL,                    -- 0: value is JSON text; 1: value is the bytes themselves
    checksum INTEGER NOT NULL,                 -- CRC-32 over flow_run_id, node_id, codec and value
    written_at INTEGER NOT NULL,
    size INTEGER NOT NULL,                     -- bytes of value
    value NOT NULL,
    UNIQUE (run, node_id)
)
    """,
    HIGHEST_ID,
    """
CREATE TABLE global_values (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,                  -- stays when the global is deleted, and is counted on
    codec INTEGER,
    checksum INTEGER,                          -- CRC-32 over key, codec and value
    written_at INTEGER NOT NULL,
    size INTEGER,                              -- bytes of value
    value                                      -- null: deleted
)
    """,
    """
CREATE VIEW outputs AS
    SELECT flow_runs.flow_run_id, node_outputs.node_id, node_outputs.value,
           strftime('%Y-%m-%dT%H:%M:%fZ', node_outputs.written_at / 1e6, 'unixepoch') AS written_at
    FROM flow_runs JOIN node_outputs ON node_outputs.run = flow_runs.serial
    WHERE flow_runs.deleted_at IS NULL
    """,
    """
CREATE VIEW globals AS
    SELECT key, value, version, strftime('%Y-%m-%dT%H:%M:%fZ', written_at / 1e6, 'unixepoch') AS written_at
    FROM global_values WHERE value IS NOT NULL
    """,
)

_SCHEMA_3 = (
    """
CREATE TABLE flow_runs (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which runs were first seen; never given twice
    flow_run_id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,               -- microseconds since 1970, UTC, as all times here
    deleted_at INTEGER,                        -- not null: a tombstone
    marks INTEGER NOT NULL DEFAULT 0           -- how many of its rows in node_outputs are marks of deleted outputs
)
    """,
    "CREATE INDEX tombstones ON flow_runs (deleted_at) WHERE deleted_at IS NOT NULL",
    """
CREATE TABLE node_outputs (
    id INTEGER PRIMARY KEY                     -- rises with each commit; never given twice: see highest_id
        CHECK (id < 9223372036854775807),      -- SQLite would go on with any other number
    run INTEGER NOT NULL,                      -- flow_runs.serial; 0: no output, but the mark of the highest id
    node_id TEXT NOT NULL,
    codec INTEGER NOT NULL,                    -- 0: value is JSON text; 1: the bytes themselves; -1: deleted, a mark
    checksum INTEGER NOT NULL,                 -- CRC-32 over flow_run_id, node_id, codec, value and tag
    written_at INTEGER NOT NULL,
    size INTEGER NOT NULL,                     -- bytes of value
    value NOT NULL,
    tag TEXT,
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
    value NOT NULL                             -- of a global that was freed altogether
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
CREATE VIEW globals AS
    SELECT key, value, version, strftime('%Y-%m-%dT%H:%M:%fZ', written_at / 1e6, 'unixepoch') AS written_at,
           strftime('%Y-%m-%dT%H:%M:%fZ', expires_at / 1e6, 'unixepoch') AS expires_at
    FROM global_values
    WHERE value IS NOT NULL
        AND (expires_at IS NULL OR expires_at / 1e6 > (julianday('now') - 2440587.5) * 86400.0)
    """,
)

FORMER_SCHEMAS: Mapping[int, tuple[str, ...]] = {1: _SCHEMA_1, 2: _SCHEMA_2, 3: _SCHEMA_3}
"""By their number."""
