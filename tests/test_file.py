"""The file: what other tools see in it, what is refused and left as it was, and what damage does.

Results are read back, and damage is done, through plain ``sqlite3`` and plain files. Tests are written in blocking form
and run on both faces where a face could matter.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import datetime
import fcntl
import functools
import json
import os
import pathlib
import pickle
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import struct
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import pytest

from contextstore import (
    AsyncContextStore,
    ContextStore,
    ContextStoreError,
    CorruptStoreError,
    IncompatibleStoreError,
    ReadOnlyStoreError,
    StorageError,
    StoreClosedError,
    StoreNotFoundError,
)
from contextstore._sqlite import file_engine as _sqlite
from contextstore._sqlite import schema as _sqlite_file
from contextstore._sqlite import visit as _sqlite_visit

from .conftest import FACES
from .processes import Child, run

pytestmark = pytest.mark.disk

NOBODY = 65534


class OnALoop:
    """An AsyncContextStore with the calls of ContextStore: each runs on an event loop kept for it."""

    def __init__(self, store: AsyncContextStore) -> None:
        self._store = store
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self._runner.run(getattr(self._store, name)(*args, **kwargs))

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def dispose(self) -> None:
        self.close()
        self._runner.close()

    def get_at_once(self, keys: Sequence[tuple[str, str]]) -> list[Any]:
        async def get_all() -> list[Any]:
            return await asyncio.gather(*(self._store.get(*key) for key in keys), return_exceptions=True)

        return self._runner.run(get_all())


class Blocking(ContextStore):
    def dispose(self) -> None:
        self.close()

    def get_at_once(self, keys: Sequence[tuple[str, str]]) -> list[Any]:
        with concurrent.futures.ThreadPoolExecutor(len(keys)) as pool:
            futures = [pool.submit(self.get, *key) for key in keys]
        return [future.exception() or future.result() for future in futures]


Make = Callable[..., Any]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes stores of the blocking face, and closes them."""
    with _closing_all("sync") as make_one:
        yield make_one


@pytest.fixture(params=FACES)
def make_either(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes stores of each face, and closes them."""
    with _closing_all(request.param) as make_one:
        yield make_one


@contextlib.contextmanager
def _closing_all(face: str) -> Iterator[Make]:
    with contextlib.ExitStack() as made:

        def make_one(target: Any, **options: Any) -> Any:
            store = Blocking(target, **options) if face == "sync" else OnALoop(AsyncContextStore(target, **options))
            made.callback(store.dispose)
            return store

        yield make_one


@pytest.fixture
def public_folder() -> Iterator[pathlib.Path]:
    """A folder that everybody can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name).resolve()
        folder.chmod(0o777)
        yield folder
        folder.chmod(0o777)


def run_in_child(job: Callable[[], Any], before: Callable[[], None] = lambda: None) -> Any:
    """What ``job()`` returns or raises in a forked child, or the signal that killed it, as a negative number.

    Forked and not started anew: a child without rights may not be able to read the interpreter.
    """
    with ContextStore(":memory:") as store:  # whatever is imported late is imported now
        store.list_keys("run")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            before()
            try:
                answer = (True, job())
            except Exception as error:
                traceback.print_exc()
                answer = (False, error)
            os.write(writing, pickle.dumps(answer))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answered = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not answered:
        return status
    succeeded, result = pickle.loads(answered)
    if not succeeded:
        raise result
    return result


def _become_nobody() -> None:
    if os.getuid() == 0:  # root ignores permissions
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


as_nobody = functools.partial(run_in_child, before=_become_nobody)


