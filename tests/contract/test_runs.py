"""Runs: listed and forked."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import pathlib
import sqlite3
import time
import uuid
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    ContextStore,
    InvalidKeyError,
    ReadOnlyStoreError,
    RunDeletedError,
    StorageError,
)
from contextstore._sqlite.worker import connection_here
from contextstore._waiting.threads import run_now

from ..conftest import Target
from ..support.doubles import Gate, core_of, fail, queued, until
from .runs import DAY, RUN, Clock, before_each_commit, rows_of, runs_of


class TestListRuns:
    async def test_it_is_newest_first_by_first_output(self, store: Any) -> None:
        for name in ("b", "a", "c"):
            await store.put(name, "x", 1)
        await store.put("b", "y", 1)
        assert await runs_of(store) == ["c", "a", "b"]

    async def test_the_order_is_that_of_first_sight_also_when_the_clock_jumps_back(
        self, store: Any, clock: Clock
    ) -> None:
        for i in range(10):
            await store.put(f"run-{i}", "x", 1)
            clock.now -= DAY
        assert await runs_of(store) == [f"run-{i}" for i in reversed(range(10))]

    async def test_a_run_is_told_with_its_count_and_its_first_and_last_time(self, store: Any, clock: Clock) -> None:
        times = []
        for days in (0, 3, -2, 5):
            clock.now += days * DAY
            times.append(clock.now)
            await store.put(RUN, str(len(times)), 1)
        (info,) = await store.list_runs()
        assert (info.flow_run_id, info.outputs) == (str(RUN), 4)
        assert (info.first_written_at, info.last_written_at) == (min(times), max(times))
        assert info.first_written_at.utcoffset() == datetime.timedelta(0)

    async def test_the_runs_of_one_commit_are_in_the_order_of_its_writes(self, make_store: Target) -> None:
        async with make_store() as store:
            gate = Gate(store)
            first = asyncio.ensure_future(store.put("first", "x", 1))
            await gate.wait_for_arrival()
            crowd = []
            for i in range(6):
                crowd.append(asyncio.ensure_future(store.put(f"run-{i}", "x", 1)))
                await until(lambda i=i: queued(store) == i + 1)
            gate.open()
            await asyncio.gather(first, *crowd)
            assert await runs_of(store) == [*(f"run-{i}" for i in reversed(range(6))), "first"]

    async def test_pages_join_without_a_gap_and_without_a_repetition(self, store: Any) -> None:
        for i in range(23):
            await store.put(f"run-{i:02}", "x", i)
        everything = await runs_of(store)
        for limit in (1, 5, 23, 24):
            seen: list[str] = []
            while page := await runs_of(store, after=seen[-1] if seen else None, limit=limit):
                assert len(page) <= limit
                seen += page
            assert seen == everything

    async def test_no_run_comes_twice_whatever_happens_between_the_pages(self, store: Any) -> None:
        for i in range(30):
            await store.put(f"run-{i:02}", "x", i)
        seen: list[str] = []
        while page := await runs_of(store, after=seen[-1] if seen else None, limit=4):
            seen += page
            await store.put(f"new-{len(seen)}", "x", 1)
            await store.put(page[0], "y", 1)
            await store.delete_run(page[-1])
        assert seen == [f"run-{i:02}" for i in reversed(range(30))]

    async def test_after_may_be_a_run_that_was_deleted_meanwhile(self, store: Any) -> None:
        for i in range(6):
            await store.put(f"run-{i}", "x", i)
        await store.delete_run("run-3")
        assert await runs_of(store, after="run-3") == ["run-2", "run-1", "run-0"]
        await store.delete_run("run-2")
        assert await runs_of(store, after="run-3") == ["run-1", "run-0"]

    async def test_after_may_be_a_uuid(self, store: Any) -> None:
        await store.put("old", "x", 1)
        await store.put(RUN, "x", 1)
        assert await runs_of(store, after=RUN) == ["old"]

    async def test_a_run_of_which_there_is_no_trace_is_no_place_to_go_on(self, store: Any, clock: Clock) -> None:
        await store.put("run", "x", 1)
        with pytest.raises(InvalidKeyError, match="'unheard-of'"):
            await store.list_runs(after="unheard-of")
        await store.delete_run("run")
        assert await runs_of(store, after="run") == []
        clock.now += DAY
        await store.prune(older_than=datetime.timedelta(hours=1))
        with pytest.raises(InvalidKeyError, match="'run'"):
            await store.list_runs(after="run")

    async def test_a_prefix_is_literal(self, store: Any) -> None:
        names = ["a%", "a_", "ab", "aB", "A%", "a", "b", "a*", "a[b]", "é", "e", "\U0010ffff", "\U0010ffff\U0010ffff"]
        for name in names:
            await store.put(name, "x", 1)
        newest_first = names[::-1]
        for prefix in ["", "a", "a%", "a_", "a*", "a[", "A", "é", "\U0010ffff", "nothing", *names]:
            assert await runs_of(store, prefix=prefix) == [name for name in newest_first if name.startswith(prefix)]
        assert await runs_of(store, prefix="a", limit=2) == ["a[b]", "a*"]
        assert await runs_of(store, prefix="a", limit=2, after="a*") == ["a", "aB"]

    async def test_deleted_runs_are_left_out(self, store: Any) -> None:
        for name in ("a", "b", "c"):
            await store.put(name, "x", 1)
        await store.delete_run("b")
        await store.delete_run("never seen")
        assert await runs_of(store) == ["c", "a"]

    async def test_a_store_without_runs_has_none_to_list(self, store: Any) -> None:
        assert await store.list_runs() == []
        await store.put_global("key", 1)
        assert await store.list_runs() == []

    async def test_what_cannot_be_meant_is_refused(self, store: Any) -> None:
        for limit in (0, -1):
            with pytest.raises(ValueError, match="limit"):
                await store.list_runs(limit=limit)
        for other in (True, 1.0, "1", None):
            with pytest.raises(TypeError, match="limit"):
                await store.list_runs(limit=other)
        for prefix in (None, 1, "\0", RUN):
            with pytest.raises(InvalidKeyError, match="prefix"):
                await store.list_runs(prefix=prefix)
        for after in ("\0", 1):
            with pytest.raises(InvalidKeyError, match="after"):
                await store.list_runs(after=after)

    async def test_an_empty_after_means_the_first_page(self, store: Any) -> None:
        await store.put("run", "x", 1)
        assert [info.flow_run_id for info in await store.list_runs(after="")] == ["run"]

    async def test_a_hundred_is_the_limit_unless_told(self, store: Any) -> None:
        async with asyncio.TaskGroup() as group:
            for i in range(105):
                group.create_task(store.put(f"run-{i:03}", "x", i))
        assert len(await store.list_runs()) == 100
        assert len(await store.list_runs(limit=2**40)) == 105


class TestTheWorkOfAPage:
    """Counted in steps of SQLite's machine, which are the same on every machine."""

    @staticmethod
    def fill(path: pathlib.Path, runs: int, deleted: int = 0, statistics_at: int = 0) -> None:
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            begin = 1
            for end in sorted({statistics_at, runs, runs + deleted} - {0}):
                connection.execute(
                    """
                    WITH RECURSIVE numbers (n) AS (SELECT ? UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
                    INSERT INTO flow_runs (flow_run_id, created_at, deleted_at)
                    SELECT printf('run-%07d', n), n, CASE WHEN n > ? THEN n END FROM numbers
                    """,
                    (begin, end, runs),
                )
                connection.execute(
                    """
                    INSERT INTO node_outputs (run, node_id, codec, checksum, written_at, size, value)
                    SELECT serial, 'node', 0, 0, serial, 1, '1' FROM flow_runs WHERE deleted_at IS NULL AND serial >= ?
                    """,
                    (begin,),
                )
                begin = end + 1
                # As by a writer, which lets no more than a few hundred be behind what is counted.
                connection.execute(
                    "UPDATE store_facts SET value = (SELECT max(id) FROM node_outputs) WHERE name = 'counted'"
                )
                if end == statistics_at:
                    connection.execute("ANALYZE")

    @staticmethod
    def steps(store: ContextStore, **options: Any) -> tuple[int, float, list[Any]]:
        core = core_of(store)
        ticks = 0

        def tick() -> int:
            nonlocal ticks
            ticks += 1
            return 0

        async def install(handler: Any) -> None:
            connection_here().set_progress_handler(handler, 1)

        began = time.perf_counter()
        store.list_runs(**options)
        seconds = time.perf_counter() - began
        run_now(core._session.scan(install, tick))
        page = store.list_runs(**options)
        run_now(core._session.scan(install, None))
        return ticks, seconds, page

    @pytest.mark.slow
    @pytest.mark.parametrize("statistics_at", [0, 500, 200_000])
    def test_it_does_not_grow_with_the_number_of_runs(self, tmp_path: pathlib.Path, statistics_at: int) -> None:
        counted: dict[int, list[int]] = {}
        for runs in (10_000, 200_000):
            path = tmp_path / f"{runs}.db"
            with ContextStore(path):
                pass
            self.fill(path, runs, statistics_at=min(runs, statistics_at))
            with ContextStore(path) as store:
                counted[runs] = []
                for options in ({}, {"after": f"run-{runs // 2:07}"}, {"prefix": "run-", "after": "run-0000150"}):
                    ticks, seconds, page = self.steps(store, **options)
                    assert len(page) == 100
                    counted[runs].append(ticks)
                    print(f"{runs} runs, {options}: {ticks} steps, {seconds * 1000:.2f} ms a page of {len(page)}")
        *same, (few, many) = zip(counted[10_000], counted[200_000], strict=True)
        assert all(many < few * 1.1 + 50 for few, many in same)
        assert many < few * 1.1 + 50

    @pytest.mark.slow
    def test_all_pages_of_many_runs_have_each_once(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path):
            pass
        self.fill(file_path, 30_000, deleted=5000)
        with ContextStore(file_path) as store:
            seen: list[str] = []
            while page := store.list_runs(after=seen[-1] if seen else None, limit=1000):
                seen += [info.flow_run_id for info in page]
            assert seen == [f"run-{n:07}" for n in range(30_000, 0, -1)]


