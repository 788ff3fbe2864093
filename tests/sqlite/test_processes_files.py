"""What becomes of a store's files in other hands: of readers that stay, of foreign programs, of rm, mv and kill."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import shutil
import sqlite3
import threading
import time
from typing import Any

import pytest

from contextstore import ContextStore, ContextStoreError, StorageError, StoreBusyError, StoreNotFoundError
from contextstore._sqlite import file as _file
from contextstore._sqlite import wal as _wal

from ..process.test_processes import assert_sound, ended_well
from ..support.doubles import core_of
from ..support.forked import Child, run

pytestmark = pytest.mark.disk


def beside(path: pathlib.Path, suffix: str) -> pathlib.Path:
    return path.with_name(path.name + suffix)


def wal_size(path: pathlib.Path) -> int:
    return os.stat(f"{path}-wal").st_size


# --------------------------------------------------------------------------------------------- readers that stay

PINS = """
    import sqlite3
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("BEGIN")
    count = lambda: connection.execute("SELECT count(*) FROM outputs").fetchall()[0][0]
    say(count())
    sys.stdin.readline()
    say(count())
    connection.execute("COMMIT")
    say(count())
    sys.stdin.readline()
"""


def test_a_reader_that_pins_an_old_snapshot_holds_no_put_up(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that waited for it would wait the whole busy timeout, with the write lock held."""
    monkeypatch.setattr(_wal, "_CHECKPOINT_FRAMES", 50)
    with ContextStore(file_path, timeout=30) as store:
        store.put("run", "before", 1)
        with Child(PINS, file_path) as reader:
            assert reader.hear() == "1"
            began = time.monotonic()
            for i in range(100):
                store.put("run", f"pinned-{i}", "x" * 40_000)
            assert time.monotonic() - began < 25, "a put has waited for the reader"
            assert store.stats().checkpoint_pinned
            pinned_size = wal_size(file_path)
            assert pinned_size > 4_000_000  # what the reader may still ask for cannot be overwritten
            reader.tell()
            assert [reader.hear(), reader.hear()] == ["1", "101"]
            # The WAL is overwritten from its start, and grows no more, however much is written.
            for i in range(200):
                store.put("run", f"free-{i}", "x" * 40_000)
            assert not store.stats().checkpoint_pinned
            assert wal_size(file_path) <= pinned_size + 1_000_000
            reader.tell()
            ended_well([reader])
    assert_sound(file_path)


def test_a_wal_that_grew_too_long_is_cut_once_its_readers_have_gone(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wal, "_CHECKPOINT_FRAMES", 50)
    monkeypatch.setattr(_wal, "_TRUNCATE_WAL_BYTES", 6_000_000)
    with ContextStore(file_path, timeout=30) as store:
        store.put("run", "before", 1)
        with Child(PINS, file_path) as reader:
            assert reader.hear() == "1"
            began = time.monotonic()
            for i in range(40):
                store.put("run", f"pinned-{i}", b"x" * 200_000)
            assert time.monotonic() - began < 25, "a put has waited for the reader"
            assert wal_size(file_path) > 8_000_000
            reader.tell()
            assert [reader.hear(), reader.hear()] == ["1", "41"]
            for i in range(5):
                store.put("run", f"free-{i}", b"x" * 200_000)
            store.put("run", "last", 1)  # behind the tidying up after the one before
            assert wal_size(file_path) < 6_000_000
            reader.tell()
            ended_well([reader])
        assert len(store.list_keys("run")) == 47
    assert_sound(file_path)


def test_stores_too_short_lived_to_checkpoint_do_not_let_the_wal_grow_for_ever(file_path: pathlib.Path) -> None:
    """One store that only reads keeps the file open; the others come, write less than a checkpoint's worth, and go."""
    with ContextStore(file_path) as idle:
        assert idle.get("run", "0") is None
        for i in range(30):
            with ContextStore(file_path, durability="normal") as store:
                store.put("run", f"{i}", b"x" * 1_000_000)
        assert wal_size(file_path) < 16_000_000
        assert len(idle.list_keys("run")) == 30
    assert_sound(file_path)


# --------------------------------------------------------------------------------- programs that know no lock file

