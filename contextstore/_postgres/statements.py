"""The SQL for PostgreSQL: the statements of a store, on the tables that ``tables`` has.

Rules of this module: text only, and all SQL of PostgreSQL but BEGIN and its like. ``{schema}`` is a checked name;
what a user gives goes in as a parameter. The words are those that other servers of this protocol know, too.
"""

from __future__ import annotations

import dataclasses

from .append_statements import AppendStatements
from .attempt_statements import AttemptReads, AttemptStatements
from .counting_statements import CountingStatements
from .fact_statements import (
    CHECK_ATTRIBUTES,
    CHECK_FACTS,
    MISSING_ATTRIBUTES,
    FactStatements,
)
from .global_statements import IS_THERE, NOW, GlobalReads, GlobalWrites
from .idle_statements import IdleReads, IdleWrites
from .lease_statements import LeaseStatements
from .mark_statements import MarkStatements
from .part_statements import (
    FIRST_NODE_IDS,
    LAST_NODE_IDS,
    LIST_OUTPUTS,
    LIST_OUTPUTS_REVERSED,
    NEXT_NODE_ID,
    NEXT_NODE_ID_REVERSED,
)
from .remain_statements import HAS_REST, RemainStatements
from .run_listing_statements import FACT_COLUMNS, RunListingStatements
from .run_news_statements import RunNewsReads, RunNewsWrites
from .run_state_statements import StateReads, StateWrites
from .tables import SCHEMA_VERSION, TABLES

STILL_BUSY = "SELECT pid FROM pg_stat_activity WHERE pid = ANY($1::int[])"

_IS_SAME = f"(SELECT (version = {SCHEMA_VERSION})::int FROM {{schema}}.store_format)"  # noqa: S608 - a constant of ours, no input
_IS_KNOWN = f"1 / coalesce({_IS_SAME}, 0) = 1"
"""Refuses a statement, by ``OTHER_FORMAT``, where the store has been migrated since it was opened.

It stands in every statement that reads or writes what users have stored. PostgreSQL looks at it once for each call, and
before anything else. A statement sees it only once it has locked its tables, and a migration waits for these locks. So
nothing is committed to tables of another version, in a transaction neither.
"""
OTHER_FORMAT = "22012"
"""The SQLSTATE of a division by zero, which nothing else here divides by."""

_OUTPUT_OF_KEY = "SELECT * FROM {schema}.node_outputs WHERE run = r.serial AND node_id = t.node_id OFFSET 0"
"""An output by its whole key, for each of many keys ``t`` with their runs ``r``.

Joined as usual, it was looked for among all outputs of its run where the planner had seen that most runs had a few: 64
gets from a run of 3,000 took it 30 ms instead of 0.3. OFFSET 0 keeps it from taking the two conditions apart.
"""

_SNAPSHOT = """
    (SELECT CASE WHEN pg_is_in_recovery() THEN format('%1$s:%1$s:', pg_snapshot_xmin(s))::pg_snapshot ELSE s END
        FROM pg_current_snapshot() AS s)
"""
"""The present snapshot: which transactions are committed. A standby does not say which are open, but for the first."""

_WINDOW = """
    SELECT xact::text::bigint, run, node_id, nth, is_watched FROM (
        SELECT xact, run, node_id, row_number() OVER (ORDER BY xact, run, node_id) AS nth, count(*) OVER () AS total,
            is_news AND ($4::bigint IS NULL OR run = $4)
                AND (node_id >= $5 AND node_id < $6 OR node_id = $7::text) AS is_watched
        FROM ({rows} LIMIT $8) AS looked_at
    ) AS page WHERE {is_known} AND (is_watched OR nth = total) ORDER BY nth
"""
"""The keys of the next so many rows behind ($1, $2, $3): of those that are watched, and of the last one."""


