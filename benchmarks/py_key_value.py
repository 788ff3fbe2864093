"""py-key-value's own stores, and this library's behind the same protocol.

    python -m benchmarks.py_key_value [postgresql://user@host/database]

Rules of this module: everybody is called through the framework's protocol, on one loop, and takes turns. ``DiskStore``
syncs as SQLite's ``synchronous=NORMAL`` does (diskcache's default), which is our ``durability="normal"``; "full" stands
beside it. With a server, the framework's ``PostgreSQLStore`` and ours use it with the same settings, a schema each. Of
each a ratio is the median of the rounds' own: how many times as quick we are.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pathlib
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from contextstore import AsyncContextStore
from contextstore.integrations.py_key_value import ContextStoreKeyValue

from .contestants import VALUE

ROUNDS = 31
AT_ONCE = 64
DISK, SERVER = "DiskStore", "PostgreSQLStore"

_numbers = itertools.count()


def _keys() -> list[str]:
    return [f"key-{next(_numbers):09}" for _ in range(AT_ONCE)]


async def put_many(store: Any, keys: list[str]) -> None:
    await store.put_many(keys, [VALUE] * len(keys), collection="c")


async def puts_at_once(store: Any, keys: list[str]) -> None:
    await asyncio.gather(*(store.put(key, VALUE, collection="c") for key in keys))


async def one_put(store: Any, keys: list[str]) -> None:
    for key in keys:
        await store.put(key, VALUE, collection="c")


async def one_get(store: Any, _: list[str]) -> None:
    for key in OLD_KEYS:
        await store.get(key, collection="c")


async def gets_at_once(store: Any, _: list[str]) -> None:
    await asyncio.gather(*(store.get(key, collection="c") for key in OLD_KEYS))


async def get_many(store: Any, _: list[str]) -> None:
    await store.get_many(OLD_KEYS, collection="c")


OLD_KEYS = _keys()
WORKS: list[Callable[[Any, list[str]], Awaitable[None]]] = [
    put_many,
    puts_at_once,
    one_put,
    one_get,
    gets_at_once,
    get_many,
]


async def measure(stores: dict[str, Any], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds per entry of each round, by what was done and who did it."""
    times: dict[str, dict[str, list[float]]] = {}
    for store in stores.values():
        await put_many(store, OLD_KEYS)
    for work in WORKS:
        of_work = times[work.__name__] = {name: [] for name in stores}
        for number in range(-2, rounds):
            names = list(stores)
            start = number % len(names)
            for name in names[start:] + names[:start]:
                keys = _keys()
                began = time.perf_counter()
                await work(stores[name], keys)
                if number >= 0:
                    of_work[name].append((time.perf_counter() - began) / AT_ONCE)
    return times


@contextlib.asynccontextmanager
async def of_files(folder: pathlib.Path) -> Any:
    from key_value.aio.stores.disk import DiskStore

    async with contextlib.AsyncExitStack() as stack:
        stores: dict[str, Any] = {DISK: await stack.enter_async_context(DiskStore(directory=folder / "disk"))}
        for durability in ("normal", "full"):
            store = await stack.enter_async_context(AsyncContextStore(folder / durability, durability=durability))
            stores[durability] = ContextStoreKeyValue(store)
            if durability == "normal":
                stores["normal, blocking_reads"] = ContextStoreKeyValue(store, blocking_reads=True)
        yield stores


@contextlib.asynccontextmanager
async def of_a_server(url: str) -> Any:
    from key_value.aio.stores.postgresql import PostgreSQLStore

    table = f"benchmark_{uuid.uuid4().hex[:8]}"
    ours = f"{url}{'&' if '?' in url else '?'}schema={table}_ours"
    async with PostgreSQLStore(url=url, table_name=table) as theirs, AsyncContextStore(ours) as store:
        yield {SERVER: theirs, "full": ContextStoreKeyValue(store)}


def report(times: dict[str, dict[str, list[float]]], against: str) -> None:
    for work, of_work in times.items():
        theirs = of_work[against]
        print(f"{work}: {against} {statistics.median(theirs) * 1e6:.0f} µs an entry")
        for name, ours in of_work.items():
            if name != against:
                ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
                print(f"  {name}: {statistics.median(ours) * 1e6:.0f} µs, {ratio:.2f} x as quick")


async def main(arguments: list[str], rounds: int = ROUNDS) -> None:
    with tempfile.TemporaryDirectory(prefix="contextstore-benchmark-") as folder:
        async with of_files(pathlib.Path(folder)) as stores:
            report(await measure(stores, rounds), DISK)
    for url in arguments:
        async with of_a_server(url) as stores:
            report(await measure(stores, rounds), SERVER)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
