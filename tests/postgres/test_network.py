"""Truth over a network: lost answers, silence, servers that end, fail-over; each on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    ContextStore,
    GlobalAlreadyExistsError,
    ReadOnlyStoreError,
    StorageError,
    StoreBusyError,
)

from ..support.doubles import core_of, until
from ..support.nodes import execute, two_nodes
from ..support.proxy import Proxy
from ..support.servers import Server, running_server

# --------------------------------------------------------------------------------------------------------- lost answers

WRITES: dict[str, tuple[str, Callable[[ContextStore], Any], Any]] = {
    "put": ("node-a", lambda store: store.put("run", "node-a", 1), None),
    "put, its run": ("new run", lambda store: store.put("new run", "a", 1), None),
    "put_many": ("COMMIT", lambda store: store.put_many("run", {"a": 1, "b": 2}), ["a", "b"]),
    "put_many with exist_ok": (
        "COMMIT",
        lambda store: store.put_many("run", {"there": 0, "a": 1}, exist_ok=True),
        ["a"],
    ),
    "put_global": ("COMMIT", lambda store: store.put_global("new", 1), None),
    "upsert_global": ("COMMIT", lambda store: store.upsert_global("key", "new"), 2),
    "upsert_global, before its end": ("key", lambda store: store.upsert_global("key", "new"), 2),
    "update_global": ("COMMIT", lambda store: store.update_global("count", lambda n: n + 1), 1),
    "delete_global": ("COMMIT", lambda store: store.delete_global("key"), True),
    "delete_run": ("COMMIT", lambda store: store.delete_run("run"), 1),
}


@pytest.mark.parametrize("what", WRITES)
def test_a_write_whose_answer_is_lost_is_done_once_and_says_so(proxy: Proxy, schema: str, what: str) -> None:
    text, write, expected = WRITES[what]
    with ContextStore(proxy.url(schema=schema), timeout=20) as store:
        store.put("run", "there", 0)
        store.upsert_global("key", "old")
        store.upsert_global("count", 0)
        proxy.lose_answer_to(text)
        assert write(store) == expected
        assert proxy.cuts == 1
        versions = {entry.key: entry.version for entry in store.list_globals()}
        assert versions.get("key", 2) <= 2
        assert versions["count"] <= 2
        if what in ("put", "put_many", "put_global"):
            with pytest.raises((AlreadyExistsError, GlobalAlreadyExistsError)):
                write(store)
        assert store.check().ok


def test_a_batch_whose_answer_is_lost_is_there_whole_and_once(proxy: Proxy, schema: str) -> None:
    with ContextStore(proxy.url(schema=schema)) as store:
        store.upsert_global("key", 0)
        proxy.lose_answer_to("COMMIT")
        with store.batch() as batch:
            batch.put("run-1", "a", 1)
            batch.put("run-2", "b", 2)
            batch.upsert_global("key", 1)
        assert proxy.cuts == 1
        assert (store.get("run-1", "a"), store.get("run-2", "b"), store.get_global("key")) == (1, 2, 1)
        assert store.get_global_entry("key").version == 2  # type: ignore[union-attr]


def test_an_upsert_that_others_have_written_over_since_is_said_to_be_unknown(
    proxy: Proxy, url: str, schema: str
) -> None:
    with ContextStore(proxy.url(schema=schema)) as store, ContextStore(url) as other:
        store.upsert_global("key", 0)
        core: Any = core_of(store)
        connect = core._session.engine._writing.connect

        async def connect_late(deadline: float) -> None:
            if not core._session.engine._writing.is_connected and proxy.cuts:
                await asyncio.to_thread(lambda: other.upsert_global("key", "theirs"))
            await connect(deadline)

        core._session.engine._writing.connect = connect_late
        proxy.lose_answer_to("COMMIT")
        with pytest.raises(StorageError) as caught:
            store.upsert_global("key", "mine")
        assert caught.value.outcome_unknown
        assert other.get_global("key") == "theirs"


async def test_puts_that_share_a_commit_whose_answer_is_lost_are_all_told_of_success(proxy: Proxy, schema: str) -> None:
    async with AsyncContextStore(proxy.url(schema=schema)) as store:
        await store.put("run", "taken", 0)
        proxy.lose_answer_to("node-77")
        results = await asyncio.gather(
            *(store.put("run", f"node-{i}", i) for i in range(100)),
            store.put("run", "taken", 1),
            return_exceptions=True,
        )
        assert proxy.cuts == 1
        assert results[:100] == [None] * 100
        assert isinstance(results[100], AlreadyExistsError)
        assert await store.get_run("run") == {"taken": 0} | {f"node-{i}": i for i in range(100)}


@pytest.mark.parametrize("face", ["async", "sync"])
async def test_a_silent_server_costs_a_call_its_timeout_and_the_store_works_on(
    proxy: Proxy, schema: str, face: str
) -> None:
    async def call(store: Any, name: str, *args: Any) -> Any:
        if face == "async":
            return await getattr(store, name)(*args)
        return await asyncio.to_thread(getattr(store, name), *args)

    kind: Any = {"async": AsyncContextStore, "sync": ContextStore}[face]
    store = kind(proxy.url(schema=schema), timeout=1.0, cache_bytes=0)
    try:
        await call(store, "put", "run", "before", 1)
        proxy.is_silent = True
        began = time.monotonic()
        with pytest.raises(StorageError) as caught:
            await call(store, "put", "run", "lost", 1)
        assert caught.value.outcome_unknown
        with pytest.raises(StorageError):
            await call(store, "get", "run", "before")
        assert time.monotonic() - began < 15
        proxy.is_silent = False
        proxy.cut_all()
        await call(store, "put", "run", "after", 1)
        assert await call(store, "get", "run", "before") == 1
    finally:
        await call(store, "close")


def test_a_server_that_is_silent_from_the_start_ends_the_opening(proxy: Proxy, schema: str) -> None:
    proxy.is_silent = True
    began = time.monotonic()
    with pytest.raises(StorageError), ContextStore(proxy.url(schema=schema), timeout=1):
        pass
    assert time.monotonic() - began < 15


async def test_no_cancellation_reaches_the_server(proxy: Proxy, schema: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with AsyncContextStore(proxy.url(schema=schema)) as store:
        await store.open()
        tasks = {str(i): asyncio.ensure_future(store.put("run", str(i), i)) for i in range(2000)}
        while not all(task.done() for task in tasks.values()):
            for name in chance.sample(sorted(tasks), 50):
                tasks[name].cancel()
            await asyncio.sleep(0.001)
        acknowledged = {name for name, task in tasks.items() if not task.cancelled()}
        stored = await store.get_run("run")
        assert acknowledged <= stored.keys()
        assert all(stored[name] == int(name) for name in stored)
    assert proxy.cancel_requests == 0


# ----------------------------------------------------------------------------------------------------- servers that end


class Load:
    """Tasks that put unique and contested keys through two stores until they are told to stop."""

    def __init__(self, *stores: AsyncContextStore) -> None:
        self.acknowledged: dict[str, int] = {}
        self.winners: dict[str, list[int]] = {}
        self.unknown = 0
        self.false_refusals = 0
        self._stop = False
        self._tasks = [asyncio.ensure_future(self._work(store, i)) for i, store in enumerate(stores * 8)]

    async def _work(self, store: AsyncContextStore, worker: int) -> None:
        for number in range(10**9):
            if self._stop:
                return
            try:
                await store.put("run", f"{worker}-{number}", number)
                self.acknowledged[f"{worker}-{number}"] = number
            except AlreadyExistsError:
                self.false_refusals += 1
            except StorageError:
                self.unknown += 1
            key = f"contested-{number}"
            with contextlib.suppress(AlreadyExistsError, StorageError):
                await store.put("run", key, worker)
                self.winners.setdefault(key, []).append(worker)

    async def end(self) -> None:
        self._stop = True
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)

    async def judge(self, store: AsyncContextStore) -> None:
        stored = await store.get_run("run")
        assert self.acknowledged.items() <= stored.items(), "an acknowledged put is lost"
        assert all(len(winners) == 1 for winners in self.winners.values()), "two winners"
        assert all(stored[key] == winners[0] for key, winners in self.winners.items())
        assert self.false_refusals == 0, "a put was told that somebody else had written it"


async def test_backends_that_are_terminated_at_random_lose_nothing(postgres: Server, url: str) -> None:
    async with AsyncContextStore(url) as one, AsyncContextStore(url) as other:
        load = Load(one, other)
        killer = await asyncpg.connect(postgres.url())
        terminated = 0
        deadline = time.monotonic() + 60
        while terminated < 30 or len(load.acknowledged) <= 50:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
            terminated += len(
                await killer.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'contextstore'"
                )
            )
        await killer.close()
        await load.end()
        await load.judge(one)
        print(f"{terminated} terminated, {len(load.acknowledged)} acknowledged, {load.unknown} unknown")
        assert load.unknown == 0


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_server_that_is_restarted_is_waited_for(mode: str) -> None:
    with running_server() as server:
        async with AsyncContextStore(server.url()) as one, AsyncContextStore(server.url()) as other:
            load = Load(one, other)
            await until(lambda: len(load.acknowledged) > 50)
            await asyncio.to_thread(server.stop, mode)
            before = len(load.acknowledged)
            await asyncio.to_thread(server.start)
            await until(lambda: len(load.acknowledged) > before + 50)
            await load.end()
            await load.judge(one)


@pytest.mark.slow
async def test_killing_a_replicated_primary_loses_nothing_that_was_acknowledged() -> None:
    nodes = two_nodes()
    primary, standby = await asyncio.to_thread(nodes.__enter__)
    try:
        url = f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        url += "?target_session_attrs=read-write"
        async with AsyncContextStore(url) as one, AsyncContextStore(url) as other:
            load = Load(one, other)
            await until(lambda: len(load.acknowledged) > 200)
            os.kill(primary.process_id, signal.SIGKILL)
            killed = time.monotonic()
            before = len(load.acknowledged)
            await asyncio.to_thread(execute, standby, "SELECT pg_promote(true, 30)")
            await asyncio.to_thread(execute, standby, "ALTER SYSTEM SET synchronous_standby_names = ''")
            await asyncio.to_thread(execute, standby, "SELECT pg_reload_conf()")
            await until(lambda: len(load.acknowledged) > before + 20)
            pause = time.monotonic() - killed
            await until(lambda: len(load.acknowledged) > before + 200)
            await load.end()
            await load.judge(one)
            print(f"{before} acknowledged before, {len(load.acknowledged)} in all, {pause:.2f} s without")
    finally:
        await asyncio.to_thread(nodes.__exit__, None, None, None)


async def opened_when_replayed(url: str) -> AsyncContextStore:
    """A store that only reads, of a standby, which may not have replayed yet that the store was made."""
    deadline = time.monotonic() + 20
    while True:
        store = AsyncContextStore(url, read_only=True, cache_bytes=0)
        try:
            await store.open()
        except StorageError:
            await store.close()
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        else:
            return store


@pytest.mark.slow
async def test_a_standby_is_read_and_not_written() -> None:
    nodes = two_nodes()
    primary, standby = await asyncio.to_thread(nodes.__enter__)
    try:
        async with (
            AsyncContextStore(primary.url()) as writer,
            await opened_when_replayed(standby.url()) as reader,
        ):
            await writer.put("run", "a", 1)
            assert await reader.wait_for("run", "a", timeout=20) == 1
            waiting = asyncio.ensure_future(reader.wait_for("run", "b", timeout=20))
            await writer.put("run", "b", 2)
            assert await waiting == 2
            assert (await reader.check()).ok
            cursor = await reader.cursor()
            await writer.put("run", "c", 3)
            async with asyncio.timeout(60), contextlib.aclosing(reader.watch(after=cursor)) as told:
                while (await anext(told)).node_id != "c":
                    pass
            with pytest.raises(ReadOnlyStoreError):
                await reader.put("run", "d", 3)
    finally:
        await asyncio.to_thread(nodes.__exit__, None, None, None)


def test_a_write_that_was_not_sent_is_busy_and_not_unknown(proxy: Proxy, schema: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=1) as store:
        store.put("run", "a", 1)
        proxy.is_silent = True
        proxy.cut_all()
        time.sleep(0.2)
        with pytest.raises(StoreBusyError) as caught:
            store.put("run", "b", 1)
        assert not caught.value.outcome_unknown
        proxy.is_silent = False
        proxy.cut_all()
        store.put("run", "b", 2)
        assert store.get("run", "b") == 2
