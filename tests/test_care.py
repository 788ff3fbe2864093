"""Care: what stats tells, what check finds, and that a backup is a whole store or nothing.

Damage is done by plain ``sqlite3`` and in plain files.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import random
import resource
import signal
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contextstore import (
    CheckReport,
    ContextStore,
    ContextStoreError,
    CorruptStoreError,
    Problem,
    StorageError,
    StoreClosedError,
    StoreNotFoundError,
)
from contextstore._sqlite import check as _sqlite_care
from contextstore._sqlite import location as _sqlite_place

from .conftest import Target
from .doubles import core_of, fail, until
from .processes import Child

pytestmark = pytest.mark.usefixtures("embedded")  # a server is looked after in test_care_postgres

EVERYTHING = {
    "run-1": {f"node-{i:03}": {"i": i, "text": "x" * (i * 7 % 300)} for i in range(60)},
    "run-2": {"large": "y" * 20_000, "bytes": bytes(range(256)), "null": None},
}


def fill(path: Any) -> None:
    with ContextStore(path) as store:
        for run, outputs in EVERYTHING.items():
            store.put_many(run, outputs)
        for i in range(20):
            store.upsert_global(f"key-{i:02}", {"i": i})
        store.delete_global("key-19")
        store.put_many("deleted", {"a": 1, "b": 2})
        store.delete_run("deleted")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("care") / "store.db"
    fill(path)
    return path.read_bytes()


@pytest.fixture
def path(file_path: pathlib.Path, template: bytes) -> pathlib.Path:
    """A store with runs, globals, and some of each that were deleted."""
    file_path.write_bytes(template)
    return file_path


def sql(path: pathlib.Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = 1")
        for statement in statements:
            connection.execute(statement)


def checked(path: pathlib.Path, **options: Any) -> CheckReport:
    with ContextStore(path, **options) as store:
        return store.check()


def found(path: pathlib.Path) -> set[tuple[str, tuple[str, ...]]]:
    return {(problem.kind, problem.key) for problem in checked(path).problems}


# ------------------------------------------------------------------------------------------------------------- stats


class TestStats:
    async def test_the_counts_are_those_of_what_is_there(self, store: Any) -> None:
        empty = await store.stats()
        assert (empty.runs, empty.outputs, empty.globals, empty.tombstones, empty.value_bytes) == (0, 0, 0, 0, 0)
        await store.put_many("run-1", {"a": "é", "b": b"123", "c": None})
        await store.put("run-2", "a", 1)
        await store.put_many("deleted", {"a": 1, "b": 2})
        await store.delete_run("deleted")
        await store.delete_run("never seen")
        await store.put_global("key", "x")
        await store.upsert_global("deleted", "xyz")
        await store.delete_global("deleted")
        stats = await store.stats()
        assert (stats.runs, stats.outputs, stats.globals, stats.tombstones) == (2, 4, 1, 2)
        assert stats.value_bytes == len('"é"'.encode()) + 3 + 4 + 1 + 3

    async def test_the_writes_of_this_object_are_counted(self, store: Any) -> None:
        before = await store.stats()
        await store.put("run", "a", 1)
        await store.put_many("run", {"b": 1, "c": 2})
        with contextlib.suppress(ContextStoreError):
            await store.put("run", "a", 2)
        stats = await store.stats()
        assert (stats.commits - before.commits, stats.writes - before.writes) == (2, 2)
        assert stats.largest_group == 1
        assert stats.queued_writes == 0
        await asyncio.gather(*(store.put("crowd", str(i), i) for i in range(100)))
        stats = await store.stats()
        assert stats.writes - before.writes == 102
        assert stats.commits - before.commits <= 102

    async def test_the_cache_is_told(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "a", "x" * 100)
            stats = await store.stats()
            assert (stats.cache_entries, stats.cache_hits, stats.cache_misses) == (1, 0, 0)
            assert 100 < stats.cache_bytes < 1000
            await store.get("run", "a")
            await store.get("run", "missing")
            stats = await store.stats()
            assert (stats.cache_hits, stats.cache_misses) == (1, 1)
            await store.delete_run("run")
            stats = await store.stats()
            assert (stats.cache_entries, stats.cache_bytes) == (0, 0)
        async with make_store(cache_bytes=0) as store:
            await store.put("other", "a", 1)
            await store.get("other", "a")
            stats = await store.stats()
            assert (stats.cache_entries, stats.cache_bytes, stats.cache_hits) == (0, 0, 0)

    async def test_the_sizes_are_those_of_the_files(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "a", "x" * 10_000)
            await store.put("run", "b", 1)  # once this is answered, the WAL is no more being grown ahead
            stats = await store.stats()
            assert stats.location == (str(make_store.location))
            assert stats.engine == f"SQLite {sqlite3.sqlite_version}"
            if make_store.engine == "memory":
                assert (stats.file_bytes, stats.wal_bytes, stats.checkpoint_pinned) == (0, 0, False)
            else:
                assert stats.file_bytes == make_store.location.stat().st_size
                assert stats.wal_bytes == make_store.location.with_name("store.db-wal").stat().st_size

    @pytest.mark.usefixtures("shared_target")
    async def test_a_reader_that_pins_an_old_snapshot_is_told(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "a", 1)
            with contextlib.closing(sqlite3.connect(make_store.location, isolation_level=None)) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM runs").fetchall()
                for i in range(6):
                    await store.put("large", str(i), b"x" * 1_000_000)
                await until_pinned(store, True)
                reader.execute("ROLLBACK")
            for i in range(6, 12):
                await store.put("large", str(i), b"x" * 1_000_000)
            await until_pinned(store, False)

    async def test_a_closed_store_tells_nothing(self, make_store: Target) -> None:
        store = make_store()
        await store.put("run", "a", 1)
        await store.close()
        for call in (store.stats, store.check, lambda: store.backup("nowhere")):
            with pytest.raises(StoreClosedError):
                await call()


async def until_pinned(store: Any, expected: bool) -> None:
    async with asyncio.timeout(30):
        while (await store.stats()).checkpoint_pinned is not expected:
            await asyncio.sleep(0.01)


# ------------------------------------------------------------------------------------------------------------- check


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
        sql(path, "UPDATE output_rows SET value = 'damaged' WHERE node_id = 'null'")
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
        monkeypatch.setattr(_sqlite_care.sqlite3, "sqlite_version_info", version)
        report = checked(path)
        assert report.ok
        named = [note for note in report.notes if "WAL-reset bug" in note]
        assert len(named) == has_the_bug
        assert all(".".join(map(str, version)) in note for note in named)


Damage = tuple[str, set[tuple[str, tuple[str, ...]]]]
ONE = "(SELECT serial FROM runs WHERE flow_run_id = 'run-1')"
TWO = "(SELECT serial FROM runs WHERE flow_run_id = 'run-2')"

# What is done, and what must be found; other problems may be found besides.
DAMAGES: dict[str, Damage] = {
    "another value": (
        "UPDATE output_rows SET value = '{\"i\":7}' WHERE node_id = 'node-008'",
        {("output", ("run-1", "node-008"))},
    ),
    "a flipped bit in JSON": (
        "UPDATE output_rows SET value = replace(value, '\"i\":1', '\"i\":3') WHERE node_id = 'node-015'",
        {("output", ("run-1", "node-015"))},
    ),
    "a flipped bit in bytes": (
        "UPDATE output_rows SET value = CAST(x'01' || substr(value, 2) AS BLOB) WHERE node_id = 'bytes'",
        {("output", ("run-2", "bytes"))},
    ),
    "a flipped bit far in": (
        "UPDATE output_rows SET value = substr(value, 1, 15000) || 'z' || substr(value, 15002) WHERE node_id = 'large'",
        {("output", ("run-2", "large"))},
    ),
    "a value cut off": (
        "UPDATE output_rows SET value = substr(value, 1, 10000) WHERE node_id = 'large'",
        {("output", ("run-2", "large"))},
    ),
    "an empty value": (
        "UPDATE output_rows SET value = '' WHERE node_id = 'null'",
        {("output", ("run-2", "null"))},
    ),
    "exchanged node ids": (
        f"UPDATE output_rows SET node_id = CASE node_id WHEN 'null' THEN 'bytes ' ELSE 'null ' END WHERE run = {TWO} "
        "AND node_id IN ('null', 'bytes')",
        {("output", ("run-2", "null ")), ("output", ("run-2", "bytes "))},
    ),
    "a row of another run": (
        f"UPDATE output_rows SET run = {TWO} WHERE node_id = 'node-003'",
        {("output", ("run-2", "node-003"))},
    ),
    "exchanged values": (
        "UPDATE output_rows SET value = other.value, size = other.size, checksum = other.checksum "
        "FROM output_rows AS other WHERE (output_rows.node_id, other.node_id) "
        "IN (VALUES ('node-001', 'node-002'), ('node-002', 'node-001'))",
        {("output", ("run-1", "node-001")), ("output", ("run-1", "node-002"))},
    ),
    "another codec": (
        "UPDATE output_rows SET codec = 1 WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "an unknown codec": (
        "UPDATE output_rows SET codec = 7 WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "another checksum": (
        "UPDATE output_rows SET checksum = checksum + 1 WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "a checksum that is none": (
        "UPDATE output_rows SET checksum = 'none' WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "another size": (
        "UPDATE output_rows SET size = size + 1 WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "a time that is none": (
        "UPDATE output_rows SET written_at = 'yesterday' WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "a time beyond the calendar": (
        "UPDATE output_rows SET written_at = written_at | (1 << 61) WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "a time before the epoch": (
        "UPDATE output_rows SET written_at = -1 WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "a node id that is no text": (
        "UPDATE output_rows SET node_id = CAST(x'61c362' AS TEXT) WHERE node_id = 'node-001'",
        {("output", ("run-1", "a\ufffdb"))},
    ),
    "a run whose id is no text": (
        "UPDATE runs SET flow_run_id = CAST(x'61c362' AS TEXT) WHERE flow_run_id = 'run-2'",
        {("output", ("a\ufffdb", node)) for node in EVERYTHING["run-2"]},
    ),
    "a global's key that is no text": (
        "UPDATE global_rows SET key = CAST(x'61c362' AS TEXT) WHERE key = 'key-08'",
        {("global", ("a\ufffdb",))},
    ),
    "JSON that is no text": (
        "UPDATE output_rows SET value = CAST(x'22c322' AS TEXT) WHERE node_id = 'node-001'",
        {("output", ("run-1", "node-001"))},
    ),
    "a node id that is bytes": (
        "UPDATE output_rows SET node_id = x'6162' WHERE node_id = 'node-001'",
        {("output", ("run-1", "b'ab'"))},
    ),
    "a run under another name": (
        "UPDATE runs SET flow_run_id = 'run-one' WHERE flow_run_id = 'run-1'",
        {("output", ("run-one", node)) for node in EVERYTHING["run-1"]},
    ),
    "exchanged runs": (
        "UPDATE runs SET flow_run_id = CASE flow_run_id WHEN 'run-1' THEN 'run-2 ' ELSE 'run-1 ' END "
        "WHERE flow_run_id IN ('run-1', 'run-2')",
        {("output", ("run-2 ", "node-001")), ("output", ("run-1 ", "null"))},
    ),
    "outputs without their run": (
        "DELETE FROM runs WHERE flow_run_id = 'run-2'",
        {("output", ("run number 2", node)) for node in EVERYTHING["run-2"]},
    ),
    "a run without its outputs": (
        f"DELETE FROM output_rows WHERE run = {TWO}",
        {("run", ("run-2",))},
    ),
    "a deleted run that is said not to be": (
        "UPDATE runs SET deleted_at = NULL WHERE flow_run_id = 'deleted'",
        {("run", ("deleted",))},
    ),
    "a mark of deletion that is none": (
        "UPDATE runs SET deleted_at = 'yes' WHERE flow_run_id = 'deleted'",
        {("run", ("deleted",))},
    ),
    "another value of a global": (
        "UPDATE global_rows SET value = '{\"i\":7}' WHERE key = 'key-08'",
        {("global", ("key-08",))},
    ),
    "a global under another key": (
        "UPDATE global_rows SET key = 'key-8' WHERE key = 'key-08'",
        {("global", ("key-8",))},
    ),
    "another codec of a global": (
        "UPDATE global_rows SET codec = 1 WHERE key = 'key-08'",
        {("global", ("key-08",))},
    ),
    "another size of a global": (
        "UPDATE global_rows SET size = 1 WHERE key = 'key-08'",
        {("global", ("key-08",))},
    ),
    "a global whose value alone is gone": (
        "UPDATE global_rows SET value = NULL WHERE key = 'key-08'",
        {("global", ("key-08",))},
    ),
    "a deleted global with a value": (
        "UPDATE global_rows SET value = '1' WHERE key = 'key-19'",
        {("global", ("key-19",))},
    ),
    "a version that is none": (
        "UPDATE global_rows SET version = 'first' WHERE key = 'key-08'",
        {("global", ("key-08",))},
    ),
    "a version before the first": (
        "UPDATE global_rows SET version = 0 WHERE key = 'key-19'",
        {("global", ("key-19",))},
    ),
    "a global's time that is none": (
        "UPDATE global_rows SET written_at = 1e99 WHERE key = 'key-08'",
        {("global", ("key-08",))},
    ),
    "another program's mark": ("PRAGMA application_id = 7", {("file", ())}),
    "a foreign index that is unique": (
        "CREATE UNIQUE INDEX quick ON output_rows (written_at, id)",
        {("schema", ("quick",))},
    ),
    "a foreign trigger": (
        "CREATE TRIGGER spy AFTER INSERT ON output_rows BEGIN SELECT 1; END",
        {("schema", ("spy",))},
    ),
    "a missing view": ("DROP VIEW outputs", {("schema", ("outputs",))}),
    "a missing index": ("DROP INDEX tombstones", {("schema", ("tombstones",))}),
    "a missing table": ("DROP TABLE global_rows", {("schema", ("global_rows",))}),
    "an altered table": ("ALTER TABLE runs ADD COLUMN owner", {("schema", ("runs",))}),
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

    def test_a_newer_schema_number_is_found_by_a_store_that_is_open(self, path: pathlib.Path) -> None:
        with ContextStore(path) as store:
            store.list_runs()
            sql(path, "PRAGMA user_version = 9")
            (problem,) = store.check().problems
        assert (problem.kind, problem.key) == ("file", ())
        assert "9" in problem.message

    def test_what_deleted_runs_leave_is_a_note_and_no_problem(self, path: pathlib.Path) -> None:
        sql(path, "UPDATE runs SET deleted_at = 7 WHERE flow_run_id = 'run-2'")
        report = checked(path)
        assert report.ok
        assert "3 outputs of deleted runs still take up space: prune() removes them" in report.notes

    def test_a_missing_index_entry_is_found(self, path: pathlib.Path) -> None:
        keep = "CREATE TABLE kept AS SELECT * FROM output_rows WHERE node_id = 'node-007'"
        sql(path, keep, "DELETE FROM output_rows WHERE node_id = 'node-007'")
        out_of_sight_of_its_index(path, "INSERT INTO output_rows SELECT * FROM kept", "DROP TABLE kept")
        with ContextStore(path) as store:
            assert store.get("run-1", "node-007") is None  # which is why it must be found
            problems = store.check().problems
        assert ("file", ()) in {(problem.kind, problem.key) for problem in problems}
        assert any("missing from index" in problem.message for problem in problems)

    def test_an_index_entry_without_its_row_is_found(self, path: pathlib.Path) -> None:
        out_of_sight_of_its_index(path, "DELETE FROM output_rows WHERE node_id = 'node-007'")
        assert ("file", ()) in found(path)

    def test_index_entries_that_lead_to_each_others_rows_give_no_wrong_value(self, path: pathlib.Path) -> None:
        swap = "UPDATE output_rows SET id = {} WHERE node_id = '{}'"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            query = "SELECT id FROM output_rows WHERE node_id IN ('node-007', 'node-008') ORDER BY node_id"
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
    """Change a table while SQLite is told that it has no index."""
    unique, index = ",\n    UNIQUE (run, node_id)", "WHERE name = 'sqlite_autoindex_output_rows_1'"
    sql(
        path,
        f"UPDATE sqlite_schema SET sql = replace(sql, '{unique}', '') WHERE name = 'output_rows'",
        f"UPDATE sqlite_schema SET type = 'hidden' {index}",
    )
    sql(
        path,
        *statements,
        f"UPDATE sqlite_schema SET type = 'index' {index}",
        f"UPDATE sqlite_schema SET sql = replace(sql, 'value NOT NULL', 'value NOT NULL{unique}') "
        "WHERE name = 'output_rows'",
    )


def pages_of(path: pathlib.Path, name: str) -> list[int]:
    """The numbers of the leaf pages of a table or index."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        query = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY pageno"
        try:
            return [number for (number,) in connection.execute(query, (name,))]
        except sqlite3.OperationalError:
            pytest.skip("this SQLite has no dbstat")


