"""Appends over a network: lost answers, servers that end, other clients on the same prefix; on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from contextstore import AlreadyExistsError, AsyncContextStore, ContextStore

from ..support.proxy import Proxy
from ..support.servers import Server


def _batch(store: ContextStore) -> str:
    with store.batch() as batch:
        batch.append("run", "p", "new")
        batch.upsert_global("key", 1)
    return "p000000000002"


LOST: dict[str, tuple[str, Callable[[ContextStore], str]]] = {
    "on the quick way": ("p000000000002", lambda store: store.append("run", "p", "new")),
    "on the quick way, with a key": ("p000000000002", lambda store: store.append("run", "p", "new", key="k")),
    "in a batch": ("COMMIT", _batch),
    "in a batch, before its end": ("p000000000002", _batch),
}


@pytest.mark.parametrize("how", LOST)
def test_an_append_whose_answer_is_lost_is_there_once(proxy: Proxy, schema: str, how: str) -> None:
    text, append = LOST[how]
    with ContextStore(proxy.url(schema=schema), timeout=20) as store:
        store.append("run", "p", "first")
        proxy.lose_answer_to(text)
        assert append(store) == "p000000000002"
        assert proxy.cuts == 1
        assert store.get_run("run") == {"p000000000001": "first", "p000000000002": "new"}
        assert store.append("run", "p", "next") == "p000000000003"
        assert store.check().ok


@pytest.mark.parametrize("text", ["COMMIT", "p000000000001", "BEGIN", "new run"])
def test_an_append_on_the_sure_way_whose_answer_is_lost_is_there_once(proxy: Proxy, schema: str, text: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=20) as store:
        store.open()
        proxy.lose_answer_to(text)
        assert store.append("new run", "p", "value") == "p000000000001"
        assert proxy.cuts == 1
        assert store.get_run("new run") == {"p000000000001": "value"}


async def test_appends_that_share_a_commit_whose_answer_is_lost_each_get_their_own_id(
    proxy: Proxy, schema: str
) -> None:
    async with AsyncContextStore(proxy.url(schema=schema), timeout=20) as store:
        await store.append("run", "p", "first")
        proxy.lose_answer_to("p000000000003")
        given = await asyncio.gather(*(store.append("run", "p", n, key=str(n // 2)) for n in range(64)))
        assert proxy.cuts == 1
        assert sorted(set(given)) == [f"p{n:012}" for n in range(2, 34)]
        there = await store.get_run("run")
        assert all(there[node] // 2 == n // 2 for n, node in enumerate(given))


async def test_backends_that_are_terminated_again_and_again_lose_no_append_and_double_none(
    postgres: Server, url: str, schema: str
) -> None:
    connection = await asyncpg.connect(postgres.url())
    given: list[str] = []
    enough, one_at_a_time = 20, asyncio.Lock()

    async def caller(store: Any, name: int) -> None:
        nonlocal enough
        for number in range(30):
            given.append(await store.append("run", "p", [name, number]))
            if len(given) >= enough:  # and while the others append
                enough += 40
                query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"
                async with one_at_a_time:
                    await connection.execute(query, schema)

    named = f"{url}&application_name={schema}"
    async with AsyncContextStore(named, timeout=60) as one, AsyncContextStore(named, timeout=60) as other:
        await one.append("run", "p", "first")
        await asyncio.gather(*(caller((one, other)[name % 2], name) for name in range(10)))
        there = await one.get_run("run")
        assert sorted(given) == [f"p{n:012}" for n in range(2, 302)] == sorted(there)[1:]
        assert sorted(list(there.values())[1:]) == [[name, n] for name in range(10) for n in range(30)]
        assert one.counters().troubles["connection"] > 0
    await connection.close()


async def test_the_ids_of_transactions_rise_with_the_numbers_of_a_prefix(
    url: str, postgres: Server, schema: str
) -> None:
    """A feed that goes by the ids of transactions reports the outputs of a prefix in their order."""

    async def writer(store: Any, name: int) -> None:
        for number in range(30):
            if (name + number) % 3:
                await store.append(f"run-{number % 2}", "p", number, key=f"{name}-{number}")
            else:
                async with store.batch() as batch:
                    batch.append("run-1", "p", number)
                    batch.append("run-0", "p", number)
                    batch.upsert_global("key", number)

    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(AsyncContextStore(url)) for _ in range(3)]
        await asyncio.gather(*(writer(stores[name % 3], name) for name in range(9)))
    connection = await asyncpg.connect(postgres.url())
    rows = await connection.fetch(f'SELECT run, node_id, xact::text FROM "{schema}".node_outputs ORDER BY run, node_id')
    await connection.close()
    for run in {row[0] for row in rows}:
        ids = [int(xact) for serial, _, xact in rows if serial == run]
        assert ids == sorted(ids)


async def test_batches_that_append_to_many_prefixes_in_any_order_all_come_through(url: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)

    async def writer(store: Any) -> None:
        for _ in range(15):
            async with store.batch() as batch:
                for prefix in chance.sample("abcdefgh", 5):
                    batch.append(f"run-{chance.randrange(3)}", prefix, 0)
                    batch.upsert_global(prefix, 0)

    async with AsyncContextStore(url) as one, AsyncContextStore(url) as other:
        await asyncio.gather(*(writer((one, other)[n % 2]) for n in range(8)))
        assert (await one.stats()).outputs == 8 * 15 * 5


async def test_puts_that_race_for_the_same_ids_leave_each_append_one_of_its_own(url: str) -> None:
    async with AsyncContextStore(url) as one, AsyncContextStore(url) as other:

        async def put(number: int) -> bool:
            with contextlib.suppress(AlreadyExistsError):
                await other.put("run", f"p{number:012}", "put")
                return True
            return False

        appends = [one.append("run", "p", "appended") for _ in range(60)]
        given, puts = await asyncio.gather(
            asyncio.gather(*appends), asyncio.gather(*(put(number) for number in range(1, 60, 2)))
        )
        there = await one.get_run("run")
        assert sorted(node for node, value in there.items() if value == "appended") == sorted(given)
        assert list(there.values()).count("put") == sum(puts)
