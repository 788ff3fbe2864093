"""Batches: several writes that are stored together or not at all."""

from __future__ import annotations

import asyncio
import pathlib
import random
import time
import uuid
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    ContextStore,
    GlobalAlreadyExistsError,
    InvalidKeyError,
    ReadOnlyStoreError,
    RunDeletedError,
    SerializationError,
    StorageError,
    StoreBusyError,
    StoreClosedError,
    VersionConflictError,
)

from ..conftest import Target
from ..support.doubles import Gate, fail, queued, until
from .outputs import Victims, begun

RUN = uuid.UUID("018f3a00-0000-7000-8000-00000000000f")


def made(store: Any) -> Any:
    return getattr(store, "plain", store).batch()


async def contents(store: Any) -> tuple[list[str], dict[str, Any]]:
    """Node ids by run, newest first, and the globals."""
    runs = [f"{run.flow_run_id}: {' '.join(await store.list_keys(run.flow_run_id))}" for run in await store.list_runs()]
    return runs, {entry.key: (entry.value, entry.version) for entry in await store.list_globals()}


NOTHING: tuple[list[str], dict[str, Any]] = ([], {})


@pytest.mark.each_pair
class TestTheBlock:
    async def test_all_is_stored_when_it_ends_across_runs_and_globals(self, store: Any) -> None:
        async with begun(store) as batch:
            batch.put("run-1", "a", 1)
            batch.put("run-2", "b", b"\x00")
            batch.put_global("made-by", "run-1")
            batch.upsert_global("latest", "run-2")
            assert await contents(store) == NOTHING
        assert await contents(store) == (
            ["run-2: b", "run-1: a"],
            {"made-by": ("run-1", 1), "latest": ("run-2", 1)},
        )
        assert await store.get("run-2", "b") == b"\x00"

    async def test_it_is_one_commit_and_one_moment(self, store: Any) -> None:
        gate = Gate(store)
        gate.open()
        before = (await store.stats()).commits
        async with begun(store) as batch:
            for i in range(100):
                batch.put(f"run-{i % 3}", str(i), i)
                batch.upsert_global(str(i), i)
        assert (await store.stats()).commits == before + 1
        assert gate.groups == [1]
        times = {run.first_written_at for run in await store.list_runs()}
        assert times == {entry.written_at for entry in await store.list_globals()}

    async def test_the_calls_within_are_plain_and_return_nothing(self, store: Any) -> None:
        async with begun(store) as batch:
            assert batch.put("run", "a", 1) is None
            assert batch.put_global("a", 1) is None
            assert batch.upsert_global("b", 1) is None

    async def test_a_value_is_the_one_at_the_time_of_the_call(self, store: Any) -> None:
        value = [1]
        async with begun(store) as batch:
            batch.put("run", "a", value)
            batch.put_global("put", value)
            batch.upsert_global("upserted", value)
            value.append(2)
        assert await store.get("run", "a") == [1]
        assert await store.get_global("put") == await store.get_global("upserted") == [1]

    async def test_a_value_that_cannot_be_stored_is_refused_at_the_call(self, store: Any) -> None:
        async with begun(store) as batch:
            for write in (lambda v: batch.put("run", "a", v), lambda v: batch.put_global("a", v),
                          lambda v: batch.upsert_global("a", v)):  # fmt: skip
                with pytest.raises(SerializationError) as caught:
                    write({"score": [float("nan")]})
                assert caught.value.path == "$.score[0]"
            batch.put("run", "b", 1)
        assert await contents(store) == (["run: b"], {})

    async def test_an_invalid_key_is_refused_at_the_call(self, store: Any) -> None:
        async with begun(store) as batch:
            with pytest.raises(InvalidKeyError):
                batch.put("", "a", 1)
            with pytest.raises(InvalidKeyError):
                batch.put("run", "a\0", 1)
            with pytest.raises(InvalidKeyError):
                batch.put_global("x" * 1025, 1)
            with pytest.raises(InvalidKeyError):
                batch.upsert_global(7, 1)
            with pytest.raises(ValueError, match="expected_version"):
                batch.upsert_global("key", 1, expected_version=-1)
            with pytest.raises(TypeError, match="expected_version"):
                batch.upsert_global("key", 1, expected_version="1")
        assert await contents(store) == NOTHING

    async def test_a_uuid_and_its_string_are_one_key(self, store: Any) -> None:
        async with begun(store) as batch:
            batch.put(RUN, RUN, 1)
            batch.upsert_global(RUN, 1)
            batch.upsert_global(str(RUN), 2)
        assert await contents(store) == ([f"{RUN}: {RUN}"], {str(RUN): (2, 1)})

    async def test_an_empty_one_does_nothing(self, store: Any) -> None:
        before = (await store.stats()).commits
        async with begun(store):
            pass
        assert (await store.stats()).commits == before

    async def test_two_thousand_outputs_and_globals(self, store: Any) -> None:
        async with begun(store) as batch:
            for i in range(1000):
                batch.put("run", f"{i:04}", i)
                batch.upsert_global(f"{i:04}", i)
        assert await store.get_run("run") == {f"{i:04}": i for i in range(1000)}
        assert [entry.value for entry in await store.list_globals()] == list(range(1000))

    async def test_several_at_once_are_apart(self, store: Any) -> None:
        async def one(number: int) -> None:
            async with begun(store) as batch:
                for i in range(10):
                    batch.put(f"run-{number}", str(i), number)
                    await asyncio.sleep(0)

        await asyncio.gather(*(one(number) for number in range(20)))
        for number in range(20):
            assert await store.get_run(f"run-{number}") == dict.fromkeys(map(str, range(10)), number)

    async def test_the_store_may_be_used_within(self, store: Any) -> None:
        async with begun(store) as batch:
            batch.put("run", "a", 1)
            await store.put("run", "b", 2)
            async with begun(store) as inner:
                inner.put("run", "c", 3)
            assert await store.list_keys("run") == ["b", "c"]
        assert await store.list_keys("run") == ["a", "b", "c"]


