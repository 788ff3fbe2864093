"""Runs that are deleted stay deleted, also for a late writer and after a kill."""

from __future__ import annotations

import asyncio
import pathlib
import random
import time
from typing import Any

import pytest

from contextstore import ContextStore, InvalidKeyError, PruneReport, ReadOnlyStoreError, RunDeletedError, StorageError

from ..conftest import Target
from ..support.doubles import Gate, core_of, fail, queued, until
from ..support.forked import Child, children
from .outputs import Victims
from .runs import DAY, KILLED_AT_ITS_NTH_COMMIT, RUN, before_each_commit, marks, rows_of, runs_of


class TestDeleteRun:
    async def test_it_returns_how_many_outputs_are_gone(self, store: Any) -> None:
        await store.put_many("run", {str(i): i for i in range(7)})
        await store.put("other", "a", 1)
        assert await store.delete_run("run") == 7
        assert await store.get_run("other") == {"a": 1}

    async def test_nothing_of_it_can_be_read(self, store: Any) -> None:
        await store.put_many("run", {"a": 1, "b": None})
        assert await store.get_many("run", ["a"]) == {"a": 1}
        await store.delete_run("run")
        assert await store.get("run", "a", "default") == "default"
        assert await store.get_entry("run", "a") is None
        assert await store.exists("run", "a") is False
        assert await store.list_keys("run") == []
        assert await store.get_many("run", ["a", "b"]) == {}
        assert await store.get_run("run") == {}
        assert await runs_of(store) == []

    async def test_nothing_can_be_written_to_it_any_more(self, store: Any) -> None:
        await store.put_many("run", {"a": 1})
        await store.delete_run("run")
        for call in (
            lambda: store.put("run", "a", 1),
            lambda: store.put("run", "b", 1),
            lambda: store.put("run", "a", 1, exist_ok=True),
            lambda: store.put_many("run", {"b": 1, "c": 2}),
            lambda: store.put_many("run", {"a": 1}, exist_ok=True),
        ):
            with pytest.raises(RunDeletedError) as caught:
                await call()
            assert caught.value.flow_run_id == "run"
        assert await store.list_keys("run") == []

    async def test_a_run_never_seen_is_marked_as_deleted_all_the_same(self, store: Any) -> None:
        assert await store.delete_run(RUN) == 0
        with pytest.raises(RunDeletedError):
            await store.put(str(RUN), "a", 1)
        assert (await store.stats()).tombstones == 1
        assert (await store.stats()).runs == 0

    async def test_to_delete_twice_does_nothing_more(self, store: Any) -> None:
        await store.put("run", "a", 1)
        assert await store.delete_run("run") == 1
        assert await store.delete_run("run") == 0
        assert (await store.stats()).tombstones == 1

    async def test_those_who_delete_at_once_share_the_count(self, store: Any) -> None:
        await store.put_many("run", {str(i): i for i in range(2000)})
        counts = await asyncio.gather(*(store.delete_run("run") for _ in range(4)))
        assert sum(counts) == 2000

    async def test_a_large_run_is_removed_in_several_commits(self, store: Any) -> None:
        await store.put_many("run", {str(i): i for i in range(1200)})
        before = (await store.stats()).commits
        assert await store.delete_run("run") == 1200
        assert (await store.stats()).commits == before + marks(store) + 3  # 500, 500 and 200
        assert (await store.stats()).outputs == 0

    async def test_commits_are_bounded_in_bytes_too(self, store: Any) -> None:
        for i in range(12):
            await store.put("run", f"{i}", b"x" * 1_000_000)
        before = (await store.stats()).commits
        assert await store.delete_run("run") == 12
        assert (await store.stats()).commits == before + marks(store) + 3  # 5, 5 and 2

    async def test_it_is_gone_for_readers_at_once(self, store: Any) -> None:
        await store.put_many("run", {str(i): i for i in range(1200)})
        core = core_of(store)
        seen: list[Any] = []

        async def look() -> None:
            seen.append((await core.list_keys("run"), await core.get("run", "7")))

        before_each_commit(store, look)
        await store.delete_run("run")
        assert len(seen[0][0]) == 1200
        assert seen[1:] == [([], None)] * (marks(store) + 2)

    @pytest.mark.usefixtures("shared_target")
    async def test_another_object_with_a_cache_cannot_write_to_it(self, make_store: Target) -> None:
        async with make_store() as one, make_store() as other:
            await other.put("run", "a", 1)  # so that it knows the run, and has the value in its cache
            await one.delete_run("run")
            for write in (other.put("run", "b", 1), other.put_many("run", {"b": 1, "c": 1})):
                with pytest.raises(RunDeletedError):
                    await write
            assert await other.list_keys("run") == []
            assert await one.get("run", "b") is None
        async with make_store() as third:
            assert await third.get("run", "a", "default") == "default"

    @pytest.mark.usefixtures("shared_target")
    async def test_another_process_cannot_write_to_it(self, make_store: Target) -> None:
        program = """
            with ContextStore(sys.argv[1]) as store:
                store.put("run", "theirs", 1)
                say("put")
                sys.stdin.readline()
                try:
                    store.put("run", "late", 1)
                except RunDeletedError as error:
                    say(error.flow_run_id, store.list_keys("run"))
        """
        async with make_store() as store:
            with Child(program, make_store.location) as child:
                assert await asyncio.to_thread(child.hear) == "put"
                assert await store.delete_run("run") == 1
                child.tell()
                assert await asyncio.to_thread(child.end) == (0, ["run []"], "")

    async def test_a_run_deleted_within_a_group_of_puts_is_deleted(self, store: Any) -> None:
        gate = Gate(store)
        tasks = [asyncio.ensure_future(store.put("run", "first", 0))]
        await gate.wait_for_arrival()
        tasks += [asyncio.ensure_future(store.put("run", str(i), i)) for i in range(5)]
        tasks += [asyncio.ensure_future(store.delete_run("run"))]
        tasks += [asyncio.ensure_future(store.put("run", str(i), i)) for i in range(5, 10)]
        await until(lambda: queued(store) == 11)
        gate.open()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {type(None), int, RunDeletedError}
        assert await store.list_keys("run") == []
        assert (await store.stats()).outputs == 0

    async def test_one_cut_off_between_its_commits_stays_deleted_and_prune_removes_the_rest(self, store: Any) -> None:
        await store.put_many("run", {str(i): i for i in range(1200)})
        fail(store, "commit", *[None] * (marks(store) + 1), StorageError("cut off"))
        with pytest.raises(StorageError, match="cut off"):
            await store.delete_run("run")
        assert await store.list_keys("run") == []
        with pytest.raises(RunDeletedError):
            await store.put("run", "a", 1)
        report = await store.check()
        assert report.ok
        assert "700 outputs of deleted runs still take up space: prune() removes them" in report.notes
        assert await store.prune(older_than=DAY) == PruneReport(0, 0, 0, 0)
        report = await store.check()
        assert report.ok
        assert not any("take up space" in note for note in report.notes)
        assert report.outputs == 0

    async def test_one_cut_off_is_finished_by_another_delete_run(self, store: Any) -> None:
        await store.put_many("run", {str(i): i for i in range(1200)})
        fail(store, "commit", *[None] * (marks(store) + 1), StorageError("cut off"))
        with pytest.raises(StorageError, match="cut off"):
            await store.delete_run("run")
        assert await store.delete_run("run") == 700

    async def test_a_cancelled_one_is_undone_or_stays_deleted(self, make_store: Target) -> None:
        if make_store.face != "async":
            pytest.skip("a thread that is blocked in a commit cannot be cancelled")
        async with make_store() as store:
            for turns in range(0, 60, 3):
                name = f"run-{turns}"
                await store.put_many(name, {str(i): i for i in range(600)})
                deleting = asyncio.ensure_future(store.delete_run(name))
                for _ in range(turns):
                    await asyncio.sleep(0)
                deleting.cancel()
                await asyncio.gather(deleting, return_exceptions=True)
                left = len(await store.list_keys(name))
                assert left in (0, 600)
                if not left:
                    with pytest.raises(RunDeletedError):
                        await store.put(name, "late", 1)
            await store.prune(older_than=DAY)
            assert (await store.check()).ok

    async def test_deleting_many_runs_at_once(self, store: Any) -> None:
        async with asyncio.TaskGroup() as group:
            for i in range(60):
                group.create_task(store.put_many(f"run-{i}", {"a": 1, "b": 2}))
        counts = await asyncio.gather(*(store.delete_run(f"run-{i}") for i in range(0, 60, 2)))
        assert counts == [2] * 30
        assert sorted(await runs_of(store)) == sorted(f"run-{i}" for i in range(1, 60, 2))

    @pytest.mark.usefixtures("shared_target")
    async def test_a_store_that_is_only_read_refuses(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "a", 1)
        async with make_store(read_only=True) as store:
            with pytest.raises(ReadOnlyStoreError):
                await store.delete_run("run")
            with pytest.raises(ReadOnlyStoreError):
                await store.prune(older_than=DAY)
            assert (await store.prune(older_than=DAY * 0, dry_run=True)).runs == 1
            assert await store.get("run", "a") == 1

    async def test_an_invalid_run_is_refused(self, store: Any) -> None:
        with pytest.raises(InvalidKeyError):
            await store.delete_run("")


