"""Waiting: whoever waits for an output is told of it, whoever writes it, and nothing is left of it afterwards."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import datetime
import functools
import gc
import itertools
import pathlib
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

import pytest

from contextstore import (
    AsyncContextStore,
    ContextStore,
    ContextStoreError,
    CorruptStoreError,
    DeserializationError,
    InvalidKeyError,
    Output,
    RunDeletedError,
    StorageError,
    StoreClosedError,
)
from contextstore._faces import async_store as _store

from .conftest import ENGINES, FACES, Target, new_location
from .doubles import core_of, fail, until
from .portions import some
from .processes import Child, children

TOLD = 30.0  # seconds within which anything must be told: a guard against hangs, not a measure


def news(store: Any) -> Any:
    return core_of(store)._subscriptions


def subscriptions(store: Any) -> list[Any]:
    everybody: list[Any] = news(store)._all()
    return everybody


async def waiting(store: Any, count: int = 1) -> None:
    """Wait until so many wait for news."""
    await until(lambda: sum(one.waiter is not None for one in subscriptions(store)) == count)


def spawn(*calls: Awaitable[Any]) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(call) for call in calls]


async def outcomes_of(tasks: Iterable[asyncio.Future[Any]]) -> list[Any]:
    async with asyncio.timeout(TOLD):
        return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(autouse=True)
def nobody_is_left_waiting(request: pytest.FixtureRequest) -> Iterator[None]:
    """At the end of every test no store has a subscription, and none asks for news."""
    made: list[Any] = []
    for fixture in ("make_store", "pair", "tasks_store"):
        if fixture in request.fixturenames:
            value = request.getfixturevalue(fixture)
            made += value.made if isinstance(value, Target) else value if isinstance(value, tuple) else [value]
    yield
    for store in made:
        assert subscriptions(store) == []
        deadline = time.monotonic() + TOLD
        while news(store)._polling is not None:
            assert time.monotonic() < deadline, "the poller goes on"
            time.sleep(0.001)


HOW = [("file", "same"), ("memory", "same"), ("file", "other"), ("postgres", "same"), ("postgres", "other")]
PAIRS = [(face, *how) for face in FACES for how in HOW]


@pytest.fixture(params=PAIRS, ids="-".join)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Any, Any]]:
    """A store that waits and one that writes: the same object, or another one on the same place."""
    face, engine, writer = request.param
    asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor(100))
    make_store = Target(face, engine, new_location(engine, request))
    async with make_store() as store:
        if writer == "same":
            yield store, store
        else:
            async with make_store() as other:
                yield store, other


@pytest.fixture(params=ENGINES)
async def tasks_store(request: pytest.FixtureRequest) -> AsyncIterator[AsyncContextStore]:
    """For what the blocking face cannot do."""
    async with Target("async", request.param, new_location(request.param, request))() as store:
        yield store


class Watching:
    """A watch of either face, stepped by the awaited call."""

    def __init__(self, store: Any, run: str = "run") -> None:
        self.iterator: Any = getattr(store, "blocking", store).watch(run)

    async def next(self) -> Output:
        step = asyncio.to_thread(next, self.iterator) if isinstance(self.iterator, Iterator) else anext(self.iterator)
        async with asyncio.timeout(TOLD):
            output: Output = await step
        return output

    async def take(self, count: int) -> list[str]:
        return [(await self.next()).node_id for _ in range(count)]

    async def close(self) -> None:
        if isinstance(self.iterator, Iterator):
            self.iterator.close()  # type: ignore[attr-defined]
        else:
            await self.iterator.aclose()


@contextlib.asynccontextmanager
async def watching(store: Any, run: str = "run") -> AsyncIterator[Watching]:
    watch = Watching(store, run)
    try:
        yield watch
    finally:
        await watch.close()


@pytest.mark.each_pair
class TestWaitFor:
    async def test_what_is_there_is_returned_at_once(self, make_store: Target) -> None:
        async with make_store(cache_bytes=0) as store:
            await store.put("run", "node", {"rows": 3})
            assert await store.wait_for("run", "node") == {"rows": 3}
            assert await store.wait_for("run", "node", timeout=0) == {"rows": 3}

    async def test_a_waiter_is_told_of_what_another_call_writes(self, store: Any) -> None:
        (waiter,) = spawn(store.wait_for("run", "node"))
        await waiting(store)
        await store.put("run", "other", 0)
        await store.put("other run", "node", 0)
        await waiting(store)
        await store.put("run", "node", {"rows": 3})
        assert await outcomes_of([waiter]) == [{"rows": 3}]

    @pytest.mark.usefixtures("shared_target")
    async def test_a_waiter_is_told_of_what_another_store_object_writes(self, make_store: Target) -> None:
        async with make_store() as one, make_store() as other:
            (waiter,) = spawn(one.wait_for("run", "node"))
            await waiting(one)
            await other.put("run", "node", {"rows": 3})
            assert await outcomes_of([waiter]) == [{"rows": 3}]

    async def test_whatever_writes_an_output_wakes_its_waiters(self, pair: tuple[Any, Any]) -> None:
        store, writer = pair
        await writer.put("source", "node", "forked")

        async def in_a_batch() -> None:
            if hasattr(writer, "blocking"):
                with writer.blocking.batch() as batch:
                    batch.put("batch", "node", "batched")
            else:
                async with writer.batch() as batch:
                    batch.put("batch", "node", "batched")

        writes: dict[str, Callable[[], Awaitable[Any]]] = {
            "put": lambda: writer.put("put", "node", "put"),
            "retry": lambda: writer.put("retry", "node", "retried", exist_ok=True),
            "many": lambda: writer.put_many("many", {"a": 1, "node": "among many"}),
            "step": lambda: writer.get_or_put("step", "node", lambda: "computed"),
            "fork": lambda: writer.fork_run("source", new_flow_run_id="fork"),
            "batch": in_a_batch,
        }
        waiters = spawn(*(store.wait_for(run, "node") for run in writes))
        await waiting(store, len(waiters))
        for write in writes.values():
            await write()
        assert await outcomes_of(waiters) == [
            "put", "retried", "among many", "computed", "forked", "batched",
        ]  # fmt: skip

    async def test_a_null_that_is_written_ends_the_waiting(self, store: Any) -> None:
        (waiter,) = spawn(store.wait_for("run", "node"))
        await waiting(store)
        await store.put("run", "node", None)
        assert await outcomes_of([waiter]) == [None]

    async def test_each_waiter_gets_a_value_of_its_own_and_of_its_type(self, store: Any) -> None:
        waiters = spawn(
            store.wait_for("run", "node"),
            store.wait_for("run", "node"),
            store.wait_for("run", "node", type=tuple[int, ...]),
            store.wait_for("run", "node", type=str),
        )
        await waiting(store, 4)
        await store.put("run", "node", [1, 2])
        one, other, converted, refused = await outcomes_of(waiters)
        assert one == other == [1, 2]
        assert one is not other
        assert converted == (1, 2)
        assert isinstance(refused, DeserializationError)

    async def test_a_bad_id_is_refused(self, store: Any) -> None:
        for run, node in [("", "node"), ("run", ""), ("run", 5)]:
            with pytest.raises(InvalidKeyError):
                await store.wait_for(run, node, timeout=0)

    @pytest.mark.usefixtures("shared_target")
    @pytest.mark.usefixtures("embedded")
    async def test_a_damaged_output_is_an_error_and_not_waited_for(
        self, make_store: Target, tmp_path: pathlib.Path
    ) -> None:
        async with make_store(cache_bytes=0) as store:
            await store.put("run", "node", 1)
            with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
                connection.execute("UPDATE output_rows SET value = '2'")
            with pytest.raises(CorruptStoreError):
                await store.wait_for("run", "node")

    @pytest.mark.usefixtures("shared_target")
    async def test_a_read_only_store_waits_for_what_others_write(self, make_store: Target) -> None:
        async with make_store() as writer, make_store(read_only=True) as reader, watching(reader) as watch:
            (waiter,) = spawn(reader.wait_for("run", "b"))
            await waiting(reader)
            await writer.put("run", "a", 1)
            assert await watch.take(1) == ["a"]
            await writer.put("run", "b", 2)
            assert await outcomes_of([waiter]) == [2]
            assert await watch.take(1) == ["b"]
            with pytest.raises(TimeoutError):
                await reader.wait_for("run", "c", timeout=0.02)
            (doomed,) = spawn(reader.wait_for("run", "c"))
            await waiting(reader)
            await writer.delete_run("run")
            (outcome,) = await outcomes_of([doomed])
            assert isinstance(outcome, RunDeletedError)


@pytest.mark.each_pair
class TestTimeouts:
    @pytest.mark.parametrize("timeout", [0, 0.0, -1, 0.02])
    @pytest.mark.each_input_once
    async def test_what_is_not_there_in_time_is_the_builtin_timeout_error(self, store: Any, timeout: float) -> None:
        with pytest.raises(TimeoutError) as caught:
            await store.wait_for("run", "node", timeout=timeout)
        assert type(caught.value) is TimeoutError
        assert not isinstance(caught.value, ContextStoreError)

    @pytest.mark.parametrize("timeout", [60, 1e12, float("inf"), None])
    @pytest.mark.each_input_once
    async def test_what_comes_in_time_is_returned(self, store: Any, timeout: float | None) -> None:
        (waiter,) = spawn(store.wait_for("run", "node", timeout=timeout))
        await waiting(store)
        await store.put("run", "node", 1)
        assert await outcomes_of([waiter]) == [1]

    async def test_a_timeout_counts_from_the_call_whatever_else_happens_meanwhile(self, store: Any) -> None:
        async def write_others() -> None:
            for i in range(10**6):
                await store.put("run", f"other {i}", i)

        (waiter,) = spawn(store.wait_for("run", "node", timeout=0.1))
        (writer,) = spawn(write_others())
        (outcome,) = await outcomes_of([waiter])
        assert isinstance(outcome, TimeoutError)
        writer.cancel()
        await outcomes_of([writer])

    async def test_a_waiter_whose_time_is_up_harms_no_other(self, store: Any) -> None:
        (patient,) = spawn(store.wait_for("run", "node"))
        hasty = spawn(*(store.wait_for("run", "node", timeout=0.01 * i) for i in range(5)))
        assert {type(outcome) for outcome in await outcomes_of(hasty)} == {TimeoutError}
        await waiting(store)
        await store.put("run", "node", 1)
        assert await outcomes_of([patient]) == [1]

    async def test_written_and_timed_out_at_once_is_one_or_the_other(self, store: Any) -> None:
        for i in range(60):
            delay = 0.0002 * (i % 20)
            waiter, writer = spawn(store.wait_for("run", str(i), timeout=delay), store.put("run", str(i), i))
            outcome, written = await outcomes_of([waiter, writer])
            assert written is None
            assert outcome == i or isinstance(outcome, TimeoutError)
            assert subscriptions(store) == []
            assert await store.wait_for("run", str(i), timeout=0) == i


class TestDeletions:
    async def test_a_run_that_is_deleted_is_not_waited_for(self, store: Any) -> None:
        await store.put("run", "node", 1)
        await store.delete_run("run")
        await store.delete_run("never seen")
        for run in ("run", "never seen"):
            with pytest.raises(RunDeletedError) as caught:
                await store.wait_for(run, "node")
            assert caught.value.flow_run_id == run
            with pytest.raises(RunDeletedError):
                await Watching(store, run).next()

    async def test_a_deletion_ends_the_waiting_for_that_run_alone(self, store: Any) -> None:
        waiters = spawn(*(store.wait_for("run", node) for node in "ab"), store.wait_for("other run", "a"))
        watch = Watching(store)
        waiters += spawn(watch.next())
        await waiting(store, 4)
        await store.delete_run("run")
        outcomes = await outcomes_of([*waiters[:2], waiters[3]])
        assert [type(outcome) for outcome in outcomes] == [RunDeletedError] * 3
        assert len({id(outcome) for outcome in outcomes}) == 3
        await waiting(store)
        await store.put("other run", "a", 1)
        assert await outcomes_of([waiters[2]]) == [1]

    @pytest.mark.usefixtures("shared_target")
    async def test_a_deletion_by_another_store_object_ends_the_waiting(self, make_store: Target) -> None:
        async with make_store() as one, make_store() as other:
            watch = Watching(one)
            waiters = spawn(one.wait_for("run", "node"), watch.next(), one.wait_for("other run", "node"))
            await waiting(one, 3)
            await asyncio.sleep(0.3)  # long enough for the first looks at what is deleted to be over
            await other.delete_run("run")
            outcomes = await outcomes_of(waiters[:2])
            assert [type(outcome) for outcome in outcomes] == [RunDeletedError] * 2
            await other.put("other run", "node", 1)
            assert await outcomes_of(waiters[2:]) == [1]

    async def test_what_prune_deletes_is_not_waited_for_any_more(self, store: Any) -> None:
        await store.put("run", "a", 1)
        (waiter,) = spawn(store.wait_for("run", "b"))
        await waiting(store)
        await asyncio.sleep(0.002)
        assert (await store.prune(older_than=datetime.timedelta(milliseconds=1))).runs == 1
        (outcome,) = await outcomes_of([waiter])
        assert isinstance(outcome, RunDeletedError)

    async def test_a_run_that_prune_leaves_since_it_was_written_to_is_waited_for_on(self, store: Any) -> None:
        await store.put("run", "a", 1)
        watch = Watching(store)
        assert await watch.take(1) == ["a"]
        (waiter,) = spawn(store.wait_for("run", "c"))
        waiters = [waiter, *spawn(watch.next())]
        await waiting(store, 2)
        await asyncio.sleep(0.05)
        commit: Any = core_of(store)._commit

        async def write_before_the_deletion(operations: Any) -> Any:
            if core_of(store)._commit is not commit:
                core_of(store)._commit = commit  # type: ignore[method-assign]
                await core_of(store).put("run", "b", 2)
            return await commit(operations)

        core_of(store)._commit = write_before_the_deletion  # type: ignore[method-assign]
        assert (await store.prune(older_than=datetime.timedelta(milliseconds=40))).runs == 0
        (output,) = await outcomes_of(waiters[1:])
        assert output.node_id == "b"
        await waiting(store)
        await store.put("run", "c", 3)
        assert await outcomes_of([waiter]) == [3]
        await watch.close()

    def test_a_deletion_by_another_process_ends_the_waiting(self, file_path: pathlib.Path) -> None:
        program = """
            with ContextStore(sys.argv[1]) as store:
                say("open")
                sys.stdin.readline()
                store.delete_run("run")
        """
        with ContextStore(file_path) as store, Child(program, file_path) as child:
            store.put("run", "a", 1)
            assert child.hear() == "open"
            outputs = store.watch("run")
            assert next(outputs).node_id == "a"
            child.tell()
            with pytest.raises(RunDeletedError):
                next(outputs)
            with pytest.raises(RunDeletedError):
                store.wait_for("run", "b", timeout=TOLD)
            assert child.end()[0] == 0


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
            while not any(one.waiter for one in store._core._subscriptions._all()):
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
            engine: Any = core_of(store)._engine
            poll, polls = engine.poll, []

            async def counting(*args: Any) -> Any:
                polls.append(args)
                return await poll(*args)

            engine.poll = counting
            await store.put("run", "there", 1)
            await store.get_or_put("run", "step", lambda: 1)
            assert await store.wait_for("run", "there") == 1
            assert not polls
            while len(polls) < 2:  # a machine that is busy may come to a single one in that time
                with pytest.raises(TimeoutError):
                    await store.wait_for("run", "node", timeout=0.05)
                await until(lambda: news(store)._polling is None)
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
                        say("interrupted", store._core._subscriptions._all())
        """
        with Child(program, file_path) as child:
            status, said, _ = child.end()
        assert (status, said) == (0, ["interrupted []"] * 2)


