"""Every bound on bytes is a bound on memory, as the process measures it: a factor of 1.5 at most.

Each is measured in a process of its own, by its resident set, beside the same without what is measured.
"""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Iterable

import pytest

from ..support.processes import run

MEASURE = """
import gc, json

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def value(codec, size, number):
    return {"n": number, "text": "x" * size} if codec == "json" else b"%08d" % number + b"x" * size
"""

pytestmark = pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="there is no /proc here")

CACHE = (
    MEASURE
    + """
path, how, codec, size, runs, nodes = sys.argv[1], sys.argv[2], sys.argv[3], *map(int, sys.argv[4:])
grown = []
for cache_bytes in (0, 24 * 2**20):
    with (
        ContextStore(f"{path}-{cache_bytes}", durability="normal", cache_bytes=cache_bytes) as store,
        ContextStore(f"{path}-{cache_bytes}", durability="normal", cache_bytes=0) as other,
    ):
        before, number = resident(), 0
        while number < 24 * 2**20 // (size + 300) and store._core.session.cache.bytes <= 20 * 2**20:
            many = {}
            for _ in range(runs):
                many[f"run-{number:08}"] = {f"node/{i:06}": value(codec, size, number + i) for i in range(nodes)}
                number += nodes
            for run, outputs in many.items() if how == "put_many" else ():
                store.put_many(run, outputs)
            with (other if how == "get" else store).batch() as batch:
                for run, outputs in many.items() if how != "put_many" else ():
                    for node_id, output in outputs.items():
                        batch.put(run, node_id, output)
            for run, outputs in many.items() if how == "get" else ():
                store.get_many(run, list(outputs))
            del many, batch, outputs
        grown.append(resident() - before)
        kept = store._core.session.cache.bytes
say(json.dumps([grown[1] - grown[0], kept]))
"""
)


def cases(cases: Iterable[tuple[object, ...]], first: set[tuple[object, ...]]) -> list[object]:
    """Those that each run of the suite measures, and the others."""
    return [case if case in first else pytest.param(*case, marks=pytest.mark.thorough) for case in cases]


SHAPES = [(5, 1, 1000), (5, 500, 1), (300, 5, 100), (5000, 5, 20)]


@pytest.mark.parametrize(
    ("how", "codec", "size", "runs", "nodes"),
    cases(
        [
            (how, codec, *shape)
            for how in ("put", "put_many", "get")
            for codec in ("json", "bytes")
            for shape in SHAPES
            if shape[2] > 1 or how == "put"  # one commit for each entry: puts in a batch are the same entries
        ],
        {("put", "json", 5, 500, 1), ("get", "bytes", 300, 5, 100)},
    ),
)
def test_what_the_cache_keeps_takes_what_stats_says(
    tmp_path: pathlib.Path, how: str, codec: str, size: int, runs: int, nodes: int
) -> None:
    grown, said = json.loads(run(CACHE, tmp_path / "store.db", how, codec, size, runs, nodes, timeout=170)[-1])
    assert said > 8 * 2**20
    assert grown <= 1.5 * said


QUEUE = (
    MEASURE
    + """
from contextstore._dispatch import writer as _writer
path, codec, size, nodes = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])

async def main():
    async with AsyncContextStore(path, durability="normal", cache_bytes=0, timeout=120) as store:
        await store.put("run", "first", 0)
        opened, arrived = threading.Event(), threading.Event()
        commit = store._core.session.engine.commit
        async def held(units):
            arrived.set()
            opened.wait(120)
            return await commit(units)
        async def left_to_commit(put):
            return False
        store._core.session.engine.commit, store._core.session.engine.put_alone = held, left_to_commit
        tasks = [asyncio.create_task(store.put("run", "held", 0))]
        while not arrived.is_set():
            await asyncio.sleep(0.01)
        before, number, writer = resident(), 0, store._core.session.writer
        while writer.queued_bytes < _writer.QUEUE_BYTES / 2:
            for _ in range(100):
                if nodes == 1:
                    write = store.put(f"run-{number}", "node", value(codec, size, number))
                else:
                    outputs = {f"node/{i:06}": value(codec, size, i) for i in range(nodes)}
                    write = store.put_many(f"run-{number}", outputs)
                    del outputs
                tasks.append(asyncio.create_task(write))
                del write
                number += 1
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
        assert not writer._waiting_for_room()
        say(json.dumps([resident() - before, writer.queued_bytes]))
        opened.set()
        await asyncio.gather(*tasks)

asyncio.run(main())
"""
)


@pytest.mark.parametrize(
    ("codec", "size", "nodes"),
    cases(itertools.product(("json", "bytes"), (5, 300, 5000), (1, 100)), {("json", 5, 1), ("bytes", 300, 100)}),
)
def test_what_waits_for_a_commit_takes_what_the_queue_reckons(
    tmp_path: pathlib.Path, codec: str, size: int, nodes: int
) -> None:
    grown, reckoned = json.loads(run(QUEUE, tmp_path / "store.db", codec, size, nodes, timeout=170)[-1])
    assert reckoned > 16 * 2**20
    assert grown <= 1.5 * reckoned
