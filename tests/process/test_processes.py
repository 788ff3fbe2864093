"""One file, many users: races, fairness, openings, and several store objects in one process.

The other two of these files look at the lock file (test_processes_lock) and at what becomes of the store's files, and
of the programs that know no lock file (test_processes_files).
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import sqlite3
import stat
import threading
import time
from collections import defaultdict
from typing import Any, NamedTuple

import pytest

from contextstore import ContextStore, IncompatibleStoreError
from contextstore._sqlite import schema as _schema

from ..support.forked import Child, children, run
from ..support.portions import some

pytestmark = pytest.mark.disk


def assert_sound(path: pathlib.Path) -> None:
    """SQLite finds nothing wrong with the file, nor do we."""
    with ContextStore(path, timeout=60) as store:
        assert store.check().problems == ()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def ended_well(started: list[Child]) -> list[list[str]]:
    """What each child has said since it was last heard. None of them has complained, on whatever thread."""
    ended = [child.end() for child in started]
    assert [(status, err) for status, _, err in ended] == [(0, "")] * len(ended)
    return [said for _, said, _ in ended]


# ------------------------------------------------------------------------------------------------------ one winner each

RACER = """
    import json, random
    path, keys, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    history = []

    def attempt(store, key, kind, value=None):
        began = time.monotonic_ns()
        try:
            if kind == "get":
                value = store.get("run", key) if key % 2 else store.get_global(key)
            elif key % 2:
                store.put("run", key, value)
            else:
                store.put_global(key, value)
        except (AlreadyExistsError, GlobalAlreadyExistsError):
            kind = "refused"
        history.append((key, kind, value, began, time.monotonic_ns()))

    class Numbered:
        # Keys are numbers here: odd ones outputs, even ones globals.
        def __init__(self, store): self.store = store
        def get(self, run, key): return self.store.get(run, f"k{key}")
        def put(self, run, key, value): self.store.put(run, f"k{key}", value)
        def get_global(self, key): return self.store.get_global(f"k{key}")
        def put_global(self, key, value): self.store.put_global(f"k{key}", value)

    def race(store, name, start):
        chance = random.Random(name)
        for key in range(keys):
            # Each key has its moment, at which all come upon it: one process a little before the others, by turns.
            behind = 0 if key // 2 % 3 == number else 0.001
            time.sleep(max(0, start + key * 0.008 + behind - time.monotonic()))
            for _ in range(chance.randrange(3)): attempt(store, key, "get")
            if chance.random() < 0.8: attempt(store, key, "put", name)
            attempt(store, key, "get")

    def look(store, name, start):
        while (key := int((time.monotonic() - start) / 0.008)) < keys:
            if key >= 0: attempt(store, key, "get")
            time.sleep(0.0001)  # else it would keep those from running who race in its process

    # Half of them without a cache, so that every read is the file's.
    with ContextStore(path, cache_bytes=number % 2 * 2**20) as opened:
        store = Numbered(opened)
        opened.open()
        say("ready")
        start = float(sys.stdin.readline())
        jobs = [look] if number == 3 else [race, race, look] if number else [race] * 3
        threads = [
            threading.Thread(target=job, args=(store, f"{number}-{i}", start)) for i, job in enumerate(jobs)
        ]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    say(json.dumps(history))