@pytest.mark.slow
def test_a_late_writer_of_another_process_cannot_bring_a_deleted_run_back(file_path: pathlib.Path) -> None:
    """Two processes write to a run as quickly as they can, singly and many at once, while a third one deletes it."""
    program = """
        with ContextStore(sys.argv[1]) as store:
            def work(thread):
                for round in range(12):
                    for i in range(10**9):
                        node = f"{sys.argv[2]}-{thread}-{i}"
                        try:
                            if i % 3:
                                store.put(f"run-{round}", node, i)
                            elif i % 2:
                                store.put_many(f"run-{round}", {node + "-a": i, node + "-b": i})
                            else:
                                with store.batch() as batch:
                                    batch.put(f"run-{round}", node, i)
                                    batch.put(f"kept-{round}", node, i)
                        except RunDeletedError as error:
                            assert error.flow_run_id == f"run-{round}"
                            break
                        if i == 5:
                            say("busy", round)
            threads = [threading.Thread(target=work, args=(thread,)) for thread in range(3)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    with ContextStore(file_path, cache_bytes=0) as store, children(2, program, file_path) as writers:
        for number in range(12):
            for writer in writers:
                while writer.hear() != f"busy {number}":
                    pass
            time.sleep(moments.uniform(0, 0.03))
            assert store.delete_run(f"run-{number}") > 0
            assert store.list_keys(f"run-{number}") == []
        for writer in writers:
            status, _, err = writer.end()
            assert (status, err) == (0, "")
        for number in range(12):
            assert store.list_keys(f"run-{number}") == []
            assert store.exists(f"run-{number}", "0-0-0") is False
            assert store.list_keys(f"kept-{number}")
        assert sorted({info.flow_run_id for info in store.list_runs()}) == sorted(f"kept-{n}" for n in range(12))
        report = store.check()
        assert report.ok
        assert not any("take up space" in note for note in report.notes)
    # Nor is anything of them left in the file.
    query = "SELECT count(*) FROM node_outputs JOIN flow_runs ON serial = run WHERE flow_run_id LIKE 'run-%'"
    assert rows_of(file_path, query) == [(0,)]


@pytest.mark.slow
def test_a_deletion_that_was_killed_stays_deleted_and_prune_removes_the_rest(file_path: pathlib.Path) -> None:
    with Victims(file_path, KILLED_AT_ITS_NTH_COMMIT + "    store.delete_run(f'run-{number}')") as victims:
        for commits in range(4):
            with ContextStore(file_path) as store:
                store.put_many(f"run-{commits}", {str(i): i for i in range(1200)})
            victims.begin(commits)
            assert victims.last_words() == ([] if commits < 3 else ["done"])
            with ContextStore(file_path) as store:
                if commits == 0:
                    assert len(store.list_keys("run-0")) == 1200
                    continue
                assert store.list_keys(f"run-{commits}") == []
                with pytest.raises(RunDeletedError):
                    store.put(f"run-{commits}", "late", 1)
    with ContextStore(file_path) as store:
        assert any("take up space" in note for note in store.check().notes)
        store.prune(older_than=DAY)
        report = store.check()
        assert (report.ok, report.runs, report.outputs) == (True, 1, 1200)
        assert not any("take up space" in note for note in report.notes)
