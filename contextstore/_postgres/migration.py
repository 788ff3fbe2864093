"""Migration: the steps by which a store of an earlier version becomes one of this.

Rules of this module: a step is a text of SQL, numbered by the version that it starts from. It is one transaction, so
that a kill at any moment leaves that version or the next. It rewrites no table, and waits for none for long, since all
other clients would wait behind it. Clients that open the store at one moment each try it; one succeeds, and the others
find, once they have the locks, the old names gone or the number another, and look again.

A process of an earlier version which has the store open gets an error at its next statement: of version 1 since every
table that it writes to is renamed, of a later one since each statement looks at the number. What it had under way is
waited for, and kept.
"""

from __future__ import annotations

import asyncio

from .._waiting.deadline import Deadline
from ..errors import IncompatibleStoreError, StorageError, StoreBusyError
from .connection import Connection
from .errors import STANDBY, ConnectionLostError

# What a step adds is granted to each role as what it stands beside: or those who read, put and delete would be refused.
_GRANTS_AS_BEFORE = """
        DO $$
        DECLARE granted text;
        BEGIN
            FOR granted IN
                SELECT format(
                    'GRANT %s ON {tables} TO %s',
                    string_agg(DISTINCT a.privilege_type, ', '),
                    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
                )
                FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
                WHERE c.oid = '"{schema}".node_outputs'::regclass AND a.grantee <> c.relowner
                    AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
                GROUP BY a.grantee
                UNION ALL
                SELECT DISTINCT format(
                    'GRANT UPDATE ({columns}) ON "{schema}".{table} TO %s',
                    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
                )
                FROM pg_attribute AS c CROSS JOIN LATERAL aclexplode(c.attacl) AS a
                WHERE c.attrelid = '"{schema}".{table}'::regclass AND c.attname = '{column}'
                    AND a.privilege_type = 'UPDATE'
            LOOP
                EXECUTE granted;
            END LOOP;
        END $$
"""
_GRANTS_OF_3 = (
    _GRANTS_AS_BEFORE.replace("{tables}", '"{schema}".append_counters, "{schema}".append_keys')
    .replace("{table}", "store_format")
    .replace("{column}", "deletions")
    .replace("{columns}", "freed_version")
)
_GRANTS_OF_4 = (
    _GRANTS_AS_BEFORE.replace(
        "{tables}",
        '"{schema}".run_attributes, "{schema}".run_states, "{schema}".failed_attempts, "{schema}".leases, '
        '"{schema}".lease_tokens, "{schema}".counted_outputs',
    )
    .replace("{table}", "flow_runs")
    .replace("{column}", "deleted_at")
    .replace(
        "{columns}",
        "outputs, first_written_at, last_written_at, state, state_changed_at, begun_at, touched_at, change, failures, "
        "checksum, begun_attributes, parent, attributes, error",
    )
)

