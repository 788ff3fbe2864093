"""Files that are no store, or no whole one: each is refused and left as it was."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import CorruptStoreError, IncompatibleStoreError

from ..support.forked import run
from .files import Make, left_as_it_was, make_sample, names_in, plain, refused

pytestmark = pytest.mark.disk


def _with_tables(path: pathlib.Path) -> None:
    with plain(path) as connection:
        connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1)")


def _of_another_program(path: pathlib.Path) -> None:
    with plain(path) as connection:
        connection.executescript("PRAGMA application_id = 252006674; CREATE TABLE t (a)")  # a Fossil checkout


def _of_another_program_without_tables(path: pathlib.Path) -> None:
    with plain(path) as connection:
        connection.executescript("CREATE TABLE t (a); DROP TABLE t; PRAGMA application_id = 252006674")


def _in_wal_mode(path: pathlib.Path) -> None:
    with plain(path) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (a)")
    assert names_in(path.parent) == [path.name]


def _with_all_in_the_wal(path: pathlib.Path) -> None:
    busy = path.with_name("busy.db")
    with plain(busy) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1)")
        for suffix in ("", "-wal"):
            shutil.copy(f"{busy}{suffix}", f"{path}{suffix}")
    busy.unlink()
    assert path.stat().st_size == 4096
    assert b"CREATE TABLE" not in path.read_bytes()


def _cut_off_in_a_transaction(path: pathlib.Path, before: str = "SELECT 1") -> None:
    """A database and a hot journal: what a killed process leaves."""
    busy = path.with_name("busy.db")
    with plain(busy) as connection:
        connection.executescript(before)
        connection.executescript("CREATE TABLE t (a); PRAGMA cache_size = 5; BEGIN")
        for _ in range(50):
            connection.execute("INSERT INTO t VALUES (zeroblob(3000))")
        for suffix in ("", "-journal"):
            shutil.copy(f"{busy}{suffix}", f"{path}{suffix}")
    busy.unlink()
    assert path.with_name(f"{path.name}-journal").read_bytes()[:8] == bytes.fromhex("d9d505f920a163d7")


def _cut_off_in_its_schema(path: pathlib.Path) -> None:
    """The same, with the list of its tables half written: only its journal makes sense of it."""
    tables = "".join(f"CREATE TABLE table_of_a_long_name_{i} (a, b, c);" for i in range(200))
    _cut_off_in_a_transaction(path, before=f"PRAGMA page_size = 1024; BEGIN; {tables} COMMIT")
    with open(path, "r+b") as file:
        file.seek(1024)
        file.write(bytes(19 * 1024))


def _text(path: pathlib.Path) -> None:
    path.write_text("Dear diary,\n" * 1000)


def _short_text(path: pathlib.Path) -> None:
    path.write_text("x")


def _text_with_a_journal(path: pathlib.Path) -> None:
    _text(path)
    path.with_name(f"{path.name}-journal").write_text("not SQLite's\n")


def _text_with_a_wal(path: pathlib.Path) -> None:
    _text(path)
    path.with_name(f"{path.name}-wal").write_text("not SQLite's\n")


OTHERS_FILES = [
    _with_tables,
    _of_another_program,
    _of_another_program_without_tables,
    _in_wal_mode,
    _with_all_in_the_wal,
    _cut_off_in_a_transaction,
    _cut_off_in_its_schema,
    _text,
    _short_text,
    _text_with_a_journal,
    _text_with_a_wal,
]


@pytest.mark.each_input_once
class TestOthersFiles:
    @pytest.mark.parametrize("options", [{}, {"create": False}, {"read_only": True}], ids=str)
    @pytest.mark.parametrize("write", OTHERS_FILES, ids=lambda write: write.__name__.strip("_"))
    def test_it_is_refused_and_left_as_it_was(
        self, make: Make, file_path: pathlib.Path, write: Callable[[pathlib.Path], None], options: dict[str, Any]
    ) -> None:
        write(file_path)
        with left_as_it_was(file_path.parent):
            error = refused(make, file_path, IncompatibleStoreError, "another program|not a SQLite database", **options)
        assert str(file_path) in str(error)

    def test_each_face_refuses_it(self, make_either: Make, file_path: pathlib.Path) -> None:
        _with_tables(file_path)
        with left_as_it_was(file_path.parent):
            refused(make_either, file_path, IncompatibleStoreError, "another program")

    def test_a_database_that_another_program_has_open_is_refused(self, make: Make, file_path: pathlib.Path) -> None:
        with plain(file_path) as connection:
            connection.executescript("CREATE TABLE t (a); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)")
            with left_as_it_was(file_path.parent):
                refused(make, file_path, IncompatibleStoreError, "another program")
            connection.execute("COMMIT")
            assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]

    def test_looking_at_a_file_lets_go_of_none_of_its_locks(self, make: Make, file_path: pathlib.Path) -> None:
        """POSIX locks are lost when their process closes any descriptor of the file."""
        with plain(file_path) as connection:
            connection.executescript("CREATE TABLE t (a); BEGIN EXCLUSIVE")
            refused(make, file_path, IncompatibleStoreError, "another program")

            program = """
                import sqlite3
                try:
                    sqlite3.connect(sys.argv[1], timeout=0).execute("INSERT INTO t VALUES (1)")
                except sqlite3.OperationalError as error:
                    say(error.sqlite_errorname)
            """
            assert run(program, file_path) == ["SQLITE_BUSY"]


@pytest.mark.each_input_once
class TestCutOff:
    LENGTHS = (1, 50, 99, 100, 511, 512, 4095, 4096, 4097, 8192, 0.5, -4097, -4096)

    @staticmethod
    def _length(length: float, whole: int) -> int:
        return int(whole * length) if length == 0.5 else int(length) if length > 0 else whole + int(length)

    @pytest.mark.parametrize("length", LENGTHS)
    @pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read_only"])
    def test_a_store_that_was_cut_off_is_refused_and_left_as_it_was(
        self, make: Make, file_path: pathlib.Path, length: float, read_only: bool
    ) -> None:
        make_sample(file_path)
        (file_path.parent / "store.db-lock").unlink()
        os.truncate(file_path, self._length(length, file_path.stat().st_size))
        with left_as_it_was(file_path.parent):
            store = make(file_path, read_only=read_only)
            with pytest.raises((CorruptStoreError, IncompatibleStoreError), match=r"damaged|cut off"):
                store.open()
            store.close()

    @pytest.mark.parametrize("length", [-4095, -2048, -100, -1])
    def test_a_store_cut_off_in_its_last_page_gives_right_answers_or_none(
        self, make_either: Make, file_path: pathlib.Path, length: int
    ) -> None:
        """SQLite counts a part of a page as a page."""
        expected = make_sample(file_path)
        os.truncate(file_path, self._length(length, file_path.stat().st_size))
        right = 0
        with make_either(file_path) as store:
            for node, value in expected.items():
                with contextlib.suppress(CorruptStoreError):
                    assert store.get("run", node) == value
                    right += 1
        assert right >= len(expected) - 5

    @pytest.mark.parametrize("length", [*LENGTHS, -1])
    def test_a_store_cut_off_beside_its_wal_gives_right_answers_or_none(
        self, make: Make, tmp_path: pathlib.Path, length: float
    ) -> None:
        path = tmp_path / "cut.db"
        expected = make_sample(tmp_path / "whole.db")
        with make(tmp_path / "whole.db") as store:
            store.put("run", "in the WAL", 1)
            for suffix in ("", "-wal"):
                shutil.copy(f"{tmp_path / 'whole.db'}{suffix}", f"{path}{suffix}")
        os.truncate(path, self._length(length, path.stat().st_size))
        expected["in the WAL"] = 1
        try:
            with make(path) as store:
                for node, value in expected.items():
                    with contextlib.suppress(CorruptStoreError):
                        assert store.get("run", node) == value
        except (CorruptStoreError, IncompatibleStoreError):
            pass