"""


class Event(NamedTuple):
    kind: str
    """put: one that succeeded; refused: one that did not; get."""
    value: str | None
    began: int
    ended: int


def assert_write_once_register(key: str, events: list[Event], stored: str) -> None:
    """The calls can be put in an order that a single register would give, each between its begin and its end.

    There is one write, so all that matters is on which side of it the others are: those that saw it have ended after
    the moment of the write, those that saw nothing have begun before. A moment within the winner's call that suits all
    of them is what makes the history linearizable, and there is one if and only if the latest of the lower bounds is
    not above the earliest of the upper ones.
    """
    (winner,) = [event for event in events if event.kind == "put"]
    assert winner.value == stored, key
    saw = [event for event in events if event.kind == "refused" or (event.kind == "get" and event.value is not None)]
    saw_nothing = [event for event in events if event.kind == "get" and event.value is None]
    assert {event.value for event in saw if event.kind == "get"} <= {stored}, key
    earliest = max([winner.began, *(event.began for event in saw_nothing)])
    latest = min([winner.ended, *(event.ended for event in saw)])
    assert earliest <= latest, (key, events)


def test_of_processes_that_race_for_a_key_one_wins_and_nobody_sees_time_run_backwards(
    file_path: pathlib.Path,
) -> None:
    keys = 150
    with children(4, RACER, file_path, keys) as racers:
        assert [racer.hear() for racer in racers] == ["ready"] * 4
        start = time.monotonic() + 0.1
        for racer in racers:
            racer.tell(str(start))
        said = ended_well(racers)
    events: dict[int, list[Event]] = defaultdict(list)
    for (line,) in said:
        for key, *event in json.loads(line):
            events[key].append(Event(*event))
    with ContextStore(file_path) as store:
        for key in range(keys):
            stored = store.get("run", f"k{key}") if key % 2 else store.get_global(f"k{key}")
            assert_write_once_register(f"k{key}", events[key], stored)
    # It was a race: many were beaten, by another process too, and many a get came before the value.
    refused = [event for of_key in events.values() for event in of_key if event.kind == "refused"]
    early = [event for of_key in events.values() for event in of_key if event.kind == "get" and event.value is None]
    winners = {event.value.split("-")[0] for of_key in events.values() for event in of_key if event.kind == "put"}  # type: ignore[union-attr]
    # How many depends on the machine's load, so that only the fact of it is asserted.
    assert len(refused) > 10
    assert len(early) > 10
    assert len(winners) > 1
    assert_sound(file_path)


def test_the_judge_of_histories_knows_a_bad_one() -> None:
    good = [Event("get", None, 0, 5), Event("put", "a", 2, 8), Event("get", "a", 3, 6), Event("refused", None, 1, 4)]
    assert_write_once_register("k", good, "a")
    for bad in (
        [Event("put", "a", 0, 2), Event("get", None, 3, 4)],  # lost
        [Event("put", "a", 0, 9), Event("get", "a", 1, 2), Event("get", None, 3, 4)],  # seen, and unseen again
        [Event("put", "a", 5, 9), Event("get", "a", 1, 2)],  # seen before it was there
        [Event("put", "a", 5, 9), Event("refused", "b", 1, 2)],  # refused for nothing
        [Event("put", "a", 0, 9), Event("get", "b", 1, 10)],  # another value
        [Event("put", "a", 0, 2), Event("put", "a", 3, 4)],  # two winners
    ):
        with pytest.raises((AssertionError, ValueError)):
            assert_write_once_register("k", bad, "a")


COUNTER = """
    path, increments, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with ContextStore(path) as store:
        store.open()
        say("ready")
        sys.stdin.readline()
        for _ in range(increments):
            while True:
                entry = store.get_global_entry("counter")
                version, count = (entry.version, entry.value) if entry else (0, 0)
                try:
                    got = store.upsert_global("counter", count + 1, expected_version=version)
                except VersionConflictError as error:
                    assert error.actual > version
                else:
                    assert got == version + 1
                    break
"""


def test_no_compare_and_set_of_several_processes_is_lost(file_path: pathlib.Path) -> None:
    with children(4, COUNTER, file_path, 50) as counters:
        assert [counter.hear() for counter in counters] == ["ready"] * 4
        for counter in counters:
            counter.tell()
        ended_well(counters)
    with ContextStore(file_path) as store:
        entry = store.get_global_entry("counter")
        assert entry is not None
        assert (entry.value, entry.version) == (200, 200)
    assert_sound(file_path)


# ------------------------------------------------------------------------------------------------------ nobody starves

BUSY = """
    path, seconds, number = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    with ContextStore(path) as store:
        store.put("ready", number, 1)
        say("ready")
        start = float(sys.stdin.readline())
        time.sleep(max(0, start - time.monotonic()))
        count, longest, last = 0, 0, time.monotonic()
        while last < start + seconds:
            store.put(number, f"{count}", "x" * 200)
            count += 1
            now = time.monotonic()
            longest, last = max(longest, now - last), now
    say(count, longest)
"""


@pytest.mark.alone
@pytest.mark.slow
def test_of_four_processes_that_write_all_the_time_none_starves(file_path: pathlib.Path) -> None:
    shares = []
    for attempt in range(3):  # the machine has other things to do, too: what counts is that it can be fair
        path = file_path.with_name(f"{attempt}.db")
        with children(4, BUSY, path, 3) as writers:
            assert [writer.hear() for writer in writers] == ["ready"] * 4
            start = time.monotonic() + 0.1
            for writer in writers:
                writer.tell(str(start))
            counts = [line.split() for (line,) in ended_well(writers)]
        written = [int(count) for count, _ in counts]
        shares.append(min(written) / max(written))
        print(f"shares {written}, longest wait {max(float(longest) for _, longest in counts):.3f} s")
        assert_sound(path)
        if shares[-1] >= 0.5:
            break
    assert max(shares) >= 0.5, shares


# ------------------------------------------------------------------------------------------------------------- openings

OPENER = """
    import aiosqlite, anyio.from_thread
    folder, number = sys.argv[1], sys.argv[2]
    say("ready")
    for line in sys.stdin:
        path = f"{folder}/{line.strip()}.db"
        with ContextStore(path) as store:
            store.put("run", number, number)
            assert store.get("run", number) == number
        say("done")
