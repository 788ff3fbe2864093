"""What is measured: small functions, each of one workload, each with its size.

Times are seconds per operation. Contestants take turns round by round, so that a noisy moment hits all of them, and
what is compared is the ratio within a round.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pathlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import orjson

from contextstore import AsyncContextStore, ContextStore

from .contestants import INSERT, RUN, VALUE, Aiosqlite, Contestant, Lmdb, Ours, RawSQLite, RawSQLiteTogether, available

Times = dict[str, list[float]]
"""Seconds per operation, a figure for each round, by who was measured."""
_numbers = itertools.count()


class Size(NamedTuple):
    """How much is done: a full run, a quick one, or just enough to see that it works."""

    rounds: int
    operations: int
    rows: int


FULL, QUICK, TINY = Size(15, 192, 1_000_000), Size(5, 64, 100_000), Size(1, 4, 300)


def keys(count: int) -> list[str]:
    return [f"node-{next(_numbers):09}" for _ in range(count)]


@contextlib.asynccontextmanager
async def opened(contestants: Sequence[Contestant], durability: str) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="contextstore-benchmark-"))
        for contestant in contestants:
            await contestant.open(pathlib.Path(folder), durability)
            stack.push_async_callback(contestant.close)
        yield


def competing(durability: str) -> list[Contestant]:
    return [one for one in available()[0] if durability in one.durabilities]


async def timed(
    work: Callable[[], Awaitable[Any]], operations: int, warm_up: Callable[[], Awaitable[Any]] | None = None
) -> float:
    """Seconds per operation. The warm-up is not counted: after others' turns the processor's caches are theirs."""
    if warm_up is not None:
        await warm_up()
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) / operations


async def in_turns(workloads: dict[str, Callable[[], Awaitable[float]]], rounds: int) -> Times:
    times: Times = {name: [] for name in workloads}
    for work in workloads.values():  # once to warm up
        await work()
    for _ in range(rounds):
        for name, work in workloads.items():
            times[name].append(await work())
    return times


async def sequential_puts(size: Size, durability: str, contestants: Sequence[Contestant] | None = None) -> Times:
    """One put after the other."""
    chosen = contestants or [one for one in competing(durability) if not isinstance(one, RawSQLiteTogether)]

    def work(one: Contestant) -> Callable[[], Awaitable[float]]:
        async def puts(count: int) -> None:
            for key in keys(count):
                await one.put(key)

        return lambda: timed(lambda: puts(size.operations // 4), size.operations // 4, lambda: puts(8))

    async with opened(chosen, durability):
        return await in_turns({one.name: work(one) for one in chosen}, size.rounds)


async def concurrent_puts(size: Size, durability: str, at_once: int) -> Times:
    """So many tasks, a put each, again and again. Blocking contestants can only do them one after the other."""
    chosen = [one for one in competing(durability) if one.name != "contextstore (sync)"]

    def work(one: Contestant) -> Callable[[], Awaitable[float]]:
        groups = max(1, size.operations // at_once)

        async def puts(count: int) -> None:
            for _ in range(count):
                await one.put_all(keys(at_once))

        return lambda: timed(lambda: puts(groups), groups * at_once, lambda: puts(1))

    async with opened(chosen, durability):
        return await in_turns({one.name: work(one) for one in chosen}, size.rounds)


async def repeated_gets(size: Size) -> Times:
    """The same 64 outputs, again and again; and ours without a cache, one at a time and 64 at once."""
    chosen = [one for one in available()[0] if one.has_get]
    uncached = Ours(cache_bytes=0)
    uncached.name = "contextstore, no cache"
    hop = next((one for one in chosen if isinstance(one, Aiosqlite)), Aiosqlite())
    names = keys(64)
    count = size.operations * 8 // 64 or 1

    def one_by_one(one: Contestant) -> Callable[[], Awaitable[float]]:
        async def gets() -> None:
            for _ in range(count):
                for name in names:
                    await one.get(name)

        return lambda: timed(gets, count * 64)

    def blocking(store: ContextStore) -> Callable[[], Awaitable[float]]:
        async def gets() -> None:
            for _ in range(count):
                for name in names:
                    store.get(RUN, name)

        return lambda: timed(gets, count * 64)

    def awaited(store: AsyncContextStore) -> Callable[[], Awaitable[float]]:
        async def gets() -> None:
            for _ in range(count):
                for name in names:
                    await store.get(RUN, name)

        return lambda: timed(gets, count * 64)

    def plain(one: Lmdb) -> Callable[[], Awaitable[float]]:
        async def gets() -> None:
            for _ in range(count):
                for name in names:
                    one.get_now(name)

        return lambda: timed(gets, count * 64)

    async def all_at_once() -> None:
        for _ in range(count):
            await asyncio.gather(*(uncached.get(name) for name in names))

    async def hops() -> None:
        for _ in range(count * 16):
            await hop.hop()

    async with opened([*chosen, *([uncached] if uncached not in chosen else [])], "normal"):
        for one in chosen:
            await one.put_all(names)
        await uncached.put_all(names)
        workloads: dict[str, Callable[[], Awaitable[float]]] = {}
        for one in chosen:
            if isinstance(one, Ours):
                workloads[one.name] = awaited(one.store)
            elif isinstance(one, Lmdb):
                workloads[one.name] = plain(one)
            elif one.name == "contextstore (sync)":
                workloads[one.name] = blocking(one.store)  # type: ignore[attr-defined]
            elif one.name != RawSQLiteTogether.name:
                workloads[one.name] = one_by_one(one)
        workloads[uncached.name] = one_by_one(uncached)
        workloads["contextstore, no cache, 64 at once"] = lambda: timed(all_at_once, count * 64)
        workloads["one aiosqlite hop"] = lambda: timed(hops, count * 16)
        return await in_turns(workloads, size.rounds)


async def threads_of_puts(size: Size, durability: str) -> Times:
    """Eight threads with the blocking face, and one thread that puts the same number with sqlite3."""
    raw = RawSQLite()
    with (
        tempfile.TemporaryDirectory(prefix="contextstore-benchmark-") as folder,
        ContextStore(pathlib.Path(folder) / "threads.db", durability=durability) as store,  # type: ignore[arg-type]
    ):
        await raw.open(pathlib.Path(folder), durability)
        each = size.operations // 8 or 1

        async def by_threads() -> float:
            names = [keys(each) for _ in range(8)]

            def puts(some: list[str]) -> None:
                for name in some:
                    store.put(RUN, name, VALUE)

            threads = [threading.Thread(target=puts, args=(some,)) for some in names]
            began = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return (time.perf_counter() - began) / (8 * each)

        async def one_by_one() -> None:
            for name in keys(each * 8):
                await raw.put(name)

        times = await in_turns(
            {"eight threads": by_threads, "sqlite3": lambda: timed(one_by_one, each * 8)}, size.rounds
        )
        await raw.close()
        return times


async def gets_beside_writes(size: Size) -> Times:
    """One get after the other, without a cache, while eight others write durably all the time."""
    names = keys(64)
    ours, raw, aio = Ours(cache_bytes=0), RawSQLite(), Aiosqlite()

    def beside(
        writers: Callable[[asyncio.Event], Awaitable[Any]], get: Callable[[str], Awaitable[Any]]
    ) -> Callable[[], Awaitable[float]]:
        async def gets() -> None:
            for name in names[: size.operations]:
                await get(name)

        async def work() -> float:
            stopped = asyncio.Event()
            writing = asyncio.ensure_future(writers(stopped))
            await asyncio.sleep(0.01)
            try:
                return await timed(gets, len(names[: size.operations]))
            finally:
                stopped.set()
                await writing

        return work

    def tasks(one: Contestant) -> Callable[[asyncio.Event], Awaitable[Any]]:
        async def put(stopped: asyncio.Event) -> None:
            while not stopped.is_set():
                await one.put(keys(1)[0])

        return lambda stopped: asyncio.gather(*(put(stopped) for _ in range(8)))

    async def thread(stopped: asyncio.Event) -> None:
        """Eight tasks cannot block one loop: one thread, with a connection of its own, writes as fast as it can."""

        def write() -> None:
            with contextlib.closing(sqlite3.connect(raw.path, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                while not stopped.is_set():
                    connection.execute(INSERT, (RUN, keys(1)[0], orjson.dumps(VALUE).decode()))

        await asyncio.to_thread(write)

    async with opened([ours, raw, aio], "full"):
        for one in (ours, raw, aio):
            await one.put_all(names)
        workloads = {
            "contextstore": beside(tasks(ours), ours.get),
            "sqlite3": beside(thread, raw.get),
            "aiosqlite": beside(tasks(aio), aio.get),
        }
        return await in_turns(workloads, size.rounds)


async def puts_on_a_busy_loop(size: Size) -> Times:
    """One put after the other, while another task works for a millisecond at each turn of the loop.

    Not aiosqlite: its thread gets the GIL about once a second then, and a single put took up to 32 seconds.
    """
    chosen: list[Contestant] = [Ours(), RawSQLite()]

    async def busy() -> None:
        while True:
            end = time.perf_counter() + 0.001
            while time.perf_counter() < end:
                pass
            await asyncio.sleep(0)

    def work(one: Contestant) -> Callable[[], Awaitable[float]]:
        async def puts() -> None:
            for key in keys(size.operations // 4):
                await one.put(key)
                await asyncio.sleep(0)  # for those that block the loop

        async def beside() -> float:
            other = asyncio.ensure_future(busy())
            try:
                return await timed(puts, size.operations // 4)
            finally:
                other.cancel()

        return beside

    async with opened(chosen, "full"):
        return await in_turns({one.name: work(one) for one in chosen}, size.rounds)


async def values_of(size: Size, value_bytes: int) -> Times:
    """Durable puts of one large value at a time, against sqlite3."""
    with tempfile.TemporaryDirectory(prefix="contextstore-benchmark-") as folder:
        value = "x" * (value_bytes - 2)
        raw = RawSQLite()
        await raw.open(pathlib.Path(folder), "full")
        async with AsyncContextStore(pathlib.Path(folder) / "values.db", cache_bytes=0) as store:

            async def ours() -> None:
                for name in keys(8):
                    await store.put(RUN, name, value)

            async def theirs() -> None:
                for name in keys(8):
                    raw.connection.execute("INSERT INTO outputs VALUES (?, ?, ?)", (RUN, name, f'"{value}"'))

            times = await in_turns(
                {"contextstore": lambda: timed(ours, 8), "sqlite3": lambda: timed(theirs, 8)}, size.rounds
            )
        await raw.close()
        return times


async def growing(size: Size) -> dict[str, float]:
    """One store, filled: puts at a hundredth of its rows and at all of them; then listing, memory, size."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="contextstore-benchmark-") as folder:
        path = pathlib.Path(folder) / "growing.db"
        async with AsyncContextStore(path, cache_bytes=0) as store:

            async def fill(rows: int, run: str) -> None:
                for start in range(0, rows, 5000):
                    await store.put_many(run, {f"{i:08}": VALUE for i in range(start, min(start + 5000, rows))})

            async def puts() -> float:
                async def put() -> None:
                    await store.put("puts", keys(1)[0], VALUE)

                return statistics.median([await timed(put, 1) for _ in range(size.rounds * 4)])

            await fill(size.rows // 100, "small")
            await store.put("puts", "warm", 1)
            figures["put, small"] = await puts()
            await fill(size.rows - size.rows // 100, "large")
            await asyncio.sleep(0.5)
            figures["put, large"] = await puts()
            for nodes in (10, 1000, min(100_000, size.rows // 10)):
                await fill(nodes, f"run of {nodes}")
                lists = [await timed(lambda: store.list_keys(f"run of {nodes}"), nodes) for _ in range(3)]  # noqa: B023
                figures[f"list_keys of {nodes:,} nodes, µs a node"] = statistics.median(lists) * 1e6
            figures["bytes an output"] = (await store.stats()).file_bytes / size.rows
            figures["iteration"] = await timed(lambda: _iterate(store, "large", figures), size.rows)
    return figures


async def _iterate(store: AsyncContextStore, run: str, figures: dict[str, float]) -> None:
    seen = 0
    async for _ in store.iter_outputs(run):
        seen += 1
        if seen == 2000:
            figures["MB at first"] = _resident_mb()
    figures["MB at last"] = _resident_mb()


def _resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


_PROCESS = """
    import asyncio, sys, time
    from contextstore import AsyncContextStore
    from benchmarks.contestants import VALUE
    async def main(path, name, seconds):
        waits = []
        async with AsyncContextStore(path) as store:
            await store.put(name, "first", 1)
            print("ready", flush=True)
            sys.stdin.readline()
            end, number = time.perf_counter() + seconds, 0
            async def put(key):
                began = time.perf_counter()
                await store.put(name, key, VALUE)
                waits.append(time.perf_counter() - began)
            while time.perf_counter() < end:
                await asyncio.gather(*(put(f"{number}-{i}") for i in range(16)))
                number += 1
        waits.sort()
        print(len(waits), waits[len(waits) // 2], waits[-1], flush=True)
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
"""


def processes(count: int, seconds: float) -> list[tuple[int, float, float]]:
    """For each of so many processes on one file: its puts, its median wait and its longest."""
    with tempfile.TemporaryDirectory(prefix="contextstore-benchmark-") as folder:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(_PROCESS), f"{folder}/store.db", str(number), str(seconds)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for number in range(count)
        ]  # fmt: skip
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        results = []
        for process in started:
            said, _ = process.communicate()
            puts, median, longest = said.split()
            results.append((int(puts), float(median), float(longest)))
        return results


def python_seconds(code: str, times: int) -> list[float]:
    """How long the code takes in fresh interpreters, as they tell it. What it imports is compiled before."""
    program = f"import time; began = time.perf_counter()\n{code}\nprint(time.perf_counter() - began)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def once() -> float:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
        )
        return float(done.stdout)

    once()
    return [once() for _ in range(times)]


def open_and_close(size: Size) -> tuple[float, float]:
    """A store that is there already: seconds to open it, and to close it."""
    opens, closes = [], []
    with tempfile.TemporaryDirectory(prefix="contextstore-benchmark-") as folder:
        path = pathlib.Path(folder) / "store.db"
        with ContextStore(path) as store:
            store.put("run", "node", VALUE)
        for _ in range(size.rounds * 2):
            store = ContextStore(path)
            began = time.perf_counter()
            store.open()
            opened_at = time.perf_counter()
            store.close()
            opens.append(opened_at - began)
            closes.append(time.perf_counter() - opened_at)
    return statistics.median(opens), statistics.median(closes)
