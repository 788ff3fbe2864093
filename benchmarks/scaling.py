"""What each step of docs/scaling.md carries here: outputs of 200 bytes in a second, durable.

python -m benchmarks.scaling    # about two minutes; it starts its own servers
"""

from __future__ import annotations

import asyncio
import pathlib
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

from contextstore import AsyncContextStore, ContextStore
from tests.support.nodes import two_nodes
from tests.support.servers import binaries, running_server

from . import whole
from .contestants import RUN, VALUE
from .rounds import keys

_ROUNDS = 7


async def a_second(work: Callable[[], Awaitable[Any]], outputs: int) -> float:
    """The median of some rounds, after one that is not counted."""
    await work()
    rates = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        await work()
        rates.append(outputs / (time.perf_counter() - began))
    return statistics.median(rates)


async def one_client(target: str) -> dict[str, float]:
    async with AsyncContextStore(target) as store:

        async def one_after_the_other() -> None:
            for key in keys(100):
                await store.put(RUN, key, VALUE)

        async def at_once(count: int) -> None:
            for _ in range(max(1, 512 // count)):
                await asyncio.gather(*(store.put(RUN, key, VALUE) for key in keys(count)))

        async def together() -> None:
            await store.put_many(RUN, dict.fromkeys(keys(1000), VALUE))

        return {
            "one after the other": await a_second(one_after_the_other, 100),
            "64 at once": await a_second(lambda: at_once(64), 512),
            "512 at once": await a_second(lambda: at_once(512), 512),
            "put_many of 1,000": await a_second(together, 1000),
        }


def page_of_runs(rows: int) -> float:
    """Seconds for a page of 100 runs, of so many."""
    with tempfile.TemporaryDirectory() as folder, ContextStore(pathlib.Path(folder) / "runs.db") as store:
        for start in range(0, rows, 5000):
            with store.batch() as batch:
                for number in range(start, min(rows, start + 5000)):
                    batch.put(f"run-{number:08}", "node", 1)
        after, times = None, []
        for _ in range(20):
            began = time.perf_counter()
            page = store.list_runs(after=after)
            times.append(time.perf_counter() - began)
            after = page[-1].flow_run_id
        return statistics.median(times)


def main() -> None:
    rates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        rates["one file, one process"] = asyncio.run(one_client(f"{folder}/store.db"))
    four = [sum(puts for puts, _, _ in whole.processes(4, 3)) / 3 for _ in range(3)]
    rates["one file, four processes"] = {"16 at once in each": statistics.median(four)}
    if binaries() is not None:
        with running_server() as server:
            rates["one server"] = asyncio.run(one_client(server.url()))
        with two_nodes() as (primary, _):
            rates["a server and a standby that has synced it, too"] = asyncio.run(one_client(primary.url()))
    print("| step | writing | outputs a second |\n|---|---|---|")
    for step, figures in rates.items():
        for how, rate in figures.items():
            print(f"| {step} | {how} | {rate:,.0f} |")
    for rows in (10_000, 1_000_000):
        print(f"a page of 100 runs of {rows:,}: {page_of_runs(rows) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
