"""The tables of a store in PostgreSQL: with their indexes, their views and the rows that they begin with.

Rules of this module: text only, as ``statements`` has it. ``migration`` brings those of an older version up to these.
"""

from __future__ import annotations

SCHEMA_VERSION = 4

TABLES = """
CREATE TABLE {schema}.store_format (
    version integer NOT NULL,
    deletions bigint NOT NULL DEFAULT 0,       -- changes in each transaction that deletes runs, or outputs
    freed_version bigint NOT NULL DEFAULT 0,   -- the highest version of a global that was freed altogether
    history uuid NOT NULL,                     -- what a cursor belongs to
    cluster bigint                             -- the system identifier of the server whose transactions xact names
);
CREATE TABLE {schema}.flow_runs (
    serial bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- the order in which the store first saw the runs
    flow_run_id text COLLATE "C" NOT NULL UNIQUE,
    created_at bigint NOT NULL,                -- microseconds since 1970, UTC, as all times here
    deleted_at bigint,                         -- not null: a tombstone
    writer uuid NOT NULL,                      -- the id of the write that deleted it, or made it
    marks bigint NOT NULL DEFAULT 0,           -- how many of its rows in node_outputs are marks of deleted outputs
    outputs bigint DEFAULT 0,                  -- how many rows there it has, of counted transactions; null: a run of
    first_written_at bigint,                   -- before schema 4, whose outputs are counted when somebody asks
    last_written_at bigint,
    state smallint NOT NULL DEFAULT 0,         -- 0: open, 1: completed, 2: failed, 3: cancelled
    state_changed_at bigint,
    begun_at bigint,                           -- null: it was never begun
    touched_at bigint,                         -- the last write to it that was none of an output
    change xid8,                               -- the transaction of that write
    failures bigint NOT NULL DEFAULT 0,        -- how many attempts have failed, all that there ever were
    checksum bigint,                           -- CRC-32 over flow_run_id, begin, state, parent, attributes and error
    begun_attributes text COLLATE "C",         -- the digest of those that its first begin gave
    parent text COLLATE "C",                   -- a flow_run_id, of a run that is there or not
    attributes text COLLATE "C",               -- a JSON object, sorted; null: none
    error text COLLATE "C"
);
CREATE INDEX runs_by_state ON {schema}.flow_runs (state, serial) WHERE deleted_at IS NULL;
CREATE INDEX runs_by_begin ON {schema}.flow_runs (begun_at, serial)
    WHERE begun_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX runs_by_parent ON {schema}.flow_runs (parent, serial) WHERE parent IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX runs_by_change ON {schema}.flow_runs (change) WHERE change IS NOT NULL;
CREATE TABLE {schema}.run_attributes (
    name text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,           -- as JSON
    run bigint NOT NULL,                       -- flow_runs.serial
    PRIMARY KEY (name, value, run)
);
CREATE TABLE {schema}.run_states (
    run bigint NOT NULL,                       -- flow_runs.serial
    key text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    codec smallint NOT NULL,
    checksum bigint NOT NULL,                  -- CRC-32 over flow_run_id, key, codec and value
    written_at bigint NOT NULL,
    size integer NOT NULL,                     -- bytes of value
    writer uuid NOT NULL,                      -- the id of the write
    value bytea NOT NULL,
    PRIMARY KEY (run, key)
);
CREATE TABLE {schema}.failed_attempts (
    run bigint NOT NULL,                       -- flow_runs.serial
    node_id text COLLATE "C" NOT NULL,
    number bigint NOT NULL,                    -- among all attempts of the node, from 1 on
    started_at bigint NOT NULL,
    ended_at bigint NOT NULL,
    error text COLLATE "C" NOT NULL,
    inputs text COLLATE "C",                   -- the digest of the arguments; null: none was taken
    writer uuid NOT NULL,                      -- the id of the write
    PRIMARY KEY (run, node_id, number)
);
CREATE TABLE {schema}.leases (
    name text COLLATE "C" PRIMARY KEY,
    token bigint NOT NULL,
    holder text COLLATE "C" NOT NULL,
    ttl bigint NOT NULL,                       -- microseconds
    expires_at bigint NOT NULL,                -- by the server's clock
    writer uuid NOT NULL                       -- the id of the write that took it, or renewed it last
);
CREATE TABLE {schema}.lease_tokens (
    last bigint NOT NULL                       -- that of the newest lease
);
CREATE TABLE {schema}.counted_outputs (
    before xid8 NOT NULL                       -- flow_runs counts the outputs of the transactions before this one
);
CREATE INDEX tombstones ON {schema}.flow_runs (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE TABLE {schema}.node_outputs (
    run bigint NOT NULL,                       -- flow_runs.serial
    node_id text COLLATE "C" NOT NULL,
    codec smallint NOT NULL,                   -- 0: value is JSON text in UTF-8; 1: the bytes; -1: deleted, a mark
    checksum bigint NOT NULL,                  -- CRC-32 over flow_run_id, node_id, codec, value, tag, attempt
    written_at bigint NOT NULL,
    size integer NOT NULL,                     -- bytes of value
    writer uuid NOT NULL,                      -- the id of the write
    value bytea NOT NULL,
    tag text COLLATE "C",
    xact xid8 DEFAULT pg_current_xact_id(),    -- the transaction that wrote it; null: one of before schema 3
    attempt text COLLATE "C",                  -- of the step that made it: JSON, [number, started_at, inputs]
    PRIMARY KEY (run, node_id)
);
CREATE INDEX written_outputs ON {schema}.node_outputs (xact) WHERE xact IS NOT NULL;
CREATE TABLE {schema}.append_counters (
    run bigint NOT NULL,                       -- flow_runs.serial
    prefix text COLLATE "C" NOT NULL,
    last bigint NOT NULL,                      -- the number given last
    PRIMARY KEY (run, prefix)
);
CREATE TABLE {schema}.append_keys (
    run bigint NOT NULL,                       -- flow_runs.serial
    prefix text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    node_id text COLLATE "C" NOT NULL,         -- what was appended under the key
    PRIMARY KEY (run, prefix, key)
);
CREATE TABLE {schema}.global_values (
    key text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,                   -- stays when the global is deleted, and is counted on
    codec smallint,
    checksum bigint,                           -- CRC-32 over key, codec and value
    written_at bigint NOT NULL,
    size integer,
    writer uuid NOT NULL,
    value bytea,                               -- null: deleted
    expires_at bigint                          -- from then on it is not there; null: it stays
);
CREATE INDEX passing_globals ON {schema}.global_values (expires_at) WHERE value IS NULL OR expires_at IS NOT NULL;
CREATE VIEW {schema}.outputs AS
    SELECT flow_runs.flow_run_id, node_outputs.node_id,
           CASE codec WHEN 0 THEN convert_from(value, 'UTF8') ELSE encode(value, 'hex') END AS value,
           to_timestamp(written_at / 1e6) AS written_at, tag
    FROM {schema}.flow_runs JOIN {schema}.node_outputs ON node_outputs.run = flow_runs.serial
    WHERE flow_runs.deleted_at IS NULL AND codec >= 0;
CREATE VIEW {schema}.run_summaries AS
    SELECT flow_run_id, CASE state WHEN 0 THEN 'open' WHEN 1 THEN 'completed' WHEN 2 THEN 'failed'
               WHEN 3 THEN 'cancelled' END AS state,
           coalesce(attributes, '{}') AS attributes, parent, failures, error,
           to_timestamp(begun_at / 1e6) AS begun_at, to_timestamp(state_changed_at / 1e6) AS state_changed_at
    FROM {schema}.flow_runs WHERE deleted_at IS NULL;
CREATE VIEW {schema}.globals AS
    SELECT key, CASE codec WHEN 0 THEN convert_from(value, 'UTF8') ELSE encode(value, 'hex') END AS value, version,
           to_timestamp(written_at / 1e6) AS written_at, to_timestamp(expires_at / 1e6) AS expires_at
    FROM {schema}.global_values
    WHERE value IS NOT NULL AND (expires_at IS NULL OR to_timestamp(expires_at / 1e6) > clock_timestamp());
INSERT INTO {schema}.store_format (version, history, cluster)
    SELECT 4, gen_random_uuid(), system_identifier FROM pg_control_system();
INSERT INTO {schema}.lease_tokens VALUES (0);
INSERT INTO {schema}.counted_outputs SELECT pg_snapshot_xmin(pg_current_snapshot());
"""