@dataclasses.dataclass(frozen=True)
class WriteStatements(
    AppendStatements,
    AttemptStatements,
    CountingStatements,
    FactStatements,
    GlobalWrites,
    IdleWrites,
    MarkStatements,
    LeaseStatements,
    RemainStatements,
    RunNewsWrites,
    StateWrites,
):
    """What is said over the connection that writes."""

    has_schema: str = "SELECT FROM pg_namespace WHERE nspname = $1"
    create_schema: str = "CREATE SCHEMA IF NOT EXISTS {schema}"
    create_tables: str = TABLES  # one string without parameters is one transaction
    format: str = "SELECT version FROM {schema}.store_format"
    epoch: str = "SELECT deletions FROM {schema}.store_format"
    # Not the next number: after a fail-over that lost something it would come again for another deletion.
    change_epoch: str = """
        UPDATE {schema}.store_format AS f
        SET deletions = greatest(f.deletions + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
        FROM (SELECT deletions FROM {schema}.store_format FOR UPDATE) AS before
        RETURNING before.deletions, f.deletions
    """
    clusters: str = """
        SELECT cluster, (SELECT system_identifier FROM pg_control_system()) FROM {schema}.store_format
    """
    lock_format: str = "SELECT cluster FROM {schema}.store_format FOR UPDATE"
    # Those that would count as not yet begun here.
    renew_transactions: str = """
        UPDATE {schema}.node_outputs SET xact = pg_current_xact_id()
        WHERE {is_known} AND (run, node_id) IN (
            SELECT run, node_id FROM {schema}.node_outputs
            WHERE xact >= pg_snapshot_xmax(pg_current_snapshot()) LIMIT $1
        )
    """
    begin_history: str = """
        UPDATE {schema}.store_format SET cluster = $1, history = gen_random_uuid() WHERE {is_known}
    """
    settings: str = """
        SELECT name, setting FROM pg_settings WHERE name IN
            ('server_version_num', 'fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names',
                'server_encoding')
    """
    has_standby: str = "SELECT FROM pg_stat_replication LIMIT 1"
    # -- writes ------------------------------------------------------------------------------------------------------
    # Sorted, so that two that overlap wait for each other in one order and not in a circle. The lock on the run, which
    # all puts share, keeps prune from deleting it as idle while an output of it is being committed. The run goes by its
    # name as well: after a fail-over that lost something, its serial may be another's. The serials come by themselves,
    # each once: the server would read an array's text anew for each run that it compares.
    insert_outputs: str = """
        INSERT INTO {schema}.node_outputs (run, node_id, codec, checksum, written_at, size, writer, value, tag)
        SELECT t.run, t.node_id, t.codec, t.checksum, t.written_at, length(t.value), $9, t.value, t.tag
        FROM unnest(
            $1::text::bigint[], $2::text::text[], $3::text::smallint[], $4::text::bigint[], $5::bytea[],
            $6::text::bigint[], $7::text::text[], $8::text[]
        ) AS t (run, node_id, codec, checksum, value, written_at, flow_run_id, tag)
        JOIN (
            SELECT serial, flow_run_id FROM {schema}.flow_runs
            WHERE serial = ANY($10::bigint[]) AND deleted_at IS NULL ORDER BY serial FOR KEY SHARE
        ) AS alive ON alive.serial = t.run AND alive.flow_run_id = t.flow_run_id
        WHERE {is_known} ORDER BY t.run, t.node_id
        ON CONFLICT (run, node_id) DO NOTHING RETURNING run, node_id
    """
    # The same for one output alone, which is a fifth quicker.
    insert_output: str = """
        INSERT INTO {schema}.node_outputs (run, node_id, codec, checksum, written_at, size, writer, value, tag)
        SELECT serial, $2, $3, $4, $6, length($5::bytea), $9, $5, $8 FROM {schema}.flow_runs
        WHERE {is_known} AND serial = $1 AND flow_run_id = $7 AND deleted_at IS NULL FOR KEY SHARE
        ON CONFLICT (run, node_id) DO NOTHING RETURNING run, node_id
    """
    find_conflicts: str = """
        SELECT r.serial IS NOT NULL, r.deleted_at IS NOT NULL, o.writer, o.size, o.codec
        FROM unnest($1::bigint[], $2::text[], $3::text[]) WITH ORDINALITY AS t (run, node_id, flow_run_id, nth)
        LEFT JOIN {schema}.flow_runs r ON r.serial = t.run AND r.flow_run_id = t.flow_run_id
        LEFT JOIN LATERAL ({output_of_key}) AS o ON true
        WHERE {is_known} ORDER BY t.nth
    """
    stored_values: str = """
        SELECT o.codec, o.value, o.checksum, o.size, o.tag, o.attempt
        FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS t (serial, node_id, nth)
        CROSS JOIN LATERAL (SELECT t.serial) AS r
        LEFT JOIN LATERAL ({output_of_key}) AS o ON true
        WHERE {is_known} ORDER BY t.nth
    """
    find_runs: str = """
        SELECT flow_run_id, serial, deleted_at IS NOT NULL FROM {schema}.flow_runs
        WHERE {is_known} AND flow_run_id = ANY($1::text[])
    """
    insert_runs: str = """
        INSERT INTO {schema}.flow_runs (flow_run_id, created_at, writer)
        SELECT flow_run_id, $3, $2 FROM unnest($1::text[]) AS t (flow_run_id) WHERE {is_known}
        ON CONFLICT (flow_run_id) DO NOTHING RETURNING flow_run_id, serial
    """
    lock_run: str = """
        SELECT serial, deleted_at IS NOT NULL, writer FROM {schema}.flow_runs
        WHERE {is_known} AND flow_run_id = $1 FOR NO KEY UPDATE
    """
    # Run by run, even if the planner would do otherwise.
    extents: str = """
        SELECT t.serial, c.outputs, c.bytes, c.first, c.last
        FROM unnest($1::bigint[]) AS t (serial) CROSS JOIN LATERAL (
            SELECT count(*) AS outputs, sum(size) AS bytes, min(written_at) AS first, max(written_at) AS last
            FROM {schema}.node_outputs WHERE run = t.serial
        ) AS c WHERE {is_known}
    """
    mark_deleted: str = """
        UPDATE {schema}.flow_runs SET deleted_at = $3, writer = $2, change = pg_current_xact_id()
        WHERE {is_known} AND serial = ANY($1::bigint[])
    """
    find_run: str = """
        SELECT serial, deleted_at IS NOT NULL, (SELECT deletions FROM {schema}.store_format) FROM {schema}.flow_runs
        WHERE {is_known} AND flow_run_id = $1
    """
    deleted_serials: str = """
        SELECT serial, flow_run_id FROM {schema}.flow_runs
        WHERE {is_known} AND flow_run_id = ANY($1::text[]) AND deleted_at IS NOT NULL
    """
    # Each run by itself: of all together the rows would be sorted before the first is taken.
    remove_outputs: str = """
        DELETE FROM {schema}.node_outputs WHERE {is_known} AND (run, node_id) IN (
            SELECT run, node_id FROM (
                SELECT run, node_id, sum(size) OVER (ORDER BY run, node_id) - size AS before FROM (
                    SELECT p.run, p.node_id, p.size FROM unnest($1::bigint[]) AS t (serial) CROSS JOIN LATERAL (
                        SELECT run, node_id, size FROM {schema}.node_outputs
                        WHERE run = t.serial ORDER BY node_id LIMIT $2
                    ) AS p LIMIT $2
                ) AS page
            ) AS sized WHERE before < $3
        ) RETURNING size, codec >= 0
    """
    # What is kept of a run beside its outputs goes behind them, in the order of these tables.
    load_run: str = """
        INSERT INTO {schema}.flow_runs (flow_run_id, created_at, deleted_at, writer, change)
        SELECT $1::text, $2::bigint, $3::bigint, $4::uuid, CASE WHEN $3 IS NOT NULL THEN pg_current_xact_id() END
        WHERE {is_known}
        ON CONFLICT (flow_run_id) DO NOTHING
    """
    # Waits for the puts that are under way to this run, and they for it: they see then that it is deleted, or gone.
    lock_deleted: str = """
        SELECT serial FROM {schema}.flow_runs
        WHERE {is_known} AND flow_run_id = $1 AND serial = coalesce($2::bigint, serial) AND deleted_at IS NOT NULL
        FOR UPDATE
    """
    # First locked, then looked at again by another statement: a put that was under way may have left a row in between.
    # From where the last look ended, so that no call goes again through what was forgotten before.
    lock_forgettable: str = """
        SELECT serial, deleted_at FROM {schema}.flow_runs WHERE {is_known} AND serial IN (
            SELECT serial FROM {schema}.flow_runs r WHERE deleted_at >= $1 AND deleted_at < $2 AND NOT {has_rest}
            ORDER BY deleted_at LIMIT $3
        ) ORDER BY serial FOR UPDATE
    """
    forget_runs: str = """
        DELETE FROM {schema}.flow_runs AS r WHERE {is_known} AND serial = ANY($1::bigint[]) AND NOT {has_rest}
    """


