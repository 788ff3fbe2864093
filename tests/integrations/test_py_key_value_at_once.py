"""Many at once: tasks, threads, processes, loops of either kind; cancelled, killed and closed under calls."""

from __future__ import annotations

import asyncio
import pathlib
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import trio

pytest.importorskip("key_value.aio")

from contextstore import AsyncContextStore, ContextStore, StoreClosedError
from contextstore.integrations.py_key_value import ContextStoreKeyValue

from ..public.test_readme import ROOT

PROGRAM = """
import asyncio, sys
from contextstore.integrations.py_key_value import ContextStoreKeyValue

async def main(target, name):
    async with ContextStoreKeyValue.from_conn_string(target) as kv:
        print("ready", flush=True)
        n = 0
        while True:
            keys = [f"{name}-{n}-{m}" for m in range(8)]
            await kv.put_many(keys, [{"n": n}] * 8)
            await kv.put("newest", {"of": name, "n": n, "pad": "x" * 500})
            print(n, flush=True)
            n += 1

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def kv(target: str) -> AsyncIterator[ContextStoreKeyValue]:
    async with ContextStoreKeyValue.from_conn_string(target) as opened:
        yield opened


@pytest.mark.thorough
async def test_tasks_on_one_key_leave_the_value_of_one_of_them(kv: ContextStoreKeyValue) -> None:
    async def work(n: int) -> None:
        for m in range(5):
            await kv.put("k", {"n": n, "m": m, "again": [n, m]})
            got = await kv.get("k")
            assert got is not None
            assert got["again"] == [got["n"], got["m"]]

    await asyncio.gather(*(work(n) for n in range(64)))
    got = await kv.get("k")
    assert got is not None
    assert got["m"] == 4
    assert await kv.keys() == ["k"]


async def test_a_bulk_is_seen_whole_or_not_at_all(kv: ContextStoreKeyValue) -> None:
    keys = [f"{n}" for n in range(20)]

    async def write() -> None:
        for n in range(40):
            await kv.put_many(keys, [{"n": n}] * len(keys))
            if n % 4 == 3:
                await kv.delete_many(keys)

    writing = asyncio.create_task(write())
    while not writing.done():
        found = await kv.get_many(keys)
        assert all(one == found[0] for one in found)
    await writing


async def test_a_cancelled_put_is_there_whole_or_not_at_all(kv: ContextStoreKeyValue) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for n in range(40):
        keys = [f"{n}-{m}" for m in range(8)]
        task = asyncio.create_task(kv.put_many(keys, [{"n": n}] * 8, collection="c"))
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        found = await kv.get_many(keys, collection="c")
        assert found in ([{"n": n}] * 8, [None] * 8)
        assert isinstance(result, asyncio.CancelledError) or found == [{"n": n}] * 8
    await kv.put("k", {"a": 1})
    assert await kv.get("k") == {"a": 1}


async def test_calls_of_a_store_that_is_closed_under_them_end(target: str) -> None:
    store = AsyncContextStore(target)
    kv = ContextStoreKeyValue(store)
    await kv.put("k", {"a": 1})
    calls = [asyncio.create_task(kv.put(f"{n}", {"n": n})) for n in range(32)]
    calls += [asyncio.create_task(kv.get("k")) for _ in range(32)]
    await asyncio.sleep(0)
    await store.close()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [a for a in answers if not (a in (None, {"a": 1}) or isinstance(a, StoreClosedError))] == []
    written = [n for n, answer in enumerate(answers[:32]) if answer is None]
    async with ContextStoreKeyValue.from_conn_string(target) as again:
        assert await again.get_many([f"{n}" for n in written]) == [{"n": n} for n in written]


async def test_blocking_reads_answer_as_awaited_ones_do(target: str) -> None:
    async with ContextStoreKeyValue.from_conn_string(target, blocking_reads=True) as kv:
        await asyncio.gather(*(kv.put(f"{n}", {"n": n}, ttl=100) for n in range(16)))
        assert [await kv.get(f"{n}") for n in range(16)] == [{"n": n} for n in range(16)]
        value, left = await kv.ttl("3")
        assert value == {"n": 3}
        assert left is not None
        assert await kv.get("missing") is None
    with pytest.raises(StoreClosedError):
        await kv.get("3")
    async with AsyncContextStore(target) as store:  # opened by the first read
        store_of_its_own = AsyncContextStore(target)
        assert await ContextStoreKeyValue(store_of_its_own, blocking_reads=True).get("3") == {"n": 3}
        await store_of_its_own.close()
        assert await ContextStoreKeyValue(store.blocking, blocking_reads=True).get("3") == {"n": 3}


def test_one_object_serves_several_loops_one_after_the_other(target: str) -> None:
    with ContextStore(target) as store:
        kv = ContextStoreKeyValue(store)
        asyncio.run(kv.put("k", {"a": 1}))
        assert asyncio.run(kv.get("k")) == {"a": 1}
        assert trio.run(kv.get, "k") == {"a": 1}


def test_it_is_awaited_by_tasks_of_trios(target: str) -> None:
    async def main() -> None:
        async with ContextStoreKeyValue.from_conn_string(target) as kv:
            async with trio.open_nursery() as nursery:
                for n in range(16):
                    nursery.start_soon(kv.put, f"{n:02}", {"n": n})
            await kv.put_many(["16"], [{"n": 16}], ttl=100)
            assert await kv.get_many(["00", "16"]) == [{"n": 0}, {"n": 16}]
            assert len(await kv.keys()) == 17
            assert await kv.collections() == ["default_collection"]
            assert await kv.delete_many(["00", "16"]) == 2
            with trio.move_on_after(0):
                await kv.put("cancelled", {})
            await kv.cull()

    trio.run(main)


def _start(target: str, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, target, name],
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.thorough
@pytest.mark.disk
async def test_two_processes_share_it_and_what_they_were_told_survives_their_kill(target: str) -> None:
    running = {name: _start(target, name) for name in ("one", "two")}
    told: dict[str, int] = {}
    try:
        for name, process in running.items():
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for _ in range(10):
                told[name] = int(process.stdout.readline())
    finally:
        for process in running.values():
            process.send_signal(signal.SIGKILL)
    for name, process in running.items():
        assert process.stdout is not None
        told[name] = int((process.stdout.read().split("\n")[:-1] or [str(told[name])])[-1])
        process.stdout.close()
        process.wait()
    async with ContextStoreKeyValue.from_conn_string(target) as kv:
        for name, last in told.items():
            keys = [f"{name}-{n}-{m}" for n in range(last + 1) for m in range(8)]
            assert await kv.get_many(keys) == [{"n": n} for n in range(last + 1) for _ in range(8)]
            # What was under way when it was killed is there whole, or not at all.
            assert len({str(one) for one in await kv.get_many([f"{name}-{last + 1}-{m}" for m in range(8)])}) == 1
        newest = await kv.get("newest")
        assert newest is not None
        assert newest["n"] >= told[newest["of"]] - 1


async def test_what_one_process_writes_another_sees_at_once(target: str, tmp_path: pathlib.Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from contextstore.integrations.py_key_value import ContextStoreKeyValue\n"
        "async def main():\n"
        " async with ContextStoreKeyValue.from_conn_string(sys.argv[1]) as kv:\n"
        "  await kv.put('k', {'from': 'there'})\n"
        "asyncio.run(main())\n"
    )
    async with ContextStoreKeyValue.from_conn_string(target) as kv:
        await kv.put("k", {"from": "here"})
        assert await kv.get("k") == {"from": "here"}
        command = [sys.executable, "-c", program, target]
        done = await asyncio.to_thread(
            subprocess.run, command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert await kv.get("k") == {"from": "there"}
