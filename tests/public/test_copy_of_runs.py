"""``copy(runs=)``: some runs of a store, whatever else there is on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import sqlite3
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    ContextStore,
    CorruptStoreError,
    RunDeletedError,
    StorageError,
    copy,
)

from .conftest import Location

WAYS = [("file", "memory"), ("file", "postgres"), ("postgres", "file"), ("memory", "file")]


@pytest.fixture
def source() -> Iterator[ContextStore]:
    with ContextStore(":memory:") as store:
        fill(store)
        yield store


@pytest.fixture
def target() -> Iterator[ContextStore]:
    with ContextStore(":memory:") as store:
        yield store


def fill(store: ContextStore) -> None:
    for name in ("a", "b", "c"):
        store.put_many(name, {f"{name}{number}": number for number in range(300)})
    store.put("deleted", "node", 1)
    store.delete_run("deleted")
    store.put_global("key", 1)


def names(store: ContextStore) -> list[str]:
    return [run.flow_run_id for run in store.list_runs()]


@pytest.mark.parametrize("way", WAYS, ids="-to-".join)
def test_these_alone_come_over_as_they_were(location: Location, way: tuple[str, str]) -> None:
    with ContextStore(location(way[0])) as source, ContextStore(location(way[1])) as target:
        fill(source)
        report = copy(source, target, runs=["c", "a", "deleted"])
        assert (report.runs, report.outputs, report.globals, report.tombstones) == (2, 600, 0, 1)
        assert names(target) == ["c", "a"]
        assert [list(target.iter_outputs(run)) for run in "ac"] == [list(source.iter_outputs(run)) for run in "ac"]
        assert target.list_globals() == []
        with pytest.raises(RunDeletedError):
            target.put("deleted", "late", 1)


def test_what_else_the_target_has_stays_and_does_not_matter(source: ContextStore, target: ContextStore) -> None:
    target.put("own", "node", 1)
    target.put_global("key", "of its own")
    copy(source, target, runs=["b"])
    assert names(target) == ["b", "own"]
    assert target.get_global("key") == "of its own"


def test_the_order_in_which_runs_have_come_does_not_matter(source: ContextStore, target: ContextStore) -> None:
    copy(source, target, runs=["c"])
    copy(source, target, runs=["a"])
    again = copy(source, target, runs=["a", "c"])
    assert again.digest == copy(target, source, runs=["c", "a"]).digest


def test_the_digest_is_that_of_what_was_copied(source: ContextStore, target: ContextStore) -> None:
    digests = {copy(source, target, runs=runs).digest for runs in (["a"], ["b"], ["a", "b"], [])}
    assert len(digests) == 4


def test_one_that_is_not_there_gives_nothing(source: ContextStore, target: ContextStore) -> None:
    assert copy(source, target, runs=["absent", "a"]).runs == 1
    assert names(target) == ["a"]


def test_none_at_all_copies_nothing(source: ContextStore, target: ContextStore) -> None:
    report = copy(source, target, runs=[])
    assert (report.runs, report.outputs, names(target)) == (0, 0, [])


def test_ids_may_be_uuids_and_come_from_an_iterator(source: ContextStore, target: ContextStore) -> None:
    run = uuid.uuid4()
    source.put(run, "node", 1)
    copy(source, target, runs=iter([run, run]))
    assert names(target) == [str(run)]


@pytest.mark.parametrize("runs", ["a", uuid.uuid4(), 7])
def test_what_is_not_several_ids_is_refused(source: ContextStore, target: ContextStore, runs: Any) -> None:
    with pytest.raises(TypeError, match="runs must be several ids"):
        copy(source, target, runs=runs)


def test_an_id_that_can_be_none_is_refused(source: ContextStore, target: ContextStore) -> None:
    with pytest.raises(ValueError, match="runs"):
        copy(source, target, runs=["a", ""])
    assert names(target) == []


def test_another_output_in_the_same_place_is_refused(source: ContextStore, target: ContextStore) -> None:
    target.put("a", "a0", "another")
    with pytest.raises(AlreadyExistsError):
        copy(source, target, runs=["a"])


def test_a_further_output_of_one_of_them_is_found(source: ContextStore, target: ContextStore) -> None:
    copy(source, target, runs=["a"])
    target.put("a", "further", 1)
    with pytest.raises(StorageError, match="is not equal to"):
        copy(source, target, runs=["a"])
    copy(source, target, runs=["b"])


def test_one_that_only_the_target_has_is_found(source: ContextStore, target: ContextStore) -> None:
    target.put("absent", "node", 1)
    with pytest.raises(StorageError, match="is not equal to"):
        copy(source, target, runs=["absent"])


def test_progress_is_that_of_the_runs(source: ContextStore, target: ContextStore) -> None:
    told: list[tuple[int, int]] = []
    copy(source, target, runs=["a", "c"], progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 2), (2, 2)]


def test_damage_in_others_does_not_matter(tmp_path: pathlib.Path, target: ContextStore) -> None:
    path = tmp_path / "damaged.db"
    with ContextStore(path) as store:
        fill(store)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE node_outputs SET value = '77' WHERE node_id = 'b7'")
    with ContextStore(path) as damaged:
        assert copy(damaged, target, runs=["a"]).outputs == 300
        with pytest.raises(CorruptStoreError):
            copy(damaged, target, runs=["b"])
        assert [problem.key for problem in copy(damaged, target, runs=["b"], damaged="skip").skipped] == [("b", "b7")]


def test_it_is_awaited_between_awaited_stores(source: ContextStore, tmp_path: pathlib.Path) -> None:
    async def main() -> int:
        async with AsyncContextStore(tmp_path / "target.db") as target:
            return (await copy(source, target, runs=["a"])).outputs

    assert asyncio.run(main()) == 300
