"""Any loop: asyncio, uvloop or trio, one after the other and several at once, and none of them leaves anything."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import itertools
import math
import pathlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
import trio

from contextstore import AsyncContextStore, ContextStore, RunDeletedError, StoreClosedError, WrongLoopError, copy

from ..support.doubles import Gate, core_of, queued
from ..support.processes import run

BACKENDS = [("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})]
KINDS = ["asyncio", "trio"]


@pytest.fixture(params=BACKENDS, ids=["asyncio", "uvloop", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def on_each_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run the test on each of the loops. As a plain function, or pytest-asyncio would run it on one of its own."""

    def on_a_loop(*own: Any, anyio_backend: tuple[str, dict[str, Any]], **arguments: Any) -> None:
        backend, options = anyio_backend
        anyio.run(functools.partial(test, *own, **arguments), backend=backend, backend_options=options)

    signature = inspect.signature(test)
    backend = inspect.Parameter("anyio_backend", inspect.Parameter.KEYWORD_ONLY)
    on_a_loop.__signature__ = signature.replace(parameters=[*signature.parameters.values(), backend])  # type: ignore[attr-defined]
    on_a_loop.__name__, on_a_loop.__doc__ = test.__name__, test.__doc__
    return on_a_loop


def run_on(kind: str, main: Callable[[], Awaitable[Any]]) -> Any:
    return anyio.run(main, backend=kind)


@contextlib.contextmanager
def loop_in_thread(kind: str, main: Callable[[], Awaitable[Any]]) -> Iterator[Callable[[], Any]]:
    """A loop of its own that runs this beside the test. Gives what waits for its end, and for what it came to."""
    outcome: list[Any] = []

    def live() -> None:
        try:
            outcome.append(run_on(kind, main))
        except BaseException as error:
            outcome.append(error)

    def result() -> Any:
        thread.join(60)
        assert not thread.is_alive()
        return outcome[0]

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield result
    finally:
        result()


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await anyio.sleep(0.001)


def flights(store: Any) -> dict[object, Any]:
    calls: Any = core_of(store)._session.callers
    by_key: dict[object, Any] = calls._flights.by_key
    return by_key


def assert_nothing_is_left(store: Any) -> None:
    """No flight, no turn, no subscription, and no timer of any loop."""
    gc.collect()
    core: Any = core_of(store)
    assert flights(store) == {}
    assert core._core.globals._updates._queues == {}
    assert core._session.subscriptions._all() == []
    assert dict(core._session.callers._timers) == {}


@pytest.fixture
def store(file_path: pathlib.Path) -> Iterator[AsyncContextStore]:
    """Made by no loop, and closed on one that it has not seen before."""
    made = AsyncContextStore(file_path)
    yield made
    asyncio.run(made.close())
    assert_nothing_is_left(made)