_STEPS = {
    # The tables are locked in the order in which the version before has them in its transactions. They keep their
    # indexes, constraints, grants and views, whatever these are called.
    1: """
        SET LOCAL lock_timeout = '{patience}ms';
        LOCK TABLE "{schema}".runs, "{schema}".output_rows, "{schema}".global_rows, "{schema}".store_format
            IN ACCESS EXCLUSIVE MODE;
        ALTER TABLE "{schema}".runs RENAME TO flow_runs;
        ALTER TABLE "{schema}".output_rows RENAME TO node_outputs;
        ALTER TABLE "{schema}".global_rows RENAME TO global_values;
        ALTER TABLE "{schema}".store_format ADD COLUMN IF NOT EXISTS deletions bigint NOT NULL DEFAULT 0;
        UPDATE "{schema}".store_format SET version = 2
    """,
    # No table gets another name: processes of version 2 look at the number in each statement. A column that is added
    # with a default of its own rewrites the table, so xact gets it afterwards, and the rows of before have none.
    2: """
        SET LOCAL lock_timeout = '{patience}ms';
        LOCK TABLE "{schema}".flow_runs, "{schema}".node_outputs, "{schema}".global_values, "{schema}".store_format
            IN ACCESS EXCLUSIVE MODE;
        SELECT 1 / (version = 2)::int FROM "{schema}".store_format;
        ALTER TABLE "{schema}".flow_runs ADD COLUMN marks bigint NOT NULL DEFAULT 0;
        ALTER TABLE "{schema}".node_outputs ADD COLUMN tag text COLLATE "C", ADD COLUMN xact xid8;
        ALTER TABLE "{schema}".node_outputs ALTER COLUMN xact SET DEFAULT pg_current_xact_id();
        CREATE INDEX written_outputs ON "{schema}".node_outputs (xact) WHERE xact IS NOT NULL;
        CREATE TABLE "{schema}".append_counters (
            run bigint NOT NULL, prefix text COLLATE "C" NOT NULL, last bigint NOT NULL, PRIMARY KEY (run, prefix)
        );
        CREATE TABLE "{schema}".append_keys (
            run bigint NOT NULL, prefix text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
            node_id text COLLATE "C" NOT NULL, PRIMARY KEY (run, prefix, key)
        );
        ALTER TABLE "{schema}".global_values ADD COLUMN expires_at bigint;
        CREATE INDEX passing_globals ON "{schema}".global_values (expires_at)
            WHERE value IS NULL OR expires_at IS NOT NULL;
        ALTER TABLE "{schema}".store_format
            ADD COLUMN freed_version bigint NOT NULL DEFAULT 0, ADD COLUMN history uuid, ADD COLUMN cluster bigint;
        CREATE OR REPLACE VIEW "{schema}".outputs AS
            SELECT flow_runs.flow_run_id, node_outputs.node_id,
                   CASE codec WHEN 0 THEN convert_from(value, 'UTF8') ELSE encode(value, 'hex') END AS value,
                   to_timestamp(written_at / 1e6) AS written_at, tag
            FROM "{schema}".flow_runs JOIN "{schema}".node_outputs ON node_outputs.run = flow_runs.serial
            WHERE flow_runs.deleted_at IS NULL AND codec >= 0;
        CREATE OR REPLACE VIEW "{schema}".globals AS
            SELECT key, CASE codec WHEN 0 THEN convert_from(value, 'UTF8') ELSE encode(value, 'hex') END AS value,
                   version, to_timestamp(written_at / 1e6) AS written_at, to_timestamp(expires_at / 1e6) AS expires_at
            FROM "{schema}".global_values
            WHERE value IS NOT NULL AND (expires_at IS NULL OR to_timestamp(expires_at / 1e6) > clock_timestamp());
        UPDATE "{schema}".store_format SET version = 3, history = gen_random_uuid();
        ALTER TABLE "{schema}".store_format ALTER COLUMN history SET NOT NULL;
    """  # noqa: S608 - no input in it
    + _GRANTS_OF_3,
    # Likewise. An index of all runs is made, by their states: about a second for a million of them.
    3: """
        SET LOCAL lock_timeout = '{patience}ms';
        LOCK TABLE "{schema}".flow_runs, "{schema}".node_outputs, "{schema}".global_values, "{schema}".store_format
            IN ACCESS EXCLUSIVE MODE;
        SELECT 1 / (version = 3)::int FROM "{schema}".store_format;
        ALTER TABLE "{schema}".flow_runs ADD COLUMN outputs bigint, ADD COLUMN first_written_at bigint,
            ADD COLUMN last_written_at bigint, ADD COLUMN state smallint NOT NULL DEFAULT 0,
            ADD COLUMN state_changed_at bigint, ADD COLUMN begun_at bigint, ADD COLUMN touched_at bigint,
            ADD COLUMN change xid8, ADD COLUMN failures bigint NOT NULL DEFAULT 0, ADD COLUMN checksum bigint,
            ADD COLUMN begun_attributes text COLLATE "C", ADD COLUMN parent text COLLATE "C",
            ADD COLUMN attributes text COLLATE "C", ADD COLUMN error text COLLATE "C";
        ALTER TABLE "{schema}".flow_runs ALTER COLUMN outputs SET DEFAULT 0;
        CREATE INDEX runs_by_state ON "{schema}".flow_runs (state, serial) WHERE deleted_at IS NULL;
        CREATE INDEX runs_by_begin ON "{schema}".flow_runs (begun_at, serial)
            WHERE begun_at IS NOT NULL AND deleted_at IS NULL;
        CREATE INDEX runs_by_parent ON "{schema}".flow_runs (parent, serial)
            WHERE parent IS NOT NULL AND deleted_at IS NULL;
        CREATE INDEX runs_by_change ON "{schema}".flow_runs (change) WHERE change IS NOT NULL;
        ALTER TABLE "{schema}".node_outputs ADD COLUMN attempt text COLLATE "C";
        CREATE TABLE "{schema}".run_attributes (
            name text COLLATE "C" NOT NULL, value text COLLATE "C" NOT NULL, run bigint NOT NULL,
            PRIMARY KEY (name, value, run)
        );
        CREATE TABLE "{schema}".run_states (
            run bigint NOT NULL, key text COLLATE "C" NOT NULL, version bigint NOT NULL, codec smallint NOT NULL,
            checksum bigint NOT NULL, written_at bigint NOT NULL, size integer NOT NULL, writer uuid NOT NULL,
            value bytea NOT NULL, PRIMARY KEY (run, key)
        );
        CREATE TABLE "{schema}".failed_attempts (
            run bigint NOT NULL, node_id text COLLATE "C" NOT NULL, number bigint NOT NULL,
            started_at bigint NOT NULL, ended_at bigint NOT NULL, error text COLLATE "C" NOT NULL,
            inputs text COLLATE "C", writer uuid NOT NULL, PRIMARY KEY (run, node_id, number)
        );
        CREATE TABLE "{schema}".leases (
            name text COLLATE "C" PRIMARY KEY, token bigint NOT NULL, holder text COLLATE "C" NOT NULL,
            ttl bigint NOT NULL, expires_at bigint NOT NULL, writer uuid NOT NULL
        );
        CREATE TABLE "{schema}".lease_tokens (last bigint NOT NULL);
        INSERT INTO "{schema}".lease_tokens VALUES (0);
        CREATE TABLE "{schema}".counted_outputs (before xid8 NOT NULL);
        INSERT INTO "{schema}".counted_outputs SELECT pg_snapshot_xmin(pg_current_snapshot());
        CREATE VIEW "{schema}".run_summaries AS
            SELECT flow_run_id, CASE state WHEN 0 THEN 'open' WHEN 1 THEN 'completed' WHEN 2 THEN 'failed'
                       WHEN 3 THEN 'cancelled' END AS state,
                   coalesce(attributes, '{}') AS attributes, parent, failures, error,
                   to_timestamp(begun_at / 1e6) AS begun_at, to_timestamp(state_changed_at / 1e6) AS state_changed_at
            FROM "{schema}".flow_runs WHERE deleted_at IS NULL;
        UPDATE "{schema}".store_format SET version = 4;
    """  # noqa: S608 - no input in it
    + _GRANTS_OF_4,
}
_PATIENCE = 2.0
"""Seconds that a step waits for a lock at a time: longer than the server takes to have its own vacuum make way."""
_PAUSE = 1.0
"""Seconds that the other clients get between two tries."""
_SHORTEST_TRY = 0.2
_NO_RIGHT = "42501"
_NAME_TAKEN = "42P07"