"""


def test_eight_processes_open_a_new_file_at_the_same_moment(tmp_path: pathlib.Path) -> None:
    rounds = [f"{kind}-{i}" for i in range(some(2, 1)) for kind in ("missing", "empty", "closed", "killed")]
    for name in rounds:
        path = tmp_path / f"{name}.db"
        if name.startswith("empty"):
            path.touch()
        elif name.startswith(("closed", "killed")):
            with ContextStore(path) as store:
                store.put("run", "before", 1)
                wal = path.with_name(path.name + "-wal").read_bytes()
            if name.startswith("killed"):  # as if it had not been closed: with a WAL to be taken up
                path.with_name(path.name + "-wal").write_bytes(wal)
    with children(8, OPENER, tmp_path) as openers:
        assert [opener.hear() for opener in openers] == ["ready"] * 8
        for name in rounds:
            for opener in openers:
                opener.tell(name)
            assert [opener.hear() for opener in openers] == ["done"] * 8, name
        for opener in openers:
            assert opener.process.stdin is not None
            opener.process.stdin.close()
            opener.process.stdin = None
        ended_well(openers)
    for name in rounds:
        path = tmp_path / f"{name}.db"
        with ContextStore(path) as store:
            assert set(store.list_keys("run")) - {"before"} == {str(number) for number in range(8)}
        assert_sound(path)


@pytest.mark.parametrize("look", ["the first", "the second", "the last"])
def test_a_file_that_another_process_is_just_making_a_store_of_is_not_taken_for_a_foreign_one(
    look: str, file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens looks at the file before there is a lock to hold; here its maker is done between two of the looks."""
    file_path.touch()
    made: list[ContextStore] = []

    def make_it() -> None:
        if not made:
            made.append(ContextStore(file_path))
            made[0].put("run", "theirs", 1)

    class Looking(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> Any:
            if look == "the second" and "sqlite_schema" in sql:
                make_it()
            return super().execute(sql, *args)

        def close(self) -> None:
            super().close()
            if look == "the last":
                make_it()

    class Sqlite3:
        def __getattr__(self, name: str) -> Any:
            return getattr(sqlite3, name)

        def connect(self, *args: Any, **options: Any) -> sqlite3.Connection:
            if look == "the first":
                make_it()
            return sqlite3.connect(*args, factory=Looking, **options)

    monkeypatch.setattr(_schema, "sqlite3", Sqlite3())
    try:
        with ContextStore(file_path) as store:
            assert store.get("run", "theirs") == 1
            store.put("run", "ours", 2)
        assert made
    finally:
        for store in made:
            store.close()
    assert_sound(file_path)


def test_beside_a_file_of_another_program_nothing_is_left_though_it_was_looked_at_twice(
    file_path: pathlib.Path,
) -> None:
    with contextlib.closing(sqlite3.connect(file_path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with pytest.raises(IncompatibleStoreError), ContextStore(file_path):
        pass
    assert os.listdir(file_path.parent) == [file_path.name]
    # Somebody's lock file is beside it: that makes it no store.
    file_path.with_name(file_path.name + "-lock").touch()
    before = file_path.read_bytes()
    with pytest.raises(IncompatibleStoreError), ContextStore(file_path):
        pass
    assert file_path.read_bytes() == before


HALF_MADE = """
    import random
    import aiosqlite, anyio.from_thread
    from contextstore._sqlite import worker as _worker
    folder, seed = sys.argv[1], int(sys.argv[2])

    def in_a_child(job):
        pid = os.fork()
        if pid == 0:
            try:
                job()
            finally:
                os._exit(0)
        return pid

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    class Counting(_worker._JobConnection):
        left = 10**9
        def execute(self, sql, *args):
            if not callable(sql):
                Counting.left -= 1
                if Counting.left < 0:
                    die()
            return super().execute(sql, *args)

    def put_and_close(path):
        with ContextStore(path) as store:
            Counting.left = 10**9
            store.put("run", "first", 1)
            say(path, "put")

    def killed_before(statement, path):
        _worker._JobConnection, Counting.left = Counting, statement
        put_and_close(path)

    # Before each statement of the first opening, one round each.
    statement, status = 0, -1
    while status != 0:
        path = f"{folder}/statement-{statement}.db"
        pid = in_a_child(lambda: killed_before(statement, path))
        status = os.waitpid(pid, 0)[1]
        say(path, "made")
        statement += 1

    # And at any moment.
    chance = random.Random(seed)
    for i in range(20):
        path = f"{folder}/moment-{i}.db"
        pid = in_a_child(lambda: put_and_close(path))
        time.sleep(chance.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        say(path, "made")
"""


def test_a_file_whose_maker_was_killed_opens_whenever_that_was(tmp_path: pathlib.Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    said = [line.split() for line in run(HALF_MADE, tmp_path, seed)]
    paths = [pathlib.Path(path) for path, what in said if what == "made"]
    acknowledged = {pathlib.Path(path) for path, what in said if what == "put"}
    assert len(paths) > 20 + 25
    assert 0 < len(acknowledged) < len(paths)
    states = set()
    for path in paths:
        states.add((path.exists(), path.with_name(path.name + "-journal").exists(), path in acknowledged))
        with ContextStore(path, durability="normal") as store:
            if path in acknowledged:
                assert store.get("run", "first") == 1
            store.put("run", "second", 2)
            assert store.get("run", "second") == 2
            assert store.check().ok
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # (there at all, cut off within the transaction that makes the tables, opened): each was met.
    assert {(False, False, False), (True, False, False), (True, True, False), (True, False, True)} <= states


def test_a_file_whose_checkpoint_was_cut_off_opens_with_everything_in_it(tmp_path: pathlib.Path) -> None:
    """A header that speaks of pages which only the WAL has is what a kill in mid-checkpoint leaves, and it is sound."""
    path, copy = tmp_path / "store.db", tmp_path / "copy.db"
    with ContextStore(path) as store:
        for i in range(60):
            store.put("run", f"{i}", "x" * 20_000)
        wal = path.with_name("store.db-wal").read_bytes()
        before = path.read_bytes()
    after = path.read_bytes()
    assert len(after) > len(before)
    copy.write_bytes(after[:4096] + before[4096:])
    copy.with_name("copy.db-wal").write_bytes(wal)
    with ContextStore(copy) as store:
        assert len(store.list_keys("run")) == 60
        store.put("run", "60", "x")
    assert_sound(copy)


# ------------------------------------------------------------------------------------- several stores in one process

WRITES = """
    path, count, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with ContextStore(path) as store:
        say("ready")
        for i in range(count):
            store.put(name, f"{i}", "x" * 5000)
"""

IS_LOCKED = """
    # Of a process that has the file open in WAL mode, each connection holds a shared lock on it, in these bytes.
    import fcntl
    PENDING_BYTE = 0x40000000
    with open(sys.argv[1], "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, PENDING_BYTE + 2)
        except OSError:
            say("locked")
        else:
            say("free")
"""


def test_stores_of_one_process_that_come_and_go_take_no_lock_from_one_that_stays(file_path: pathlib.Path) -> None:
    """POSIX locks belong to the process: whoever closes a descriptor of the file drops those of all others in it."""
    stop = threading.Event()
    failed: list[BaseException] = []
    opened = 0

    def come_and_go(options: dict[str, Any]) -> None:
        nonlocal opened
        try:
            while not stop.is_set():
                with ContextStore(file_path, cache_bytes=0, **options) as store:
                    assert store.get("stays", "first") == 0
                    opened += 1
        except BaseException as error:
            failed.append(error)

    with ContextStore(file_path) as stays:
        stays.put("stays", "first", 0)
        threads = [threading.Thread(target=come_and_go, args=(options,)) for options in ({}, {"read_only": True})]
        for thread in threads:
            thread.start()
        with children(2, WRITES, file_path, 150) as writers:
            for i in range(150):
                stays.put("stays", f"{i}", "x" * 5000)
            ended_well(writers)
        assert opened > 10
        stop.set()
        for thread in threads:
            thread.join()
        assert failed == []
        assert run(IS_LOCKED, file_path) == ["locked"]
        stays.put("stays", "last", 1)
        for i in range(150):
            assert stays.get("stays", f"{i}") == "x" * 5000
        assert [len(stays.list_keys(name)) for name in ("stays", "0", "1")] == [152, 150, 150]
    assert run(IS_LOCKED, file_path) == ["free"]
    assert_sound(file_path)
