"""Several loops at once, on one store: asyncio's and trio's, in threads of their own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import threading
from typing import Any

import anyio
import pytest

from contextstore import AsyncContextStore

from ..support.doubles import core_of
from .loops import (  # noqa: F401 - fixtures
    KINDS,
    Hang,
    Stop,
    assert_nothing_is_left,
    each_backend,
    flights,
    loop_in_thread,
    on_each_loop,
    run_on,
    store_for_any_loop,
    until,
)


class TestAtOnce:
    @pytest.mark.parametrize(("first", "second"), list(itertools.product(KINDS, KINDS)))
    def test_two_loops_use_one_store_and_share_a_computation(
        self, store: AsyncContextStore, first: str, second: str
    ) -> None:
        hang = Hang()
        meeting = threading.Barrier(2)

        async def work(name: str) -> Any:
            meeting.wait(30)
            await store.open()
            for number in range(30):
                await store.put(name, f"{number}", number)
                assert await store.get(name, f"{number}") == number
                await store.update_global("key", lambda value: value + 1, 0)
            return await store.get_or_put("run", "node", hang)

        async def release() -> None:
            await until(lambda: [len(flight.callers) for flight in flights(store).values()] == [2])
            hang.released.set()

        with loop_in_thread(first, lambda: work("a")) as one, loop_in_thread(second, lambda: work("b")) as other:
            anyio.run(release)
            assert one() == other() == "computed"
        assert hang.begun == 1
        assert asyncio.run(store.get_global("key")) == 60

    @pytest.mark.parametrize(("first", "second"), list(itertools.product(KINDS, KINDS)))
    def test_callers_are_cancelled_on_their_own_loop_and_the_last_one_cancels_the_computation(
        self, store: AsyncContextStore, first: str, second: str
    ) -> None:
        hang = Hang()
        gone = [threading.Event(), threading.Event()]

        async def ask(number: int) -> bool:
            async with anyio.create_task_group() as group:

                async def leave() -> None:
                    await until(gone[number].is_set)
                    group.cancel_scope.cancel()

                group.start_soon(leave)
                await store.get_or_put("run", "node", hang)
            return group.cancel_scope.cancel_called

        async def direct() -> None:
            await until(lambda: hang.begun == 1)

        async def joined() -> None:
            await until(lambda: [len(flight.callers) for flight in flights(store).values()] == [2])

        with loop_in_thread(first, lambda: ask(0)) as starter:
            anyio.run(direct)
            with loop_in_thread(second, lambda: ask(1)) as joiner:
                anyio.run(joined)
                # The loop of the computation must live on for the others: its caller leaves, the loop has other work.
                gone[1].set()
                assert joiner() is True
                assert hang.cancelled == 0
            gone[0].set()
            assert starter() is True
        assert (hang.begun, hang.cancelled, hang.ended) == (1, 1, 1)

    @pytest.mark.parametrize(("first", "second"), list(itertools.product([*KINDS, "closed"], KINDS)))
    def test_a_loop_that_ends_takes_only_its_own_calls_and_others_compute_anew(
        self, store: AsyncContextStore, first: str, second: str
    ) -> None:
        hang = Hang()
        ends = threading.Event()

        async def begin() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(store.get_or_put, "run", "node", hang)
                group.start_soon(store.wait_for, "run", "never")
                await until(ends.is_set)
                group.cancel_scope.cancel()

        def begin_and_close() -> None:
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda *_: None)  # a task was destroyed, and it was pending
            tasks = [loop.create_task(store.get_or_put("run", "node", hang))]
            loop.run_until_complete(asyncio.wait([loop.create_task(until(ends.is_set))]))
            loop.close()
            tasks.clear()

        async def ask() -> list[Any]:
            return [await store.get_or_put("run", "node", lambda: "anew"), await store.get("run", "missing")]

        async def joined() -> None:
            await until(lambda: [len(flight.callers) for flight in flights(store).values()] == [2])

        if first == "closed":
            thread = threading.Thread(target=begin_and_close)
            thread.start()
        with contextlib.ExitStack() as stack:
            if first != "closed":
                stack.enter_context(loop_in_thread(first, begin))
            anyio.run(functools.partial(until, lambda: hang.begun))
            other = stack.enter_context(loop_in_thread(second, ask))
            anyio.run(joined)
            ends.set()
            if first == "closed":
                thread.join()
            assert other() == ["anew", None]
        assert hang.begun == 1

    @pytest.mark.parametrize(("first", "second"), list(itertools.product(KINDS, KINDS)))
    def test_a_circle_over_two_loops_is_refused(self, store: AsyncContextStore, first: str, second: str) -> None:
        meeting = [threading.Event(), threading.Event()]

        async def ask(number: int) -> Any:
            async def factory() -> Any:
                meeting[number].set()
                await until(meeting[1 - number].is_set)
                return await store.get_or_put("run", f"{1 - number}", lambda: pytest.fail("it is under way"))

            return await store.get_or_put("run", f"{number}", factory)

        with loop_in_thread(first, lambda: ask(0)) as one, loop_in_thread(second, lambda: ask(1)) as other:
            outcomes = [one(), other()]
        assert {type(outcome) for outcome in outcomes} == {RuntimeError}  # that of the one, and the other's joined it
        assert "would wait for itself" in str(outcomes[0])

    @pytest.mark.parametrize("kind", KINDS)
    def test_one_opens_and_the_others_wait(self, store: AsyncContextStore, kind: str) -> None:
        engine: Any = core_of(store)._session.engine
        original, openings = engine.open, []

        async def counted() -> None:
            openings.append(1)
            await asyncio.sleep(0.05)
            await original()

        engine.open = counted
        loops = [loop_in_thread(one, store.open) for one in ("asyncio", kind, "trio")]
        with contextlib.ExitStack() as stack:
            assert [result() for result in [stack.enter_context(loop) for loop in loops]] == [None] * 3
        assert openings == [1]

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_turn_whose_loop_is_closed_is_passed_over(self, store: AsyncContextStore, kind: str) -> None:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        begun = threading.Event()

        async def never(_: Any) -> None:
            begun.set()
            await asyncio.sleep(3600)

        async def begin() -> None:
            tasks.append(asyncio.ensure_future(store.update_global("key", never)))
            await until(begun.is_set)

        tasks: list[Any] = []
        loop.run_until_complete(begin())
        queues: Any = core_of(store)._core.backend.updates._queues
        with loop_in_thread(kind, lambda: store.update_global("key", lambda _: 1)) as other:
            anyio.run(functools.partial(until, lambda: len(queues["key"]) == 2))
            loop.close()
            assert other() == 1
        tasks.clear()