@contextlib.contextmanager
def between(store: Any, point: tuple[str, str, str, int], deed: Callable[[], Awaitable[Any]]) -> Iterator[None]:
    """Have something done at a chosen point of the way from the look to the waiting."""
    place, call, moment, count = point
    core = core_of(store)
    owner: Any = {"news": core._subscriptions, "reader": core._reader}[place]
    original = getattr(owner, call)
    calls = itertools.count(1)
    done = []

    async def interposed(*args: Any) -> Any:
        is_the_one = next(calls) == count
        if is_the_one and moment == "before":
            done.append(await deed())
        result = await original(*args)
        if is_the_one and moment == "after":
            done.append(await deed())
        return result

    setattr(owner, call, interposed)
    yield
    delattr(owner, call)
    assert len(done) == 1, point


POINTS = [
    ("reader", "fetch", "before", 1),  # the look that suffices where it is there already
    ("reader", "fetch", "after", 1),
    ("news", "subscribe", "before", 1),
    ("news", "subscribe", "after", 1),
    ("reader", "fetch", "before", 2),  # the look that counts
    ("reader", "fetch", "after", 2),
    ("reader", "call", "before", 1),  # whether the run is deleted
    ("reader", "call", "after", 1),
]


class TestNoWakeUpIsLost:
    async def test_what_is_written_between_the_look_and_the_waiting_is_told(self, pair: tuple[Any, Any]) -> None:
        store, writer = pair
        for number, point in enumerate(POINTS):
            # A core can be called wherever its waiter is: in this loop, or in the thread that is about to wait.
            put = functools.partial(core_of(writer).put, "run", str(number), number)
            with between(store, point, put):
                assert await outcomes_of(spawn(store.wait_for("run", str(number)))) == [number], point

    async def test_a_deletion_between_the_look_and_the_waiting_is_told(self, pair: tuple[Any, Any]) -> None:
        store, writer = pair
        for number, point in enumerate(POINTS):
            delete = functools.partial(core_of(writer).delete_run, str(number))
            with between(store, point, delete):
                (outcome,) = await outcomes_of(spawn(store.wait_for(str(number), "node")))
            assert isinstance(outcome, RunDeletedError), point

    @pytest.mark.parametrize("point", POINTS, ids=lambda point: " ".join(map(str, point)))
    @pytest.mark.each_input_once
    async def test_a_close_between_the_look_and_the_waiting_is_told(
        self, store: Any, point: tuple[str, str, str, int]
    ) -> None:
        closing: list[Any] = []

        async def begin_closing() -> None:
            # Not awaited: it would wait for the call that it is made from.
            if hasattr(store, "blocking"):
                closing.append(threading.Thread(target=store.blocking.close))
                closing[0].start()
                while not news(store)._closed:
                    time.sleep(0.001)
            else:
                closing.append(asyncio.ensure_future(store.close()))
                await asyncio.sleep(0)
                assert news(store)._closed

        with between(store, point, begin_closing):
            (outcome,) = await outcomes_of(spawn(store.wait_for("run", "node")))
        assert isinstance(outcome, StoreClosedError)

    async def test_what_is_written_while_a_watch_begins_is_seen_once(self, pair: tuple[Any, Any]) -> None:
        store, writer = pair
        points = [point for point in POINTS if point[1] != "fetch"]
        points += [("reader", "call", "before", 2), ("reader", "call", "after", 2)]
        for number, point in enumerate(points):
            run = str(number)
            await store.put_many(run, {"b": 1, "d": 1})
            put_many = functools.partial(core_of(writer).put_many, run, {"a": 2, "c": 2, "e": 2})
            async with watching(store, run) as watch:
                with between(store, point, put_many):
                    assert sorted(await watch.take(5)) == ["a", "b", "c", "d", "e"], point
                await store.put(run, "last", 3)
                assert await watch.take(1) == ["last"], point

    @pytest.mark.usefixtures("shared_target", "embedded")
    async def test_what_is_written_while_the_poller_takes_its_place_is_told(self, make_store: Target) -> None:
        for moment in ("before", "after"):
            async with make_store() as store:
                engine: Any = core_of(store)._engine
                poll, left = engine.poll, [moment]

                async def interposed(*args: Any, poll: Any = poll, left: list[str] = left) -> Any:
                    now = left.pop() if left else None
                    if now == "before":
                        _write_plainly(make_store.location, now)
                    result = await poll(*args)
                    if now == "after":
                        _write_plainly(make_store.location, now)
                    return result

                engine.poll = interposed
                assert await outcomes_of(spawn(store.wait_for("run", moment))) == [moment]

    @pytest.mark.usefixtures("shared_target")
    async def test_who_comes_as_the_poller_ends_is_told(self, make_store: Target) -> None:
        async with make_store() as store, make_store() as other:
            end_polling = news(store)._end_polling
            is_ending = threading.Event()

            def end_slowly(*args: Any) -> None:
                is_ending.set()
                time.sleep(0.05)
                end_polling(*args)

            news(store)._end_polling = end_slowly
            with pytest.raises(TimeoutError):
                await store.wait_for("run", "node", timeout=0.01)
            await until(is_ending.is_set)
            (waiter,) = spawn(store.wait_for("run", "node"))
            await waiting(store)
            await asyncio.sleep(0.1)
            await other.put("run", "node", 1)
            assert await outcomes_of([waiter]) == [1]

    async def test_thousands_of_waits_and_writes_at_random_moments_all_meet(self, pair: tuple[Any, Any]) -> None:
        store, writer = pair
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        chance = random.Random(seed)
        crowd = 40 if hasattr(store, "blocking") else 100

        async def later(seconds: float, call: Callable[[], Awaitable[Any]]) -> Any:
            await asyncio.sleep(seconds)
            return await call()

        for turn in range(some(1000, 300) // crowd):
            # Everybody of a turn has come to an end before the next, so that the poller ends and begins many times.
            spread = chance.choice([0, 0.001, 0.01])
            calls = []
            for i in range(crowd):
                wait = functools.partial(store.wait_for, "run", f"{turn} {i}")
                write = functools.partial(writer.put, "run", f"{turn} {i}", i)
                calls += [later(chance.uniform(0, spread), call) for call in (wait, write)]
            chance.shuffle(calls)
            outcomes = await outcomes_of(spawn(*calls))
            assert sorted(outcome for outcome in outcomes if outcome is not None) == list(range(crowd)), f"seed {seed}"
            assert subscriptions(store) == []
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.002, 0.012]))

    @pytest.mark.slow
    @pytest.mark.parametrize("writer", ["same", "other"])
    async def test_ten_thousand_waiters_are_woken_by_one_commit(self, file_path: pathlib.Path, writer: str) -> None:
        outputs = {str(i): i for i in range(10_000)}
        async with AsyncContextStore(file_path) as store, AsyncContextStore(file_path) as other:
            began = time.perf_counter()
            waiters = spawn(*(store.wait_for("run", node) for node in outputs))
            while sum(one.waiter is not None for one in subscriptions(store)) < 10_000:
                await asyncio.sleep(0.05)  # to look takes a while, too
            subscribed = time.perf_counter()
            await (store if writer == "same" else other).put_many("run", outputs)
            put = time.perf_counter()
            assert await outcomes_of(waiters) == list(range(10_000))
            woken = time.perf_counter()
            assert subscriptions(store) == []
        print(f"10,000 began to wait in {subscribed - began:.2f} s", end=", ")
        print(f"were put in {put - subscribed:.2f} s and woken in {woken - put:.2f} s more")

    async def test_a_thousand_waiters_for_one_output_are_woken(self, store: Any) -> None:
        count = 50 if hasattr(store, "blocking") else 1000
        waiters = spawn(*(store.wait_for("run", "node") for _ in range(count)))
        await waiting(store, count)
        await store.put("run", "node", 1)
        assert await outcomes_of(waiters) == [1] * count


