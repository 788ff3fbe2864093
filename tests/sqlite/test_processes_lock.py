"""The lock file: it keeps commits and checkpoints apart, and who stops, dies or deletes it harms nobody for long."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import fcntl
import itertools
import json
import os
import pathlib
import shutil
import signal
import stat
import threading
import time
import warnings
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, StoreBusyError
from contextstore._sqlite import lock as _lock
from contextstore._sqlite import wal as _wal
from contextstore._sqlite.lock import FileLock

from ..process.test_processes import assert_sound, ended_well
from ..support.doubles import core_of
from ..support.forked import Child, children, run
from ..support.processes import Child as OwnChild

pytestmark = pytest.mark.disk

NEVER_WAIT = lambda: False  # noqa: E731


# --------------------------------------------------------------------------------------------- what it keeps apart

TRACED = """
    import json
    from contextstore._sqlite import worker as _worker
    from contextstore._sqlite import file as _file
    from contextstore._sqlite import wal as _wal
    path, puts, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    durability = ["full", "normal", "full"][number]
    _wal._CHECKPOINT_FRAMES = 20
    intervals, settings = [], set()
    now = time.monotonic_ns

    class Traced(_worker._JobConnection):
        began, writes = 0, False

        def execute(self, sql, *args):
            if callable(sql):
                return super().execute(sql, *args)
            plain = super().execute
            before, was_in_transaction = now(), self.in_transaction
            if sql.startswith("PRAGMA synchronous ="):
                self.writes = True
            if sql == "COMMIT" and self.writes:  # and not the one that makes the tables, which is always full
                (synchronous,), = plain("PRAGMA synchronous").fetchall()
                settings.add((durability, synchronous))
            if sql == "COMMIT" or (not self.writes and "SELECT" in sql):
                settings.add(("autocheckpoint", *plain("PRAGMA wal_autocheckpoint").fetchall()[0]))
            try:
                return plain(sql, *args)
            finally:
                if self.in_transaction and not was_in_transaction:
                    self.began = before
                if was_in_transaction and not self.in_transaction:
                    intervals.append((self.began, now(), sql))
                if sql.lstrip().startswith("INSERT") and not was_in_transaction:
                    intervals.append((before, now(), "INSERT"))  # which commits by itself
                if sql.startswith(("PRAGMA wal_checkpoint", "PRAGMA journal_mode")):
                    intervals.append((before, now(), sql))

        def close(self):
            before = now()
            super().close()
            if self.writes:  # the last connection to close makes a checkpoint, too
                intervals.append((before, now(), "close"))

    _worker._JobConnection = Traced

    def write(name):
        for part in range(2):
            with ContextStore(path, durability=durability, cache_bytes=0) as store:
                for i in range(puts // 2):
                    store.put(name, f"{part}-{i}", "x" * 5000)
                    assert store.get(name, f"{part}-{i}") is not None

    say("ready")
    sys.stdin.readline()
    threads = [threading.Thread(target=write, args=(f"{number}-{i}",)) for i in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    say(json.dumps([intervals, sorted(settings)]))
"""


def test_commits_and_checkpoints_of_all_store_objects_of_all_processes_never_overlap(file_path: pathlib.Path) -> None:
    """Up to SQLite 3.51.2 a checkpoint that meets a commit may lose committed pages."""
    with children(3, TRACED, file_path, 100) as traced:
        assert [child.hear() for child in traced] == ["ready"] * 3
        for child in traced:
            child.tell()
        said = [json.loads(line) for (line,) in ended_well(traced)]
    intervals = sorted((*interval, number) for number, (of_one, _) in enumerate(said) for interval in of_one)
    for (_, ended, what, number), (began, _, next_what, next_number) in itertools.pairwise(intervals):
        assert ended <= began, f"{what} of process {number} and {next_what} of process {next_number}"
    assert len([what for _, _, what, _ in intervals if what in ("COMMIT", "INSERT")]) >= 600
    assert {"COMMIT", "INSERT"} < {what for _, _, what, _ in intervals}
    assert len([what for _, _, what, _ in intervals if "checkpoint" in what]) > 20
    assert len([what for _, _, what, _ in intervals if what == "close"]) >= 12  # and those that were lent
    # The connection that commits is durable as it was asked to be, and SQLite makes no checkpoint of its own accord.
    settings = {tuple(setting) for _, of_one in said for setting in of_one}
    assert settings == {("full", 2), ("normal", 1), ("autocheckpoint", 0)}
    assert_sound(file_path)


HOLDS_A_TRANSACTION = """
    import sqlite3
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    for line in sys.stdin:
        if line.strip() == "begin":
            connection.execute("BEGIN IMMEDIATE")
        else:
            connection.execute("COMMIT")
        say("done")
"""


def test_no_checkpoint_is_made_beside_a_transaction_of_a_program_that_knows_no_lock_file(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite would make a PASSIVE one of it, which copies what it can without waiting for the writer."""
    monkeypatch.setattr(_wal, "_CHECKPOINT_FRAMES", 1)
    with Child(HOLDS_A_TRANSACTION, file_path) as foreign, ContextStore(file_path) as store:
        engine: Any = core_of(store)._session.engine
        original = engine.maintain
        copied: list[bool] = []

        async def maintain() -> None:
            before = file_path.stat().st_mtime_ns
            if len(copied) >= 3:
                await original()
            else:
                foreign.tell("begin")
                assert foreign.hear() == "done"
                await original()
                foreign.tell("commit")
                assert foreign.hear() == "done"
            copied.append(file_path.stat().st_mtime_ns != before)

        engine.maintain = maintain
        for i in range(5):
            store.put("run", f"{i}", "x" * 20_000)
        assert copied[:4] == [False, False, False, True]
    assert_sound(file_path)


# ------------------------------------------------------------------------------------------- who holds it and stops

STOPS = """
    from contextstore._sqlite import worker as _worker
    path, statement = sys.argv[1], sys.argv[2]

    class Stopping(_worker._JobConnection):
        armed = False
        def execute(self, sql, *args):
            if Stopping.armed and sql.lstrip().startswith(statement):
                Stopping.armed = False
                say("stopping")
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(0.3)  # other threads may be stopped first
            return super().execute(sql, *args)

    _worker._JobConnection = Stopping
    Stopping.armed = statement == "PRAGMA journal_mode = WAL"
    with ContextStore(path) as store:
        store.open()
        if statement == "INSERT OR IGNORE":
            store.upsert_global("theirs", 1)  # the first commit is a transaction, which looks after the counts
        Stopping.armed = True
        if statement != "INSERT OR IGNORE":
            store.upsert_global("theirs", 1)
        store.put("run", "theirs", 1)
        say("stored")
        sys.stdin.readline()
"""

HELD_WHILE = ["PRAGMA journal_mode = WAL", "BEGIN IMMEDIATE", "COMMIT", "INSERT OR IGNORE"]
"""What the holder of the lock is about to do: it opens; it holds the lock file only; it holds SQLite's lock, too; it
commits a put by itself."""


@contextlib.contextmanager
def stopped_neighbour(path: pathlib.Path, statement: str) -> Any:
    with OwnChild(STOPS, path, statement) as neighbour:  # whose stop its parent alone is told of
        assert neighbour.hear() == "stopping", neighbour.end()
        os.waitid(os.P_PID, neighbour.process.pid, os.WSTOPPED | os.WNOWAIT)
        yield neighbour


@pytest.mark.parametrize("statement", HELD_WHILE)
def test_while_a_neighbour_is_stopped_writes_end_at_their_timeout_and_reads_go_on(
    statement: str, file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        ContextStore(file_path, timeout=0.7, cache_bytes=0) as store,
        ContextStore(file_path, timeout=40) as patient,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        store.put("run", "before", 1)
        patient.open()
        leaving = ContextStore(file_path, timeout=0.7)
        leaving.open()
        with stopped_neighbour(file_path, statement) as neighbour:
            waiting = pool.submit(patient.put, "run", "patient", 1)
            began = time.monotonic()
            # Several at once, and then another: each waits for its own time.
            for refused in [pool.submit(store.put, "run", f"refused-{i}", 1) for i in range(3)]:
                error = refused.exception(timeout=30)
                assert isinstance(error, StoreBusyError), error
                assert not error.outcome_unknown
            assert time.monotonic() - began >= 0.6
            with pytest.raises(StoreBusyError):
                store.upsert_global("refused", 1)
            assert store.get("run", "before") == 1
            assert store.get("run", "refused-1") is None
            assert store.list_keys("run") == ["before"]

            # A store that opens is refused after one timeout, not after one for each thing that it would do. Locks of
            # the others do not count: a writer that could not grow its WAL at its first put tries again at this moment.
            others = set(_lock._file_locks)
            refusals = []
            acquire = FileLock.acquire

            def counting(lock: FileLock, wanted: Any) -> bool:
                granted = acquire(lock, wanted)
                if lock not in others:
                    refusals.append(granted)
                return granted

            with monkeypatch.context() as patched:
                patched.setattr(FileLock, "acquire", counting)
                new = ContextStore(file_path, timeout=0.7)
                with pytest.raises(StoreBusyError, match=r"timeout=0\.7 seconds"):
                    new.open()
                new.close()
            assert refusals == [False]
            with ContextStore(file_path, read_only=True) as reading:
                assert reading.get("run", "before") == 1
            closing = pool.submit(leaving.close)
            closing.result(timeout=30)

            assert not waiting.done()
            neighbour.signal(signal.SIGCONT)
            assert waiting.result(timeout=60) is None
            assert neighbour.hear() == "stored"
            store.put("run", "refused-1", "nothing of the refused one was stored")
            with ContextStore(file_path) as new:
                assert new.list_keys("run") == ["before", "patient", "refused-1", "theirs"]
                assert new.get_global("refused") is None
            neighbour.tell()
            assert neighbour.end() == (0, [], "")
    assert_sound(file_path)


async def test_while_a_neighbour_is_stopped_the_event_loop_goes_on(file_path: pathlib.Path) -> None:
    async with AsyncContextStore(file_path, timeout=1) as store:
        await store.put("run", "before", 1)
        with stopped_neighbour(file_path, "INSERT OR IGNORE") as neighbour:
            puts = asyncio.gather(*(store.put("run", f"{i}", i) for i in range(5)), return_exceptions=True)
            turns = 0
            while not puts.done():
                await asyncio.sleep(0.01)
                turns += 1
            assert [type(error) for error in await puts] == [StoreBusyError] * 5
            assert turns > 10
            neighbour.signal(signal.SIGCONT)
            await store.put("run", "after", 1)
            assert await store.list_keys("run") == ["after", "before", "theirs"]
    assert_sound(file_path)


@pytest.mark.parametrize("statement", HELD_WHILE)
def test_when_a_neighbour_is_killed_while_it_holds_the_lock_the_others_go_on_at_once(
    statement: str, file_path: pathlib.Path
) -> None:
    # Without a timeout that could end the waiting: it is the kill that does.
    with ContextStore(file_path, timeout=10_000) as store, concurrent.futures.ThreadPoolExecutor() as pool:
        store.put("run", "before", 1)
        with stopped_neighbour(file_path, statement) as neighbour:
            waiting = pool.submit(store.put, "run", "ours", 1)
            opening = pool.submit(_open_and_close, file_path)
            time.sleep(0.1)
            assert not waiting.done()
            neighbour.kill()
            waiting.result(timeout=60)
            opening.result(timeout=60)
            assert store.list_keys("run") == ["before", "ours"]
    assert_sound(file_path)


def _open_and_close(path: pathlib.Path) -> None:
    with ContextStore(path, timeout=10_000):
        pass


# ----------------------------------------------------------------------------------------------- who deletes it

WINS = """
    path, keys, number = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    won = []
    with ContextStore(path) as store:
        store.open()
        say("ready")
        sys.stdin.readline()
        for key in range(keys):
            try:
                store.put("run", f"{key}", number)
                won.append(key)
            except AlreadyExistsError:
                pass
    say(*won)
"""


def test_the_lock_file_may_be_deleted_while_processes_write(file_path: pathlib.Path) -> None:
    lock = file_path.with_name(file_path.name + "-lock")
    keys, deleted = 400, 0
    with children(3, WINS, file_path, keys) as writers:
        assert [writer.hear() for writer in writers] == ["ready"] * 3
        for writer in writers:
            writer.tell()
        while any(writer.process.poll() is None for writer in writers):
            with contextlib.suppress(FileNotFoundError):
                lock.unlink()
                deleted += 1
            time.sleep(0.005)
        won = [[int(key) for line in said for key in line.split()] for said in ended_well(writers)]
    assert deleted > 10
    assert sorted(key for keys_of_one in won for key in keys_of_one) == list(range(keys))
    with ContextStore(file_path) as store:
        stored = store.get_run("run")
    assert stored == {f"{key}": f"{number}" for number, keys_of_one in enumerate(won) for key in keys_of_one}
    assert_sound(file_path)


def test_who_waits_for_a_lock_file_that_is_deleted_waits_until_its_holder_has_ended(file_path: pathlib.Path) -> None:
    file_path.touch()
    holder, waiter, newcomer = FileLock(str(file_path)), FileLock(str(file_path)), FileLock(str(file_path))
    with contextlib.closing(holder), contextlib.closing(waiter), contextlib.closing(newcomer):
        assert holder.acquire(NEVER_WAIT)
        assert not waiter.acquire(NEVER_WAIT)
        os.unlink(holder.path)
        for _ in range(3):
            assert not waiter.acquire(NEVER_WAIT)
        holder.release()
        # Now it goes over to the new file, and so does everybody else.
        assert waiter.acquire(lambda: True)
        assert os.path.exists(waiter.path)
        assert not newcomer.acquire(NEVER_WAIT)
        for _ in range(3):
            assert not holder.acquire(NEVER_WAIT)
        waiter.release()
        assert holder.acquire(lambda: True)


def test_a_lock_file_that_was_put_in_place_of_ours_is_the_one_that_counts(file_path: pathlib.Path) -> None:
    file_path.touch()
    ours, other = FileLock(str(file_path)), FileLock(str(file_path))
    with contextlib.closing(ours), contextlib.closing(other):
        assert ours.acquire(NEVER_WAIT)
        ours.release()
        shutil.copy(ours.path, ours.path + "2")
        os.replace(ours.path + "2", ours.path)
        assert other.acquire(NEVER_WAIT)
        for _ in range(3):
            assert not ours.acquire(NEVER_WAIT)
        other.release()
        assert ours.acquire(lambda: True)


# ------------------------------------------------------------------------------------------------------- whose it is

SIDE_FILES = ("-lock", "-wal", "-shm")

WITH_A_MASK = """
    os.umask(0o077)
    with ContextStore(sys.argv[1]) as store:
        store.put("run", sys.argv[2], 1)
        for name in ("", "-lock", "-wal", "-shm"):
            there = os.stat(sys.argv[1] + name)
            say(oct(there.st_mode & 0o7777), there.st_uid, there.st_gid)
"""


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o664])
def test_who_may_write_the_database_may_lock_it(mode: int, file_path: pathlib.Path) -> None:
    with ContextStore(file_path):
        pass
    lock = file_path.with_name(file_path.name + "-lock")
    for node in ("made", "changed"):
        # The lock file is made beside a database of that mode; then it is there, from when the mode was another.
        if node == "made":
            lock.unlink()
            file_path.chmod(mode)
        else:
            lock.chmod(0o640)
        expected = f"{oct(mode)} {os.getuid()} {os.getgid()}"
        assert run(WITH_A_MASK, file_path, node) == [expected] * 4
    # A mode that says who may execute it is none for a lock.
    assert_sound(file_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_makes_beside_a_users_database_is_that_users(file_path: pathlib.Path) -> None:
    with ContextStore(file_path):
        pass
    os.chown(file_path, 12_345, 54_321)
    assert run(WITH_A_MASK, file_path, "given") == ["0o600 12345 54321"] * 4
    assert_sound(file_path)


def test_a_new_file_and_what_is_beside_it_are_for_its_owner_only(file_path: pathlib.Path) -> None:
    previous = os.umask(0)
    try:
        with ContextStore(file_path) as store:
            store.put("run", "node", 1)
            for name in ("", *SIDE_FILES):
                assert stat.S_IMODE(os.stat(f"{file_path}{name}").st_mode) == 0o600, name
    finally:
        os.umask(previous)


# ------------------------------------------------------------------------------------------------ what it remembers


def test_the_note_in_the_lock_file_counts_for_that_lock_file_only(file_path: pathlib.Path) -> None:
    file_path.touch()
    lock = FileLock(str(file_path))
    with contextlib.closing(lock):
        assert lock.acquire(NEVER_WAIT)
        assert lock.noted() is None
        lock.note(12)
        lock.note(1_234_567_890)
        lock.note(3)
        assert lock.noted() == 3
    copied = file_path.with_name("copied.db")
    shutil.copy(lock.path, f"{copied}-lock")
    copy = FileLock(str(copied))
    with contextlib.closing(copy):
        assert copy.acquire(NEVER_WAIT)
        assert copy.noted() is None
        for nonsense in (b"", b"12", b"1 2 3", b"a b", b"\xff\x00"):
            pathlib.Path(copy.path).write_bytes(nonsense)
            assert copy.noted() is None
        copy.note(5)
        assert copy.noted() == 5


def test_a_lock_is_given_back_when_it_cannot_be_compared(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_path.touch()
    first, second = FileLock(str(file_path)), FileLock(str(file_path))
    with contextlib.closing(first), contextlib.closing(second):
        assert first.acquire(NEVER_WAIT)
        first.release()

        class Os:
            def __getattr__(self, name: str) -> Any:
                return getattr(os, name)

            def stat(self, path: str) -> Any:
                raise PermissionError(path)

        with monkeypatch.context() as patched:
            patched.setattr(_lock, "os", Os())
            with pytest.raises(PermissionError):
                first.acquire(NEVER_WAIT)
        assert second.acquire(NEVER_WAIT)


def test_of_threads_that_share_a_process_only_one_store_object_holds_the_lock(file_path: pathlib.Path) -> None:
    file_path.touch()
    inside, most = 0, 0
    counting = threading.Lock()

    def hold() -> None:
        nonlocal inside, most
        lock = FileLock(str(file_path))
        with contextlib.closing(lock):
            for _ in range(20):
                assert lock.acquire(lambda: True)
                with counting:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.0002)
                with counting:
                    inside -= 1
                lock.release()

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.mark.one_python
def test_a_forked_child_that_ends_does_not_free_its_parents_lock(file_path: pathlib.Path) -> None:
    lock = _lock.FileLock(str(file_path))
    assert lock.acquire(lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    descriptor = os.open(lock.path, os.O_RDWR)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
        lock.close()
