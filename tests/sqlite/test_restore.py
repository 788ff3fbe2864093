"""A store from its backup: restore(), its refusals, and what a kill leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import random
import signal
import sqlite3
import stat
import time
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import (
    AsyncContextStore,
    ContextStore,
    CorruptStoreError,
    IncompatibleStoreError,
    StoreBusyError,
    StoreNotFoundError,
    TargetExistsError,
    restore,
)

from ..support.forked import Child

SIDE_FILES = ("-wal", "-shm", "-journal")


def made(path: pathlib.Path, run: str = "run", outputs: int = 3, size: int = 10) -> pathlib.Path:
    with ContextStore(path) as store:
        store.put_many(run, {str(number): "x" * size for number in range(outputs)})
        store.put_global("of", run)
    return path


def whose(path: pathlib.Path) -> Any:
    with ContextStore(path, create=False) as store:
        assert store.check().ok
        return store.get_global("of")


def damage(path: pathlib.Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE node_outputs SET value = '\"other\"' WHERE node_id = '1'")


def names_in(folder: pathlib.Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def backup(tmp_path: pathlib.Path) -> pathlib.Path:
    with ContextStore(made(tmp_path / "source.db", "backup")) as store:
        store.backup(tmp_path / "backup.db")
    return tmp_path / "backup.db"


@pytest.fixture
def target(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "flows.db"


IDLE = """
    store = ContextStore(sys.argv[1], **dict.fromkeys(sys.argv[2:], True))
    store.open()
    say("open")
    sys.stdin.readline()
    say(store.get_global("of"))
"""

KILLED = """
    store = ContextStore(sys.argv[1])
    store.put_global("of", "killed")
    store.put_many("killed", {str(number): "x" * 10_000 for number in range(20)})
    say("done")
    sys.stdin.readline()
