"""The PostgreSQL engine against asyncpg as one would use it: a pool of ten, one statement a put.

    python -m benchmarks.postgres postgresql://user@host/database

Rules of this module: both use the server that is named, a schema each, and take turns. asyncpg prepares a statement at
its first use and keeps it.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from contextstore import AsyncContextStore

from .contestants import RUN, VALUE, Awaited
from .rounds import FULL, Size, Times, awaited, groups_of, keys, opened

CREATE = "CREATE TABLE outputs (run text, node text, value bytea NOT NULL, PRIMARY KEY (run, node))"
INSERT = "INSERT INTO outputs VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING node"
SELECT = "SELECT value FROM outputs WHERE run = $1 AND node = $2"
AT_ONCE = 64
CALLS = ("one put", "64 puts", "one get", "64 gets")


class _InSchemas(Awaited):
    """Both: opened together, since the one who is first makes what both need."""

    def __init__(self, url: str) -> None:
        self._url, self._schema = url, f"benchmark_{uuid.uuid4().hex[:8]}"

    async def open(self, folder: object, durability: str) -> None:
        import asyncpg

        admin = await asyncpg.connect(self._url)
        await admin.execute(f"CREATE SCHEMA {self._schema}")
        await admin.close()
        settings = {"search_path": self._schema}
        self.pool = await asyncpg.create_pool(self._url, min_size=10, max_size=10, server_settings=settings)
        await self.pool.execute(CREATE)
        ours = f"{self._url}{'&' if '?' in self._url else '?'}schema={self._schema}_ours"
        self.store = AsyncContextStore(ours, cache_bytes=0)
        await self.store.open()

    async def put(self, key: str) -> None:
        await self.store.put(RUN, key, VALUE)

    async def get(self, key: str) -> Any:
        return await self.store.get(RUN, key)

    async def put_by_pool(self, key: str) -> None:
        assert await self.pool.fetchval(INSERT, RUN, key, orjson.dumps(VALUE)) == key

    async def get_by_pool(self, key: str) -> Any:
        return orjson.loads(await self.pool.fetchval(SELECT, RUN, key))

    async def put_both(self, names: list[str]) -> None:
        await asyncio.gather(*map(self.put, names), *map(self.put_by_pool, names))

    async def close(self) -> None:
        await self.store.close()
        with contextlib.suppress(Exception):
            await self.pool.execute(f"DROP SCHEMA IF EXISTS {self._schema}, {self._schema}_ours CASCADE")
        await self.pool.close()


def measured(url: str, size: Size) -> Times:
    both = _InSchemas(url)

    def together(call: Callable[[str], Awaitable[Any]]) -> Callable[[list[str]], Awaitable[Any]]:
        async def group(names: list[str]) -> None:
            await asyncio.gather(*map(call, names))

        return group

    with opened([both], "full") as turns:
        names = keys(AT_ONCE)
        turns.call(both.put_both, names)
        count = max(1, size.operations // 4)
        works = {}
        for who, put, get in (
            ("contextstore", both.put, both.get),
            ("asyncpg", both.put_by_pool, both.get_by_pool),
        ):
            works[f"{who}, one put"] = awaited(put, lambda: keys(8 + count), 8)
            works[f"{who}, 64 puts"] = groups_of(together(put), lambda: keys(AT_ONCE), max(1, size.operations // 48))
            works[f"{who}, one get"] = awaited(get, lambda: (names * 5)[: 8 + count], 8)
            works[f"{who}, 64 gets"] = groups_of(together(get), lambda: names, max(1, size.operations // 48))
        # In each round both do a thing before anybody does the next.
        return turns.take(dict(sorted(works.items(), key=lambda item: CALLS.index(item[0].partition(", ")[2]))), size)


def main() -> None:
    times = measured(sys.argv[1], FULL)
    for name, seconds in times.items():
        print(f"{name}: {statistics.median(seconds) * 1e6:.0f} µs")


if __name__ == "__main__":
    main()