class TestEachLoop:
    @on_each_loop
    async def test_the_calls(self, store: AsyncContextStore) -> None:
        await store.put("run", "a", {"rows": 3})
        await store.put_many("run", {"b": 2, "c": 3})
        assert await store.get("run", "a") == {"rows": 3}
        assert await store.get("run", "missing", "default") == "default"
        assert await store.get_many("run", ["c", "b"]) == {"c": 3, "b": 2}
        assert await store.list_keys("run") == ["a", "b", "c"]
        assert await store.upsert_global("key", 1) == 1
        assert await store.update_global("key", lambda value: value + 1) == 2
        async with store.batch() as batch:
            batch.put("run", "d", 4)
            batch.upsert_global("key", 5)
        assert [output.node_id async for output in store.iter_outputs("run")] == ["a", "b", "c", "d"]
        assert (await store.check()).ok
        assert (await store.stats()).outputs == 4
        assert await store.delete_run("run") == 4

    @on_each_loop
    async def test_many_at_once_share_commits(self, store: AsyncContextStore) -> None:
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(store.put, "run", f"{number}", number)
        assert len(await store.get_run("run")) == 100
        assert core_of(store)._session.writer.commits < 100

    @on_each_loop
    async def test_waiting_and_watching(self, store: AsyncContextStore) -> None:
        seen: list[str] = []

        async def watch() -> None:
            async with contextlib.aclosing(store.watch("run")) as outputs:  # type: ignore[type-var]
                async for output in outputs:
                    seen.append(output.node_id)
                    if output.node_id == "last":
                        return

        async def wait() -> None:
            assert await store.wait_for("run", "last") == 2
            seen.append("waited")

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            group.start_soon(wait)
            await until(lambda: len(core_of(store)._session.subscriptions._all()) == 2)
            await store.put("run", "first", 1)
            await store.put("run", "last", 2)
        assert sorted(seen) == ["first", "last", "waited"]
        with pytest.raises(TimeoutError):
            await store.wait_for("run", "never", timeout=0.01)
        async with anyio.create_task_group() as group:
            group.start_soon(store.delete_run, "run")
            with pytest.raises(RunDeletedError):
                await store.wait_for("run", "never")

    @on_each_loop
    async def test_a_factory_is_in_no_cancel_scope_of_its_caller_and_has_its_context(
        self, store: AsyncContextStore
    ) -> None:
        async def factory() -> bool:
            await anyio.sleep(0.01)
            return anyio.current_effective_deadline() == math.inf

        with anyio.fail_after(30):
            assert await store.get_or_put("run", "node", factory) is True

    @on_each_loop
    async def test_a_copy_between_the_faces(self, store: AsyncContextStore) -> None:
        with ContextStore(":memory:") as source:
            source.put("run", "node", 1)
            assert (await copy(source, store)).outputs == 1
        assert await store.get("run", "node") == 1

    @on_each_loop
    async def test_beside_a_task_that_keeps_the_loop_busy_calls_come_to_their_end(
        self, store: AsyncContextStore
    ) -> None:
        async def busy() -> None:
            while True:
                end = time.perf_counter() + 0.001
                while time.perf_counter() < end:
                    pass
                await anyio.sleep(0)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(busy)
                for number in range(20):
                    await store.put("run", f"{number}", number)
                    await store.list_keys("run")
                group.cancel_scope.cancel()


class Stop(BaseException):
    """No Exception, and no cancellation."""


class Hang:
    """A factory that ends when it is told to, and notes what becomes of it."""

    def __init__(self) -> None:
        self.begun = self.ended = self.cancelled = 0
        self.released = threading.Event()

    async def __call__(self) -> str:
        self.begun += 1
        try:
            await until(self.released.is_set)
        except Exception:
            raise
        except BaseException:
            self.cancelled += 1
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            raise
        finally:
            self.ended += 1
        return "computed"


