"""A file of an earlier schema becomes one of the present schema, whole or not at all."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import pathlib
import signal
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import IncompatibleStoreError, StorageError
from contextstore._sqlite import backup as _backup
from contextstore._sqlite import file as _file
from contextstore._sqlite import migrations as _migrations
from contextstore._sqlite import schema as _schema
from contextstore._sqlite import visit as _visit

from .files import Make, _open, contents, left_as_it_was, make_sample, plain, refused, run_in_child

pytestmark = pytest.mark.disk

PRESENT = _schema.SCHEMA_VERSION

Migration = Callable[[sqlite3.Connection], None]


@pytest.fixture
def newer_library(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this a version of the library whose schema is that many steps on from the present one."""

    def upgrade(*migrations: Migration) -> None:
        version = PRESENT + len(migrations)
        for module in (_schema, _visit, _migrations, _backup):
            monkeypatch.setattr(module, "SCHEMA_VERSION", version)
        for module in (_file, _visit):
            # The schema of a new file stays the present one, so that nothing can be compared with it.
            monkeypatch.setattr(module, "check_schema_untouched", lambda *_: None)
        monkeypatch.setattr(_migrations, "MIGRATIONS", dict(enumerate(migrations, PRESENT)))

    return upgrade


def add_tags(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE flow_runs ADD COLUMN tag TEXT")
    connection.execute("UPDATE flow_runs SET tag = 'tag of ' || flow_run_id")


def add_owners(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE owners AS SELECT tag FROM flow_runs")


class TestMigration:
    def test_an_older_schema_is_brought_up_to_date_by_opening(
        self, make_either: Make, file_path: pathlib.Path, newer_library: Callable[..., None]
    ) -> None:
        expected = make_sample(file_path, 5)
        newer_library(add_tags, add_owners)
        with make_either(file_path) as store:
            assert {node: store.get("run", node) for node in store.list_keys("run")} == expected
            assert store.get_global("key") == {"global": True}
            store.put("run", "after", 1)
        with plain(file_path) as connection:
            assert connection.execute("PRAGMA user_version").fetchall() == [(PRESENT + 2,)]
            assert connection.execute("SELECT tag FROM owners").fetchall() == [("tag of run",)]

    def test_it_is_migrated_once(self, make: Make, file_path: pathlib.Path, newer_library: Callable[..., None]) -> None:
        make_sample(file_path, 1)
        calls: list[int] = []
        newer_library(lambda _: calls.append(1))
        stores = [make(file_path) for _ in range(6)]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda store: store.open(), stores))
        assert len(calls) == 1

    def test_a_new_file_needs_no_migration(
        self, make: Make, file_path: pathlib.Path, newer_library: Callable[..., None]
    ) -> None:
        newer_library(pytest.fail)
        make(file_path).open()
        assert contents(file_path)[0] == f"version {PRESENT + 1}"

    def test_nobody_sees_a_half_migrated_file(
        self, make: Make, file_path: pathlib.Path, newer_library: Callable[..., None]
    ) -> None:
        make_sample(file_path, 1)
        before = contents(file_path)
        seen: list[list[str]] = []

        def look_while_migrating(connection: sqlite3.Connection) -> None:
            add_tags(connection)
            seen.append(contents(file_path))

        newer_library(look_while_migrating)
        make(file_path).open()
        assert seen == [before]
        assert contents(file_path) != before

    @pytest.mark.parametrize("mistake", ["UPDATE no_such_table SET a = 1", "SELECT 1; SELECT 2", None])
    def test_a_migration_that_fails_leaves_the_file_as_it_was(
        self, make_either: Make, file_path: pathlib.Path, newer_library: Callable[..., None], mistake: str | None
    ) -> None:
        make_sample(file_path, 5)
        before = contents(file_path)

        def fail(connection: sqlite3.Connection) -> None:
            add_tags(connection)
            if mistake is None:
                raise RuntimeError("a bug")
            connection.execute(mistake)

        newer_library(fail)
        store = make_either(file_path)
        with pytest.raises(StorageError):
            store.open()
        assert contents(file_path) == before
        newer_library(add_tags)
        store.open()  # the next call tries anew

    def test_a_later_step_that_fails_undoes_the_earlier_ones(
        self, make: Make, file_path: pathlib.Path, newer_library: Callable[..., None]
    ) -> None:
        make_sample(file_path, 5)
        before = contents(file_path)
        newer_library(add_tags, lambda connection: connection.execute("UPDATE no_such_table SET a = 1"))
        refused(make, file_path, StorageError, "no_such_table")
        assert contents(file_path) == before

    def test_a_process_killed_while_migrating_leaves_the_file_as_it_was(
        self, make: Make, file_path: pathlib.Path, newer_library: Callable[..., None]
    ) -> None:
        expected = make_sample(file_path, 5)
        before = contents(file_path)

        def die(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA cache_size = 1")  # so that it is written before it is committed
            add_tags(connection)
            connection.execute("CREATE TABLE filler AS SELECT zeroblob(1000000)")
            os.kill(os.getpid(), signal.SIGKILL)

        newer_library(die)
        assert run_in_child(functools.partial(_open, file_path)) == -signal.SIGKILL
        assert contents(file_path) == before
        newer_library(add_tags)
        with make(file_path) as store:
            assert {node: store.get("run", node) for node in store.list_keys("run")} == expected

    def test_an_older_schema_with_no_way_to_a_newer_is_refused(
        self, make_either: Make, file_path: pathlib.Path, newer_library: Callable[..., None]
    ) -> None:
        make_sample(file_path, 1)
        newer_library(add_tags)
        with plain(file_path) as connection:
            connection.execute("PRAGMA user_version = 0")
        with left_as_it_was(file_path.parent):
            refused(make_either, file_path, IncompatibleStoreError, "no way to a newer one")

    @pytest.mark.parametrize("options", [{}, {"read_only": True}, {"create": False}], ids=str)
    def test_a_newer_schema_is_refused_untouched(
        self, make_either: Make, file_path: pathlib.Path, options: dict[str, Any]
    ) -> None:
        make_sample(file_path, 1)
        with plain(file_path) as connection:
            connection.execute(f"PRAGMA user_version = {PRESENT + 1}")
        (file_path.parent / "store.db-lock").unlink()
        with left_as_it_was(file_path.parent):
            refused(
                make_either, file_path, IncompatibleStoreError, f"schema {PRESENT + 1}.*upgrade contextstore", **options
            )

    def test_a_file_that_is_only_read_is_not_migrated(
        self, make: Make, file_path: pathlib.Path, newer_library: Callable[..., None]
    ) -> None:
        make_sample(file_path, 1)
        newer_library(pytest.fail)
        before = contents(file_path)
        refused(make, file_path, IncompatibleStoreError, "open it once without read_only=True", read_only=True)
        assert contents(file_path) == before
