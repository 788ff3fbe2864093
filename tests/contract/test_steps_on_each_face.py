"""Steps as one face has them: of tasks, cancelled or with their context; of threads, interrupted anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dis
import functools
import itertools
import pathlib
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import contextstore._waiting
from contextstore import AsyncContextStore, ContextStore, CorruptStoreError

from ..support.doubles import Gate, core_of, until
from .steps import Held, flights, outcomes_of, spawn, waiters

pytestmark = pytest.mark.usefixtures("nothing_is_left_in_the_air")


class OneFace:
    """Makes stores of one face only, for what the other cannot do."""

    def __init__(self, kind: type, folder: pathlib.Path) -> None:
        self._kind = kind
        self._folder = folder
        self.made: list[Any] = []

    def __call__(self, **options: Any) -> Any:
        self.made.append(self._kind(self._folder / "store.db", **options))
        return self.made[-1]


@pytest.fixture
async def make_tasks_store(tmp_path: pathlib.Path) -> AsyncIterator[OneFace]:
    one_face = OneFace(AsyncContextStore, tmp_path)
    yield one_face
    for store in one_face.made:
        await store.close()


@pytest.fixture
async def tasks_store(make_tasks_store: OneFace) -> Any:
    store = make_tasks_store()
    await store.open()
    return store


@pytest.fixture
def make_threads_store(tmp_path: pathlib.Path) -> Iterator[OneFace]:
    one_face = OneFace(ContextStore, tmp_path)
    yield one_face
    for store in one_face.made:
        store.close()


@pytest.fixture
def threads_store(make_threads_store: OneFace) -> Any:
    return make_threads_store()


class TestTasks:
    """What only the async face can do."""

    async def test_plain_functions_coroutine_functions_and_partials_of_both_are_factories(
        self, tasks_store: AsyncContextStore
    ) -> None:
        async def add_later(a: int, b: int) -> int:
            await asyncio.sleep(0)
            return a + b

        class Callable:
            async def __call__(self) -> str:
                return "called"

        def returns_a_future() -> asyncio.Future[int]:
            future = asyncio.get_running_loop().create_future()
            future.set_result(5)
            return future

        factories: list[Any] = [
            lambda: 1,
            functools.partial(add_later, 1, 1),
            functools.partial(max, 2, 3),
            lambda: add_later(2, 2),
            returns_a_future,
            Callable(),
        ]
        values = [await tasks_store.get_or_put("run", str(i), factory) for i, factory in enumerate(factories)]
        assert values == [1, 2, 3, 4, 5, "called"]

    async def test_a_factory_runs_in_a_task_of_its_own_with_the_callers_context(
        self, tasks_store: AsyncContextStore
    ) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
        variable.set("of the caller")
        seen = []

        async def factory() -> None:
            seen.append((variable.get(), asyncio.current_task() is not caller))
            variable.set("of the factory")

        caller = asyncio.current_task()
        await tasks_store.get_or_put("run", "node", factory)
        assert seen == [("of the caller", True)]
        assert variable.get() == "of the caller"

    async def test_a_cancelled_caller_does_not_cancel_what_others_wait_for(
        self, tasks_store: AsyncContextStore
    ) -> None:
        held = Held(tasks_store)
        crowd = spawn(*(tasks_store.get_or_put("run", "node", held.factory) for _ in range(4)))
        await until(lambda: waiters(tasks_store) == 3)
        crowd[0].cancel()  # the one that started it, too
        crowd[2].cancel()
        await asyncio.wait([crowd[0], crowd[2]])
        held.release()
        outcomes = await outcomes_of(crowd)
        assert [outcomes[1], outcomes[3]] == ["computed"] * 2
        assert [type(outcomes[0]), type(outcomes[2])] == [asyncio.CancelledError] * 2
        assert held.begun == 1

    async def test_when_all_are_cancelled_so_is_the_computation_and_it_has_ended_when_they_return(
        self, tasks_store: AsyncContextStore
    ) -> None:
        held = Held(tasks_store)
        crowd = spawn(*(tasks_store.get_or_put("run", "node", held.factory) for _ in range(3)))
        await until(lambda: waiters(tasks_store) == 2)
        await held.has_begun()
        for task in crowd:
            task.cancel()
        assert {type(outcome) for outcome in await outcomes_of(crowd)} == {asyncio.CancelledError}
        assert (held.begun, held.ended) == (1, 1)
        assert await tasks_store.list_keys("run") == []
        assert await tasks_store.get_or_put("run", "node", lambda: "anew") == "anew"

    async def test_a_timeout_around_a_step_waits_for_the_cleaning_up_of_its_factory(
        self, tasks_store: AsyncContextStore
    ) -> None:
        events = []

        async def factory() -> None:
            limit.reschedule(asyncio.get_running_loop().time())
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                events.append("cleaned up")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                await tasks_store.get_or_put("run", "node", factory)
        assert events == ["cleaned up"]

    async def test_who_comes_while_a_cancelled_computation_cleans_up_computes_anew(
        self, tasks_store: AsyncContextStore
    ) -> None:
        cleaning, go_on = asyncio.Event(), asyncio.Event()

        async def factory() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                cleaning.set()
                await go_on.wait()

        (first,) = spawn(tasks_store.get_or_put("run", "node", factory))
        await until(lambda: flights(tasks_store))
        await asyncio.sleep(0.01)
        first.cancel()
        await cleaning.wait()
        assert await tasks_store.get_or_put("run", "node", lambda: "anew") == "anew"
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await first

    async def test_a_cancellation_during_the_commit_stores_all_or_nothing(self, tasks_store: AsyncContextStore) -> None:
        gate = Gate(tasks_store)
        (caller,) = spawn(tasks_store.get_or_put("run", "node", lambda: 1))
        await gate.wait_for_arrival()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        (after,) = spawn(tasks_store.get_or_put("run", "node", lambda: 2))
        gate.open()
        assert await after == await tasks_store.get("run", "node") == 1  # it had been taken already

    async def test_cancellation_at_any_moment_leaves_nothing_behind(self, make_tasks_store: OneFace) -> None:
        store = make_tasks_store()
        await store.open()
        before = asyncio.all_tasks()
        for turns in range(40):
            calls = spawn(*(store.get_or_put("run", str(turns), lambda: 1) for _ in range(3)))
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            assert {type(outcome) for outcome in await outcomes_of(calls)} <= {asyncio.CancelledError, int}
            assert flights(store) == {}
            assert asyncio.all_tasks() == before
            assert await store.get_or_put("run", str(turns), lambda: 1) == 1

    async def test_a_background_task_of_a_factory_may_ask_for_the_node_later(
        self, tasks_store: AsyncContextStore
    ) -> None:
        later: list[asyncio.Task[Any]] = []
        second = Held(tasks_store, "second")

        async def ask_later() -> Any:
            await second.has_begun()
            return await tasks_store.get_or_put("run", "node", lambda: pytest.fail("computed a third time"))

        async def first() -> None:
            later.append(asyncio.create_task(ask_later()))
            raise ValueError

        with pytest.raises(ValueError):
            await tasks_store.get_or_put("run", "node", first)
        (anew,) = spawn(tasks_store.get_or_put("run", "node", second.factory))
        await until(lambda: waiters(tasks_store) == 1)  # it has joined a computation that it is no part of
        second.release()
        assert await anew == await later[0] == "second"


class TestThreads:
    """What only the blocking face can do."""

    def test_a_factory_runs_in_the_calling_thread(self, threads_store: ContextStore) -> None:
        seen = []
        threads_store.get_or_put("run", "node", lambda: seen.append(threading.current_thread()))
        assert seen == [threading.current_thread()]

    @pytest.mark.parametrize("partial", [False, True])
    def test_a_coroutine_function_is_refused_and_nothing_is_stored(
        self, threads_store: ContextStore, partial: bool
    ) -> None:
        async def factory() -> int:
            return 1

        with pytest.raises(TypeError, match="use AsyncContextStore"):
            threads_store.get_or_put("run", "node", functools.partial(factory) if partial else factory)
        assert threads_store.list_keys("run") == []

    def test_from_a_thread_that_runs_a_loop_a_factory_runs_as_well(self, threads_store: ContextStore) -> None:
        async def main() -> Any:
            return threads_store.get_or_put("run", "node", lambda: 1)

        assert asyncio.run(main()) == 1

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
    def test_an_interrupted_thread_lets_one_that_waited_compute_anew(
        self, threads_store: ContextStore, interruption: type[BaseException]
    ) -> None:
        first, second = Held(Awaitable, interruption()), Held(Awaitable, "second")
        outcomes: list[Any] = []

        def call(factory: Callable[[], Any]) -> None:
            try:
                outcomes.append(threads_store.get_or_put("run", "node", factory))
            except BaseException as error:
                outcomes.append(type(error))

        threads = [threading.Thread(target=call, args=(first.factory,))]
        threads[0].start()
        wait_until(lambda: first.begun)
        threads += [threading.Thread(target=call, args=(second.factory,)) for _ in range(5)]
        for thread in threads[1:]:
            thread.start()
        wait_until(lambda: waiters(threads_store) == 5)
        first.release()
        second.release()
        for thread in threads:
            thread.join(60)
        assert sorted(outcomes, key=str) == sorted([interruption, *["second"] * 5], key=str)
        assert second.begun == 1

    def test_a_damaged_output_is_not_computed_anew(self, threads_store: ContextStore, file_path: pathlib.Path) -> None:
        threads_store.put("run", "node", 1)
        with contextlib.closing(sqlite3.connect(file_path)) as connection, connection:
            connection.execute("UPDATE node_outputs SET value = '2'")
        threads_store.close()
        with ContextStore(file_path) as store, pytest.raises(CorruptStoreError):
            store.get_or_put("run", "node", lambda: pytest.fail("computed anew"))

    @pytest.mark.one_python
    @pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")
    @pytest.mark.parametrize("part", ["computes", "waits"])
    def test_an_interrupt_at_any_moment_leaves_nobody_waiting(self, threads_store: ContextStore, part: str) -> None:
        """As Ctrl-C would, but at each chance it has within ``once``, in who computes or in who joined."""
        threads_store.open()
        functions = {"single_flight", "_await_landing", "enter", "leave", "finish", "running", "waiting_for"}
        functions |= {"wait_watchfully", "set_result", "add_waiter", "resolve"}
        assert every_interrupt(functions, functools.partial(join_one_that_is_interrupted, threads_store, part)) > 10

    @pytest.mark.one_python
    @pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")
    def test_an_interrupt_at_any_moment_leaves_no_turn_taken(self, threads_store: ContextStore) -> None:
        threads_store.open()
        functions = {"run_locked", "_enter", "_leave", "_let_in", "running", "waiting_for"}
        assert every_interrupt(functions, functools.partial(queue_behind_one_that_is_interrupted, threads_store)) > 10


def join_one_that_is_interrupted(store: ContextStore, part: str, interrupt: InterruptAt) -> None:
    node = f"{part}-{interrupt.chance}"
    outcomes: list[Any] = []

    def ask(factory: Callable[[], Any]) -> None:
        outcomes.append(store.get_or_put("run", node, factory))

    others = [threading.Thread(target=ask, args=(int,)) for _ in range(2)]
    if part == "waits":
        others.append(threading.Thread(target=interrupt.run, args=(lambda: ask(int),)))

    def begin_others() -> int:
        for other in others:
            other.start()
        return 0

    (interrupt.run if part == "computes" else call)(lambda: ask(begin_others))
    end_all(others, interrupt)
    assert outcomes == [0] * len(outcomes)
    assert flights(store) == {}
    ask(int)
    assert outcomes[-1] == 0


def queue_behind_one_that_is_interrupted(store: ContextStore, interrupt: InterruptAt) -> None:
    queues: Any = core_of(store)._core.backend.updates._queues
    others = [threading.Thread(target=store.update_global, args=("key", lambda n: n + 1, 0)) for _ in range(2)]

    def begin_others(n: int) -> int:
        for other in others:
            other.start()
        wait_until(lambda: len(queues["key"]) == 3)
        return n

    interrupt.run(lambda: store.update_global("key", begin_others, 0))
    end_all(others, interrupt)
    store.update_global("key", lambda n: n, 0)
    assert queues == {}


def every_interrupt(functions: set[str], scene: Callable[[InterruptAt], None]) -> int:
    """Play the scene with an interrupt at its first chance within these functions, at the second, and so on."""
    for chance in itertools.count():
        interrupt = InterruptAt(chance, functions)
        scene(interrupt)
        if not interrupt.happened:
            return chance
    raise AssertionError


def end_all(threads: list[threading.Thread], interrupt: InterruptAt) -> None:
    for thread in threads:
        if thread.ident is not None:
            thread.join(60)
            assert not thread.is_alive(), f"left waiting by an interrupt at chance {interrupt.chance}"


class Awaitable:
    """Stands for a store whose factories block."""

    plain = True


def call(function: Callable[[], Any]) -> Any:
    return function()


def wait_until(condition: Callable[[], Any]) -> None:
    asyncio.run(until(condition))


WAITING = {str(path) for path in pathlib.Path(contextstore._waiting.__file__).parent.glob("*.py")}


class InterruptAt:
    """Raises KeyboardInterrupt in certain functions of ``_waiting``, at the n-th of the chances that a signal has.

    CPython looks for signals where a function begins, at a jump backwards, and after each call.
    """

    def __init__(self, chance: int, functions: set[str]) -> None:
        self.chance = self._left = chance
        self._functions = functions
        self._previous: dict[Any, str] = {}
        self.happened = False

    def run(self, call: Callable[[], Any]) -> Any:
        sys.settrace(self._trace)
        try:
            return call()
        except KeyboardInterrupt:
            return None
        finally:
            sys.settrace(None)
            self._previous.clear()

    def _trace(self, frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in WAITING or frame.f_code.co_name not in self._functions:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode" and not self.happened:
            operation = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if self._previous.get(frame, "").startswith("CALL") or operation in ("RESUME", "JUMP_BACKWARD"):
                if not self._left:
                    self.happened = True
                    raise KeyboardInterrupt
                self._left -= 1
            self._previous[frame] = operation
        return self._trace
