"""Group commit: who commits with whom, and that each caller is told of its own outcome and of no other's."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import pathlib
import sqlite3
import threading
import time
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    ContextStore,
    StorageError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
)
from contextstore._dispatch import writer as _writer
from contextstore._sqlite.worker import connection_here

from ..conftest import Target
from ..support.doubles import Gate, core_of, fail, queued, until

pytestmark = pytest.mark.each_pair


def spawn(*writes: Any) -> list[asyncio.Task[Any]]:
    return [asyncio.ensure_future(write) for write in writes]


async def outcomes_of(tasks: list[asyncio.Task[Any]]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_writes_that_come_during_a_commit_share_the_next_one(store: Any) -> None:
    gate = Gate(store)
    first = spawn(store.put("run", "first", 0))
    await gate.wait_for_arrival()
    crowd = spawn(*(store.put("run", str(i), i) for i in range(5)))
    await until(lambda: queued(store) == 5)
    gate.open()
    assert await outcomes_of(first + crowd) == [None] * 6
    assert gate.groups == [1, 5]


async def test_a_group_is_bounded_in_operations(store: Any) -> None:
    engine: Any = core_of(store)._session.engine
    engine.group_limits = engine.group_limits._replace(operations=3)
    gate = Gate(store)
    first = spawn(store.put("run", "first", 0))
    await gate.wait_for_arrival()
    crowd = spawn(*(store.put("run", str(i), i) for i in range(4)))
    await until(lambda: queued(store) == 4)
    gate.open()
    assert await outcomes_of(first + crowd) == [None] * 5
    assert gate.groups == [1, 3, 1]


async def test_a_group_is_bounded_in_bytes_and_a_large_write_travels_alone(store: Any) -> None:
    engine: Any = core_of(store)._session.engine
    engine.group_limits = engine.group_limits._replace(bytes=10_000)
    gate = Gate(store)
    first = spawn(store.put("run", "first", 0))
    await gate.wait_for_arrival()
    crowd = spawn(store.put("run", "large", "x" * 50_000))
    await until(lambda: queued(store) == 1)
    crowd += spawn(store.put("run", "small", 1))
    await until(lambda: queued(store) == 2)
    gate.open()
    assert await outcomes_of(first + crowd) == [None] * 3
    assert gate.groups == [1, 1, 1]


async def test_each_caller_of_a_group_gets_its_own_outcome(store: Any) -> None:
    await store.put("run", "taken", 1)
    await store.upsert_global("key", 1)
    gate = Gate(store)
    first = spawn(store.put("run", "first", 0))
    await gate.wait_for_arrival()
    crowd = spawn(
        store.put("run", "new", 1),
        store.put("run", "taken", 2),
        store.put("run", "taken", 1, exist_ok=True),
        store.put("run", "taken", 1),
        store.upsert_global("key", 2),
        store.put_global("other", 1),
    )
    await until(lambda: queued(store) == 6)
    gate.open()
    outcomes = (await outcomes_of(first + crowd))[1:]
    assert [outcomes[i] for i in (0, 2, 4, 5)] == [None, None, 2, None]
    assert [(type(outcomes[i]), outcomes[i].same_value) for i in (1, 3)] == [
        (AlreadyExistsError, False),
        (AlreadyExistsError, True),
    ]
    assert outcomes[1] is not outcomes[3]
    assert await store.get("run", "taken") == 1


async def test_the_same_key_twice_in_a_group_has_one_winner(store: Any) -> None:
    gate = Gate(store)
    first = spawn(store.put("run", "first", 0))
    await gate.wait_for_arrival()
    crowd = spawn(*(store.put("run", "node", i) for i in range(6)))
    await until(lambda: queued(store) == 6)
    gate.open()
    outcomes = (await outcomes_of(first + crowd))[1:]
    assert outcomes.count(None) == 1
    assert await store.get("run", "node") == outcomes.index(None)


class TestBackpressure:
    async def test_writes_beyond_the_queues_bytes_wait_for_room_and_are_stored_then(
        self, store: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_writer, "QUEUE_BYTES", 3 * (3_000 + _writer.UNIT_BYTES + _writer.OPERATION_BYTES) + 1_000)
        gate = Gate(store)
        first = spawn(store.put("run", "first", 0))
        await gate.wait_for_arrival()
        crowd = spawn(*(store.put("run", f"{i:02}", "x" * 3000) for i in range(12)))
        await until(lambda: queued(store) == 12)
        assert len(core_of(store)._session.writer._waiting_for_room()) == 12 - 3
        gate.open()
        assert await outcomes_of(first + crowd) == [None] * 13
        assert len(await store.list_keys("run")) == 13

    async def test_a_write_larger_than_the_queue_goes_through_alone(
        self, store: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_writer, "QUEUE_BYTES", 1_000)
        await asyncio.gather(*(store.put("run", str(i), "x" * 5000) for i in range(3)))
        assert len(await store.list_keys("run")) == 3

    async def test_a_write_that_waits_for_room_is_withdrawn_at_its_timeout(
        self, make_store: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_writer, "QUEUE_BYTES", 1_000)
        async with make_store(timeout=_writer.LEAST_PATIENCE) as store:
            gate = Gate(store)
            first = spawn(store.put("run", "first", 0))
            await gate.wait_for_arrival()
            second = spawn(store.put("run", "second", "x" * 900))
            await until(lambda: queued(store) == 1)
            with pytest.raises(StoreBusyError, match="nothing was stored"):
                await store.put("run", "third", "x" * 900)
            # The second was queued and is withdrawn, too. Not before its own caller has looked at the clock: with the
            # gate open a moment earlier, it would be taken by the next commit, late and rightly.
            (late,) = await outcomes_of(second)
            assert isinstance(late, StoreBusyError)
            assert not first[0].done()  # it is being committed, and is not withdrawn
            gate.open()
            assert await outcomes_of(first) == [None]
            assert await store.list_keys("run") == ["first"]
            await store.put("run", "after", 1)

    async def test_close_finishes_what_was_accepted_and_refuses_what_waits_for_room(
        self, make_store: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_writer, "QUEUE_BYTES", 1_000)
        store = make_store()
        await store.open()
        gate = Gate(store)
        first = spawn(store.put("run", "first", 0))
        await gate.wait_for_arrival()
        second = spawn(store.put("run", "second", "x" * 900))
        await until(lambda: queued(store) == 1)
        third = spawn(store.put("run", "third", "x" * 900))
        await until(lambda: queued(store) == 2)
        closing = spawn(store.close())
        (refused,) = await outcomes_of(third)
        assert isinstance(refused, StoreClosedError)
        assert not second[0].done()
        gate.open()
        assert await outcomes_of(first + second + closing) == [None] * 3


class TestCancellation:
    """On the blocking face a cancellation is a KeyboardInterrupt; see test_interrupts.py."""

    @pytest.fixture(autouse=True)
    def only_tasks(self, make_store: Target) -> None:
        if make_store.face != "async":
            pytest.skip("threads cannot be cancelled")

    async def test_a_cancelled_write_that_no_commit_has_taken_is_withdrawn(self, store: Any) -> None:
        gate = Gate(store)
        first = spawn(store.put("run", "first", 0))
        await gate.wait_for_arrival()
        crowd = spawn(*(store.put("run", str(i), i) for i in range(4)))
        await until(lambda: queued(store) == 4)
        crowd[1].cancel()
        crowd[3].cancel()
        await asyncio.wait([crowd[1], crowd[3]])
        gate.open()
        outcomes = await outcomes_of(first + crowd)
        assert [type(outcome) for outcome in outcomes[1:]] == [
            type(None),
            asyncio.CancelledError,
            type(None),
            asyncio.CancelledError,
        ]
        assert await store.list_keys("run") == ["0", "2", "first"]

    async def test_a_cancelled_write_that_is_being_committed_is_finished_and_hurts_nobody(self, store: Any) -> None:
        gate = Gate(store)
        first = spawn(store.put("run", "first", 0))
        await gate.wait_for_arrival()
        first[0].cancel()
        await asyncio.wait(first)
        after = spawn(store.put("run", "after", 1))
        gate.open()
        assert await outcomes_of(after) == [None]
        assert await store.list_keys("run") == ["after", "first"]

    async def test_a_withdrawn_write_gives_its_room_back(self, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_writer, "QUEUE_BYTES", 1_000)
        gate = Gate(store)
        first = spawn(store.put("run", "first", 0))
        await gate.wait_for_arrival()
        for i in range(50):
            doomed = spawn(store.put("run", str(i), "x" * 500))
            await asyncio.sleep(0)
            doomed[0].cancel()
            await asyncio.wait(doomed)
        assert core_of(store)._session.writer.queued_bytes == 0
        gate.open()
        await asyncio.gather(*first)
        assert await store.list_keys("run") == ["first"]


class TestFailures:
    async def crowd(self, store: Any, gate: Gate, writes: list[Any]) -> list[Any]:
        """The outcomes of writes that were made to share a commit."""
        first = spawn(store.put("run", "first", 0))
        await gate.wait_for_arrival()
        tasks = spawn(*writes)
        await until(lambda: queued(store) == len(writes))
        gate.open()
        return (await outcomes_of(first + tasks))[1:]

    async def test_after_a_failed_group_each_unit_is_committed_alone(self, store: Any) -> None:
        fail(store, "commit", None, StorageError("the group"), None, StoreFullError("just this one"), None)
        gate = Gate(store)
        outcomes = await self.crowd(store, gate, [store.put("run", str(i), i) for i in range(3)])
        assert [type(outcome) for outcome in outcomes].count(type(None)) == 2
        assert [type(outcome) for outcome in outcomes].count(StoreFullError) == 1
        assert len(await store.list_keys("run")) == 3

    async def test_an_unknown_outcome_is_told_to_each_by_an_error_of_its_own(self, store: Any) -> None:
        cause = sqlite3.OperationalError("disk I/O error")
        error = StorageError("the fsync failed", True)
        error.__cause__ = cause
        fail(store, "commit", None, error)
        gate = Gate(store)
        outcomes = await self.crowd(store, gate, [store.put("run", str(i), i) for i in range(3)])
        assert all(type(outcome) is StorageError and outcome.outcome_unknown for outcome in outcomes)
        assert all(outcome.__cause__ is cause for outcome in outcomes)
        assert len({id(outcome) for outcome in outcomes}) == 3

    async def test_an_unforeseen_exception_in_a_commit_reaches_its_callers_and_the_writer_goes_on(
        self, store: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        fail(store, "commit", ZeroDivisionError("a bug"))
        with pytest.raises(StorageError, match="ZeroDivisionError") as caught:
            await store.put("run", "node", 1)
        assert caught.value.outcome_unknown
        assert "unforeseen" in caplog.text
        await store.put("run", "node", 1)

    @pytest.mark.parametrize("call", ["acquire_write", "maintain"])
    async def test_an_unforeseen_exception_around_a_commit_leaves_nobody_waiting(
        self, store: Any, call: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        fail(store, call, ZeroDivisionError("a bug"))
        outcomes = await asyncio.wait_for(
            asyncio.gather(*(store.put("run", str(i), i) for i in range(8)), return_exceptions=True), 30
        )
        assert all(outcome is None or isinstance(outcome, StorageError) for outcome in outcomes)
        await store.put("run", "after", 1)
        for i, outcome in enumerate(outcomes):
            assert (await store.get("run", str(i)) == i) is (outcome is None)
        assert "unforeseen" in caplog.text or "every queued write is refused" in caplog.text

    async def test_a_turn_that_cannot_be_had_is_told_and_the_writer_goes_on(self, store: Any) -> None:
        fail(store, "acquire_write", StorageError("no lock to be had"))
        with pytest.raises(StorageError, match="no lock to be had"):
            await store.put("run", "node", 1)
        await store.put("run", "node", 1)


class TestNoRoom:
    @pytest.mark.usefixtures("embedded")
    async def test_a_full_database_refuses_exactly_what_does_not_fit(self, store: Any) -> None:
        for i in range(5):
            await store.put("run", f"before-{i}", "x")
        await self.limit_pages(store, 40)
        gate = Gate(store)
        first = spawn(store.put("run", "first", 0))
        await gate.wait_for_arrival()
        large = "x" * 500_000
        crowd = spawn(*(store.put("run", str(i), large if i % 2 else i) for i in range(8)))
        await until(lambda: queued(store) == 8)
        gate.open()
        outcomes = (await outcomes_of(first + crowd))[1:]
        for i, outcome in enumerate(outcomes):
            if i % 2:
                assert isinstance(outcome, StoreFullError)
                assert not outcome.outcome_unknown
            else:
                assert outcome is None
            assert await store.get("run", str(i)) == (None if i % 2 else i)
        await self.limit_pages(store, 10_000)
        for i in range(1, 8, 2):
            await store.put("run", str(i), large)
        assert len(await store.list_keys("run")) == 14

    @pytest.mark.usefixtures("shared_target", "embedded")
    async def test_a_run_that_was_new_in_a_group_that_failed_is_new_again(self, make_store: Target) -> None:
        async with make_store(cache_bytes=0) as store:
            await store.put("first", "node", 0)
            await self.limit_pages(store, 30)
            with pytest.raises(StoreFullError):
                await store.put("new", "node", "x" * 500_000)
            await self.limit_pages(store, 100_000)
            await store.put("new", "node", 1)
            await store.put("other", "node", 2)
            assert [await store.get(run, "node") for run in ("first", "new", "other")] == [0, 1, 2]
            assert (await store.check()).ok

    async def limit_pages(self, store: Any, pages: int) -> None:
        engine: Any = core_of(store)._session.engine
        done = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        async def limit() -> None:
            connection_here().execute(f"PRAGMA max_page_count = {pages}").fetchall()
            loop.call_soon_threadsafe(done.set_result, None)

        engine.post_write(limit)
        await done


@pytest.mark.usefixtures("embedded")
async def test_with_a_timeout_of_nothing_a_write_that_need_not_wait_is_done(make_store: Target) -> None:
    async with make_store(timeout=0) as store:
        for number in range(50):
            await store.put("run", f"{number}", number)
        assert await outcomes_of(spawn(*(store.put("run", f"at once {i}", i) for i in range(50)))) == [None] * 50


async def test_small_writes_do_not_overtake_a_large_one_that_waits_for_room(
    make_store: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "QUEUE_BYTES", 10_000)
    async with make_store() as store:
        gate = Gate(store)
        first = spawn(store.put("run", "first", 0))
        await gate.wait_for_arrival()
        small = spawn(store.put("run", "small", "x"))
        await until(lambda: queued(store) == 1)
        large = spawn(store.put("run", "large", "x" * 20_000))
        await until(lambda: queued(store) == 2)
        late = spawn(*(store.put("run", f"late {i}", "x") for i in range(3)))
        await until(lambda: queued(store) == 5)
        waiting = [entry.operations[0].node_id for entry in core_of(store)._session.writer._waiting_for_room()]
        assert waiting[0] == "large"
        assert len(waiting) == 4
        gate.open()
        assert await outcomes_of(first + small + large + late) == [None] * 6


async def test_a_write_is_answered_before_anything_is_tidied(make_store: Target) -> None:
    async with make_store() as store:
        await store.put("run", "first", 0)
        engine: Any = core_of(store)._session.engine
        tidied = threading.Event()

        async def after_the_first() -> None:
            tidied.set()

        engine.post_write(after_the_first)
        await until(tidied.is_set)
        maintain, answered = engine.maintain, threading.Event()

        async def after_the_answer() -> None:
            deadline = time.monotonic() + 30
            while not answered.is_set() and time.monotonic() < deadline:
                await asyncio.sleep(0) if make_store.engine == "postgres" else time.sleep(0.001)
            assert answered.is_set()
            await maintain()

        engine.maintain = after_the_answer
        async with asyncio.timeout(20):
            await store.put("run", "second", 1)
        answered.set()
        engine.maintain = maintain


def test_a_write_whose_loop_is_gone_does_not_wait_for_another_process_for_ever(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as made:
        made.put("run", "node", 1)
    loop = asyncio.new_event_loop()
    complaints: list[str] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
    store = AsyncContextStore(file_path, timeout=0.5)
    loop.run_until_complete(store.open())
    descriptor = os.open(f"{file_path}-lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        abandoned = loop.create_task(store.put("run", "late", 1))
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()
        deadline = time.monotonic() + 30
        while core_of(store)._session.writer.queued:  # nobody is left whose timer would end it
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.close(descriptor)
    asyncio.run(store.close())
    # The task was given up on purpose: it goes with its store, here and now, and asyncio tells nobody but this test.
    del abandoned, store
    gc.collect()
    assert complaints == ["Task was destroyed but it is pending!"]
    with ContextStore(file_path) as opened:
        assert opened.list_keys("run") == ["node"]
