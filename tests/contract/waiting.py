"""Who waits for outputs of a store, and how a test asks and steps them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from typing import Any

from contextstore import Output

from ..support.doubles import core_of, until

TOLD = 30.0  # seconds within which anything must be told: a guard against hangs, not a measure


def news(store: Any) -> Any:
    return core_of(store)._session.subscriptions


def subscriptions(store: Any) -> list[Any]:
    everybody: list[Any] = news(store)._all()
    return everybody


async def waiting(store: Any, count: int = 1) -> None:
    """Wait until so many wait for news."""
    await until(lambda: sum(bool(one.waiting) for one in subscriptions(store)) == count)


def spawn(*calls: Awaitable[Any]) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(call) for call in calls]


async def outcomes_of(tasks: Iterable[asyncio.Future[Any]]) -> list[Any]:
    async with asyncio.timeout(TOLD):
        return await asyncio.gather(*tasks, return_exceptions=True)


class Watching:
    """A watch of either face, stepped by the awaited call."""

    def __init__(self, store: Any, run: str | None = "run", **options: Any) -> None:
        self.iterator: Any = getattr(store, "plain", store).watch(run, **options)

    async def next(self) -> Output:
        step = asyncio.to_thread(self._next) if isinstance(self.iterator, Iterator) else anext(self.iterator)
        async with asyncio.timeout(TOLD):
            output: Output = await step
        return output

    def _next(self) -> Output:
        try:
            output: Output = next(self.iterator)
        except StopIteration:  # which no future can be given
            raise StopAsyncIteration from None
        return output

    async def take(self, count: int) -> list[str]:
        return [(await self.next()).node_id for _ in range(count)]

    async def rest(self) -> list[str]:
        """Of one that ends."""
        nodes = []
        with contextlib.suppress(StopAsyncIteration):
            while True:
                nodes.append((await self.next()).node_id)
        return nodes

    async def close(self) -> None:
        if isinstance(self.iterator, Iterator):
            self.iterator.close()  # type: ignore[attr-defined]
        else:
            await self.iterator.aclose()


@contextlib.asynccontextmanager
async def watching(store: Any, run: str | None = "run", **options: Any) -> AsyncIterator[Watching]:
    watch = Watching(store, run, **options)
    try:
        yield watch
    finally:
        await watch.close()
