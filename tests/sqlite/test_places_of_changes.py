"""Where changes of runs lie among the outputs of a file, for whoever follows them: also at the ends of what is told."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
from collections.abc import Iterator

import pytest

from contextstore import ContextStore, RunInfo
from contextstore._sqlite.history import SHIFT


@pytest.fixture
def store(file_path: pathlib.Path) -> Iterator[ContextStore]:
    with ContextStore(file_path, cache_bytes=0) as opened:
        yield opened


def set_change(store: ContextStore, path: pathlib.Path, change: object) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE flow_runs SET change = ? WHERE flow_run_id = 'changed'", (change,))


def told(store: ContextStore, count: int, after: str | None = None) -> list[RunInfo]:
    with contextlib.closing(store.watch_runs(after=after)) as runs:
        return [next(runs) for _ in range(count)]


@pytest.mark.parametrize("way", ["update", "failure", "deletion"])
def test_an_output_is_told_though_very_many_changes_have_come_since_the_one_before(
    store: ContextStore, file_path: pathlib.Path, way: str
) -> None:
    store.put("first", "node", 1)
    store.run("changed").begin()
    set_change(store, file_path, (2 << SHIFT) - 1)  # as if there had been some sixteen million of them
    cursor = told(store, 2)[-1].cursor

    def fail() -> None:
        raise ValueError

    if way == "update":
        store.run("changed").update(state="failed")
    elif way == "deletion":
        store.delete_run("changed")
    else:
        with pytest.raises(ValueError):
            store.run("changed").step("node", fail)
    (change,) = told(store, 1, cursor)
    store.put("second", "node", 1)
    store.run("third").begin()
    assert [info.flow_run_id for info in told(store, 2, change.cursor)] == ["second", "third"]
    assert store.check().problems == ()


@pytest.mark.parametrize("damage", ["nonsense", b"\xff", 2**63 - 1])
def test_a_change_that_is_damaged_keeps_nobody_from_being_told_of_others(
    store: ContextStore, file_path: pathlib.Path, damage: object
) -> None:
    store.run("changed").begin()
    store.run("other").begin()
    set_change(store, file_path, damage)
    with contextlib.closing(store.watch_runs()) as runs:
        assert [next(runs).flow_run_id for _ in range(2)] == ["changed", "other"]
        store.put("new", "node", 1)
        assert next(runs).flow_run_id == "new"
        store.run("other").update(state="completed")
        assert next(runs).state == "completed"
        store.run("changed").update(state="failed")
        assert next(runs).state == "failed"