def seen_in(folder: pathlib.Path) -> dict[str, tuple[int, Any]]:
    """Everything in the folder: modes and contents."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


@contextlib.contextmanager
def left_as_it_was(folder: pathlib.Path) -> Iterator[None]:
    """The block changes no file in the folder, and leaves none there. A lock file may get another stamp."""
    before = seen_in(folder)
    yield
    after = seen_in(folder)
    assert sorted(after) == sorted(before)
    assert [name for name in before if after[name] != before[name] and not name.endswith("-lock")] == []


def refused(make: Make, target: Any, error: type[ContextStoreError], match: str, **options: Any) -> ContextStoreError:
    """Opening raises this, and so does the next call."""
    store = make(target, **options)
    with pytest.raises(error, match=match) as caught:
        store.open()
    assert type(caught.value) is error
    with pytest.raises(error, match=match):
        store.get("run", "node")
    store.close()
    return caught.value


def plain(path: Any) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(path, isolation_level=None))


def make_sample(path: Any, outputs: int = 40) -> dict[str, Any]:
    """A store of some pages. Returns what is in it, by node of the run "run"."""
    expected: dict[str, Any] = {f"node-{i:03}": {"i": i, "text": f"{i:03}" * 100} for i in range(outputs)}
    expected["bytes"] = b"\x00\x01" * 5000
    with ContextStore(path) as store:
        store.put_many("run", expected)
        store.put_global("key", {"global": True})
    return expected


def names_in(folder: pathlib.Path) -> list[str]:
    return sorted(os.listdir(folder))


class TestWhatOtherToolsSee:
    def test_json_is_text_and_bytes_are_a_blob(self, make_either: Make, file_path: pathlib.Path) -> None:
        values = {"dict": {"a": [1, None, "é"]}, "null": None, "text": "x", "float": 1.0, "bytes": b"\x00\xff"}
        with make_either(file_path) as store:
            for node, value in values.items():
                store.put("run", node, value)
                store.put_global(node, value)
        with plain(file_path) as connection:
            for node, value in values.items():
                for query, parameters in [
                    ("SELECT value, typeof(value) FROM outputs WHERE flow_run_id = ? AND node_id = ?", ("run", node)),
                    ("SELECT value, typeof(value) FROM globals WHERE key = ?", (node,)),
                ]:
                    ((stored, kind),) = connection.execute(query, parameters).fetchall()
                    if isinstance(value, bytes):
                        assert (stored, kind) == (value, "blob")
                    else:
                        assert (json.loads(stored), kind) == (value, "text")

    def test_sqls_own_json_functions_work_on_the_values(self, make: Make, file_path: pathlib.Path) -> None:
        with make(file_path) as store:
            store.put("run", "node", {"a": [1, {"b": "é"}]})
        with plain(file_path) as connection:
            assert connection.execute("SELECT json_extract(value, '$.a[1].b') FROM outputs").fetchall() == [("é",)]

    def test_the_views_have_the_columns_of_the_contract(self, make: Make, file_path: pathlib.Path) -> None:
        make(file_path).open()
        with plain(file_path) as connection:
            columns = [row[0] for row in connection.execute("SELECT * FROM outputs").description]
            assert columns[:4] == ["flow_run_id", "node_id", "value", "written_at"]
            columns = [row[0] for row in connection.execute("SELECT * FROM globals").description]
            assert set(columns) >= {"key", "value", "version", "written_at"}

    def test_written_at_is_iso_text_in_utc(self, make: Make, file_path: pathlib.Path) -> None:
        begin = datetime.datetime.now(datetime.UTC)
        with make(file_path) as store:
            store.put("run", "node", 1)
            store.upsert_global("key", 1)
        end = datetime.datetime.now(datetime.UTC)
        with plain(file_path) as connection:
            for view in ("outputs", "globals"):
                ((text, kind),) = connection.execute(f"SELECT written_at, typeof(written_at) FROM {view}").fetchall()
                assert kind == "text"
                assert text.endswith("Z")
                written_at = datetime.datetime.fromisoformat(text)
                assert written_at.utcoffset() == datetime.timedelta(0)
                millisecond = datetime.timedelta(milliseconds=1)
                assert begin - millisecond <= written_at <= end + millisecond

    def test_the_version_of_a_global_is_seen(self, make: Make, file_path: pathlib.Path) -> None:
        with make(file_path) as store:
            store.upsert_global("key", 1)
            store.upsert_global("key", 2)
        with plain(file_path) as connection:
            assert connection.execute("SELECT key, value, version FROM globals").fetchall() == [("key", "2", 2)]

    def test_another_program_reads_while_the_store_is_open(self, make: Make, file_path: pathlib.Path) -> None:
        with make(file_path) as store, plain(file_path) as connection:
            for i in range(20):
                store.put("run", str(i), i)
                count = "SELECT count(*), max(CAST(value AS INTEGER)) FROM outputs"
                assert connection.execute(count).fetchall() == [(i + 1, i)]

    def test_the_file_says_whose_it_is(self, make: Make, file_path: pathlib.Path) -> None:
        make(file_path).open()
        header = file_path.read_bytes()[:100]
        assert header[68:72] == b"CtSt"
        assert struct.unpack(">I", header[60:64]) == (_sqlite_file.SCHEMA_VERSION,)
        with plain(file_path) as connection:
            assert connection.execute("PRAGMA application_id").fetchall() == [(0x43745374,)]
            assert connection.execute("PRAGMA user_version").fetchall() == [(1,)]
            assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def test_after_close_all_is_in_the_one_file(self, make_either: Make, file_path: pathlib.Path) -> None:
        with make_either(file_path) as store:
            store.put("run", "node", "value")
            assert (file_path.parent / "store.db-wal").exists()
        assert names_in(file_path.parent) == ["store.db", "store.db-lock"]
        alone = file_path.with_name("alone.db")
        shutil.copy(file_path, alone)
        assert make_either(alone).get("run", "node") == "value"


def modes_in(folder: pathlib.Path) -> dict[str, str]:
    return {name: oct(stat.S_IMODE((folder / name).stat().st_mode)) for name in names_in(folder)}


ALL_FILES = ["store.db", "store.db-lock", "store.db-shm", "store.db-wal"]


class TestModes:
    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777], ids=oct)
    def test_a_new_file_and_its_side_files_are_their_owners_only(
        self, make: Make, file_path: pathlib.Path, umask: int
    ) -> None:
        before = os.umask(umask)
        try:
            with make(file_path) as store:
                store.put("run", "node", 1)
                modes = modes_in(file_path.parent)
        finally:
            os.umask(before)
        assert modes == dict.fromkeys(ALL_FILES, "0o600")

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
    def test_an_empty_file_becomes_a_store_and_keeps_its_mode(
        self, make_either: Make, file_path: pathlib.Path, mode: int
    ) -> None:
        file_path.touch()
        file_path.chmod(mode)
        inode = file_path.stat().st_ino
        with make_either(file_path) as store:
            store.put("run", "node", 1)
            assert modes_in(file_path.parent) == dict.fromkeys(ALL_FILES, oct(mode))
        assert file_path.stat().st_ino == inode
        assert make_either(file_path).get("run", "node") == 1

    def test_an_empty_file_is_no_store_without_create(self, make: Make, file_path: pathlib.Path) -> None:
        file_path.touch()
        with left_as_it_was(file_path.parent):
            refused(make, file_path, StoreNotFoundError, "which is empty", create=False)

    def test_a_store_whose_mode_was_changed_keeps_it(self, make: Make, file_path: pathlib.Path) -> None:
        make_sample(file_path, 1)
        file_path.chmod(0o660)
        (file_path.parent / "store.db-lock").unlink()
        with make(file_path) as store:
            store.put("run", "another", 1)
            assert modes_in(file_path.parent) == dict.fromkeys(ALL_FILES, "0o660")

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
    def test_the_side_files_belong_to_the_owner_of_the_file(self, make: Make, public_folder: pathlib.Path) -> None:
        path = public_folder / "store.db"
        path.touch(0o600)
        os.chown(path, NOBODY, NOBODY)
        with make(path) as store:
            store.put("run", "node", 1)
            owners = {name: (public_folder / name).stat().st_uid for name in names_in(public_folder)}
            assert owners == dict.fromkeys(ALL_FILES, NOBODY)

        def put_as_owner() -> None:
            with ContextStore(path) as mine:
                mine.put("run", "mine", 2)

        as_nobody(put_as_owner)
        assert make(path).get("run", "mine") == 2


Migration = Callable[[sqlite3.Connection], None]


@pytest.fixture
def newer_library(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this a version of the library whose schema is that many steps on from schema 1."""

    def upgrade(*migrations: Migration) -> None:
        version = 1 + len(migrations)
        for module in (_sqlite_file, _sqlite_visit):
            monkeypatch.setattr(module, "SCHEMA_VERSION", version)
        for module in (_sqlite, _sqlite_visit):
            # The schema of a new file stays that of version 1, so that nothing can be compared with it.
            monkeypatch.setattr(module, "check_schema_untouched", lambda *_: None)
        monkeypatch.setattr(_sqlite_file, "MIGRATIONS", dict(enumerate(migrations, 1)))

    return upgrade


