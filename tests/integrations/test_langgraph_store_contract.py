"""ContextStoreStore keeps the contract of LangGraph's BaseStore: items, batches, searches, namespaces, faces."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)

from contextstore import AsyncContextStore, ContextStore, SerializationError, StoreClosedError
from contextstore.integrations.langgraph import ContextStoreStore, store_items


class Way:
    """One of the two ways of the interface: ``await way.put(…)`` calls ``put`` in a thread, or awaits ``aput``."""

    def __init__(self, store: ContextStoreStore, is_awaited: bool) -> None:
        self.store, self._is_awaited = store, is_awaited

    def __getattr__(self, name: str) -> Any:
        if self._is_awaited:
            return getattr(self.store, f"a{name}")
        method = getattr(self.store, name)
        assert not inspect.iscoroutinefunction(method)
        return lambda *args, **options: asyncio.to_thread(method, *args, **options)


@pytest.fixture(params=["blocking", "awaited"])
async def way(request: pytest.FixtureRequest, target: str) -> AsyncIterator[Way]:
    if request.param == "awaited":
        async with ContextStoreStore.from_conn_string(target) as store:
            yield Way(store, is_awaited=True)
    else:
        with ContextStoreStore.from_conn_string(target) as store:
            yield Way(store, is_awaited=False)


USERS = ("users", "alice")


def keys_of(items: list[Any]) -> list[str]:
    return [item.key for item in items]


class TestItems:
    async def test_what_was_put_comes_back_with_its_place_and_times(self, way: Way) -> None:
        value = {"likes": ["figs", None, 1.5], "é": {"n": 2**63}}
        await way.put(USERS, "food", value)
        item = await way.get(USERS, "food")
        assert (item.namespace, item.key, item.value) == (USERS, "food", value)
        assert item.created_at == item.updated_at
        assert item.created_at.utcoffset() is not None

    async def test_a_later_put_replaces_the_value_and_keeps_when_it_was_created(self, way: Way) -> None:
        await way.put(USERS, "food", {"old": 1})
        first = await way.get(USERS, "food")
        await way.put(USERS, "food", {"new": 2})
        second = await way.get(USERS, "food")
        assert second.value == {"new": 2}
        assert second.created_at == first.created_at
        assert second.updated_at > first.updated_at

    async def test_what_was_deleted_is_not_there_and_is_created_anew(self, way: Way) -> None:
        await way.put(USERS, "food", {"n": 1})
        first = await way.get(USERS, "food")
        await way.delete(USERS, "food")
        await way.delete(USERS, "never")
        assert await way.get(USERS, "food") is None
        assert await way.search(()) == []
        await way.put(USERS, "food", {"n": 2})
        assert (await way.get(USERS, "food")).created_at > first.created_at

    async def test_namespaces_and_keys_of_any_text_are_kept_apart(self, way: Way) -> None:
        labels = ["a", "a!", 'a"', "a ", "!", " ", "\t", "a/b", "é", "\U0001f600", "*", "a" * 2000, "é" * 700]
        places = [
            *[((label,), key) for label in labels for key in ["", "k", " k", 'k"#', "k.\x00!", "ü" * 900]],
            *[((label, "b"), "k") for label in labels],
            *[(("a" * 2000, label, "c" * 2000), "k") for label in labels],
        ]
        await way.batch([PutOp(namespace, key, {"n": n}) for n, (namespace, key) in enumerate(places)])
        items = await way.batch([GetOp(namespace, key) for namespace, key in places])
        assert [item.value["n"] for item in items] == list(range(len(places)))
        assert [(item.namespace, item.key) for item in items] == places
        for label in labels:
            below = [(namespace, key) for namespace, key in places if namespace[0] == label]
            found = await way.search((label,), limit=1000)
            assert sorted((item.namespace, item.key) for item in found) == sorted(below)
        listed = await way.list_namespaces(limit=1000)
        assert listed == sorted({namespace for namespace, _ in places})

    async def test_a_wrong_namespace_is_refused_with_all_of_its_batch(self, way: Way) -> None:
        for wrong in [("a.b",), ("a", ""), ("a", 1), "ab"]:
            ops = [
                GetOp(wrong, "k"),
                PutOp(wrong, "k", {}),
                PutOp(wrong, "k", None),
                SearchOp(wrong),
                ListNamespacesOp((MatchCondition("suffix", wrong),)),
            ]
            for op in ops:
                with pytest.raises(InvalidNamespaceError):
                    await way.batch([PutOp(("fine",), "k", {}), op])
        for wrong in [(), ("langgraph", "x")]:
            with pytest.raises(InvalidNamespaceError):
                await way.put(wrong, "k", {})
        assert await way.list_namespaces() == []

    async def test_a_value_that_is_no_json_is_refused_with_all_of_its_batch(self, way: Way) -> None:
        with pytest.raises(SerializationError, match="NaN"):
            await way.batch([PutOp(("a",), "k", {}), PutOp(("a",), "l", {"n": float("nan")})])
        assert await way.search(()) == []


class TestBatches:
    async def test_reads_see_what_was_there_before_the_writes_of_their_batch(self, way: Way) -> None:
        await way.put(USERS, "a", {"n": 1})
        results = await way.batch(
            [
                PutOp(USERS, "a", {"n": 2}),
                GetOp(USERS, "a"),
                PutOp(("new",), "b", {"n": 3}),
                SearchOp(()),
                ListNamespacesOp(),
                GetOp(("new",), "b"),
            ]
        )
        assert results[0] is results[2] is results[5] is None
        assert results[1].value == {"n": 1}
        assert [item.value for item in results[3]] == [{"n": 1}]
        assert results[4] == [USERS]
        assert (await way.get(USERS, "a")).value == {"n": 2}

    async def test_of_several_writes_of_one_item_the_last_counts(self, way: Way) -> None:
        await way.batch([PutOp(USERS, "a", {"n": 1}), PutOp(USERS, "a", None), PutOp(USERS, "a", {"n": 3})])
        await way.batch([PutOp(USERS, "b", {"n": 1}), PutOp(USERS, "b", None)])
        assert [item.value for item in await way.search(USERS)] == [{"n": 3}]

    async def test_the_writes_of_a_batch_are_one_commit(self, way: Way) -> None:
        store = getattr(way.store.store, "blocking", way.store.store)
        before = (await asyncio.to_thread(store.stats)).commits
        await way.batch([PutOp(USERS, str(n), {"n": n}) for n in range(50)])
        assert (await asyncio.to_thread(store.stats)).commits == before + 1

    async def test_what_is_no_operation_is_refused(self, way: Way) -> None:
        with pytest.raises(ValueError, match="Unknown operation"):
            await way.batch([PutOp(USERS, "a", {}), "get"])
        assert await way.batch([]) == []
        assert await way.get(USERS, "a") is None


class TestSearches:
    async def test_the_latest_update_comes_first_page_by_page(self, way: Way) -> None:
        for n in range(5):
            await way.put(USERS, str(n), {"n": n})
        await way.put(USERS, "1", {"n": 1})
        assert keys_of(await way.search(USERS)) == ["1", "4", "3", "2", "0"]
        pages = [await way.search(USERS, limit=2, offset=offset) for offset in (0, 2, 4, 6)]
        assert [keys_of(page) for page in pages] == [["1", "4"], ["3", "2"], ["0"], []]
        assert await way.search(USERS, limit=0) == []

    async def test_items_of_one_commit_are_in_the_order_of_their_keys(self, way: Way) -> None:
        await way.batch([PutOp(USERS, key, {}) for key in "cab"])
        assert keys_of(await way.search(USERS)) == ["a", "b", "c"]

    async def test_more_than_a_page_of_the_store_is_searched(self, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_items, "_PAGE", 8)
        await way.batch([PutOp(USERS, f"{n:02}", {"n": n}) for n in range(48)])
        await way.put(USERS, "30", {"n": -1})
        assert keys_of(await way.search(USERS, limit=2)) == ["30", "00"]
        assert keys_of(await way.search(USERS, filter={"n": 47})) == ["47"]
        assert len(await way.search((), limit=1000)) == 48

    async def test_a_limit_or_offset_below_none_is_refused(self, way: Way) -> None:
        for options in [{"limit": -1}, {"offset": -1}]:
            with pytest.raises(ValueError, match="negative"):
                await way.search((), **options)
            with pytest.raises(ValueError, match="negative"):
                await way.list_namespaces(**options)


class TestNamespaces:
    async def test_they_are_matched_by_prefixes_suffixes_and_wildcards(self, way: Way) -> None:
        spaces = [("a",), ("a", "b"), ("a", "b", "c"), ("a", "d", "c"), ("a!", "c"), ("b", "b", "c"), ("c",)]
        await way.batch([PutOp(namespace, key, {}) for namespace in spaces for key in ("x", "y")])
        assert await way.list_namespaces() == spaces
        assert await way.list_namespaces(prefix=("a",)) == spaces[:4]
        assert await way.list_namespaces(prefix=("a", "b")) == spaces[1:3]
        assert await way.list_namespaces(prefix=("*", "b")) == [*spaces[1:3], spaces[5]]
        assert await way.list_namespaces(prefix=("a", "*", "c")) == spaces[2:4]
        assert await way.list_namespaces(suffix=("c",)) == spaces[2:]
        assert await way.list_namespaces(suffix=("b", "*")) == [spaces[2], spaces[5]]
        assert await way.list_namespaces(prefix=("a",), suffix=("c",)) == spaces[2:4]
        assert await way.list_namespaces(max_depth=1) == [("a",), ("a!",), ("b",), ("c",)]
        assert await way.list_namespaces(suffix=("c",), max_depth=2) == [
            ("a", "b"),
            ("a", "d"),
            ("a!", "c"),
            ("b", "b"),
            ("c",),
        ]
        assert await way.list_namespaces(limit=2, offset=3) == spaces[3:5]
        with pytest.raises(ValueError, match="max_depth"):
            await way.list_namespaces(max_depth=0)

    async def test_many_items_and_branches_are_passed_over_and_none_is_left_out(
        self, way: Way, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spaces = [("a", "0"), *(("b", f"{n:02}") for n in range(40)), ("c", "0"), ("c", "0", "d"), ("d" * 999, "e")]
        await way.batch([PutOp(namespace, "k", {}) for namespace in spaces])
        await way.batch([PutOp(("c", "0"), f"{n:02}", {}) for n in range(40)])
        for page in (1, 2, 7, 1000):
            monkeypatch.setattr(store_items, "_PAGE_OF_KEYS", page)
            assert await way.list_namespaces(limit=2000) == spaces
            assert await way.list_namespaces(offset=30, limit=20) == spaces[30:]
            assert await way.list_namespaces(max_depth=1) == [("a",), ("b",), ("c",), ("d" * 999,)]
            assert await way.list_namespaces(suffix=("d",), max_depth=2) == [("c", "0")]


class TestVectors:
    async def test_what_asks_for_them_is_refused_with_a_word(self, way: Way) -> None:
        with pytest.raises(NotImplementedError, match="no vectors"):
            await way.search(USERS, query="what does she like?")
        with pytest.raises(NotImplementedError, match="no vectors"):
            await way.batch([PutOp(USERS, "a", {}), PutOp(USERS, "b", {"t": "x"}, index=["t"])])
        assert await way.search(()) == []
        await way.put(USERS, "a", {}, index=False)
        assert len(await way.search(USERS, query=None)) == 1

    def test_an_index_is_refused_before_anything_is_opened(self, target: str) -> None:
        with pytest.raises(NotImplementedError, match="no vectors"):
            ContextStoreStore.from_conn_string(target, index={"dims": 3, "embed": lambda texts: []})
        with ContextStore(target) as store, pytest.raises(NotImplementedError, match="no vectors"):
            ContextStoreStore(store, index={"dims": 3, "embed": lambda texts: []})


class TestFaces:
    async def test_both_ways_work_on_either_face_and_see_the_same(self, target: str) -> None:
        async with AsyncContextStore(target) as store:
            one, other = ContextStoreStore(store), ContextStoreStore(store.blocking)
            await one.aput(USERS, "a", {"n": 1})
            assert other.get(USERS, "a") == await other.aget(USERS, "a") == await one.aget(USERS, "a")
            await asyncio.to_thread(one.put, USERS, "b", {"n": 2})
            assert keys_of(await other.asearch(USERS)) == ["b", "a"]
            assert await store.ping() > 0  # it was not closed

    async def test_a_blocking_call_on_a_loops_thread_raises_where_the_face_is_awaited(self) -> None:
        async with ContextStoreStore.from_conn_string(":memory:") as store:
            calls = [
                lambda: store.get(USERS, "a"),
                lambda: store.put(USERS, "a", {}),
                lambda: store.delete(USERS, "a"),
                lambda: store.search(USERS),
                store.list_namespaces,
                lambda: store.batch([]),
            ]
            for call in calls:
                with pytest.raises(asyncio.InvalidStateError, match="event loop"):
                    call()

    async def test_from_conn_string_closes_its_own(self, target: str) -> None:
        with ContextStoreStore.from_conn_string(target, timeout=20.0) as blocking:
            blocking.put(USERS, "a", {})
        async with ContextStoreStore.from_conn_string(target) as awaited:
            assert await awaited.aget(USERS, "a") is not None
        with pytest.raises(StoreClosedError):
            blocking.get(USERS, "a")
        with pytest.raises(StoreClosedError):
            await awaited.aget(USERS, "a")

    async def test_what_is_no_store_is_refused(self) -> None:
        with pytest.raises(TypeError, match="ContextStore"):
            ContextStoreStore("flows.db")
