"""Damage in rows of flow runs that no checksum covers: counts, times, failures, leases. Each is told, or mended."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from contextstore import ContextStore, CorruptStoreError, LeaseLostError

NONSENSE = ["nonsense", b"\xff", -5, 1.5]


@pytest.fixture
def store(file_path: pathlib.Path) -> Iterator[ContextStore]:
    with ContextStore(file_path, cache_bytes=0) as opened:
        run = opened.run("run")
        run.put_many({"a": 1, "b": 2, "c": 3})
        run.delete_outputs(["c"])
        with pytest.raises(ValueError, match="no"):
            run.step("node", fail)
        yield opened


def fail() -> None:
    raise ValueError("no")


def damage(path: pathlib.Path, table: str, column: str, value: object) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(f"UPDATE {table} SET {column} = ?", (value,)).rowcount == 1


def looks(store: ContextStore) -> list[Any]:
    """How many outputs the run has, by each way to learn it."""
    with contextlib.closing(store.watch_runs()) as runs:
        found = [store.get_run_info("run"), *store.list_runs(), next(runs)]
    return [info.outputs if info else None for info in found]


@pytest.mark.parametrize("value", NONSENSE)
@pytest.mark.parametrize("column", ["outputs", "marks"])
def test_a_count_that_is_damaged_is_counted_anew_and_found_by_check(
    store: ContextStore, file_path: pathlib.Path, column: str, value: object
) -> None:
    damage(file_path, "flow_runs", column, value)
    assert looks(store) == [2, 2, 2]
    assert {problem.key for problem in store.check().problems} == {("run",)}


@pytest.mark.parametrize("value", NONSENSE)
@pytest.mark.parametrize("column", ["first_written_at", "last_written_at"])
def test_of_times_that_are_damaged_none_is_said(
    store: ContextStore, file_path: pathlib.Path, column: str, value: object
) -> None:
    damage(file_path, "flow_runs", column, value)
    assert looks(store) == [2, 2, 2]
    info = store.run("run").info()
    assert info is not None
    assert (info.first_written_at, info.last_written_at) == (None, None)


@pytest.mark.parametrize("value", NONSENSE)
def test_a_number_of_failures_that_is_damaged_is_told(
    store: ContextStore, file_path: pathlib.Path, value: object
) -> None:
    damage(file_path, "flow_runs", "failures", value)
    for look in (store.run("run").info, store.list_runs):
        with pytest.raises(CorruptStoreError, match="'run'"):
            look()
    assert [problem.key for problem in store.check().problems] == [("run",)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((column, value) for column in ("number", "started_at", "ended_at") for value in NONSENSE),
        ("ended_at", 2**62),
        ("node_id", b"\xff"),
        ("error", b"\xff"),
        ("inputs", b"\xff"),
    ],
)
def test_a_failed_attempt_that_is_damaged_is_told(
    store: ContextStore, file_path: pathlib.Path, column: str, value: object
) -> None:
    damage(file_path, "failed_attempts", column, value)
    with pytest.raises(CorruptStoreError, match="a failed attempt of flow run 'run'"):
        store.run("run").attempts()
    assert [problem.key for problem in store.check().problems] == [("run",)]


@pytest.mark.parametrize("value", ["nonsense", b"\xff"])
@pytest.mark.parametrize("column", ["token", "ends_at", "ttl", "expires_at"])
def test_a_lease_whose_row_is_damaged_is_had_by_the_next_one_and_by_one_alone(
    store: ContextStore, file_path: pathlib.Path, column: str, value: object
) -> None:
    with store.lease("lease", ttl=3600) as first:
        damage(file_path, "leases", column, value)
        store.list_leases()
        with store.lease("lease", wait=0) as second:
            assert second.token > first.token
            with pytest.raises(LeaseLostError):
                store.run("run", lease=first).put("late", 1)
            store.run("run", lease=second).put("d", 1)
