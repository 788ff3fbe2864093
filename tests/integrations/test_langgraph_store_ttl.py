"""Items of ContextStoreStore that expire: when they do, which reads put it off, and how their space is freed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from langgraph.store.base import GetOp, PutOp

from contextstore import ContextStore
from contextstore.integrations.langgraph import ContextStoreStore

SPACE = ("memories",)
MINUTE = 60.0
AN_INSTANT = 0.02 / 60
"""In minutes."""


@pytest.fixture
def opened(target: str) -> Iterator[ContextStore]:
    with ContextStore(target) as store:
        yield store


def expiry_of(store: ContextStore, key: str = "a") -> datetime | None:
    (entry,) = [entry for entry in store.list_globals() if entry.key.endswith(f" {key}")]
    return entry.expires_at


def seconds_left(store: ContextStore, key: str = "a") -> float:
    (entry,) = [entry for entry in store.list_globals() if entry.key.endswith(f" {key}")]
    assert entry.expires_at is not None
    return (entry.expires_at - entry.written_at).total_seconds()


async def until_gone(store: ContextStoreStore, key: str = "a") -> None:
    async with asyncio.timeout(20):
        while await store.aget(SPACE, key, refresh_ttl=False) is not None:
            await asyncio.sleep(0.01)


async def test_an_item_is_there_for_as_many_minutes_as_its_put_says(opened: ContextStore) -> None:
    store = ContextStoreStore(opened)
    store.put(SPACE, "a", {}, ttl=3)
    assert seconds_left(opened) == pytest.approx(3 * MINUTE, abs=20)
    store.put(SPACE, "a", {})
    assert expiry_of(opened) is None
    store.put(SPACE, "a", {}, ttl=AN_INSTANT)
    await until_gone(store)
    assert store.search(()) == []
    assert store.list_namespaces() == []


async def test_the_configuration_says_how_long_where_the_put_does_not(opened: ContextStore) -> None:
    store = ContextStoreStore(opened, ttl={"default_ttl": 2})
    store.put(SPACE, "a", {})
    await store.aput(SPACE, "b", {}, ttl=5)
    store.put(SPACE, "c", {}, ttl=None)
    assert seconds_left(opened, "a") == pytest.approx(2 * MINUTE, abs=20)
    assert seconds_left(opened, "b") == pytest.approx(5 * MINUTE, abs=20)
    assert expiry_of(opened, "c") is None


def test_a_put_after_the_expiry_creates_the_item_anew(opened: ContextStore) -> None:
    store = ContextStoreStore(opened)
    store.put(SPACE, "a", {})
    created = store.get(SPACE, "a")
    store.put(SPACE, "a", {}, ttl=AN_INSTANT)
    asyncio.run(until_gone(store))
    store.put(SPACE, "a", {})
    item = store.get(SPACE, "a")
    assert created is not None
    assert item is not None
    assert item.created_at == item.updated_at > created.created_at


@pytest.mark.parametrize("way", ["get", "aget", "search", "asearch", "batch"])
async def test_a_read_puts_the_expiry_off_and_changes_nothing_else(opened: ContextStore, way: str) -> None:
    store = ContextStoreStore(opened)
    store.put(SPACE, "a", {"n": 1}, ttl=10)
    store.put(SPACE, "lasts", {"n": 1})
    before, other = store.get(SPACE, "a", refresh_ttl=False), store.get(SPACE, "lasts")
    expiry = expiry_of(opened)
    reads: dict[str, Any] = {
        "get": lambda: store.get(SPACE, "a"),
        "aget": lambda: store.aget(SPACE, "a"),
        "search": lambda: store.search(SPACE),
        "asearch": lambda: store.asearch(SPACE),
        "batch": lambda: store.batch([GetOp(SPACE, "a"), GetOp(SPACE, "a"), GetOp(SPACE, "lasts")]),
    }
    for _ in range(2):
        result = reads[way]()
        if way.startswith("a"):
            await result
        later = expiry_of(opened)
        assert later is not None
        assert expiry is not None
        assert later > expiry
        assert seconds_left(opened) == pytest.approx(10 * MINUTE, abs=20)
        expiry = later
    assert store.get(SPACE, "a", refresh_ttl=False) == before
    assert store.get(SPACE, "lasts") == other
    assert [item.key for item in store.search(SPACE, refresh_ttl=False)] == ["lasts", "a"]  # as it was updated


def test_a_read_does_not_put_it_off_where_it_is_told_so(opened: ContextStore) -> None:
    ContextStoreStore(opened).put(SPACE, "a", {}, ttl=10)
    expiry = expiry_of(opened)
    store = ContextStoreStore(opened, ttl={"refresh_on_read": False})
    store.get(SPACE, "a")
    store.search(SPACE)
    ContextStoreStore(opened).get(SPACE, "a", refresh_ttl=False)
    assert expiry_of(opened) == expiry
    store.get(SPACE, "a", refresh_ttl=True)
    later = expiry_of(opened)
    assert later is not None
    assert expiry is not None
    assert later > expiry


def test_a_store_that_is_only_read_is_read_all_the_same(tmp_path: Any) -> None:
    with ContextStoreStore.from_conn_string(tmp_path / "store.db") as store:
        store.put(SPACE, "a", {"n": 1}, ttl=10)
    with ContextStoreStore.from_conn_string(tmp_path / "store.db", read_only=True) as store:
        assert [item.value for item in store.search(SPACE)] == [{"n": 1}]


def test_a_batch_that_reads_and_writes_an_item_leaves_what_it_has_written(opened: ContextStore) -> None:
    store = ContextStoreStore(opened)
    store.put(SPACE, "a", {"n": 1}, ttl=10)
    store.batch([GetOp(SPACE, "a"), PutOp(SPACE, "a", {"n": 2}, ttl=1)])
    assert seconds_left(opened) == pytest.approx(MINUTE, abs=20)


@pytest.mark.parametrize("ttl", [0, -1, 10_000_000])
def test_a_ttl_that_none_can_be_is_refused(opened: ContextStore, ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl"):
        ContextStoreStore(opened).put(SPACE, "a", {}, ttl=ttl)


class TestSweeping:
    async def test_it_frees_what_has_expired(self, opened: ContextStore) -> None:
        store = ContextStoreStore(opened)
        store.put(SPACE, "a", {}, ttl=AN_INSTANT)
        store.put(SPACE, "b", {}, ttl=AN_INSTANT)
        store.put(SPACE, "c", {}, ttl=10)
        await until_gone(store, "a")
        await until_gone(store, "b")
        assert store.sweep_ttl() == 2
        assert await store.asweep_ttl() == 0
        assert len(store.search(SPACE)) == 1

    async def test_a_sweeper_does_so_again_and_again_until_it_is_stopped(self, opened: ContextStore) -> None:
        store = ContextStoreStore(opened, ttl={"default_ttl": AN_INSTANT, "sweep_interval_minutes": 5})
        future = store.start_ttl_sweeper(sweep_interval_minutes=AN_INSTANT)
        assert store.start_ttl_sweeper() is future
        for _ in range(2):
            store.put(SPACE, "a", {})
            async with asyncio.timeout(20):
                while (await opened.awaitable.prune(older_than=None, dry_run=True)).globals or opened.list_globals():
                    await asyncio.sleep(0.01)
        assert not future.done()
        assert store.stop_ttl_sweeper(timeout=20)
        assert future.done()
        assert store.stop_ttl_sweeper()

    def test_cancelling_its_future_ends_it(self, opened: ContextStore) -> None:
        store = ContextStoreStore(opened, ttl={"sweep_interval_minutes": 5})
        future = store.start_ttl_sweeper()
        assert future.cancel()
        assert store.stop_ttl_sweeper(timeout=20)

    def test_without_a_configuration_nothing_is_begun(self, opened: ContextStore) -> None:
        store = ContextStoreStore(opened)
        assert store.start_ttl_sweeper().done()
        assert store.stop_ttl_sweeper()

    def test_it_ends_with_its_store(self, target: str) -> None:
        with ContextStoreStore.from_conn_string(target, ttl={"default_ttl": 1}) as store:
            future = store.start_ttl_sweeper()
        future.result(timeout=20)

    def test_it_keeps_nothing_alive(self, opened: ContextStore) -> None:
        store = ContextStoreStore(opened, ttl={"default_ttl": 1})
        future, remains = store.start_ttl_sweeper(), weakref.ref(store)
        del store
        gc.collect()
        future.result(timeout=20)
        assert remains() is None
