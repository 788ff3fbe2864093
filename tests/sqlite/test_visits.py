"""Visits to a store that is only read: they see what is written, and leave the owner able to write."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, ReadOnlyStoreError, StorageError

from ..conftest import FACES, Awaited
from ..support.forked import Child
from ..support.portions import first_of

NOBODY, ANOTHER = 65534, 65533
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become two users")

BECOME = """
    import aiosqlite, encodings.ascii, encodings.idna, json, random, hashlib, uuid, tempfile
    if int(sys.argv[2]):
        os.setgroups([])
        os.setgid(int(sys.argv[2]))
        os.setuid(int(sys.argv[2]))
    path = sys.argv[1]
    def tried(call):
        try:
            return call()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
"""

READER = (
    BECOME
    + """
    store = tried(lambda: ContextStore(path, read_only=True))
    say(tried(store.open))
    for line in sys.stdin:
        say(tried(lambda: eval(line)))
    store.close()
"""
)

WRITER = (
    BECOME
    + """
    store = ContextStore(path)
    say(tried(store.open))
    for line in sys.stdin:
        say(tried(lambda: eval(line)))
    store.close()
"""
)


def ask(child: Child, line: str) -> str:
    child.tell(line)
    return child.hear()


@contextlib.contextmanager
def reader(path: pathlib.Path, uid: int) -> Iterator[Child]:
    with Child(READER, path, uid) as child:
        assert child.hear() == "None"
        yield child


@contextlib.contextmanager
def writer(path: pathlib.Path, uid: int) -> Iterator[Child]:
    with Child(WRITER, path, uid) as child:
        assert child.hear() == "None"
        yield child


def end(child: Child) -> None:
    status, said, err = child.end()
    assert (status, said) == (0, []), err


def files_of(path: pathlib.Path) -> dict[str, tuple[str, int]]:
    found = {name: os.stat(path.parent / name) for name in sorted(os.listdir(path.parent))}
    return {name: (stat.filemode(there.st_mode), there.st_uid) for name, there in found.items()}


@pytest.fixture
def path() -> Iterator[pathlib.Path]:
    """In a folder that everybody may write to."""
    folder = pathlib.Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder / "flows.db"
    folder.chmod(0o700)
    shutil.rmtree(folder)


def made(path: pathlib.Path, uid: int, mode: int = 0o644) -> None:
    """A store of that user's, which is closed."""
    with ContextStore(path) as store:
        store.put("run", "first", 1)
    for name in os.listdir(path.parent):
        os.chown(path.parent / name, uid, uid)
    path.chmod(mode)


USERS = pytest.mark.parametrize(
    ("reading", "writing"),
    [
        (NOBODY, ANOTHER),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in [(0, ANOTHER), (NOBODY, 0), (NOBODY, NOBODY), (0, 0)]
        ),
    ],
)


