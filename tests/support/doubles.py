"""Ways to stop a store at a chosen point, and to inject a fault there: at the engine's contract, with a real engine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from contextstore import AsyncContextStore
from contextstore._core.session import Session
from contextstore._waiting.threads import run_now


def core_of(store: Any) -> Any:
    """The awaited calls, on the core of a store of either face, or of its awaited form.

    They may be awaited wherever the store's own calls wait: on its loop, or in a thread that runs them by ``run_now``.
    """
    awaited = _Awaited.__new__(_Awaited)
    awaited._core = getattr(store, "plain", store)._core
    return awaited


class _Awaited(AsyncContextStore):
    @property
    def _session(self) -> Session:
        return self._core.session


def engine_alone(store: Any) -> Any:
    """The engine of a store, which does all by its own threads from now on, and nothing in its callers'."""
    session: Any = core_of(store)._session
    session.writer._inline = session.reader._inline = None
    return session.engine


class Gate:
    """Holds every commit of a store until it is opened, and counts what goes through.

    A single put goes that way, too.
    """

    def __init__(self, store: Any) -> None:
        self._engine: Any = engine_alone(store)
        self._commit = self._engine.commit
        self._open = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.groups: list[int] = []
        self._engine.commit = self._held_commit
        self._engine.put_alone = self._leave_to_commit

    async def _held_commit(self, units: Any) -> Any:
        self.groups.append(len(units))
        self.arrived.release()
        assert self._open.wait(60), "the gate was never opened"
        return await self._commit(units)

    async def _leave_to_commit(self, _: Any) -> bool:
        return False

    async def wait_for_arrival(self) -> None:
        await until(lambda: self.arrived.acquire(blocking=False))

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open.clear()


def fail(store: Any, call: str, *errors: BaseException | None) -> None:
    """Have the engine's next calls raise these, one after the other (None: do what it does); then work as before."""
    engine: Any = engine_alone(store)
    if call in ("poll", "deleted_among", "globals_beyond"):
        engine = engine.feed
    original = getattr(engine, call)
    left = list(errors)

    async def failing(*args: Any) -> Any:
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return await original(*args)

    setattr(engine, call, failing)


def after_each_fetch(store: Any, then: Callable[[int], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Have this awaited between a fetch of so many outputs and its answer, whoever fetches: the engine's thread, or a
    caller's, where nothing suspends. Returns what ends it.
    """
    engine: Any = core_of(store)._session.engine
    inline: Any = engine.inline
    fetch = engine.fetch

    async def fetch_then(keys: Any) -> Any:
        found = await fetch(keys)
        await then(len(keys))
        return found

    def fetch_inline_then(key: Any) -> Any:
        found = type(inline).fetch_one(inline, key)
        if found is not None:  # else the engine's thread fetches it
            run_now(then(1))
        return found

    def end() -> None:
        engine.fetch = fetch
        if inline is not None:
            del inline.fetch_one

    engine.fetch = fetch_then
    if inline is not None:
        inline.fetch_one = fetch_inline_then
    return end


async def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.001)


def queued(store: Any) -> int:
    """How many writes are in the queue, or wait for room in it."""
    waiting: int = core_of(store)._session.writer.queued
    return waiting