class TestConflicts:
    async def test_one_is_raised_at_the_end_of_the_block_and_nothing_is_stored(self, store: Any) -> None:
        await store.put("taken", "node", 1)
        before = await contents(store)
        with pytest.raises(AlreadyExistsError) as caught:  # noqa: PT012
            async with begun(store) as batch:
                batch.put("new-run", "a", 1)
                batch.upsert_global("key", 1)
                batch.put("taken", "node", 2)
                batch.put("newer-run", "b", 2)
        assert (caught.value.flow_run_id, caught.value.node_id) == ("taken", "node")
        assert await contents(store) == before
        await store.put("new-run", "a", "free")
        assert await store.upsert_global("key", "free") == 1

    async def test_the_first_one_is_raised_in_the_order_of_the_calls(self, store: Any) -> None:
        await store.put("run", "taken", 1)
        await store.put_global("taken", 1)
        with pytest.raises(GlobalAlreadyExistsError):  # noqa: PT012
            async with begun(store) as batch:
                batch.put("run", "new", 1)
                batch.put_global("taken", 2)
                batch.put("run", "taken", 2)
        with pytest.raises(AlreadyExistsError):  # noqa: PT012
            async with begun(store) as batch:
                batch.upsert_global("other", 2)
                batch.put("run", "taken", 2)
                batch.put_global("taken", 2)
        with pytest.raises(VersionConflictError):  # noqa: PT012
            async with begun(store) as batch:
                batch.upsert_global("taken", 2, expected_version=7)
                batch.put("run", "taken", 2)

    @pytest.mark.parametrize("second", [1, 2])
    async def test_the_same_output_twice_is_one(self, store: Any, second: int) -> None:
        with pytest.raises(AlreadyExistsError) as caught:  # noqa: PT012
            async with begun(store) as batch:
                batch.put("run", "other", 0)
                batch.put("run", "a", 1)
                batch.put("run", "a", second)
        assert caught.value.same_value is (second == 1)
        assert await contents(store) == NOTHING

    async def test_the_same_global_twice_is_none_and_the_last_stands(self, store: Any) -> None:
        async with begun(store) as batch:
            batch.upsert_global("a", 1)
            batch.upsert_global("a", 2)
            batch.put_global("b", 1)
            batch.upsert_global("b", 2)
            batch.upsert_global("c", 1)
            batch.put_global("c", 2)
        assert (await contents(store))[1] == {"a": (2, 1), "b": (2, 1), "c": (2, 1)}

    async def test_exist_ok_takes_equal_values_as_success(self, store: Any) -> None:
        await store.put("run", "a", {"x": 1, "y": 2})
        await store.put_global("key", 1)
        async with begun(store) as batch:
            batch.put("run", "a", {"y": 2, "x": 1}, exist_ok=True)
            batch.put("run", "b", 2, exist_ok=True)
            batch.put_global("key", 1, exist_ok=True)
        assert await contents(store) == (["run: a b"], {"key": (1, 1)})
        with pytest.raises(AlreadyExistsError):  # noqa: PT012
            async with begun(store) as batch:
                batch.put("run", "c", 3)
                batch.put("run", "b", 3, exist_ok=True)
        with pytest.raises(GlobalAlreadyExistsError):  # noqa: PT012
            async with begun(store) as batch:
                batch.put("run", "c", 3)
                batch.put_global("key", 3, exist_ok=True)
        assert await contents(store) == (["run: a b"], {"key": (1, 1)})

    async def test_expected_version_is_compare_and_set(self, store: Any) -> None:
        await store.upsert_global("key", 1)
        async with begun(store) as batch:
            batch.upsert_global("key", 2, expected_version=1)
            batch.upsert_global("new", 1, expected_version=0)
            batch.put("run", "a", 1)
        with pytest.raises(VersionConflictError) as caught:  # noqa: PT012
            async with begun(store) as batch:
                batch.put("run", "b", 1)
                batch.upsert_global("key", 3, expected_version=1)
        assert (caught.value.key, caught.value.expected, caught.value.actual) == ("key", 1, 2)
        assert await contents(store) == (["run: a"], {"key": (2, 2), "new": (1, 1)})

    async def test_a_deleted_run_refuses_all(self, store: Any) -> None:
        await store.delete_run("gone")
        with pytest.raises(RunDeletedError):  # noqa: PT012
            async with begun(store) as batch:
                batch.put("run", "a", 1)
                batch.put("gone", "a", 1)
        assert await contents(store) == NOTHING

    async def test_of_many_that_race_for_one_output_one_is_stored_whole(self, store: Any) -> None:
        async def one(number: int) -> None:
            async with begun(store) as batch:
                batch.put(f"run-{number}", "a", number)
                batch.put("contested", "node", number)
                batch.upsert_global("winner", number)

        results = await asyncio.gather(*(one(number) for number in range(12)), return_exceptions=True)
        winner = results.index(None)
        assert [type(result) for result in results].count(AlreadyExistsError) == 11
        assert await contents(store) == (["contested: node", f"run-{winner}: a"], {"winner": (winner, 1)})

    async def test_a_conflict_hurts_no_other_write_in_the_same_commit(self, store: Any) -> None:
        await store.put("run", "taken", 1)

        async def conflicting() -> None:
            async with begun(store) as batch:
                batch.put("run", "lost", 1)
                batch.put("run", "taken", 2)

        gate = Gate(store)
        tasks = [asyncio.ensure_future(store.put("run", "first", 0))]
        await gate.wait_for_arrival()
        tasks += [asyncio.ensure_future(conflicting()), asyncio.ensure_future(store.put("run", "other", 1))]
        await until(lambda: queued(store) == 2)
        gate.open()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), AlreadyExistsError, type(None)]
        assert await store.list_keys("run") == ["first", "other", "taken"]