FOREIGN = """
    import sqlite3
    connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
    for line in sys.stdin:
        connection.execute(line.strip())
        say("done")
"""


def told(foreign: Child, statement: str) -> None:
    foreign.tell(statement)
    assert foreign.hear() == "done"


def test_a_write_waits_for_a_foreign_transaction_and_is_refused_at_its_timeout(file_path: pathlib.Path) -> None:
    with (
        ContextStore(file_path, timeout=0.7, cache_bytes=0) as store,
        ContextStore(file_path, timeout=60) as patient,
        concurrent.futures.ThreadPoolExecutor() as pool,
        Child(FOREIGN, file_path) as foreign,
    ):
        store.put("run", "before", 1)
        patient.open()
        told(foreign, "BEGIN IMMEDIATE")
        told(foreign, "CREATE TABLE theirs (x)")
        began = time.monotonic()
        with pytest.raises(StoreBusyError) as refused:
            store.put("run", "refused", 1)
        assert time.monotonic() - began >= 0.6
        assert not refused.value.outcome_unknown
        assert store.get("run", "before") == 1
        assert store.list_keys("run") == ["before"]
        # A store that is opened meanwhile has nothing to write yet.
        with ContextStore(file_path) as new:
            assert new.get("run", "before") == 1
        waiting = pool.submit(patient.put, "run", "patient", 1)
        time.sleep(0.1)
        assert not waiting.done()
        told(foreign, "COMMIT")
        assert waiting.result(timeout=60) is None
        store.put("run", "after", 1)
        assert store.list_keys("run") == ["after", "before", "patient"]
        told(foreign, "DROP TABLE theirs")
    assert_sound(file_path)


