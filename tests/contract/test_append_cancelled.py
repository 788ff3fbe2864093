"""Appends that are cancelled, at any moment: each is there as a whole or not at all, and its key with it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from contextstore import AsyncContextStore

from ..conftest import new_location


@pytest.mark.parametrize("engine", ["file", "memory", "postgres"])
async def test_an_append_cancelled_after_any_number_of_turns_is_there_once_or_not_at_all(
    engine: str, request: pytest.FixtureRequest
) -> None:
    place: Any = new_location(engine, request)
    async with AsyncContextStore(place) as store:
        await store.append("run", "p", "first")
        for turns in range(25):
            task = asyncio.ensure_future(store.append("run", "p", turns, key=str(turns)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        given = [await store.append("run", "p", turns, key=str(turns)) for turns in range(25)]
        there = await store.get_run("run")
        assert [there[node] for node in given] == list(range(25))
        assert list(there) == [f"p{n:012}" for n in range(1, 27)]
        assert (await store.check()).ok


@pytest.mark.parametrize("engine", ["file", "memory", "postgres"])
async def test_some_cancelled_among_many_keep_the_others_from_nothing(
    engine: str, request: pytest.FixtureRequest
) -> None:
    place: Any = new_location(engine, request)
    async with AsyncContextStore(place) as store:
        tasks = [asyncio.ensure_future(store.append("run", "p", number)) for number in range(60)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        given = {node: number for number, node in enumerate(results) if isinstance(node, str)}
        assert len(given) >= 40
        there = await store.get_run("run")
        assert {node: there[node] for node in given} == given
        assert list(there) == [f"p{n:012}" for n in range(1, len(there) + 1)]
