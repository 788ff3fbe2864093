"""A file under a -wal that is not its own: what a killed store has left, beside a backup that was copied over it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import struct
import time
from collections.abc import Callable

import pytest

from contextstore import ContextStore, IncompatibleStoreError, restore
from contextstore._sqlite import wal_owner as _wal_owner

from ..support.forked import Child

WRITER = """
    from contextstore._sqlite import wal as _wal
    path, frames = sys.argv[1], int(sys.argv[2])
    _wal._CHECKPOINT_FRAMES = frames
    store = ContextStore(path)
    store.put("run", "old", "old")
    store.backup(path + ".backup", overwrite=True)
    for number in range(int(sys.argv[3])):
        store.put("run", f"new-{number:04}", "x" * 5000)
        say(number)
    say("done")
    sys.stdin.readline()
"""


def crashed(path: pathlib.Path, frames: int = 10**6, puts: int = 5) -> None:
    """A store that was killed, with commits in its -wal alone, and a backup from before them."""
    with Child(WRITER, path, frames, puts) as child:
        while child.hear() != "done":
            pass
        child.kill()
    assert os.path.getsize(f"{path}-wal") > 0
    time.sleep(0.05)  # nobody restores a backup within a tick of the file system's clock


def copied_over(path: pathlib.Path) -> None:
    shutil.copyfile(f"{path}.backup", path)


def copied_with_its_times(path: pathlib.Path) -> None:
    shutil.copyfile(f"{path}.backup", path)
    shutil.copystat(f"{path}.backup", path)


def copied_from_an_older_file(path: pathlib.Path) -> None:
    with ContextStore(f"{path}.older") as store:
        store.put("another", "a", 1)
    copied = pathlib.Path(f"{path}.older").read_bytes()
    with open(path, "r+b") as file:
        file.write(copied)
        file.truncate(len(copied))


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "flows.db"


class TestARestoredFile:
    @pytest.mark.parametrize("way", [copied_over, copied_with_its_times, copied_from_an_older_file])
    @pytest.mark.parametrize("options", [{}, {"read_only": True}, {"create": False}], ids=str)
    def test_is_refused_and_left_as_it_is(
        self, path: pathlib.Path, way: Callable[[pathlib.Path], None], options: dict[str, bool]
    ) -> None:
        crashed(path)
        way(path)
        before = {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)}
        for _ in range(2):  # and is not taken for known at the second time
            with pytest.raises(IncompatibleStoreError, match=r"not the file that .*flows\.db-wal belongs to"):
                ContextStore(path, **options).open()
        after = {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)}
        assert after == before

    def test_is_refused_after_later_checkpoints_too(self, path: pathlib.Path) -> None:
        crashed(path, frames=20, puts=40)
        copied_over(path)
        with pytest.raises(IncompatibleStoreError, match="belongs to"):
            ContextStore(path).open()

    def test_opens_once_the_wal_is_removed(self, path: pathlib.Path) -> None:
        crashed(path)
        copied_over(path)
        for suffix in ("-wal", "-shm"):
            os.unlink(f"{path}{suffix}")
        with ContextStore(path) as store:
            assert store.get_run("run") == {"old": "old"}
            assert store.check().ok

    def test_opens_once_the_lock_file_is_removed_by_who_knows_better(self, path: pathlib.Path) -> None:
        crashed(path)
        os.utime(path)
        with pytest.raises(IncompatibleStoreError, match=r"remove .*flows\.db-lock"):
            ContextStore(path).open()
        os.unlink(f"{path}-lock")
        with ContextStore(path) as store:
            assert len(store.list_keys("run")) == 6

    def test_is_replaced_by_restore(self, path: pathlib.Path) -> None:
        crashed(path)
        copied_over(path)
        restore(f"{path}.backup", path, overwrite=True)
        with ContextStore(path) as store:
            assert store.get_run("run") == {"old": "old"}

    def test_is_refused_too_if_it_was_renamed_into_its_place(self, path: pathlib.Path) -> None:
        crashed(path)
        os.replace(f"{path}.backup", path)
        for options in ({}, {"read_only": True}):
            with pytest.raises(IncompatibleStoreError, match="replaced by another file"):
                ContextStore(path, **options).open()

    def test_is_refused_if_it_is_written_on_another_boot(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        crashed(path)
        booted = time.time_ns()
        monkeypatch.setattr(_wal_owner, "boot_id", lambda: "another")
        monkeypatch.setattr(_wal_owner, "_boot_time_ns", lambda: booted)
        time.sleep(0.05)
        copied_over(path)
        with pytest.raises(IncompatibleStoreError, match="belongs to"):
            ContextStore(path).open()


def chmod(path: pathlib.Path) -> None:
    path.chmod(0o640)


def nothing(path: pathlib.Path) -> None:
    pass


def chown_of_all(path: pathlib.Path) -> None:
    for name in os.listdir(path.parent):
        os.chown(path.parent / name, os.getuid(), os.getgid())


FOREIGN = """
    import sqlite3
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    say(*connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone())
    sys.stdin.readline()