@AS_ROOT
class TestTwoUsers:
    @USERS
    def test_a_visit_leaves_no_file_behind(self, path: pathlib.Path, reading: int, writing: int) -> None:
        made(path, writing)
        before = files_of(path)
        with reader(path, reading) as child:
            assert ask(child, "store.get_run('run')") == "{'first': 1}"
            assert files_of(path) == before
            end(child)
        assert files_of(path) == before

    @USERS
    def test_who_came_before_the_writer_sees_all_that_he_writes_and_hinders_nobody(
        self, path: pathlib.Path, reading: int, writing: int
    ) -> None:
        made(path, writing)
        with reader(path, reading) as visitor:
            assert ask(visitor, "store.list_keys('run')") == "['first']"
            for turn in range(2):  # the second one comes to a visitor who has joined the first
                with writer(path, writing) as worker:
                    for number in range(5):
                        assert ask(worker, f"store.put('run', '{turn}-{number}', {number})") == "None"
                        assert ask(visitor, f"store.get('run', '{turn}-{number}', 'nothing')") == str(number)
                        assert ask(visitor, "len(store.list_keys('run'))") == str(2 + turn * 5 + number)
                    end(worker)
                assert ask(visitor, "len(store.list_keys('run'))") == str(6 + turn * 5)
            end(visitor)
        assert {uid for _, uid in files_of(path).values()} == {writing}

    @USERS
    def test_who_stays_when_the_writer_is_killed_goes_on_and_so_does_the_next_writer(
        self, path: pathlib.Path, reading: int, writing: int
    ) -> None:
        made(path, writing)
        with writer(path, writing) as worker:
            assert ask(worker, "store.put('run', 'a', 1)") == "None"
            with reader(path, reading) as visitor:
                assert ask(worker, "store.put('run', 'b', 1)") == "None"
                assert ask(visitor, "store.list_keys('run')") == "['a', 'b', 'first']"
                worker.kill()
                assert ask(visitor, "store.list_keys('run')") == "['a', 'b', 'first']"
                with reader(path, reading) as another:
                    assert ask(another, "store.list_keys('run')") == "['a', 'b', 'first']"
                    end(another)
                with writer(path, writing) as next_one:
                    assert ask(next_one, "store.put('run', 'c', 1)") == "None"
                    assert ask(visitor, "store.list_keys('run')") == "['a', 'b', 'c', 'first']"
                    end(next_one)
                end(visitor)
        assert {uid for _, uid in files_of(path).values()} == {writing}

    @USERS
    @pytest.mark.parametrize("left", first_of([(("-wal", "-shm"),), (("-wal",),), (("-shm",),)], 1), ids=str)
    def test_what_a_killed_writer_left_is_read_and_then_written_on(
        self, path: pathlib.Path, reading: int, writing: int, left: tuple[str, ...]
    ) -> None:
        made(path, writing)
        with writer(path, writing) as worker:
            assert ask(worker, "store.put('run', 'a', 1)") == "None"
            worker.kill()
        for suffix in {"-wal", "-shm"} - {*left}:
            os.unlink(f"{path}{suffix}")
        expected = "['a', 'first']" if "-wal" in left else "['first']"
        with reader(path, reading) as visitor:
            assert ask(visitor, "store.list_keys('run')") == expected
            assert ask(visitor, "store.check().ok") == "True"
            with writer(path, writing) as worker:
                assert ask(worker, "store.put('run', 'b', 1)") == "None"
                assert ask(visitor, "store.get('run', 'b')") == "1"
                end(worker)
            assert ask(visitor, "store.get('run', 'b')") == "1"
            end(visitor)
        assert {uid for _, uid in files_of(path).values()} == {writing}

    def test_a_shm_that_was_left_in_the_middle_of_something_is_done_without(self, path: pathlib.Path) -> None:
        """Only who may write it may mend it. Who has it open keeps others from beginning it anew."""
        made(path, ANOTHER)
        with writer(path, ANOTHER) as worker, reader(path, NOBODY) as one, reader(path, NOBODY) as other:
            assert ask(worker, "store.put('run', 'a', 1)") == "None"
            for child in (one, other):
                assert ask(child, "store.get('run', 'a')") == "1"
            worker.kill()
            with open(f"{path}-shm", "r+b") as shm:
                shm.seek(16)
                shm.write(b"\xff" * 4)
            for child in (one, other):
                assert ask(child, "store.list_keys('run')") == "['a', 'first']"
                assert ask(child, "store.check().ok") == "True"
            with writer(path, ANOTHER) as worker:
                assert ask(worker, "store.put('run', 'b', 1)") == "None"
                for child in (one, other):
                    assert ask(child, "store.list_keys('run')") == "['a', 'b', 'first']"
                end(worker)
            for child in (one, other):
                end(child)

    def test_a_visitor_reads_every_one_of_200_commits(self, path: pathlib.Path) -> None:
        made(path, ANOTHER)
        with reader(path, NOBODY) as visitor, writer(path, ANOTHER) as worker:
            for number in range(200):
                assert ask(worker, f"store.put('run', '{number}', {number})") == "None"
                assert ask(visitor, f"store.get('run', '{number}')") == str(number)
            end(worker)
            end(visitor)

    def test_a_visitor_who_waits_is_told_though_he_came_before_the_writer(self, path: pathlib.Path) -> None:
        made(path, ANOTHER)
        with reader(path, NOBODY) as visitor:
            visitor.tell("store.wait_for('run', 'later', timeout=30)")
            with writer(path, ANOTHER) as worker:
                assert ask(worker, "store.put('run', 'later', 'told')") == "None"
                assert visitor.hear() == "told"
                end(worker)
            visitor.tell("store.wait_for('run', 'latest', timeout=30)")
            with writer(path, ANOTHER) as worker:
                assert ask(worker, "store.put('run', 'latest', 'told again')") == "None"
                end(worker)
            assert visitor.hear() == "told again"
            end(visitor)

    @pytest.mark.slow
    def test_a_visitor_makes_backups_and_checks_beside_a_writer_who_comes_and_goes(self, path: pathlib.Path) -> None:
        made(path, ANOTHER)
        with reader(path, NOBODY) as visitor:
            for turn in range(5):
                with writer(path, ANOTHER) as worker:
                    assert ask(worker, f"store.put('run', '{turn}', 1)") == "None"
                    if turn % 2:
                        assert ask(visitor, "store.check().ok") == "True"
                    end(worker)
                assert ask(visitor, f"store.backup(path + '.{turn}')") == "None"
                with ContextStore(f"{path}.{turn}", read_only=True) as copy:
                    assert len(copy.list_keys("run")) == turn + 2
            end(visitor)

    @pytest.mark.parametrize("suffix", first_of(["-shm", "-wal", "-lock"], 1))
    def test_a_file_that_somebody_else_left_in_the_way_is_named_with_the_remedy(
        self, path: pathlib.Path, suffix: str
    ) -> None:
        made(path, ANOTHER)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}{suffix}")
        pathlib.Path(f"{path}{suffix}").touch(0o644)
        os.chown(f"{path}{suffix}", NOBODY, NOBODY)
        with Child(WRITER, path, ANOTHER) as child:
            said = child.hear()
            assert said.startswith("ReadOnlyStoreError")
            assert f"flows.db{suffix} (mode 0644, uid {NOBODY}) cannot be written by uid {ANOTHER}" in said
            assert "chmod, chown" in said
        os.chown(f"{path}{suffix}", ANOTHER, ANOTHER)
        with writer(path, ANOTHER) as child:
            assert ask(child, "store.put('run', 'b', 1)") == "None"
            end(child)

    @pytest.mark.parametrize("suffix", first_of(["-shm", "-wal"], 1))
    def test_a_file_of_the_writers_that_a_visitor_may_not_read_is_named(self, path: pathlib.Path, suffix: str) -> None:
        made(path, ANOTHER)
        with writer(path, ANOTHER) as worker:
            assert ask(worker, "store.put('run', 'b', 1)") == "None"
            os.chmod(f"{path}{suffix}", 0o600)
            with Child(READER, path, NOBODY) as child:
                assert f"flows.db{suffix} (mode 0600, uid {ANOTHER}) cannot be read by uid {NOBODY}" in child.hear()
            os.chmod(f"{path}{suffix}", 0o644)
            with reader(path, NOBODY) as child:
                assert ask(child, "store.get('run', 'b')") == "1"
                end(child)
            end(worker)

    def test_a_store_that_a_visitor_may_not_read_is_named_and_not_what_is_beside_it(self, path: pathlib.Path) -> None:
        made(path, ANOTHER, 0o600)
        with Child(READER, path, NOBODY) as child:
            assert child.hear().endswith(f"(SQLITE_CANTOPEN): it cannot be read by uid {NOBODY}; check its permissions")