class TestCancelScopes:
    @on_each_loop
    async def test_a_put_that_is_cancelled_while_it_is_queued_is_withdrawn(self, store: AsyncContextStore) -> None:
        await store.open()
        gate = Gate(store)
        async with anyio.create_task_group() as group:
            group.start_soon(store.put, "run", "taken", 1)
            await until(lambda: gate.arrived.acquire(blocking=False))
            with anyio.move_on_after(0.02) as scope:
                await store.put("run", "queued", 2)
            assert scope.cancelled_caught
            gate.open()
        await until(lambda: not queued(store))
        assert await store.list_keys("run") == ["taken"]

    @on_each_loop
    async def test_one_that_is_taken_already_is_finished_in_the_background(self, store: AsyncContextStore) -> None:
        await store.open()
        gate = Gate(store)
        with anyio.move_on_after(0.02) as scope:
            await store.put("run", "taken", 1)
        assert scope.cancelled_caught
        gate.open()
        assert await store.wait_for("run", "taken") == 1

    @on_each_loop
    async def test_a_get_that_is_cancelled_leaves_the_next_ones_alone(self, store: AsyncContextStore) -> None:
        await store.put("run", "node", 1)
        core_of(store)._session.cache.clear()
        engine: Any = core_of(store)._session.engine
        fetch, released = engine.fetch, threading.Event()

        async def held(keys: Any) -> Any:
            assert released.wait(30)
            return await fetch(keys)

        engine.fetch = held
        with anyio.move_on_after(0.02) as scope:
            await store.get("run", "node")
        assert scope.cancelled_caught
        released.set()
        assert await store.get("run", "node") == 1

    @on_each_loop
    async def test_a_wait_that_is_cancelled_is_no_subscription_any_more(self, store: AsyncContextStore) -> None:
        with anyio.move_on_after(0.05) as scope:
            await store.wait_for("run", "never")
        assert scope.cancelled_caught
        await until(lambda: core_of(store)._session.subscriptions._all() == [])

    @on_each_loop
    async def test_a_step_that_is_cancelled_ends_its_factory_before_it_returns(self, store: AsyncContextStore) -> None:
        hang = Hang()
        with anyio.move_on_after(0.05) as scope:
            await store.get_or_put("run", "node", hang)
        assert scope.cancelled_caught
        assert (hang.begun, hang.cancelled, hang.ended) == (1, 1, 1)
        assert flights(store) == {}
        assert await store.get_or_put("run", "node", lambda: "anew") == "anew"

    @on_each_loop
    async def test_one_of_several_that_is_cancelled_cancels_no_other(self, store: AsyncContextStore) -> None:
        hang, got = Hang(), []

        async def ask(scope: anyio.CancelScope) -> None:
            with scope:
                got.append(await store.get_or_put("run", "node", hang))

        scopes = [anyio.CancelScope() for _ in range(3)]
        async with anyio.create_task_group() as group:
            for scope in scopes:
                group.start_soon(ask, scope)
            await until(lambda: [len(flight.callers) for flight in flights(store).values()] == [3])
            scopes[0].cancel()  # that which started it
            await until(lambda: [len(flight.callers) for flight in flights(store).values()] == [2])
            hang.released.set()
        assert got == ["computed"] * 2
        assert (hang.begun, hang.cancelled) == (1, 0)

    @on_each_loop
    async def test_a_block_that_is_left_in_a_cancelled_scope_closes_to_the_end(self, file_path: pathlib.Path) -> None:
        with anyio.CancelScope() as scope:
            async with AsyncContextStore(file_path) as store:
                await store.put("run", "node", 1)
                host = core_of(store)._session.host
                scope.cancel()
                await anyio.sleep(60)
        assert scope.cancelled_caught
        assert host is not None
        assert host.closed.done()
        assert not host.thread.is_alive()

    @on_each_loop
    async def test_a_close_that_is_cancelled_goes_on_in_the_background(self, file_path: pathlib.Path) -> None:
        store = AsyncContextStore(file_path)
        await store.put("run", "node", 1)
        host = core_of(store)._session.host
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.close()
        assert host is not None
        await until(host.closed.done)
        with pytest.raises(StoreClosedError):
            await store.get("run", "node")

    @on_each_loop
    async def test_an_opening_that_is_cancelled_goes_on_for_the_next_call(self, store: AsyncContextStore) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.put("run", "node", 1)
        await store.put("run", "node", 2)
        assert await store.get("run", "node") == 2

    @on_each_loop
    async def test_nothing_escapes_from_a_factory_but_to_its_caller(self, store: AsyncContextStore) -> None:
        async def factory() -> None:
            await anyio.sleep(0)
            raise Stop

        for node in ("a", "b"):
            with pytest.raises(Stop):
                await store.get_or_put("run", node, factory)
        with pytest.raises(ZeroDivisionError):
            await store.get_or_put("run", "c", lambda: 1 / 0)
        assert flights(store) == {}
        await store.put("run", "a", 1)