def add_tags(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE runs ADD COLUMN tag TEXT")
    connection.execute("UPDATE runs SET tag = 'tag of ' || flow_run_id")


def add_owners(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE owners AS SELECT tag FROM runs")


def contents(path: pathlib.Path) -> list[str]:
    with plain(path) as connection:
        connection.text_factory = lambda text: text.decode(errors="backslashreplace")
        (version,) = connection.execute("PRAGMA user_version").fetchall()[0]
        dump = [line for line in connection.iterdump() if "sqlite_sequence" not in line]  # it counts refused puts too
        return [f"version {version}", *dump]


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
            assert connection.execute("PRAGMA user_version").fetchall() == [(3,)]
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
        assert contents(file_path)[0] == "version 2"

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
            connection.execute("PRAGMA user_version = 2")
        (file_path.parent / "store.db-lock").unlink()
        with left_as_it_was(file_path.parent):
            refused(make_either, file_path, IncompatibleStoreError, "schema 2.*upgrade contextstore", **options)

    def test_a_file_that_is_only_read_is_not_migrated(
        self, make: Make, file_path: pathlib.Path, newer_library: Callable[..., None]
    ) -> None:
        make_sample(file_path, 1)
        newer_library(pytest.fail)
        before = contents(file_path)
        refused(make, file_path, IncompatibleStoreError, "open it once without read_only=True", read_only=True)
        assert contents(file_path) == before


# ------------------------------------------------------------------------------------------ databases of other programs


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


# --------------------------------------------------------------------------------------------------------------- places


class TestPlaces:
    def test_a_folder_is_refused(self, make_either: Make, tmp_path: pathlib.Path) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        with left_as_it_was(tmp_path):
            refused(make_either, folder, IncompatibleStoreError, "is a folder; name a file in it")
            refused(make_either, f"{folder}", IncompatibleStoreError, "is a folder")
            refused(make_either, folder, IncompatibleStoreError, "is a folder", read_only=True)

    def test_a_fifo_is_refused_and_nobody_waits_for_its_other_end(
        self, make_either: Make, file_path: pathlib.Path
    ) -> None:
        os.mkfifo(file_path)
        with left_as_it_was(file_path.parent):
            refused(make_either, file_path, IncompatibleStoreError, "not a regular file")
            refused(make_either, file_path, IncompatibleStoreError, "not a regular file", read_only=True)

    def test_a_socket_is_refused(self, make: Make, public_folder: pathlib.Path) -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(public_folder / "socket"))
            with left_as_it_was(public_folder):
                refused(make, public_folder / "socket", IncompatibleStoreError, "not a regular file")

    @pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
    def test_a_device_is_refused(self, make: Make, device: str) -> None:
        before = os.listdir("/dev")
        refused(make, device, IncompatibleStoreError, "not a regular file")
        assert os.listdir("/dev") == before

    @pytest.mark.parametrize("options", [{}, {"create": False}, {"read_only": True}], ids=str)
    def test_a_missing_folder_is_named_and_not_made(
        self, make_either: Make, tmp_path: pathlib.Path, options: dict[str, Any]
    ) -> None:
        with left_as_it_was(tmp_path):
            error = refused(
                make_either, tmp_path / "no" / "folder" / "store.db", StoreNotFoundError, "create it first", **options
            )
        assert isinstance(error, FileNotFoundError)
        assert f"no folder {tmp_path}/no/folder" in str(error)

    @pytest.mark.parametrize("options", [{}, {"create": False}, {"read_only": True}], ids=str)
    def test_a_file_on_the_way_is_refused(self, make: Make, tmp_path: pathlib.Path, options: dict[str, Any]) -> None:
        (tmp_path / "file").write_text("text")
        with left_as_it_was(tmp_path):
            refused(make, tmp_path / "file" / "store.db", StoreNotFoundError, "part of its path is a file", **options)
            refused(make, tmp_path / "file" / "a" / "store.db", StoreNotFoundError, "part of its path", **options)

    @pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}], ids=str)
    def test_a_missing_file_is_not_made_unless_it_may_be(
        self, make_either: Make, file_path: pathlib.Path, options: dict[str, Any]
    ) -> None:
        with left_as_it_was(file_path.parent):
            error = refused(make_either, file_path, StoreNotFoundError, "no store at", **options)
        assert isinstance(error, FileNotFoundError)

    def test_a_store_that_is_there_needs_no_create(self, make_either: Make, file_path: pathlib.Path) -> None:
        make_sample(file_path, 1)
        with make_either(file_path, create=False) as store:
            store.put("run", "new", 1)

    def test_a_failed_opening_is_tried_anew(self, make_either: Make, file_path: pathlib.Path) -> None:
        store = make_either(file_path, create=False)
        with pytest.raises(StoreNotFoundError):
            store.get("run", "node-000")
        expected = make_sample(file_path, 1)
        assert store.get("run", "node-000") == expected["node-000"]

    def test_a_link_in_place_of_the_lock_file_is_not_followed(self, make: Make, file_path: pathlib.Path) -> None:
        (file_path.parent / "store.db-lock").symlink_to(file_path.parent / "precious")
        with left_as_it_was(file_path.parent):
            refused(make, file_path, StorageError, "store.db-lock|ELOOP")


# ---------------------------------------------------------------------------------------------------------- permissions


@contextlib.contextmanager
def mode_of(path: pathlib.Path, mode: int) -> Iterator[None]:
    before = stat.S_IMODE(path.stat().st_mode)
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


def refused_to_nobody(target: Any, face: str, **options: Any) -> ContextStoreError:
    """How opening is refused to somebody without rights; nothing in the folder changes."""

    def try_to_open() -> None:
        with _closing_all(face) as make_one:
            make_one(target, **options).open()

    with left_as_it_was(pathlib.Path(target).parent), pytest.raises(StorageError) as caught:
        as_nobody(try_to_open)
    assert str(target) in str(caught.value)
    return caught.value


@pytest.mark.parametrize("face", FACES)
class TestPermissions:
    def test_a_file_that_cannot_be_written_is_refused(self, public_folder: pathlib.Path, face: str) -> None:
        path = public_folder / "store.db"
        make_sample(path, 1)
        (public_folder / "store.db-lock").unlink()
        with mode_of(path, 0o444):
            error = refused_to_nobody(path, face)
        assert type(error) is ReadOnlyStoreError
        assert "read_only=True" in str(error)

    def test_an_empty_file_that_cannot_be_written_is_refused(self, public_folder: pathlib.Path, face: str) -> None:
        path = public_folder / "store.db"
        path.touch()
        with mode_of(path, 0o444):
            assert type(refused_to_nobody(path, face)) is ReadOnlyStoreError

    def test_a_new_file_in_a_folder_that_cannot_be_written_is_refused(
        self, public_folder: pathlib.Path, face: str
    ) -> None:
        with mode_of(public_folder, 0o555):
            error = refused_to_nobody(public_folder / "store.db", face)
        assert type(error) is ReadOnlyStoreError
        assert "permission" in str(error).lower()

    def test_a_store_in_a_folder_that_cannot_be_written_is_refused(
        self, public_folder: pathlib.Path, face: str
    ) -> None:
        path = public_folder / "store.db"
        make_sample(path, 1)
        (public_folder / "store.db-lock").unlink()
        with mode_of(path, 0o666), mode_of(public_folder, 0o555):
            error = refused_to_nobody(path, face)
        assert type(error) is ReadOnlyStoreError
        assert "read_only=True" in str(error)

    @pytest.mark.parametrize("options", [{}, {"read_only": True}], ids=str)
    def test_a_file_that_cannot_be_read_is_refused(
        self, public_folder: pathlib.Path, face: str, options: dict[str, Any]
    ) -> None:
        path = public_folder / "store.db"
        make_sample(path, 1)
        (public_folder / "store.db-lock").unlink()
        with mode_of(path, 0o000):
            assert "permission" in str(refused_to_nobody(path, face, **options)).lower()

    @pytest.mark.parametrize("options", [{}, {"read_only": True}], ids=str)
    def test_a_folder_that_cannot_be_entered_is_refused(
        self, public_folder: pathlib.Path, face: str, options: dict[str, Any]
    ) -> None:
        make_sample(public_folder / "store.db", 1)
        with mode_of(public_folder, 0o600):
            assert "permission" in str(refused_to_nobody(public_folder / "store.db", face, **options)).lower()


# ---------------------------------------------------------------------------------------------------------------- links