@AS_ROOT
class TestAnArchivedStore:
    @pytest.mark.slow
    @pytest.mark.parametrize("folder_mode", [0o777, 0o555], ids=oct)
    @pytest.mark.parametrize("left", ["nothing", "a -wal", "a -wal and a -shm"])
    def test_is_read_and_can_be_taken_back_into_use(self, path: pathlib.Path, folder_mode: int, left: str) -> None:
        made(path, NOBODY)
        if left != "nothing":
            with writer(path, NOBODY) as worker:
                assert ask(worker, "store.put('run', 'a', 1)") == "None"
                worker.kill()
            if left == "a -wal":
                os.unlink(f"{path}-shm")
        for name in os.listdir(path.parent):
            os.chmod(path.parent / name, 0o444)
        before = files_of(path)
        path.parent.chmod(folder_mode)
        for uid in (NOBODY, ANOTHER, 0):
            with reader(path, uid) as visitor:
                assert ask(visitor, "store.get('run', 'first')") == "1"
                assert ask(visitor, "store.get('run', 'a')") == ("None" if left == "nothing" else "1")
                assert ask(visitor, "store.check().ok") == "True"
                end(visitor)
        assert files_of(path) == before
        path.parent.chmod(0o777)
        for name in os.listdir(path.parent):
            os.chmod(path.parent / name, 0o600)
        with writer(path, NOBODY) as worker:
            assert ask(worker, "store.put('run', 'b', 1)") == "None"
            end(worker)


