"""Storms of cancellations, and calls beside a busy event loop: nothing is left behind, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import os
import pathlib
import random
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import anyio
import blockbuster
import pytest

from contextstore import AsyncContextStore

from .cancelled import OPERATIONS, VALUE, check_nothing_is_held


@pytest.fixture
async def store(file_path: pathlib.Path) -> AsyncIterator[AsyncContextStore]:
    async with AsyncContextStore(file_path, cache_bytes=0) as store:
        await store.put("run", "there", VALUE)
        await store.upsert_global("there", VALUE)
        yield store


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
