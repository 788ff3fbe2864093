"""Cancellation on the async face: at every await, held at chosen points, and in storms.

What must hold after each: what was written is there as a whole or not at all, no transaction stays open, nobody is
forgotten, nothing is left behind, and the store works on.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import fcntl
import gc
import inspect
import itertools
import os
import pathlib
import random
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import anyio
import blockbuster
import pytest

from contextstore import AsyncContextStore, ContextStoreError

from ..support.doubles import Gate, core_of, queued, until

VALUE = {"text": "x" * 500, "numbers": list(range(50))}


class Operation(NamedTuple):
    """A public call to be cancelled. Each is run on names of its own, with an output and a global there already."""

    call: Callable[[AsyncContextStore, str], Awaitable[Any]]
    written: Callable[[AsyncContextStore, str], Awaitable[list[bool]]] | None = None
    """Whether each part of what it writes is there, as it should be. All of them, or none."""


async def _batch(store: AsyncContextStore, name: str) -> None:
    async with store.batch() as batch:
        batch.put(name, "one", VALUE)
        batch.put(name, "two", VALUE)
        batch.upsert_global(name, VALUE)


async def _iterate(store: AsyncContextStore, name: str) -> None:
    async for _ in store.iter_outputs("run"):
        pass


async def _watch_one(store: AsyncContextStore, name: str) -> None:
    async with contextlib.aclosing(store.watch("run")) as outputs:
        async for _ in outputs:
            return


async def _compute() -> Any:
    await asyncio.sleep(0)
    return VALUE


async def _outputs(store: AsyncContextStore, name: str, *nodes: str) -> list[bool]:
    return [await store.get(name, node) == VALUE for node in nodes]


async def _output(store: AsyncContextStore, name: str) -> list[bool]:
    return await _outputs(store, name, "one")


async def _global(store: AsyncContextStore, name: str) -> list[bool]:
    return [await store.get_global(name) == VALUE]


async def _both(store: AsyncContextStore, name: str) -> list[bool]:
    return await _outputs(store, name, "one", "two")


async def _both_and_global(store: AsyncContextStore, name: str) -> list[bool]:
    return await _both(store, name) + await _global(store, name)


OPERATIONS = {
    "put": Operation(lambda store, name: store.put(name, "one", VALUE), _output),
    "put exist_ok": Operation(lambda store, name: store.put("run", "there", VALUE, exist_ok=True)),
    "put_global": Operation(lambda store, name: store.put_global(name, VALUE), _global),
    "upsert_global": Operation(lambda store, name: store.upsert_global(name, VALUE), _global),
    "update_global": Operation(lambda store, name: store.update_global(name, lambda _: VALUE), _global),
    "update_global with a coroutine function": Operation(
        lambda store, name: store.update_global(name, lambda _: _compute()), _global
    ),
    "put_many": Operation(lambda store, name: store.put_many(name, {"one": VALUE, "two": VALUE}), _both),
    "batch": Operation(_batch, _both_and_global),
    "get_or_put": Operation(lambda store, name: store.get_or_put(name, "one", _compute), _output),
    "fork_run": Operation(lambda store, name: store.fork_run("run", new_flow_run_id=name)),
    "delete_outputs": Operation(lambda store, name: store.delete_outputs(name, prefix="")),
    "delete_run": Operation(lambda store, name: store.delete_run(name)),
    "delete_global": Operation(lambda store, name: store.delete_global(name)),
    "prune": Operation(lambda store, name: store.prune(older_than=datetime.timedelta(days=1))),
    "get, cold": Operation(lambda store, name: store.get("run", "there")),
    "get, missing": Operation(lambda store, name: store.get(name, "missing")),
    "get_global": Operation(lambda store, name: store.get_global("there")),
    "get_global_entry": Operation(lambda store, name: store.get_global_entry("there")),
    "list_globals": Operation(lambda store, name: store.list_globals()),
    "list_keys": Operation(lambda store, name: store.list_keys("run")),
    "exists": Operation(lambda store, name: store.exists("run", "there")),
    "get_entry": Operation(lambda store, name: store.get_entry("run", "there")),
    "get_many": Operation(lambda store, name: store.get_many("run", ["there", "missing"])),
    "get_run": Operation(lambda store, name: store.get_run("run")),
    "iter_outputs": Operation(_iterate),
    "list_runs": Operation(lambda store, name: store.list_runs(limit=3)),
    "wait_for": Operation(lambda store, name: store.wait_for("run", "there")),
    "watch": Operation(_watch_one),
    "stats": Operation(lambda store, name: store.stats()),
    "ping": Operation(lambda store, name: store.ping()),
    "check": Operation(lambda store, name: store.check()),
}
WRITES = [name for name, operation in OPERATIONS.items() if operation.written is not None]

TURNS = [*range(12), *(int(12 * 1.5**i) for i in range(1, 12))]
"""After how many turns of the loop an operation is cancelled. Most have ended by themselves long before the last."""


@pytest.fixture
async def store(file_path: pathlib.Path) -> AsyncIterator[AsyncContextStore]:
    async with AsyncContextStore(file_path, cache_bytes=0) as store:
        await store.put("run", "there", VALUE)
        await store.upsert_global("there", VALUE)
        yield store


async def cancel_after(turns: int, call: Awaitable[Any]) -> Any:
    """What became of a call that was cancelled after so many turns of the loop."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    task.cancel()
    return (await asyncio.gather(task, return_exceptions=True))[0]