class TestNotComingToItsEnd:
    async def test_a_block_left_by_an_exception_stores_nothing(self, store: Any) -> None:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with begun(store) as batch:
                batch.put("run", "a", 1)
                batch.upsert_global("key", 1 / 0)
        assert await contents(store) == NOTHING

    async def test_nor_does_one_left_by_a_conflict_of_another_call(self, store: Any) -> None:
        await store.put("run", "taken", 1)
        with pytest.raises(AlreadyExistsError):  # noqa: PT012
            async with begun(store) as batch:
                batch.put("run", "a", 1)
                await store.put("run", "taken", 2)
        assert await contents(store) == (["run: taken"], {})

    async def test_nor_does_a_cancelled_one(self, store: Any) -> None:
        within = asyncio.Event()

        async def work() -> None:
            async with begun(store) as batch:
                batch.put("run", "a", 1)
                within.set()
                await asyncio.sleep(60)

        task = asyncio.ensure_future(work())
        await within.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await contents(store) == NOTHING

    async def test_one_cancelled_while_it_is_queued_is_withdrawn(self, make_store: Target) -> None:
        if make_store.face == "sync":
            pytest.skip("a thread that is blocked in a commit cannot be cancelled")
        async with make_store() as store:

            async def work() -> None:
                async with begun(store) as batch:
                    batch.put("run", "a", 1)
                    batch.upsert_global("key", 1)

            gate = Gate(store)
            first = asyncio.ensure_future(store.put("run", "first", 0))
            await gate.wait_for_arrival()
            task = asyncio.ensure_future(work())
            await until(lambda: queued(store) == 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            gate.open()
            await first
            assert task.cancelled()
            assert await contents(store) == (["run: first"], {})

    async def test_a_fault_of_the_engine_stores_nothing(self, store: Any) -> None:
        fail(store, "commit", StorageError("no"))
        with pytest.raises(StorageError, match="no"):  # noqa: PT012
            async with begun(store) as batch:
                batch.put("run", "a", 1)
                batch.upsert_global("key", 1)
        assert await contents(store) == NOTHING

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_one_that_waits_too_long_for_the_lock_stores_nothing(self, make_store: Target) -> None:
        async with make_store(timeout=0.05) as one, make_store() as other:
            gate = Gate(other)
            holding = asyncio.ensure_future(other.put("run", "first", 0))
            await gate.wait_for_arrival()
            with pytest.raises(StoreBusyError):  # noqa: PT012
                async with begun(one) as batch:
                    batch.put("run", "a", 1)
                    batch.upsert_global("key", 1)
            gate.open()
            await holding
            assert await contents(one) == (["run: first"], {})


class TestBeforeAndAfter:
    async def test_the_calls_are_refused_before_the_block(self, store: Any) -> None:
        batch = made(store)
        with pytest.raises(RuntimeError, match="within its 'with' block"):
            batch.put("run", "a", 1)
        with pytest.raises(RuntimeError, match="within its 'with' block"):
            batch.put_global("a", 1)
        with pytest.raises(RuntimeError, match="within its 'with' block"):
            batch.upsert_global("a", 1)

    async def test_and_after_it(self, store: Any) -> None:
        async with begun(store) as batch:
            batch.put("run", "a", 1)
        with pytest.raises(RuntimeError, match="within its 'with' block"):
            batch.put("run", "b", 1)
        with pytest.raises(ZeroDivisionError):
            async with begun(store) as left:
                left.put("run", "c", 1 / 0)
        with pytest.raises(RuntimeError, match="within its 'with' block"):
            left.upsert_global("a", 1)
        assert await contents(store) == (["run: a"], {})

    async def test_it_cannot_be_begun_within_itself(self, store: Any) -> None:
        async with begun(store) as batch:
            batch.put("run", "a", 1)
            with pytest.raises(RuntimeError, match="begun already"):
                async with begun(store, batch):
                    pass
        assert await contents(store) == (["run: a"], {})

    async def test_a_second_block_of_one_batch_begins_with_nothing(self, store: Any) -> None:
        batch = made(store)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with begun(store, batch):
                batch.put("run", "a", 1)
                raise ZeroDivisionError
        async with begun(store, batch):
            batch.put("run", "b", 2)
        assert await contents(store) == (["run: b"], {})

    async def test_beginning_one_opens_the_store(self, make_store: Target) -> None:
        store = make_store()
        async with begun(store) as batch:
            batch.put("run", "a", 1)
        assert await store.get("run", "a") == 1

    async def test_a_closed_store_begins_none(self, make_store: Target) -> None:
        store = make_store()
        await store.close()
        with pytest.raises(StoreClosedError):
            async with begun(store):
                pass

    async def test_a_store_closed_within_the_block_refuses_its_end(self, make_store: Target) -> None:
        store = make_store()
        with pytest.raises(StoreClosedError):  # noqa: PT012
            async with begun(store) as batch:
                batch.put("run", "a", 1)
                await store.close()
        if make_store.engine == "file":
            async with make_store() as again:
                assert await contents(again) == NOTHING

    @pytest.mark.usefixtures("shared_target")
    async def test_a_store_that_is_only_read_begins_none(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "a", 1)
        async with make_store(read_only=True) as store:
            with pytest.raises(ReadOnlyStoreError):
                async with begun(store):
                    pass


@pytest.mark.slow
def test_a_batch_that_was_killed_is_stored_whole_or_not_at_all(file_path: pathlib.Path) -> None:
    work = """
        for i in range(10**9):
            with store.batch() as batch:
                for node in range(50):
                    batch.put(f"{number}-{i}-a", f"{node:02}", "x" * node * 10)
                    batch.put(f"{number}-{i}-b", f"{node:02}", "y" * node * 10)
                batch.upsert_global("latest", f"{number}-{i}")
                batch.put_global(f"{number}-{i}", "done")
            say("stored", i)
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    with Victims(file_path, work) as victims:
        for kill in range(12):
            victim = victims.begin(kill)
            said = [victims.hear()]
            time.sleep(moments.uniform(0, 0.03))
            said += victims.kill(victim)
            acknowledged = sum(line.startswith("stored ") for line in said)
            with ContextStore(file_path) as store:
                batches = len(store.list_globals(f"{kill}-", limit=10**6))
                # One more may have been committed than was heard of.
                assert acknowledged <= batches <= acknowledged + 1, f"seed {seed}"
                assert store.get_global("latest") == f"{kill}-{batches - 1}", f"seed {seed}"
                runs = store.list_runs(prefix=f"{kill}-", limit=10**6)
                assert [run.flow_run_id for run in runs] == [
                    f"{kill}-{i}-{part}" for i in reversed(range(batches)) for part in "ba"
                ], f"seed {seed}"
                assert {run.outputs for run in runs} == {50}, f"seed {seed}"