class TestForkRun:
    async def test_the_new_run_begins_with_the_outputs_of_the_other(self, store: Any) -> None:
        values = {"a": {"x": [1, None]}, "b": b"\x00\xff", "c": None, "é": "ü"}
        await store.put_many("source", values)
        target = await store.fork_run("source")
        assert await store.get_run(target) == values
        for node in values:
            assert (await store.get_entry(target, node)).size == (await store.get_entry("source", node)).size
        assert uuid.UUID(target).version == 7
        assert await runs_of(store) == [target, "source"]

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_the_stored_bytes_are_the_same(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put_many("source", {"a": {"z": 1, "a": 2.50, "t": "é"}, "b": b"{}", "c": "{}"})
            await store.fork_run("source", new_flow_run_id="target")
            query = (
                "SELECT node_id, codec, typeof(value), value, size FROM node_outputs JOIN flow_runs ON serial = run "
            )
            assert rows_of(make_store, query + "WHERE flow_run_id = 'source' ORDER BY 1") == rows_of(
                make_store, query + "WHERE flow_run_id = 'target' ORDER BY 1"
            )
            assert (await store.check()).ok

    async def test_the_id_may_be_given(self, store: Any) -> None:
        await store.put("source", "a", 1)
        assert await store.fork_run("source", new_flow_run_id=RUN) == str(RUN)
        assert await store.get_run(RUN) == {"a": 1}
        assert await store.fork_run(RUN, new_flow_run_id="third") == "third"
        assert await store.get_run("third") == {"a": 1}

    async def test_only_these_outputs_are_taken_along_as_far_as_they_are_there(self, store: Any) -> None:
        await store.put_many("source", {"a": 1, "b": 2, str(RUN): 3, "c": 4})
        target = await store.fork_run("source", node_ids=["c", "missing", RUN, "c"])
        assert await store.get_run(target) == {str(RUN): 3, "c": 4}
        assert await store.get_run(await store.fork_run("source", node_ids=(n for n in "ab"))) == {"a": 1, "b": 2}
        assert await store.get_run(await store.fork_run("source", node_ids=[])) == {}

    async def test_one_id_in_place_of_several_is_refused(self, store: Any) -> None:
        await store.put("source", "node", 1)
        for one in ("node", RUN):
            with pytest.raises(TypeError, match="node_ids"):
                await store.fork_run("source", node_ids=one)
        assert await runs_of(store) == ["source"]

    async def test_the_two_are_independent(self, store: Any) -> None:
        await store.put("source", "a", 1)
        target = await store.fork_run("source")
        await store.put("source", "b", "of the source")
        await store.put(target, "b", "of the fork")
        assert await store.get_run("source") == {"a": 1, "b": "of the source"}
        assert await store.get_run(target) == {"a": 1, "b": "of the fork"}
        await store.delete_run("source")
        assert await store.get_run(target) == {"a": 1, "b": "of the fork"}

    async def test_the_source_stays_as_it_was(self, store: Any) -> None:
        await store.put_many("source", {"a": 1, "b": [2]})
        before = [await store.get_entry("source", node) for node in "ab"], await store.list_runs()
        await store.fork_run("source")
        assert ([await store.get_entry("source", node) for node in "ab"], (await store.list_runs())[1:]) == before

    async def test_a_large_run_is_copied_in_several_commits(self, store: Any) -> None:
        outputs = {f"{i:04}": i for i in range(1001)}
        await store.put_many("source", outputs)
        before = (await store.stats()).commits
        assert await store.get_run(await store.fork_run("source")) == outputs
        assert (await store.stats()).commits == before + 6
        target = await store.fork_run("source", node_ids=list(outputs)[::2])
        assert await store.list_keys(target) == list(outputs)[::2]

    async def test_an_interrupted_one_goes_on_under_the_same_id(self, store: Any) -> None:
        outputs = {f"{i:04}": i for i in range(1000)}
        await store.put_many("source", outputs)
        fail(store, "commit", None, None, StorageError("cut off"))
        with pytest.raises(StorageError, match="cut off"):
            await store.fork_run("source", new_flow_run_id="target")
        assert await store.list_keys("target") == list(outputs)[:400]
        await store.put("target", "0999", 999)  # whoever works on the new run already does no harm
        await store.fork_run("source", new_flow_run_id="target")
        assert await store.get_run("target") == outputs

    async def test_a_cancelled_one_goes_on_under_the_same_id(self, make_store: Target) -> None:
        if make_store.face != "async":
            pytest.skip("a thread that is blocked in a commit cannot be cancelled")
        async with make_store() as store:
            outputs = {f"{i:04}": i for i in range(1000)}
            await store.put_many("source", outputs)
            gate = Gate(store)
            forking = asyncio.ensure_future(store.fork_run("source", new_flow_run_id="target"))
            await gate.wait_for_arrival()
            forking.cancel()
            gate.open()
            with pytest.raises(asyncio.CancelledError):
                await forking
            assert len(await store.list_keys("target")) in (0, 200)
            await store.fork_run("source", new_flow_run_id="target")
            assert await store.get_run("target") == outputs

    async def test_a_target_with_another_value_is_a_conflict(self, store: Any) -> None:
        await store.put_many("source", {"a": 1, "b": 2})
        await store.put("target", "b", "else")
        with pytest.raises(AlreadyExistsError) as caught:
            await store.fork_run("source", new_flow_run_id="target")
        assert (caught.value.flow_run_id, caught.value.node_id) == ("target", "b")
        assert await store.get_run("target") == {"b": "else"}

    async def test_a_run_is_not_forked_into_itself(self, store: Any) -> None:
        await store.put(RUN, "a", 1)
        with pytest.raises(InvalidKeyError, match="new_flow_run_id"):
            await store.fork_run(RUN, new_flow_run_id=str(RUN))

    async def test_a_deleted_source_has_nothing_to_begin_with(self, store: Any) -> None:
        await store.put("source", "a", 1)
        await store.delete_run("source")
        with pytest.raises(RunDeletedError) as caught:
            await store.fork_run("source")
        assert caught.value.flow_run_id == "source"
        assert await runs_of(store) == []

    @pytest.mark.parametrize("options", [{}, {"node_ids": ["0000"]}, {"node_ids": []}], ids=str)
    async def test_a_deleted_target_takes_no_outputs(self, store: Any, options: dict[str, Any]) -> None:
        await store.put_many("source", {"0000": 1, "0001": 2})
        await store.delete_run("target")
        with pytest.raises(RunDeletedError) as caught:
            await store.fork_run("source", new_flow_run_id="target", **options)
        assert caught.value.flow_run_id == "target"

    @pytest.mark.parametrize("some", [False, True], ids=["all", "some"])
    async def test_a_source_deleted_meanwhile_is_not_passed_off_as_a_whole_copy(self, store: Any, some: bool) -> None:
        nodes = [f"{i:04}" for i in range(1000)]
        await store.put_many("source", dict.fromkeys(nodes))
        core = core_of(store)
        deleted = False

        async def delete() -> None:
            nonlocal deleted
            if not deleted:
                deleted = True
                await core.delete_run("source")

        before_each_commit(store, delete)
        with pytest.raises(RunDeletedError) as caught:
            await store.fork_run("source", new_flow_run_id="target", node_ids=nodes if some else None)
        assert caught.value.flow_run_id == "source"

    async def test_of_a_run_never_seen_there_is_nothing_to_take_along(self, store: Any) -> None:
        target = await store.fork_run("source")
        assert await store.list_keys(target) == []
        await store.put(target, "a", 1)
        assert await runs_of(store) == [target]

    async def test_an_invalid_key_is_refused(self, store: Any) -> None:
        await store.put("source", "a", 1)
        for arguments in ({"new_flow_run_id": ""}, {"node_ids": ["a", ""]}, {"new_flow_run_id": 7}):
            with pytest.raises(InvalidKeyError):
                await store.fork_run("source", **arguments)
        assert await runs_of(store) == ["source"]

    @pytest.mark.usefixtures("shared_target")
    async def test_a_store_that_is_only_read_refuses_also_where_nothing_is_to_be_copied(
        self, make_store: Target
    ) -> None:
        async with make_store() as store:
            await store.put("source", "a", 1)
        async with make_store(read_only=True) as store:
            for source in ("source", "never seen"):
                with pytest.raises(ReadOnlyStoreError):
                    await store.fork_run(source)
