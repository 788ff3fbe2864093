"""A single put is one statement, which stores it or leaves everything as it was."""

from __future__ import annotations

import concurrent.futures
import contextlib
import pathlib
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest

from contextstore import ContextStore, StorageError, StoreBusyError
from contextstore._engine.operations import PutOutput
from contextstore._sqlite.schema import SCHEMA_VERSION
from contextstore._sqlite.single_put import put_alone
from contextstore._values.codec import BYTES, JSON, Encoded

from .files import contents, plain

pytestmark = pytest.mark.disk

PUT = PutOutput("run", "new", Encoded(JSON, b'{"new":1}'), False)


@pytest.fixture
def connection(file_path: pathlib.Path) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else's to a store."""
    with ContextStore(file_path) as store:
        store.put("run", "a", 1)
        store.delete_run("deleted")
    with plain(file_path) as connection:
        connection.execute("PRAGMA busy_timeout = 0")
        yield connection


def test_it_stores_what_a_store_reads(file_path: pathlib.Path, connection: sqlite3.Connection) -> None:
    assert put_alone(connection, "here", PUT, 1_700_000_000_000_000) is True
    assert put_alone(connection, "here", PutOutput("run", "bytes", Encoded(BYTES, b"\0\xff"), False), 7) is True
    assert not connection.in_transaction
    with ContextStore(file_path) as store:
        assert store.get_run("run") == {"a": 1, "new": {"new": 1}, "bytes": b"\0\xff"}
        entry = store.get_entry("run", "new")
        assert entry is not None
        assert (entry.written_at.timestamp(), entry.size) == (1_700_000_000, 9)
        assert store.check().ok


def test_it_takes_one_call_of_the_connection(connection: sqlite3.Connection) -> None:
    calls: list[str] = []

    class Counted:
        def execute(self, *args: Any) -> sqlite3.Cursor:
            calls.append("execute")
            return connection.execute(*args)

    assert put_alone(Counted(), "here", PUT, 1)  # type: ignore[arg-type]
    assert calls == ["execute"]


@contextlib.contextmanager
def another_writes(path: pathlib.Path) -> Iterator[None]:
    with plain(path) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextlib.contextmanager
def executed(path: pathlib.Path, statement: str) -> Iterator[None]:
    with plain(path) as other:
        other.execute(statement)
    yield


LEFT_TO_THE_USUAL_WAY: dict[str, Any] = {
    "no such run": (PUT._replace(flow_run_id="other"), None),
    "a deleted run": (PUT._replace(flow_run_id="deleted"), None),
    "an output that is there": (PUT._replace(node_id="a"), None),
    "an output that is there and is equal": (PUT._replace(node_id="a", value=Encoded(JSON, b"1"), exist_ok=True), None),
    "another program that writes": (PUT, another_writes),
    "another format": (PUT, lambda path: executed(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")),
    "a table that is gone": (PUT, lambda path: executed(path, "ALTER TABLE node_outputs RENAME TO other")),
}


@pytest.mark.parametrize(("put", "circumstance"), LEFT_TO_THE_USUAL_WAY.values(), ids=LEFT_TO_THE_USUAL_WAY)
def test_what_it_does_not_do_leaves_everything_as_it_was(
    file_path: pathlib.Path, connection: sqlite3.Connection, put: PutOutput, circumstance: Any
) -> None:
    with circumstance(file_path) if circumstance else contextlib.nullcontext():
        before = contents(file_path)
        assert put_alone(connection, "here", put, 1) is False
        assert not connection.in_transaction
        assert contents(file_path) == before


def test_where_there_is_no_room_nothing_is_stored(file_path: pathlib.Path, connection: sqlite3.Connection) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    before = contents(file_path)
    large = PUT._replace(value=Encoded(BYTES, bytes(100_000)))
    assert put_alone(connection, "here", large, 1) is False
    assert contents(file_path) == before
    assert put_alone(connection, "here", PUT, 1) is True


def test_a_put_that_another_program_keeps_waiting_ends_at_its_own_timeout_and_stores_nothing(
    file_path: pathlib.Path, connection: sqlite3.Connection
) -> None:
    with ContextStore(file_path, timeout=2.5, cache_bytes=0) as store:
        store.put("run", "before", 1)
        connection.execute("PRAGMA busy_timeout = 30000")  # the writer may be growing the WAL ahead just now
        connection.execute("BEGIN IMMEDIATE")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            began = time.monotonic()
            first = pool.submit(store.put, "run", "first", 1)
            time.sleep(2)
            second = pool.submit(store.put, "run", "second", 1)
            assert isinstance(first.exception(60), StoreBusyError)
            assert time.monotonic() - began >= 2.4
            connection.execute("ROLLBACK")
            assert second.result(60) is None
        assert store.list_keys("run") == ["a", "before", "second"]


def failing(code: int) -> Any:
    class Failing:
        def execute(self, *_: Any) -> None:
            error = sqlite3.OperationalError("a disk that fails")
            error.sqlite_errorcode = code
            error.sqlite_errorname = "SQLITE_IOERR"
            raise error

    return Failing()


@pytest.mark.parametrize(
    "code",
    [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_NOMEM, 999],
)
def test_an_error_that_the_commit_may_have_met_leaves_its_outcome_unknown(code: int) -> None:
    with pytest.raises(StorageError, match="could not commit to here") as caught:
        put_alone(failing(code), "here", PUT, 1)
    assert caught.value.outcome_unknown


@pytest.mark.parametrize(
    "code",
    [sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CORRUPT_INDEX, sqlite3.SQLITE_IOERR_READ],
)
def test_an_error_before_the_commit_is_left_to_the_usual_way(code: int) -> None:
    assert put_alone(failing(code), "here", PUT, 1) is False