"""


def foreign_checkpoint(path: pathlib.Path) -> None:
    with Child(FOREIGN, path) as child:
        assert child.hear().startswith("0 ")
        child.kill()


def copied_over_by_itself(path: pathlib.Path) -> None:
    content = path.read_bytes()
    foreign_checkpoint(path)
    assert path.read_bytes() != content


class TestAStoreThatWasKilled:
    @pytest.mark.parametrize("way", [nothing, chmod, chown_of_all, foreign_checkpoint, copied_over_by_itself])
    @pytest.mark.parametrize("read_only", [False, True])
    @pytest.mark.parametrize("frames", [pytest.param(20, marks=pytest.mark.thorough), 10**6])
    def test_opens_with_all_its_commits(
        self, path: pathlib.Path, way: Callable[[pathlib.Path], None], read_only: bool, frames: int
    ) -> None:
        crashed(path, frames, 30)
        way(path)
        with ContextStore(path, read_only=read_only) as store:
            assert len(store.list_keys("run")) == 31
            assert store.check().ok

    def test_opens_after_a_foreign_checkpoint_that_a_reader_has_cut_short(self, path: pathlib.Path) -> None:
        program = """
            import sqlite3
            path = sys.argv[1]
            store = ContextStore(path)
            for number in range(3):
                store.put("run", f"old-{number:04}", "x" * 5000)
            pinned = sqlite3.connect(path, isolation_level=None)
            pinned.execute("BEGIN")
            pinned.execute("SELECT count(*) FROM flow_runs").fetchall()
            for number in range(20):
                store.put("run", f"new-{number:04}", "x" * 5000)
            time.sleep(0.05)
            other = sqlite3.connect(path, isolation_level=None)
            busy, log, done = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            say("done" if 0 < done < log else f"{busy} {log} {done}")
            sys.stdin.readline()
        """
        with Child(program, path) as child:
            assert child.hear() == "done"
            child.kill()
        time.sleep(0.05)
        path.chmod(0o640)
        with ContextStore(path) as store:
            assert len(store.list_keys("run")) == 23

    def test_opens_in_a_copy_of_its_folder(self, path: pathlib.Path, tmp_path: pathlib.Path) -> None:
        crashed(path)
        for copying in (shutil.copy, shutil.copy2, shutil.copyfile):
            copied = tmp_path / f"by {copying.__name__}"
            shutil.copytree(path.parent, copied, copy_function=copying, ignore=shutil.ignore_patterns("by *"))
            with ContextStore(copied / path.name) as store:
                assert len(store.list_keys("run")) == 6

    @pytest.mark.parametrize("lost", ["the last stamp", "the last times"])
    def test_opens_after_a_power_cut(self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
        crashed(path)
        past = path.stat().st_mtime_ns - 10**9 * (1 if lost == "the last times" else -1)
        os.utime(path, ns=(past, past))
        monkeypatch.setattr(_wal_owner, "boot_id", lambda: "another")
        monkeypatch.setattr(_wal_owner, "_boot_time_ns", lambda: time.time_ns() + 10**10)
        with ContextStore(path) as store:
            assert len(store.list_keys("run")) == 6

    def test_opens_after_a_power_cut_and_a_chown_of_the_folder(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        crashed(path)
        past = path.stat().st_mtime_ns - 10**9
        booted = time.time_ns()
        time.sleep(0.05)
        monkeypatch.setattr(_wal_owner, "boot_id", lambda: "another")
        monkeypatch.setattr(_wal_owner, "_boot_time_ns", lambda: booted)
        os.utime(path, ns=(past, past))
        chown_of_all(path)
        with ContextStore(path) as store:
            assert len(store.list_keys("run")) == 6

    @pytest.mark.slow
    def test_opens_whenever_it_was_killed(self, path: pathlib.Path) -> None:
        """Checkpoints are what it does most of the time."""
        randomness = random.Random(4)
        for attempt in range(50):
            with Child(WRITER.replace('"run"', f'"run-{attempt}"'), path, 5, 10**6) as child:
                told = [child.hear()]
                time.sleep(randomness.random() / 4)
                child.signal(signal.SIGKILL)
                told += [line for line in child.hear_all() if line.isdigit()]
            if attempt % 2:
                path.chmod(0o640)
            with ContextStore(path, read_only=attempt % 3 == 0) as store:
                written = store.list_keys(f"run-{attempt}")
                assert len(told) <= len([node for node in written if node.startswith("new")]) <= len(told) + 1

    def test_opens_with_a_checkpoint_cut_off_at_any_page(self, path: pathlib.Path) -> None:
        crashed(path)
        wal = _wal_owner.read_wal(f"{path}-wal")
        assert wal is not None
        pages = sorted(wal.last)
        kept = {suffix: pathlib.Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal", "-shm")}
        for count in range(1, len(pages) + 1):
            for suffix, content in kept.items():
                pathlib.Path(f"{path}{suffix}").write_bytes(content)
            self._checkpoint(path, wal, pages[:count])
            self._stamp_as_written_before(path)
            with ContextStore(path) as store:
                assert len(store.list_keys("run")) == 6
                assert store.check().ok

    def test_is_refused_if_what_was_written_is_no_beginning_of_a_checkpoint(self, path: pathlib.Path) -> None:
        crashed(path)
        wal = _wal_owner.read_wal(f"{path}-wal")
        assert wal is not None
        self._checkpoint(path, wal, sorted(wal.last)[-1:])
        with pytest.raises(IncompatibleStoreError):
            ContextStore(path).open()

    @staticmethod
    def _checkpoint(path: pathlib.Path, wal: _wal_owner.Wal, pages: list[int]) -> None:
        """What a checkpoint that was killed after these pages leaves."""
        log = pathlib.Path(f"{path}-wal").read_bytes()
        with open(f"{path}-shm", "r+b") as shm:
            shm.seek(128)
            shm.write(struct.pack("=I", wal.frames))
        with open(path, "r+b") as database:
            for page in pages:
                frame = 32 + (wal.last[page] - 1) * (24 + wal.page_bytes) + 24
                database.seek((page - 1) * wal.page_bytes)
                database.write(log[frame : frame + wal.page_bytes])

    @staticmethod
    def _stamp_as_written_before(path: pathlib.Path) -> None:
        with open(f"{path}-lock", "r+b") as lock:
            lock.seek(256)
            stamp = _wal_owner.Stamp("writing", 1, 1, _wal_owner.boot_id())
            lock.write(str(stamp).encode().ljust(127) + b"\n")
        time.sleep(0.02)
        os.utime(path)


class TestALiveStore:
    def test_opens_in_the_same_process_without_a_look_into_its_files(self, path: pathlib.Path) -> None:
        """A descriptor of one's own on the database, once closed, would take SQLite's locks away."""
        with ContextStore(path) as one:
            one.put("run", "a", 1)
            time.sleep(0.03)
            os.utime(path)
            with ContextStore(path) as other:
                assert other.get("run", "a") == 1

    def test_a_wal_is_read_as_sqlite_reads_it(self, path: pathlib.Path) -> None:
        crashed(path, puts=50)
        wal = _wal_owner.read_wal(f"{path}-wal")
        assert wal is not None
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN")  # keeps it from being reset
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            other = sqlite3.connect(path, isolation_level=None)
            _, log, _ = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            other.close()
        assert (wal.frames, wal.pages) == (log, pages)

    @pytest.mark.parametrize("place", [0, 30, 40, 60, 5000])
    def test_of_a_damaged_wal_no_more_is_taken_than_sqlite_takes(self, path: pathlib.Path, place: int) -> None:
        crashed(path)
        content = bytearray(pathlib.Path(f"{path}-wal").read_bytes())
        content[place] ^= 1
        pathlib.Path(f"{path}-wal").write_bytes(content)
        wal = _wal_owner.read_wal(f"{path}-wal")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            _, log, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        assert (0 if wal is None else wal.frames) == log