@pytest.mark.parametrize("face", FACES)
class TestOneProcess:
    def store(self, face: str, path: pathlib.Path, **options: Any) -> Any:
        return AsyncContextStore(path, **options) if face == "async" else Awaited(ContextStore(path, **options))

    async def test_a_visitor_sees_writers_of_the_same_process_come_and_go(
        self, tmp_path: pathlib.Path, face: str
    ) -> None:
        path = tmp_path / "flows.db"
        async with self.store(face, path) as store:
            await store.put("run", "first", 1)
        async with self.store(face, path, read_only=True) as visitor:
            for number in range(6):
                assert await visitor.get("run", f"{number}") is None
                async with self.store(face, path) as store:
                    await store.put("run", f"{number}", number)
                    if number % 2:
                        assert await visitor.get("run", f"{number}") == number
                assert len(await visitor.list_keys("run")) == 2 + number
                assert (await visitor.stats()).outputs == 2 + number

    async def test_visits_do_not_take_away_the_locks_of_a_writer(self, tmp_path: pathlib.Path, face: str) -> None:
        """What a visitor closes while another store of the process has the file open must leave SQLite's locks."""
        path = tmp_path / "flows.db"
        async with self.store(face, path) as store:
            await store.put("run", "first", 1)
            visitor = self.store(face, path, read_only=True)
            assert await visitor.get("run", "first") == 1
            await visitor.close()
            with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as plain:
                pass
            program = """
                import sqlite3
                connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
                connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
                try:
                    say(connection.execute("SELECT count(*) FROM flow_runs").fetchall())
                except sqlite3.OperationalError as error:
                    say(error)
            """
            with Child(program, path) as child:
                assert child.end()[1] == ["database is locked"]
            del plain

    async def test_it_refuses_every_write(self, tmp_path: pathlib.Path, face: str) -> None:
        path = tmp_path / "flows.db"
        async with self.store(face, path) as store:
            await store.put("run", "first", 1)
        async with self.store(face, path, read_only=True) as visitor:
            for write in (visitor.put("run", "a", 1), visitor.upsert_global("a", 1), visitor.delete_run("run")):
                with pytest.raises(ReadOnlyStoreError):
                    await write

    async def test_a_file_that_was_replaced_is_told(self, tmp_path: pathlib.Path, face: str) -> None:
        path = tmp_path / "flows.db"
        async with self.store(face, path) as store:
            await store.put("run", "first", 1)
            await store.backup(tmp_path / "copy.db")
        async with self.store(face, path, read_only=True) as visitor:
            assert await visitor.get("run", "first") == 1
            os.replace(tmp_path / "copy.db", path)
            with pytest.raises(StorageError, match="was replaced"):
                await visitor.list_keys("run")