async def check_nothing_is_held(store: AsyncContextStore, path: pathlib.Path) -> None:
    """The store works on, for this process and others, and has forgotten nobody."""
    core: Any = core_of(store)
    fresh = f"{random.getrandbits(64)}"
    await store.put("after", fresh, 1)  # behind whatever is still being finished in the background
    assert await store.get("after", fresh) == 1
    assert (queued(store), core._session.writer.queued_bytes) == (0, 0)
    assert not core._session.reader._wanted
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")


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
    others = {"open", "close", "backup", "run", "counters", "blocking"}
    public = {name for name in vars(AsyncContextStore) if not name.startswith("_")}
    tried = {name.replace(",", "").split()[0] for name in OPERATIONS}
    assert public - others == tried


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


PLAIN_WRITES = ["put", "put_global", "upsert_global", "put_many", "batch"]


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


@pytest.mark.parametrize("operation", ["get, cold", "get_global", "list_keys", "exists", "get_many", "list_runs"])
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
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    tasks = [asyncio.ensure_future(store.get_or_put("run", "node", endless)) for _ in range(3)]
    await asyncio.sleep(0.02)
    for task in tasks[:2]:
        task.cancel()
    await asyncio.wait(tasks[:2])
    assert not ended
    tasks[2].cancel()
    await asyncio.wait(tasks)
    await until(lambda: ended)
    assert await store.get_or_put("run", "node", lambda: 1) == 1


# --------------------------------------------------------------------------------------------------------------- storms


async def _task_cancel(call: Awaitable[Any], seconds: float) -> Any:
    task = asyncio.ensure_future(call)
    await asyncio.sleep(seconds)
    task.cancel()
    return await task


