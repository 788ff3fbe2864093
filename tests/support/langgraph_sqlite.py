"""A plugin for pytest, in a process of its own: the suite of LangGraph's SQLite store meets ``ContextStoreStore``.

The suite takes its stores from ``langgraph.store.sqlite``; with this plugin it finds there stores of ours, made at the
places that the suite names, or on a server, each in a schema of its own (``CONTEXTSTORE_SUITE_URL``). Methods that are
awaited of one of its classes and not of the other are put right here; an ``index`` is left out, so that the tests that
have one and never ask for vectors can be run.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import langgraph.store.sqlite
import langgraph.store.sqlite.aio

from contextstore.integrations.langgraph import ContextStoreStore

_URL = os.environ.get("CONTEXTSTORE_SUITE_URL")
_numbers = itertools.count()
_places: dict[str, str] = {}


def _place(named: str) -> str:
    if not _URL:
        return named
    if named == ":memory:":
        return f"{_URL}_{next(_numbers)}"
    return _places.setdefault(named, f"{_URL}_{next(_numbers)}")


class BlockingStore(ContextStoreStore):
    @classmethod
    @contextlib.contextmanager
    def from_conn_string(cls, conn_string: str, *, index: Any = None, ttl: Any = None) -> Iterator[BlockingStore]:
        with super().from_conn_string(_place(conn_string), ttl=ttl, durability="normal") as store:
            assert isinstance(store, cls)
            yield store

    def setup(self) -> None: ...


class AwaitedStore(ContextStoreStore):
    @classmethod
    @contextlib.asynccontextmanager
    async def from_conn_string(
        cls, conn_string: str, *, index: Any = None, ttl: Any = None
    ) -> AsyncIterator[AwaitedStore]:
        async with super().from_conn_string(_place(conn_string), ttl=ttl, durability="normal") as store:
            assert isinstance(store, cls)
            yield store

    async def setup(self) -> None: ...

    async def sweep_ttl(self) -> int:
        return await self.asweep_ttl()

    async def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Any:
        return super().start_ttl_sweeper(sweep_interval_minutes)

    async def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        return await asyncio.to_thread(super().stop_ttl_sweeper, timeout)


if os.environ.get("CONTEXTSTORE_SUITE_OF") != "peer":
    langgraph.store.sqlite.SqliteStore = BlockingStore
    langgraph.store.sqlite.AsyncSqliteStore = AwaitedStore
    langgraph.store.sqlite.aio.AsyncSqliteStore = AwaitedStore
