"""Who calls an engine that is a double, and on what loop: callers of each face, and tests that let a loop turn.

Tests take these from ``fake_engine``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from contextstore import ContextStoreError
from contextstore._waiting.callers import Binding
from contextstore._waiting.future import SharedFuture
from contextstore._waiting.outcome import Outcome
from contextstore._waiting.tasks import TaskCallers
from contextstore._waiting.threads import ThreadCallers

if TYPE_CHECKING:
    from .fake_engine import FakeEngine

T = TypeVar("T")


def task_callers(engine: FakeEngine, timeout: float = 5.0) -> TaskCallers:
    """Those of the running loop, as an open store has them."""
    return TaskCallers(bound(engine), timeout)


def thread_callers(engine: FakeEngine) -> ThreadCallers:
    return ThreadCallers(bound(engine))


def bound(engine: FakeEngine) -> Binding:
    binding = Binding(engine.location, engine.own_threads)
    binding.settle()
    binding.bind()
    return binding


class LoopHost:
    """Runs an engine's calls as tasks of the test's loop, in the place of the engine's host and its thread."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Task[None]] = []
        self.error: ContextStoreError | None = None
        """What calls are refused with."""

    def call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> SharedFuture[Outcome[T]]:
        if self.error is not None:
            raise self.error
        future: SharedFuture[Outcome[T]] = SharedFuture()

        async def run() -> None:
            try:
                future.set_result(Outcome(await function()))
            except Exception as error:
                future.set_result(Outcome.failure(error))

        self.calls.append(asyncio.ensure_future(run()))
        return future

    @property
    def running(self) -> int:
        return sum(not call.done() for call in self.calls)

    async def end(self) -> None:
        for call in self.calls:
            call.cancel()
        await asyncio.gather(*self.calls, return_exceptions=True)


async def turns(count: int = 6) -> None:
    """Let the loop do what it has to do, and what comes of it."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any], most: int = 200) -> None:
    """Let the loop turn until it is so."""
    for _ in range(most):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to pass")


def spawn(*calls: Awaitable[T]) -> list[asyncio.Future[T]]:
    return [asyncio.ensure_future(call) for call in calls]


async def outcomes_of(tasks: Sequence[asyncio.Future[Any]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
