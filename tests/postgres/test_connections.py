"""How many connections a store has to a server, and what it does when the server has none left."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from contextstore import AsyncContextStore, ContextStore, Observer, StoreBusyError
from contextstore._core import parts
from contextstore._postgres import reads
from contextstore._postgres.connection import Connection
from contextstore.observers import WaitEvent

from ..support.doubles import core_of
from ..support.nodes import execute
from ..support.proxy import Proxy
from ..support.servers import Server, running_server


@pytest.fixture(scope="module")
def small_server() -> Iterator[Server]:
    """With room for four."""
    with running_server(max_connections=4, superuser_reserved_connections=0, max_wal_senders=0) as server:
        yield server


@contextlib.asynccontextmanager
async def taken(server: Server, places: int) -> Any:
    """So many of its places are taken; gives the function that frees one."""
    connections = [await connected(server) for _ in range(places)]

    async def free() -> None:
        await connections.pop().close()

    try:
        yield free
    finally:
        for connection in connections:
            await connection.close()


async def connected(server: Server) -> Any:
    deadline = time.monotonic() + 20  # a place is free a moment after its connection was closed
    while True:
        try:
            return await asyncpg.connect(server.url())
        except asyncpg.TooManyConnectionsError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("face", ["async", "sync"])
class TestTooManyClients:
    async def call(self, face: str, store: Any, name: str, *arguments: Any) -> Any:
        if face == "async":
            return await getattr(store, name)(*arguments)
        return await asyncio.to_thread(getattr(store, name), *arguments)

    def make(self, face: str, server: Server, timeout: float) -> Any:
        kind = AsyncContextStore if face == "async" else ContextStore
        return kind(server.url(schema=f"many_{face}"), timeout=timeout)

    async def test_opening_waits_until_the_timeout_and_is_then_busy(self, face: str, small_server: Server) -> None:
        store = self.make(face, small_server, 1.5)
        async with taken(small_server, 4):
            began = time.monotonic()
            with pytest.raises(StoreBusyError, match="no connection left"):
                await self.call(face, store, "open")
            assert time.monotonic() - began >= 1.4
        await self.call(face, store, "put", "run", f"{time.time()}", 1)  # the next call tries anew
        await self.call(face, store, "close")

    async def test_opening_comes_through_once_a_place_is_free(self, face: str, small_server: Server) -> None:
        store = self.make(face, small_server, 30)
        async with taken(small_server, 4) as free:
            opening = asyncio.ensure_future(self.call(face, store, "open"))
            await asyncio.sleep(0.5)
            assert not opening.done()
            await free()
            await opening
        await self.call(face, store, "close")

    async def test_a_call_waits_and_is_then_busy_and_comes_through_once_a_place_is_free(
        self, face: str, small_server: Server
    ) -> None:
        store = self.make(face, small_server, 1.5)
        await self.call(face, store, "open")  # with the one connection that writes
        node = f"{time.time()}"
        async with taken(small_server, 3) as free:
            with pytest.raises(StoreBusyError, match="53300"):
                await self.call(face, store, "get", "run", node)
            await self.call(face, store, "put", "run", node, 1)
            await free()
            assert await self.call(face, store, "list_keys", "run")
        await self.call(face, store, "close")

    async def test_a_write_waits_and_is_then_busy_and_stores_nothing(self, face: str, small_server: Server) -> None:
        store = self.make(face, small_server, 1.5)
        await self.call(face, store, "open")
        node = f"{time.time()}"
        async with taken(small_server, 3):
            engine: Any = core_of(store)._session.engine
            engine._writing.terminate()  # its connection is lost, and somebody else gets its place
            async with taken(small_server, 1):
                with pytest.raises(StoreBusyError):
                    await self.call(face, store, "put", "run", node, 1)
            await self.call(face, store, "put", "run", node, 2)
        assert await self.call(face, store, "get", "run", node) == 2
        await self.call(face, store, "close")


@pytest.mark.slow
@pytest.mark.parametrize("most", [2, *(pytest.param(most, marks=pytest.mark.thorough) for most in (4, 7))])
@pytest.mark.parametrize("face", [AsyncContextStore, ContextStore])
async def test_a_store_has_as_many_connections_as_it_may_and_no_more(
    face: Any, most: int, postgres: Server, url: str
) -> None:
    store = face(f"{url}&application_name=counted", max_connections=most)
    seen = 0

    async def call(name: str, *arguments: Any) -> Any:
        if face is AsyncContextStore:
            return await getattr(store, name)(*arguments)
        return await asyncio.to_thread(getattr(store, name), *arguments)

    await call("put_many", "run", {f"{i:05}": "x" * 200 for i in range(3000)})
    for _ in range(5):
        work = [asyncio.ensure_future(call("get_run", "run")) for _ in range(12)]
        work += [asyncio.ensure_future(call("put", "other", f"{time.time()}-{i}", 1)) for i in range(4)]
        while not all(one.done() for one in work):
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'"
            ((count,),) = await asyncio.to_thread(execute, postgres, query)
            seen = max(seen, count)
        await asyncio.gather(*work)
    await call("close")
    assert seen == most


async def test_a_list_may_take_longer_than_the_timeout_if_each_of_its_answers_is_in_time(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = Connection.fetch

    async def fetch_slowly(self: Connection, *arguments: Any) -> Any:
        await asyncio.sleep(0.3)
        return await fetch(self, *arguments)

    async with AsyncContextStore(url, timeout=1) as store:
        await store.put_many("run", {f"{i}": i for i in range(8)})
        monkeypatch.setattr(parts, "_LIST_KEYS", 2)
        monkeypatch.setattr(reads, "_NODE_IDS", 2)
        monkeypatch.setattr(Connection, "fetch", fetch_slowly)
        assert await store.list_keys("run") == [f"{i}" for i in range(8)]


def test_a_store_that_waits_for_nothing_connects_anew_when_its_connection_is_lost(proxy: Proxy, schema: str) -> None:
    with ContextStore(proxy.url(schema=schema), timeout=0) as store:
        store.put("run", "first", 1)
        proxy.cut_all()

        deadline = time.monotonic() + 10
        while store.get("run", "later") is None and time.monotonic() < deadline:
            with contextlib.suppress(StoreBusyError):
                store.put("run", "later", 2, exist_ok=True)
        assert store.get("run", "later") == 2


async def test_a_read_that_waits_for_a_connection_of_the_pool_is_counted_and_told(url: str) -> None:
    class Waits(Observer):
        def __init__(self) -> None:
            self.kinds: list[str] = []

        def on_wait(self, event: WaitEvent, /) -> None:
            assert event.seconds > 0
            self.kinds.append(event.kind)

    waits = Waits()
    async with AsyncContextStore(url, observers=[waits], max_connections=2) as store:  # one of them reads
        await asyncio.gather(*(store.exists("run", f"{n}") for n in range(10)))
        counted = store.counters().waits["connection"]
    assert counted >= 1
    assert waits.kinds == ["connection"] * counted
