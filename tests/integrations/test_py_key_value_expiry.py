"""Times: how long an entry is there, by py-key-value's rules over a store's own."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import fractions
from typing import Any

import pytest

pytest.importorskip("key_value.aio")

from contextstore import AsyncContextStore
from contextstore.integrations.py_key_value import ContextStoreKeyValue

TEN_YEARS = 3653 * 86_400


async def until_gone(kv: ContextStoreKeyValue, key: str) -> None:
    while await kv.keys() == [key] or await kv.get(key) is not None:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("ttl", [100, 99.5, decimal.Decimal(100), fractions.Fraction(199, 2)], ids=repr)
async def test_what_is_left_is_told(ttl: Any, kv: ContextStoreKeyValue) -> None:
    await kv.put("k", {"a": 1}, ttl=ttl)
    await kv.put_many(["l", "m"], [{"a": 2}, {"a": 3}], ttl=ttl)
    for value, left in [await kv.ttl("k"), *await kv.ttl_many(["l", "m"])]:
        assert value is not None
        assert left is not None
        assert 0 < left <= ttl


async def test_each_put_sets_it_anew(kv: ContextStoreKeyValue) -> None:
    await kv.put("k", {"a": 1}, ttl=100)
    await kv.put("k", {"a": 2})
    assert await kv.ttl("k") == ({"a": 2}, None)
    await kv.put("k", {"a": 3}, ttl=50)
    left = (await kv.ttl("k"))[1]
    assert left is not None
    assert left <= 50


async def test_one_that_is_over_is_not_there_for_any_call(kv: ContextStoreKeyValue) -> None:
    await kv.put("k", {"a": 1}, ttl=0.05)
    await kv.put_many(["other"], [{"a": 1}], collection="other", ttl=0.05)
    await until_gone(kv, "k")
    assert await kv.ttl("k") == (None, None)
    assert await kv.get_many(["k"]) == [None]
    assert await kv.ttl_many(["k"]) == [(None, None)]
    assert await kv.delete("k") is False
    assert await kv.delete_many(["k"]) == 0
    assert await kv.destroy_collection("default_collection") is False
    while await kv.collections():
        await asyncio.sleep(0.005)


async def test_one_that_is_over_at_once_takes_the_place_of_what_was_there(kv: ContextStoreKeyValue) -> None:
    await kv.put("k", {"a": 1})
    await kv.put("k", {"a": 2}, ttl=1e-9)
    assert await kv.get("k") is None
    await until_gone(kv, "k")


async def test_it_may_last_longer_than_a_global_of_the_stores(kv: ContextStoreKeyValue) -> None:
    for ttl in (TEN_YEARS - 1, TEN_YEARS + 1, TEN_YEARS * 100):
        await kv.put("k", {"a": 1}, ttl=ttl)
        value, left = await kv.ttl("k")
        assert value == {"a": 1}
        assert left is not None
        assert ttl - 60 < left <= ttl


async def test_what_lasts_longer_than_a_global_of_the_stores_is_over_all_the_same(
    kv: ContextStoreKeyValue, store: AsyncContextStore
) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    await kv.put("k", {"a": 1}, ttl=TEN_YEARS + 1)
    record = await store.get_global("key_value/default_collection/k")
    await store.upsert_global("key_value/default_collection/k", record | {"expires_at": past.isoformat()})
    assert await kv.get("k") is None
    assert await kv.ttl("k") == (None, None)


async def test_cull_frees_what_is_over_and_nothing_else(kv: ContextStoreKeyValue, store: AsyncContextStore) -> None:
    await store.put("run", "node", 1)
    await kv.put("there", {"a": 1}, ttl=1000)
    await kv.put("k", {"a": 1}, collection="c", ttl=0.001)
    await kv.put("deleted", {"a": 1}, collection="c")
    await kv.delete("deleted", collection="c")
    while await kv.keys("c"):
        await asyncio.sleep(0.005)
    assert (await store.prune(older_than=None, dry_run=True)).globals == 2
    await kv.cull()
    assert (await store.prune(older_than=None, dry_run=True)).globals == 0
    assert await kv.get("there") == {"a": 1}
    assert await store.get("run", "node") == 1


async def test_an_entry_tells_when_it_was_made_and_when_it_is_over(
    kv: ContextStoreKeyValue, store: AsyncContextStore
) -> None:
    before = datetime.datetime.now(datetime.UTC)
    await kv.put("k", {"a": 1}, ttl=3600)
    after = datetime.datetime.now(datetime.UTC)
    entry = await store.get_global_entry("key_value/default_collection/k")
    assert entry is not None
    made, over = (datetime.datetime.fromisoformat(entry.value[name]) for name in ("created_at", "expires_at"))
    assert before <= made <= after
    assert over - made == datetime.timedelta(hours=1)
    assert entry.expires_at is not None
    assert abs(entry.expires_at - over) < datetime.timedelta(seconds=60)
