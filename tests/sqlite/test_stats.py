"""Care: what stats tells."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import Any

import pytest

from contextstore import ContextStoreError, StoreClosedError

from ..conftest import Target

pytestmark = pytest.mark.usefixtures("embedded")  # a server is looked after in test_care_postgres


class TestStats:
    async def test_the_counts_are_those_of_what_is_there(self, store: Any) -> None:
        empty = await store.stats()
        assert (empty.runs, empty.outputs, empty.globals, empty.tombstones, empty.value_bytes) == (0, 0, 0, 0, 0)
        await store.put_many("run-1", {"a": "é", "b": b"123", "c": None})
        await store.put("run-2", "a", 1)
        await store.put_many("deleted", {"a": 1, "b": 2})
        await store.delete_run("deleted")
        await store.delete_run("never seen")
        await store.put_global("key", "x")
        await store.upsert_global("deleted", "xyz")
        await store.delete_global("deleted")
        stats = await store.stats()
        assert (stats.runs, stats.outputs, stats.globals, stats.tombstones) == (2, 4, 1, 2)
        assert stats.value_bytes == len('"é"'.encode()) + 3 + 4 + 1 + 3

    async def test_the_writes_of_this_object_are_counted(self, store: Any) -> None:
        before = await store.stats()
        await store.put("run", "a", 1)
        await store.put_many("run", {"b": 1, "c": 2})
        with contextlib.suppress(ContextStoreError):
            await store.put("run", "a", 2)
        stats = await store.stats()
        assert (stats.commits - before.commits, stats.writes - before.writes) == (2, 2)
        assert stats.largest_group == 1
        assert stats.queued_writes == 0
        await asyncio.gather(*(store.put("crowd", str(i), i) for i in range(100)))
        stats = await store.stats()
        assert stats.writes - before.writes == 102
        assert stats.commits - before.commits <= 102

    async def test_the_cache_is_told(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "a", "x" * 100)
            stats = await store.stats()
            assert (stats.cache_entries, stats.cache_hits, stats.cache_misses) == (1, 0, 0)
            assert 100 < stats.cache_bytes < 1000
            await store.get("run", "a")
            await store.get("run", "missing")
            stats = await store.stats()
            assert (stats.cache_hits, stats.cache_misses) == (1, 1)
            await store.delete_run("run")
            stats = await store.stats()
            assert (stats.cache_entries, stats.cache_bytes) == (0, 0)
        async with make_store(cache_bytes=0) as store:
            await store.put("other", "a", 1)
            await store.get("other", "a")
            stats = await store.stats()
            assert (stats.cache_entries, stats.cache_bytes, stats.cache_hits) == (0, 0, 0)

    async def test_the_sizes_are_those_of_the_files(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "a", "x" * 10_000)
            await store.put("run", "b", 1)  # once this is answered, the WAL is no more being grown ahead
            stats = await store.stats()
            assert stats.location == (str(make_store.location))
            assert stats.engine == f"SQLite {sqlite3.sqlite_version}"
            if make_store.engine == "memory":
                assert (stats.file_bytes, stats.wal_bytes, stats.checkpoint_pinned) == (0, 0, False)
            else:
                assert stats.file_bytes == make_store.location.stat().st_size
                assert stats.wal_bytes == make_store.location.with_name("store.db-wal").stat().st_size

    @pytest.mark.usefixtures("shared_target")
    async def test_a_reader_that_pins_an_old_snapshot_is_told(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "a", 1)
            with contextlib.closing(sqlite3.connect(make_store.location, isolation_level=None)) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM flow_runs").fetchall()
                for i in range(6):
                    await store.put("large", str(i), b"x" * 1_000_000)
                await until_pinned(store, True)
                reader.execute("ROLLBACK")
            for i in range(6, 12):
                await store.put("large", str(i), b"x" * 1_000_000)
            await until_pinned(store, False)

    async def test_a_closed_store_tells_nothing(self, make_store: Target) -> None:
        store = make_store()
        await store.put("run", "a", 1)
        await store.close()
        for call in (store.stats, store.check, lambda: store.backup("nowhere")):
            with pytest.raises(StoreClosedError):
                await call()


async def until_pinned(store: Any, expected: bool) -> None:
    async with asyncio.timeout(30):
        while (await store.stats()).checkpoint_pinned is not expected:
            await asyncio.sleep(0.01)
