"""Clients that write to the same runs in every way at once: none of them waits for another in a circle.

A circle is ended by the server after a second, and what it undoes is tried again: so no call would fail, and the
server's own count is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import random
import time
from typing import Any

import asyncpg
import pytest

from contextstore import AlreadyExistsError, AsyncContextStore, OutputDeletedError, RunDeletedError

from ..support.nodes import execute
from ..support.servers import Server

RUNS = [f"run-{number}" for number in range(4)]
NODES = [f"node-{number}" for number in range(4)]


class Client:
    """One that writes whatever comes, with a store of its own."""

    def __init__(self, store: AsyncContextStore, random: random.Random) -> None:
        self._store = store
        self._random = random

    async def write(self, times: int) -> None:
        calls = [
            self.begin, self.update, self.put, self.put_many, self.append, self.step, self.fail, self.write_state,
            self.update_state, self.write_together, self.delete_outputs, self.delete_run, self.prune, self.write_global,
        ]  # fmt: skip
        for _ in range(times):
            with contextlib.suppress(AlreadyExistsError, OutputDeletedError, RunDeletedError, ZeroDivisionError):
                await self._random.choice(calls)()

    def _run(self) -> Any:
        return self._store.run(self._random.choice(RUNS))

    def _node(self) -> str:
        return self._random.choice(NODES)

    async def begin(self) -> None:
        await self._run().begin()

    async def update(self) -> None:
        await self._run().update(state=self._random.choice(["open", "failed"]), attributes={self._node(): 1})

    async def put(self) -> None:
        await self._run().put(self._node(), 1, exist_ok=True)

    async def put_many(self) -> None:
        await self._run().put_many(dict.fromkeys(self._random.sample(NODES, 3), 1), exist_ok=True)

    async def append(self) -> None:
        await self._run().append("item-", 1)

    async def step(self) -> None:
        await self._run().step(self._node(), int)

    async def fail(self) -> None:
        await self._run().step(self._node(), lambda: 1 // 0)

    async def write_state(self) -> None:
        await self._run().upsert_state(self._node(), 1)

    async def update_state(self) -> None:
        await self._run().update_state("count", lambda count: (count or 0) + 1)

    async def write_together(self) -> None:
        async with self._store.batch() as batch:
            for _ in range(3):
                batch.put(self._random.choice(RUNS), self._node(), 1, exist_ok=True)
                batch.upsert_state(self._random.choice(RUNS), self._node(), 1)
            if self._random.random() < 0.5:
                batch.upsert_global(self._node(), 1)
            if self._random.random() < 0.5:
                batch.append(self._random.choice(RUNS), "item-", 1)
            if self._random.random() < 0.3:
                batch.delete_outputs(self._random.choice(RUNS), [self._node()])

    async def delete_outputs(self) -> None:
        await self._run().delete_outputs([self._node()])

    async def delete_run(self) -> None:
        if self._random.random() < 0.3:
            await self._run().delete(forget=True)

    async def prune(self) -> None:
        if self._random.random() < 0.3:
            await self._store.prune(older_than=datetime.timedelta(0))

    async def write_global(self) -> None:
        await self._store.upsert_global(self._node(), 1)


def test_clients_that_write_to_the_same_runs_in_every_way_wait_in_no_circle(postgres: Server, url: str) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)

    async def run() -> None:
        stores = [AsyncContextStore(url) for _ in range(4)]
        await asyncio.gather(*(store.open() for store in stores))
        clients = [Client(store, random.Random(f"{seed} {number}")) for number in range(3) for store in stores]
        await asyncio.gather(*(client.write(50) for client in clients))
        await asyncio.gather(*(store.close() for store in stores))

    execute(postgres, "SELECT pg_stat_reset()")
    asyncio.run(run())
    time.sleep(0.5)  # its counts come late
    ((deadlocks,),) = execute(postgres, "SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'")
    assert deadlocks == 0


async def test_a_batch_that_waits_for_a_run_holds_nothing_that_others_wait_for(
    postgres: Server, url: str, schema: str
) -> None:
    async def write_together() -> None:
        async with first.batch() as batch:
            batch.put("run", "node", 1)
            batch.upsert_state("run", "key", 1)

    async with AsyncContextStore(url) as first, AsyncContextStore(url) as second:
        await first.run("run").begin()
        connection = await asyncpg.connect(postgres.url())
        async with connection.transaction():
            await connection.execute(f"SELECT FROM {schema}.flow_runs FOR NO KEY UPDATE")
            batch = asyncio.create_task(write_together())
            while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.01)
            await second.put("run", "node", 2)
        await connection.close()
        with pytest.raises(AlreadyExistsError):
            await batch
        assert await second.get("run", "node") == 2