def wipe(path: pathlib.Path, page: int, byte: bytes = b"\xff") -> None:
    with open(path, "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(byte * 4096)


@pytest.fixture(scope="module")
def large_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("large") / "store.db"
    with ContextStore(path) as store, store.batch() as batch:
        for run in range(5):
            for i in range(400):
                batch.put(f"run-{run}", f"{i:03}", "x" * 100)
        for i in range(300):
            batch.upsert_global(f"key-{i:03}", "y" * 50)
    return path.read_bytes()


@pytest.fixture
def large(file_path: pathlib.Path, large_template: bytes) -> pathlib.Path:
    file_path.write_bytes(large_template)
    return file_path


class TestADamagedPage:
    @pytest.mark.parametrize("byte", [b"\x00", b"\xff", b"\x0d"])
    def test_in_the_middle_of_the_outputs_it_hides_no_others(self, large: pathlib.Path, byte: bytes) -> None:
        pages = pages_of(large, "output_rows")
        wipe(large, pages[len(pages) // 2], byte)
        sql(large, "UPDATE output_rows SET value = '1' WHERE id IN (1, 2000)")
        with ContextStore(large, cache_bytes=0) as store:
            report = store.check()
            named = {problem.key for problem in report.problems if problem.kind == "output"}
            assert {("run-0", "000"), ("run-4", "399")} <= named
            # Those on the page are named by their keys, and no others are.
            for run in range(5):
                for i in range(400):
                    key = (f"run-{run}", f"{i:03}")
                    try:
                        assert store.get(*key) == "x" * 100
                    except ContextStoreError:
                        assert key in named
                    else:
                        assert key not in named
        assert 10 < len(named) < 100
        assert report.outputs + len(named) == 2000 + 2

    def test_of_the_globals_it_hides_no_others(self, large: pathlib.Path) -> None:
        pages = pages_of(large, "global_rows")
        wipe(large, pages[len(pages) // 2])
        report = checked(large)
        named = {problem.key for problem in report.problems if problem.kind == "global"}
        assert 10 < len(named) < 100
        assert report.globals + len(named) == 300

    def test_of_the_index_is_found_and_hides_no_output(self, large: pathlib.Path) -> None:
        pages = pages_of(large, "sqlite_autoindex_output_rows_1")
        wipe(large, pages[len(pages) // 2])
        report = checked(large)
        assert ("file", ()) in {(problem.kind, problem.key) for problem in report.problems}
        assert report.outputs == 2000

    def test_of_the_table_and_one_of_its_index_hide_no_others(self, large: pathlib.Path) -> None:
        for name in ("output_rows", "sqlite_autoindex_output_rows_1"):
            pages = pages_of(large, name)
            wipe(large, pages[len(pages) // 2])
        report = checked(large)
        assert 1900 < report.outputs < 2000
        rows = [problem for problem in report.problems if problem.message.startswith("row ")]
        assert report.outputs + len(rows) == 2000

    def test_of_the_runs_is_found_and_hides_no_global(self, large: pathlib.Path) -> None:
        with ContextStore(large) as store:
            for i in range(300):
                store.put(f"another-run-{i:03}", "a", 1)
        wipe(large, pages_of(large, "runs")[-1])
        report = checked(large)
        assert not report.ok
        assert report.globals == 300
        assert 2000 < report.outputs < 2300

    def test_a_gap_in_the_numbers_of_the_rows_does_not_hold_it_up(self, large: pathlib.Path) -> None:
        """After many a prune there may be billions of numbers without a row."""
        sql(large, "UPDATE output_rows SET id = id + (1 << 50) WHERE id > 1000")
        wipe(large, pages_of(large, "output_rows")[-2])
        report = checked(large)
        named = [problem for problem in report.problems if problem.kind == "output"]
        assert named
        assert report.outputs + len(named) == 2000

    def test_a_page_that_is_damaged_while_the_store_is_open_is_found(self, large: pathlib.Path) -> None:
        with ContextStore(large) as store:
            store.list_runs()
            wipe(large, pages_of(large, "output_rows")[3])
            assert not store.check().ok

    def test_so_is_the_first_page(self, large: pathlib.Path) -> None:
        with ContextStore(large) as store:
            store.list_runs()
            with open(large, "r+b") as file:
                file.write(b"\x00" * 4096)
            report = store.check()
            assert ("file", ()) in {(problem.kind, problem.key) for problem in report.problems}

    @pytest.mark.parametrize("pages", [1, 3, 20])
    def test_a_file_that_was_cut_off_is_found_or_refused(self, large: pathlib.Path, pages: int) -> None:
        os.truncate(large, large.stat().st_size - pages * 4096)
        try:
            report = checked(large)
        except ContextStoreError:
            return
        assert not report.ok

    def test_so_is_one_that_is_cut_off_while_the_store_is_open(self, large: pathlib.Path) -> None:
        with ContextStore(large) as store:
            store.list_runs()
            os.truncate(large, large.stat().st_size - 20 * 4096)
            assert not store.check().ok


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 5])
def test_after_a_flipped_bit_anywhere_a_check_finds_it_or_all_values_are_right(
    bits: int, path: pathlib.Path, template: bytes
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    told = {"refused": 0, "found": 0, "right": 0}
    for _ in range(50):
        content = bytearray(template)
        offsets = []
        for _ in range(bits):
            # Half of them where pages keep their accounts.
            within = chosen.randrange(100) if chosen.random() < 0.5 else chosen.randrange(4096)
            offset = chosen.randrange(len(content) // 4096) * 4096 + within
            content[offset] ^= 1 << chosen.randrange(8)
            offsets.append(offset)
        for leftover in path.parent.glob("store.db*"):
            leftover.unlink()
        path.write_bytes(content)
        context = f"seed {seed}, offsets {offsets}"
        try:
            with ContextStore(path, cache_bytes=0) as store:
                try:
                    report = store.check()
                except ContextStoreError:
                    told["found"] += 1
                    continue
                wrong = [key for key, value in everything(store) if value == "wrong"]
                assert wrong == [] or not report.ok, context
                told["right" if report.ok else "found"] += 1
        except ContextStoreError:
            told["refused"] += 1
    print(told)
    assert told["found"] > 5


def everything(store: ContextStore) -> Iterator[tuple[Any, str]]:
    """Every way to read everything: what was read is right, wrong (or missing), or refused as it should be."""

    def read(key: Any, call: Callable[[], Any], expected: Any) -> tuple[Any, str]:
        try:
            return key, "right" if call() == expected else "wrong"
        except ContextStoreError:
            return key, "wrong"

    for run, outputs in EVERYTHING.items():
        for node, value in outputs.items():
            yield read((run, node), lambda run=run, node=node: store.get(run, node, "missing"), value)
            yield read((run, node), lambda run=run, node=node: store.exists(run, node), True)
            yield read((run, node), lambda run=run, node=node: getattr(store.get_entry(run, node), "value", ()), value)
        yield read(run, lambda run=run: store.list_keys(run), sorted(outputs))
        yield read(run, lambda run=run: store.get_run(run), dict(sorted(outputs.items())))
    for i in range(19):
        yield read(i, lambda i=i: store.get_global(f"key-{i:02}"), {"i": i})
    yield read("globals", lambda: [entry.value["i"] for entry in store.list_globals()], list(range(19)))
    yield read("runs", lambda: [run.flow_run_id for run in store.list_runs()], ["run-2", "run-1"])
    yield read("deleted", lambda: store.list_keys("deleted"), [])


# ------------------------------------------------------------------------------------------------------------- backup


class TestBackup:
    async def test_the_copy_is_a_store_with_everything_in_it(self, store: Any, tmp_path: pathlib.Path) -> None:
        for run, outputs in EVERYTHING.items():
            await store.put_many(run, outputs)
        await store.upsert_global("key", 1)
        await store.upsert_global("key", 2)
        await store.upsert_global("gone", 1)
        await store.delete_global("gone")
        await store.delete_run("deleted")
        runs = await store.list_runs()
        await store.backup(tmp_path / "copy.db")
        with ContextStore(tmp_path / "copy.db", create=False) as copy:
            assert copy.check().ok
            assert copy.list_runs() == runs
            for run, outputs in EVERYTHING.items():
                assert copy.get_run(run) == dict(sorted(outputs.items()))
                for node in outputs:
                    assert copy.get_entry(run, node) == await store.get_entry(run, node)
            assert copy.get_global_entry("key") == await store.get_global_entry("key")
            # It writes, and goes on from where the original was.
            assert copy.upsert_global("gone", 1) == 2
            with pytest.raises(ContextStoreError, match="was deleted"):
                copy.put("deleted", "a", 1)
            copy.put("run-3", "a", 1)
        assert await store.list_keys("run-3") == []

    async def test_it_is_one_file_for_its_owner_only(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put("run", "a", 1)
        folder = tmp_path / "copies"
        folder.mkdir()
        old = os.umask(0)
        try:
            await store.backup(folder / "copy.db")
        finally:
            os.umask(old)
        assert os.listdir(folder) == ["copy.db"]
        assert stat.S_IMODE((folder / "copy.db").stat().st_mode) == 0o600

    @pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path], ids=["str", "bytes", "Path"])
    async def test_the_path_may_be_of_any_kind_and_relative(
        self, store: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        await store.put("run", "a", 1)
        await store.backup(kind("copy é.db"))
        with ContextStore(tmp_path / "copy é.db") as copy:
            assert copy.get("run", "a") == 1

    async def test_an_existing_file_is_left_as_it_is(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put("run", "a", 1)
        for name, make in {
            "file": lambda path: path.write_bytes(b"precious"),
            "empty": lambda path: path.write_bytes(b""),
            "folder": lambda path: path.mkdir(),
            "dangling": lambda path: path.symlink_to(tmp_path / "nowhere"),
        }.items():
            path = tmp_path / name
            make(path)
            before = path.lstat()
            with pytest.raises(StorageError, match="is there already"):
                await store.backup(path)
            assert path.lstat() == before
            assert not path.with_name(name + ".part").exists()
        assert (tmp_path / "file").read_bytes() == b"precious"
        assert not (tmp_path / "nowhere").exists()

    @pytest.mark.usefixtures("shared_target")
    async def test_nor_is_the_store_itself_overwritten(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "a", 1)
            with pytest.raises(StorageError, match="is there already"):
                await store.backup(make_store.location)
            assert await store.get("run", "a") == 1
            await store.put("run", "b", 1)

    async def test_a_file_that_appears_meanwhile_is_left_as_it_is(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put("run", "a", 1)
        copy = tmp_path / "copy.db"
        in_each_step(store, lambda: copy.write_bytes(b"precious"))
        with pytest.raises(StorageError):
            await store.backup(copy)
        assert copy.read_bytes() == b"precious"
        assert not copy.with_name("copy.db.part").exists()

    async def test_a_missing_folder_is_named_and_not_made(self, store: Any, tmp_path: pathlib.Path) -> None:
        with pytest.raises(StoreNotFoundError, match="nowhere"):
            await store.backup(tmp_path / "nowhere" / "copy.db")
        assert not (tmp_path / "nowhere").exists()

    async def test_a_name_that_cannot_be_one_is_refused(self, store: Any, tmp_path: pathlib.Path) -> None:
        with pytest.raises(ValueError, match="NUL"):
            await store.backup(f"{tmp_path}/a\0b")
        with pytest.raises(TypeError):
            await store.backup(7)
        with pytest.raises(StorageError):
            await store.backup(tmp_path / ("x" * 300))
        assert [name for name in os.listdir(tmp_path) if "store.db" not in name] == []

    async def test_another_under_way_is_not_disturbed(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put_many("run", {str(i): "x" * 10_000 for i in range(300)})
        results = await asyncio.gather(*(store.backup(tmp_path / "copy.db") for _ in range(3)), return_exceptions=True)
        assert results.count(None) == 1
        assert all(isinstance(result, StorageError) for result in results if result is not None)
        with ContextStore(tmp_path / "copy.db") as copy:
            assert copy.check().ok
            assert len(copy.list_keys("run")) == 300
        assert not (tmp_path / "copy.db.part").exists()

    async def test_several_to_different_places_at_once(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put_many("run", {str(i): i for i in range(100)})
        await asyncio.gather(*(store.backup(tmp_path / f"copy-{i}.db") for i in range(4)))
        for i in range(4):
            with ContextStore(tmp_path / f"copy-{i}.db") as copy:
                assert len(copy.list_keys("run")) == 100

    async def test_on_a_file_system_without_hard_links_it_works_and_overwrites_nothing(
        self, store: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(1, "Operation not permitted")  # what vfat says

        monkeypatch.setattr(_sqlite_place.os, "link", refuse)
        await store.put("run", "a", 1)
        copy = tmp_path / "copy.db"
        await store.backup(copy)
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        with ContextStore(copy) as opened:
            assert opened.get("run", "a") == 1
        assert not copy.with_name("copy.db.part").exists()
        late = tmp_path / "late.db"
        in_each_step(store, lambda: late.write_bytes(b"precious"))
        with pytest.raises(StorageError):
            await store.backup(late)
        assert late.read_bytes() == b"precious"

    async def test_one_that_was_cut_off_earlier_is_named(self, store: Any, tmp_path: pathlib.Path) -> None:
        part = tmp_path / "copy.db.part"
        part.write_bytes(b"left over")
        with pytest.raises(StorageError, match=r"copy\.db\.part is there already"):
            await store.backup(tmp_path / "copy.db")
        assert part.read_bytes() == b"left over"

    @pytest.mark.usefixtures("shared_target")
    async def test_a_store_that_is_only_read_can_be_copied(self, make_store: Target, tmp_path: pathlib.Path) -> None:
        async with make_store() as store:
            await store.put("run", "a", 1)
            async with make_store(read_only=True) as reader:
                await store.put("run", "b", 2)
                await reader.backup(tmp_path / "copy.db")
        with ContextStore(tmp_path / "copy.db") as copy:
            assert copy.get_run("run") == {"a": 1, "b": 2}

    async def test_a_fault_of_the_engine_is_raised(self, store: Any, tmp_path: pathlib.Path) -> None:
        fail(store, "backup", StorageError("no"))
        with pytest.raises(StorageError, match="no"):
            await store.backup(tmp_path / "copy.db")


class TestProgress:
    @pytest.fixture
    async def filled(self, store: Any) -> Any:
        for i in range(0, 40, 10):
            await store.put_many("run", {str(j): b"x" * 200_000 for j in range(i, i + 10)})
        return store

    async def test_it_rises_to_the_end(self, filled: Any, tmp_path: pathlib.Path) -> None:
        told: list[tuple[int, int]] = []
        await filled.backup(tmp_path / "copy.db", progress=lambda *event: told.append(event))
        assert told == sorted(set(told))
        assert len({total for _, total in told}) == 1
        assert told[-1][0] == told[-1][1] > 1900
        assert (tmp_path / "copy.db").stat().st_size == told[-1][1] // 2 * 4096  # once copied, once verified

    async def test_it_is_called_where_backup_was_called(self, filled: Any, tmp_path: pathlib.Path) -> None:
        called_in: set[Any] = set()
        if hasattr(filled, "blocking"):

            def backup() -> int:
                copy = tmp_path / "copy.db"
                filled.blocking.backup(copy, progress=lambda *_: called_in.add(threading.get_ident()))
                return threading.get_ident()

            assert {await asyncio.to_thread(backup)} == called_in
        else:
            await filled.backup(tmp_path / "copy.db", progress=lambda *_: called_in.add(asyncio.current_task()))
            assert called_in == {asyncio.current_task()}

    async def test_it_may_be_a_coroutine_function_on_the_async_face_alone(
        self, filled: Any, tmp_path: pathlib.Path
    ) -> None:
        told = []

        async def progress(done: int, total: int) -> None:
            told.append((done, total))
            await asyncio.sleep(0)

        if hasattr(filled, "blocking"):
            with pytest.raises(TypeError, match="AsyncContextStore"):
                await filled.backup(tmp_path / "copy.db", progress=progress)
            assert not (tmp_path / "copy.db").exists()
        else:
            await filled.backup(tmp_path / "copy.db", progress=progress)
            assert told[-1][0] == told[-1][1]

    async def test_when_it_raises_the_copying_is_given_up(self, filled: Any, tmp_path: pathlib.Path) -> None:
        folder = tmp_path / "copies"
        folder.mkdir()
        hold = held_at_its_first_step(filled)

        def progress(done: int, total: int) -> None:
            hold.set()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await filled.backup(folder / "copy.db", progress=progress)
        assert os.listdir(folder) == []
        await filled.backup(folder / "copy.db")  # and it can be begun anew at once
        await filled.put("run", "new", 1)

    async def test_when_it_is_cancelled_the_copying_is_given_up(
        self, make_store: Target, tmp_path: pathlib.Path
    ) -> None:
        if make_store.face != "async":
            pytest.skip("a blocked thread cannot be cancelled")
        folder = tmp_path / "copies"
        folder.mkdir()
        async with make_store() as store:
            for i in range(0, 40, 10):
                await store.put_many("run", {str(j): b"x" * 200_000 for j in range(i, i + 10)})
            hold = held_at_its_first_step(store)
            backing_up = asyncio.ensure_future(store.backup(folder / "copy.db"))
            await until(lambda: os.listdir(folder))
            await asyncio.sleep(0.01)
            backing_up.cancel()
            await asyncio.sleep(0)
            hold.set()
            with pytest.raises(asyncio.CancelledError):
                await backing_up
            assert os.listdir(folder) == []
            await store.backup(folder / "copy.db")


def in_each_step(store: Any, act: Callable[[], Any]) -> None:
    """Have something done after each step of the copying, in the thread that copies."""
    engine: Any = core_of(store)._engine
    backup = engine.backup

    async def acting(path: str, report: Callable[[int, int], None], *options: bool) -> None:
        def report_and_act(done: int, total: int) -> None:
            report(done, total)
            act()

        await backup(path, report_and_act, *options)

    engine.backup = acting


def held_at_its_first_step(store: Any) -> threading.Event:
    """Have the copying wait after its first step until the event is set."""
    go_on = threading.Event()
    in_each_step(store, lambda: go_on.wait(30))
    return go_on


class TestLive:
    async def test_under_load_the_copy_is_the_store_at_one_moment(self, store: Any, tmp_path: pathlib.Path) -> None:
        await store.put_many("ballast", {str(i): b"x" * 100_000 for i in range(50)})
        stop = asyncio.Event()
        acknowledged = [-1] * 4

        async def work(worker: int) -> None:
            for i in range(10**6):
                if stop.is_set():
                    return
                await store.put(f"run-{worker}", f"{i:06}", {"i": i, "text": "x" * (i % 500)})
                await store.upsert_global(f"key-{worker}", i)
                acknowledged[worker] = i

        workers = [asyncio.ensure_future(work(worker)) for worker in range(4)]
        for number in range(3):
            copy = tmp_path / f"copy-{number}.db"
            before = list(acknowledged)
            await store.backup(copy)
            after = list(acknowledged)
            await asyncio.to_thread(self.examine, copy, before, after)
        stop.set()
        await asyncio.gather(*workers)

    @staticmethod
    def examine(copy: pathlib.Path, before: list[int], after: list[int]) -> None:
        with ContextStore(copy) as opened:
            assert opened.check().ok
            for worker in range(4):
                outputs = opened.get_run(f"run-{worker}")
                # A prefix of what was written, at least up to when it began, at most up to when it ended.
                assert list(outputs) == [f"{i:06}" for i in range(len(outputs))]
                assert before[worker] < len(outputs) <= after[worker] + 2
                assert all(outputs[f"{i:06}"] == {"i": i, "text": "x" * (i % 500)} for i in range(len(outputs)))
                # Each worker writes its global after its output: the two are of one moment.
                assert opened.get_global(f"key-{worker}", -1) in (len(outputs) - 1, len(outputs) - 2)

    @pytest.mark.slow
    def test_while_another_process_writes(self, file_path: pathlib.Path, tmp_path: pathlib.Path) -> None:
        program = """
            with ContextStore(sys.argv[1]) as store:
                for i in range(10**9):
                    with store.batch() as batch:
                        batch.put("run", f"{i:06}", i)
                        batch.put("twin", f"{i:06}", i)
                        batch.upsert_global("last", i)
                    if i == 50:
                        say("busy")
        """
        with Child(program, file_path) as child, ContextStore(file_path) as store:
            assert child.hear() == "busy"
            for number in range(5):
                store.backup(tmp_path / f"copy-{number}.db")
            child.kill()
        lengths = []
        for number in range(5):
            with ContextStore(tmp_path / f"copy-{number}.db") as copy:
                assert copy.check().ok
                nodes = copy.list_keys("run")
                assert nodes == copy.list_keys("twin") == [f"{i:06}" for i in range(copy.get_global("last") + 1)]
                lengths.append(len(nodes))
        assert lengths == sorted(lengths)

    async def test_writes_and_reads_go_on_meanwhile(self, make_store: Target, tmp_path: pathlib.Path) -> None:
        if make_store.engine == "memory":
            pytest.skip("the one connection is busy with the copy")
        async with make_store() as store:
            await store.put_many("run", {str(i): b"x" * 100_000 for i in range(50)})
            go_on = held_at_its_first_step(store)
            backing_up = asyncio.ensure_future(store.backup(tmp_path / "copy.db"))
            await until(lambda: (tmp_path / "copy.db.part").exists())
            await store.put("run", "meanwhile", 1)
            assert await store.get("run", "meanwhile") == 1
            assert len(await store.list_keys("run")) == 51
            await store.upsert_global("key", 1)
            go_on.set()
            await backing_up
        with ContextStore(tmp_path / "copy.db") as copy:
            assert copy.check().ok
            assert len(copy.list_keys("run")) in (50, 51)

    async def test_closing_waits_for_it(self, make_store: Target, tmp_path: pathlib.Path) -> None:
        store = make_store()
        await store.put_many("run", {str(i): b"x" * 100_000 for i in range(50)})
        go_on = held_at_its_first_step(store)
        backing_up = asyncio.ensure_future(store.backup(tmp_path / "copy.db"))
        await until(lambda: (tmp_path / "copy.db.part").exists())
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.gather(backing_up, closing)
        with ContextStore(tmp_path / "copy.db") as copy:
            assert copy.check().ok


@pytest.mark.slow
def test_without_room_for_it_nothing_is_left_behind(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    program = """
        import resource
        with ContextStore(sys.argv[1]) as store:
            store.list_runs()
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
            try:
                store.backup(sys.argv[2])
            except StorageError as error:
                say(type(error).__name__)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert store.get("run-2", "null", "missing") is None
            say("works")
    """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    folder = tmp_path / "copies"
    folder.mkdir()
    for limit in (0, 4096, 30_000):
        with Child(program, path, folder / "copy.db", limit) as child:
            status, said, err = child.end()
        assert (status, err) == (0, "")
        assert said[1:] == ["works"]
        assert said[0] in ("StorageError", "StoreFullError")
        assert os.listdir(folder) == []


@pytest.mark.slow
def test_one_that_was_killed_has_not_got_its_name(file_path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    program = """
        from tests.doubles import core_of
        with ContextStore(sys.argv[1]) as store:
            store.list_runs()
            store.backup(sys.argv[2], progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
    """
    with ContextStore(file_path) as store:
        store.put_many("run", {str(i): b"x" * 1_000_000 for i in range(30)})
    with Child(program, file_path, tmp_path / "copy.db") as child:
        assert child.end()[0] == -signal.SIGKILL
    # Either it was quick, and the copy is whole; or only the part is there, which is named.
    if (tmp_path / "copy.db").exists():
        assert checked(tmp_path / "copy.db").outputs == 30
    else:
        with ContextStore(file_path) as store:
            with pytest.raises(StorageError, match="remove it"):
                store.backup(tmp_path / "copy.db")
            (tmp_path / "copy.db.part").unlink()
            store.backup(tmp_path / "copy.db")
        assert checked(tmp_path / "copy.db").ok


def test_a_problem_is_plain() -> None:
    problem = Problem("output", ("run", "node"), "message")
    assert dataclasses.astuple(problem) == ("output", ("run", "node"), "message")
