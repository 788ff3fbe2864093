"""Outputs a page at a time: in order, whoever writes meanwhile, and nothing is held between two pages."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sqlite3
import tracemalloc
from typing import Any

import pytest

from contextstore import CorruptStoreError, InvalidKeyError, StorageError, StoreClosedError
from contextstore._sqlite.worker import connection_here

from ..conftest import Target
from ..support.doubles import core_of, engine_alone, fail, until
from .outputs import damage, ids_of, iterate


class TestIterOutputs:
    async def test_outputs_come_by_node_id_each_as_get_entry_tells_it(self, store: Any) -> None:
        nodes = ["b", "a", "é", "\U0001f600", "\uffee", "c"]
        await store.put_many("run", {node: {"node": node} for node in nodes})
        outputs = [output async for output in iterate(store)]
        assert outputs == [await store.get_entry("run", node) for node in sorted(nodes)]

    async def test_a_run_never_seen_has_nothing_to_iterate_over(self, store: Any) -> None:
        assert await ids_of(store) == []

    @pytest.mark.parametrize("count", [199, 200, 201, 400, 1001])
    @pytest.mark.each_input_once
    async def test_pages_join_without_a_gap_and_without_a_repetition(self, store: Any, count: int) -> None:
        nodes = [f"{i:04}" for i in range(count)]
        await store.put_many("run", dict.fromkeys(nodes))
        assert await ids_of(store) == nodes

    async def test_pages_are_bounded_in_rows_and_in_bytes(self, store: Any) -> None:
        await store.put_many("small", {f"{i:04}": i for i in range(900)})
        await store.put_many("large", {f"{i:04}": b"x" * 300_000 for i in range(20)})
        engine: Any = core_of(store)._session.engine
        original, pages = engine.list_outputs, []

        async def counted(*args: Any) -> Any:
            page = await original(*args)
            pages.append((len(page.rows), sum(len(row[2]) for row in page.rows)))
            return page

        engine.list_outputs = counted
        for run in ("small", "large"):
            pages.clear()
            count = len(await ids_of(store, run))
            assert sum(rows for rows, _ in pages) == count
            assert max(rows for rows, _ in pages) <= 200
            assert max(size for _, size in pages) <= 2**20 + 300_000

    async def test_memory_does_not_grow_with_the_run(self, store: Any) -> None:
        for i in range(0, 60, 10):
            await store.put_many("run", {f"{j:03}": bytes(500_000) for j in range(i, i + 10)})
        core_of(store)._session.cache.clear()
        gc.collect()
        tracemalloc.start()
        try:
            seen = 0
            async for output in iterate(store):
                seen += output.size
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert seen == 30_000_000
        assert peak < 5_000_000

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_a_paused_iteration_holds_nothing(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put_many("run", {f"{i:04}": "x" * 100 for i in range(1000)})
            iteration = iterate(store)
            await anext(iteration)
            # Others write, in this object and in another connection; and the WAL can be cut to nothing.
            await store.put("other", "node", 1)
            with contextlib.closing(sqlite3.connect(make_store.location, timeout=0)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE flow_runs SET created_at = created_at")
                connection.execute("COMMIT")
                assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
            assert make_store.location.with_name("store.db-wal").stat().st_size == 0
            assert len([output async for output in iteration]) == 999

    async def test_it_may_be_left_half_read(self, store: Any) -> None:
        await store.put_many("run", {f"{i:04}": i for i in range(500)})
        async for output in iterate(store):
            if output.node_id == "0003":
                break
        gc.collect()
        assert len(await ids_of(store)) == 500
        await store.put("run", "x", 1)

    async def test_a_half_read_one_does_not_keep_the_store_from_closing(self, make_store: Target) -> None:
        store = make_store()
        await store.put_many("run", {f"{i:04}": i for i in range(500)})
        iteration = iterate(store)
        await anext(iteration)
        await store.close()
        with pytest.raises(StoreClosedError):
            await anext(iteration)

    async def test_closing_ends_it_also_within_a_page(self, make_store: Target) -> None:
        """What was fetched ahead is no more served by a closed store than what is cached."""
        store = make_store()
        await store.put_many("run", {"a": 1, "b": 2})
        iteration = iterate(store)
        assert (await anext(iteration)).node_id == "a"
        await store.close()
        with pytest.raises(StoreClosedError):
            await anext(iteration)

    async def test_outputs_written_meanwhile_may_be_seen_but_none_twice(self, store: Any) -> None:
        before = [f"{i:04}" for i in range(0, 1000, 2)]
        await store.put_many("run", dict.fromkeys(before))
        seen: list[str] = []
        async for output in iterate(store):
            seen.append(output.node_id)
            if len(seen) % 50 == 0:
                here = int(output.node_id)
                await store.put_many("run", {f"{here - 1:04}": None, f"{here + 301:04}": None})
        assert seen == sorted(set(seen))
        assert set(before) <= set(seen)
        assert set(seen) <= set(await store.list_keys("run"))
        assert len(seen) > len(before)

    async def test_a_run_deleted_meanwhile_ends_it(self, store: Any) -> None:
        await store.put_many("run", {f"{i:04}": i for i in range(1000)})
        iteration = iterate(store)
        await anext(iteration)
        await store.delete_run("run")
        assert len([output async for output in iteration]) < 200

    async def test_several_iterations_do_not_hinder_each_other(self, store: Any) -> None:
        await store.put_many("run", {f"{i:04}": i for i in range(500)})
        nodes = await store.list_keys("run")
        assert await asyncio.gather(*(ids_of(store) for _ in range(5))) == [nodes] * 5

    async def test_an_invalid_run_is_refused(self, store: Any) -> None:
        with pytest.raises(InvalidKeyError):
            await ids_of(store, "")

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_a_damaged_output_is_an_error_that_names_it(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put_many("run", {f"{i:03}": i for i in range(10)})
            damage(make_store, "UPDATE node_outputs SET value = 99 WHERE node_id = '004'")
            seen = []
            with pytest.raises(CorruptStoreError, match="'004' of flow run 'run'"):  # noqa: PT012
                async for output in iterate(store):
                    seen.append(output.node_id)
            assert seen == ["000", "001", "002", "003"]
            with pytest.raises(CorruptStoreError, match="'004'"):
                await store.get_run("run")

    async def test_a_fault_of_the_engine_is_raised_and_the_next_iteration_works(self, store: Any) -> None:
        await store.put_many("run", {f"{i:03}": i for i in range(300)})
        fail(store, "list_outputs", None, StorageError("no"))
        seen = []
        with pytest.raises(StorageError):  # noqa: PT012
            async for output in iterate(store):
                seen.append(output.node_id)
        assert len(seen) == 200
        assert len(await ids_of(store)) == 300

    async def test_a_cancelled_step_leaves_the_store_as_it_was(self, make_store: Target) -> None:
        if make_store.face != "async":
            pytest.skip("a thread that is blocked in a read cannot be cancelled")
        async with make_store() as store:
            await store.put_many("run", {f"{i:03}": i for i in range(300)})
            for _ in range(20):
                reading = asyncio.ensure_future(store.get_run("run"))
                for _ in range(random.randrange(6)):
                    await asyncio.sleep(0)
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            assert len(await store.get_run("run")) == 300


@pytest.mark.usefixtures("embedded")
async def test_listing_reads_no_values(make_store: Target) -> None:
    async with make_store(cache_bytes=0) as store:
        await store.put_many("run", {f"{i}": b"x" * 3_000_000 for i in range(3)})
        engine: Any = engine_alone(store)
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        async def counting() -> None:
            connection_here().set_progress_handler(count, 1)

        engine.post_read(counting)
        tracemalloc.start()
        try:
            assert await store.list_keys("run") == ["0", "1", "2"]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1_000_000
        assert 0 < steps < 1000


@pytest.mark.usefixtures("embedded", "shared_target")
async def test_an_iteration_paused_within_a_page_that_bytes_have_cut_holds_nothing(make_store: Target) -> None:
    async with make_store(cache_bytes=0) as store:
        await store.put_many("run", {f"{i}": b"x" * 600_000 for i in range(6)})
        iterator = store.iter_outputs("run") if make_store.face == "async" else store.plain.iter_outputs("run")
        first = await anext(iterator) if make_store.face == "async" else await asyncio.to_thread(next, iterator)
        assert first.node_id == "0"
        engine: Any = core_of(store)._session.engine
        busy: list[Any] = []

        async def look() -> None:
            connection_here().execute("PRAGMA wal_checkpoint(FULL)").fetchall()
            busy.append(engine._database._reading.connection.in_transaction)

        await store.put("run", "later", 1)
        engine.post_write(look)
        await until(lambda: busy)
        assert await asyncio.to_thread(checkpointed, make_store.location) == 0  # nobody pins an old snapshot
        await (iterator.aclose() if make_store.face == "async" else asyncio.to_thread(iterator.close))


def checkpointed(path: Any) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        ((busy, _, _),) = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
        return int(busy)
