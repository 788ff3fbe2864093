"""The few calls by which LangGraph's store works on a store, in one form for both of its faces.

Rules of this module: the public calls of a store, and nothing of LangGraph's. The logic above is written once, as
coroutines; on the blocking face their calls are made at once, so that nothing in them ever waits for a loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from ... import AsyncContextStore, ContextStore, GlobalEntry

T = TypeVar("T")


class Write(NamedTuple):
    """A global that is written over, or deleted."""

    key: str
    value: dict[str, Any] | None
    """None: it is deleted, whatever its version."""
    version: int = 0
    """The one that it is at; 0: it is not there."""
    ttl: float | None = None
    """Seconds."""


class Access(Protocol):
    """Calls on a store, awaited."""

    async def entries(self, keys: Sequence[str]) -> list[GlobalEntry | None]: ...

    async def page(self, prefix: str, after: str | None, limit: int) -> list[GlobalEntry]: ...

    async def page_keys(self, prefix: str, after: str | None, limit: int) -> list[str]: ...

    async def write(self, writes: Sequence[Write]) -> None:
        """All in one commit, or none: ``VersionConflictError`` if one is at another version."""


class Awaited:
    """On a store's awaited face."""

    def __init__(self, store: AsyncContextStore) -> None:
        self._store = store

    async def entries(self, keys: Sequence[str]) -> list[GlobalEntry | None]:
        if len(keys) == 1:
            return [await self._store.get_global_entry(keys[0])]
        return await asyncio.gather(*(self._store.get_global_entry(key) for key in keys))

    async def page(self, prefix: str, after: str | None, limit: int) -> list[GlobalEntry]:
        return await self._store.list_globals(prefix, after=after, limit=limit)

    async def page_keys(self, prefix: str, after: str | None, limit: int) -> list[str]:
        return await self._store.list_global_keys(prefix, after=after, limit=limit)

    async def write(self, writes: Sequence[Write]) -> None:
        async with self._store.batch() as batch:
            for key, value, version, ttl in writes:
                if value is None:
                    batch.delete_global(key)
                else:
                    batch.upsert_global(key, value, expected_version=version, ttl=ttl)


class Called:
    """On a store's blocking face."""

    def __init__(self, store: ContextStore) -> None:
        self._store = store

    async def entries(self, keys: Sequence[str]) -> list[GlobalEntry | None]:
        return [self._store.get_global_entry(key) for key in keys]

    async def page(self, prefix: str, after: str | None, limit: int) -> list[GlobalEntry]:
        return self._store.list_globals(prefix, after=after, limit=limit)

    async def page_keys(self, prefix: str, after: str | None, limit: int) -> list[str]:
        return self._store.list_global_keys(prefix, after=after, limit=limit)

    async def write(self, writes: Sequence[Write]) -> None:
        with self._store.batch() as batch:
            for key, value, version, ttl in writes:
                if value is None:
                    batch.delete_global(key)
                else:
                    batch.upsert_global(key, value, expected_version=version, ttl=ttl)


def run_at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing but calls on ``Called``."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("a call on the blocking face has waited for a loop")
