"""Any loop: an object that is made once serves one loop after the other, on both faces, and keeps nothing of them."""

from __future__ import annotations

import asyncio
import gc
import os
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio

from contextstore import AsyncContextStore, ContextStore

from ..support.processes import run

MADE: dict[str, Callable[[pathlib.Path], Any]] = {
    "awaitable": lambda path: ContextStore(path).awaitable,
    "own": AsyncContextStore,
}
RUNS: dict[str, Callable[..., Any]] = {"asyncio": lambda call, *args: asyncio.run(call(*args)), "trio": trio.run}


def resident() -> int:
    """Bytes of memory that the process has; 0 where the system does not say."""
    statm = pathlib.Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("times", [100, pytest.param(3_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_so_many_loops_on_one_object_leave_nothing(file_path: pathlib.Path, kind: str, made: str, times: int) -> None:
    store = MADE[made](file_path)
    run_one = RUNS[kind]

    async def work(number: int) -> None:
        await store.upsert_global("key", number)
        await store.get_or_put("run", f"{number % 100}", lambda: 1)
        with pytest.raises(TimeoutError):
            await store.wait_for("run", "never", timeout=0)
        assert await store.get("run", "0") == 1

    for number in range(100):
        run_one(work, number)
    gc.collect()
    threads, memory, objects = threading.active_count(), resident(), len(gc.get_objects())
    for number in range(times):
        run_one(work, number)
    gc.collect()
    assert threading.active_count() == threads
    assert len(gc.get_objects()) < objects + 600  # 0.2 a loop
    assert resident() <= memory + 16 * 2**20
    assert dict(store._core.session.callers._timers) == {}
    store.blocking.close()


@pytest.mark.parametrize("face", ["store", "store.awaitable"])
def test_an_object_that_is_made_at_import_serves_both_kinds_of_loops_and_threads(
    file_path: pathlib.Path, face: str
) -> None:
    program = f"""
        import trio

        store = {"AsyncContextStore" if face == "store" else "ContextStore"}(sys.argv[1])
        awaited, blocking = {face}, {"store.blocking" if face == "store" else "store"}

        async def put(name):
            await awaited.put("run", name, 1)

        asyncio.run(put("of asyncio"))
        trio.run(put, "of trio")
        thread = threading.Thread(target=lambda: asyncio.run(put("of a loop in a thread")))
        thread.start()
        thread.join()
        blocking.put("run", "of no loop", 1)
        asyncio.run(put("of another loop"))
        say(len(blocking.list_keys("run")))
        trio.run(awaited.close)
    """
    assert run(program, file_path, options=["-W", "error"]) == ["5"]


async def test_a_loop_that_calls_the_blocking_face_and_awaits_the_other_goes_on(file_path: pathlib.Path) -> None:
    async with AsyncContextStore(file_path) as store:
        puts = [asyncio.ensure_future(store.put("run", f"task {number}", 1)) for number in range(20)]
        await asyncio.sleep(0)
        for number in range(20):
            store.blocking.put("run", f"here {number}", 1)
        await asyncio.gather(*puts)
        assert len(store.blocking.list_keys("run")) == 40
