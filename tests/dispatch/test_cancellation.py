"""Cancellation on the async face: at every await, and held at chosen points.

What must hold after each: what was written is there as a whole or not at all, no transaction stays open, nobody is
forgotten, nothing is left behind, and the store works on.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pathlib
import random
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from contextstore import AsyncContextStore, AsyncFlowRun, ContextStoreError

from ..contract.steps import waiters
from ..support.doubles import Gate, core_of, queued, until
from .cancelled import OPERATIONS, TURNS, VALUE, cancel_after, check_nothing_is_held


@pytest.fixture
async def store(file_path: pathlib.Path) -> AsyncIterator[AsyncContextStore]:
    async with AsyncContextStore(file_path, cache_bytes=0) as store:
        await store.put("run", "there", VALUE)
        await store.upsert_global("there", VALUE)
        yield store


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_operation_cancelled_at_any_await_is_done_or_not_and_hurts_nobody(
    operation: str, store: AsyncContextStore, file_path: pathlib.Path
) -> None:
    call, written, *_ = OPERATIONS[operation]
    for turns in TURNS:
        name = f"{operation} {turns}"
        outcome = await cancel_after(turns, call(store, name))
        assert outcome is None or not isinstance(outcome, ContextStoreError), (turns, outcome)
        await check_nothing_is_held(store, file_path)
        if written is not None:
            parts = await written(store, name)
            assert len(set(parts)) == 1, (turns, parts)
            if not isinstance(outcome, asyncio.CancelledError):
                assert all(parts), (turns, outcome)
        if not isinstance(outcome, asyncio.CancelledError):
            break
    await call(store, "not cancelled")


async def test_the_operations_that_are_cancelled_here_are_all_there_are() -> None:
    # What makes no promise of its own (run), or is not awaited. backup and close have tests of their own.
    others = {"open", "close", "backup", "run", "counters", "blocking", "location"}
    public = {name for name in vars(AsyncContextStore) if not name.startswith("_")}
    tried = {name.replace(",", "").split()[0] for name in OPERATIONS}
    of_runs = {name for name in vars(AsyncFlowRun) if not name.startswith("_")} - public
    assert public - others == tried - of_runs
    assert {"begin", "update", "info"} <= tried & of_runs


async def test_backup_cancelled_at_any_await_leaves_no_file_that_is_not_whole(
    store: AsyncContextStore, file_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for turns in TURNS:
        target = tmp_path / f"backup-{turns}.db"
        outcome = await cancel_after(turns, store.backup(target))
        await check_nothing_is_held(store, file_path)
        await until(lambda: not list(tmp_path.glob("*.part")))
        if target.exists():
            async with AsyncContextStore(target) as copy:
                assert await copy.get("run", "there") == VALUE
        if outcome is None:
            break


async def test_open_cancelled_at_any_await_goes_on_in_the_background_and_the_next_call_finds_it_open(
    tmp_path: pathlib.Path,
) -> None:
    for turns in TURNS:
        store = AsyncContextStore(tmp_path / f"{turns}.db")
        outcome = await cancel_after(turns, store.open())
        assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        await store.put("run", "node", turns)
        assert await store.get("run", "node") == turns
        await store.close()
        if outcome is None:
            break


async def test_a_first_call_cancelled_while_it_opens_stores_nothing(file_path: pathlib.Path) -> None:
    for turns in TURNS[:12]:
        store = AsyncContextStore(file_path)
        outcome = await cancel_after(turns, store.put("run", f"{turns}", 1))
        async with store:
            assert (await store.get("run", f"{turns}") == 1) or isinstance(outcome, asyncio.CancelledError)


async def test_one_of_several_that_open_may_be_cancelled_without_harm_to_the_others(file_path: pathlib.Path) -> None:
    with held_file_lock(file_path):
        store = AsyncContextStore(file_path)
        tasks = [asyncio.ensure_future(store.put("run", f"{i}", i)) for i in range(4)]
        await asyncio.sleep(0.02)
        tasks[0].cancel()
        tasks[2].cancel()
        await asyncio.wait(tasks[::2])
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, type(None)] * 2
    assert await store.list_keys("run") == ["1", "3"]
    await store.close()


async def test_close_cancelled_at_any_await_closes_all_the_same(tmp_path: pathlib.Path) -> None:
    for turns in TURNS:
        path = tmp_path / f"{turns}.db"
        store = AsyncContextStore(path)
        accepted = asyncio.ensure_future(store.put("run", "node", 1))
        await until(lambda store=store: core_of(store)._session.state.name == "OPEN")
        await asyncio.sleep(0)
        outcome = await cancel_after(turns, store.close())
        await accepted
        await store.close()  # waits for what the first one has begun
        assert not list(path.parent.glob(f"{path.name}-wal"))
        async with AsyncContextStore(path) as again:
            assert await again.get("run", "node") == 1
        if outcome is None:
            break


async def test_close_cancelled_while_a_commit_holds_it_up_is_finished_in_the_background(
    file_path: pathlib.Path,
) -> None:
    store = AsyncContextStore(file_path)
    await store.open()
    gate = Gate(store)
    put = asyncio.ensure_future(store.put("run", "node", 1))
    await gate.wait_for_arrival()
    closing = [asyncio.ensure_future(store.close()) for _ in range(3)]
    await asyncio.sleep(0.02)
    for task in closing[:2]:
        task.cancel()
    await asyncio.wait(closing[:2])
    assert not closing[2].done()
    assert not put.done()
    gate.open()
    await asyncio.gather(put, closing[2])
    await until(lambda: not any(str(file_path) in thread.name for thread in threading.enumerate()))


# ----------------------------------------------------------------------------------------- held at a chosen point


@contextlib.contextmanager
def held_file_lock(path: pathlib.Path) -> Iterator[None]:
    """The lock file, held as another process would."""
    descriptor = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held_reads(store: AsyncContextStore) -> Iterator[None]:
    """The places where the store reads, and where it counts and lists, each held by a job."""
    opened = threading.Event()

    async def hold() -> None:
        assert opened.wait(60)

    core_of(store)._session.engine.post_read(hold)
    core_of(store)._session.engine.post_scan(hold)
    try:
        yield
    finally:
        opened.set()


PLAIN_WRITES = ["put", "put_global", "upsert_global", "put_many", "append", "append with a key", "batch"]


@pytest.mark.parametrize("operation", PLAIN_WRITES)
async def test_a_write_cancelled_while_another_process_holds_the_lock_stores_nothing(
    operation: str, store: AsyncContextStore, file_path: pathlib.Path
) -> None:
    call, written, *_ = OPERATIONS[operation]
    assert written is not None
    with held_file_lock(file_path):
        task = asyncio.ensure_future(call(store, "name"))
        await until(lambda: queued(store) == 1)
        await asyncio.sleep(0.01)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError)
        assert core_of(store)._session.writer.queued_bytes == 0
    await check_nothing_is_held(store, file_path)
    assert not any(await written(store, "name"))


@pytest.mark.parametrize("operation", PLAIN_WRITES)
async def test_a_write_cancelled_while_it_is_committed_returns_at_once_and_is_finished(
    operation: str, store: AsyncContextStore, file_path: pathlib.Path
) -> None:
    call, written, *_ = OPERATIONS[operation]
    assert written is not None
    gate = Gate(store)
    task = asyncio.ensure_future(call(store, "name"))
    await gate.wait_for_arrival()
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)  # the gate is still shut
    assert isinstance(outcome, asyncio.CancelledError)
    gate.open()
    await check_nothing_is_held(store, file_path)
    assert all(await written(store, "name"))


PLAIN_READS = [
    "get, cold", "get_global", "get_globals", "list_keys", "list_outputs", "exists", "get_many", "get_outputs",
    "list_runs", "attempts",
]  # fmt: skip


@pytest.mark.parametrize("operation", PLAIN_READS)
async def test_a_read_cancelled_while_it_waits_returns_at_once_and_the_next_ones_are_served(
    operation: str, store: AsyncContextStore, file_path: pathlib.Path
) -> None:
    with held_reads(store):
        tasks = [asyncio.ensure_future(OPERATIONS[operation].call(store, "name")) for _ in range(3)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        tasks[1].cancel()
        outcomes = await asyncio.gather(*tasks[:2], return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        assert not tasks[2].done()
    await tasks[2]
    await check_nothing_is_held(store, file_path)


async def test_of_a_crowd_cancelled_while_it_is_queued_exactly_the_others_are_stored(
    store: AsyncContextStore, file_path: pathlib.Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with held_file_lock(file_path):
        tasks = {f"{i}": asyncio.ensure_future(store.put("crowd", f"{i}", VALUE)) for i in range(500)}
        await until(lambda: queued(store) == 500)
        doomed = {name for name in tasks if chance.random() < 0.5}
        for name in doomed:
            tasks[name].cancel()
        await asyncio.wait([tasks[name] for name in doomed])
    outcomes = await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert {name for name, outcome in zip(tasks, outcomes, strict=True) if outcome is not None} == doomed, seed
    assert set(await store.list_keys("crowd")) == set(tasks) - doomed, seed
    await check_nothing_is_held(store, file_path)


async def test_updates_of_one_global_go_on_when_those_that_queue_for_it_are_cancelled(
    store: AsyncContextStore, file_path: pathlib.Path
) -> None:
    await store.upsert_global("count", 0)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    tasks = [asyncio.ensure_future(store.update_global("count", lambda n: n + 1)) for _ in range(100)]
    for task in tasks:
        if chance.random() < 0.5:
            await asyncio.sleep(chance.choice([0, 0, 0.0002]))
            task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    done = [outcome for outcome in outcomes if not isinstance(outcome, asyncio.CancelledError)]
    assert len(set(done)) == len(done), seed  # no update was lost
    assert await store.update_global("count", lambda n: n + 1) > len(done)
    assert not core_of(store)._core.backend.updates._queues
    await check_nothing_is_held(store, file_path)


async def test_a_factory_is_cancelled_when_all_who_wait_for_it_are(store: AsyncContextStore) -> None:
    begun: list[str] = []
    ended: list[str] = []

    async def endless() -> None:
        begun.append("computing")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    tasks = [asyncio.ensure_future(store.get_or_put("run", "node", endless)) for _ in range(3)]
    await until(lambda: begun and waiters(store) == 2)
    for task in tasks[:2]:
        task.cancel()
    await asyncio.wait(tasks[:2])
    assert not ended
    tasks[2].cancel()
    await asyncio.wait(tasks)
    await until(lambda: ended)
    assert await store.get_or_put("run", "node", lambda: 1) == 1