"""


def killed(path: pathlib.Path) -> pathlib.Path:
    with Child(KILLED, path) as child:
        assert child.hear() == "done"
        child.kill()
    assert os.path.getsize(f"{path}-wal") > 0
    return path


class TestRestore:
    def test_it_makes_a_store_of_a_backup(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        old = os.umask(0)
        try:
            restore(backup, target)
        finally:
            os.umask(old)
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert names_in(target.parent) == ["flows.db", "flows.db-lock"]
        assert whose(target) == "backup"
        with ContextStore(target) as store:
            store.put("run", "more", 1)

    @pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path], ids=["str", "bytes", "Path"])
    def test_paths_may_be_of_any_kind_and_relative(
        self, backup: pathlib.Path, target: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Any], Any]
    ) -> None:
        monkeypatch.chdir(backup.parent)
        restore(kind("backup.db"), kind("place/flows.db"))
        assert whose(target) == "backup"

    async def test_it_is_called_beside_a_loop_in_a_thread(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        await asyncio.to_thread(restore, backup, target)
        async with AsyncContextStore(target) as store:
            assert await store.get_global("of") == "backup"

    def test_an_existing_store_is_overwritten_only_when_asked_to(
        self, backup: pathlib.Path, target: pathlib.Path
    ) -> None:
        made(target, "old")
        target.chmod(0o640)
        with pytest.raises(TargetExistsError, match="overwrite=True"):
            restore(backup, target)
        assert whose(target) == "old"
        restore(backup, target, overwrite=True)
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        assert whose(target) == "backup"

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
    def test_it_keeps_the_owner_of_what_was_there(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        made(target, "old")
        os.chown(target, 65533, 65534)
        restore(backup, target, overwrite=True)
        assert (target.stat().st_uid, target.stat().st_gid) == (65533, 65534)

    def test_nothing_of_a_killed_store_gets_into_it(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        killed(target)
        pathlib.Path(f"{target}-journal").write_bytes(b"stale")
        restore(backup, target, overwrite=True)
        assert names_in(target.parent) == ["flows.db", "flows.db-lock"]
        assert whose(target) == "backup"

    def test_nor_of_one_that_was_deleted(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        killed(target).unlink()
        restore(backup, target)
        assert whose(target) == "backup"

    def test_a_link_stays_one(self, backup: pathlib.Path, target: pathlib.Path, tmp_path: pathlib.Path) -> None:
        made(tmp_path / "real.db", "old")
        target.symlink_to(tmp_path / "real.db")
        restore(backup, target, overwrite=True)
        assert target.is_symlink()
        assert whose(tmp_path / "real.db") == "backup"

    def test_a_store_with_a_wal_of_its_own_is_taken_with_it(self, target: pathlib.Path, tmp_path: pathlib.Path) -> None:
        source = killed(tmp_path / "crashed.db")
        before = {
            name: (tmp_path / name).read_bytes() for name in names_in(tmp_path) if "shm" not in name and "db" in name
        }
        restore(source, target)
        assert whose(target) == "killed"
        assert before == {name: (tmp_path / name).read_bytes() for name in before}

    def test_a_store_in_use_is_taken_as_it_is_at_one_moment(self, target: pathlib.Path, tmp_path: pathlib.Path) -> None:
        with ContextStore(made(tmp_path / "source.db", "live")) as store:
            restore(tmp_path / "source.db", target)
            store.put("run", "later", 1)
        with ContextStore(target) as restored:
            assert restored.get("run", "later") is None
            assert restored.get_global("of") == "live"

    def test_progress_rises_to_twice_the_pages(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        told: list[tuple[int, int]] = []
        restore(backup, target, progress=lambda *event: told.append(event))
        assert told == sorted(set(told))
        assert told[-1] == (target.stat().st_size // 4096 * 2,) * 2

    def test_a_visitor_who_was_alone_with_the_file_is_told_that_it_was_replaced(
        self, backup: pathlib.Path, target: pathlib.Path
    ) -> None:
        """He has no lock on it, and keeps nobody from anything."""
        made(target, "old")
        program = """
            with ContextStore(sys.argv[1], read_only=True) as store:
                say(store.get_global("of"))
                sys.stdin.readline()
                try:
                    say(store.get_global("of"))
                except StorageError as error:
                    say(error)
        """
        with Child(program, target) as child:
            assert child.hear() == "old"
            restore(backup, target, overwrite=True)
            child.tell()
            assert "was replaced by another file while it was open" in child.hear()


class TestRefusals:
    @pytest.fixture(autouse=True)
    def left_as_it_was(self, target: pathlib.Path) -> Any:
        made(target, "old")
        yield
        assert [name for name in names_in(target.parent) if "part" in name] == []
        assert whose(target) == "old"

    @pytest.mark.parametrize("options", [[], ["read_only"]], ids=["a store", "a visitor beside a store"])
    def test_a_store_that_another_process_has_open_though_idle(
        self, backup: pathlib.Path, target: pathlib.Path, options: list[str]
    ) -> None:
        with contextlib.ExitStack() as stack:
            if options:  # one who only reads is followed by SQLite's locks once he has joined a writer
                worker = stack.enter_context(Child(IDLE, target))
                assert worker.hear() == "open"
            child = stack.enter_context(Child(IDLE, target, *options))
            assert child.hear() == "open"
            if options:
                worker.kill()
            with pytest.raises(StoreBusyError, match="in use by another process"):
                restore(backup, target, overwrite=True)
            child.tell()
            assert child.hear() == "old"

    def test_a_store_that_this_process_has_open(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        with ContextStore(target) as store:
            store.open()
            with pytest.raises(StoreBusyError, match="in use by this process"):
                restore(backup, target, overwrite=True)
            store.put("run", "still", 1)

    def test_a_store_that_a_program_without_the_lock_file_has_open(
        self, backup: pathlib.Path, target: pathlib.Path
    ) -> None:
        program = """
            import sqlite3
            connection = sqlite3.connect(sys.argv[1])
            connection.execute("SELECT count(*) FROM flow_runs").fetchall()
            say("open")
            sys.stdin.readline()
        """
        with Child(program, target) as child:
            assert child.hear() == "open"
            with pytest.raises(StoreBusyError, match="in use by another process"):
                restore(backup, target, overwrite=True)

    def test_a_damaged_backup(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        damage(backup)
        with pytest.raises(CorruptStoreError, match=r"1 problems, the first: output 'backup' '1': its checksum"):
            restore(backup, target, overwrite=True)

    def test_a_backup_that_was_cut_off(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        os.truncate(backup, backup.stat().st_size // 2)
        with pytest.raises((CorruptStoreError, IncompatibleStoreError)):
            restore(backup, target, overwrite=True)

    @pytest.mark.parametrize("content", [b"", b"x", b"text" * 1000], ids=["empty", "a byte", "text"])
    def test_what_is_no_store(self, backup: pathlib.Path, target: pathlib.Path, content: bytes) -> None:
        backup.write_bytes(content)
        with pytest.raises((IncompatibleStoreError, StoreNotFoundError)):
            restore(backup, target, overwrite=True)

    def test_a_database_of_somebody_else(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        backup.unlink()
        with contextlib.closing(sqlite3.connect(backup)) as connection:
            connection.execute("CREATE TABLE t (x)")
        with pytest.raises(IncompatibleStoreError, match="another program"):
            restore(backup, target, overwrite=True)

    def test_a_backup_that_is_not_there(self, target: pathlib.Path, tmp_path: pathlib.Path) -> None:
        with pytest.raises(StoreNotFoundError, match="nowhere"):
            restore(tmp_path / "nowhere.db", target, overwrite=True)

    def test_a_folder_that_is_not_there(self, backup: pathlib.Path, tmp_path: pathlib.Path) -> None:
        with pytest.raises(StoreNotFoundError, match="no folder"):
            restore(backup, tmp_path / "no" / "flows.db")

    def test_itself(self, target: pathlib.Path) -> None:
        with pytest.raises(ValueError, match="same file"):
            restore(target, target, overwrite=True)

    @pytest.mark.parametrize("name", ["", "postgresql://host/database", "sqlite:///flows.db", ":memory:", "a\0b"])
    def test_what_is_no_path(self, backup: pathlib.Path, name: str) -> None:
        for paths in ((backup, name), (name, backup)):
            with pytest.raises(ValueError, match="path of a file"):
                restore(*paths)

    def test_another_type(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        for paths in ((backup, 7), (None, target)):
            with pytest.raises(TypeError, match="must be a str or a Path"):
                restore(*paths)  # type: ignore[arg-type]

    @pytest.mark.parametrize("when", [0, 1])
    def test_progress_that_raises(self, backup: pathlib.Path, target: pathlib.Path, when: int) -> None:
        def progress(done: int, total: int) -> None:
            if done * 2 > total * when:
                raise KeyError(done)

        with pytest.raises(KeyError):
            restore(backup, target, overwrite=True, progress=progress)

    def test_progress_that_is_to_be_awaited(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        async def progress(done: int, total: int) -> None: ...

        with pytest.raises(TypeError, match="plain function"):
            restore(backup, target, overwrite=True, progress=progress)


RESTORING = """
    say("begin")
    while True:
        restore(sys.argv[1], sys.argv[2], overwrite=True)
        restore(sys.argv[3], sys.argv[2], overwrite=True)