def _write_plainly(location: Any, node: str) -> None:
    with ContextStore(location) as store:
        store.put("run", node, node)


class TestWatch:
    async def test_those_already_there_come_by_node_id_and_then_each_as_it_is_written(self, store: Any) -> None:
        for node in ("c", "a", "b"):
            await store.put("run", node, node.upper())
        async with watching(store) as watch:
            first = await watch.next()
            assert (first.flow_run_id, first.node_id, first.value, first.size) == ("run", "a", "A", 3)
            assert first.written_at.tzinfo is datetime.UTC
            assert await watch.take(2) == ["b", "c"]
            for node in ("z", "d", "y"):
                await store.put("run", node, 0)
                assert await watch.take(1) == [node]

    @pytest.mark.usefixtures("shared_target")
    async def test_the_writes_of_several_store_objects_are_seen_once_each(self, make_store: Target) -> None:
        async with make_store() as one, make_store() as other, watching(one) as watch:
            (first,) = spawn(watch.next())
            await waiting(one)
            for i in range(50):
                await (one, other)[i % 2].put("run", f"{i:02}", i)
            nodes = [(await first).node_id, *await watch.take(49)]
            assert sorted(nodes) == [f"{i:02}" for i in range(50)]
            with pytest.raises(TimeoutError):
                await one.wait_for("run", "nothing", timeout=0.05)  # long enough for the poller to find all of them
            await other.put("run", "last", 0)
            assert await watch.take(1) == ["last"]

    async def test_what_is_written_while_it_lists_is_seen_once(
        self, store: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_store, "_PAGE_ROWS", 3)
        await store.put_many("run", {f"{i:02}": i for i in range(10, 20)})
        async with watching(store) as watch:
            seen = await watch.take(4)
            await store.put_many("run", {f"{i:02}": i for i in (0, 1, 11 + 10, 22)})
            await store.put("run", "155", 0)
            seen += await watch.take(11)
            assert sorted(seen) == sorted([*(f"{i:02}" for i in [0, 1, *range(10, 20), 21, 22]), "155"])
            await store.put("run", "last", 0)
            assert await watch.take(1) == ["last"]

    async def test_a_retry_of_what_is_there_is_no_news(self, store: Any) -> None:
        await store.put("run", "a", 1)
        async with watching(store) as watch:
            assert await watch.take(1) == ["a"]
            await store.put("run", "a", 1, exist_ok=True)
            await store.put_many("run", {"a": 1, "b": 2}, exist_ok=True)
            await store.put_many("run", {"b": 2, "c": 3}, exist_ok=True)
            assert await watch.take(2) == ["b", "c"]

    async def test_several_watchers_and_waiters_see_all_each(self, store: Any) -> None:
        watches = [Watching(store) for _ in range(5)]
        firsts = spawn(*(watch.next() for watch in watches), store.wait_for("run", "b"))
        await waiting(store, 6)
        await store.put_many("run", {"a": 1, "b": 2, "c": 3})
        *outputs, waited = await outcomes_of(firsts)
        assert waited == 2
        for watch, output in zip(watches, outputs, strict=True):
            assert [output.node_id, *await watch.take(2)] == ["a", "b", "c"]
            await watch.close()

    async def test_each_consumer_gets_values_of_its_own(self, store: Any) -> None:
        await store.put("run", "node", [1])
        async with watching(store) as one, watching(store) as other:
            first = await one.next()
            first.value.append(2)
            assert (await other.next()).value == [1]

    async def test_a_watcher_of_one_run_hears_nothing_of_others(self, store: Any) -> None:
        async with watching(store) as watch:
            (first,) = spawn(watch.next())
            await waiting(store)
            for run in ("run2", "ru", "other"):
                await store.put_many(run, {"a": 1, "b": 2})
            await store.put("run", "node", 3)
            (output,) = await outcomes_of([first])
            assert (output.flow_run_id, output.node_id, output.value) == ("run", "node", 3)

    async def test_a_consumer_that_is_slow_misses_nothing(self, store: Any) -> None:
        async with watching(store) as watch:
            (first,) = spawn(watch.next())
            await waiting(store)
            for i in range(200):
                await store.put("run", f"{i:03}", i)
            assert [(await first).node_id, *await watch.take(199)] == [f"{i:03}" for i in range(200)]

    @pytest.mark.usefixtures("shared_target", "embedded")
    async def test_a_reader_that_lags_misses_nothing(self, make_store: Target) -> None:
        async with make_store(cache_bytes=0) as store, make_store() as other, watching(store) as watch:
            await store.put("run", "a", 0)
            assert await watch.take(1) == ["a"]
            (waiter,) = spawn(store.wait_for("run", "c"))
            await waiting(store)
            held = threading.Event()

            async def hold() -> None:
                assert held.wait(60)

            core_of(store)._engine.post_read(hold)
            (following,) = spawn(watch.take(2))
            await store.put("run", "b", 1)
            await other.put("run", "c", 2)
            await asyncio.sleep(0.05)
            assert not waiter.done()
            held.set()
            assert await outcomes_of([waiter, following]) == [2, ["b", "c"]]

    @pytest.mark.usefixtures("shared_target")
    async def test_outputs_that_are_deleted_leave_no_gap_in_which_news_are_missed(self, make_store: Target) -> None:
        """If the ids of deleted rows were given anew, the poller would take new outputs for old ones."""
        async with make_store() as store, make_store() as other, watching(store) as watch:
            (first,) = spawn(watch.next())
            await waiting(store)
            for i in range(5):
                await other.put_many(f"doomed {i}", {str(n): n for n in range(20)})
                await asyncio.sleep(0.01 * (i % 2))  # seen by the poller, or not
                await other.delete_run(f"doomed {i}")
                await other.put("run", str(i), i)
            assert [(await first).node_id, *await watch.take(4)] == list("01234")

    async def test_a_bad_id_is_refused(self, store: Any) -> None:
        with pytest.raises(InvalidKeyError):
            await Watching(store, "").next()

    def test_what_several_processes_write_is_seen_once_each(self, file_path: pathlib.Path) -> None:
        program = """
            with ContextStore(sys.argv[1]) as store:
                say("open")
                sys.stdin.readline()
                for i in range(150):
                    store.put("run", f"{sys.argv[2]} {i:03}", i)
                    store.put("other run", f"{sys.argv[2]} {i:03}", i)
        """
        with ContextStore(file_path) as store, children(3, program, file_path) as writers:
            assert [writer.hear() for writer in writers] == ["open"] * 3
            for writer in writers:
                writer.tell()
            outputs = store.watch("run")
            seen = [next(outputs).node_id for _ in range(450)]
            outputs.close()  # type: ignore[attr-defined]
            assert sorted(seen) == [f"{writer} {i:03}" for writer in range(3) for i in range(150)]
            assert subscriptions(store) == []
            assert [writer.end()[0] for writer in writers] == [0] * 3


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
            async with contextlib.aclosing(store.watch("run")) as outputs:  # type: ignore[type-var]
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
            with contextlib.closing(store.watch("run")) as outputs:  # type: ignore[type-var]
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
            outputs.close()  # type: ignore[attr-defined]
            return seen

        assert asyncio.run(main()) == ["a", "b"]


