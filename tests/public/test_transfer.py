"""``copy``: everything of one store in another one, whatever their engines and faces, and proved equal."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import pathlib
import random
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    ContextStore,
    CorruptStoreError,
    RunDeletedError,
    StorageError,
    VersionConflictError,
    copy,
)
from contextstore._core import archive as _archive

from ..support.doubles import core_of
from .conftest import Location

ENGINES = ["file", "memory", "postgres"]
WAYS = [(one, other) for one in ENGINES for other in ENGINES]


def fill(store: ContextStore, seed: int = 1) -> None:
    chance = random.Random(seed)
    for number in range(12):
        outputs = {f"node-{i}": {"i": i, "text": "é" * chance.randint(0, 50)} for i in range(chance.randint(1, 30))}
        store.put_many(f"run-{chance.randint(0, 999)}-{number}", outputs)
    store.put("bytes", "b", b"\x00\xff" * 1000)
    store.put("text", "null", None)
    store.put("deleted", "a", 1)
    store.delete_run("deleted")
    store.delete_run("never seen")
    store.put_global("once", [1, 2])
    for number in range(5):
        store.upsert_global("often", number)
    store.upsert_global("gone", 1)
    store.delete_global("gone")
    store.put_global("", "the empty key")


def contents(store: ContextStore) -> Any:
    runs = store.list_runs(limit=1000)
    return (
        runs,
        {run.flow_run_id: list(store.iter_outputs(run.flow_run_id)) for run in runs},
        store.list_globals(),
        store.stats().tombstones,
    )


@pytest.mark.parametrize("way", WAYS, ids="-to-".join)
def test_everything_comes_over_as_it_was(location: Location, way: tuple[str, str]) -> None:
    with ContextStore(location(way[0])) as source, ContextStore(location(way[1])) as target:
        fill(source)
        report = copy(source, target)
        assert contents(target) == contents(source)
        assert (report.runs, report.globals, report.tombstones) == (14, 3, 2)
        assert report.outputs == source.stats().outputs
        assert report.bytes == source.stats().value_bytes
        for name in ("deleted", "never seen"):
            with pytest.raises(RunDeletedError):
                target.put(name, "late", 1)
        assert target.upsert_global("gone", 2) == source.upsert_global("gone", 2) == 2
        assert target.check().ok


@pytest.mark.parametrize("faces", ["async to async", "async to sync", "sync to async"])
async def test_it_is_awaited_if_either_store_is_async(location: Location, faces: str) -> None:
    with ContextStore(path := location("file")) as filled:
        fill(filled)
        expected = contents(filled)
    kinds: dict[str, Any] = {"async": AsyncContextStore, "sync": ContextStore}
    one, other = (kinds[face] for face in faces.split(" to "))
    source, target = one(path), other(second := location("file"))
    steps = []

    async def progress(done: int, total: int) -> None:
        steps.append((done, total))

    report = await copy(source, target, progress=progress)
    for store in (source, target):
        await store.close() if isinstance(store, AsyncContextStore) else await asyncio.to_thread(store.close)
    assert report.runs == 14
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
    with ContextStore(second) as copied:
        assert contents(copied) == expected


def test_there_and_back_again_is_the_same_by_digest(location: Location) -> None:
    with (
        ContextStore(location("file")) as first,
        ContextStore(location("postgres")) as second,
        ContextStore(location("file")) as third,
    ):
        fill(first)
        assert copy(first, second).digest == copy(second, third).digest
        assert contents(third) == contents(first)


@pytest.mark.parametrize("way", [("file", "file"), ("file", "postgres"), ("postgres", "file")], ids="-to-".join)
def test_one_that_was_interrupted_goes_on(location: Location, way: tuple[str, str]) -> None:
    with ContextStore(location(way[0])) as source, ContextStore(location(way[1])) as target:
        fill(source)

        def stop(at: int) -> Callable[[int, int], None]:
            def progress(done: int, total: int) -> None:
                if done == at:
                    raise KeyboardInterrupt

            return progress

        for at in (1, 4, 9):
            with pytest.raises(KeyboardInterrupt):
                copy(source, target, progress=stop(at))
        copy(source, target)
        assert contents(target) == contents(source)


def test_a_second_copy_takes_along_what_is_new(location: Location) -> None:
    with ContextStore(location("file")) as source, ContextStore(location("postgres")) as target:
        fill(source)
        copy(source, target)
        source.put("new run", "a", 1)
        source.upsert_global("often", "anew")
        source.delete_run("text")
        source.delete_global("once")
        copy(source, target)
        assert contents(target) == contents(source)
        assert target.get("text", "null", "nothing") == "nothing"


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_target_has_otherwise_is_never_overwritten(location: Location, engine: str) -> None:
    with ContextStore(location("file")) as source:
        source.put("run", "a", 1)
        source.put_global("key", 1)
        with ContextStore(location(engine)) as target:
            target.put("run", "a", 2)
            with pytest.raises(AlreadyExistsError):
                copy(source, target)
            assert target.get("run", "a") == 2
        with ContextStore(location(engine)) as target:
            target.upsert_global("key", 1)
            target.upsert_global("key", 2)
            with pytest.raises(VersionConflictError):
                copy(source, target)
            assert target.get_global("key") == 2
        with ContextStore(location(engine)) as target:
            target.delete_run("run")
            with pytest.raises(RunDeletedError):
                copy(source, target)
        with ContextStore(location(engine)) as target:
            target.put("another run", "a", 1)
            with pytest.raises(StorageError, match="not equal"):
                copy(source, target)


def test_a_damaged_output_ends_it_and_is_named(location: Location) -> None:
    path = location("file")
    with ContextStore(path) as source:
        source.put("run", "a", 1)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE node_outputs SET value = '2'")
    connection.close()
    with (
        ContextStore(path) as source,
        ContextStore(location("file")) as target,
        pytest.raises(CorruptStoreError, match="'a'"),
    ):
        copy(source, target)


def test_its_commits_are_bounded(location: Location) -> None:
    with ContextStore(location("memory")) as source, ContextStore(location("memory")) as target:
        source.put_many("run", {f"{i:05}": i for i in range(1500)})
        source.put_many("large", {f"{i}": b"x" * 600_000 for i in range(10)})
        engine: Any = core_of(target)._session.engine
        commit, groups = engine.commit, []

        async def noting(units: Any) -> Any:
            groups.append(sum(len(unit) for unit in units))
            return await commit(units)

        engine.commit = noting
        copy(source, target)
        assert max(groups) <= 202
        assert len(groups) >= 12


def test_times_are_copied_and_not_taken_anew(location: Location) -> None:
    with ContextStore(location("file")) as source, ContextStore(location("postgres")) as target:
        source.put("run", "a", 1)
        entry = source.get_entry("run", "a")
        assert entry is not None
        copy(source, target)
        assert target.get_entry("run", "a") == entry
        assert target.prune(older_than=datetime.timedelta(hours=1)).runs == 0


def test_what_is_no_store_is_refused(location: Location) -> None:
    with ContextStore(location("memory")) as store:
        for arguments in [("flows.db", store), (store, "flows.db")]:
            with pytest.raises(TypeError, match="str"):
                copy(*arguments)  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="same store"):
            copy(store, store)


@pytest.mark.parametrize("change", ["value = '7'", "written_at = written_at + 1"])
def test_a_target_that_is_changed_before_the_proof_is_not_proved_equal(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = tmp_path / "target.db"
    with ContextStore(":memory:") as source, ContextStore(path) as target:
        source.put("run", "node", 1)
        contents = _archive.Archive.contents

        def changed_first(self: Any, *selected: Any) -> Any:
            if self.session is core_of(target)._session:
                with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
                    connection.execute(f"UPDATE node_outputs SET {change}")
            return contents(self, *selected)

        monkeypatch.setattr(_archive.Archive, "contents", changed_first)
        with pytest.raises(StorageError):
            copy(source, target)


async def test_a_copy_from_a_blocking_store_does_not_block_the_loop(tmp_path: pathlib.Path) -> None:
    with ContextStore(tmp_path / "source.db") as source:
        source.put_many("run", {f"{i:05}": b"x" * 2000 for i in range(3000)})
        async with AsyncContextStore(":memory:") as target:
            beats = 0

            async def beat() -> None:
                nonlocal beats
                while True:
                    await asyncio.sleep(0)
                    beats += 1

            beating = asyncio.ensure_future(beat())
            report = await copy(source, target)
            beating.cancel()
            assert report.outputs == 3000
            assert beats > 30


def test_progress_of_a_blocking_copy_takes_plain_functions() -> None:
    async def progress(done: int, total: int) -> None:
        """Of the wrong kind."""

    with ContextStore(":memory:") as source, ContextStore(":memory:") as target:
        source.put("run", "node", 1)
        with pytest.raises(TypeError, match="AsyncContextStore"):
            copy(source, target, progress=progress)
