"""Care: what check finds: nothing in a healthy store, and each damaged row by its key.

Damage is done by plain ``sqlite3``.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import sqlite3
from typing import Any

import pytest

from contextstore import ContextStore, CorruptStoreError, Problem
from contextstore._sqlite import check as _check
from contextstore._sqlite.schema import own_schema

from .care import EVERYTHING, checked, found, sql

pytestmark = pytest.mark.usefixtures("embedded")  # a server is looked after in test_care_postgres


class TestAHealthyStore:
    async def test_it_has_no_problem(self, store: Any) -> None:
        report = await store.check()
        assert (report.ok, report.runs, report.outputs, report.globals) == (True, 0, 0, 0)
        for run, outputs in EVERYTHING.items():
            await store.put_many(run, outputs)
        for i in range(600):
            await store.put("many", f"{i}", i)
        await store.put_global("", None)
        await store.upsert_global("key", b"")
        await store.put_many("deleted", {"a": 1})
        await store.delete_run("deleted")
        await store.delete_run("never seen")
        await store.put_global("gone", 1)
        await store.delete_global("gone")
        report = await store.check()
        assert report.problems == ()
        assert (report.ok, report.runs, report.outputs, report.globals) == (True, 3, 663, 2)

    async def test_nor_has_one_that_is_written_to_meanwhile(self, store: Any) -> None:
        stop = asyncio.Event()

        async def work(worker: int) -> None:
            for i in range(10**6):
                if stop.is_set():
                    return
                await store.put_many(f"run-{worker}-{i}", {"a": i, "b": "x" * i})
                await store.upsert_global(f"key-{worker}", i)
                if i % 3 == 0:
                    await store.delete_run(f"run-{worker}-{i}")
                    await store.delete_global(f"key-{worker}")

        workers = [asyncio.ensure_future(work(worker)) for worker in range(3)]
        for _ in range(8):
            assert (await store.check()).problems == ()
        stop.set()
        await asyncio.gather(*workers)

    def test_nor_has_one_whose_tables_were_analyzed(self, path: pathlib.Path) -> None:
        sql(path, "ANALYZE")
        assert checked(path).ok

    def test_nor_has_one_that_is_only_read(self, path: pathlib.Path) -> None:
        before = path.read_bytes()
        assert checked(path, read_only=True).ok
        assert path.read_bytes() == before

    def test_checking_changes_nothing(self, path: pathlib.Path) -> None:
        sql(path, "UPDATE node_outputs SET value = 'damaged' WHERE node_id = 'null'")
        with contextlib.closing(sqlite3.connect(path)) as connection:
            before = list(connection.iterdump())
            assert not checked(path).ok
            assert list(connection.iterdump()) == before

    def test_the_report_is_plain_and_says_what_was_looked_at(self, path: pathlib.Path) -> None:
        report = checked(path)
        assert dataclasses.asdict(report) == {
            "runs": 2,
            "outputs": 63,
            "globals": 19,
            "problems": (),
            "notes": report.notes,
        }

    @pytest.mark.parametrize(
        ("version", "has_the_bug"),
        [
            ((3, 6, 23), False),
            ((3, 7, 0), True),
            ((3, 40, 1), True),
            ((3, 44, 5), True),
            ((3, 44, 6), False),
            ((3, 44, 7), True),
            ((3, 45, 0), True),
            ((3, 50, 6), True),
            ((3, 50, 7), False),
            ((3, 51, 2), True),
            ((3, 51, 3), False),
            ((3, 52, 0), False),
            ((4, 0, 0), False),
        ],
        ids=str,
    )
    def test_a_note_names_the_sqlite_versions_with_the_wal_reset_bug(
        self, version: tuple[int, ...], has_the_bug: bool, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_check.sqlite3, "sqlite_version_info", version)
        report = checked(path)
        assert report.ok
        named = [note for note in report.notes if "WAL-reset bug" in note]
        assert len(named) == has_the_bug
        assert all(".".join(map(str, version)) in note for note in named)


Damage = tuple[str, set[tuple[str, tuple[str, ...]]]]
ONE = "(SELECT serial FROM flow_runs WHERE flow_run_id = 'run-1')"
TWO = "(SELECT serial FROM flow_runs WHERE flow_run_id = 'run-2')"

# What is done, and what must be found; other problems may be found besides.
DAMAGES: dict[str, Damage] = {
    "another value": (
        "UPDATE node_outputs SET value = '{\"i\":7}' WHERE node_id = 'node-008'",
        {("output", ("run-1", "node-008"))},
    ),
    "a flipped bit in JSON": (
        "UPDATE node_outputs SET value = replace(value, '\"i\":1', '\"i\":3') WHERE node_id = 'node-015'",
        {("output", ("run-1", "node-015"))},
    ),
    "a flipped bit in bytes": (
        "UPDATE node_outputs SET value = CAST(x'01' || substr(value, 2) AS BLOB) WHERE node_id = 'bytes'",
        {("output", ("run-2", "bytes"))},
    ),
    "a flipped bit far in": (
        "UPDATE node_outputs SET value = substr(value, 1, 15000) || 'z' || substr(value, 15002) "
        "WHERE node_id = 'large'",
        {("output", ("run-2", "large"))},
    ),
    "a value cut off": (
        "UPDATE node_outputs SET value = substr(value, 1, 10000) WHERE node_id = 'large'",
        {("output", ("run-2", "large"))},
    ),
    "an empty value": (
        "UPDATE node_outputs SET value = '' WHERE node_id = 'null'",
        {("output", ("run-2", "null"))},
    ),
    "exchanged node ids": (
        f"UPDATE node_outputs SET node_id = CASE node_id WHEN 'null' THEN 'bytes ' ELSE 'null ' END WHERE run = {TWO} "
        "AND node_id IN ('null', 'bytes')",
        {("output", ("run-2", "null ")), ("output", ("run-2", "bytes "))},
    ),
    "a row of another run": (
        f"UPDATE node_outputs SET run = {TWO} WHERE node_id = 'node-003'",
        {("output", ("run-2", "node-003"))},
    ),
    "exchanged values": (
        "UPDATE node_outputs SET value = other.value, size = other.size, checksum = other.checksum "
        "FROM node_outputs AS other WHERE (node_outputs.node_id, other.node_id) "
        "IN (VALUES ('node-001', 'node-002'), ('node-002', 'node-001'))",
        {("output", ("run-1", "node-001")), ("output", ("run-1", "node-002"))},
    ),
    "another codec": (
        "UPDATE node_outputs SET codec = 1 WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "an unknown codec": (
        "UPDATE node_outputs SET codec = 7 WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "another checksum": (
        "UPDATE node_outputs SET checksum = checksum + 1 WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "a checksum that is none": (
        "UPDATE node_outputs SET checksum = 'none' WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "another size": (
        "UPDATE node_outputs SET size = size + 1 WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "a time that is none": (
        "UPDATE node_outputs SET written_at = 'yesterday' WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "a time beyond the calendar": (
        "UPDATE node_outputs SET written_at = written_at | (1 << 61) WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "a time before the epoch": (
        "UPDATE node_outputs SET written_at = -1 WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "a node id that is no text": (
        "UPDATE node_outputs SET node_id = CAST(x'61c362' AS TEXT) WHERE node_id = 'node-001'",
        {("output", ("run-1", "a\ufffdb"))},
    ),
    "a run whose id is no text": (
        "UPDATE flow_runs SET flow_run_id = CAST(x'61c362' AS TEXT) WHERE flow_run_id = 'run-2'",
        {("output", ("a\ufffdb", node)) for node in EVERYTHING["run-2"]},
    ),
    "a global's key that is no text": (
        "UPDATE global_values SET key = CAST(x'61c362' AS TEXT) WHERE key = 'key-08'",
        {("global", ("a\ufffdb",))},
    ),
    "JSON that is no text": (
        "UPDATE node_outputs SET value = CAST(x'22c322' AS TEXT) WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "a node id that is bytes": (
        "UPDATE node_outputs SET node_id = x'6162' WHERE node_id = 'node-001'",
        {("output", ("run-1", "b'ab'"))},
    ),
    "a run under another name": (
        "UPDATE flow_runs SET flow_run_id = 'run-one' WHERE flow_run_id = 'run-1'",
        {("output", ("run-one", node)) for node in EVERYTHING["run-1"]},
    ),
    "exchanged runs": (
        "UPDATE flow_runs SET flow_run_id = CASE flow_run_id WHEN 'run-1' THEN 'run-2 ' ELSE 'run-1 ' END "
        "WHERE flow_run_id IN ('run-1', 'run-2')",
        {("output", ("run-2 ", "node-001")), ("output", ("run-1 ", "null"))},
    ),
    "outputs without their run": (
        "DELETE FROM flow_runs WHERE flow_run_id = 'run-2'",
        {("output", ("run number 2", node)) for node in EVERYTHING["run-2"]},
    ),
    "a run without its outputs": (
        f"DELETE FROM node_outputs WHERE run = {TWO}",
        {("run", ("run-2",))},
    ),
    "a deleted run that is said not to be": (
        "UPDATE flow_runs SET deleted_at = NULL WHERE flow_run_id = 'deleted'",
        {("run", ("deleted",))},
    ),
    "a mark of deletion that is none": (
        "UPDATE flow_runs SET deleted_at = 'yes' WHERE flow_run_id = 'deleted'",
        {("run", ("deleted",))},
    ),
    "another value of a global": (
        "UPDATE global_values SET value = '{\"i\":7}' WHERE key = 'key-08'",
        {("global", ("key-08",))},
    ),
    "a global under another key": (
        "UPDATE global_values SET key = 'key-8' WHERE key = 'key-08'",
        {("global", ("key-8",))},
    ),
    "another codec of a global": (
        "UPDATE global_values SET codec = 1 WHERE key = 'key-08'",
        {("global", ("key-08",))},
    ),
    "another size of a global": (
        "UPDATE global_values SET size = 1 WHERE key = 'key-08'",
        {("global", ("key-08",))},
    ),
    "a global whose value alone is gone": (
        "UPDATE global_values SET value = NULL WHERE key = 'key-08'",
        {("global", ("key-08",))},
    ),
    "a deleted global with a value": (
        "UPDATE global_values SET value = '1' WHERE key = 'key-19'",
        {("global", ("key-19",))},
    ),
    "a version that is none": (
        "UPDATE global_values SET version = 'first' WHERE key = 'key-08'",
        {("global", ("key-08",))},
    ),
    "a version before the first": (
        "UPDATE global_values SET version = 0 WHERE key = 'key-19'",
        {("global", ("key-19",))},
    ),
    "a global's time that is none": (
        "UPDATE global_values SET written_at = 1e99 WHERE key = 'key-08'",
        {("global", ("key-08",))},
    ),
    "another program's mark": ("PRAGMA application_id = 7", {("file", ())}),
    "a foreign index that is unique": (
        "CREATE UNIQUE INDEX quick ON node_outputs (written_at, id)",
        {("schema", ("quick",))},
    ),
    "a foreign trigger": (
        "CREATE TRIGGER spy AFTER INSERT ON node_outputs BEGIN SELECT 1; END",
        {("schema", ("spy",))},
    ),
    "a missing view": ("DROP VIEW outputs", {("schema", ("outputs",))}),
    "a missing index": ("DROP INDEX tombstones", {("schema", ("tombstones",))}),
    "a missing table": ("DROP TABLE global_values", {("schema", ("global_values",))}),
    "an altered table": ("ALTER TABLE flow_runs ADD COLUMN owner", {("schema", ("flow_runs",))}),
    "an altered view": (
        "UPDATE sqlite_schema SET sql = replace(sql, 'IS NULL', 'IS NOT NULL') WHERE name = 'outputs'",
        {("schema", ("outputs",))},
    ),
    "an index that is said to be empty": (
        "UPDATE sqlite_schema SET sql = replace(sql, 'IS NOT NULL', 'IS NULL') WHERE name = 'tombstones'",
        {("schema", ("tombstones",))},
    ),
}


class TestDamage:
    """Every kind of it is found, by key, and the others are looked at all the same."""

    @pytest.mark.parametrize("kind", DAMAGES)
    def test_it_is_found(self, kind: str, path: pathlib.Path) -> None:
        statement, expected = DAMAGES[kind]
        with ContextStore(path) as store:  # open already, so that opening cannot refuse it
            store.list_runs()
            sql(path, statement)
            report = store.check()
        assert not report.ok
        assert expected <= {(problem.kind, problem.key) for problem in report.problems}
        if kind != "a missing table":
            assert report.outputs >= 60

    @pytest.mark.parametrize("kind", ["another value", "another value of a global", "an altered view"])
    def test_nothing_else_is_said_to_be_wrong(self, kind: str, path: pathlib.Path) -> None:
        statement, expected = DAMAGES[kind]
        with ContextStore(path) as store:
            store.list_runs()
            sql(path, statement)
            assert {(problem.kind, problem.key) for problem in store.check().problems} == expected

    def test_all_of_it_at_once(self, path: pathlib.Path) -> None:
        kinds = ["a value cut off", "another codec", "a deleted run that is said not to be", "another size of a global"]
        with ContextStore(path) as store:
            store.list_runs()
            sql(path, *(DAMAGES[kind][0] for kind in kinds))
            report = store.check()
        expected = set().union(*(DAMAGES[kind][1] for kind in kinds))
        assert expected == {(problem.kind, problem.key) for problem in report.problems}

    @pytest.mark.parametrize("kind", [*DAMAGES, "the rest of the file"])
    def test_it_is_found_all_the_same_where_progress_is_told(self, kind: str, path: pathlib.Path) -> None:
        told: list[tuple[int, int]] = []
        with ContextStore(path) as store:
            store.list_runs()
            if kind in DAMAGES:
                sql(path, DAMAGES[kind][0])
            else:
                with open(path, "r+b") as file:
                    file.seek(4 * 4096)
                    file.write(b"\xa5" * (path.stat().st_size - 4 * 4096))
            report = store.check(progress=lambda *event: told.append(event))
            assert report == store.check()
        assert not report.ok
        assert told == sorted(told)
        assert told[-1] == (told[0][1], told[0][1])

    def test_a_newer_schema_number_is_found_by_a_store_that_is_open(self, path: pathlib.Path) -> None:
        with ContextStore(path) as store:
            store.list_runs()
            sql(path, "PRAGMA user_version = 9")
            (problem,) = store.check().problems
        assert (problem.kind, problem.key) == ("file", ())
        assert "9" in problem.message

    def test_what_deleted_runs_leave_is_a_note_and_no_problem(self, path: pathlib.Path) -> None:
        sql(path, "UPDATE flow_runs SET deleted_at = 7 WHERE flow_run_id = 'run-2'")
        report = checked(path)
        assert report.ok
        assert "3 outputs of deleted runs still take up space: prune() removes them" in report.notes

    def test_a_missing_index_entry_is_found(self, path: pathlib.Path) -> None:
        keep = "CREATE TABLE kept AS SELECT * FROM node_outputs WHERE node_id = 'node-007'"
        sql(path, keep, "DELETE FROM node_outputs WHERE node_id = 'node-007'")
        out_of_sight_of_its_index(path, "INSERT INTO node_outputs SELECT * FROM kept", "DROP TABLE kept")
        with ContextStore(path) as store:
            assert store.get("run-1", "node-007") is None  # which is why it must be found
            problems = store.check().problems
        assert ("file", ()) in {(problem.kind, problem.key) for problem in problems}
        assert any("missing from index" in problem.message for problem in problems)

    def test_an_index_entry_without_its_row_is_found(self, path: pathlib.Path) -> None:
        out_of_sight_of_its_index(path, "DELETE FROM node_outputs WHERE node_id = 'node-007'")
        assert ("file", ()) in found(path)

    def test_index_entries_that_lead_to_each_others_rows_give_no_wrong_value(self, path: pathlib.Path) -> None:
        swap = "UPDATE node_outputs SET id = {} WHERE node_id = '{}'"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            query = "SELECT id FROM node_outputs WHERE node_id IN ('node-007', 'node-008') ORDER BY node_id"
            seven, eight = (number for (number,) in connection.execute(query))
        out_of_sight_of_its_index(
            path, swap.format(-1, "node-007"), swap.format(seven, "node-008"), swap.format(eight, "node-007")
        )
        with ContextStore(path) as store:
            for call in (
                lambda: store.get("run-1", "node-007"),
                lambda: store.get_entry("run-1", "node-008"),
                lambda: store.get_many("run-1", ["node-006", "node-007"]),
            ):
                with pytest.raises(CorruptStoreError):
                    call()
            assert store.get_many("run-1", ["node-006"]).keys() == {"node-006"}
        assert ("file", ()) in found(path)


def out_of_sight_of_its_index(path: pathlib.Path, *statements: str) -> None:
    """Change a table while SQLite is told that it has no index, and no trigger, which needs the index."""
    unique, nothing = "UNIQUE (run, node_id)", "CHECK (1)"
    index = "WHERE name = 'sqlite_autoindex_node_outputs_1'"
    sql(
        path,
        f"UPDATE sqlite_schema SET sql = replace(sql, '{unique}', '{nothing}') WHERE name = 'node_outputs'",
        f"UPDATE sqlite_schema SET type = 'hidden' {index}",
        "DROP TRIGGER highest_id",
    )
    sql(
        path,
        *statements,
        f"UPDATE sqlite_schema SET type = 'index' {index}",
        *(statement for _, name, _, statement in own_schema() if name == "highest_id" and statement is not None),
        f"UPDATE sqlite_schema SET sql = replace(sql, '{nothing}', '{unique}') WHERE name = 'node_outputs'",
    )


def test_a_problem_is_plain() -> None:
    problem = Problem("output", ("run", "node"), "message")
    assert dataclasses.astuple(problem) == ("output", ("run", "node"), "message")
