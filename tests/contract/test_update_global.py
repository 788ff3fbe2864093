"""Globals are updated without a lost update, whoever updates."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from contextstore import ContextStore, InvalidKeyError, SerializationError, StorageError, StoreClosedError
from contextstore._waiting.threads import run_now

from ..conftest import Target
from ..support.doubles import core_of, fail, until
from ..support.forked import children
from .runs import RUN


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

        held = asyncio.ensure_future(store.update_global("held", slow if hasattr(store, "plain") else slow_async))
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

            blocking = hasattr(store, "plain")
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

        if hasattr(store, "plain"):
            with pytest.raises(TypeError, match="AsyncContextStore"):
                await store.update_global("key", slowly)
            assert await store.get_global("key") is None
        else:
            await asyncio.gather(*(store.update_global("key", slowly) for _ in range(20)))
            assert await store.get_global("key") == 20

    async def test_the_function_runs_where_update_global_was_called(self, store: Any) -> None:
        if hasattr(store, "plain"):

            def update() -> bool:
                ran_in: int = store.plain.update_global("key", lambda _: threading.get_ident())
                return ran_in == threading.get_ident()

            assert await asyncio.to_thread(update)
        else:
            tasks = []
            await store.update_global("key", lambda _: tasks.append(asyncio.current_task()))
            assert tasks == [asyncio.current_task()]

    async def test_the_function_may_use_the_store(self, store: Any) -> None:
        await store.put("run", "node", 7)
        if hasattr(store, "plain"):

            def use(value: Any) -> Any:
                store.plain.put("run", "from within", 1)
                store.plain.update_global("other", increment)
                return store.plain.get("run", "node")

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
        if hasattr(store, "plain"):

            def nested(value: Any) -> Any:
                return store.plain.update_global("key", increment)

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

        first = asyncio.ensure_future(store.update_global("key", held if hasattr(store, "plain") else held_async))
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