@dataclasses.dataclass(frozen=True)
class Statements(AttemptReads, GlobalReads, IdleReads, RunListingStatements, RunNewsReads, StateReads, WriteStatements):
    """All statements of a store. Made by ``statements_for``, which puts the schema's name into the texts."""

    fetch_outputs: str = """
        SELECT t.nth, (SELECT deletions FROM {schema}.store_format), o.codec, o.value, o.checksum, o.written_at, o.size,
            o.run, o.tag, o.attempt
        FROM unnest($1::text::text[], $2::text::text[]) WITH ORDINALITY AS t (flow_run_id, node_id, nth)
        CROSS JOIN LATERAL (
            SELECT serial FROM {schema}.flow_runs
            WHERE flow_run_id = t.flow_run_id AND deleted_at IS NULL OFFSET 0
        ) AS r
        CROSS JOIN LATERAL ({output_of_key}) AS o
        WHERE {is_known}
    """
    exists: str = """
        SELECT FROM {schema}.flow_runs r JOIN {schema}.node_outputs o ON o.run = r.serial
        WHERE {is_known} AND r.flow_run_id = $1 AND r.deleted_at IS NULL AND o.node_id = $2 AND o.codec >= 0
    """
    first_node_ids: str = FIRST_NODE_IDS
    last_node_ids: str = LAST_NODE_IDS
    list_outputs: str = LIST_OUTPUTS
    list_outputs_reversed: str = LIST_OUTPUTS_REVERSED
    next_node_id_in_part: str = NEXT_NODE_ID
    last_node_id_in_part: str = NEXT_NODE_ID_REVERSED
    page_outputs: str = """
        SELECT node_id, codec, value, checksum, written_at, size, run, tag, attempt FROM (
            SELECT *, sum(size) OVER (ORDER BY node_id) - size AS before FROM (
                SELECT * FROM {schema}.node_outputs
                WHERE run = (
                    SELECT serial FROM {schema}.flow_runs
                    WHERE flow_run_id = $1 AND deleted_at IS NULL AND serial = coalesce($2::bigint, serial)
                ) AND node_id > $3 AND (codec >= 0 OR $6)
                ORDER BY node_id LIMIT $4
            ) AS page
        ) AS sized WHERE {is_known} AND before < $5 ORDER BY node_id
    """
    # Without the values, of which one could not be read.
    next_node_id: str = """
        SELECT node_id FROM {schema}.node_outputs
        WHERE {is_known} AND node_id > $2
            AND run = (SELECT serial FROM {schema}.flow_runs WHERE flow_run_id = $1 AND deleted_at IS NULL)
        ORDER BY node_id LIMIT 1
    """
    check_facts: str = CHECK_FACTS
    missing_attributes: str = MISSING_ATTRIBUTES
    check_attributes: str = CHECK_ATTRIBUTES
    end_of_page: str = """
        SELECT max(serial) FROM (
            SELECT serial FROM {schema}.flow_runs WHERE serial > $1 ORDER BY serial LIMIT $2
        ) AS page WHERE {is_known}
    """
    count_page: str = """
        SELECT count(*) FROM {schema}.flow_runs
        WHERE {is_known} AND serial > $1 AND serial <= $2 AND deleted_at IS NULL
    """
    measure_runs: str = """
        SELECT count(*), coalesce(sum(c.outputs), 0), coalesce(sum(c.bytes), 0) FROM (
            SELECT serial FROM {schema}.flow_runs WHERE flow_run_id = ANY($1::text[]) AND deleted_at IS NULL OFFSET 0
        ) AS r CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE codec >= 0) AS outputs, sum(size) AS bytes
            FROM {schema}.node_outputs WHERE run = r.serial
        ) AS c WHERE {is_known}
    """
    count_runs: str = "SELECT count(*) FROM {schema}.flow_runs WHERE {is_known} AND deleted_at IS NULL"
    deleted_among: str = """
        SELECT flow_run_id FROM {schema}.flow_runs
        WHERE {is_known} AND flow_run_id = ANY($1::text[]) AND deleted_at IS NOT NULL
    """
    alive_among: str = """
        SELECT serial FROM {schema}.flow_runs
        WHERE {is_known} AND serial = ANY($1::bigint[]) AND deleted_at IS NULL
    """
    end_of_deletions: str = """
        SELECT max(deleted_at) FROM (
            SELECT deleted_at FROM {schema}.flow_runs WHERE deleted_at > $1 ORDER BY deleted_at LIMIT $2
        ) AS page WHERE {is_known}
    """
    unfinished_deletions: str = """
        SELECT flow_run_id FROM {schema}.flow_runs r
        WHERE {is_known} AND deleted_at > $1 AND deleted_at <= $2 AND {has_rest}
    """
    count_tombstones: str = "SELECT count(*) FROM {schema}.flow_runs WHERE {is_known} AND deleted_at < $1"
    page_run_rows: str = """
        SELECT serial, flow_run_id, created_at, deleted_at,
            EXISTS (SELECT FROM {schema}.append_counters WHERE run = serial), touched_at, {fact_columns}
        FROM {schema}.flow_runs
        WHERE {is_known} AND serial > $1 ORDER BY serial LIMIT $2
    """
    count: str = """
        SELECT (SELECT count(*) FROM {schema}.flow_runs r WHERE deleted_at IS NULL
                AND (touched_at IS NOT NULL OR EXISTS (SELECT FROM {schema}.node_outputs WHERE run = r.serial))),
            (SELECT count(*) FROM {schema}.flow_runs WHERE deleted_at IS NOT NULL), count(*) FILTER (WHERE codec >= 0),
            (SELECT count(*) FROM {schema}.global_values WHERE {is_there}),
            coalesce(sum(size), 0) + coalesce((SELECT sum(size) FROM {schema}.global_values WHERE {is_there}), 0)
        FROM {schema}.node_outputs
        WHERE {is_known} AND run IN (SELECT serial FROM {schema}.flow_runs WHERE deleted_at IS NULL)
    """
    waited_for: str = """
        SELECT r.flow_run_id, o.node_id FROM unnest($1::text[], $2::text[]) AS t (flow_run_id, node_id)
        JOIN {schema}.flow_runs r ON r.flow_run_id = t.flow_run_id AND r.deleted_at IS NULL
        CROSS JOIN LATERAL ({output_of_key}) AS o
        WHERE {is_known}
    """
    # -- what was committed behind a place in the history: see ``news`` ------------------------------------------------
    history: str = """
        SELECT history::text, cluster, (SELECT system_identifier FROM pg_control_system()), {snapshot}::text,
            pg_is_in_recovery()
        FROM {schema}.store_format WHERE {is_known}
    """
    transaction_of: str = """
        SELECT coalesce(o.xact::text::bigint, 0), o.run FROM {schema}.flow_runs r
        JOIN {schema}.node_outputs o ON o.run = r.serial
        WHERE {is_known} AND r.flow_run_id = $1 AND r.deleted_at IS NULL AND o.node_id = $2 AND o.codec >= 0
    """
    look: str = """
        SELECT {snapshot}::text, pg_is_in_recovery(), r.serial, coalesce(r.deleted_at IS NOT NULL, false)
        FROM {schema}.store_format LEFT JOIN {schema}.flow_runs r ON r.flow_run_id = $1 WHERE {is_known}
    """
    # Of any run: the rows of certain transactions; of those from one on; those that name none.
    rows_of_late: str = _WINDOW.replace(
        "{rows}",
        """
            SELECT xact, run, node_id, true AS is_news FROM {schema}.node_outputs
            WHERE xact = ANY($10::text[]::xid8[]) AND pg_visible_in_snapshot(xact, $9::text::pg_snapshot)
                AND (xact, run, node_id) > ($1::text::xid8, $2::bigint, $3::text)
            ORDER BY xact, run, node_id
        """,
    )
    rows_of_new: str = _WINDOW.replace(
        "{rows}",
        """
            SELECT xact, run, node_id, true AS is_news FROM {schema}.node_outputs
            WHERE xact >= $10::text::xid8 AND xact < pg_snapshot_xmax($9::text::pg_snapshot)
                AND pg_visible_in_snapshot(xact, $9::text::pg_snapshot)
                AND (xact, run, node_id) > ($1::text::xid8, $2::bigint, $3::text)
            ORDER BY xact, run, node_id
        """,
    )
    rows_of_before: str = _WINDOW.replace(
        "{rows}",
        """
            SELECT '0'::xid8 AS xact, run, node_id, xact IS NULL AS is_news FROM {schema}.node_outputs
            WHERE $1::text = '0' AND (run, node_id) > ($2::bigint, $3::text) ORDER BY run, node_id
        """,
    )
    # Of one run, by its own index.
    rows_of_run: str = _WINDOW.replace(
        "{rows}",
        """
            SELECT xact, run, node_id, true AS is_news FROM (
                SELECT coalesce(xact, '0'::xid8) AS xact, run, node_id FROM {schema}.node_outputs
                WHERE run = $4 AND (node_id >= $5 AND node_id < $6 OR node_id = $7::text)
            ) AS of_run
            WHERE (xact, run, node_id) > ($1::text::xid8, $2::bigint, $3::text)
                AND pg_visible_in_snapshot(xact, $9::text::pg_snapshot)
                AND ($10::text IS NULL OR NOT pg_visible_in_snapshot(xact, $10::text::pg_snapshot))
            ORDER BY xact, run, node_id
        """,
    )
    news: str = """
        SELECT flow_run_id, node_id, codec, value, checksum, written_at, size, run, tag, attempt, nth FROM (
            SELECT r.flow_run_id, o.*, t.nth, sum(o.size) OVER (ORDER BY t.nth) - o.size AS before
            FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS t (serial, node_id, nth)
            JOIN {schema}.flow_runs r ON r.serial = t.serial AND r.deleted_at IS NULL
            CROSS JOIN LATERAL ({output_of_key}) AS o
            WHERE o.codec >= 0 OR o.node_id = $3::text
        ) AS sized WHERE {is_known} AND before < $4 ORDER BY nth
    """
    name_of: str = "SELECT flow_run_id FROM {schema}.flow_runs WHERE {is_known} AND serial = $1"
    runs_with_news: str = """
        SELECT s.now::text, r.flow_run_id FROM (SELECT {snapshot} AS now) AS s
        LEFT JOIN LATERAL (
            SELECT r.flow_run_id FROM {schema}.flow_runs r WHERE serial IN (
                SELECT run FROM {schema}.node_outputs
                WHERE xact = ANY($1::text[]::xid8[]) AND pg_visible_in_snapshot(xact, s.now)
                UNION ALL
                SELECT run FROM {schema}.node_outputs
                WHERE xact >= $2::text::xid8 AND pg_visible_in_snapshot(xact, s.now)
            )
        ) AS r ON true WHERE {is_known}
    """
    size: str = """
        SELECT split_part(version(), ' ', 2), sum(pg_total_relation_size(oid)) FROM pg_class
        WHERE relnamespace = '{schema}'::regnamespace AND relkind = 'r'
    """
    # Without the values, which may be damaged, and large.
    check_total: str = """
        SELECT (SELECT count(*) FROM {schema}.node_outputs) + (SELECT count(*) FROM {schema}.global_values)
        WHERE {is_known}
    """
    check_outputs: str = """
        SELECT o.run, o.node_id, r.flow_run_id, r.deleted_at IS NOT NULL, o.written_at, o.size, o.codec >= 0
        FROM {schema}.node_outputs o LEFT JOIN {schema}.flow_runs r ON r.serial = o.run
        WHERE {is_known} AND (o.run, o.node_id) > ($1, $2) ORDER BY o.run, o.node_id LIMIT 500
    """
    # One by one, for each in one statement, and so of one moment.
    check_marks: str = """
        SELECT flow_run_id, marks, found FROM {schema}.flow_runs CROSS JOIN LATERAL (
            SELECT count(*) AS found FROM {schema}.node_outputs WHERE run = serial AND codec = -1
        ) AS counted WHERE {is_known} AND serial = ANY($1::bigint[]) AND deleted_at IS NULL AND marks <> found
    """
    said_marks: str = (
        "SELECT serial, marks FROM {schema}.flow_runs WHERE {is_known} AND marks <> 0 AND deleted_at IS NULL"
    )
    check_runs: str = """
        SELECT flow_run_id, created_at, deleted_at FROM {schema}.flow_runs
        WHERE {is_known} AND (created_at NOT BETWEEN 0 AND $1 OR deleted_at NOT BETWEEN 0 AND $1)
    """


def statements_for(schema: str) -> Statements:
    """The statements of a store in this schema. It is quoted: ``user``, say, is a word of SQL's own."""
    quoted = f'"{schema}"'
    texts = {field.name: str(field.default) for field in dataclasses.fields(Statements)}
    return Statements(
        **{
            name: text.replace("{is_known}", _IS_KNOWN)
            .replace("{output_of_key}", _OUTPUT_OF_KEY)
            .replace("{has_rest}", HAS_REST)
            .replace("{is_there}", IS_THERE)
            .replace("{fact_columns}", FACT_COLUMNS)
            .replace("{now}", NOW)
            .replace("{snapshot}", _SNAPSHOT)
            .replace("{schema}", quoted)
            for name, text in texts.items()
        }
    )
