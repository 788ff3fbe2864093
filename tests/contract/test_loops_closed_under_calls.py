"""A loop of asyncio's that is closed while calls wait on it, without a word to them: they are let go of, with it."""

from __future__ import annotations

import asyncio
import gc
import pathlib
import time
import weakref
from typing import Any

import pytest

from contextstore import AsyncContextStore
from contextstore._dispatch import subscriptions as _subscriptions
from contextstore._waiting import key_lock as _key_lock

from ..support.doubles import core_of


async def watch(store: AsyncContextStore) -> None:
    async for _ in store.watch("run"):
        pass


@pytest.mark.parametrize("place", ["file", "memory"])
def test_what_waits_for_outputs_goes_with_its_loop(
    file_path: pathlib.Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_subscriptions, "_LOST_SECONDS", 0.02)
    store = AsyncContextStore(file_path if place == "file" else ":memory:")
    subscriptions: Any = core_of(store)._session.subscriptions

    async def begin() -> list[asyncio.Task[Any]]:
        tasks = [asyncio.ensure_future(call) for call in (store.wait_for("run", "never"), watch(store))]
        while [bool(one.waiting) for one in subscriptions._all()] != [True, True]:
            await asyncio.sleep(0.001)
        return tasks

    async def another() -> None:
        with pytest.raises(TimeoutError):
            await store.wait_for("other", "never", timeout=0.05)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # a task was destroyed, and it was pending
    tasks = loop.run_until_complete(begin())
    loop.close()
    tasks.clear()
    closed = weakref.ref(loop)
    del loop
    if place == "memory":  # there nothing looks by itself
        asyncio.run(another())
    deadline = time.monotonic() + 30
    while subscriptions._all() or subscriptions._polling or closed():
        assert time.monotonic() < deadline, "something is left"
        time.sleep(0.01)
        gc.collect()
    asyncio.run(store.close())


def test_an_iterator_goes_that_was_between_two_outputs(file_path: pathlib.Path) -> None:
    store = AsyncContextStore(file_path)
    subscriptions: Any = core_of(store)._session.subscriptions

    async def begin() -> Any:
        await store.put("run", "node", 1)
        outputs = store.watch("run")
        assert (await anext(outputs)).node_id == "node"
        return outputs

    loop = asyncio.new_event_loop()
    outputs = loop.run_until_complete(begin())
    loop.close()
    assert len(subscriptions._all()) == 1
    del outputs
    gc.collect()
    asyncio.run(store.put("run", "another", 1))
    assert subscriptions._all() == []
    asyncio.run(store.close())


def test_an_update_of_a_key_that_is_asked_for_no_more_goes_with_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_key_lock, "_LOST_SECONDS", 0.0)
    store = AsyncContextStore(":memory:")
    queues: Any = core_of(store)._core.backend.updates._queues

    async def never(_: Any) -> None:
        await asyncio.sleep(3600)

    async def begin() -> list[asyncio.Task[Any]]:
        tasks = [asyncio.ensure_future(store.update_global("key", never)) for _ in range(2)]
        while [len(queue) for queue in queues.values()] != [2]:
            await asyncio.sleep(0.001)
        return tasks

    async def another() -> None:
        assert await store.update_global("other", lambda _: 1) == 1

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    tasks = loop.run_until_complete(begin())
    loop.close()
    tasks.clear()
    closed = weakref.ref(loop)
    del loop
    asyncio.run(another())
    gc.collect()
    assert queues == {}
    assert closed() is None
    asyncio.run(store.close())
