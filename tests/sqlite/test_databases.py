"""What an engine of SQLite is put together from: the one way to a connection, commits, tries, workers."""

from __future__ import annotations

import asyncio
import inspect
import pathlib
import re
import sqlite3
import time
from typing import Any

import pytest

from contextstore import ContextStore, ReadOnlyStoreError, StorageError
from contextstore._engine.attempts import FIRST
from contextstore._engine.contract import Engine, Feed
from contextstore._engine.pages import Part
from contextstore._engine.records import Watched
from contextstore._engine.run_feeds import RunFilter
from contextstore._engine.run_query import RunIndex, RunQuery, RunRange
from contextstore._process.own_threads import OwnThreads
from contextstore._sqlite.database import NoWrites
from contextstore._sqlite.engine import SQLiteEngine
from contextstore._sqlite.file import FileDatabase
from contextstore._sqlite.lock import try_again
from contextstore._sqlite.memory import MemoryDatabase
from contextstore._sqlite.news import RowPlace
from contextstore._sqlite.read_only import ReadOnlyDatabase, until_right
from contextstore._sqlite.run_news import RunPlace
from contextstore._sqlite.visit import ChangedMeanwhileError, Visit
from contextstore._sqlite.worker import ConnectionWorker

from .files import plain

READS: dict[str, tuple[Any, ...]] = {
    "fetch": ([("run", "a"), ("run", "b")],),
    "exists": (("run", "a"),),
    "first_node_ids": ("run", Part(), 10),
    "list_node_ids": ("run", Part(), None),
    "list_outputs": ("run", None, Part(), 10, 1000),
    "page_outputs": ("run", None, "", 10, 1000),
    "find_run_place": ("run",),
    "fetch_run": ("run",),
    "list_runs": (RunQuery(), RunIndex("runs"), None, 10, 10),
    "count_index": (RunQuery(state=0), RunIndex("state"), None, 10),
    "gather_runs": (RunQuery("run"), RunIndex("prefix"), RunRange(), None, 10, 10),
    "describe_runs": (RunQuery(), [1]),
    "page_idle_runs": (0, 2**60, 10),
    "measure_runs": (["run"],),
    "count_runs": (),
    "find_run": ("run",),
    "page_unfinished_deletions": (0,),
    "count_tombstones": (2**60,),
    "fetch_state": ("run", "step"),
    "page_states": ("run", None, ("", None), None, 10, 1000),
    "page_attempts": ("run", None, None, FIRST, 10),
    "find_lease": ("held",),
    "list_leases": ("",),
    "last_token": (),
    "fetch_global": ("key",),
    "page_globals": ("", None, 10),
    "fetch_globals": (["key", "none"],),
    "list_global_keys": ("", None, None),
    "count_passing_globals": (),
    "freed_version": (),
    "page_run_rows": (0, 10),
    "page_global_rows": (None, 10),
    "count": (),
    "page_append_counters": ("run", None, 10),
    "page_append_keys": ("run", 1, None, 10),
    "watch_from": (Watched("run", "", "b"), None),
    "watch_runs_from": (None,),
    "newest_cursor": (),
    "newest_run_cursor": (),
    "page_runs_since": (RunFilter(None, {}, None), RunPlace(0, 0), 10),
    "page_since": (Watched("run", "", None), RowPlace(0), 10, 1000),
}
"""Every call of an engine that reads rows in a read job, with arguments."""

ASIDE = {"check", "backup"}
NO_ROWS = {"open", "close", "acquire_write", "put_alone", "begin_commit", "commit", "maintain", "stats", "ping"}


def calls_of(protocol: type[Any]) -> set[str]:
    return {name for name, _ in inspect.getmembers(protocol, inspect.iscoroutinefunction)}


def told(answer: Any) -> str:
    """What an answer says, but for how long a lease lasts yet."""
    return re.sub(r"left=\d+", "left", repr(answer))


@pytest.fixture(name="path")
def filled_file(file_path: pathlib.Path) -> pathlib.Path:
    with ContextStore(file_path) as store:
        store.put_many("run", {"a": 1, "b": 2})
        store.append("run", "log/", 3, key="once")
        store.run("run").step("c", lambda: 4)
        store.run("run").upsert_state("step", 5)
        store.put_global("key", "value")
        store.delete_run("gone")
        with store.lease("held", ttl=3600), plain(file_path) as other:
            held = other.execute("SELECT * FROM leases").fetchone()
    with plain(file_path) as other:
        other.execute("INSERT INTO leases VALUES (?, ?, ?, ?, ?, ?, ?)", held)  # as a holder that was killed leaves it
    return file_path


