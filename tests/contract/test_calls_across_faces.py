"""Tasks and threads on one core: computations, turns and waits that they share, and circles of both."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import pathlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from contextstore import AsyncContextStore, ContextStore

from ..conftest import ENGINES, new_location
from ..process.threads import run_threads
from ..support.doubles import until
from .loops import KINDS, loop_in_thread, run_on
from .steps import Held, waiters
from .waiting import outcomes_of, spawn


@pytest.fixture(params=ENGINES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[AsyncContextStore]:
    asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor(100))
    async with AsyncContextStore(new_location(request.param, request)) as opened:
        yield opened
    backend = opened._core.backend
    assert (backend.flights.by_key, backend.updates._queues, backend.subscriptions._all()) == ({}, {}, [])


def in_thread(call: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
    return asyncio.ensure_future(asyncio.to_thread(call, *args))


class OfThreads:
    """Stands for the blocking face where a held factory asks which one it is for."""

    plain = True


class TestAComputation:
    async def test_of_a_task_is_joined_by_threads(self, store: AsyncContextStore) -> None:
        held = Held(store)
        first = asyncio.ensure_future(store.get_or_put("run", "node", held.factory))
        await held.has_begun()
        others = [in_thread(store.blocking.get_or_put, "run", "node", lambda: "another") for _ in range(5)]
        await until(lambda: waiters(store) == 5)
        held.release()
        assert await asyncio.gather(first, *others) == ["computed"] * 6
        assert held.begun == 1

    async def test_of_a_thread_is_joined_by_tasks(self, store: AsyncContextStore) -> None:
        held = Held(OfThreads)
        first = in_thread(store.blocking.get_or_put, "run", "node", held.factory)
        await held.has_begun()
        others = spawn(*(store.get_or_put("run", "node", lambda: "another") for _ in range(5)))
        await until(lambda: waiters(store) == 5)
        held.release()
        assert await asyncio.gather(first, *others) == ["computed"] * 6

    async def test_that_fails_is_the_failure_of_all_on_both(self, store: AsyncContextStore) -> None:
        held = Held(OfThreads, ZeroDivisionError())
        calls = [in_thread(store.blocking.get_or_put, "run", "node", held.factory)]
        await held.has_begun()
        calls += [in_thread(store.blocking.get_or_put, "run", "node", lambda: 1)]
        calls += spawn(store.get_or_put("run", "node", lambda: 1))
        await until(lambda: waiters(store) == 2)
        held.release()
        assert {type(outcome) for outcome in await outcomes_of(calls)} == {ZeroDivisionError}

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
    async def test_of_a_thread_that_is_interrupted_is_made_anew_by_one_of_the_tasks(
        self, store: AsyncContextStore, interruption: type[BaseException]
    ) -> None:
        held, anew = Held(OfThreads, interruption()), Held(store, "anew")
        interrupted: list[type] = []

        def call() -> None:
            try:
                store.blocking.get_or_put("run", "node", held.factory)
            except BaseException as error:
                interrupted.append(type(error))

        thread = threading.Thread(target=call)
        thread.start()
        await held.has_begun()
        others = spawn(*(store.get_or_put("run", "node", anew.factory) for _ in range(5)))
        await until(lambda: waiters(store) == 5)
        held.release()
        anew.release()
        assert await asyncio.gather(*others) == ["anew"] * 5
        thread.join(30)
        assert (interrupted, anew.begun) == ([interruption], 1)

    async def test_of_a_cancelled_task_goes_on_for_a_thread(self, store: AsyncContextStore) -> None:
        held = Held(store)
        first = asyncio.ensure_future(store.get_or_put("run", "node", held.factory))
        await held.has_begun()
        other = in_thread(store.blocking.get_or_put, "run", "node", lambda: "another")
        await until(lambda: waiters(store) == 1)
        first.cancel()
        assert isinstance((await outcomes_of([first]))[0], asyncio.CancelledError)
        held.release()
        assert await other == "computed"

    async def test_of_a_thread_is_not_ended_by_a_cancelled_task(self, store: AsyncContextStore) -> None:
        held = Held(OfThreads)
        first = in_thread(store.blocking.get_or_put, "run", "node", held.factory)
        await held.has_begun()
        (other,) = spawn(store.get_or_put("run", "node", lambda: "another"))
        await until(lambda: waiters(store) == 1)
        other.cancel()
        assert isinstance((await outcomes_of([other]))[0], asyncio.CancelledError)
        held.release()
        assert await first == "computed"

    async def test_of_a_step_is_one_on_the_runs_of_both(self, store: AsyncContextStore) -> None:
        held = Held(OfThreads)
        first = in_thread(store.blocking.run("run").step, "node", held.factory)
        await held.has_begun()
        (other,) = spawn(store.run("run").step("node", held.factory))
        await until(lambda: waiters(store) == 1)
        held.release()
        assert await asyncio.gather(first, other) == ["computed"] * 2
        assert held.begun == 1


class TestTurns:
    async def test_no_update_is_lost(self, store: AsyncContextStore) -> None:
        async def one_more(value: int) -> int:
            await asyncio.sleep(0)
            return value + 1

        updates = [in_thread(store.blocking.update_global, "key", lambda value: value + 1, 0) for _ in range(20)]
        updates += spawn(*(store.update_global("key", one_more, 0) for _ in range(20)))
        assert sorted(await asyncio.gather(*updates)) == list(range(1, 41))

    async def test_a_task_waits_for_the_turn_of_a_thread_and_the_other_way_round(
        self, store: AsyncContextStore
    ) -> None:
        held, order = Held(OfThreads), list[str]()

        def of_thread(_: Any) -> Any:
            held.factory()
            return order.append("thread")

        first = in_thread(store.blocking.update_global, "key", of_thread)
        await held.has_begun()
        (second,) = spawn(store.update_global("key", lambda _: order.append("task")))
        await until(lambda: len(store._core.backend.updates._queues["key"]) == 2)
        third = in_thread(store.blocking.update_global, "key", lambda _: order.append("another thread"))
        await until(lambda: len(store._core.backend.updates._queues["key"]) == 3)
        held.release()
        await asyncio.gather(first, second, third)
        assert order == ["thread", "task", "another thread"]


class TestWaitingForOutputs:
    async def test_a_thread_is_told_of_what_a_task_writes(self, store: AsyncContextStore) -> None:
        waiting = in_thread(functools.partial(store.blocking.wait_for, timeout=60), "run", "node")
        await until(lambda: store._core.session.subscriptions._all())
        await store.put("run", "node", 1)
        assert await waiting == 1

    async def test_a_task_is_told_of_what_a_thread_writes(self, store: AsyncContextStore) -> None:
        await store.put("run", "first", 0)
        await in_thread(store.blocking.put, "run", "second", 0)
        (waiting,) = spawn(store.wait_for("run", "node", timeout=60))
        await until(lambda: store._core.session.subscriptions._all())
        await in_thread(store.blocking.put, "run", "node", 1)
        assert await waiting == 1

    async def test_both_watch_all_that_both_write(self, store: AsyncContextStore) -> None:
        def watch() -> list[str]:
            outputs = store.blocking.watch("run")
            return sorted(next(outputs).node_id for _ in range(40))

        async def watch_awaited() -> list[str]:
            seen = []
            async for output in store.watch("run"):
                seen.append(output.node_id)
                if len(seen) == 40:
                    return sorted(seen)
            raise AssertionError("it ended")

        watching = [in_thread(watch), *spawn(watch_awaited())]
        await until(lambda: len(store._core.session.subscriptions._all()) == 2)
        for number in range(20):
            await asyncio.gather(
                store.put("run", f"task {number}", 1), in_thread(store.blocking.put, "run", f"thread {number}", 1)
            )
        expected = sorted(f"{who} {number}" for who in ("task", "thread") for number in range(20))
        assert await asyncio.gather(*watching) == [expected, expected]


class TestCircles:
    async def test_of_a_task_and_a_thread_are_refused(self, store: AsyncContextStore) -> None:
        task_begun, thread_begun = threading.Event(), threading.Event()

        async def of_task() -> Any:
            task_begun.set()
            await until(thread_begun.is_set)
            return await store.get_or_put("run", "of the thread", lambda: 1)

        def of_thread() -> Any:
            thread_begun.set()
            assert task_begun.wait(30)
            return store.blocking.get_or_put("run", "of the task", lambda: 2)

        calls = [
            *spawn(store.get_or_put("run", "of the task", of_task)),
            in_thread(store.blocking.get_or_put, "run", "of the thread", of_thread),
        ]
        assert RuntimeError in {type(outcome) for outcome in await outcomes_of(calls)}

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_call_that_blocks_the_loop_which_computes_is_refused(self, file_path: pathlib.Path, kind: str) -> None:
        async def main() -> None:
            begun, end = anyio.Event(), anyio.Event()

            async def compute() -> str:
                begun.set()
                await end.wait()
                return "computed"

            async with AsyncContextStore(file_path) as store, anyio.create_task_group() as group:
                group.start_soon(store.get_or_put, "run", "node", compute)
                await begun.wait()
                with pytest.raises(RuntimeError, match="would block that very loop"):
                    store.blocking.get_or_put("run", "node", lambda: "another")
                assert store.blocking.get_or_put("run", "other", lambda: "fine") == "fine"
                end.set()
                assert await store.get_or_put("run", "node", lambda: "another") == "computed"

        run_on(kind, main)

    @pytest.mark.parametrize("kind", KINDS)
    def test_and_one_that_blocks_the_loop_which_updates(self, file_path: pathlib.Path, kind: str) -> None:
        async def main() -> None:
            begun, end = anyio.Event(), anyio.Event()

            async def update(_: Any) -> str:
                begun.set()
                await end.wait()
                return "updated"

            async with AsyncContextStore(file_path) as store, anyio.create_task_group() as group:
                group.start_soon(store.update_global, "key", update)
                await begun.wait()
                with pytest.raises(RuntimeError, match="would block that very loop"):
                    store.blocking.update_global("key", lambda _: "another")
                assert store.blocking.update_global("other", lambda _: "fine") == "fine"
                end.set()
            await store.close()

        run_on(kind, main)

    async def test_one_that_waits_for_a_thread_which_waits_for_the_loop_is_refused(
        self, store: AsyncContextStore
    ) -> None:
        held = Held(store)
        of_loop = asyncio.ensure_future(store.get_or_put("run", "of the loop", held.factory))
        await held.has_begun()
        of_thread = in_thread(
            store.blocking.get_or_put,
            "run",
            "of the thread",
            lambda: store.blocking.get_or_put("run", "of the loop", lambda: "another"),
        )
        await until(lambda: waiters(store) == 1)
        with pytest.raises(RuntimeError, match="would block that very loop"):
            store.blocking.get_or_put("run", "of the thread", lambda: "another")
        held.release()
        assert await asyncio.gather(of_loop, of_thread) == ["computed"] * 2

    async def test_a_thread_that_comes_to_wait_for_a_loop_which_is_blocked_for_it_is_refused(
        self, store: AsyncContextStore
    ) -> None:
        held, go_on = Held(store), threading.Event()
        of_loop = asyncio.ensure_future(store.get_or_put("run", "of the loop", held.factory))
        await held.has_begun()
        begun = threading.Event()

        def of_thread() -> Any:
            begun.set()
            assert go_on.wait(30)
            with pytest.raises(RuntimeError, match="would wait for itself"):
                store.blocking.get_or_put("run", "of the loop", lambda: "another")
            return "refused"

        computing = in_thread(store.blocking.get_or_put, "run", "of the thread", of_thread)
        await until(begun.is_set)

        def let_go_on() -> None:  # once the loop is blocked
            while not waiters(store):
                threading.Event().wait(0.001)
            go_on.set()

        letting = threading.Thread(target=let_go_on)
        letting.start()
        assert store.blocking.get_or_put("run", "of the thread", lambda: "another") == "refused"
        letting.join(30)
        held.release()
        assert await asyncio.gather(of_loop, computing) == ["computed", "refused"]

    async def test_what_another_loop_computes_is_waited_for(self, store: AsyncContextStore) -> None:
        held = Held(store)

        async def elsewhere() -> Any:
            return await store.get_or_put("run", "node", held.factory)

        with loop_in_thread("asyncio", elsewhere) as outcome:
            await held.has_begun()
            threading.Timer(0.05, held.release).start()
            assert store.blocking.get_or_put("run", "node", lambda: "another") == "computed"
        assert outcome() == "computed"


@pytest.mark.parametrize(("threads", "tasks"), [(20, 200), pytest.param(300, 700, marks=pytest.mark.slow)])
async def test_what_threads_and_tasks_put_together_is_all_there(
    file_path: pathlib.Path, threads: int, tasks: int
) -> None:
    each = 5

    async def put_some(awaited: AsyncContextStore, who: int) -> None:
        for number in range(each):
            await awaited.put(f"run-{who % 7}", f"task {who} {number}", who)

    with ContextStore(file_path) as store:

        def put_in_thread(who: int) -> None:
            for number in range(each):
                store.put(f"run-{who % 7}", f"thread {who} {number}", who)

        in_threads = in_thread(run_threads, put_in_thread, threads)
        await asyncio.gather(*(put_some(store.awaitable, who) for who in range(tasks)))
        await in_threads
    async with AsyncContextStore(file_path) as again:
        found = {node for run in range(7) for node in await again.list_keys(f"run-{run}")}
        assert len(found) == each * (threads + tasks)
        assert (await again.check()).ok
