"""Runs as they are followed on either face, and what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from contextstore import RunInfo

from .waiting import TOLD


def plain(store: Any) -> Any:
    return getattr(store, "plain", store)


async def called(store: Any, name: str, run: str, /, *args: Any, **options: Any) -> Any:
    """A call of the run object, on either face."""
    made = getattr(plain(store).run(run), name)
    if plain(store) is store:
        return await made(*args, **options)
    return await asyncio.to_thread(made, *args, **options)


class Following:
    """A ``watch_runs`` of either face, stepped by the awaited call."""

    def __init__(self, store: Any, **options: Any) -> None:
        self.iterator: Any = plain(store).watch_runs(**options)

    async def next(self) -> RunInfo:
        step = asyncio.to_thread(next, self.iterator) if isinstance(self.iterator, Iterator) else anext(self.iterator)
        async with asyncio.timeout(TOLD):
            info: RunInfo = await step
        return info

    async def take(self, count: int) -> list[RunInfo]:
        return [await self.next() for _ in range(count)]

    async def names(self, count: int) -> list[str]:
        return [info.flow_run_id for info in await self.take(count)]

    async def until(self, name: str) -> list[RunInfo]:
        """All up to the one of this name, which is the last."""
        infos = [await self.next()]
        while infos[-1].flow_run_id != name:
            infos.append(await self.next())
        return infos

    async def close(self) -> None:
        if isinstance(self.iterator, Iterator):
            self.iterator.close()  # type: ignore[attr-defined]  # a generator
        else:
            await self.iterator.aclose()


@contextlib.asynccontextmanager
async def following(store: Any, **options: Any) -> AsyncIterator[Following]:
    made = Following(store, **options)
    try:
        yield made
    finally:
        await made.close()
