"""What a run of trio's ends under: a computation of the store's, and an async generator that writes at its end."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from contextstore import AsyncContextStore


def test_a_factory_whose_tasks_end_with_trio_is_no_error(
    file_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, begun = AsyncContextStore(file_path), threading.Event()

    async def factory() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(trio.sleep_forever)
            begun.set()

    async def begin() -> None:
        with trio.move_on_after(0.5):
            await store.get_or_put("run", "node", factory)

    async def ask() -> None:
        async with store:
            assert await store.get_or_put("run", "node", lambda: "anew") == "anew"

    thread = threading.Thread(target=trio.run, args=(begin,))
    thread.start()
    assert begun.wait(30)
    asyncio.run(ask())
    thread.join()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_an_async_generator_may_write_when_it_is_finalized_at_the_end(file_path: pathlib.Path) -> None:
    store = AsyncContextStore(file_path)
    kept: list[Any] = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            with trio.CancelScope(shield=True):
                await store.put("run", "last", 1)
                kept.append(await store.list_keys("run"))

    async def main() -> None:
        await store.open()
        kept.append(generator())
        await kept[0].__anext__()

    trio.run(main)
    trio.run(store.close)
    assert kept[1] == ["last"]
