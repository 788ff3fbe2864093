"""Isolation on a server: late writers, prunings and updates that race, a pooler and threads in between."""

from __future__ import annotations

import asyncio
import datetime
import random
import threading
import time
import uuid

import asyncpg
import pytest

from contextstore import AsyncContextStore, ContextStore, RunDeletedError
from contextstore._postgres.outputs import arrays_of
from contextstore._postgres.statements import statements_for

from ..support.nodes import execute
from ..support.servers import Server, running_pooler


async def test_at_serializable_one_wins_and_no_update_is_lost(postgres: Server, schema: str) -> None:
    database = f"db_{schema}"
    await asyncio.to_thread(execute, postgres, f"CREATE DATABASE {database}")
    setting = f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'"
    await asyncio.to_thread(execute, postgres, setting)
    url = postgres.url().removesuffix("/postgres") + f"/{database}"
    stores = [AsyncContextStore(url) for _ in range(4)]
    try:
        for store in stores:
            await store.open()

        async def race(key: str) -> int:
            results = await asyncio.gather(
                *(store.put("run", key, i) for i, store in enumerate(stores)), return_exceptions=True
            )
            assert sorted(type(result).__name__ for result in results) == ["AlreadyExistsError"] * 3 + ["NoneType"]
            return results.index(None)

        winners = await asyncio.gather(*(race(str(i)) for i in range(100)))
        assert await stores[0].get_run("run") == {str(i): winner for i, winner in enumerate(winners)}
        await asyncio.gather(*(store.update_global("count", lambda n: n + 1, 0) for store in stores for _ in range(10)))
        assert await stores[0].get_global("count") == 40
    finally:
        for store in stores:
            await store.close()


async def test_no_output_survives_a_deletion_that_races_with_puts(postgres: Server, url: str, schema: str) -> None:
    async with AsyncContextStore(url) as writer, AsyncContextStore(url) as deleter:

        async def one(number: int) -> None:
            run = f"run-{number}"
            await writer.put(run, "first", 1)
            puts = [asyncio.ensure_future(writer.put(run, str(i), i)) for i in range(10)]
            await asyncio.sleep(random.random() * 0.01)
            await deleter.delete_run(run)
            for result in await asyncio.gather(*puts, return_exceptions=True):
                assert result is None or isinstance(result, RunDeletedError)
            with pytest.raises(RunDeletedError):
                await writer.put(run, "late", 1)

        for start in range(0, 200, 20):
            await asyncio.gather(*(one(number) for number in range(start, start + 20)))
        async with AsyncContextStore(url) as fresh:
            assert await fresh.list_runs() == []
            assert await fresh.get_many("run-7", [str(i) for i in range(10)]) == {}
            await asyncio.sleep(0.001)
            await fresh.prune(older_than=datetime.timedelta(0))
    rows = await asyncio.to_thread(execute, postgres, f"SELECT count(*) FROM {schema}.node_outputs")
    assert rows[0][0] == 0


@pytest.mark.parametrize("statement", ["insert_output", "insert_outputs"])
def test_prune_waits_for_a_put_under_way_and_leaves_its_run(
    postgres: Server, url: str, schema: str, statement: str
) -> None:
    insert = getattr(statements_for(schema), statement)

    async def put_slowly(store: AsyncContextStore) -> None:
        connection = await asyncpg.connect(postgres.url())
        now = time.time_ns() // 1000
        async with connection.transaction():
            serial = await connection.fetchval(f"SELECT serial FROM {schema}.flow_runs")
            if statement == "insert_output":
                await connection.execute(insert, serial, "new", 0, 0, b"1", now, "run", None, uuid.uuid4())
            else:
                arrays = arrays_of([serial], ["new"], [0], [0], [b"1"], [now], ["run"], [None])
                await connection.execute(insert, *arrays, uuid.uuid4(), [serial])
            pruning = asyncio.ensure_future(store.prune(older_than=datetime.timedelta(seconds=0.2)))
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not await connection.fetchval(waiting):
                assert not pruning.done()
                await asyncio.sleep(0.01)
        await connection.close()
        assert (await pruning).runs == 0

    async def run() -> None:
        async with AsyncContextStore(url) as store:
            await store.put("run", "old", 1)
            await asyncio.sleep(0.3)
            await put_slowly(store)
            assert await store.list_keys("run") == ["new", "old"]
            await store.put("run", "later", 1)

    asyncio.run(run())


async def test_prune_loses_no_acknowledged_put_that_races_with_it(url: str) -> None:
    async with AsyncContextStore(url) as writer, AsyncContextStore(url) as pruner:
        runs = [f"run-{number}" for number in range(150)]
        refused = 0
        for _ in range(3):
            await asyncio.gather(*(writer.put(run, uuid.uuid4(), "old") for run in runs if run))
            await asyncio.sleep(0.3)
            pruning = asyncio.ensure_future(pruner.prune(older_than=datetime.timedelta(seconds=0.25)))

            async def put(run: str) -> str | None:
                await asyncio.sleep(random.random() * 0.2)
                try:
                    await writer.put_many(run, {"new-1": 1, "new-2": 2})
                except RunDeletedError:
                    return None
                return run

            acknowledged = await asyncio.gather(*map(put, runs))
            await pruning
            for run in filter(None, acknowledged):
                assert await pruner.get(run, "new-2") == 2, run
            refused += acknowledged.count(None)
            runs = [f"{run}+" for run in runs]
        assert 0 < refused < 450


async def test_behind_a_pooler_that_hands_out_connections_by_transaction(postgres: Server, schema: str) -> None:
    with running_pooler(postgres) as port:
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres?pooler=transaction&schema={schema}"
        stores = [AsyncContextStore(url) for _ in range(6)]  # more than the pool has connections
        try:
            puts = [store.put("run", f"{i}-{n}", i) for n, store in enumerate(stores) for i in range(100)]
            await asyncio.gather(*puts)
            await asyncio.gather(
                *(store.update_global("count", lambda n: n + 1, 0) for store in stores for _ in range(5)),
                *(store.put_many("batch", {str(n): n, f"{n}+": n}) for n, store in enumerate(stores)),
            )
            results = await asyncio.gather(*(store.put("run", "one", i) for i, store in enumerate(stores)),
                                           return_exceptions=True)  # fmt: skip
            assert results.count(None) == 1
            assert await stores[0].get("run", "one") == results.index(None)
            assert len(await stores[1].list_keys("run")) == 601
            assert len(await stores[2].get_run("batch")) == 12
            assert await stores[3].get_global("count") == 30
            assert await stores[4].delete_run("run") == 601
            assert (await stores[5].check()).ok
        finally:
            for store in stores:
                await store.close()


def test_threads_share_commits(url: str) -> None:
    with ContextStore(url) as store:

        def put_some(worker: int) -> None:
            for i in range(20):
                store.put("run", f"{worker}-{i}", i)

        threads = [threading.Thread(target=put_some, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = store.stats()
        assert (stats.outputs, stats.writes) == (160, 160)
        assert stats.commits < 160