class TestLinks:
    def test_a_link_leads_to_the_one_store(self, make_either: Make, tmp_path: pathlib.Path) -> None:
        real, links = tmp_path / "real", tmp_path / "links"
        real.mkdir()
        links.mkdir()
        make_either(real / "store.db").close()
        (links / "link.db").symlink_to(real / "store.db")
        with make_either(links / "link.db") as by_link, make_either(real / "store.db") as by_name:
            by_link.put("run", "by link", 1)
            by_name.put("run", "by name", 2)
            assert by_link.list_keys("run") == by_name.list_keys("run") == ["by link", "by name"]
            assert (by_link.get("run", "by name"), by_name.get("run", "by link")) == (2, 1)
            assert names_in(links) == ["link.db"]
            assert names_in(real) == ALL_FILES

    def test_both_names_share_the_lock(self, make: Make, tmp_path: pathlib.Path) -> None:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "link.db").symlink_to(tmp_path / "store.db")
        stores = [make(tmp_path / "store.db"), make(tmp_path / "other" / "link.db")]

        def put_many(store: Any) -> None:
            for i in range(50):
                store.put("run", f"{stores.index(store)}-{i}", i)

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(put_many, stores))
        assert len(stores[0].list_keys("run")) == 100
        assert names_in(tmp_path / "other") == ["link.db"]

    def test_a_linked_folder_is_followed(self, make: Make, tmp_path: pathlib.Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        make(tmp_path / "link" / "store.db").put("run", "node", 1)
        assert make(tmp_path / "real" / "store.db").get("run", "node") == 1

    def test_a_dangling_link_makes_the_store_that_it_leads_to(self, make_either: Make, tmp_path: pathlib.Path) -> None:
        real, links = tmp_path / "real", tmp_path / "links"
        real.mkdir()
        links.mkdir()
        (links / "link.db").symlink_to("../real/store.db")
        make_either(links / "link.db").put("run", "node", 1)
        assert make_either(real / "store.db").get("run", "node") == 1
        assert names_in(links) == ["link.db"]
        assert (links / "link.db").is_symlink()

    @pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}], ids=str)
    def test_a_dangling_link_is_a_missing_store(
        self, make: Make, tmp_path: pathlib.Path, options: dict[str, Any]
    ) -> None:
        (tmp_path / "link.db").symlink_to("store.db")
        with left_as_it_was(tmp_path):
            refused(make, tmp_path / "link.db", StoreNotFoundError, "no store at", **options)

    def test_a_link_into_a_missing_folder_names_that_folder(self, make: Make, tmp_path: pathlib.Path) -> None:
        (tmp_path / "link.db").symlink_to("missing/store.db")
        with left_as_it_was(tmp_path):
            refused(make, tmp_path / "link.db", StoreNotFoundError, f"no folder {tmp_path}/missing")

    @pytest.mark.parametrize("options", [{}, {"create": False}, {"read_only": True}], ids=str)
    def test_a_link_to_itself_is_refused(self, make: Make, tmp_path: pathlib.Path, options: dict[str, Any]) -> None:
        (tmp_path / "link.db").symlink_to("link.db")
        with left_as_it_was(tmp_path):
            refused(make, tmp_path / "link.db", StorageError, "ELOOP", **options)


# ------------------------------------------------------------------------------------------------------------ read only


def _reads_all(path: pathlib.Path, face: str) -> dict[str, Any]:
    with _closing_all(face) as make_one:
        store = make_one(path, read_only=True)
        return {node: store.get("run", node) for node in store.list_keys("run")}


def left_by_a_killed_writer(make: Make, folder: pathlib.Path, *side_files: str) -> pathlib.Path:
    path = folder / "left" / "store.db"
    path.parent.mkdir()
    with make(folder / "store.db") as store:
        store.put("run", "in the WAL", 1)
        for suffix in ("", *side_files):
            shutil.copy(f"{folder / 'store.db'}{suffix}", f"{path}{suffix}")
            os.chmod(f"{path}{suffix}", 0o644)
    return path


