"""No wake-up is lost, wherever on the way from the look to the waiting the write comes, and though a poll fails."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import pathlib
import random
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, RunDeletedError, StorageError, StoreClosedError

from ..conftest import Target
from ..support.doubles import core_of, fail, until
from ..support.forked import Child
from ..support.portions import some
from .waiting import TOLD, Watching, news, outcomes_of, spawn, subscriptions, waiting, watching

pytestmark = pytest.mark.usefixtures("nobody_is_left_waiting")


@contextlib.contextmanager
def between(store: Any, point: tuple[str, str, str, int], deed: Callable[[], Awaitable[Any]]) -> Iterator[None]:
    """Have something done at a chosen point of the way from the look to the waiting."""
    place, call, moment, count = point
    core = core_of(store)
    owner: Any = {"news": core._session.subscriptions, "reader": core._session.reader}[place]
    original = getattr(owner, call)
    calls = itertools.count(1)
    done = []

    async def interposed(*args: Any, **options: Any) -> Any:
        is_the_one = next(calls) == count
        if is_the_one and moment == "before":
            done.append(await deed())
        result = await original(*args, **options)
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
            if hasattr(store, "plain"):
                closing.append(threading.Thread(target=store.plain.close))
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
                engine: Any = core_of(store)._session.engine
                poll, left = engine.feed.poll, [moment]

                async def interposed(*args: Any, poll: Any = poll, left: list[str] = left) -> Any:
                    now = left.pop() if left else None
                    if now == "before":
                        _write_plainly(make_store.location, now)
                    result = await poll(*args)
                    if now == "after":
                        _write_plainly(make_store.location, now)
                    return result

                engine.feed.poll = interposed
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
        crowd = 40 if hasattr(store, "plain") else 100

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
            while sum(bool(one.waiting) for one in subscriptions(store)) < 10_000:
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
        count = 50 if hasattr(store, "plain") else 1000
        waiters = spawn(*(store.wait_for("run", "node") for _ in range(count)))
        await waiting(store, count)
        await store.put("run", "node", 1)
        assert await outcomes_of(waiters) == [1] * count


def _write_plainly(location: Any, node: str) -> None:
    with ContextStore(location) as store:
        store.put("run", node, node)


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
            engine: Any = core_of(store)._session.engine
            poll, chance = engine.feed.poll, random.Random(5)

            async def failing(*args: Any) -> Any:
                if chance.random() < 0.3:
                    raise StorageError("now and then")
                return await poll(*args)

            engine.feed.poll = failing

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