def test_a_foreign_transaction_that_is_rolled_back_or_killed_leaves_nothing(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store, concurrent.futures.ThreadPoolExecutor() as pool:
        store.put("run", "before", 1)
        for i, end in enumerate(("rollback", "kill")):
            with Child(FOREIGN, file_path) as foreign:
                told(foreign, "BEGIN IMMEDIATE")
                told(foreign, "DELETE FROM node_outputs")
                waiting = pool.submit(store.put, "run", f"{i}", 1)
                time.sleep(0.1)
                assert not waiting.done()
                if end == "kill":
                    foreign.kill()
                else:
                    told(foreign, "ROLLBACK")
                assert waiting.result(timeout=60) is None
        assert store.list_keys("run") == ["0", "1", "before"]
    assert_sound(file_path)


NOTES = """
    import sqlite3
    connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
    connection.execute("CREATE TABLE notes (note)")
    say("ready")
    seen, written = 0, 0
    while seen < int(sys.argv[2]):
        connection.execute("INSERT INTO notes VALUES (?)", ("a note " * 100,))
        written += 1
        rows = connection.execute("SELECT node_id, value FROM outputs ORDER BY node_id").fetchall()
        assert len(rows) >= seen
        assert all(value == '{"node":"%s"}' % node for node, value in rows)
        assert connection.execute("SELECT key, version FROM globals").fetchall() in ([], [("done", 1)])
        seen = len(rows)
    say(written)
"""


def test_foreign_tables_beside_ours_and_readers_of_the_views_do_no_harm(file_path: pathlib.Path) -> None:
    puts = 300
    with ContextStore(file_path) as store, Child(NOTES, file_path, puts) as foreign:
        store.open()
        if foreign.hear() != "ready":  # it was there before the tables were, and has ended
            pytest.fail(str(foreign.end()))
        for i in range(puts):
            store.put("run", f"{i:03}", {"node": f"{i:03}"})
        store.put_global("done", True)
        ((written,),) = [said.split() for (said,) in ended_well([foreign])]
        assert int(written) > 0
        assert len(store.list_keys("run")) == puts
        assert {problem.key for problem in store.check().problems} <= {("notes",)}
    # The store opens with them in it, and their own program still finds them.
    with ContextStore(file_path) as store:
        store.put("run", "after", 1)
    with contextlib.closing(sqlite3.connect(file_path)) as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchall() == [(int(written),)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# ---------------------------------------------------------------------------------- the file deleted, and replaced


def calls_of(store: ContextStore) -> list[Any]:
    """Calls that need the file."""
    return [
        lambda: store.put("run", "late", 1),
        lambda: store.upsert_global("late", 1),
        lambda: store.put_many("run", {"late": 1}),
        lambda: store.get("run", "cold"),
        lambda: store.get_global("cold"),
        lambda: store.list_keys("run"),
        lambda: store.list_runs(),
    ]


def test_a_store_whose_file_was_deleted_says_so_until_the_file_is_back(tmp_path: pathlib.Path) -> None:
    path, away = tmp_path / "store.db", tmp_path / "away.db"
    with ContextStore(path) as store, ContextStore(path, read_only=True) as reading:
        store.put("run", "before", 1)
        assert reading.get("run", "before") == 1
        path.rename(away)
        for _ in range(3):
            for call in (*calls_of(store), *calls_of(reading)[3:]):
                with pytest.raises(StoreNotFoundError):
                    call()
        with pytest.raises(StoreNotFoundError), ContextStore(path, create=False):
            pass
        assert not path.exists()
        away.rename(path)
        store.put("run", "after", 1)
        assert store.list_keys("run") == reading.list_keys("run") == ["after", "before"]
        with ContextStore(path) as new:
            assert new.list_keys("run") == ["after", "before"]
    assert_sound(path)


def test_a_store_whose_folder_was_deleted_says_so(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with ContextStore(folder / "store.db") as store:
        store.put("run", "before", 1)
        shutil.rmtree(folder)
        for call in calls_of(store) * 2:
            with pytest.raises(StoreNotFoundError):
                call()
        folder.write_text("a file now")
        for call in calls_of(store):
            with pytest.raises(StorageError):
                call()
    assert folder.read_text() == "a file now"


WRITES_UNTIL_TOLD = """
    path = sys.argv[1]
    with ContextStore(path) as store:
        for i in range(50):
            store.put("theirs", f"{i}", "x" * 5000)
        say("open")
        sys.stdin.readline()
        for i in range(50, 100):
            store.put("theirs", f"{i}", "x" * 5000)
        say("written")
        sys.stdin.readline()
        assert len(store.list_keys("theirs")) == 100
        assert [run.flow_run_id for run in store.list_runs()] == ["new", "theirs"]
        assert store.check().problems == ()
"""


@pytest.mark.parametrize("deleted", [("",), ("", "-wal"), ("", "-wal", "-shm"), ("", "-wal", "-shm", "-lock")])
def test_a_file_that_another_process_made_anew_is_not_mixed_with_the_deleted_one(
    deleted: tuple[str, ...], file_path: pathlib.Path
) -> None:
    store = ContextStore(file_path)
    for i in range(60):
        store.put("ours", f"{i}", "x" * 5000)
    for suffix in deleted:
        beside(file_path, suffix).unlink()
    with Child(WRITES_UNTIL_TOLD, file_path) as other:
        assert other.hear() == "open", other.end()
        for call in calls_of(store) * 2:
            with pytest.raises(StorageError, match="replaced"):
                call()
        assert store.get("ours", "59") == "x" * 5000  # what was acknowledged and is in the cache
        other.tell()
        assert other.hear() == "written", other.end()
        store.close()
        with ContextStore(file_path) as new:
            new.put("new", "node", 1)
            assert new.get("ours", "59") is None
            assert len(new.list_keys("theirs")) == 100
        other.tell()
        assert other.end() == (0, [], "")
    assert_sound(file_path)


def test_no_write_goes_to_a_file_that_was_put_in_place_of_ours(tmp_path: pathlib.Path) -> None:
    path, other = tmp_path / "store.db", tmp_path / "other.db"
    with ContextStore(other) as store:
        store.put_many("other", {f"{i}": "y" * 3000 for i in range(300)})
    theirs = other.read_bytes()
    with ContextStore(path) as store, ContextStore(path, read_only=True) as reading:
        for i in range(60):
            store.put("ours", f"{i}", "x" * 5000)
        assert len(reading.list_keys("ours")) == 60
        os.replace(other, path)
        for call in (*calls_of(store), *calls_of(reading)[3:]) * 2:
            with pytest.raises(StorageError, match="replaced"):
                call()
    assert path.read_bytes() == theirs

    # The WAL of the former file is still there. With it the new one would be lost, so it is not opened with it.
    assert wal_size(path) > 0
    new = ContextStore(path)
    for _ in range(2):
        with pytest.raises(StorageError, match="-wal") as refused:
            new.open()
        assert not isinstance(refused.value, StoreNotFoundError)
    new.close()
    assert path.read_bytes() == theirs
    beside(path, "-wal").unlink()
    beside(path, "-shm").unlink()
    with ContextStore(path) as new:
        assert len(new.list_keys("other")) == 300
        assert new.list_keys("ours") == []
        new.put("other", "after", 1)
    assert_sound(path)


def test_a_store_whose_file_was_replaced_tidies_nothing_any_more(tmp_path: pathlib.Path) -> None:
    """Its WAL may be the new file's by now, and a checkpoint would tell all who share it that its frames are done."""
    path, other, held = tmp_path / "store.db", tmp_path / "other.db", tmp_path / "held.db"
    with ContextStore(other) as store:
        store.put("other", "node", 1)
    with ContextStore(path) as store:
        store.put("ours", "node", "x" * 50_000)
        engine: Any = core_of(store)._session.engine
        tidied = threading.Event()

        async def say_so() -> None:
            tidied.set()

        engine.post_write(say_so)  # behind what is tidied after the put
        assert tidied.wait(60)
        os.link(path, held)  # another name of the former file
        os.replace(other, path)
        wal: Any = engine._database._wal
        wal._checkpoint_at, wal._is_grown = 0, False
        before = [(name.stat().st_mtime_ns, name.stat().st_size) for name in (held, path, beside(path, "-wal"))]
        for _ in range(2):  # the second waits for what is tidied after the first
            with pytest.raises(StorageError, match="replaced"):
                store.put("ours", "late", 1)
        after = [(name.stat().st_mtime_ns, name.stat().st_size) for name in (held, path, beside(path, "-wal"))]
        assert after == before


def test_a_file_that_is_replaced_while_it_is_being_opened_is_not_taken_for_the_one_that_was_opened(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "store.db", tmp_path / "other.db"
    for each in (path, other):
        with ContextStore(each) as store:
            store.put("run", "name", each.name)
    sync = _file.sync_recovered_wal

    def replace_and_sync(name: str) -> None:
        os.replace(other, path)
        sync(name)

    new = ContextStore(path)
    with monkeypatch.context() as patched:
        patched.setattr(_file, "sync_recovered_wal", replace_and_sync)
        with pytest.raises(StorageError, match="replaced"):
            new.open()
    new.close()


def test_a_process_that_opens_a_replaced_file_beside_those_that_have_the_former_one_open_is_told(
    tmp_path: pathlib.Path,
) -> None:
    path, other = tmp_path / "store.db", tmp_path / "other.db"
    with ContextStore(other) as store:
        store.put_many("other", {f"{i}": "y" * 3000 for i in range(300)})
    with ContextStore(path) as store:
        for i in range(60):
            store.put("ours", f"{i}", "x" * 5000)
        os.replace(other, path)
        program = """
            try:
                with ContextStore(sys.argv[1]) as store:
                    store.put("mixed", "up", 1)
            except StorageError as error:
                say(type(error).__name__, "-wal" in str(error))
        """
        assert run(program, path) == ["IncompatibleStoreError True"]
        # To remove the side files is the remedy also while others have the former file open.
        beside(path, "-wal").unlink()
        beside(path, "-shm").unlink()
        with ContextStore(path) as new:
            new.put("other", "after", 1)
            with pytest.raises(StorageError, match="replaced"):
                store.put("ours", "late", 1)
            new.put("other", "after that", 1)
    with ContextStore(path) as new:
        assert len(new.list_keys("other")) == 302
        assert [run.flow_run_id for run in new.list_runs()] == ["other"]
    assert_sound(path)


def test_a_file_that_was_replaced_while_nobody_had_it_open_opens_as_it_is(tmp_path: pathlib.Path) -> None:
    path, other = tmp_path / "store.db", tmp_path / "other.db"
    for each in (path, other):
        with ContextStore(each) as store:
            store.put("run", "name", each.name)
    os.replace(other, path)
    with ContextStore(path) as store:
        assert store.get("run", "name") == "other.db"
    assert_sound(path)


def test_a_folder_that_was_copied_with_a_wal_in_it_opens_with_what_is_in_the_wal(tmp_path: pathlib.Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    with ContextStore(original / "store.db") as store:
        store.put("run", "node", 1)
        run("import shutil; shutil.copytree(*sys.argv[1:])", original, copy)
    assert wal_size(copy / "store.db") > 0
    with ContextStore(copy / "store.db") as store:
        assert store.get("run", "node") == 1
        store.put("run", "copied", 1)
    assert_sound(copy / "store.db")


# ------------------------------------------------------------------------------------------------- adopted frames

UNSYNCED = """
    store = ContextStore(sys.argv[1], durability="normal")
    store.put("run", "node", "acknowledged, in the WAL, and not synced")
    os.kill(os.getpid(), signal.SIGKILL)
"""

SYNCS = """
    import fcntl, json
    path, options = sys.argv[1], json.loads(sys.argv[2])
    events, original = [], os.fsync
    inode = lambda name: os.stat(name).st_ino

    def fsync(descriptor):
        synced = os.fstat(descriptor).st_ino
        if os.path.exists(path + "-wal") and synced == inode(path + "-wal"):
            assert os.stat(path + "-wal").st_size > 0
            events.append("wal")
        elif synced == inode(os.path.dirname(path)):
            events.append("folder")
        if os.path.exists(path + "-lock"):
            lock = os.open(path + "-lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                events.append("without the lock")
            os.close(lock)
        original(descriptor)

    os.fsync = fsync
    store = ContextStore(path, **options)
    store.open()
    events.append("open")
    events.append(store.get("run", "node"))
    try:
        store.put("run", "node", 2)
    except AlreadyExistsError:
        events.append("there already")
    except ReadOnlyStoreError:
        pass
    say(json.dumps(events))
    store.close()
"""


def test_what_a_killed_process_wrote_and_did_not_sync_is_synced_before_anybody_hears_of_it(
    file_path: pathlib.Path,
) -> None:
    """Else "already there" would be the answer for a value that a power cut still takes away."""
    value = "acknowledged, in the WAL, and not synced"
    with ContextStore(file_path):
        pass
    with Child(UNSYNCED, file_path) as killed:
        assert killed.end() == (-9, [], "")
    assert wal_size(file_path) > 0
    for options, answers in (
        ({"read_only": True}, [value]),
        ({}, [value, "there already"]),
    ):
        (said,) = run(SYNCS, file_path, json.dumps(options))
        events = json.loads(said)
        opened = events.index("open")
        assert "wal" in events[:opened], options
        assert events[opened + 1 :][: len(answers)] == answers
        if not options:
            assert "folder" in events[:opened]
            assert "without the lock" not in events[:opened]
    assert_sound(file_path)


def test_the_folder_of_a_new_file_is_synced_before_anything_is_acknowledged(file_path: pathlib.Path) -> None:
    (said,) = run(SYNCS, file_path, "{}")
    events = json.loads(said)
    assert "folder" in events[: events.index("open")]
    assert "without the lock" not in events[: events.index("open")]
    assert events[events.index("open") + 1] is None
    assert_sound(file_path)


# ----------------------------------------------------------------------------------------- all of it, at the same time


def test_deletion_in_the_midst_of_writes_gives_typed_errors_only(file_path: pathlib.Path) -> None:
    """Writers go on while the file is deleted, made anew, and replaced under them; each new object is sound."""
    failed: list[BaseException] = []
    stop = threading.Event()
    written = 0

    def write(name: str) -> None:
        nonlocal written
        while not stop.is_set():
            try:
                with ContextStore(file_path, timeout=30) as store:
                    for i in range(10**9):
                        store.put(f"{name}-{time.monotonic_ns()}", f"{i}", "x" * 2000)
                        written += 1
                        if stop.is_set():
                            return
            except ContextStoreError as error:
                if type(error) not in (StorageError, StoreNotFoundError):
                    failed.append(error)
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=write, args=(f"{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        before, deadline = written, time.monotonic() + 60
        while written < before + 20:
            assert time.monotonic() < deadline, failed
            time.sleep(0.001)
        with contextlib.suppress(FileNotFoundError):
            file_path.unlink()
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert_sound(file_path)
