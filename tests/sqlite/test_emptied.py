"""Files that were a store: cut to nothing, or read from a dump; each is refused with the way back."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import sqlite3

import pytest

from contextstore import (
    ContextStore,
    IncompatibleStoreError,
    StoreNotFoundError,
    restore,
)

from ..support.forked import Child
from .test_restore import killed, made, names_in, whose


@pytest.fixture
def backup(tmp_path: pathlib.Path) -> pathlib.Path:
    with ContextStore(made(tmp_path / "source.db", "backup")) as store:
        store.backup(tmp_path / "backup.db")
    return tmp_path / "backup.db"


@pytest.fixture
def target(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "flows.db"


class TestEmptied:
    """A file that was cut to nothing, and a store was there."""

    @pytest.mark.parametrize("options", [{}, {"create": False}, {"read_only": True}], ids=str)
    def test_is_refused_and_not_begun_anew(self, target: pathlib.Path, options: dict[str, bool]) -> None:
        made(target)
        os.truncate(target, 0)
        with pytest.raises(IncompatibleStoreError, match=r"is empty, and a store was there, as .*flows\.db-lock tell"):
            ContextStore(target, **options).open()
        assert target.stat().st_size == 0

    def test_is_refused_by_its_wal_alone(self, target: pathlib.Path) -> None:
        killed(target)
        os.unlink(f"{target}-lock")
        os.truncate(target, 0)
        for options in ({}, {"create": False}, {"read_only": True}):
            with pytest.raises(IncompatibleStoreError, match=r"flows\.db-wal tell"):
                ContextStore(target, **options).open()
        assert os.path.getsize(f"{target}-wal") > 0

    def test_is_refused_by_the_lock_file_of_an_earlier_version(self, target: pathlib.Path) -> None:
        made(target)
        with open(f"{target}-lock", "r+b") as lock:
            lock.truncate(0)
            lock.write(b"%d %d\n" % (os.fstat(lock.fileno()).st_ino, target.stat().st_ino))
        os.truncate(target, 0)
        with pytest.raises(IncompatibleStoreError, match="a store was there"):
            ContextStore(target).open()

    def test_is_begun_anew_once_the_sign_is_removed(self, target: pathlib.Path) -> None:
        made(target)
        os.truncate(target, 0)
        os.unlink(f"{target}-lock")
        with ContextStore(target) as store:
            assert store.list_runs() == []

    def test_is_restored(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        made(target)
        os.truncate(target, 0)
        restore(backup, target, overwrite=True)
        assert whose(target) == "backup"

    def test_one_that_never_was_a_store_becomes_one(self, target: pathlib.Path) -> None:
        target.touch(0o640)
        for options in ({"create": False}, {"read_only": True}):
            with pytest.raises(StoreNotFoundError, match="is empty"):
                ContextStore(target, **options).open()
        assert names_in(target.parent) == ["flows.db"]
        assert whose(made(target, "new")) == "new"

    def test_a_store_that_was_deleted_is_begun_anew(self, target: pathlib.Path) -> None:
        made(target, "old").unlink()
        assert whose(made(target, "new")) == "new"

    def test_one_that_was_killed_while_it_was_made_is_no_store_that_was_there(self, target: pathlib.Path) -> None:
        program = """
            from contextstore._sqlite import file as _sqlite
            _sqlite.FileDatabase._set_up = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            ContextStore(sys.argv[1]).open()
        """
        for _ in range(2):
            with Child(program, target) as child:
                child.end()
            assert target.stat().st_size == 0
            assert "flows.db-lock" in names_in(target.parent)
        assert whose(made(target, "new")) == "new"


class TestADump:
    @pytest.mark.parametrize("by", ["the sqlite3 shell", "the sqlite3 module"])
    def test_is_a_store_again_once_it_has_its_marks(
        self, target: pathlib.Path, tmp_path: pathlib.Path, by: str
    ) -> None:
        import subprocess

        with ContextStore(tmp_path / "old.db") as store:
            store.put_many("run", {"a": {"ü": [1, 2.5, None]}, "b": bytes(range(256)), "c": "it's; two\nlines"})
            store.put_global("of", "dumped")
            expected = store.get_run("run")
        if by == "the sqlite3 shell":
            if shutil.which("sqlite3") is None:
                pytest.skip("there is no sqlite3")
            dump = subprocess.run(["sqlite3", tmp_path / "old.db", ".dump"], capture_output=True, check=True).stdout
            subprocess.run(["sqlite3", target], input=dump, check=True)
        else:
            with (
                contextlib.closing(sqlite3.connect(tmp_path / "old.db")) as old,
                contextlib.closing(sqlite3.connect(target)) as new,
            ):
                new.executescript("\n".join(old.iterdump()))
        for options in ({}, {"read_only": True}):
            with pytest.raises(IncompatibleStoreError, match="has the tables of a store, but not its marks") as caught:
                ContextStore(target, **options).open()
        script = str(caught.value).partition("execute in it '")[2].partition("'")[0]
        with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as connection:
            connection.executescript(script)
        with ContextStore(target) as store:
            assert store.check().ok
            assert store.get_run("run") == expected
            store.put("run", "d", 1)
            store.delete_run("run")
        assert whose(target) == "dumped"

    def test_another_programs_tables_are_not_taken_for_one(self, target: pathlib.Path) -> None:
        with contextlib.closing(sqlite3.connect(target)) as connection:
            connection.execute("CREATE TABLE flow_runs (serial)")
        with pytest.raises(IncompatibleStoreError, match="another program"):
            ContextStore(target).open()
