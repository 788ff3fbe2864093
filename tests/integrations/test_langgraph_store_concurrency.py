"""Many who write one item at once, through one store or several: nothing acknowledged is lost, nor when it was made."""

from __future__ import annotations

import asyncio
import concurrent.futures

from langgraph.store.base import PutOp

from contextstore import AsyncContextStore, ContextStore
from contextstore.integrations.langgraph import ContextStoreStore

SPACE = ("counters",)


async def test_64_tasks_of_two_stores_write_one_item_and_it_keeps_when_it_was_created(target: str) -> None:
    async with AsyncContextStore(target) as first, AsyncContextStore(target) as second:
        stores = [ContextStoreStore(first), ContextStoreStore(second)]
        await stores[0].aput(SPACE, "k", {"n": -1})
        created = await stores[1].aget(SPACE, "k")
        assert created is not None
        await asyncio.gather(*(stores[n % 2].aput(SPACE, "k", {"n": n}) for n in range(64)))
        item, (entry,) = await stores[1].aget(SPACE, "k"), await first.list_globals()
        assert item is not None
        assert item.created_at == created.created_at
        assert entry.version == 65  # each write is one


async def test_of_many_who_create_an_item_at_once_all_see_one_creation(target: str) -> None:
    async with AsyncContextStore(target) as first, AsyncContextStore(target) as second:
        stores = [ContextStoreStore(first), ContextStoreStore(second)]

        async def put_and_get(n: int) -> object:
            await stores[n % 2].aput(SPACE, "k", {"n": n})
            item = await stores[n % 2].aget(SPACE, "k")
            return item and item.created_at

        assert len(set(await asyncio.gather(*(put_and_get(n) for n in range(32))))) == 1


def test_threads_that_write_batches_of_the_same_items_leave_those_of_one_batch(target: str) -> None:
    with ContextStore(target) as first, ContextStore(target) as second:
        stores = [ContextStoreStore(first), ContextStoreStore(second)]

        def write(n: int) -> None:
            stores[n % 2].batch([PutOp(SPACE, key, {"n": n}) for key in ("a", "b", "c")])

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            list(threads.map(write, range(24)))
        items = stores[0].search(SPACE)
        assert len(items) == 3
        assert len({item.value["n"] for item in items}) == 1
        assert [entry.version for entry in first.list_globals()] == [24, 24, 24]


async def test_deleting_and_writing_one_item_at_once_ends_as_one_of_them_says(target: str) -> None:
    async with AsyncContextStore(target) as opened:
        store = ContextStoreStore(opened)
        calls = [store.aput(SPACE, "k", {"n": n}) if n % 2 else store.adelete(SPACE, "k") for n in range(40)]
        await asyncio.gather(*calls)
        item = await store.aget(SPACE, "k")
        assert item is None or (item.value["n"] % 2 and item.created_at <= item.updated_at)


async def test_a_cancelled_put_is_done_or_not_done_and_the_store_goes_on(target: str) -> None:
    async with AsyncContextStore(target) as opened:
        store = ContextStoreStore(opened)
        for turns in range(12):
            task = asyncio.create_task(store.abatch([PutOp(SPACE, key, {"n": turns}) for key in ("a", "b")]))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            values = [item.value for item in await store.asearch(SPACE)]
            assert len(values) in (0, 2)
            assert len({value["n"] for value in values}) <= 1
        await store.aput(SPACE, "a", {"n": "last"})
        assert (await store.aget(SPACE, "a")).value == {"n": "last"}  # type: ignore[union-attr] # it is there
