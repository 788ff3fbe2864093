"""A store that is open sees that another version has brought it to another format: it stores nothing, and says so."""

from __future__ import annotations

import concurrent.futures
import pathlib
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import ContextStore, IncompatibleStoreError
from contextstore._sqlite import file, migrations, schema

from ..support.doubles import core_of
from .files import Make, plain, run_in_child

pytestmark = pytest.mark.disk

PRESENT = schema.SCHEMA_VERSION
NEXT = PRESENT + 1

WRITES: dict[str, Callable[[Any], Any]] = {
    "put": lambda store: store.put("run", "new", 1),
    "put in a new run": lambda store: store.put("new", "new", 1),
    "put of what is there": lambda store: store.put("run", "a", 1, exist_ok=True),
    "put_many": lambda store: store.put_many("run", {"new": 1, "newer": 2}),
    "put_global": lambda store: store.put_global("new", 1),
    "upsert_global": lambda store: store.upsert_global("key", 2),
    "delete_run": lambda store: store.delete_run("run"),
}
READS: dict[str, Callable[[Any], Any]] = {
    "get": lambda store: store.get("run", "a"),
    "get of what is cached": lambda store: store.get("run", "b"),
    "get_many": lambda store: store.get_many("run", ["a", "b"]),
    "list_keys": lambda store: store.list_keys("run"),
    "get_global": lambda store: store.get_global("key"),
    "list_runs": lambda store: store.list_runs(),
    "stats": lambda store: store.stats(),
    "ping": lambda store: store.ping(),
}


def fill(path: pathlib.Path) -> None:
    with ContextStore(path) as store:
        store.put_many("run", {"a": 1, "b": 2})
        store.put_global("key", 1)


def rows(path: pathlib.Path) -> list[list[tuple[Any, ...]]]:
    with plain(path) as connection:
        tables = ("flow_runs", "node_outputs", "global_values")
        return [connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in tables]


def keep_names(connection: sqlite3.Connection) -> None:
    """As a version does whose format differs in nothing that has a name."""


def rename_tables(connection: sqlite3.Connection) -> None:
    for name in ("flow_runs", "node_outputs", "global_values"):
        connection.execute(f"ALTER TABLE {name} RENAME TO newer_{name}")


def migrate_by_a_newer_version(path: pathlib.Path, step: Callable[[sqlite3.Connection], None]) -> None:
    """In a process of its own: opened by a version whose format is the next."""
    schema.SCHEMA_VERSION = migrations.SCHEMA_VERSION = NEXT
    migrations.MIGRATIONS = {PRESENT: step}
    file.check_schema_untouched = lambda *_: None
    ContextStore(path).open()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_number_that_anyone_sets_ends_the_writes(make_either: Make, file_path: pathlib.Path, write: Any) -> None:
    fill(file_path)
    with make_either(file_path) as store:
        store.put("run", "c", 3)
        with plain(file_path) as connection:
            connection.execute(f"PRAGMA user_version = {NEXT}")
        before = rows(file_path)
        for _ in range(2):
            with pytest.raises(
                IncompatibleStoreError, match=rf"brought to schema {NEXT}.*upgrade contextstore"
            ) as caught:
                write(store)
            assert not caught.value.outcome_unknown
        assert rows(file_path) == before


@pytest.mark.each_input_once
@pytest.mark.parametrize("step", [keep_names, rename_tables])
@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_migration_ends_the_reads(
    make_either: Make, file_path: pathlib.Path, read: Any, read_only: bool, step: Any
) -> None:
    fill(file_path)
    with ContextStore(file_path), make_either(file_path, read_only=read_only) as store:  # one that writes keeps it open
        assert store.get("run", "b") == 2
        run_in_child(lambda: migrate_by_a_newer_version(file_path, step))
        if read_only and read is READS["get of what is cached"]:
            return  # for at most a second it may go on answering from its cache
        for _ in range(2):
            with pytest.raises(IncompatibleStoreError, match="upgrade contextstore"):
                read(store)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_migration_that_renames_tables_ends_the_waiting_too(file_path: pathlib.Path, read_only: bool) -> None:
    fill(file_path)
    with (
        ContextStore(file_path),
        ContextStore(file_path, read_only=read_only) as store,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        waiting = pool.submit(store.wait_for, "run", "new", timeout=60)
        core: Any = core_of(store)
        while core._session.subscriptions._polling is None:
            time.sleep(0.001)
        run_in_child(lambda: migrate_by_a_newer_version(file_path, rename_tables))
        assert isinstance(error := waiting.exception(60), IncompatibleStoreError)
        assert "upgrade contextstore" in str(error)


@pytest.mark.parametrize("step", [keep_names, rename_tables])
@pytest.mark.parametrize("check", [True, False])
def test_a_backup_of_what_a_newer_version_has_migrated_is_refused_and_leaves_no_file(
    make_either: Make, file_path: pathlib.Path, tmp_path: pathlib.Path, check: bool, step: Any
) -> None:
    fill(file_path)
    folder = tmp_path / "backups"
    folder.mkdir()
    with make_either(file_path) as store:
        run_in_child(lambda: migrate_by_a_newer_version(file_path, step))
        with pytest.raises(IncompatibleStoreError, match=rf"brought to schema {NEXT}.*upgrade contextstore"):
            store.backup(folder / "backup.db", check=check)
        assert list(folder.iterdir()) == []
        assert "upgrade contextstore" in store.check().problems[0].message


def test_what_was_written_beside_by_others_ends_nothing(file_path: pathlib.Path) -> None:
    fill(file_path)
    with ContextStore(file_path) as store, plain(file_path) as connection:
        for number in range(5):
            connection.execute("CREATE TABLE IF NOT EXISTS notes (text)")
            connection.execute("INSERT INTO notes VALUES ('a note')")
            store.put("run", f"alone-{number}", 1)
            store.put_many("run", {f"{number}-1": 1, f"{number}-2": 2})
        assert len(store.list_keys("run")) == 17