class Migration:
    """The way of one store to this version."""

    def __init__(self, location: str, connection: Connection, schema: str) -> None:
        self._location = location
        self._connection = connection
        self._schema = schema

    def is_known(self, version: int) -> bool:
        """Whether there is a step from this version on."""
        return version in _STEPS

    async def step(self, version: int, deadline: Deadline) -> None:
        """Take one step, or find, by a StorageError 42P01 or ``OTHER_FORMAT``, that another client has taken it."""
        while True:
            try:
                return await self._try(version, deadline)
            except StoreBusyError as error:
                if deadline.left < _SHORTEST_TRY:
                    raise StoreBusyError(
                        f"{self._location} is of version {version} and could not be migrated: other clients had its "
                        f"tables locked, by a dump, say, or a long transaction; it was left as it is: {error}",
                        code=error.code,
                    ) from error
            await asyncio.sleep(min(_PAUSE, deadline.left / 2))

    async def _try(self, version: int, deadline: Deadline) -> None:
        # A step waits for several locks at most, and has its answer before the deadline.
        patience = min(_PATIENCE, deadline.left / 8)
        step = _STEPS[version].replace("{schema}", self._schema).replace("{patience}", f"{int(patience * 1000) + 1}")
        try:
            await self._connection.execute(deadline, step)
        except ConnectionLostError as lost:
            if lost.code == STANDBY:
                raise self.refusal(version, "here it can only be read: open it once where it can be written") from lost
            raise
        except StorageError as error:
            if error.code == _NO_RIGHT:
                reason = (
                    "this role may not migrate it: open it once as the owner of its tables, with the right to create "
                    "in their schema"
                )
                raise self.refusal(version, reason, _NO_RIGHT) from error
            if error.code == _NAME_TAKEN:
                reason = "something else has a name that it needs: rename or drop that, then open it again"
                raise self.refusal(version, f"{reason} ({error.message})", _NAME_TAKEN) from error
            raise

    def refusal(self, version: int, reason: str, code: str | None = None) -> IncompatibleStoreError:
        message = f"{self._location} is of the earlier version {version}, and {reason}; it was left as it is"
        return IncompatibleStoreError(message, code=code)
