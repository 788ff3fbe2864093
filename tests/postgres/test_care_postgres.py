"""Care of a store on a server: what stats tells, what check finds, and what takes the place of a backup."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from contextstore import ContextStore, CorruptStoreError, Problem, StorageError, copy


@pytest.fixture
def store(url: str) -> Iterator[ContextStore]:
    with ContextStore(url) as opened:
        yield opened


def execute(url: str, statement: str) -> Any:
    """Somebody else's statement; the schema stands for {schema}."""
    address, _, schema = url.partition("?schema=")

    async def run() -> Any:
        connection = await asyncpg.connect(address)
        try:
            return await connection.fetch(statement.replace("{schema}", schema))
        finally:
            await connection.close()

    return asyncio.run(run())


def test_stats_count_what_there_is(store: ContextStore) -> None:
    store.put_many("run", {"a": "x" * 100, "b": 1})
    store.put("other", "a", b"12345")
    store.put_global("key", "value")
    store.upsert_global("gone", 1)
    store.delete_global("gone")
    store.delete_run("deleted")
    stats = store.stats()
    assert (stats.runs, stats.outputs, stats.globals, stats.tombstones) == (2, 3, 1, 1)
    assert stats.value_bytes == 102 + 1 + 5 + 7
    assert stats.file_bytes > 8192
    assert stats.engine.startswith("PostgreSQL 1")


def test_a_sound_store_has_no_problems(store: ContextStore) -> None:
    store.put_many("run", {str(i): i for i in range(130)})
    for i in range(60):
        store.upsert_global(f"key-{i}", i)
    store.delete_global("key-7")
    store.delete_run("deleted")
    report = store.check()
    assert report.ok
    assert (report.runs, report.outputs, report.globals, report.notes) == (1, 130, 59, ())


@pytest.mark.parametrize(
    "change",
    [
        "value = '3'",
        "checksum = checksum + 1",
        "size = size + 1",
        "codec = 7",
        "written_at = -1",
        "written_at = 1::bigint << 61",
    ],
)
def test_whatever_is_damaged_is_found_and_named_and_never_returned(store: ContextStore, url: str, change: str) -> None:
    store.put_many("run", {"a": 1, "b": 2, "c": 3})
    store.put_global("key", 1)
    execute(url, f"UPDATE {{schema}}.node_outputs SET {change} WHERE node_id = 'b'")
    execute(url, f"UPDATE {{schema}}.global_values SET {change}")
    assert {(problem.kind, problem.key) for problem in store.check().problems} == {
        ("output", ("run", "b")),
        ("global", ("key",)),
    }
    with ContextStore(url) as fresh:
        with pytest.raises(CorruptStoreError, match="'b'"):
            fresh.get("run", "b")
        with pytest.raises(CorruptStoreError, match="'key'"):
            fresh.get_global("key")
        assert fresh.get("run", "c") == 3
        with pytest.raises(CorruptStoreError):
            fresh.get_run("run")


def test_swapped_rows_are_found(store: ContextStore, url: str) -> None:
    store.put_many("run", {"a": 1, "b": 2})
    execute(
        url,
        """
        UPDATE {schema}.node_outputs o SET value = p.value, checksum = p.checksum
        FROM {schema}.node_outputs p WHERE p.node_id <> o.node_id
        """,
    )
    problems = store.check().problems
    assert all(isinstance(problem, Problem) for problem in problems)
    assert sorted(problem.key for problem in problems) == [("run", "a"), ("run", "b")]


def test_what_a_deletion_has_left_is_noted(store: ContextStore, url: str) -> None:
    store.put_many("run", {"a": 1, "b": 2})
    execute(url, "UPDATE {schema}.flow_runs SET deleted_at = 1")
    report = store.check()
    assert report.ok
    assert report.notes == ("2 outputs of deleted runs still take up space: prune() removes them",)


def test_a_backup_is_refused_with_what_to_do_instead(store: ContextStore, tmp_path: pathlib.Path) -> None:
    store.put("run", "a", 1)
    with pytest.raises(StorageError, match="copy"):
        store.backup(tmp_path / "backup.db")
    assert list(tmp_path.iterdir()) == []
    with ContextStore(tmp_path / "backup.db") as backup:
        copy(store, backup)
        assert backup.get("run", "a") == 1


def test_people_can_read_it_with_psql(store: ContextStore, url: str) -> None:
    store.put("run", "a", {"text": "é"})
    store.put("run", "b", b"\x00\xff")
    store.upsert_global("key", [1])
    rows = execute(url, "SELECT flow_run_id, node_id, value FROM {schema}.outputs ORDER BY node_id")
    assert [tuple(row) for row in rows] == [("run", "a", '{"text":"é"}'), ("run", "b", "00ff")]
    with contextlib.suppress(KeyError):
        (row,) = execute(url, "SELECT key, value, version FROM {schema}.globals")
        assert tuple(row) == ("key", "[1]", 1)
