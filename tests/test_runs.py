"""Runs: listed, forked, deleted for good, pruned by age."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import pathlib
import random
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    ContextStore,
    InvalidKeyError,
    PruneReport,
    ReadOnlyStoreError,
    RunDeletedError,
    StorageError,
    StoreClosedError,
    new_flow_run_id,
)
from contextstore._core import retention as _deletion
from contextstore._engine.operations import DeleteIdleRuns, PutOutput
from contextstore._faces import async_store as _store
from contextstore._postgres import engine as _postgres
from contextstore._sqlite import statements as _sqlite_statements
from contextstore._values.codec import Encoded
from contextstore._waiting.callers import run_now

from .conftest import Target
from .doubles import Gate, core_of, fail, until
from .processes import Child, children
from .test_batch import begun
from .test_outputs import Victims

RUN = uuid.UUID("018f3a00-0000-7000-8000-00000000000f")
DAY = datetime.timedelta(days=1)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Clock:
    """The time module, with a wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

    def time_ns(self) -> int:
        return (self.now - EPOCH) // datetime.timedelta(microseconds=1) * 1000

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_sqlite_statements, "time", clock)
    monkeypatch.setattr(_store, "time", clock)
    monkeypatch.setattr(_postgres, "time", clock)
    return clock


async def runs_of(store: Any, **options: Any) -> list[str]:
    return [run.flow_run_id for run in await store.list_runs(**options)]


def before_each_commit(store: Any, act: Callable[[], Any]) -> None:
    """Have something awaited in the calling task, or thread, before each commit that a call of the store makes."""
    core: Any = core_of(store)
    commit = core._commit

    async def acting(operations: Any) -> Any:
        await act()
        return await commit(operations)

    core._commit = acting


def marks(store: Any) -> int:
    """How many commits a deletion takes before the first that removes outputs."""
    return 0 if core_of(store)._engine.deletes_at_once else 1


def rows_of(target: Target | pathlib.Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(getattr(target, "location", target))) as connection:
        return connection.execute(query).fetchall()


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
                await until(lambda i=i: len(core_of(store)._writer._queue) == i + 1)
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
        with pytest.raises(InvalidKeyError):
            await store.list_runs(after="")

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
                    INSERT INTO runs (flow_run_id, created_at, deleted_at)
                    SELECT printf('run-%07d', n), n, CASE WHEN n > ? THEN n END FROM numbers
                    """,
                    (begin, end, runs),
                )
                connection.execute(
                    """
                    INSERT INTO output_rows (run, node_id, codec, checksum, written_at, size, value)
                    SELECT serial, 'node', 0, 0, serial, 1, '1' FROM runs WHERE deleted_at IS NULL AND serial >= ?
                    """,
                    (begin,),
                )
                begin = end + 1
                if end == statistics_at:
                    connection.execute("ANALYZE")

    @staticmethod
    def steps(store: ContextStore, **options: Any) -> tuple[int, float, list[Any]]:
        core = core_of(store)
        engine: Any = core._engine
        ticks = 0

        def tick() -> int:
            nonlocal ticks
            ticks += 1
            return 0

        async def install(handler: Any) -> None:
            engine._connection_here().set_progress_handler(handler, 1)

        began = time.perf_counter()
        store.list_runs(**options)
        seconds = time.perf_counter() - began
        run_now(core._reader.scan(lambda: install(tick)))
        page = store.list_runs(**options)
        run_now(core._reader.scan(lambda: install(None)))
        return ticks, seconds, page

    @pytest.mark.slow
    @pytest.mark.parametrize("statistics_at", [0, 500, 200_000])
    def test_it_does_not_grow_with_the_number_of_runs(self, tmp_path: pathlib.Path, statistics_at: int) -> None:
        counted: dict[int, list[int]] = {}
        for runs in (1000, 200_000):
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
        *same, (few, many) = zip(counted[1000], counted[200_000], strict=True)
        assert all(many < few * 1.1 + 50 for few, many in same)
        assert many < few + 10 * _sqlite_statements._FEW  # with a prefix, whether it is rare is counted before, so far

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
            query = "SELECT node_id, codec, typeof(value), value, size FROM output_rows JOIN runs ON serial = run "
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
        await until(lambda: len(core_of(store)._writer._queue) == 11)
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
    query = "SELECT count(*) FROM output_rows JOIN runs ON serial = run WHERE flow_run_id LIKE 'run-%'"
    assert rows_of(file_path, query) == [(0,)]


KILLED_AT_ITS_NTH_COMMIT = """
    from tests.doubles import core_of

    engine = core_of(store)._engine
    commit, left = engine.commit, [number]

    async def counted(units):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return await commit(units)

    engine.commit = counted
"""


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
        for other in (7, 7.0, None, "7 days"):
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
        commit = core._commit

        async def put_and_commit(operations: Any) -> Any:
            if isinstance(operations[0], DeleteIdleRuns):
                assert "revived" in operations[0].flow_run_ids
                await commit([PutOutput("revived", "late", Encoded(0, b"2"), False)])
            return await commit(operations)

        core._commit = put_and_commit
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
        if hasattr(store, "blocking"):

            def prune() -> int:
                store.blocking.prune(older_than=DAY, progress=lambda *_: called_in.append(threading.get_ident()))
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

        if hasattr(store, "blocking"):
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

        if hasattr(store, "blocking"):
            await store.prune(older_than=DAY, progress=lambda *_: seen.append(store.blocking.list_keys("run")))
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
            del core_of(store)._engine.commit  # whatever failures are left over
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
