"""The PostgreSQL engine against asyncpg as one would use it: a pool, one statement a put.

    python -m benchmarks.postgres postgresql://user@host/database

Both use the server that is named, a schema each, and take turns.
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

from .contestants import RUN, VALUE
from .measure import Times, in_turns, keys, timed

_CREATE = """
    CREATE SCHEMA {schema};
    CREATE TABLE {schema}.outputs (run text, node text, value bytea NOT NULL, PRIMARY KEY (run, node))
"""
_INSERT = "INSERT INTO {schema}.outputs VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING node"
_SELECT = "SELECT value FROM {schema}.outputs WHERE run = $1 AND node = $2"


class Plain:
    """A pool of ten connections."""

    def __init__(self, pool: Any, schema: str) -> None:
        self._pool, self._schema = pool, schema

    async def put(self, key: str) -> None:
        statement = _INSERT.replace("{schema}", self._schema)
        assert await self._pool.fetchval(statement, RUN, key, orjson.dumps(VALUE)) == key

    async def get(self, key: str) -> Any:
        statement = _SELECT.replace("{schema}", self._schema)
        return orjson.loads(await self._pool.fetchval(statement, RUN, key))


async def measured(url: str, rounds: int = 15) -> Times:
    import asyncpg

    schema = f"benchmark_{uuid.uuid4().hex[:8]}"
    ours_url = f"{url}{'&' if '?' in url else '?'}schema={schema}_ours"
    pool = await asyncpg.create_pool(url, min_size=10, max_size=10)
    await pool.execute(_CREATE.replace("{schema}", schema))
    plain = Plain(pool, schema)
    names = keys(64)
    try:
        async with AsyncContextStore(ours_url, cache_bytes=0) as store:
            await store.put_many(RUN, dict.fromkeys(names, VALUE))
            await asyncio.gather(*(plain.put(name) for name in names))

            def one_put(put: Callable[[str], Awaitable[None]]) -> Callable[[], Awaitable[float]]:
                async def puts() -> None:
                    for key in keys(48):
                        await put(key)

                return lambda: timed(puts, 48)

            def many(call: Callable[[str], Awaitable[Any]], fresh: bool) -> Callable[[], Awaitable[float]]:
                async def calls(times: int) -> None:
                    for _ in range(times):
                        await asyncio.gather(*(call(key) for key in (keys(64) if fresh else names)))

                return lambda: timed(lambda: calls(4), 4 * 64, lambda: calls(1))

            async def put(key: str) -> None:
                await store.put(RUN, key, VALUE)

            async def get(key: str) -> Any:
                return await store.get(RUN, key)

            return await in_turns(
                {
                    "one put": one_put(put),
                    "one put, asyncpg": one_put(plain.put),
                    "64 puts": many(put, fresh=True),
                    "64 puts, asyncpg": many(plain.put, fresh=True),
                    "64 gets": many(get, fresh=False),
                    "64 gets, asyncpg": many(plain.get, fresh=False),
                },
                rounds,
            )
    finally:
        with contextlib.suppress(Exception):
            await pool.execute(f"DROP SCHEMA IF EXISTS {schema}, {schema}_ours CASCADE")
        await pool.close()


GOALS = [("one put", 1.2, False), ("64 puts", 4.0, True), ("64 gets", 8.0, True)]
"""What, its goal, and whether that is a throughput, of which more is better, or a time."""


def ratios_of(times: Times, what: str) -> list[float]:
    at_least = next(at_least for name, _, at_least in GOALS if name == what)
    pairs = zip(times[what], times[f"{what}, asyncpg"], strict=True)
    return [plain / ours if at_least else ours / plain for ours, plain in pairs]


def main() -> None:
    times = asyncio.run(measured(sys.argv[1]))
    print("| what | goal | median | rounds |\n|---|---|---|---|")
    for what, goal, at_least in GOALS:
        ratios = ratios_of(times, what)
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        micros = statistics.median(times[what]) * 1e6
        wanted = f"{'throughput ≥' if at_least else 'time ≤'} {goal:g}"
        print(f"| {what} ({micros:.0f} µs each) | {wanted} | {statistics.median(ratios):.2f} | {spread} |")


if __name__ == "__main__":
    main()