class TestReadOnly:
    def test_reads_work_and_writes_are_refused(self, make_either: Make, file_path: pathlib.Path) -> None:
        expected = make_sample(file_path)
        with make_either(file_path, read_only=True) as store:
            for write in [
                lambda: store.put("run", "new", 1),
                lambda: store.put("run", "node-000", expected["node-000"], exist_ok=True),
                lambda: store.put_global("new", 1),
                lambda: store.upsert_global("key", 1),
                lambda: store.upsert_global("key", 1, expected_version=1),
            ]:
                with pytest.raises(ReadOnlyStoreError, match="read_only=True"):
                    write()
            assert {node: store.get("run", node) for node in store.list_keys("run")} == expected
            assert store.get("run", "new", "default") == "default"
            assert store.get_global("key") == {"global": True}
        with pytest.raises(StoreClosedError):
            store.put("run", "new", 1)

    def test_nothing_is_written(self, make_either: Make, file_path: pathlib.Path) -> None:
        make_sample(file_path)
        (file_path.parent / "store.db-lock").unlink()
        before = seen_in(file_path.parent)
        with make_either(file_path, read_only=True) as store:
            store.get("run", "node-000")
            assert seen_in(file_path.parent) == before
        assert seen_in(file_path.parent) == before

    def test_what_is_in_the_wal_alone_is_read(self, make_either: Make, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "copy.db"
        with make_either(tmp_path / "store.db") as store:
            store.put("run", "node", "in the WAL")
            for suffix in ("", "-wal"):
                shutil.copy(f"{tmp_path / 'store.db'}{suffix}", f"{path}{suffix}")
        before = [path.read_bytes(), path.with_name("copy.db-wal").read_bytes()]
        with make_either(path, read_only=True) as store:
            assert store.get("run", "node") == "in the WAL"
        assert [path.read_bytes(), path.with_name("copy.db-wal").read_bytes()] == before

    def test_a_reader_sees_every_write_of_a_writer_at_once(self, make_either: Make, file_path: pathlib.Path) -> None:
        with make_either(file_path) as writer, make_either(file_path, read_only=True) as reader:
            for i in range(30):
                writer.put("run", f"{i:02}", i)
                writer.upsert_global("key", i)
                assert reader.get("run", f"{i:02}") == i
                assert reader.get_global("key") == i
                assert len(reader.list_keys("run")) == i + 1

    def test_a_reader_that_came_before_the_writer_sees_its_writes(
        self, make_either: Make, file_path: pathlib.Path
    ) -> None:
        make_sample(file_path, 1)
        with make_either(file_path, read_only=True) as reader:
            assert reader.get("run", "later", "nothing") == "nothing"
            with make_either(file_path) as writer:
                writer.put("run", "later", 1)
                assert reader.get("run", "later") == 1
            assert reader.get("run", "later") == 1

    def test_an_empty_file_is_no_store_to_read(self, make_either: Make, file_path: pathlib.Path) -> None:
        file_path.touch()
        with left_as_it_was(file_path.parent):
            refused(make_either, file_path, StoreNotFoundError, "empty", read_only=True)

    def test_a_store_in_memory_cannot_be_only_read(self, make_either: Make) -> None:
        with pytest.raises(ValueError, match="read_only"):
            make_either(":memory:", read_only=True)

    @pytest.mark.parametrize("face", FACES)
    def test_a_store_in_a_folder_that_cannot_be_written_is_read(self, public_folder: pathlib.Path, face: str) -> None:
        path = public_folder / "store.db"
        expected = make_sample(path)
        (public_folder / "store.db-lock").unlink()
        with mode_of(path, 0o444), mode_of(public_folder, 0o555), left_as_it_was(public_folder):
            assert as_nobody(lambda: _reads_all(path, face)) == expected

    @pytest.mark.parametrize("face", FACES)
    def test_a_store_that_another_has_open_in_such_a_folder_is_read(
        self, public_folder: pathlib.Path, face: str
    ) -> None:
        path = public_folder / "store.db"
        path.touch()
        path.chmod(0o644)
        expected = make_sample(path)
        writer = """
            with ContextStore(sys.argv[1]) as store:
                store.put("run", "in the WAL", 1)
                say("written")
                sys.stdin.readline()
        """
        with mode_of(public_folder, 0o755), Child(writer, path) as child:
            assert child.hear() == "written"
            assert as_nobody(lambda: _reads_all(path, face)) == expected | {"in the WAL": 1}
            assert names_in(public_folder) == ALL_FILES
            child.tell()
            assert child.end()[0] == 0

    @pytest.mark.parametrize("face", FACES)
    def test_what_a_killed_writer_left_in_such_a_folder_is_read(
        self, make: Make, public_folder: pathlib.Path, face: str
    ) -> None:
        path = left_by_a_killed_writer(make, public_folder, "-wal", "-shm")
        with mode_of(path.parent, 0o555), left_as_it_was(path.parent):
            assert as_nobody(lambda: _reads_all(path, face)) == {"in the WAL": 1}

    @pytest.mark.parametrize("face", FACES)
    def test_a_wal_without_a_shm_is_read_in_such_a_folder_too(
        self, make: Make, public_folder: pathlib.Path, face: str
    ) -> None:
        path = left_by_a_killed_writer(make, public_folder, "-wal")
        with mode_of(path.parent, 0o555), left_as_it_was(path.parent):
            assert as_nobody(lambda: _reads_all(path, face)) == {"in the WAL": 1}

    @pytest.mark.skipif(os.getuid() != 0, reason="needs somebody who may write in the folder, and somebody who may not")
    @pytest.mark.parametrize("face", FACES)
    def test_in_such_a_folder_a_reader_never_misses_what_a_writer_has_written_meanwhile(
        self, make: Make, public_folder: pathlib.Path, face: str
    ) -> None:
        path = public_folder / "store.db"
        path.touch()
        path.chmod(0o644)
        make_sample(path, 1)
        public_folder.chmod(0o755)
        is_read, is_written = os.pipe(), os.pipe()

        def read_before_and_after() -> list[Any]:
            with _closing_all(face) as make_one:
                reader = make_one(path, read_only=True)
                answers = [reader.list_keys("run"), reader.get("run", "later")]
                os.write(is_read[1], b"x")
                os.read(is_written[0], 1)
                return [*answers, reader.list_keys("run"), reader.get("run", "later")]

        def write() -> None:
            os.read(is_read[0], 1)
            try:
                with ContextStore(path) as writer:
                    writer.put("run", "later", 1)
            finally:
                os.write(is_written[1], b"x")

        thread = threading.Thread(target=write)
        thread.start()
        try:
            answers = as_nobody(read_before_and_after)
        finally:
            os.write(is_read[1], b"x")
            thread.join()
            for end in (*is_read, *is_written):
                os.close(end)
        assert answers == [["bytes", "node-000"], None, ["bytes", "later", "node-000"], 1]


# ---------------------------------------------------------------------------------------------------------------- names

NAMES = [
    "with space.db",
    "a?b.db",
    "a?mode=memory&cache=shared",
    "a?immutable=1",
    "a#b.db",
    "100%.db",
    "a%20b%2Fc%00.db",
    'it\'s "quoted" `so`.db',
    "new\nline\ttab.db",
    "\x01\x7f.db",
    "ü-雪-\U0001f600.db",
    "e\u0301 not composed.db",
    "back\\slash.db",
    "-dash.db",
    "~",
    "$HOME {0} %s",
    ".hidden",
    "no suffix",
    "store.db-wal",
    os.fsdecode(b"undecodable \xff\xfe.db"),
]


def path_of_length(folder: pathlib.Path, length: int) -> pathlib.Path:
    while (left := length - len(f"{folder}/store.db")) > 200:
        folder = folder / ("d" * 100)
    folder = folder / ("d" * (left - 1))
    folder.mkdir(parents=True)
    assert len(str(folder / "store.db")) == length
    return folder / "store.db"


@pytest.mark.each_input_once
class TestNames:
    @pytest.mark.parametrize("name", NAMES, ids=ascii)
    def test_any_name_is_that_of_the_file(self, make: Make, tmp_path: pathlib.Path, name: str) -> None:
        with make(tmp_path / name) as store:
            store.put("run", "node", "right")
        assert names_in(tmp_path) == sorted([name, f"{name}-lock"])
        for target in (tmp_path / name, str(tmp_path / name)):
            for options in ({"create": False}, {"read_only": True}):
                with make(target, **options) as store:
                    assert store.get("run", "node") == "right"
        with plain(os.fsencode(tmp_path / name)) as connection:
            assert connection.execute("SELECT value FROM outputs").fetchall() == [('"right"',)]

    @pytest.mark.parametrize("name", ["file:x.db", ":memory:", "file::memory:?cache=shared"])
    def test_a_path_is_always_a_path(
        self, make_either: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        make_either(pathlib.Path(name)).put("run", "node", 1)
        assert name in names_in(tmp_path)
        assert make_either(pathlib.Path(name)).get("run", "node") == 1

    def test_a_name_may_be_as_long_as_its_side_files_allow(self, make_either: Make, tmp_path: pathlib.Path) -> None:
        longest = 255 - len("-journal")
        with make_either(tmp_path / ("x" * longest)) as store:
            store.put("run", "node", 1)

    @pytest.mark.parametrize("length", [248, 251, 252, 255, 256, 5000])
    def test_a_longer_name_is_refused_and_nothing_is_left(
        self, make_either: Make, tmp_path: pathlib.Path, length: int
    ) -> None:
        with left_as_it_was(tmp_path):
            refused(make_either, tmp_path / ("x" * length), StorageError, "too long")

    def test_a_path_may_be_as_long_as_sqlite_takes(self, make_either: Make, tmp_path: pathlib.Path) -> None:
        path = path_of_length(tmp_path, 504)
        with make_either(path) as store:
            store.put("run", "node", 1)
        with make_either(path, read_only=True) as store:
            assert store.get("run", "node") == 1

    @pytest.mark.parametrize("length", [505, 512, 600, 3000])
    def test_a_longer_path_is_refused_and_nothing_is_left(
        self, make_either: Make, tmp_path: pathlib.Path, length: int
    ) -> None:
        path = path_of_length(tmp_path, length)
        with contextlib.suppress(sqlite3.OperationalError), plain(path):
            pytest.skip(f"SQLite {sqlite3.sqlite_version} takes paths of {length} bytes")
        with left_as_it_was(tmp_path):
            refused(make_either, path, StorageError, "too long")

    def test_a_relative_path_is_taken_when_the_store_is_made(
        self, make_either: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        monkeypatch.chdir(tmp_path / "one")
        stores = [make_either("a.db"), make_either(pathlib.Path("b.db")), make_either("sqlite:///c.db")]
        stores.append(make_either("../one/./d.db"))
        monkeypatch.chdir(tmp_path / "two")
        for store in stores:
            store.put("run", "node", 1)
        assert names_in(tmp_path / "two") == []
        assert names_in(tmp_path / "one")[::4] == ["a.db", "b.db", "c.db", "d.db"]

    def test_urls_name_relative_and_absolute_paths(
        self, make_either: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        make_either("sqlite:///relative.db").put("run", "node", 1)
        make_either(f"sqlite:///{tmp_path}/absolute.db").put("run", "node", 2)
        make_either("sqlite:///with%20space%23.db").put("run", "node", 3)
        make_either("sqlite:///%FF.db").put("run", "node", 4)
        assert f"sqlite:///{tmp_path}".startswith("sqlite:////")
        for name, value in [
            ("relative.db", 1),
            ("absolute.db", 2),
            ("with space#.db", 3),
            (os.fsdecode(b"\xff.db"), 4),
        ]:
            assert make_either(tmp_path / name, create=False).get("run", "node") == value

    def test_stores_in_memory_are_apart_and_leave_nothing(
        self, make_either: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        one, two = make_either(":memory:"), make_either("sqlite:///:memory:")
        one.put("run", "node", 1)
        assert two.get("run", "node") is None
        assert names_in(tmp_path) == []


class _PathOfBytes:
    def __fspath__(self) -> bytes:
        return b"store.db"


REFUSED_TARGETS: list[tuple[Any, type[Exception], str]] = [
    ("", ValueError, "must not be empty"),
    ("sqlite://", ValueError, "sqlite:///"),
    ("sqlite:///", ValueError, "must not be empty"),
    ("sqlite://relative.db", ValueError, "no path after 'sqlite:///'"),
    ("sqlite://host/store.db", ValueError, "no path after 'sqlite:///'"),
    ("sqlite:///store.db?mode=ro", ValueError, "pass them as keywords"),
    ("sqlite:///a%00b.db", ValueError, "NUL"),
    ("file:store.db", ValueError, "known are"),
    ("file:///store.db", ValueError, "known are"),
    ("mysql://host/store", ValueError, "'mysql' is not known; known are a path"),
    ("://", ValueError, "known are"),
    ("a\0b", ValueError, "NUL"),
    (pathlib.Path("a\0b"), ValueError, "NUL"),
    ("lone \ud800 surrogate", ValueError, "surrogate"),
    (None, TypeError, "not NoneType"),
    (b"store.db", TypeError, "not bytes"),
    (5, TypeError, "not int"),
    (_PathOfBytes(), TypeError, "bytes"),
]
REFUSED_OPTIONS: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"durability": "none"}, ValueError),
    ({"durability": None}, ValueError),
    ({"timeout": -1}, ValueError),
    ({"timeout": float("nan")}, ValueError),
    ({"timeout": float("inf")}, ValueError),
    ({"timeout": None}, TypeError),
    ({"timeout": "30"}, TypeError),
    ({"timeout": True}, TypeError),
    ({"cache_bytes": -1}, ValueError),
    ({"cache_bytes": 1.5}, TypeError),
    ({"cache_bytes": None}, TypeError),
    ({"max_value_bytes": 0}, ValueError),
    ({"max_value_bytes": "1"}, TypeError),
    ({"unknown": 1}, TypeError),
]


@pytest.mark.parametrize("face", [AsyncContextStore, ContextStore])
class TestConstruction:
    @pytest.mark.parametrize(("target", "error", "match"), REFUSED_TARGETS, ids=lambda value: ascii(value)[:40])
    def test_a_target_that_cannot_be_meant_is_refused_at_construction(
        self,
        face: type,
        target: Any,
        error: type[Exception],
        match: str,
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(error, match=match) as caught:
            face(target)
        assert not isinstance(caught.value, UnicodeError)
        assert names_in(tmp_path) == []

    @pytest.mark.parametrize(("options", "error"), REFUSED_OPTIONS, ids=ascii)
    def test_an_option_that_cannot_be_meant_is_refused_by_name(
        self, face: type, options: dict[str, Any], error: type[Exception], file_path: pathlib.Path
    ) -> None:
        with pytest.raises(error, match=next(iter(options))):
            face(file_path, **options)
        assert not file_path.exists()

    def test_constructing_does_no_io(self, face: type, tmp_path: pathlib.Path) -> None:
        threads = threading.active_count()
        face(tmp_path / "store.db")
        face(tmp_path / "no" / "folder" / "store.db", create=False)
        face(tmp_path / "store.db", read_only=True)
        assert names_in(tmp_path) == []
        assert threading.active_count() == threads


# ----------------------------------------------------------------------------------------------- killed at a bad moment


def _limit_file_size(limit: int) -> None:
    """The kernel kills this process at the first byte that it writes beyond this length of any file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def _open(path: pathlib.Path) -> None:
    with ContextStore(path):
        pass


def _works(make: Make, path: pathlib.Path) -> None:
    with make(path) as store:
        store.put("run", "node", {"a": 1})
        assert store.get("run", "node") == {"a": 1}
        assert store.list_keys("run") == ["node"]
    with plain(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA application_id").fetchall() == [(_sqlite_file.APPLICATION_ID,)]
        assert connection.execute("SELECT value FROM outputs").fetchall() == [('{"a":1}',)]
    assert names_in(path.parent) == [path.name, f"{path.name}-lock"]


def _header_alone(path: pathlib.Path) -> None:
    with plain(path) as connection:
        connection.executescript("CREATE TABLE t (a); DROP TABLE t; VACUUM")
    assert path.stat().st_size == 4096


def _header_alone_in_wal_mode(path: pathlib.Path) -> None:
    with plain(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size == 4096


class TestKilledWhileCreating:
    @pytest.mark.parametrize("write", [_header_alone, _header_alone_in_wal_mode])
    def test_a_header_without_a_table_opens(
        self, make_either: Make, file_path: pathlib.Path, write: Callable[[pathlib.Path], None]
    ) -> None:
        write(file_path)
        _works(make_either, file_path)

    def test_a_killed_creator_leaves_what_opens(self, make: Make, tmp_path: pathlib.Path) -> None:
        kills = 0
        for limit in [0, 1, 28, 511, 512, 4095, 4096, 4097, *range(6000, 60_000, 6000)]:
            path = tmp_path / str(limit) / "store.db"
            path.parent.mkdir()
            before = functools.partial(_limit_file_size, limit)
            kills += run_in_child(functools.partial(_open, path), before) == -signal.SIGXFSZ
            _works(make, path)
        assert kills > 8

    def test_a_hot_journal_of_a_killed_creator_opens(self, make: Make, tmp_path: pathlib.Path) -> None:
        """Whatever a power cut has left of the pages that were to be written."""
        whole = tmp_path / "whole.db"
        with plain(whole) as connection:
            connection.executescript(
                f"PRAGMA auto_vacuum = INCREMENTAL; PRAGMA cache_size = 1; BEGIN;{_sqlite_file._SCHEMA}"
            )
            connection.execute(f"PRAGMA application_id = {_sqlite_file.APPLICATION_ID}")
            journal = (tmp_path / "whole.db-journal").read_bytes()
            connection.execute("COMMIT")
        pages = whole.read_bytes()
        half_pages = bytearray(pages)
        half_pages[4096:8192] = bytes(4096)
        assert journal
        states = [b"", pages[:1], pages[:512], pages[:4096], pages[:5000], bytes(4096), bytes(half_pages), pages]
        for number, state in enumerate(states):
            path = tmp_path / str(number) / "store.db"
            path.parent.mkdir()
            path.write_bytes(state)
            path.with_name("store.db-journal").write_bytes(journal)
            _works(make, path)

    def test_many_that_open_a_new_file_at_once_all_get_it(self, tmp_path: pathlib.Path) -> None:
        """They look at the file while one of them is creating it, and at each stage of that."""
        for round_number in range(6):
            path = tmp_path / str(round_number) / "store.db"
            path.parent.mkdir()
            children = [_opening_child(path, delay) for delay in range(0, 4000, 500)]
            failures = [os.read(pipe, 1000).decode() for _, pipe in children]
            for child, pipe in children:
                os.close(pipe)
                os.waitpid(child, 0)
            assert failures == [""] * len(children)


def _opening_child(path: pathlib.Path, delay: int) -> tuple[int, int]:
    """A child, and the pipe in which it says what was wrong."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            threading.Event().wait(0.005 + delay / 1e6)
            with ContextStore(path) as store:
                store.put("run", str(delay), delay)
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    return child, reading


def _frames(wal: bytes) -> dict[int, bytes]:
    """The last content of each page in a WAL: https://sqlite.org/fileformat.html, 4."""
    (page_size,) = struct.unpack(">I", wal[8:12])
    pages = {}
    for start in range(32, len(wal) - page_size - 23, 24 + page_size):
        if wal[start + 8 : start + 16] != wal[16:24]:  # salt: a frame of an older round
            break
        (number,) = struct.unpack(">I", wal[start : start + 4])
        pages[number] = wal[start + 24 : start + 24 + page_size]
    return pages


class TestKilledWhileCheckpointing:
    @pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read_only"])
    @pytest.mark.parametrize("part", [0.001, 0.3, 0.9, 1.0])
    def test_a_checkpoint_that_was_cut_off_loses_nothing(
        self, make: Make, tmp_path: pathlib.Path, part: float, read_only: bool
    ) -> None:
        """A checkpoint copies pages in ascending order: after the first, the file says it is longer than it is."""
        path = tmp_path / "killed.db"
        expected = {f"{i:03}": "x" * 2000 for i in range(150)}
        with make(tmp_path / "store.db") as store:
            store.put_many("run", expected)
            for suffix in ("", "-wal"):
                shutil.copy(f"{tmp_path / 'store.db'}{suffix}", f"{path}{suffix}")
        pages = _frames(path.with_name("killed.db-wal").read_bytes())
        assert len(pages) * 4096 > path.stat().st_size
        with open(path, "r+b") as file:
            for number in sorted(pages)[: max(1, int(part * len(pages)))]:
                file.seek((number - 1) * 4096)
                file.write(pages[number])
        with make(path, read_only=read_only) as store:
            assert {node: store.get("run", node) for node in store.list_keys("run")} == expected

    def test_an_opener_waits_for_a_checkpoint_to_come_to_its_end(
        self, make_either: Make, tmp_path: pathlib.Path
    ) -> None:
        whole, path = tmp_path / "whole.db", tmp_path / "store.db"
        expected = make_sample(whole)
        path.write_bytes(whole.read_bytes()[:4096])  # as somebody sees it who looks without the lock
        lock = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)

            def finish() -> None:
                shutil.copyfile(whole, path)
                fcntl.flock(lock, fcntl.LOCK_UN)

            timer = threading.Timer(0.2, finish)
            timer.start()
            store = make_either(path)
            try:
                assert {node: store.get("run", node) for node in store.list_keys("run")} == expected
            finally:
                timer.join()
        finally:
            os.close(lock)


class TestForks:
    def test_what_a_forked_child_is_told_is_stored_is_stored(self, file_path: pathlib.Path) -> None:
        """SQLite in the child believes that it holds the locks of the parent's connections."""
        program = """
            parent = ContextStore(sys.argv[1])
            parent.put("run", "parent", 1)
            to_parent, to_child = os.pipe(), os.pipe()
            if os.fork() == 0:
                try:
                    child = ContextStore(sys.argv[1], timeout=5)
                    child.put("run", "before", 1)
                    say("before")
                    os.write(to_parent[1], b"x")
                    os.read(to_child[0], 1)
                    child.put("run", "after", 1)  # the parent has closed its store meanwhile
                    say("after")
                    child.close()
                except ForkedProcessError:
                    os.write(to_parent[1], b"x")
                finally:
                    os._exit(0)
            os.read(to_parent[0], 1)
            parent.close()
            os.write(to_child[1], b"x")
            os.wait()
        """
        said = run(program, file_path)
        with plain(file_path) as connection:
            stored = {node for (node,) in connection.execute("SELECT node_id FROM outputs")}
        assert stored == {"parent", *said}

    def test_a_child_forked_after_the_store_was_closed_has_one_of_its_own(self, file_path: pathlib.Path) -> None:
        make_sample(file_path, 1)

        def put() -> list[str]:
            with ContextStore(file_path) as store:
                store.put("run", "child", 1)
                return store.list_keys("run")

        assert run_in_child(put) == ["bytes", "child", "node-000"]


# --------------------------------------------------------------------------------------------------------------- damage

DAMAGED = ("run", "b")
DAMAGES = {
    "a flipped bit": """value = '{"rows":2}'""",
    "another case": """value = '{"Rows":3}'""",
    "not JSON any more": """value = '{"rows":'""",
    "not UTF-8 any more": "value = CAST(x'7b22ff' AS TEXT)",
    "emptied": "value = ''",
    "a space more": "value = value || ' '",
    "a NUL more": "value = CAST(value || x'00' AS TEXT)",
    "a number": "value = 3",
    "another's value": "value = (SELECT value FROM output_rows WHERE node_id = 'a')",
    "another's value and checksum": "(value, checksum, size) = "
    "(SELECT value, checksum, size FROM output_rows WHERE node_id = 'a')",
    "another run's value and checksum": "(value, checksum, size) = "
    "(SELECT value, checksum, size FROM output_rows WHERE node_id = 'b' AND run = 2)",
    "codec: bytes": "codec = 1",
    "codec: unknown": "codec = 9",
    "codec: text": "codec = 'x'",
    "codec: huge": "codec = 9223372036854775807",
    "checksum": "checksum = checksum + 1",
    "checksum: text": "checksum = 'x'",
    "size": "size = size + 1",
    "time: text": "written_at = 'x'",
}
WHOLE = {("run", "a"): {"rows": 1}, ("run", "c"): b"c", ("run", "d"): None, ("run", "e"): [1.5, "é"]}


@pytest.fixture
def damaged_store(file_path: pathlib.Path) -> Callable[[str], None]:
    """Changes the row of the output "b" of the run "run", and that alone."""
    with ContextStore(file_path) as store:
        store.put("run", "b", {"rows": 3})
        store.put("another run", "b", {"rows": 4})
        store.put_many("run", {node: value for (_, node), value in WHOLE.items()})

    def damage(change: str) -> None:
        with plain(file_path) as connection:
            update = f"UPDATE output_rows SET {change} WHERE run = 1 AND node_id = 'b'"
            assert connection.execute(update).rowcount == 1

    return damage


def _names_its_place(error: Any, path: pathlib.Path) -> bool:
    message = str(error)
    return type(error) is CorruptStoreError and all(part in message for part in ("'run'", "'b'", str(path)))


@pytest.mark.each_input_once
class TestDamage:
    @pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
    def test_a_damaged_output_is_an_error_that_names_it_and_the_others_are_served(
        self, make: Make, file_path: pathlib.Path, damaged_store: Callable[[str], None], change: str
    ) -> None:
        damaged_store(change)
        before = contents(file_path)
        with make(file_path) as store:
            for call in [
                lambda: store.get(*DAMAGED, "default"),
                lambda: store.get(*DAMAGED, type=dict[str, int]),
                lambda: store.put(*DAMAGED, {"rows": 3}),  # is it equal or different?
                lambda: store.put(*DAMAGED, {"rows": 3}, exist_ok=True),
                lambda: store.get(*DAMAGED),
            ]:
                with pytest.raises(CorruptStoreError) as caught:
                    call()
                assert _names_its_place(caught.value, file_path)
            assert {key: store.get(*key) for key in WHOLE} == WHOLE
            assert store.list_keys("run") == ["a", "b", "c", "d", "e"]
        assert contents(file_path) == before

    @pytest.mark.parametrize("damage", ["a flipped bit", "not UTF-8 any more", "codec: text", "size", "time: text"])
    def test_gets_that_share_a_trip_with_a_damaged_one_are_served(
        self, make_either: Make, file_path: pathlib.Path, damaged_store: Callable[[str], None], damage: str
    ) -> None:
        damaged_store(DAMAGES[damage])
        with make_either(file_path) as store:
            asked = [*WHOLE, DAMAGED] * 5
            for key, answer in zip(asked, store.get_at_once(asked), strict=True):
                if key == DAMAGED:
                    assert _names_its_place(answer, file_path)
                else:
                    assert answer == WHOLE[key]

    def test_calls_for_several_outputs_give_no_wrong_one(
        self, make_either: Make, file_path: pathlib.Path, damaged_store: Callable[[str], None]
    ) -> None:
        damaged_store(DAMAGES["a flipped bit"])
        with make_either(file_path) as store:
            assert store.get_many("run", ["c", "a"]) == {"c": b"c", "a": {"rows": 1}}
            for call in [
                lambda: store.get_many("run", ["a", "b"]),
                lambda: store.get_run("run"),
                lambda: store.get_entry("run", "b"),
                lambda: store.fork_run("run", new_flow_run_id="fork"),
            ]:
                with pytest.raises(CorruptStoreError) as caught:
                    call()
                assert _names_its_place(caught.value, file_path)
            assert [(problem.kind, problem.key) for problem in store.check().problems] == [("output", DAMAGED)]

    def test_a_store_that_is_only_read_tells_too(
        self, make_either: Make, file_path: pathlib.Path, damaged_store: Callable[[str], None]
    ) -> None:
        damaged_store(DAMAGES["a flipped bit"])
        with make_either(file_path, read_only=True) as store:
            with pytest.raises(CorruptStoreError, match="checksum"):
                store.get(*DAMAGED)
            assert {key: store.get(*key) for key in WHOLE} == WHOLE

    @pytest.mark.parametrize("column", ["node_id", "run"])
    def test_swapped_outputs_are_both_errors(self, make_either: Make, file_path: pathlib.Path, column: str) -> None:
        swapped = [("run", "a"), ("run", "b")] if column == "node_id" else [("run", "a"), ("another run", "a")]
        with make_either(file_path) as store:
            for number, key in enumerate([*swapped, ("run", "c")]):
                store.put(*key, number)
        with plain(file_path) as connection:
            (one, other) = connection.execute(f"SELECT id, {column} FROM output_rows ORDER BY id LIMIT 2").fetchall()
            for row, value in [(one, "swapping"), (other, one[1]), (one, other[1])]:
                connection.execute(f"UPDATE output_rows SET {column} = ? WHERE id = ?", (value, row[0]))
        with make_either(file_path) as store:
            for run_id, node in swapped:
                with pytest.raises(CorruptStoreError, match=f"node '{node}' of flow run '{run_id}'"):
                    store.get(run_id, node)
            assert store.get("run", "c") == 2

    def test_bytes_that_were_flipped_in_the_file_itself_are_noticed(
        self, make_either: Make, file_path: pathlib.Path
    ) -> None:
        big = {node: node * 20_000 for node in "abcd"}
        with make_either(file_path) as store:
            store.put_many("run", big)
        raw = bytearray(file_path.read_bytes())
        at = raw.index(b"b" * 4000) + 2000
        raw[at] ^= 1
        file_path.write_bytes(raw)
        with make_either(file_path) as store:
            for node, answer in zip(big, store.get_at_once([("run", node) for node in big]), strict=True):
                if node == "b":
                    assert _names_its_place(answer, file_path)
                else:
                    assert answer == big[node]

    def test_a_page_that_was_wiped_out_is_an_error_for_those_who_need_it(
        self, make_either: Make, file_path: pathlib.Path
    ) -> None:
        big = {node: node * 20_000 for node in "abcd"}
        with make_either(file_path) as store:
            store.put_many("run", big)
        raw = bytearray(file_path.read_bytes())
        # The first of the pages that "b" goes on in: the others are found through it.
        page = raw.index(b"b" * 4000) // 4096
        raw[page * 4096 : page * 4096 + 4096] = b"\xff" * 4096
        file_path.write_bytes(raw)
        with make_either(file_path) as store:
            for node, answer in zip(big, store.get_at_once([("run", node) for node in big]), strict=True):
                if node == "b":
                    assert type(answer) is CorruptStoreError
                    assert "'b'" in str(answer)
                    assert "'run'" in str(answer)
                else:
                    assert answer == big[node]
            with pytest.raises(CorruptStoreError, match=r"node 'b' of flow run 'run'"):
                store.get("run", "b")

    @pytest.mark.parametrize(
        "sql",
        [
            "UPDATE global_rows SET value = '8' WHERE key = 'b'",
            "UPDATE global_rows SET value = CAST(value AS INTEGER) + 1 WHERE key = 'b'",
            "UPDATE global_rows SET codec = 1 WHERE key = 'b'",
            "UPDATE global_rows SET codec = NULL WHERE key = 'b'",
            "UPDATE global_rows SET checksum = NULL WHERE key = 'b'",
            "UPDATE global_rows SET (value, checksum) = (SELECT value, checksum FROM global_rows WHERE key = 'a') "
            "WHERE key = 'b'",
            "UPDATE global_rows SET size = 0 WHERE key = 'b'",
            "UPDATE global_rows SET key = 'b' WHERE key = 'c'",
        ],
    )
    def test_a_damaged_global_is_an_error_that_names_it_until_it_is_overwritten(
        self, make_either: Make, file_path: pathlib.Path, sql: str
    ) -> None:
        with make_either(file_path) as store:
            store.put_global("a", 6)
            store.put_global("c" if "WHERE key = 'c'" in sql else "b", 7)
            store.put("run", "b", 7)
        with plain(file_path) as connection:
            assert connection.execute(sql).rowcount == 1
        with make_either(file_path) as store:
            for _ in range(2):
                with pytest.raises(CorruptStoreError, match="global 'b'") as caught:
                    store.get_global("b", "default")
                assert str(file_path) in str(caught.value)
            for exist_ok in (False, True):
                with pytest.raises(CorruptStoreError, match="global 'b'"):
                    store.put_global("b", 7, exist_ok=exist_ok)
            assert (store.get_global("a"), store.get("run", "b")) == (6, 7)
            assert store.upsert_global("b", 9) == 2
            assert store.get_global("b") == 9

    def test_an_output_is_not_mistaken_for_a_global(self, make: Make, file_path: pathlib.Path) -> None:
        with make(file_path) as store:
            store.put("run", "b", 7)
            store.put_global("b", 8)
        with plain(file_path) as connection:
            connection.execute(
                "UPDATE global_rows SET (codec, checksum, size, value) = "
                "(SELECT codec, checksum, size, value FROM output_rows)"
            )
        with make(file_path) as store, pytest.raises(CorruptStoreError, match="global 'b'"):
            store.get_global("b")
