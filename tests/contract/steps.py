"""Factories that a test holds, and who waits for what they compute."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from ..support.doubles import core_of, until


class Held:
    """A factory that begins, says so, and goes on when it is released; with any face."""

    def __init__(self, store: Any, result: Any = "computed") -> None:
        self.result = result
        self.begun = 0
        self.ended = 0
        self._released = threading.Event()
        self.factory: Callable[[], Any] = self._block if hasattr(store, "plain") else self._suspend

    def release(self) -> None:
        self._released.set()

    async def has_begun(self) -> None:
        await until(lambda: self.begun)

    def _block(self) -> Any:
        self.begun += 1
        assert self._released.wait(60), "it was never released"
        return self._end()

    async def _suspend(self) -> Any:
        self.begun += 1
        try:
            await until(self._released.is_set, 60)
        finally:
            self.ended += 1
        return self._end()

    def _end(self) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def flights(store: Any) -> dict[object, Any]:
    """What is being computed."""
    callers: Any = core_of(store)._session.callers
    by_key: dict[object, Any] = callers._flights.by_key
    return by_key


def waiters(store: Any) -> int:
    """How many calls wait for what another one computes."""
    return sum(len(flight.callers) - 1 for flight in list(flights(store).values()))


def spawn(*calls: Any) -> list[asyncio.Task[Any]]:
    return [asyncio.ensure_future(call) for call in calls]


async def outcomes_of(tasks: list[asyncio.Task[Any]]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)