async def _timeout(call: Awaitable[Any], seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        return await call


async def _wait_for(call: Awaitable[Any], seconds: float) -> Any:
    return await asyncio.wait_for(call, seconds)


async def _move_on(call: Awaitable[Any], seconds: float) -> Any:
    with anyio.move_on_after(seconds):
        return await call
    raise TimeoutError


async def _cancel_scope(call: Awaitable[Any], seconds: float) -> Any:
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(seconds, scope.cancel)
        return await call
    raise TimeoutError


async def _task_group(call: Awaitable[Any], seconds: float) -> Any:
    results: list[Any] = []

    async def run() -> None:
        results.append(await call)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await asyncio.sleep(seconds)
        group.cancel_scope.cancel()
    if not results:
        raise TimeoutError
    return results[0]


WAYS = [_task_cancel, _timeout, _wait_for, _move_on, _cancel_scope, _task_group]


async def storm(store: AsyncContextStore, chance: random.Random, calls: int, serial: Iterator[int]) -> dict[str, int]:
    """Put and read with cancellations all over; returns what was acknowledged."""
    acknowledged: dict[str, int] = {}

    async def one(number: int) -> None:
        node = f"{number:06}"
        call: Any
        if number % 4:
            call = store.put("storm", node, [number, "x" * (number % 700)])
        else:
            call = chance.choice(
                [
                    lambda: store.get("storm", f"{max(0, number - 50):06}"),
                    lambda: store.list_keys("storm", prefix=node[:4]),
                    lambda: store.get_global("there"),
                    lambda: store.upsert_global("there", VALUE),
                ]
            )()
        try:
            await chance.choice(WAYS)(call, chance.choice([0, 0.0001, 0.0005, 0.002, 0.01, 0.03]))
        except (TimeoutError, asyncio.CancelledError):
            return
        finally:
            if inspect.iscoroutine(call):
                call.close()  # a scope may be left before the call was begun
        if number % 4:
            acknowledged[node] = number

    for _ in range(calls // 100):
        await asyncio.gather(*(one(next(serial)) for _ in range(100)))
        await asyncio.sleep(chance.choice([0, 0.001]))
    return acknowledged


async def test_in_a_storm_of_cancellations_what_was_acknowledged_is_there_and_nothing_is_half_there(
    store: AsyncContextStore, file_path: pathlib.Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    acknowledged = await storm(store, random.Random(seed), 4000, itertools.count())
    assert len(acknowledged) > 100
    await check_nothing_is_held(store, file_path)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    present = await store.get_run("storm")
    assert set(acknowledged) <= set(present), seed
    assert all(value == [int(node), "x" * (int(node) % 700)] for node, value in present.items()), seed
    assert (await store.check()).problems == ()


def test_a_storm_of_cancellations_leaves_no_task_thread_file_or_memory_behind(file_path: pathlib.Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    serial = itertools.count()
    sizes = []

    async def main() -> None:
        async with AsyncContextStore(file_path, cache_bytes=0) as store:
            await store.upsert_global("there", VALUE)
            for _ in range(3):
                await storm(store, chance, 600, serial)
                await check_nothing_is_held(store, file_path)
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
            assert asyncio.all_tasks() == {asyncio.current_task()}

    tracemalloc.start()
    try:
        asyncio.run(main())
    finally:
        tracemalloc.stop()
    # 600 forgotten writes or waiters would be more.
    assert sizes[-1] - sizes[0] < 150_000, (seed, sizes)
    assert len(os.listdir("/proc/self/fd")) == files
    # The thread that watches for the end of the interpreter stays, if this was the first store of the process.
    assert threading.active_count() <= threads + 1


# ------------------------------------------------------------------------------------------------------ the event loop


@pytest.fixture
def no_blocking_call() -> Iterator[None]:
    with blockbuster.blockbuster_ctx() as detector:
        for function in detector.functions.values():
            function.can_block_in("contextstore/_dispatch/host.py", "_run")  # the engine's loop is there to be blocked
            function.can_block_in("contextstore/_core/target.py", "engine_for")  # asks for the current folder, once
            function.can_block_in("contextstore/_waiting/timer.py", "look")  # a busy loop's breath of 0.2 ms
        yield


async def test_no_call_blocks_the_event_loop(no_blocking_call: None, file_path: pathlib.Path) -> None:
    with pytest.raises(blockbuster.BlockingError):
        os.stat(file_path.parent)
    store = AsyncContextStore(file_path, cache_bytes=0)
    await asyncio.gather(store.open(), store.open())
    await store.put("run", "there", VALUE)
    await store.upsert_global("there", VALUE)
    await asyncio.gather(*(store.put("run", f"{i}", VALUE) for i in range(50)))
    for name, operation in OPERATIONS.items():
        await operation.call(store, f"unblocked {name}")
    tasks = [asyncio.ensure_future(store.put("run", f"last {i}", VALUE)) for i in range(10)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    await asyncio.gather(*tasks)


async def test_beside_a_task_that_keeps_the_loop_busy_calls_come_to_their_end(file_path: pathlib.Path) -> None:
    # Each turn leaves the GIL for a moment too short for another thread to take it: without a breath now and then each
    # of these takes up to 30 seconds.
    async def busy() -> None:
        while True:
            end = time.perf_counter() + 0.001
            while time.perf_counter() < end:
                pass
            await asyncio.sleep(0)

    other = asyncio.ensure_future(busy())
    try:
        async with asyncio.timeout(60), AsyncContextStore(file_path, cache_bytes=0) as store:
            for number in range(30):
                await store.put("run", f"{number}", number)
                assert await store.get("run", f"{number}") == number
            assert (await store.check()).ok
        assert not other.done()
    finally:
        other.cancel()