"""

AT_EACH_STEP = """
    steps = int(sys.argv[3])
    def counted(function):
        def step(*arguments, **options):
            global steps
            steps -= 1
            if steps < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return step
    for name in ("replace", "unlink", "pwrite", "fsync", "chmod", "chown", "link", "rename"):
        setattr(os, name, counted(getattr(os, name)))
    restore(sys.argv[1], sys.argv[2], overwrite=True)
    say("done")
"""


class TestKills:
    @pytest.mark.slow
    def test_a_kill_at_any_step_leaves_the_old_store_whole_or_the_new_one(
        self, backup: pathlib.Path, target: pathlib.Path
    ) -> None:
        seen = []
        for steps in range(100):
            for name in names_in(target.parent):
                os.unlink(target.parent / name)
            killed(target)  # what it holds is in its -wal
            with Child(AT_EACH_STEP, backup, target, steps) as child:
                done = child.hear()
            for read_only in (True, False):
                with ContextStore(target, create=False, read_only=read_only) as store:
                    seen.append(store.get_global("of"))
                    assert store.check().ok
                    assert len(store.list_keys("killed")) == (20 if seen[-1] == "killed" else 0)
            if done:
                break
        assert done == "done"
        assert seen == sorted(seen, reverse=True)
        assert set(seen) == {"killed", "backup"}

    @pytest.mark.slow
    def test_a_kill_at_any_time_leaves_one_of_them_whole(
        self, backup: pathlib.Path, target: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        other = made(tmp_path / "other.db", "other", 200, 1000)
        randomness = random.Random(7)
        made(target, "old")
        for _ in range(30):
            with Child(RESTORING, backup, target, other) as child:
                assert child.hear() == "begin"
                time.sleep(randomness.random() / 5)
                child.signal(signal.SIGKILL)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{target}.part")
            assert whose(target) in ("old", "backup", "other")