@pytest.mark.usefixtures("shared_target")
class TestAPollThatFails:
    @pytest.mark.parametrize(
        "error", [StorageError("the disk is gone"), sqlite3.OperationalError("disk I/O error"), RuntimeError("a bug")]
    )
    async def test_it_reaches_all_who_wait_and_later_waiting_works_again(
        self, make_store: Target, error: Exception
    ) -> None:
        async with make_store() as store, make_store() as other:
            watch = Watching(store)
            waiters = spawn(*(store.wait_for("run", "node") for _ in range(5)), watch.next())
            await waiting(store, 6)
            fail(store, "poll", error)
            outcomes = await outcomes_of(waiters)
            assert {type(outcome) for outcome in outcomes} == {StorageError}
            assert len({id(outcome) for outcome in outcomes}) == 6
            (waiter,) = spawn(store.wait_for("run", "node"))
            await waiting(store)
            await other.put("run", "node", 1)
            assert await outcomes_of([waiter]) == [1]

    async def test_the_first_poll_that_fails_reaches_who_waits_but_not_who_need_not(self, make_store: Target) -> None:
        async with make_store(cache_bytes=0) as store, make_store() as other:
            await other.put("run", "there", 1)
            fail(store, "poll", StorageError("the disk is gone"), StorageError("the disk is gone"))
            with pytest.raises(StorageError, match="the disk is gone"):
                await store.wait_for("run", "node")
            assert await store.wait_for("run", "there") == 1

    async def test_a_look_at_what_is_deleted_that_fails_reaches_all_who_wait(self, make_store: Target) -> None:
        async with make_store() as store:
            fail(store, "deleted_among", StorageError("the disk is gone"))
            (outcome,) = await outcomes_of(spawn(store.wait_for("run", "node")))
            assert isinstance(outcome, StorageError)

    @pytest.mark.usefixtures("embedded")
    async def test_a_file_that_was_deleted_is_not_waited_for(self, make_store: Target) -> None:
        async with make_store() as store:
            (waiter,) = spawn(store.wait_for("run", "node"))
            await waiting(store)
            make_store.location.unlink()
            (outcome,) = await outcomes_of([waiter])
            assert isinstance(outcome, StorageError)
            assert "deleted" in str(outcome)

    async def test_whoever_comes_while_polls_fail_is_told_or_served(self, make_store: Target) -> None:
        """Pollers end and begin all the time here, in every order that comes about."""
        async with make_store() as store, make_store() as other:
            engine: Any = core_of(store)._engine
            poll, chance = engine.poll, random.Random(5)

            async def failing(*args: Any) -> Any:
                if chance.random() < 0.3:
                    raise StorageError("now and then")
                return await poll(*args)

            engine.poll = failing

            async def wait_again_and_again(node: str) -> Any:
                while True:
                    try:
                        return await store.wait_for("run", node, timeout=TOLD)
                    except StorageError:
                        pass

            async def write_all() -> None:
                for i in range(40):
                    await other.put("run", str(i), i)

            waits = spawn(*(wait_again_and_again(str(i)) for i in range(40)), write_all())
            assert (await outcomes_of(waits))[:-1] == list(range(40))