class TestOneAfterTheOther:
    def test_a_store_that_is_made_at_import_serves_any_number_of_loops(self, store: AsyncContextStore) -> None:
        async def work(number: int) -> list[str]:
            await store.put("run", f"{number}", number)
            await store.get_or_put("run", f"computed {number}", lambda: number)
            await store.update_global("key", lambda value: value + 1, 0)
            with pytest.raises(TimeoutError):
                await store.wait_for("run", "never", timeout=0)
            return await store.list_keys("run", prefix="c")

        for number in range(3):
            asyncio.run(work(number))
            assert_nothing_is_left(store)
            trio.run(work, 10 + number)
            assert_nothing_is_left(store)
        assert asyncio.run(store.get_global("key")) == 6

    @pytest.mark.parametrize("times", [200, pytest.param(10_000, marks=pytest.mark.thorough)])
    def test_many_loops_leave_nothing(self, store: AsyncContextStore, times: int) -> None:
        def loops() -> int:
            time.sleep(0.05)  # the thread that gave the last answer may still be about to let go of it
            gc.collect()
            return sum(isinstance(one, asyncio.AbstractEventLoop) for one in gc.get_objects())

        async def work(number: int) -> None:
            store_it = asyncio.ensure_future(store.upsert_global("key", number))
            assert await store.get("run", f"{number}") is None
            await store_it

        asyncio.run(work(-1))
        before = loops()
        for number in range(times):
            asyncio.run(work(number))
        assert_nothing_is_left(store)
        assert loops() == before

    @pytest.mark.parametrize("call", ["put", "get_or_put", "wait_for", "update_global"])
    def test_a_loop_that_is_closed_under_waiting_calls_leaves_nothing(self, file_path: pathlib.Path, call: str) -> None:
        program = f"""
            import gc

            async def hang():
                await asyncio.sleep(3600)

            async def begin():
                await store.open()
                tasks.append(asyncio.ensure_future({{
                    "put": lambda: store.put("run", "node", 1),
                    "get_or_put": lambda: store.get_or_put("run", "node", hang),
                    "wait_for": lambda: store.wait_for("run", "never"),
                    "update_global": lambda: store.update_global("key", lambda _: hang(), 0),
                }}[{call!r}]()))
                await asyncio.sleep(0.05)

            async def work():
                if {call!r} != "put":
                    await store.put("run", "other", 1)
                say(await store.get_or_put("run", "node", lambda: 1), await store.update_global("key", lambda _: 2))

            tasks = []
            store = AsyncContextStore(sys.argv[1])
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!"
            loop.run_until_complete(begin())
            loop.close()
            asyncio.run(work())
            tasks.clear()
            gc.collect()
            callers, queues = store._session.callers, store._core.globals._updates._queues
            say(dict(callers._timers), callers._flights.by_key, queues)
            asyncio.run(store.close())
        """
        assert run(program, file_path) == ["1 2", "{} {} {}"]


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
        queues: Any = core_of(store)._core.globals._updates._queues
        with loop_in_thread(kind, lambda: store.update_global("key", lambda _: 1)) as other:
            anyio.run(functools.partial(until, lambda: len(queues["key"]) == 2))
            loop.close()
            assert other() == 1
        tasks.clear()


def test_on_asyncio_and_on_the_blocking_face_nothing_of_other_loops_is_imported(file_path: pathlib.Path) -> None:
    program = """
        async def main():
            async with AsyncContextStore(sys.argv[1]) as store:
                await store.put("run", "node", 1)
                await store.get_or_put("run", "other", lambda: 1)
                try:
                    async with asyncio.timeout(0.01):
                        await store.wait_for("run", "never")
                except TimeoutError:
                    pass
        asyncio.run(main())
        with ContextStore(sys.argv[1]) as store:
            store.put("run", "third", 1)
        say({"anyio", "trio", "sniffio"} & set(sys.modules))
    """
    assert run(program, file_path) == ["set()"]


def test_a_call_from_a_thread_of_the_stores_own_is_refused(store: AsyncContextStore) -> None:
    asyncio.run(store.put("run", "there", 1))
    done, outcomes = threading.Event(), []

    async def job() -> None:
        for call in (lambda: store.get("run", "there"), lambda: store.put("run", "new", 1), store.close):
            try:
                outcomes.append(call().send(None))
            except Exception as error:
                outcomes.append(error)
        done.set()

    core_of(store)._session.engine.post_read(job)
    assert done.wait(30)
    assert {type(outcome) for outcome in outcomes} == {WrongLoopError}
