"""What somebody else has added to a store's file: what may stay, and what is refused, with the way out."""

from __future__ import annotations

import contextlib
import pathlib
import re
import sqlite3
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, IncompatibleStoreError

from ..conftest import FACES, Awaited

HARMLESS = {
    "an index": "CREATE INDEX by_time ON node_outputs (written_at)",
    "an index of several columns": "CREATE INDEX by_both ON node_outputs (run, written_at DESC)",
    "an index on a value": "CREATE INDEX by_value ON node_outputs (value)",
    "an index that folds case": "CREATE INDEX by_name ON global_values (key COLLATE NOCASE)",
    "a partial index": "CREATE INDEX large ON node_outputs (size) WHERE size > 1000 AND codec IN (0, 1)",
    "a partial index on what is there": "CREATE INDEX there ON global_values (written_at) WHERE value IS NOT NULL",
    "a partial index on a text": "CREATE INDEX of_a ON node_outputs (run) WHERE node_id = 'it''s (a)'",
    "an index of a name that needs quoting": 'CREATE INDEX "by ""time"" of day" ON node_outputs (written_at)',
    "a view": "CREATE VIEW newest AS SELECT * FROM outputs ORDER BY written_at DESC",
    "a table": "CREATE TABLE notes (note PRIMARY KEY)",
    "a unique index on a table of theirs": "CREATE TABLE notes (note); CREATE UNIQUE INDEX once ON notes (note)",
    "a trigger on a table of theirs": (
        "CREATE TABLE notes (n); CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM notes; END"
    ),
    "a table that refers to ours": "CREATE TABLE notes (run REFERENCES flow_runs (serial) ON DELETE RESTRICT)",
    "a full-text index": "CREATE VIRTUAL TABLE words USING fts5 (word)",
    "statistics": "ANALYZE",
}

HARMFUL = {
    "a unique index": ("CREATE UNIQUE INDEX once ON node_outputs (written_at)", "DROP INDEX once;"),
    "a unique partial index": ("CREATE UNIQUE INDEX once ON node_outputs (run) WHERE run > 5", "DROP INDEX once;"),
    "an index on an expression": ("CREATE INDEX e ON node_outputs (abs(size))", "DROP INDEX e;"),
    "an index on JSON": ("CREATE INDEX j ON node_outputs (json_extract(value, '$.a'))", "DROP INDEX j;"),
    "a condition with a function": ("CREATE INDEX p ON node_outputs (run) WHERE abs(size) > 1", "DROP INDEX p;"),
    "a condition with LIKE": ("CREATE INDEX p ON node_outputs (run) WHERE node_id LIKE 'a%'", "DROP INDEX p;"),
    "a condition with arithmetic": ("CREATE INDEX p ON node_outputs (run) WHERE size + 1 > 1", "DROP INDEX p;"),
    "a trigger": ("CREATE TRIGGER t AFTER INSERT ON node_outputs BEGIN SELECT 1; END", "DROP TRIGGER t;"),
    "a trigger, written large": (
        "CREATE TRIGGER t AFTER INSERT ON NODE_OUTPUTS BEGIN SELECT 1; END",
        "DROP TRIGGER t;",
    ),
    "a trigger on a view": (
        "CREATE TRIGGER t INSTEAD OF INSERT ON outputs BEGIN SELECT 1; END",
        "DROP TRIGGER t;",
    ),
    "two of a name that needs quoting": (
        'CREATE UNIQUE INDEX "a ""b""" ON flow_runs (created_at); CREATE UNIQUE INDEX "c d" ON flow_runs (deleted_at)',
        'DROP INDEX "a ""b"""; DROP INDEX "c d";',
    ),
}


def execute(path: pathlib.Path, script: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(script)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "flows.db"
    with ContextStore(path) as store:
        store.put("run", "a", {"a": 1})
        store.put_global("key", b"bytes")
    return path


def store_at(path: pathlib.Path, face: str, **options: Any) -> Any:
    return AsyncContextStore(path, **options) if face == "async" else Awaited(ContextStore(path, **options))


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("kind", HARMLESS)
class TestWhatMayStay:
    async def test_keeps_no_store_from_opening_and_working(self, path: pathlib.Path, face: str, kind: str) -> None:
        execute(path, HARMLESS[kind])
        async with store_at(path, face) as store:
            await store.put("run", "b", {"b": [1, None, "x" * 10_000]})
            await store.put_many("run", {str(number): b"\x00\xff" * number for number in range(50)})
            await store.upsert_global("key", 2)
            await store.put("gone", "a", 1)
            assert await store.delete_run("gone") == 1
            assert await store.get("run", "b") == {"b": [1, None, "x" * 10_000]}
        async with store_at(path, face, read_only=True) as reader:
            assert len(await reader.list_keys("run")) == 52

    async def test_is_noted_by_check_and_is_no_problem(self, path: pathlib.Path, face: str, kind: str) -> None:
        execute(path, HARMLESS[kind])
        async with store_at(path, face) as store:
            report = await store.check()
        assert report.ok, report.problems
        if kind != "statistics":
            assert [note for note in report.notes if "is not the store's" in note]

    @pytest.mark.thorough
    async def test_goes_with_a_backup(self, path: pathlib.Path, face: str, kind: str) -> None:
        execute(path, HARMLESS[kind])
        async with store_at(path, face) as store:
            await store.backup(path.with_name("copy.db"))
        async with store_at(path.with_name("copy.db"), face) as copy:
            assert await copy.get("run", "a") == {"a": 1}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("kind", HARMFUL)
class TestWhatCanChangeOrRefuseWhatIsStored:
    async def test_is_refused_until_the_remedy_that_is_named(self, path: pathlib.Path, face: str, kind: str) -> None:
        script, remedy = HARMFUL[kind]
        execute(path, script)
        for options in ({}, {"read_only": True}):
            with pytest.raises(IncompatibleStoreError, match="somebody has altered its schema") as caught:
                await store_at(path, face, **options).open()
            named = re.search(r"execute in it '(.*)'$", str(caught.value))
            assert named is not None
            assert named[1] == remedy
        execute(path, named[1])
        async with store_at(path, face) as store:
            await store.put("run", "b", 1)
            assert (await store.check()).ok

    async def test_is_a_problem_for_a_store_that_is_open(self, path: pathlib.Path, face: str, kind: str) -> None:
        async with store_at(path, face) as store:
            execute(path, HARMFUL[kind][0])
            report = await store.check()
        assert not report.ok
        assert all("DROP" in problem.message for problem in report.problems if problem.kind == "schema")
        assert [problem for problem in report.problems if problem.kind == "schema"]


@pytest.mark.parametrize(
    "script", ["DROP VIEW outputs", "DROP INDEX tombstones", "ALTER TABLE flow_runs ADD COLUMN owner"]
)
def test_what_is_missing_or_altered_takes_a_backup(path: pathlib.Path, script: str) -> None:
    execute(path, script)
    with pytest.raises(IncompatibleStoreError, match="restore a backup"):
        ContextStore(path).open()


def test_a_library_that_enforces_foreign_keys_is_not_kept_from_deleting(path: pathlib.Path) -> None:
    """SQLite may be built so that it enforces them unless told otherwise."""
    execute(
        path, "CREATE TABLE notes (run REFERENCES flow_runs (serial)); INSERT INTO notes SELECT serial FROM flow_runs"
    )
    with ContextStore(path) as store:
        assert store.delete_run("run") == 1
        assert store._core.session.engine._database._writing.connection.execute("PRAGMA foreign_keys").fetchone() == (
            0,
        )  # type: ignore[attr-defined]
