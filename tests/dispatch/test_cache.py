"""What is answered from memory is what is stored, and memory has its bound."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, copy

from ..conftest import Target
from ..support.doubles import after_each_fetch, until

pytestmark = pytest.mark.each_pair


async def test_what_was_put_beside_a_deletion_is_not_answered_after_it(store: Any) -> None:
    for number in range(20):
        run = f"run-{number}"
        await asyncio.gather(
            *(store.put(run, f"before-{i}", i) for i in range(5)),
            store.delete_run(run),
            *(store.put(run, f"after-{i}", i) for i in range(5)),
            return_exceptions=True,
        )
        names = [f"{when}-{i}" for when in ("before", "after") for i in range(5)]
        assert await store.list_keys(run) == []
        assert await store.get_many(run, names) == {}
        assert [await store.exists(run, name) for name in names] == [False] * 10


@pytest.mark.usefixtures("shared_target")
async def test_a_read_that_began_before_a_deletion_is_not_kept_after_it(make_store: Target) -> None:
    async with make_store() as writer:
        await writer.put("run", "node", "old")
    async with make_store() as store:
        fetched, blocked = threading.Event(), threading.Event()

        async def hold(_: int) -> None:
            fetched.set()
            if make_store.location.__class__ is str:  # a server's engine has a loop that must not be blocked
                while not blocked.is_set():
                    await asyncio.sleep(0.001)
            else:
                assert blocked.wait(30)

        end = after_each_fetch(store, hold)
        reading = asyncio.ensure_future(store.get("run", "node"))
        await until(fetched.is_set)
        end()
        await store.delete_run("run")
        blocked.set()
        await reading
        assert await store.get("run", "node", "gone") == "gone"


async def test_the_cache_is_bounded_and_keeps_what_was_used_last(make_store: Target) -> None:
    async with make_store(cache_bytes=20_000) as store:
        for number in range(100):
            await store.put("run", f"{number:03}", "x" * 500)
            await store.get("run", "000")
        stats = await store.stats()
        assert 10_000 < stats.cache_bytes <= 20_000
        assert stats.cache_entries < 40
        await store.get("run", "000")
        await store.get("run", "001")
        after = await store.stats()
        assert after.cache_hits == stats.cache_hits + 1  # the one that was touched all the time
        assert after.cache_misses == stats.cache_misses + 1


async def test_gets_that_wait_share_a_trip(make_store: Target) -> None:
    async with make_store(cache_bytes=0) as store:
        await store.put_many("run", {f"{i}": i for i in range(64)})
        trips: list[int] = []

        async def count(keys: int) -> None:
            trips.append(keys)

        after_each_fetch(store, count)
        assert await asyncio.gather(*(store.get("run", f"{i}") for i in range(64))) == list(range(64))
        assert sum(trips) == 64
        if make_store.face == "async":
            assert len(trips) <= 2


def test_a_copied_deletion_is_not_answered_from_the_cache_of_the_copy() -> None:
    with ContextStore(":memory:") as source, ContextStore(":memory:") as target:
        source.put("run", "node", 1)
        copy(source, target)
        assert target.get("run", "node") == 1
        source.delete_run("run")
        copy(source, target)
        assert (target.get("run", "node"), target.exists("run", "node"), target.list_keys("run")) == (None, False, [])


async def test_what_is_copied_to_a_store_in_memory_wakes_who_waits_there() -> None:
    async with AsyncContextStore(":memory:") as source, AsyncContextStore(":memory:") as target:
        await source.put("run", "node", 1)
        waiting = asyncio.ensure_future(target.wait_for("run", "node", timeout=30))
        await until(target._core.session.subscriptions._all)
        await copy(source, target)
        assert await waiting == 1
