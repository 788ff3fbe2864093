"""Waiting for each other: a circle is refused, and to look for one costs next to nothing and remembers nothing."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from typing import Any

import pytest

from contextstore import AsyncContextStore
from contextstore._waiting import deadlock as _circles
from contextstore._waiting.deadlock import Computation, running, waiting_for


def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many works are looked at for each wait that is registered from now on."""
    counts: list[int] = []
    original = _circles._rank_above

    class Counting(dict[Computation, int]):
        def __iter__(self) -> object:  # type: ignore[override]  # an iterator; what it yields does not matter here
            counts[-1] += len(self)
            return super().__iter__()

    def counted(waiter: Computation, work: Computation, key: object) -> None:
        counts.append(0)
        original(waiter, work, key)

    make = Computation.__init__

    def make_counting(self: Computation, loop: Any = None) -> None:
        make(self, loop)
        self.waiters = Counting()

    monkeypatch.setattr(Computation, "__init__", make_counting)
    monkeypatch.setattr(_circles, "_rank_above", counted)
    return counts


async def layered(layers: int, width: int) -> int:
    """Each node of a layer asks for all of the layer below."""
    async with AsyncContextStore(":memory:") as store:

        async def node(layer: int) -> int:
            if layer == 0:
                await asyncio.sleep(0)
                return 1
            return sum(await asyncio.gather(*(ask(layer - 1, place) for place in range(width)))) % 1000

        async def ask(layer: int, place: int) -> int:
            return int(await store.get_or_put("run", f"{layer}/{place}", lambda: node(layer)))

        return sum(await asyncio.gather(*(ask(layers - 1, place) for place in range(width))))


async def test_steps_that_ask_for_each_others_outputs_are_looked_at_a_few_times_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = looks(monkeypatch)
    await layered(12, 12)
    waits = 11 * 12 * 12
    assert len(counts) <= waits  # those that fit the ranks are not looked at
    assert sum(counts) < 20 * waits  # to walk all that is waited for, at each wait, looked at 300 times as many


def test_of_random_waits_exactly_those_that_close_a_circle_are_refused() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        works = [Computation() for _ in range(8)]
        edges: set[tuple[int, int]] = set()
        held = []

        def reaches(start: int, end: int) -> bool:
            seen, ahead = set(), [start]
            while ahead:
                one = ahead.pop()
                if one == end:
                    return True
                if one not in seen:
                    seen.add(one)
                    ahead += [b for a, b in edges if a == one]  # noqa: B023 - called in this turn of the loop alone
            return False

        for _ in range(40):
            one, other = chance.randrange(8), chance.randrange(8)
            closes = reaches(other, one)
            waiting = waiting_for(works[other], "key")
            with running(works[one]):
                if closes:
                    with pytest.raises(RuntimeError, match="wait for itself"):
                        waiting.__enter__()
                else:
                    waiting.__enter__()
                    edges.add((one, other))
                    held.append((waiting, one, other))
            if held and chance.random() < 0.3:
                waiting, one, other = held.pop(chance.randrange(len(held)))
                waiting.__exit__(None, None, None)
                if not any((a, b) == (one, other) for _, a, b in held):
                    edges.discard((one, other))
        assert all(works[a].rank > works[b].rank for a, b in edges), f"seed {seed}"


async def test_a_chain_of_steps_each_started_by_the_one_before_is_not_remembered() -> None:
    async with AsyncContextStore(":memory:") as store:
        made: list[weakref.ref[Computation]] = []
        ended = asyncio.Event()
        tasks = set()

        async def step(number: int) -> None:
            await store.get_or_put("run", f"{number}", lambda: compute(number))

        async def compute(number: int) -> int:
            own = _circles._own.get()
            assert own is not None
            made.append(weakref.ref(own))
            if number < 50:
                task = asyncio.ensure_future(step(number + 1))  # in the context of this one
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            else:
                ended.set()
            return number

        await step(0)
        await ended.wait()
        await asyncio.gather(*tasks)
        gc.collect()
        assert len(made) == 51
        assert sum(work() is not None for work in made) <= 2


async def test_a_step_that_could_not_begin_can_be_asked_for_again() -> None:
    async with AsyncContextStore(":memory:") as store:
        loop = asyncio.get_running_loop()

        def refuse(_: object, coroutine: Any, **__: object) -> Any:
            coroutine.close()
            raise RecursionError

        loop.set_task_factory(refuse)
        with pytest.raises(RecursionError):
            await store.get_or_put("run", "node", lambda: 1)
        loop.set_task_factory(None)
        assert await store.get_or_put("run", "node", lambda: 1) == 1


def test_a_call_that_is_collected_in_another_call_leaves_that_ones_place_alone() -> None:
    """Or what that one computes could wait for itself without end."""
    store, tasks = AsyncContextStore(":memory:"), []

    async def begin() -> None:
        begun = asyncio.Event()

        async def never(_: Any) -> None:
            begun.set()
            await asyncio.sleep(3600)

        tasks.append(asyncio.ensure_future(store.update_global("key", never)))
        await begun.wait()

    async def factory() -> Any:
        tasks.clear()
        gc.collect()
        return await store.get_or_put("run", "node", lambda: 1)

    async def ask() -> None:
        async with store, asyncio.timeout(30):
            with pytest.raises(RuntimeError, match="would wait for itself"):
                await store.get_or_put("run", "node", factory)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # a task was destroyed, and it was pending
    loop.run_until_complete(begin())
    loop.close()
    asyncio.run(ask())
