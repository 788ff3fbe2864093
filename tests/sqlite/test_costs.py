"""What a put costs in statements, in frames of the WAL, and in bytes of the file."""

from __future__ import annotations

import contextlib
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contextstore import ContextStore
from contextstore._sqlite.wal import frames_in

from ..support.doubles import core_of, engine_alone
from .files import plain

pytestmark = pytest.mark.disk

VALUE = "x" * 198  # 200 bytes of JSON


def settle(store: ContextStore) -> None:
    """Wait until the thread that writes has nothing to do, and has grown the -wal, which it does once."""
    is_done = threading.Event()

    async def tell() -> None:
        is_done.set()

    core_of(store)._session.engine.post_write(tell)
    assert is_done.wait(60)


@contextlib.contextmanager
def frames_of(path: pathlib.Path) -> Iterator[Callable[[], int]]:
    """How many frames were written to the -wal since the last call."""
    with plain(path) as connection:

        def written() -> int:
            # All of it is copied into the file, so that the next commit begins at the first frame again.
            ((busy, frames, copied),) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            assert (busy, frames) == (0, copied)
            return int(frames)

        yield written


@contextlib.contextmanager
def statements_of(store: ContextStore) -> Iterator[list[str]]:
    """What is executed on the store's own connection that writes."""
    engine: Any = engine_alone(store)
    settle(store)
    connection = engine._database._writing.connection
    told: list[str] = []
    connection.set_trace_callback(lambda text: told.append(" ".join(text.split()[:2])))
    try:
        yield told
    finally:
        settle(store)
        connection.set_trace_callback(None)
        told[:] = [text for text in told if not text.startswith("--")]  # within a statement


class TestAPutInAKnownRun:
    def test_writes_two_frames(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store, frames_of(file_path) as written:
            for number in range(20):
                store.put("run", f"node-{number:05}", VALUE)
            settle(store)
            written()
            costs = []
            for number in range(20, 120):
                store.put("run", f"node-{number:05}", VALUE)
                costs.append(written())
            assert sorted(costs)[len(costs) // 2] == 2
            # Each page of the table takes some 16 of them; then a page is new, and the way to it is written, too.
            assert sum(cost > 2 for cost in costs) < 15
            assert sum(costs) < 2.5 * len(costs)

    def test_is_one_statement(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store:
            store.put("run", "first", VALUE)
            with statements_of(store) as told:
                store.put("run", "second", VALUE)
            assert told == ["INSERT OR"]


class TestAGroupOfPuts:
    def test_takes_four_statements(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store:
            store.put("run", "first", VALUE)
            store.put_many("run", {str(number): VALUE for number in range(64)})
            with statements_of(store) as told:
                store.put_many("run", {f"node-{number}": VALUE for number in range(64)})
            assert told == ["BEGIN IMMEDIATE", "PRAGMA data_version", "INSERT INTO", "COMMIT"]

    def test_of_several_callers_takes_the_same_four(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store:
            store.put_many("run", {"first": 1, "second": 2})
            engine: Any = core_of(store)._session.engine
            is_busy = threading.Event()

            async def wait() -> None:
                is_busy.wait()

            with statements_of(store) as told:
                engine.post_write(wait)  # the thread that writes is kept busy until all of them have come
                threads = [
                    threading.Thread(target=store.put, args=("run", f"node-{number}", VALUE)) for number in range(8)
                ]
                for thread in threads:
                    thread.start()
                while core_of(store)._session.writer.queued < 8:
                    pass
                is_busy.set()
                for thread in threads:
                    thread.join()
            assert told == ["BEGIN IMMEDIATE", "PRAGMA data_version", "INSERT INTO", "COMMIT"]


class TestManyGroupsOfPuts:
    def test_copy_the_wal_by_the_frames_that_are_in_it(self, file_path: pathlib.Path) -> None:
        """A group of 64 writes some eleven frames, and the first WAL was grown by a transaction that was undone."""
        with ContextStore(file_path) as store, statements_of(store) as told:
            for group in range(60):
                store.put_many("run", {f"{group:03}-{number:02}": VALUE for number in range(64)})
            settle(store)
            assert told.count("COMMIT") == 60
            assert told.count("PRAGMA wal_checkpoint(FULL)") <= 1

    def test_keep_the_wal_at_its_length(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store:
            for group in range(250):
                store.put_many("run", {f"{group:03}-{number:02}": VALUE for number in range(64)})
            settle(store)
            assert store.stats().wal_bytes < 6_000_000


class TestTheFramesOfAWal:
    def test_are_those_since_it_was_begun_anew(self, tmp_path: pathlib.Path) -> None:
        with plain(tmp_path / "some.db") as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("CREATE TABLE t (v)")
            for rows in (40, 3, 100, 1):
                for _ in range(rows):
                    connection.execute("INSERT INTO t VALUES (zeroblob(5000))")
                found = frames_in(str(tmp_path / "some.db-wal"), 10_000)
                ((_, frames, _),) = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
                assert found == frames
                assert frames_in(str(tmp_path / "some.db-wal"), 2) == 2

    def test_are_as_many_as_were_counted_where_it_cannot_be_read(self, tmp_path: pathlib.Path) -> None:
        assert frames_in(str(tmp_path / "none-wal"), 7) == 7


class TestTheFile:
    """All of it, once it is closed: its rows, its indexes, and what of its pages is free."""

    def test_of_a_store_with_nothing_in_it_takes_up_25_pages(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path):
            pass
        assert file_path.stat().st_size <= 25 * 4096

    def test_takes_up_at_most_280_bytes_more_for_each_output_of_200(self, file_path: pathlib.Path) -> None:
        outputs = 20_000
        with ContextStore(file_path):
            pass
        empty = file_path.stat().st_size
        with ContextStore(file_path) as store:
            for start in range(0, outputs, 500):
                store.put_many("run", {f"{number:08}": VALUE for number in range(start, start + 500)})
            entry = store.get_entry("run", "00000000")
            assert entry is not None
            assert entry.size == 200
        assert (file_path.stat().st_size - empty) / outputs <= 280
