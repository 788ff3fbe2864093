"""Runs are pruned by age, a pruning that was killed is taken up, and the space is given back."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import pathlib
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import ContextStore, PruneReport, RunDeletedError, StorageError, StoreClosedError, new_flow_run_id
from contextstore._core import retention as _deletion
from contextstore._engine.operations import DeleteIdleRuns, PutOutput
from contextstore._values.codec import Encoded

from ..conftest import Target
from ..support.doubles import core_of, fail
from .outputs import Victims
from .runs import DAY, KILLED_AT_ITS_NTH_COMMIT, Clock, before_each_commit, rows_of, runs_of
from .test_batch import begun


class TestPrune:
    async def test_runs_whose_last_output_is_older_are_deleted(self, store: Any, clock: Clock) -> None:
        await store.put_many("old", {"a": 1, "b": b"12345"})
        await store.put("revived", "a", 1)
        clock.now += 10 * DAY
        await store.put("revived", "b", 1)
        await store.put("young", "a", 1)
        clock.now += 1 * DAY
        assert await store.prune(older_than=2 * DAY) == PruneReport(runs=1, outputs=2, bytes=6, tombstones=0)
        assert await runs_of(store) == ["young", "revived"]
        assert await store.get_run("revived") == {"a": 1, "b": 1}
        assert await store.get("old", "a", "default") == "default"
        with pytest.raises(RunDeletedError):
            await store.put("old", "late", 1)
        assert await store.prune(older_than=2 * DAY) == PruneReport(0, 0, 0, 0)

    async def test_the_age_must_be_exceeded(self, store: Any, clock: Clock) -> None:
        await store.put("run", "a", 1)
        clock.now += 2 * DAY
        assert (await store.prune(older_than=2 * DAY)).runs == 0
        clock.now += datetime.timedelta(microseconds=1)
        assert (await store.prune(older_than=2 * DAY)).runs == 1

    async def test_a_dry_run_changes_nothing_and_reports_the_same(self, store: Any, clock: Clock) -> None:
        for i in range(5):
            await store.put_many(f"old-{i}", {str(j): "x" * j for j in range(i + 1)})
        await store.delete_run("gone")
        await store.delete_run("old-4")
        clock.now += 10 * DAY
        await store.put("young", "a", 1)
        await store.delete_run("gone lately")
        before = await runs_of(store), await store.stats()
        told = await store.prune(older_than=DAY, dry_run=True)
        assert (await runs_of(store), await store.stats()) == before
        assert told == PruneReport(runs=4, outputs=10, bytes=told.bytes, tombstones=2)
        assert await store.prune(older_than=DAY) == told
        assert await runs_of(store) == ["young"]

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_a_dry_run_leaves_the_tables_as_they_were(self, make_store: Target, clock: Clock) -> None:
        async with make_store() as store:
            await store.put("old", "a", 1)
            await store.delete_run("gone")
            clock.now += 10 * DAY
            with contextlib.closing(sqlite3.connect(make_store.location)) as connection:
                before = list(connection.iterdump())
                assert (await store.prune(older_than=DAY, dry_run=True)).runs == 1
                assert list(connection.iterdump()) == before

    async def test_globals_stay(self, store: Any, clock: Clock) -> None:
        await store.put("old", "a", 1)
        await store.put_global("key", 1)
        await store.upsert_global("deleted", 1)
        await store.delete_global("deleted")
        clock.now += 1000 * DAY
        await store.prune(older_than=DAY)
        assert await store.get_global("key") == 1
        assert await store.upsert_global("deleted", 2) == 2

    async def test_of_an_age_of_zero_all_are_deleted(self, store: Any, clock: Clock) -> None:
        for i in range(3):
            await store.put(f"run-{i}", "a", 1)
        clock.now += datetime.timedelta(microseconds=1)
        assert (await store.prune(older_than=datetime.timedelta(0))).runs == 3
        assert await runs_of(store) == []

    @pytest.mark.parametrize("age", [datetime.timedelta.max, 300_000 * DAY, 3000 * 365 * DAY], ids=str)
    @pytest.mark.each_input_once
    async def test_nothing_is_older_than_the_calendar(self, store: Any, age: datetime.timedelta) -> None:
        await store.put("run", "a", 1)
        await store.delete_run("gone")
        for dry_run in (True, False):
            assert await store.prune(older_than=age, dry_run=dry_run) == PruneReport(0, 0, 0, 0)
        assert await runs_of(store) == ["run"]

    async def test_an_age_that_cannot_be_meant_is_refused(self, store: Any) -> None:
        for other in (7, 7.0, False, "7 days"):
            with pytest.raises(TypeError, match="timedelta"):
                await store.prune(older_than=other)
        with pytest.raises(ValueError, match="negative"):
            await store.prune(older_than=-DAY)

    async def test_tombstones_of_that_age_are_forgotten_and_the_id_may_be_used_anew(
        self, store: Any, clock: Clock
    ) -> None:
        await store.put_many("run", {"a": "old", "b": "old"})
        assert await store.get("run", "a") == "old"
        await store.delete_run("run")
        clock.now += 10 * DAY
        await store.delete_run("lately")
        assert (await store.prune(older_than=20 * DAY)).tombstones == 0
        with pytest.raises(RunDeletedError):
            await store.put("run", "a", "new")
        assert (await store.prune(older_than=5 * DAY)).tombstones == 1
        await store.put("run", "a", "new")
        assert await store.get("run", "a") == "new"
        assert await store.get_run("run") == {"a": "new"}
        assert await store.get("run", "b") is None
        with pytest.raises(RunDeletedError):
            await store.put("lately", "a", 1)

    async def test_what_prune_deletes_is_forgotten_by_a_later_one(self, store: Any, clock: Clock) -> None:
        await store.put("run", "a", "old")
        clock.now += 10 * DAY
        assert await store.prune(older_than=5 * DAY) == PruneReport(1, 1, 5, 0)
        assert await store.prune(older_than=5 * DAY) == PruneReport(0, 0, 0, 0)
        clock.now += 10 * DAY
        assert await store.prune(older_than=5 * DAY) == PruneReport(0, 0, 0, 1)
        await store.put("run", "a", "new")
        assert await store.get("run", "a") == "new"

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.parametrize(
        "write",
        [
            lambda store: store.put("run", "a", "new"),
            lambda store: store.put("run", "a", "new", exist_ok=True),
            lambda store: store.put_many("run", {"a": "new", "b": 1}, exist_ok=True),
        ],
        ids=["put", "put with exist_ok", "put_many"],
    )
    async def test_an_id_used_anew_has_its_fresh_content_also_where_the_old_was_cached(
        self, make_store: Target, clock: Clock, write: Callable[[Any], Any]
    ) -> None:
        async with make_store() as one, make_store() as other:
            await one.put("run", "a", "old")
            assert await one.get("run", "a") == "old"
            await other.delete_run("run")
            clock.now += 10 * DAY
            assert (await other.prune(older_than=DAY)).tombstones == 1
            # It may have answered "old" until now, but never again after it has written itself.
            await write(one)
            assert await one.get("run", "a") == "new"
            assert await one.get_many("run", ["a"]) == {"a": "new"}
            assert await other.get("run", "a") == "new"

    @pytest.mark.slow
    async def test_many_tombstones_are_forgotten_in_several_commits(self, store: Any, clock: Clock) -> None:
        await asyncio.gather(*(store.delete_run(f"run-{i}") for i in range(1100)))
        clock.now += 10 * DAY
        before = (await store.stats()).commits
        assert (await store.prune(older_than=DAY)).tombstones == 1100
        assert (await store.stats()).commits >= before + 3
        assert (await store.stats()).tombstones == 0

    async def test_a_run_that_gets_an_output_meanwhile_is_not_deleted(self, store: Any, clock: Clock) -> None:
        for name in ("a", "revived", "b"):
            await store.put(name, "x", 1)
        clock.now += 10 * DAY
        core: Any = core_of(store)
        commit = core._session.commit

        async def put_and_commit(operations: Any) -> Any:
            if isinstance(operations[0], DeleteIdleRuns):
                assert "revived" in operations[0].flow_run_ids
                await commit([PutOutput("revived", "late", Encoded(0, b"2"), False)])
            return await commit(operations)

        core._session.commit = put_and_commit
        assert await store.prune(older_than=DAY) == PruneReport(2, 2, 2, 0)
        assert await store.get_run("revived") == {"late": 2, "x": 1}

    @pytest.mark.usefixtures("shared_target")
    async def test_others_write_between_its_commits(self, make_store: Target, clock: Clock) -> None:
        async with make_store() as store, make_store(timeout=5) as other:
            for i in range(4):
                await store.put_many(f"old-{i}", {f"{j:04}": "x" * 100 for j in range(1200)})
            clock.now += 10 * DAY
            written = 0

            async def write() -> None:
                nonlocal written
                await core_of(other).put("young", f"{written}", written)
                written += 1

            before_each_commit(store, write)
            assert (await store.prune(older_than=DAY)).outputs == 4800
            assert written >= 4 * 3
            assert len(await other.list_keys("young")) == written

    async def test_progress_is_told_in_order_and_to_the_end(
        self, store: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_deletion, "_PAGE_ROWS", 20)
        async with begun(store) as batch:
            for i in range(45):
                batch.put(f"run-{i}", "a", i)
        clock.now += 10 * DAY
        told: list[tuple[int, int]] = []
        for dry_run in (True, False):
            await store.prune(older_than=DAY, dry_run=dry_run, progress=lambda *event: told.append(event))
        assert told == [(20, 45), (40, 45), (45, 45)] * 2

    async def test_progress_is_called_where_prune_was_called(self, store: Any, clock: Clock) -> None:
        await store.put("run", "a", 1)
        called_in: list[Any] = []
        if hasattr(store, "plain"):

            def prune() -> int:
                store.plain.prune(older_than=DAY, progress=lambda *_: called_in.append(threading.get_ident()))
                return threading.get_ident()

            assert [await asyncio.to_thread(prune)] == called_in
        else:
            await store.prune(older_than=DAY, progress=lambda *_: called_in.append(asyncio.current_task()))
            assert called_in == [asyncio.current_task()]

    async def test_progress_may_be_a_coroutine_function_on_the_async_face_alone(self, store: Any) -> None:
        await store.put("run", "a", 1)
        told = []

        async def progress(done: int, total: int) -> None:
            await asyncio.sleep(0)
            told.append((done, total))

        if hasattr(store, "plain"):
            with pytest.raises(TypeError, match="AsyncContextStore"):
                await store.prune(older_than=DAY, progress=progress)
        else:
            await store.prune(older_than=DAY, progress=progress)
            assert told == [(1, 1)]

    async def test_progress_may_use_the_store(self, store: Any, clock: Clock) -> None:
        await store.put("run", "a", 1)
        clock.now += 10 * DAY
        core = core_of(store)
        seen = []

        if hasattr(store, "plain"):
            await store.prune(older_than=DAY, progress=lambda *_: seen.append(store.plain.list_keys("run")))
        else:

            async def progress(*_: int) -> None:
                seen.append(await core.list_keys("run"))

            await store.prune(older_than=DAY, progress=progress)
        assert seen == [[]]

    async def test_progress_that_raises_ends_it_and_what_is_done_stays_done(
        self, store: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_deletion, "_PAGE_ROWS", 20)
        async with begun(store) as batch:
            for i in range(25):
                batch.put(f"run-{i}", "a", i)
        clock.now += 10 * DAY

        def progress(done: int, total: int) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await store.prune(older_than=DAY, progress=progress)
        assert (await store.stats()).runs == 5
        assert (await store.prune(older_than=DAY)).runs == 5

    async def test_an_interrupted_one_is_final_in_what_it_did_and_the_next_goes_on(
        self, store: Any, clock: Clock
    ) -> None:
        for i in range(6):
            await store.put_many(f"run-{i}", {str(j): j for j in range(700)})
        clock.now += 10 * DAY
        await store.put("young", "a", 1)
        for commits in range(1, 8):
            fail(store, "commit", *[None] * commits, StorageError("cut off"))
            with contextlib.suppress(StorageError):
                await store.prune(older_than=DAY)
            assert (await store.check()).ok
            for name in [name for name in await runs_of(store) if name != "young"]:
                assert len(await store.list_keys(name)) == 700
            del core_of(store)._session.engine.commit  # whatever failures are left over
        await store.prune(older_than=DAY)
        assert await runs_of(store) == ["young"]
        report = await store.check()
        assert (report.ok, report.outputs) == (True, 1)

    async def test_two_at_once_delete_each_run_once(self, store: Any, clock: Clock) -> None:
        async with asyncio.TaskGroup() as group:
            for i in range(60):
                group.create_task(store.put(f"run-{i}", "a", 1))
        clock.now += 10 * DAY
        reports = await asyncio.gather(*(store.prune(older_than=DAY) for _ in range(3)))
        assert sum(report.runs for report in reports) == 60
        assert await runs_of(store) == []

    async def test_a_closed_store_prunes_nothing(self, make_store: Target) -> None:
        store = make_store()
        await store.close()
        with pytest.raises(StoreClosedError):
            await store.prune(older_than=DAY)


@pytest.mark.slow
def test_a_prune_that_was_killed_is_taken_up_by_the_next(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        for i in range(5):
            store.put_many(f"run-{i}", {str(j): "x" * 50 for j in range(700)})
    time.sleep(0.01)
    prune = "    import datetime; store.prune(older_than=datetime.timedelta(milliseconds=5))"
    with Victims(file_path, KILLED_AT_ITS_NTH_COMMIT + prune) as victims:
        for commits in (0, 1, 2, 4, 5):
            victims.begin(commits)
            assert victims.last_words() == []
            with ContextStore(file_path) as store:
                assert store.check().ok
                for info in store.list_runs():
                    assert info.outputs == 700
        victims.begin(10**6)
        assert victims.last_words() == ["done"]
    with ContextStore(file_path) as store:
        report = store.check()
        assert (report.ok, report.runs, report.outputs) == (True, 0, 0)
        assert not any("take up space" in note for note in report.notes)


def test_a_file_that_gives_no_space_back_is_pruned_all_the_same(file_path: pathlib.Path) -> None:
    """Somebody has rebuilt it without auto_vacuum: what becomes free stays in the file, to be used again."""
    with ContextStore(file_path):
        pass
    with contextlib.closing(sqlite3.connect(file_path, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("VACUUM")
    with ContextStore(file_path) as store:
        store.put_many("old", {str(i): "x" * 1000 for i in range(300)})
        time.sleep(0.001)
        assert store.prune(older_than=datetime.timedelta(0)).outputs == 300
        assert store.check().ok


@pytest.mark.alone
@pytest.mark.slow
def test_pruning_gives_the_space_back(file_path: pathlib.Path) -> None:
    wal = file_path.with_name(file_path.name + "-wal")

    def sizes(when: str) -> int:
        file, log = file_path.stat().st_size, wal.stat().st_size if wal.exists() else 0
        print(f"{when}: file {file / 2**20:.2f} MiB, WAL {log / 2**20:.2f} MiB")
        return file

    with ContextStore(file_path) as store:
        names = [new_flow_run_id() for _ in range(100)]
        outputs = {f"{i:03}": "x" * (i * 20) for i in range(100)} | {"large": b"x" * 100_000}
        for name in names[::2]:
            store.put_many(name, outputs)
        between = datetime.datetime.now(datetime.UTC)
        time.sleep(0.002)
        for name in names[1::2]:
            store.put_many(name, outputs)
        sizes("filled, still open")
    before = sizes("closed")
    with ContextStore(file_path) as store:
        began = time.perf_counter()
        report = store.prune(older_than=datetime.datetime.now(datetime.UTC) - between)
        print(f"{report} in {time.perf_counter() - began:.2f} s, {store.stats().commits} commits")
        assert (report.runs, report.outputs) == (50, 5050)
        after = sizes("pruned, still open")
        assert after < before * 0.6
        assert wal.stat().st_size < 8 * 2**20  # although more than that was overwritten
        assert store.stats().commits < 500
        assert store.check().ok
        assert store.get_run(names[1]) == outputs
    assert sizes("closed again") <= after
    assert rows_of(file_path, "PRAGMA freelist_count") == [(0,)]
