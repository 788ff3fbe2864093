"""What is watched in a file: ids that a shell removed, marks, damage, and copies that have a history of their own."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, CorruptStoreError, Output, OutputDeletedError, restore
from contextstore._core import watching as _watching
from contextstore._sqlite import news as _news
from contextstore._sqlite import run_news as _run_news

MARK = "UPDATE node_outputs SET codec = -1, value = '', size = 0 WHERE node_id = ?"


def taken(store: ContextStore, count: int, *args: Any, **options: Any) -> list[Output]:
    with contextlib.closing(store.watch(*args, **options)) as outputs:
        return [next(outputs) for _ in range(count)]


def nodes(store: ContextStore, count: int, *args: Any, **options: Any) -> list[str]:
    return [output.node_id for output in taken(store, count, *args, **options)]


def in_a_shell(path: pathlib.Path, statement: str, *parameters: Any) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, parameters)


@pytest.fixture
def store(file_path: pathlib.Path) -> Iterator[ContextStore]:
    with ContextStore(file_path, cache_bytes=0) as opened:
        for node in "abc":
            opened.put("run", node, node)
        yield opened


@pytest.mark.parametrize("run", ["run", None])
def test_the_id_of_a_row_that_a_shell_removed_is_not_given_again(
    store: ContextStore, file_path: pathlib.Path, run: str | None
) -> None:
    cursor = taken(store, 3, run)[-1].cursor
    in_a_shell(file_path, "DELETE FROM node_outputs WHERE node_id IN ('b', 'c')")
    store.put("run", "d", 1)
    assert nodes(store, 1, run, after=cursor) == ["d"]
    assert nodes(store, 2, run) == ["a", "d"]


def test_the_mark_of_a_deleted_output_is_not_told(store: ContextStore, file_path: pathlib.Path) -> None:
    in_a_shell(file_path, MARK, "b")
    for run in ("run", None):
        assert nodes(store, 2, run) == ["a", "c"]


@pytest.mark.parametrize("far", [0, 10**6])
def test_a_deleted_output_at_which_a_watch_ends_is_an_error_once_it_is_reached(
    store: ContextStore, file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, far: int
) -> None:
    monkeypatch.setattr(_news, "_FAR", far)
    outputs = taken(store, 3)
    in_a_shell(file_path, MARK, "b")
    for prefix in ("", "x"):
        watch = store.watch("run", until="b", prefix=prefix)
        assert prefix or next(watch).node_id == "a"
        with pytest.raises(OutputDeletedError) as caught:
            next(watch)
        assert (caught.value.flow_run_id, caught.value.node_id) == ("run", "b")
    assert list(store.watch("run", until="b", after=outputs[1].cursor)) == []  # it was told already


def test_damage_is_told_when_its_turn_comes(store: ContextStore, file_path: pathlib.Path) -> None:
    in_a_shell(file_path, "UPDATE node_outputs SET value = '1' WHERE node_id = 'b'")
    watch = store.watch("run")
    first = next(watch)
    with pytest.raises(CorruptStoreError) as caught:
        next(watch)
    assert (first.node_id, caught.value.node_id) == ("a", "b")


def test_a_page_is_cut_by_bytes_too(store: ContextStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watching, "PAGE_BYTES", 10)
    for number in range(6):
        store.put("run", f"large {number}", b"x" * 8)
    expected = ["a", "b", "c", *(f"large {number}" for number in range(6))]
    for far in (0, 10**6):
        monkeypatch.setattr(_news, "_FAR", far)
        assert nodes(store, 9, "run") == expected
    assert nodes(store, 9) == expected


class TestCopies:
    @pytest.fixture
    def cursor(self, store: ContextStore) -> str:
        (first, *_) = taken(store, 3)
        assert first.cursor is not None
        return first.cursor

    def refused(self, store: ContextStore, cursor: str | None) -> None:
        with pytest.raises(ValueError, match=r"^after .*restore"):
            next(store.watch("run", after=cursor))

    def test_a_backup_has_a_history_of_its_own(self, store: ContextStore, cursor: str, tmp_path: pathlib.Path) -> None:
        for check in (True, False):
            store.backup(tmp_path / "backup.db", check=check, overwrite=True)
            with ContextStore(tmp_path / "backup.db") as copy:
                self.refused(copy, cursor)
                (first, *_) = taken(copy, 3)
                self.refused(store, first.cursor)
        assert nodes(store, 2, after=cursor) == ["b", "c"]

    def test_a_backup_of_a_store_that_is_only_read_has_one_too(
        self, store: ContextStore, cursor: str, file_path: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        with ContextStore(file_path, read_only=True) as reader:
            reader.backup(tmp_path / "backup.db")
            assert nodes(reader, 2, after=cursor) == ["b", "c"]
        with ContextStore(tmp_path / "backup.db") as copy:
            self.refused(copy, cursor)

    def test_a_restored_store_has_another_than_before_and_than_its_backup(
        self, store: ContextStore, cursor: str, file_path: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        store.backup(tmp_path / "backup.db")
        store.put("run", "lost", 1)
        beyond = taken(store, 4)[-1].cursor
        newest, of_runs = store.cursor(), store.cursor("runs")
        store.close()
        with ContextStore(tmp_path / "backup.db") as copy:
            of_backup = taken(copy, 1)[0].cursor
        restore(tmp_path / "backup.db", file_path, overwrite=True)
        with ContextStore(file_path) as restored:
            for other in (cursor, beyond, of_backup, newest):
                self.refused(restored, other)
            with pytest.raises(ValueError, match=r"^after .*restore"):
                next(restored.watch_runs(after=of_runs))
            assert nodes(restored, 3) == ["a", "b", "c"]

    def test_a_cursor_beyond_the_end_of_a_file_that_was_put_back_is_refused(
        self, store: ContextStore, file_path: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        store.close()
        shutil.copy(file_path, tmp_path / "copy.db")
        with ContextStore(file_path) as later:
            later.put("run", "d", 1)
            cursor = taken(later, 4)[-1].cursor
        with ContextStore(tmp_path / "copy.db") as copy:
            self.refused(copy, cursor)


def test_a_store_that_lost_its_history_says_so(store: ContextStore, file_path: pathlib.Path) -> None:
    in_a_shell(file_path, "DELETE FROM store_facts")
    with pytest.raises(CorruptStoreError, match="history"):
        next(store.watch())
    for call in (store.cursor, lambda: store.cursor("runs")):
        with pytest.raises(CorruptStoreError, match="history"):
            call()


def test_the_cursor_of_now_is_found_in_as_many_steps_however_much_there_is(
    store: ContextStore, file_path: pathlib.Path
) -> None:
    def steps() -> list[int]:
        ticks: list[int] = []
        with contextlib.closing(sqlite3.connect(file_path, isolation_level=None)) as connection:
            connection.set_progress_handler(lambda: ticks.append(1), 1)
            found = []
            for newest in (_news.newest_cursor, _run_news.newest_cursor):
                ticks.clear()
                newest(connection, "store.db")
                found.append(len(ticks))
        return found

    store.run("run").begin()
    few = steps()
    with store.batch() as batch:
        for number in range(2000):
            batch.put(f"run-{number}", "a", 1)
    for number in range(20):
        store.run(f"begun-{number}").begin()
    assert steps() == few


async def test_a_reader_follows_what_others_write(store: ContextStore, file_path: pathlib.Path) -> None:
    async with (
        AsyncContextStore(file_path, read_only=True) as reader,
        contextlib.aclosing(reader.watch(prefix="n")) as told,
    ):
        for number in range(5):
            store.put(f"run {number}", f"n{number}", 1)
            assert (await anext(told)).node_id == f"n{number}"
