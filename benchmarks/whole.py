"""A store as a whole: how large its file is, how it grows, several processes on it, what it takes to import and open.

Rules of this module: a figure is in the unit that its name says; without one it is seconds. What is started in another
process imports the package that this process has imported, from wherever that is.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import time

import contextstore
from contextstore import ContextStore, new_flow_run_id

from .contestants import VALUE, Ours
from .rounds import Size, Times, opened, puts

BYTES = "bytes of file an output of 200 bytes"
ALONE, TOGETHER = "puts of one process alone", "puts of four processes together"
SLOWEST, FASTEST = "puts of the slowest of four", "puts of the fastest of four"
LONGEST_WAIT, MEDIAN_WAIT = "longest wait of four", "median wait of that process"
PUT_IN_SMALL, PUT_IN_LARGE = "a put at a hundredth of all outputs", "a put at all outputs"
MEMORY_FIRST, MEMORY_LAST = "MB after 2,000 outputs of an iteration", "MB after all of them"
ITERATION = "iterating, an output"
IMPORT, IMPORT_OF_OTHERS = "import contextstore", "import of what it needs"
OPENING, CLOSING = "opening a store", "closing it"


def file_bytes(size: Size) -> Times:
    """Of a closed file: runs of 1,000 outputs, each with ids in order."""
    outputs = min(20_000, size.rows)
    with tempfile.TemporaryDirectory(prefix="contextstore-benchmark-") as folder:
        path = pathlib.Path(folder) / "store.db"
        with ContextStore(path, durability="normal") as store:
            for start in range(0, outputs, 1000):
                run, names = new_flow_run_id(), [f"node-{number:06}" for number in range(min(1000, outputs - start))]
                for first in range(0, len(names), 100):
                    store.put_many(run, dict.fromkeys(names[first : first + 100], VALUE))
        return {BYTES: [path.stat().st_size / outputs]}


def growing(size: Size) -> Times:
    """Two stores, one with a hundredth of the other's outputs: puts into each in turn; then listing, and memory."""
    small, large = Ours(cache_bytes=0), Ours(cache_bytes=0)
    with opened([small, large], "full") as turns:
        turns.call(_fill, small, max(1, size.rows // 100), "filled")
        turns.call(_fill, large, size.rows, "filled")
        figures = turns.take({PUT_IN_SMALL: puts(small, 16), PUT_IN_LARGE: puts(large, 16)}, size)
        turns.call(_look_at, large, size, figures)
        return figures


async def _fill(one: Ours, outputs: int, run: str) -> None:
    for start in range(0, outputs, 5000):
        await one.store.put_many(run, {f"{i:08}": VALUE for i in range(start, min(start + 5000, outputs))})


async def _look_at(one: Ours, size: Size, figures: Times) -> None:
    """Lists of runs, and an iteration over all."""
    for nodes in (10, 1000, min(100_000, size.rows // 10)):
        await _fill(one, nodes, f"run of {nodes}")
        times = []
        for _ in range(3):
            began = time.perf_counter()
            await one.store.list_keys(f"run of {nodes}")
            times.append((time.perf_counter() - began) / nodes)
        figures[f"list_keys of {nodes:,} nodes, a node"] = times
    seen, first, began = 0, min(2000, size.rows // 2), time.perf_counter()
    async for _ in one.store.iter_outputs("filled"):
        seen += 1
        if seen == first:
            figures[MEMORY_FIRST] = [_resident_mb()]
    figures[ITERATION] = [(time.perf_counter() - began) / seen]
    figures[MEMORY_LAST] = [_resident_mb()]


def _resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


# ----------------------------------------------------------------------------------------------------- other processes


def other_process(program: str, *arguments: str) -> subprocess.Popen[str]:
    package = pathlib.Path(contextstore.__file__).parent.parent
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-c", textwrap.dedent(program), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


_PUTS = """
    import asyncio, json, sys, time
    from contextstore import AsyncContextStore
    async def main(path, name, seconds, value):
        waits = []
        async with AsyncContextStore(path) as store:
            await store.put(name, "first", 1)
            print("ready", flush=True)
            sys.stdin.readline()
            end, number = time.perf_counter() + seconds, 0
            async def put(key):
                began = time.perf_counter()
                await store.put(name, key, value)
                waits.append(time.perf_counter() - began)
            while time.perf_counter() < end:
                await asyncio.gather(*(put(f"{number}-{i}") for i in range(16)))
                number += 1
        waits.sort()
        print(len(waits), waits[len(waits) // 2], waits[-1], flush=True)
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), json.loads(sys.argv[4])))
"""


def processes(count: int, seconds: float) -> list[tuple[int, float, float]]:
    """For each of so many processes on one file: its puts, its median wait and its longest."""
    with tempfile.TemporaryDirectory(prefix="contextstore-benchmark-") as folder:
        arguments = [(f"{folder}/store.db", str(number), str(seconds), json.dumps(VALUE)) for number in range(count)]
        started = [other_process(_PUTS, *some) for some in arguments]
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
            count_of_puts, median, longest = said.split()
            results.append((int(count_of_puts), float(median), float(longest)))
        return results


def of_processes(size: Size) -> Times:
    seconds = 2.0 if size.operations > 4 else 0.1
    figures: Times = {name: [] for name in (ALONE, TOGETHER, SLOWEST, FASTEST, LONGEST_WAIT, MEDIAN_WAIT)}
    for _ in range(min(size.rounds, 3 if size.rounds < 10 else 5)):
        ((alone, _, _),) = processes(1, seconds)
        four = processes(4, seconds)
        counts = [count for count, _, _ in four]
        _, median, longest = max(four, key=lambda one: one[2] / one[1])
        for name, figure in zip(figures, (alone, sum(counts), min(counts), max(counts), longest, median), strict=True):
            figures[name].append(figure)
    return figures


def imports(size: Size) -> Times:
    """In fresh interpreters, as they tell it. What is imported has been compiled before."""

    def seconds(code: str) -> float:
        program = f"import time; began = time.perf_counter()\n{code}\nprint(time.perf_counter() - began)"
        said, _ = other_process(program).communicate()
        return float(said)

    codes = {IMPORT: "import contextstore", IMPORT_OF_OTHERS: "import aiosqlite, orjson, msgspec"}
    for code in codes.values():
        seconds(code)
    times: Times = {name: [] for name in codes}
    for _ in range(size.rounds):
        for name, code in codes.items():
            times[name].append(seconds(code))
    return times


def opening(size: Size) -> Times:
    """A store that is there already."""
    times: Times = {OPENING: [], CLOSING: []}
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
            times[OPENING].append(opened_at - began)
            times[CLOSING].append(time.perf_counter() - opened_at)
    return times
