"""Waiting ends: closed, cancelled, broken off or collected, and nothing is left of it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pathlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, StoreClosedError

from ..conftest import ENGINES, Target, new_location
from ..support.doubles import core_of, until
from ..support.forked import Child
from .waiting import Watching, news, outcomes_of, spawn, subscriptions, waiting

pytestmark = pytest.mark.usefixtures("nobody_is_left_waiting")


@pytest.fixture(params=ENGINES)
async def tasks_store(request: pytest.FixtureRequest) -> AsyncIterator[AsyncContextStore]:
    """For what the blocking face cannot do."""
    async with Target("async", request.param, new_location(request.param, request))() as store:
        yield store


@pytest.mark.each_pair
class TestClosing:
    async def test_close_ends_all_waiting(self, store: Any) -> None:
        watch = Watching(store)
        waiters = spawn(*(store.wait_for("run", str(i)) for i in range(5)), watch.next())
        await waiting(store, 6)
        await store.close()
        outcomes = await outcomes_of(waiters)
        assert [type(outcome) for outcome in outcomes] == [StoreClosedError] * 6
        assert len({id(outcome) for outcome in outcomes}) == 6

    async def test_a_closed_store_waits_for_nothing(self, store: Any) -> None:
        await store.put("run", "node", 1)
        watch = Watching(store)
        assert await watch.take(1) == ["node"]
        await store.close()
        with pytest.raises(StoreClosedError):
            await store.wait_for("run", "node")
        for iterator in (watch, Watching(store)):
            with pytest.raises(StoreClosedError):
                await iterator.next()

    async def test_close_at_any_moment_leaves_nobody_waiting(self, make_store: Target) -> None:
        for i in range(30):
            store = make_store()
            await store.open()
            watch = Watching(store)
            waiters = spawn(store.wait_for("run", "a"), store.wait_for("run", "b", timeout=60), watch.next())
            await asyncio.sleep(0.0002 * i)
            await store.close()
            assert {type(outcome) for outcome in await outcomes_of(waiters)} == {StoreClosedError}
            assert subscriptions(store) == []

    @pytest.mark.parametrize("call", ["wait_for('run', 'node')", "watch('run').__next__()"])
    def test_a_process_ends_though_a_thread_of_it_waits_and_nobody_closed_the_store(
        self, file_path: pathlib.Path, call: str
    ) -> None:
        program = f"""
            store = ContextStore(sys.argv[1])
            store.open()

            def wait():
                try:
                    store.{call}
                except StoreClosedError:
                    say("told")

            threading.Thread(target=wait, daemon=True).start()
            while not any(one.waiting for one in store._core.session.subscriptions._all()):
                time.sleep(0.001)
            say("the end")
        """
        with Child(program, file_path) as child:
            status, said, _ = child.end()
        assert (status, said[0]) == (0, "the end")

    def test_a_loop_that_ends_while_a_task_waits_leaves_a_store_that_can_be_closed(
        self, file_path: pathlib.Path
    ) -> None:
        store = AsyncContextStore(file_path)

        async def main() -> None:
            spawn(store.wait_for("run", "node"), anext(store.watch("run")))
            await waiting(store, 2)

        asyncio.run(main())
        assert subscriptions(store) == []
        asyncio.run(store.close())


class TestCancellation:
    async def test_a_cancelled_waiter_leaves_nothing_behind(self, tasks_store: AsyncContextStore) -> None:
        store = tasks_store
        await store.put("run", "there", 1)
        tasks, threads = asyncio.all_tasks(), threading.enumerate()
        for turns in range(40):
            watch = Watching(store)
            waiters = spawn(store.wait_for("run", "node"), store.wait_for("run", "b", timeout=9), watch.take(2))
            for _ in range(turns):
                await asyncio.sleep(0)
            for waiter in waiters:
                waiter.cancel()
            assert {type(outcome) for outcome in await outcomes_of(waiters)} == {asyncio.CancelledError}
            assert subscriptions(store) == []
            await until(lambda: asyncio.all_tasks() == tasks)  # the loop closes forgotten generators by tasks
        assert threading.enumerate() == threads
        await store.put("run", "node", 1)
        assert await store.wait_for("run", "node", timeout=0) == 1

    async def test_a_cancelled_waiter_harms_no_other(self, tasks_store: AsyncContextStore) -> None:
        waiters = spawn(*(tasks_store.wait_for("run", "node") for _ in range(10)))
        await waiting(tasks_store, 10)
        for waiter in waiters[::2]:
            waiter.cancel()
        await tasks_store.put("run", "node", 1)
        outcomes = await outcomes_of(waiters)
        assert outcomes[1::2] == [1] * 5
        assert {type(outcome) for outcome in outcomes[::2]} == {asyncio.CancelledError}

    @pytest.mark.usefixtures("shared_target")
    async def test_the_poller_runs_only_while_somebody_waits(self, make_store: Target) -> None:
        async with make_store() as store:
            engine: Any = core_of(store)._session.engine
            poll, polls = engine.feed.poll, []

            async def counting(*args: Any) -> Any:
                polls.append(args)
                return await poll(*args)

            engine.feed.poll = counting
            await store.put("run", "there", 1)
            await store.get_or_put("run", "step", lambda: 1)
            assert await store.wait_for("run", "there") == 1
            assert not polls
            while len(polls) < 2:  # a machine that is busy may come to a single one in that time
                with pytest.raises(TimeoutError):
                    await store.wait_for("run", "node", timeout=0.05)
                await until(lambda: not news(store)._polling)
            asked = len(polls)
            await asyncio.sleep(0.05)
            assert len(polls) == asked

    def test_an_interrupt_ends_the_waiting_of_a_thread(self, file_path: pathlib.Path) -> None:
        program = """
            with ContextStore(sys.argv[1]) as store:
                for call in (lambda: store.wait_for("run", "node"), lambda: next(store.watch("run"))):
                    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
                    try:
                        call()
                    except KeyboardInterrupt:
                        say("interrupted", store._core.session.subscriptions._all())
        """
        with Child(program, file_path) as child:
            status, said, _ = child.end()
        assert (status, said) == (0, ["interrupted []"] * 2)


class TestTheEndOfAWatch:
    @pytest.fixture
    async def store(self, tasks_store: AsyncContextStore) -> AsyncContextStore:
        await tasks_store.put_many("run", {"a": 1, "b": 2})
        return tasks_store

    async def test_leaving_the_loop_ends_it(self, store: AsyncContextStore) -> None:
        async for output in store.watch("run"):
            assert len(subscriptions(store)) == 1
            if output.node_id == "b":
                break
        await until(lambda: subscriptions(store) == [])  # the loop closes it when it is forgotten

    async def test_leaving_the_loop_while_it_waits_ends_it(self, store: AsyncContextStore) -> None:
        async def consume() -> None:
            async for _ in store.watch("run"):
                pass

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consume(), 0.05)
        assert subscriptions(store) == []

    async def test_closing_it_ends_it(self, store: AsyncContextStore) -> None:
        for taken in range(4):
            async with contextlib.aclosing(store.watch("run")) as outputs:
                for _ in range(min(taken, 2)):
                    await anext(outputs)
                if taken == 3:
                    await store.put("run", "c", 3)
                    assert (await anext(outputs)).node_id == "c"
                assert len(subscriptions(store)) == (1 if taken else 0)
            assert subscriptions(store) == []

    async def test_cancelling_the_consumer_ends_it(self, store: AsyncContextStore) -> None:
        async def consume() -> None:
            async for _ in store.watch("run"):
                pass

        (consumer,) = spawn(consume())
        await waiting(store)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        assert subscriptions(store) == []

    async def test_a_watch_that_was_never_begun_leaves_nothing(self, store: AsyncContextStore) -> None:
        store.watch("run")
        gc.collect()
        assert subscriptions(store) == []


class TestTheEndOfABlockingWatch:
    @pytest.fixture
    def store(self, file_path: pathlib.Path) -> Iterator[ContextStore]:
        with ContextStore(file_path) as store:
            store.put_many("run", {"a": 1, "b": 2})
            yield store
            assert subscriptions(store) == []

    def test_leaving_the_loop_ends_it(self, store: ContextStore) -> None:
        for output in store.watch("run"):
            assert len(subscriptions(store)) == 1
            if output.node_id == "b":
                break
        assert subscriptions(store) == []

    def test_closing_it_ends_it(self, store: ContextStore) -> None:
        for taken in range(3):
            with contextlib.closing(store.watch("run")) as outputs:
                for _ in range(taken):
                    next(outputs)
            assert subscriptions(store) == []

    def test_forgetting_it_ends_it(self, store: ContextStore) -> None:
        outputs = store.watch("run")
        next(outputs)
        assert len(subscriptions(store)) == 1
        del outputs
        gc.collect()
        assert subscriptions(store) == []

    def test_an_exception_in_the_loop_ends_it(self, store: ContextStore) -> None:
        def consume() -> None:
            for _ in store.watch("run"):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            consume()
        gc.collect()
        assert subscriptions(store) == []

    def test_it_can_be_used_in_a_thread_that_runs_a_loop(self, store: ContextStore) -> None:
        async def main() -> list[str]:
            outputs = store.watch("run")
            seen = [next(outputs).node_id for _ in range(2)]
            outputs.close()
            return seen

        assert asyncio.run(main()) == ["a", "b"]


@pytest.mark.one_python
def test_an_iterator_that_is_collected_by_whoever_tells_of_news_does_no_harm(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "node", 1)
        watch: Any = store.watch("run")
        next(watch)
        news = core_of(store)._session.subscriptions
        with news._telling:  # as in the middle of anything, when the collector runs
            watch.close()
        with pytest.raises(TimeoutError):
            store.wait_for("other", "node", timeout=0.05)
        assert not news._by_run
