"""Globals: listed by key, deleted, compared and set, updated without a lost update."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import sqlite3
import threading
import time
import uuid
from typing import Any

import pytest

from contextstore import (
    ContextStore,
    CorruptStoreError,
    GlobalAlreadyExistsError,
    GlobalEntry,
    InvalidKeyError,
    ReadOnlyStoreError,
    SerializationError,
    StorageError,
    StoreClosedError,
    VersionConflictError,
)
from contextstore._waiting.callers import run_now

from .conftest import Target
from .doubles import core_of, fail, until
from .processes import children

RUN = uuid.UUID("018f3a00-0000-7000-8000-00000000000f")


async def keys_of(store: Any, *arguments: Any, **options: Any) -> list[str]:
    return [entry.key for entry in await store.list_globals(*arguments, **options)]


def damage(store: Target, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(store.location)) as connection, connection:
        assert connection.execute(statement).rowcount > 0


class TestEntries:
    async def test_an_entry_is_the_value_its_version_and_when_it_was_written(self, store: Any) -> None:
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=1)
        await store.put_global(RUN, {"a": 1})
        entry = await store.get_global_entry(RUN)
        assert entry == GlobalEntry(str(RUN), {"a": 1}, 1, entry.written_at)
        assert entry.written_at.utcoffset() == datetime.timedelta(0)
        assert before <= entry.written_at <= datetime.datetime.now(datetime.UTC)
        await store.upsert_global(RUN, None)
        later = await store.get_global_entry(str(RUN))
        assert (later.value, later.version) == (None, 2)
        assert later.written_at >= entry.written_at

    async def test_there_is_none_where_there_is_no_such_key(self, store: Any) -> None:
        assert await store.get_global_entry("key") is None
        await store.put_global("key", 1)
        await store.delete_global("key")
        assert await store.get_global_entry("key") is None

    async def test_bytes_come_back_exactly(self, store: Any) -> None:
        await store.put_global("key", b"\x00\xff")
        assert (await store.get_global_entry("key")).value == b"\x00\xff"

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_a_damaged_one_is_an_error_that_names_it(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put_global("key", 1)
            damage(make_store, "UPDATE global_rows SET value = '2'")
            calls = [
                lambda: store.get_global_entry("key"),
                lambda: store.list_globals(),
                lambda: store.update_global("key", lambda value: value),
            ]
            for call in calls:
                with pytest.raises(CorruptStoreError, match="'key'"):
                    await call()
            assert await store.delete_global("key") is True
            assert await store.list_globals() == []

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.parametrize(
        "change", ["version = 'damaged'", "written_at = 'damaged'", "written_at = 1 << 61", "written_at = -1"]
    )
    @pytest.mark.usefixtures("embedded")
    async def test_so_is_one_whose_version_or_time_is_none(self, make_store: Target, change: str) -> None:
        async with make_store() as store:
            await store.put_global("key", 1)
            damage(make_store, f"UPDATE global_rows SET {change}")
            for call in (lambda: store.get_global_entry("key"), lambda: store.list_globals()):
                with pytest.raises(CorruptStoreError, match="'key'"):
                    await call()
            if change.startswith("version"):  # nobody knows which one comes next
                with pytest.raises(CorruptStoreError, match="'key'"):
                    await store.upsert_global("key", 2)
            else:
                await store.upsert_global("key", 2)
                assert (await store.get_global_entry("key")).version == 2

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_a_value_that_is_gone_does_not_pass_for_a_deleted_one(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put_global("key", 1)
            damage(make_store, "UPDATE global_rows SET value = NULL")
            with pytest.raises(CorruptStoreError, match="'key'"):
                await store.get_global("key", "default")


class TestListing:
    NAMES = ("b", "", "a", "B", "é", "\U0001f600", "\uffee", "a%", "a_", "aa", "a b", "10", "9", "\U0010ffff")

    async def test_it_is_ordered_by_code_point(self, store: Any) -> None:
        for name in self.NAMES:
            await store.put_global(name, name)
        entries = await store.list_globals()
        assert [(entry.key, entry.value) for entry in entries] == [(name, name) for name in sorted(self.NAMES)]
        assert entries == [await store.get_global_entry(entry.key) for entry in entries]

    async def test_a_prefix_is_literal(self, store: Any) -> None:
        for name in self.NAMES:
            await store.put_global(name, 1)
        for prefix in [*self.NAMES, "a*", "nothing", "\U0010ffff\U0010ffff"]:
            expected = sorted(name for name in self.NAMES if name.startswith(prefix))
            assert await keys_of(store, prefix) == await keys_of(store, prefix=prefix) == expected

    async def test_pages_join_without_a_gap_and_without_a_repetition(self, store: Any) -> None:
        for name in self.NAMES:
            await store.put_global(name, 1)
        for prefix in ("", "a"):
            for limit in (1, 3, 100):
                seen: list[str] = []
                while page := await keys_of(store, prefix, after=seen[-1] if seen else None, limit=limit):
                    assert len(page) <= limit
                    seen += page
                assert seen == sorted(name for name in self.NAMES if name.startswith(prefix))

    async def test_after_need_not_be_there(self, store: Any) -> None:
        for name in self.NAMES:
            await store.put_global(name, 1)
        for after in ["0", "a", "a!", "b", "zz", RUN, *self.NAMES]:
            for prefix in ("", "a"):
                expected = sorted(n for n in self.NAMES if n > str(after) and n.startswith(prefix))
                assert await keys_of(store, prefix, after=after) == expected

    async def test_after_the_empty_key_come_all_others(self, store: Any) -> None:
        await store.put_global("", 1)
        await store.put_global("a", 1)
        assert await keys_of(store) == ["", "a"]
        assert await keys_of(store, after="") == ["a"]

    async def test_deleted_ones_are_left_out(self, store: Any) -> None:
        for name in ("a", "b", "c"):
            await store.put_global(name, 1)
        await store.delete_global("b")
        assert await keys_of(store) == ["a", "c"]
        assert await keys_of(store, after="b") == ["c"]

    async def test_a_thousand_is_the_limit_unless_told(self, store: Any) -> None:
        async with begun_batch(store) as batch:
            for i in range(1005):
                batch.upsert_global(f"{i:04}", i)
        assert len(await store.list_globals()) == 1000
        assert len(await store.list_globals(limit=2**40)) == 1005

    async def test_what_cannot_be_meant_is_refused(self, store: Any) -> None:
        with pytest.raises(ValueError, match="limit"):
            await store.list_globals(limit=0)
        with pytest.raises(TypeError, match="limit"):
            await store.list_globals(limit="1")
        with pytest.raises(InvalidKeyError, match="prefix"):
            await store.list_globals(7)
        with pytest.raises(InvalidKeyError, match="after"):
            await store.list_globals(after=7)

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_the_work_of_a_page_does_not_grow_with_those_before_it(self, make_store: Target) -> None:
        async with make_store():
            pass
        with contextlib.closing(sqlite3.connect(make_store.location)) as connection, connection:
            connection.execute(
                """
                WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 19999)
                INSERT INTO global_rows (key, version, codec, checksum, written_at, size, value)
                SELECT printf('key-%05d', n), 1, 0, 0, 1, 1, '1' FROM numbers
                """
            )
        with ContextStore(make_store.location) as store:
            engine: Any = core_of(store)._engine
            ticks = 0

            def tick() -> int:
                nonlocal ticks
                ticks += 1
                return 0

            async def count(after: str | None) -> int:
                nonlocal ticks
                ticks = 0
                engine._reading.connection.set_progress_handler(tick, 1)
                with contextlib.suppress(CorruptStoreError):  # the rows have no checksums
                    await engine.page_globals("key-", after, 100)
                engine._reading.connection.set_progress_handler(None, 1)
                return ticks

            first, last = (run_now(core_of(store)._reader.call(lambda a=a: count(a))) for a in (None, "key-19800"))
            assert last < first * 1.1 + 50


@contextlib.asynccontextmanager
async def begun_batch(store: Any) -> Any:
    if hasattr(store, "blocking"):
        with store.blocking.batch() as batch:  # it blocks the loop for a moment, which is no matter here
            yield batch
    else:
        async with store.batch() as batch:
            yield batch


class TestDeleting:
    async def test_it_tells_whether_the_key_was_there(self, store: Any) -> None:
        assert await store.delete_global("key") is False
        await store.put_global("key", None)
        assert await store.delete_global("key") is True
        assert await store.delete_global("key") is False
        assert await store.get_global("key", "default") == "default"

    async def test_versions_never_repeat(self, store: Any) -> None:
        seen = []
        for _ in range(3):
            seen.append(await store.upsert_global("key", 1))
            seen.append(await store.upsert_global("key", 2, expected_version=seen[-1]))
            await store.delete_global("key")
            await store.put_global("key", 3)
            seen.append((await store.get_global_entry("key")).version)
            await store.delete_global("key")
        assert seen == sorted(set(seen)) == list(range(1, 10))

    async def test_afterwards_it_may_be_put_once_more(self, store: Any) -> None:
        await store.put_global("key", 1)
        await store.delete_global("key")
        await store.put_global("key", 2)
        assert await store.get_global("key") == 2
        with pytest.raises(GlobalAlreadyExistsError):
            await store.put_global("key", 3)

    async def test_the_empty_key_and_a_uuid_are_keys_like_others(self, store: Any) -> None:
        for key in ("", RUN):
            await store.put_global(key, 1)
            assert await store.delete_global(key) is True
            assert await store.get_global(key) is None

    async def test_of_many_that_delete_at_once_one_has_done_it(self, store: Any) -> None:
        await store.put_global("key", 1)
        assert sorted(await asyncio.gather(*(store.delete_global("key") for _ in range(8)))) == [False] * 7 + [True]

    @pytest.mark.usefixtures("shared_target")
    async def test_a_store_that_is_only_read_refuses(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put_global("key", 1)
        called = []
        async with make_store(read_only=True) as store:
            with pytest.raises(ReadOnlyStoreError):
                await store.delete_global("key")
            with pytest.raises(ReadOnlyStoreError):
                await store.update_global("key", called.append)
            assert await store.get_global("key") == 1
        assert called == []  # a function must not work for a write that is refused anyway


class TestCompareAndSet:
    async def test_it_writes_only_at_the_version_expected(self, store: Any) -> None:
        assert await store.upsert_global("key", "a", expected_version=0) == 1
        for stale in (0, 2, 7):
            with pytest.raises(VersionConflictError) as caught:
                await store.upsert_global("key", "b", expected_version=stale)
            assert (caught.value.key, caught.value.expected, caught.value.actual) == ("key", stale, 1)
        assert await store.upsert_global("key", "b", expected_version=1) == 2

    async def test_a_deleted_key_is_at_version_0_and_counts_on(self, store: Any) -> None:
        await store.upsert_global("key", 1)
        await store.delete_global("key")
        with pytest.raises(VersionConflictError) as caught:
            await store.upsert_global("key", 2, expected_version=1)
        assert caught.value.actual == 0
        assert await store.upsert_global("key", 2, expected_version=0) == 2

    async def test_of_many_at_one_version_one_wins(self, store: Any) -> None:
        for version in range(10):
            results = await asyncio.gather(
                *(store.upsert_global("key", i, expected_version=version) for i in range(8)), return_exceptions=True
            )
            winner = results.index(version + 1)
            assert [type(result) for result in results].count(VersionConflictError) == 7
            assert await store.get_global("key") == winner

    @pytest.mark.parametrize("other", [-1, True, 1.0, "1"])
    @pytest.mark.each_input_once
    async def test_an_expected_version_that_cannot_be_meant_is_refused(self, store: Any, other: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="expected_version"):
            await store.upsert_global("key", 1, expected_version=other)


def increment(value: int | None) -> int:
    return (value or 0) + 1


@pytest.mark.each_pair
class TestUpdating:
    async def test_the_new_value_is_what_the_function_makes_of_the_old(self, store: Any) -> None:
        assert await store.update_global("key", lambda value: [value], "first") == ["first"]
        assert await store.update_global("key", lambda value: [*value, "second"]) == ["first", "second"]
        entry = await store.get_global_entry("key")
        assert (entry.value, entry.version) == (["first", "second"], 2)

    async def test_the_default_is_none_and_only_used_where_there_is_no_such_key(self, store: Any) -> None:
        seen: list[Any] = []
        await store.update_global("key", lambda value: seen.append(value))
        await store.update_global("key", lambda value: seen.append(value), "default")
        await store.delete_global("key")
        await store.update_global("key", lambda value: seen.append(value), "default")
        assert seen == [None, None, "default"]

    async def test_it_returns_what_a_get_would(self, store: Any) -> None:
        value = (1, 2)
        assert await store.update_global("key", lambda _: {"a": value}) == {"a": [1, 2]}
        made: list[Any] = [1]
        returned = await store.update_global("key", lambda _: made)
        assert returned == made
        assert returned is not made

    async def test_a_hundred_at_once_lose_no_update(self, store: Any) -> None:
        values = await asyncio.gather(*(store.update_global("key", increment) for _ in range(100)))
        assert sorted(values) == list(range(1, 101))
        assert await store.get_global("key") == 100

    async def test_callers_on_one_key_queue_so_that_the_function_runs_once_each(self, store: Any) -> None:
        runs = 0

        def count(value: int | None) -> int:
            nonlocal runs
            runs += 1
            return increment(value)

        await asyncio.gather(*(store.update_global("key", count) for _ in range(50)))
        assert runs == 50

    async def test_updates_of_other_keys_do_not_wait(self, store: Any) -> None:
        inside, go_on = threading.Event(), threading.Event()

        def slow(value: Any) -> str:
            inside.set()
            assert go_on.wait(30)
            return "slow"

        async def slow_async(value: Any) -> str:
            inside.set()
            await until(go_on.is_set)
            return "slow"

        held = asyncio.ensure_future(store.update_global("held", slow if hasattr(store, "blocking") else slow_async))
        await until(inside.is_set)
        assert await store.update_global("other", increment) == 1
        await store.put("run", "node", 1)
        go_on.set()
        assert await held == "slow"

    async def test_each_run_of_the_function_gets_a_fresh_copy(self, store: Any) -> None:
        default: dict[str, list[int]] = {"seen": []}

        def append(value: dict[str, list[int]]) -> dict[str, list[int]]:
            value["seen"].append(len(value["seen"]))
            return value

        await asyncio.gather(*(store.update_global("key", append, default) for _ in range(10)))
        assert await store.get_global("key") == {"seen": list(range(10))}
        assert default == {"seen": []}
        returned = await store.update_global("key", append)
        returned["seen"].clear()
        assert len((await store.get_global("key"))["seen"]) == 11

    @pytest.mark.usefixtures("shared_target")
    async def test_when_another_was_quicker_it_runs_again_on_what_is_there_now(self, make_store: Target) -> None:
        async with make_store() as store, make_store() as other:
            default: list[str] = []
            seen: list[Any] = []

            async def hurry(value: list[str]) -> list[str]:
                seen.append(list(value))
                value.append("mine")
                if len(seen) <= 2:
                    await core_of(other).update_global("key", lambda theirs: [*theirs, "theirs"], [])
                return value

            def hurry_blocking(value: list[str]) -> list[str]:
                return run_now(hurry(value))

            blocking = hasattr(store, "blocking")
            result = await store.update_global("key", hurry_blocking if blocking else hurry, default)
            assert seen == [[], ["theirs"], ["theirs", "theirs"]]
            assert result == await other.get_global("key") == ["theirs", "theirs", "mine"]
            assert default == []

    @pytest.mark.usefixtures("shared_target")
    async def test_two_objects_lose_no_update(self, make_store: Target) -> None:
        async with make_store() as one, make_store() as other:
            await asyncio.gather(*((one, other)[i % 2].update_global("key", increment) for i in range(60)))
            assert await one.get_global("key") == 60

    async def test_a_function_that_raises_stores_nothing(self, store: Any) -> None:
        await store.put_global("key", 1)
        with pytest.raises(ZeroDivisionError):
            await store.update_global("key", lambda value: value / 0)
        entry = await store.get_global_entry("key")
        assert (entry.value, entry.version) == (1, 1)
        with pytest.raises(LookupError):  # also of a kind that the store uses within
            await store.update_global("missing", lambda value: {}["x"])
        assert await store.update_global("key", increment) == 2

    async def test_a_result_that_cannot_be_stored_names_the_place_and_stores_nothing(self, store: Any) -> None:
        await store.put_global("key", 1)
        with pytest.raises(SerializationError) as caught:
            await store.update_global("key", lambda value: {"a": [object()]})
        assert caught.value.path == "$.a[0]"
        assert await store.get_global("key") == 1
        assert await store.update_global("key", increment) == 2

    async def test_a_fault_of_the_engine_stores_nothing_and_lets_the_next_go_on(self, store: Any) -> None:
        await store.put_global("key", 1)
        fail(store, "commit", StorageError("no"))
        with pytest.raises(StorageError):
            await store.update_global("key", increment)
        assert await store.update_global("key", increment) == 2

    async def test_the_function_may_be_a_coroutine_function_on_the_async_face_alone(self, store: Any) -> None:
        async def slowly(value: Any) -> int:
            await asyncio.sleep(0)
            return increment(value)

        if hasattr(store, "blocking"):
            with pytest.raises(TypeError, match="AsyncContextStore"):
                await store.update_global("key", slowly)
            assert await store.get_global("key") is None
        else:
            await asyncio.gather(*(store.update_global("key", slowly) for _ in range(20)))
            assert await store.get_global("key") == 20

    async def test_the_function_runs_where_update_global_was_called(self, store: Any) -> None:
        if hasattr(store, "blocking"):

            def update() -> bool:
                ran_in: int = store.blocking.update_global("key", lambda _: threading.get_ident())
                return ran_in == threading.get_ident()

            assert await asyncio.to_thread(update)
        else:
            tasks = []
            await store.update_global("key", lambda _: tasks.append(asyncio.current_task()))
            assert tasks == [asyncio.current_task()]

    async def test_the_function_may_use_the_store(self, store: Any) -> None:
        await store.put("run", "node", 7)
        if hasattr(store, "blocking"):

            def use(value: Any) -> Any:
                store.blocking.put("run", "from within", 1)
                store.blocking.update_global("other", increment)
                return store.blocking.get("run", "node")

            await store.update_global("key", use)
        else:

            async def use_async(value: Any) -> Any:
                await store.put("run", "from within", 1)
                await store.update_global("other", increment)
                return await store.get("run", "node")

            await store.update_global("key", use_async)
        assert await store.get_global("key") == 7
        assert await store.get_global("other") == 1
        assert await store.exists("run", "from within")

    async def test_it_may_not_update_the_same_key_and_is_told_so(self, store: Any) -> None:
        if hasattr(store, "blocking"):

            def nested(value: Any) -> Any:
                return store.blocking.update_global("key", increment)

            with pytest.raises(RuntimeError, match="'key'"):
                await store.update_global("key", nested)
        else:

            async def nested_async(value: Any) -> Any:
                return await store.update_global("key", increment)

            async def nested_in_a_task(value: Any) -> Any:
                return await asyncio.create_task(nested_async(value))

            for function in (nested_async, nested_in_a_task):
                with pytest.raises(RuntimeError, match="'key'"):
                    await store.update_global("key", function)
        assert await store.get_global("key") is None
        assert await store.update_global("key", increment) == 1

    async def test_a_task_that_the_function_leaves_behind_may_update_the_key_later(self, make_store: Target) -> None:
        if make_store.face != "async":
            pytest.skip("a blocking function leaves no task behind")
        async with make_store() as store:
            left: list[asyncio.Task[Any]] = []
            go_on = asyncio.Event()

            async def later() -> Any:
                await go_on.wait()
                return await store.update_global("key", increment)

            def leave(value: Any) -> int:
                left.append(asyncio.create_task(later()))
                return increment(value)

            async def slow(value: int) -> int:
                go_on.set()
                await asyncio.sleep(0.01)
                return increment(value)

            assert await store.update_global("key", leave) == 1
            assert await store.update_global("key", slow) == 2  # the one left behind comes while this one is at work
            assert await left[0] == 3

    async def test_a_cancelled_one_that_queues_lets_the_others_go_on(self, make_store: Target) -> None:
        if make_store.face != "async":
            pytest.skip("a thread that is blocked cannot be cancelled")
        async with make_store() as store:
            inside, go_on = asyncio.Event(), asyncio.Event()

            async def held(value: Any) -> int:
                inside.set()
                await go_on.wait()
                return increment(value)

            first = asyncio.ensure_future(store.update_global("key", held))
            await inside.wait()
            others = [asyncio.ensure_future(store.update_global("key", increment)) for _ in range(6)]
            await asyncio.sleep(0)
            for cancelled in (others[0], others[3], others[5]):
                cancelled.cancel()
            go_on.set()
            results = await asyncio.gather(first, *others, return_exceptions=True)
            assert [result for result in results if isinstance(result, int)] == [1, 2, 3, 4]
            assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 3
            assert await store.update_global("key", increment) == 5

    async def test_a_cancelled_one_that_is_at_work_lets_the_others_go_on(self, make_store: Target) -> None:
        if make_store.face != "async":
            pytest.skip("a thread that is blocked cannot be cancelled")
        async with make_store() as store:
            for turns in range(20):
                first = asyncio.ensure_future(store.update_global("key", increment))
                others = [asyncio.ensure_future(store.update_global("key", increment)) for _ in range(3)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                first.cancel()
                before = await store.get_global("key", 0)
                await asyncio.gather(first, *others, return_exceptions=True)
                assert all(other.exception() is None for other in others)
                assert await store.get_global("key") >= before
            assert 60 <= await store.get_global("key") <= 80

    async def test_those_who_queue_when_the_store_closes_are_told(self, make_store: Target) -> None:
        store = make_store()
        inside, go_on = threading.Event(), threading.Event()

        def held(value: Any) -> int:
            inside.set()
            assert go_on.wait(30)
            return increment(value)

        async def held_async(value: Any) -> int:
            inside.set()
            await until(go_on.is_set)
            return increment(value)

        first = asyncio.ensure_future(store.update_global("key", held if hasattr(store, "blocking") else held_async))
        await until(inside.is_set)
        others = [asyncio.ensure_future(store.update_global("key", increment)) for _ in range(5)]
        await asyncio.sleep(0.02)  # for them to queue; whoever has not done so yet is told the same
        await store.close()
        go_on.set()
        results = await asyncio.gather(first, *others, return_exceptions=True)
        assert {type(result) for result in results} == {StoreClosedError}

    async def test_an_invalid_key_is_refused_before_the_function_is_called(self, store: Any) -> None:
        called: list[Any] = []
        with pytest.raises(InvalidKeyError):
            await store.update_global("\0", called.append)
        assert called == []

    async def test_the_empty_key_and_a_uuid_are_keys_like_others(self, store: Any) -> None:
        for key in ("", RUN, str(RUN)):
            await store.update_global(key, increment)
        assert await store.get_global("") == 1
        assert await store.get_global(RUN) == 2


@pytest.mark.slow
def test_four_processes_lose_no_update(file_path: Any) -> None:
    program = """
        with ContextStore(sys.argv[1]) as store:
            say("ready")
            sys.stdin.readline()
            def work():
                for _ in range(40):
                    store.update_global("counter", lambda value: value + 1, 0)
                    store.update_global("map", lambda value: {**value, sys.argv[2]: value.get(sys.argv[2], 0) + 1}, {})
            threads = [threading.Thread(target=work) for _ in range(2)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
    """
    with ContextStore(file_path):
        pass
    with children(4, program, file_path) as processes:
        for process in processes:
            assert process.hear() == "ready"
        began = time.perf_counter()
        for process in processes:
            process.tell()
        for process in processes:
            status, _, err = process.end()
            assert (status, err) == (0, "")
        print(f"640 updates in {time.perf_counter() - began:.2f} s")
    with ContextStore(file_path) as store:
        assert store.get_global("counter") == 4 * 80
        assert store.get_global("map") == dict.fromkeys("0123", 80)
        assert [entry.version for entry in store.list_globals()] == [320, 320]
