"""Collections and keys of any length and any text: each has a place of its own, and the lists tell the true names."""

from __future__ import annotations

import hashlib
import random

import pytest

pytest.importorskip("key_value.aio")

from contextstore import AsyncContextStore
from contextstore.integrations.py_key_value import ContextStoreKeyValue

HOSTILE = [
    *("a", "a/", "a/b", "a//b", "/", "//", "a0", "a/0", "a%2Fb", "a%2fb", "%", "%%", "%:", "a%:b", "%2F", "%ED%A0%80"),
    *("\0", "a\0", "a\0b", " ", "\n", "::", "__", "..", "a::b", "'; DROP TABLE globals; --", "\x7f", "\uffff"),
    *("ä", "a\u0308", "世界", "🌍", "\U0010ffff", "\ud83c", "\udf0d", "\ud83c\udf0d", "a\udc80b", "\ufeff"),
    # At, and beyond, what is written out.
    *("x" * 256, "x" * 257, "x" * 512, "x" * 513, "ä" * 128, "ä" * 129, "ä" * 256, "ä" * 257, "/" * 85, "/" * 86),
    *("%" * 170, "%" * 171, "\0" * 1000, "\ud800" * 100, "\ud800" * 1000, "x" * 100_000, "x" * 99_999 + "y"),
    *("🌍" * 100_000, "x" * 63 + "ä" * 500, "x" * 62 + "%" + "y" * 500, "x" * 63 + "%" + "y" * 500),
]


async def test_no_two_keys_are_one(kv: ContextStoreKeyValue) -> None:
    keys = ["", *HOSTILE]
    assert len(set(keys)) == len(keys)
    await kv.put_many(keys, [{"n": n} for n in range(len(keys))])
    assert await kv.get_many(keys) == [{"n": n} for n in range(len(keys))]
    assert sorted(await kv.keys()) == sorted(keys)


async def test_no_two_collections_are_one(kv: ContextStoreKeyValue) -> None:
    keys = ["", "a", "b/k", "k"]
    for n, collection in enumerate(HOSTILE):
        await kv.put_many(keys, [{"n": n, "key": key} for key in keys], collection=collection)
    for n, collection in enumerate(HOSTILE):
        assert await kv.get_many(keys, collection=collection) == [{"n": n, "key": key} for key in keys]
        assert await kv.keys(collection) == keys
    assert sorted(await kv.collections()) == sorted(HOSTILE)
    for n, collection in enumerate(HOSTILE):
        assert await kv.destroy_collection(collection) is True
        assert await kv.destroy_collection(collection) is False
        if n % 10 == 0:
            assert len(await kv.collections()) == len(HOSTILE) - n - 1
    assert await kv.collections() == []


async def test_single_calls_name_the_same_entry_as_bulk_ones(kv: ContextStoreKeyValue) -> None:
    for key in ("", *HOSTILE[::3]):
        await kv.put(key, {"key": len(key)}, collection=key)
        assert await kv.get(key, collection=key) == {"key": len(key)}
        assert await kv.ttl(key, collection=key) == ({"key": len(key)}, None)
        assert await kv.get_many([key], collection=key) == [{"key": len(key)}]
        assert await kv.delete(key, collection=key) is True
        assert await kv.delete_many([key], collection=key) == 0
    assert await kv.collections() == []


@pytest.mark.thorough
async def test_random_names_are_told_as_they_were_given(kv: ContextStoreKeyValue) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    alphabet = ["/", "%", "0", ":", "a", "é", "\0", "\ud800", "\udfff", "🌍", "2F"]
    names = {"".join(dice.choices(alphabet, k=dice.choice([1, 2, 3, 100, 600]))) for _ in range(20)}
    for name in names:
        await kv.put_many(list(names), [{"key": n} for n in range(len(names))], collection=name)
        assert set(await kv.keys(name)) == names
    assert set(await kv.collections()) == names


async def test_names_read_well_in_the_store(kv: ContextStoreKeyValue, store: AsyncContextStore) -> None:
    """As the module's documentation has it, and people and other programs read it."""
    await kv.put("user/1", {"a": 1}, collection="settings")
    await kv.put("50%", {"a": 2}, collection="a/b")
    await kv.put("k" * 513, {"a": 3}, collection="c")
    short = await store.list_global_keys("key_value/c/")
    digest = hashlib.sha256(b"k" * 513).hexdigest()
    assert await store.list_global_keys("key_value/a") == ["key_value/a%2Fb/50%25"]
    assert await store.list_global_keys("key_value/s") == ["key_value/settings/user/1"]
    assert short == [f"key_value/c/{'k' * 64}%:{digest}"]
    record = await store.get_global("key_value/settings/user/1")
    assert record.keys() == {"value", "created_at"}
    assert record["value"] == {"a": 1}
    assert (await store.get_global(short[0])).keys() == {"value", "created_at", "collection", "key"}


async def test_a_list_ends_at_its_limit(kv: ContextStoreKeyValue) -> None:
    for n in range(7):
        await kv.put_many([f"{m:03}" for m in range(150)], [{}] * 150, collection=f"c{n}")
    assert await kv.keys("c3", limit=3) == ["000", "001", "002"]
    assert len(await kv.keys("c3")) == len(await kv.keys("c3", limit=0)) == len(await kv.keys("c3", limit=-1)) == 150
    assert await kv.collections(limit=2) == ["c0", "c1"]
    assert await kv.collections() == await kv.collections(limit=0) == [f"c{n}" for n in range(7)]


@pytest.mark.thorough
async def test_more_collections_than_a_page_are_all_listed_once(kv: ContextStoreKeyValue) -> None:
    names = [f"{n:04}" for n in range(350)]
    for name in names:
        await kv.put("k", {}, collection=name)
    assert await kv.collections() == names
    assert await kv.collections(limit=301) == names[:301]


async def test_namespaces_know_nothing_of_each_other_nor_of_the_stores_own_keys(store: AsyncContextStore) -> None:
    kinds = {name: ContextStoreKeyValue(store, namespace=name) for name in ("a", "a/b", "a%2Fb", "", "\ud800")}
    await store.put_global("key_value", "mine")
    for name, kv in kinds.items():
        await kv.put("k", {"of": len(name)}, collection="b")
        await kv.put("b/k", {"of": len(name)})
    for name, kv in kinds.items():
        assert await kv.get("k", collection="b") == {"of": len(name)}
        assert sorted(await kv.collections()) == ["b", "default_collection"]
    assert await kinds["a"].destroy() is True
    assert await kinds["a"].collections() == []
    assert await kinds["a/b"].keys("b") == ["k"]
    assert await store.get_global("key_value") == "mine"


async def test_a_destroyed_one_may_be_used_again(kv: ContextStoreKeyValue) -> None:
    await kv.put("k", {"a": 1})
    assert await kv.destroy() is True
    assert await kv.destroy() is True
    assert await kv.get("k") is None
    await kv.put("k", {"a": 2})
    assert await kv.keys() == ["k"]
