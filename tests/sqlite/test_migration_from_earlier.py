"""A store of an earlier schema becomes one of this, in place: all that was in it, and no old ways of writing to it."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import sqlite3
import threading
import time
from typing import Any

import pytest

from contextstore import ContextStore, IncompatibleStoreError, StorageError, restore
from contextstore._sqlite.migrations import migrate
from contextstore._sqlite.schema import APPLICATION_ID, SCHEMA_VERSION, own_schema, schema_in

from ..support.earlier import OF_SCHEMA, package_at
from ..support.portions import first_of, some
from .earlier_versions import RUNS, TABLES, beside, fill_with, make_file
from .files import Make, as_nobody, contents, left_as_it_was, plain, refused

pytestmark = pytest.mark.disk


# A portion of the suite migrates from the first of them, and so by every step.
@pytest.fixture(params=first_of(sorted(TABLES), 1), ids=lambda version: f"from {version}")
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def is_whole(path: pathlib.Path) -> None:
    with ContextStore(path) as store:
        assert {run: store.get_run(run) for run in RUNS} == RUNS
        assert store.get_global("key") == {"of": "key"}
        assert store.upsert_global("key", {"of": "key"}) == 4
        report = store.check()
        assert (report.problems, report.outputs) == ((), sum(map(len, RUNS.values())))
        assert [info.flow_run_id for info in store.list_runs()] == ["second", "first"]


class TestWhatBecomesOfIt:
    @pytest.mark.parametrize("in_wal_mode", [True, False])
    def test_everything_is_there_and_can_be_written_to(
        self, file_path: pathlib.Path, in_wal_mode: bool, version: int
    ) -> None:
        make_file(file_path, version, in_wal_mode=in_wal_mode)
        is_whole(file_path)
        with ContextStore(file_path) as store:
            store.put("first", "after", 1)
            store.put("third", "a", 1)
            assert store.delete_run("first") == 4
            assert store.get("third", "a") == 1

    def test_its_schema_is_that_of_a_new_store_word_for_word(self, file_path: pathlib.Path, version: int) -> None:
        make_file(file_path, version)
        ContextStore(file_path).__enter__().close()
        with plain(file_path) as connection:
            assert schema_in(connection) == own_schema()
            assert connection.execute("PRAGMA user_version").fetchall() == [(SCHEMA_VERSION,)]
            assert connection.execute("SELECT name FROM sqlite_sequence").fetchall() == [("flow_runs",)]

    def test_an_id_that_was_given_before_is_not_given_again(self, file_path: pathlib.Path, version: int) -> None:
        make_file(file_path, version)
        with plain(file_path) as connection:
            ((highest, given),) = connection.execute(
                f"""
                SELECT max(id) FILTER (WHERE run > 0), max(
                    max(id), (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = '{TABLES[version][1]}')
                ) FROM {TABLES[version][1]}
                """
            ).fetchall()
        assert given == highest + 1
        with ContextStore(file_path) as store:
            store.put("first", "after", 1)
        with plain(file_path) as connection:
            query = "SELECT id FROM node_outputs WHERE node_id = 'after'"
            assert connection.execute(query).fetchall() == [(given + 1,)]

    def test_a_run_gets_a_serial_that_none_had(self, file_path: pathlib.Path, version: int) -> None:
        make_file(file_path, version, "DELETE FROM {runs} WHERE flow_run_id = 'deleted'")
        with ContextStore(file_path) as store:
            store.put("fourth", "a", 1)
        with plain(file_path) as connection:
            query = "SELECT serial FROM flow_runs WHERE flow_run_id = 'fourth'"
            assert connection.execute(query).fetchall() == [(4,)]

    def test_a_backup_of_before_is_opened_and_restored(
        self, file_path: pathlib.Path, tmp_path: pathlib.Path, version: int
    ) -> None:
        make_file(file_path, version)
        restore(file_path, tmp_path / "restored.db")
        is_whole(tmp_path / "restored.db")
        with plain(file_path) as connection:
            assert connection.execute("PRAGMA user_version").fetchall() == [(version,)]

    def test_a_dump_of_one_becomes_a_store_by_what_it_says(
        self, file_path: pathlib.Path, tmp_path: pathlib.Path, version: int
    ) -> None:
        make_file(file_path, version)
        dumped = tmp_path / "dumped.db"
        with plain(file_path) as connection, plain(dumped) as copy:
            copy.executescript("\n".join(connection.iterdump()))
        with pytest.raises(IncompatibleStoreError, match=f"PRAGMA user_version = {version};"):
            ContextStore(dumped).open()
        with plain(dumped) as copy:
            copy.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version};")
        is_whole(dumped)

    def test_it_is_not_read_before_it_is_migrated(self, make: Make, file_path: pathlib.Path, version: int) -> None:
        make_file(file_path, version)
        before = contents(file_path)
        refused(make, file_path, IncompatibleStoreError, "open it once without read_only=True", read_only=True)
        assert contents(file_path) == before

    def test_where_it_cannot_be_written_a_copy_is_migrated(self, public_folder: pathlib.Path, version: int) -> None:
        folder, file_path = public_folder / "archive", public_folder / "store.db"
        folder.mkdir()
        archived = folder / "store.db"
        make_file(archived, version)
        archived.chmod(0o444)
        folder.chmod(0o555)
        before = contents(archived)

        def open_and_copy() -> str:
            try:
                ContextStore(archived, read_only=True).open()
            except IncompatibleStoreError as error:
                restore(archived, file_path)
                is_whole(file_path)
                return str(error)
            return ""

        assert "restore() makes a migrated copy" in as_nobody(open_and_copy)
        folder.chmod(0o755)
        assert contents(archived) == before

    def test_the_text_of_its_schema_is_what_that_version_made(self, tmp_path: pathlib.Path, version: int) -> None:
        package = package_at(OF_SCHEMA[version], tmp_path / "old")
        with beside(package, tmp_path / "store.db") as old:
            assert old.does("store.put('first', 'a', 1)") == "None"
        with plain(tmp_path / "store.db") as connection:
            assert schema_in(connection) == own_schema(version)


class TestWhatOthersHaveAdded:
    def test_it_stays_and_goes_on_working(self, file_path: pathlib.Path, version: int) -> None:
        make_file(
            file_path,
            version,
            "CREATE INDEX by_time ON {outputs} (written_at)",
            "CREATE TABLE notes (run REFERENCES {runs} (serial), text)",
            "INSERT INTO notes VALUES (1, 'a note')",
            "CREATE VIEW sizes AS SELECT node_id, size FROM {runs} JOIN {outputs} ON {outputs}.run = {runs}.serial",
            "CREATE VIEW broken AS SELECT * FROM nothing_that_is_there",
            "ANALYZE",
        )
        is_whole(file_path)
        with plain(file_path) as connection:
            assert connection.execute("SELECT count(*) FROM sizes").fetchall() == [(53,)]
            assert connection.execute("SELECT * FROM notes").fetchall() == [(1, "a note")]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            query = "SELECT id FROM node_outputs INDEXED BY by_time WHERE written_at > 5 LIMIT 1"
            assert len(connection.execute(query).fetchall()) == 1
            assert len(schema_in(connection) - own_schema()) == 5  # and the table of ANALYZE

    @pytest.mark.parametrize(
        ("addition", "message"),
        [
            ("CREATE TRIGGER t AFTER INSERT ON {outputs} BEGIN SELECT 1; END", "DROP TRIGGER t"),
            ("CREATE UNIQUE INDEX once ON {outputs} (written_at, id)", "DROP INDEX once"),
            ("ALTER TABLE {runs} ADD COLUMN owner", "altered its schema .(flow_)?runs."),
            ("CREATE TABLE Run_States (x)", "the table 'Run_States'.*needs the name"),
            ("CREATE VIEW failed_attempts AS SELECT 1", "the view 'failed_attempts'.*needs the name"),
            ("CREATE INDEX j ON {outputs} (json_extract(value, '$.a')) WHERE run > 0", "DROP INDEX j"),
        ],
    )
    def test_what_cannot_stay_is_refused_and_the_file_is_as_it_was(
        self, make_either: Make, file_path: pathlib.Path, addition: str, message: str, version: int
    ) -> None:
        make_file(file_path, version, addition)
        before = contents(file_path)
        refused(make_either, file_path, IncompatibleStoreError, message)
        assert contents(file_path) == before

    def test_a_build_that_lets_no_schema_be_written_says_so_and_changes_nothing(
        self, file_path: pathlib.Path, version: int
    ) -> None:
        make_file(file_path, version)
        before = contents(file_path)

        def ignore_writable_schema(action: int, name: str | None, *_: Any) -> int:
            is_meant = action == sqlite3.SQLITE_PRAGMA and name == "writable_schema"
            return sqlite3.SQLITE_IGNORE if is_meant else sqlite3.SQLITE_OK

        with plain(file_path) as connection:
            connection.set_authorizer(ignore_writable_schema)
            with pytest.raises(IncompatibleStoreError, match=r"open the store once by Python 3\.12 or newer"):
                migrate(connection, str(file_path))
        assert contents(file_path) == before

    @pytest.mark.skipif(not hasattr(sqlite3, "SQLITE_DBCONFIG_DEFENSIVE"), reason="from Python 3.12 on")
    def test_a_build_that_is_defensive_is_asked_not_to_be(self, file_path: pathlib.Path, version: int) -> None:
        make_file(file_path, version)
        with plain(file_path) as connection:
            configure: Any = connection
            configure.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)  # type: ignore[attr-defined]
            migrate(connection, str(file_path))
        is_whole(file_path)


class TestItsCost:
    @staticmethod
    def wal_bytes(path: pathlib.Path) -> int:
        with ContextStore(path) as store:
            store.open()
            return path.with_name(path.name + "-wal").stat().st_size

    def test_it_writes_the_same_pages_however_many_outputs_there_are(
        self, tmp_path: pathlib.Path, version: int
    ) -> None:
        written = {}
        for outputs in (2_000, 20_000):  # a new table's first page moves one of the pages that are there
            path = tmp_path / f"{outputs}.db"
            make_file(path, version)
            fill_with(path, version, outputs)
            written[outputs] = self.wal_bytes(path)
        assert 0 < written[20_000] <= written[2_000] + 2 * 4120  # the way to the last page may be longer

    @pytest.mark.slow
    def test_a_million_outputs_take_no_more_than_a_few_pages(self, file_path: pathlib.Path, version: int) -> None:
        make_file(file_path, version)
        fill_with(file_path, version, 1_000_000)
        size = file_path.stat().st_size
        assert self.wal_bytes(file_path) < 40 * 4120
        assert file_path.stat().st_size <= size + 20 * 4096  # each table and index that is added begins with a page
        with ContextStore(file_path) as store:
            store.put("large", "after", 1)
            assert store.get("large", "after") == 1


@pytest.mark.parametrize("rounds", [some(10, 4), pytest.param(60, marks=pytest.mark.slow)])
def test_a_process_killed_at_any_moment_leaves_a_store_of_either_version(
    tmp_path: pathlib.Path, rounds: int, version: int
) -> None:
    """So many kills at least, and as many as it takes to come before the migration and behind it."""
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    template = tmp_path / "template.db"
    make_file(template, version)
    found = set()
    with ContextStore(":memory:") as store:  # whatever is imported late is imported now
        store.list_keys("run")
    longest = 0.05
    number = 0
    while number < rounds or len(found) < 2:
        number += 1
        assert number < rounds + 300, found
        path = tmp_path / f"{number}.db"
        path.write_bytes(template.read_bytes())
        path.chmod(0o600)
        child = os.fork()
        if child == 0:
            try:
                ContextStore(path).open()
                signal.pause()
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0, longest))
        longest *= 1.05 if (SCHEMA_VERSION,) not in found else 1  # until a migration takes no longer
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with plain(path) as connection:
            found |= set(connection.execute("PRAGMA user_version").fetchall())
        is_whole(path)
        assert found <= {(version,), (SCHEMA_VERSION,)}


class TestTheVersionBefore:
    @pytest.fixture
    def package(self, tmp_path: pathlib.Path, version: int) -> pathlib.Path:
        return package_at(OF_SCHEMA[version], tmp_path / "old")

    def test_it_is_shut_out_at_its_next_write_and_its_next_read(
        self, file_path: pathlib.Path, package: pathlib.Path, version: int
    ) -> None:
        with beside(package, file_path) as old:
            assert old.does("store.put('run', 'before', 1)") == "None"
            assert old.does("store.upsert_global('key', 1)") == "1"
            with ContextStore(file_path) as new:
                assert new.get("run", "before") == 1
                for call in (
                    "store.put('run', 'after', 2)",
                    "store.put_many('run', {'after': 2, 'too': 2})",
                    "store.put('new', 'after', 2)",
                    "store.upsert_global('key', 2)",
                    "store.delete_run('run')",
                    "store.get('run', 'before')",
                    "store.get_global('key')",
                    "store.list_keys('run')",
                    "store.list_runs()",
                ):
                    outcome = old.does(call)
                    if version > 1:
                        assert outcome.startswith("raised IncompatibleStoreError False"), call
                        assert "upgrade contextstore here, too" in outcome
                        continue
                    # (That version takes whatever a SELECT meets for damage.)
                    assert outcome.startswith(("raised StorageError False", "raised CorruptStoreError False")), call
                    assert "no such table" in outcome
                new.put("run", "after", 3)
                assert (new.get_run("run"), new.get_global("key")) == ({"before": 1, "after": 3}, 1)
                assert [info.flow_run_id for info in new.list_runs()] == ["run"]
        with ContextStore(file_path) as new:
            assert new.check().ok
            assert new.get_run("run") == {"before": 1, "after": 3}

    def test_it_does_not_open_what_was_migrated(self, file_path: pathlib.Path, package: pathlib.Path) -> None:
        with ContextStore(file_path) as new:
            new.put("run", "a", 1)
        with beside(package, file_path.with_name("other.db")) as old:  # so that it is compiled
            old.does("None")
        with left_as_it_was(file_path.parent), beside(package, file_path) as old:
            assert "upgrade contextstore" in old.does("store.get('run', 'a')")
        with ContextStore(file_path) as new:
            new.put("run", "b", 1)
            with beside(package, file_path) as old:
                assert "upgrade contextstore" in old.does("store.get('run', 'a')")
            assert new.get_run("run") == {"a": 1, "b": 1}

    def test_what_it_was_told_is_stored_is_there_and_nothing_else(
        self, file_path: pathlib.Path, package: pathlib.Path, version: int
    ) -> None:
        with beside(package, file_path) as old:
            assert old.does("store.put('run', '0', 0)") == "None"
            told = {"0": 0}
            outcomes: list[str] = []

            def write_on() -> None:
                number = 0
                while not outcomes:
                    number += 1
                    outcome = old.does(f"store.put('run', '{number}', {number})")
                    if outcome == "None":
                        told[str(number)] = number
                    else:
                        outcomes.append(outcome)

            writing = threading.Thread(target=write_on)
            writing.start()
            while len(told) < 20:
                time.sleep(0.001)
            with ContextStore(file_path) as new:
                new.open()
                writing.join(60)
                assert outcomes
                assert outcomes[0].startswith(f"raised {'Storage' if version == 1 else 'IncompatibleStore'}Error False")
                assert new.get_run("run") == told


def test_an_unforeseen_error_of_a_step_leaves_the_file_as_it_was(
    make_either: Make, file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    make_file(file_path, version)
    before = contents(file_path)

    def fail(connection: sqlite3.Connection, _: int) -> None:
        connection.execute("SELECT * FROM nothing_that_is_there")

    monkeypatch.setattr("contextstore._sqlite.migrations._say_as_new", fail)
    refused(make_either, file_path, StorageError, "no such table")
    assert contents(file_path) == before
