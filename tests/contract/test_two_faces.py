"""One core, two faces: what the view of a store on the other face is, and how long the two live."""

from __future__ import annotations

import asyncio
import gc
import pathlib
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, StoreClosedError, copy

from ..conftest import ENGINES, new_location
from ..process.threads import own_threads, run_threads
from ..support.doubles import until
from .waiting import outcomes_of, spawn, subscriptions


@pytest.fixture(params=ENGINES)
def place(request: pytest.FixtureRequest) -> Any:
    return new_location(request.param, request)


@pytest.fixture
def blocking(place: Any) -> Iterator[ContextStore]:
    with ContextStore(place) as store:
        yield store


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class TestAView:
    def test_is_the_same_object_at_each_look(self) -> None:
        store, awaited = ContextStore(":memory:"), AsyncContextStore(":memory:")
        assert type(store.awaitable) is AsyncContextStore
        assert type(awaited.blocking) is ContextStore
        assert store.awaitable is store.awaitable
        assert awaited.blocking is awaited.blocking

    def test_leads_back_to_the_store_itself(self) -> None:
        class Own(ContextStore):
            pass

        store, awaited = Own(":memory:"), AsyncContextStore(":memory:")
        assert store.awaitable.blocking is store
        assert awaited.blocking.awaitable is awaited

    def test_is_the_same_for_all_threads_that_look_at_once(self) -> None:
        for _ in range(50):
            store, together = ContextStore(":memory:"), threading.Barrier(8)

            def look(_: int, store: ContextStore = store, together: threading.Barrier = together) -> AsyncContextStore:
                together.wait(30)
                return store.awaitable

            assert len(set(map(id, run_threads(look, 8)))) == 1

    def test_of_a_store_that_is_not_open_opens_it(self, place: Any) -> None:
        store = AsyncContextStore(place)
        store.blocking.put("run", "a", 1)
        assert "(open)" in repr(store)
        asyncio.run(store.close())

    async def test_answers_from_the_cache_of_the_other(self, blocking: ContextStore) -> None:
        await blocking.awaitable.put("run", "a", 1)
        blocking.awaitable.blocking.put("run", "b", 2)
        hits = blocking.counters().cache_hits
        assert (blocking.get("run", "a"), await blocking.awaitable.get("run", "b")) == (1, 2)
        assert blocking.counters().cache_hits == blocking.awaitable.counters().cache_hits == hits + 2

    def test_starts_no_threads(self, file_path: pathlib.Path) -> None:
        with ContextStore(file_path) as store:
            store.put("run", "a", 1)
            before = len(own_threads(file_path))
            assert asyncio.run(store.awaitable.get_run("run")) == {"a": 1}
            assert len(own_threads(file_path)) == before

    def test_is_no_target_of_a_copy(self) -> None:
        store = ContextStore(":memory:")
        for one, other in [(store, store.awaitable), (store.awaitable, store), (store, store)]:
            with pytest.raises(ValueError, match="the same store"):
                copy(one, other)


async def leave_block(store: ContextStore) -> None:
    with store:
        pass


async def leave_awaited_block(store: ContextStore) -> None:
    async with store.awaitable:
        pass


CLOSING: dict[str, Callable[[ContextStore], Any]] = {
    "close": lambda store: asyncio.to_thread(store.close),
    "close on the loop": lambda store: asyncio.sleep(0, store.close()),
    "with": leave_block,
    "awaited close": lambda store: store.awaitable.close(),
    "async with": leave_awaited_block,
}


@pytest.mark.parametrize("close", CLOSING.values(), ids=CLOSING)
class TestClosingEither:
    @pytest.mark.each_input_once
    async def test_closes_both(self, blocking: ContextStore, close: Callable[[ContextStore], Any]) -> None:
        awaited = blocking.awaitable
        await awaited.put("run", "a", 1)
        await close(blocking)
        for _ in range(2):
            with pytest.raises(StoreClosedError):
                blocking.get("run", "a")
            with pytest.raises(StoreClosedError):
                await awaited.get("run", "a")
            await awaited.close()
            blocking.close()

    @pytest.mark.each_input_once
    async def test_ends_what_waits_on_the_other(
        self, blocking: ContextStore, close: Callable[[ContextStore], Any]
    ) -> None:
        awaited = blocking.awaitable
        waits = spawn(
            asyncio.to_thread(blocking.wait_for, "run", "a", timeout=60),
            asyncio.to_thread(next, blocking.watch("run")),
            awaited.wait_for("run", "a", timeout=60),
            anext(awaited.watch("run")),
        )
        await until(lambda: len(subscriptions(blocking)) == 4)
        await close(blocking)
        assert [type(outcome) for outcome in await outcomes_of(waits)] == [StoreClosedError] * 4

    @pytest.mark.each_input_once
    async def test_leaves_no_put_in_between(
        self, blocking: ContextStore, close: Callable[[ContextStore], Any], place: Any
    ) -> None:
        """Each is acknowledged and stored, or refused; on both faces, and none hangs."""
        awaited = blocking.awaitable
        puts = spawn(
            *(asyncio.to_thread(blocking.put, "run", f"thread {number}", 1) for number in range(10)),
            *(awaited.put("run", f"task {number}", 1) for number in range(50)),
        )
        await asyncio.wait(puts, return_when=asyncio.FIRST_COMPLETED)
        await close(blocking)
        outcomes = await outcomes_of(puts)
        assert {type(outcome) for outcome in outcomes} <= {type(None), StoreClosedError}
        if place != ":memory:":
            async with AsyncContextStore(place) as again:
                assert len(await again.list_keys("run")) == outcomes.count(None)


HELD: dict[str, Callable[[ContextStore], Any]] = {
    "store": lambda store: store,
    "run": lambda store: store.run("run"),
    "batch": lambda store: store.batch(),
    "iterator": lambda store: store.iter_outputs("run"),
    "view": lambda store: store.awaitable,
    "run of the view": lambda store: store.awaitable.run("run"),
    "batch of the view": lambda store: store.awaitable.batch(),
    "iterator of the view": lambda store: store.awaitable.iter_outputs("run"),
}


@pytest.mark.parametrize("what", HELD)
@pytest.mark.parametrize("first", [ContextStore, AsyncContextStore])
def test_what_is_not_closed_is_warned_of_once_as_the_last_that_holds_it_goes(
    file_path: pathlib.Path, no_collector: None, first: type, what: str
) -> None:
    made = first(file_path)
    store = made if isinstance(made, ContextStore) else made.blocking
    store.put("run", "a", 1)
    asyncio.run(store.awaitable.put("run", "b", 1))
    held = HELD[what](store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del made, store
    assert own_threads(file_path)
    with pytest.warns(ResourceWarning, match="was not closed") as caught:
        del held
    assert len(caught) == 1


@pytest.mark.parametrize("is_closed_by", ["store", "view"])
def test_one_that_is_closed_by_either_face_is_warned_of_by_none(
    file_path: pathlib.Path, no_collector: None, is_closed_by: str
) -> None:
    store = ContextStore(file_path)
    view = store.awaitable
    view.blocking.put("run", "a", 1)
    if is_closed_by == "store":
        store.close()
    else:
        asyncio.run(view.close())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del store, view


def test_a_view_that_is_dropped_closes_nothing(file_path: pathlib.Path, no_collector: None) -> None:
    with warnings.catch_warnings(), ContextStore(file_path) as store:
        warnings.simplefilter("error")
        for number in range(100):
            asyncio.run(store.awaitable.put("run", f"{number}", 1))
        assert len(store.list_keys("run")) == 100