@pytest.mark.thorough  # figures, printed and not asserted
class TestMeasures:
    """What is measured is printed, and not asserted: see it with ``-rP``."""

    async def test_latency_within_an_object(self, store: Any) -> None:
        latencies = []
        for i in range(100):

            async def wait(node: str = str(i)) -> float:
                await store.wait_for("run", node)
                return time.perf_counter()

            (waiter,) = spawn(wait())
            await waiting(store)
            await store.put("run", str(i), i)
            acknowledged = time.perf_counter()
            latencies.append(await waiter - acknowledged)
        print("from the acknowledgement on:", _figures(latencies))

    def test_latency_across_processes_and_the_cost_of_waiting(self, file_path: pathlib.Path) -> None:
        program = """
            with ContextStore(sys.argv[1]) as store:
                say("open")
                for i in range(60):
                    store.wait_for("run", str(i))
                    say(time.monotonic())
                before = time.process_time()
                try:
                    store.wait_for("run", "never", timeout=1)
                except TimeoutError:
                    say(time.process_time() - before)
        """
        chance = random.Random(7)
        with ContextStore(file_path) as store, Child(program, file_path) as child:
            assert child.hear() == "open"
            latencies = []
            for i in range(60):
                time.sleep(chance.uniform(0, 0.03))
                store.put("run", str(i), i)
                acknowledged = time.monotonic()
                latencies.append(float(child.hear()) - acknowledged)
            print("from the acknowledgement on:", _figures(latencies))
            print(f"a process that waits takes {float(child.hear()):.1%} of a core")
            assert child.end()[0] == 0


def _figures(latencies: list[float]) -> str:
    ordered = sorted(latencies)
    median, high = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return f"median {median * 1000:.2f} ms, p99 {high * 1000:.2f} ms"


@pytest.mark.one_python
def test_an_iterator_that_is_collected_by_whoever_holds_the_lock_does_no_harm(file_path: pathlib.Path) -> None:
    with ContextStore(file_path) as store:
        store.put("run", "node", 1)
        watch: Any = store.watch("run")
        next(watch)
        news = core_of(store)._subscriptions
        with news.lock:  # as in the middle of anything, when the collector runs
            watch.close()
            assert news._by_run
        with pytest.raises(TimeoutError):
            store.wait_for("other", "node", timeout=0.05)
        assert not news._by_run