class Disturbed:
    """Has whatever is read found changed at first, as if a writer had come in between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.left = times
        confirm = Visit.confirm

        def disturbed(visit: Visit) -> None:
            if self.left:
                self.left -= 1
                raise ChangedMeanwhileError("it was changed")
            confirm(visit)

        monkeypatch.setattr(Visit, "confirm", disturbed)


class TestAFileThatIsOnlyRead:
    def test_every_call_of_the_contract_is_among_those_that_are_tried(self) -> None:
        assert calls_of(Engine) == READS.keys() | ASIDE | NO_ROWS
        assert calls_of(Feed) == {"poll", "globals_beyond", "changed_runs", "alive_among", "deleted_among"}

    @pytest.mark.parametrize("call", READS)
    def test_what_was_changed_while_it_was_read_is_read_again(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        async def read(database: ReadOnlyDatabase, times: int) -> tuple[Any, int]:
            engine = SQLiteEngine(database)
            await engine.open()
            try:
                disturbed = Disturbed(monkeypatch, times)
                answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

                async def job() -> None:
                    result = await getattr(engine, call)(*READS[call])
                    answer.get_loop().call_soon_threadsafe(answer.set_result, result)

                engine.post_read(job)
                return await asyncio.wait_for(answer, 30), disturbed.left
            finally:
                monkeypatch.undo()
                await engine.close()

        undisturbed, _ = asyncio.run(read(ReadOnlyDatabase(str(path), 30), 0))
        disturbed, left = asyncio.run(read(ReadOnlyDatabase(str(path), 30), 3))
        assert left == 0
        assert told(disturbed) == told(undisturbed)

    def test_so_are_checks_backups_and_looks_for_news(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
    ) -> None:
        async def use() -> None:
            engine = SQLiteEngine(ReadOnlyDatabase(str(path), 30))
            await engine.open()
            try:
                disturbed = Disturbed(monkeypatch, 3)
                assert (await engine.check(None)).ok
                disturbed.left = 3
                await engine.backup(str(tmp_path / "copy.db"), lambda *_: None, True, False)
                assert engine.feed is not None
                disturbed.left = 3
                cursor, _ = await engine.feed.poll(None, lambda: ((), ()))
                disturbed.left = 3
                assert await engine.feed.poll(cursor, lambda: ((), ())) == (cursor, [])
                disturbed.left = 3
                assert await engine.feed.globals_beyond({"key": 0, "none": 0}) == [("key", 1)]
                assert disturbed.left == 0
                disturbed.left = 3
                assert await engine.feed.deleted_among(["run", "gone"]) == ["gone"]
                disturbed.left = 3
                assert await engine.feed.alive_among([1, 2, 3]) == [1]
                assert disturbed.left == 0
            finally:
                await engine.close()

        asyncio.run(use())
        with ContextStore(tmp_path / "copy.db") as copy:
            assert copy.get("run", "a") == 1

    def test_it_is_read_again_for_no_longer_than_the_timeout(self) -> None:
        def read() -> None:
            raise ChangedMeanwhileError("it was changed")

        began = time.monotonic()
        with pytest.raises(ChangedMeanwhileError):
            until_right(0.05, read)
        assert 0.05 <= time.monotonic() - began < 5


class TestCommits:
    @pytest.mark.parametrize(
        "database",
        [MemoryDatabase(1), FileDatabase("/nowhere/store.db", timeout=1, durability="full", create=True)],
        ids=["memory", "file"],
    )
    def test_a_database_that_is_not_open_says_so(self, database: Any) -> None:
        assert isinstance(database.writes, NoWrites)
        for call in (
            lambda: database.writes.acquire(lambda: True),
            lambda: database.writes.commit([]),
            database.writes.release,
            database.writes.maintain,
        ):
            with pytest.raises(StorageError, match="is not open"):
                call()

    def test_a_file_that_is_only_read_takes_none(self) -> None:
        database = ReadOnlyDatabase("/nowhere/store.db", 1)
        with pytest.raises(ReadOnlyStoreError, match="read_only=True"):
            database.writes.commit([])

    def test_a_lock_is_tried_again_for_as_long_as_it_is_wanted(self) -> None:
        answers = iter([False, False, True])
        assert try_again(lambda: next(answers), lambda: True)
        assert list(answers) == []
        wanted = iter([True, True, False])
        assert not try_again(lambda: False, lambda: next(wanted))
        assert list(wanted) == []


class TestAWorker:
    def test_statements_are_executed_by_sqlites_own_method(self) -> None:
        async def use() -> None:
            worker = ConnectionWorker(OwnThreads("here"))
            await worker.open(":memory:")
            try:
                assert await worker.run(lambda connection: type(connection).execute) is sqlite3.Connection.execute
            finally:
                await worker.close()

        asyncio.run(use())

    def test_without_a_connection_it_says_so(self) -> None:
        with pytest.raises(StorageError, match="here is not open"):
            _ = ConnectionWorker(OwnThreads("here")).connection
