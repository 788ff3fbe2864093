"""Steps: what get_or_put and step compute is computed once, and stored before anybody gets it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
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

from contextstore import (
    AsyncContextStore,
    ContextStore,
    CorruptStoreError,
    DeserializationError,
    InvalidKeyError,
    ReadOnlyStoreError,
    RunDeletedError,
    SerializationError,
    StorageError,
    StoreClosedError,
    StoreFullError,
)
from contextstore._waiting import callers as _callers
from contextstore._waiting import deadlock as _circles

from .conftest import Target
from .doubles import Gate, core_of, fail, until
from .processes import children


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Held:
    """A factory that begins, says so, and goes on when it is released; with any face."""

    def __init__(self, store: Any, result: Any = "computed") -> None:
        self.result = result
        self.begun = 0
        self.ended = 0
        self._released = threading.Event()
        self.factory: Callable[[], Any] = self._block if hasattr(store, "blocking") else self._suspend

    def release(self) -> None:
        self._released.set()

    async def has_begun(self) -> None:
        await until(lambda: self.begun)

    def _block(self) -> Any:
        self.begun += 1
        assert self._released.wait(60), "it was never released"
        return self._end()

    async def _suspend(self) -> Any:
        self.begun += 1
        try:
            await until(self._released.is_set, 60)
        finally:
            self.ended += 1
        return self._end()

    def _end(self) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def flights(store: Any) -> dict[object, Any]:
    """What is being computed."""
    callers: Any = core_of(store)._callers
    return callers._flights


def waiters(store: Any) -> int:
    """How many calls wait for what another one computes."""
    count = 0
    for flight in list(flights(store).values()):
        if isinstance(flight, _callers._TaskFlight):
            count += flight.callers - 1
        else:
            count += len(flight.landed._callbacks)
    return count


@pytest.fixture(autouse=True)
def nothing_is_left_in_the_air(request: pytest.FixtureRequest) -> Iterator[None]:
    """At the end of every test no computation is on a store's list, and nobody is on record as waiting for one."""
    made: list[Any] = []
    for fixture in ("make_store", "make_tasks_store", "make_threads_store"):
        if fixture in request.fixturenames:
            made = request.getfixturevalue(fixture).made
    yield
    assert [flights(store) for store in made] == [{} for _ in made]
    assert [core_of(store)._updates._queues for store in made] == [{} for _ in made]
    assert _circles._own_work.get() is None


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


def spawn(*calls: Any) -> list[asyncio.Task[Any]]:
    return [asyncio.ensure_future(call) for call in calls]


async def outcomes_of(tasks: list[asyncio.Task[Any]]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.each_pair
class TestOnce:
    async def test_what_a_step_returns_is_stored_before_it_returns(self, store: Any) -> None:
        assert await store.get_or_put("run", "node", lambda: {"rows": 3}) == {"rows": 3}
        assert await store.get("run", "node") == {"rows": 3}

    async def test_what_is_stored_is_returned_without_computing(self, store: Any) -> None:
        await store.put("run", "node", 1)
        assert await store.get_or_put("run", "node", lambda: pytest.fail("computed anew")) == 1

    async def test_a_stored_null_is_an_output_like_others(self, store: Any) -> None:
        assert await store.get_or_put("run", "node", lambda: None) is None
        assert await store.get_or_put("run", "node", lambda: pytest.fail("computed anew")) is None

    @pytest.mark.usefixtures("shared_target")
    async def test_the_next_store_object_replays(self, make_store: Target) -> None:
        async with make_store() as store:
            first = await store.get_or_put("run", "node", lambda: [1, 2.5, "é"])
        async with make_store() as store:
            assert await store.get_or_put("run", "node", lambda: pytest.fail("computed anew")) == first

    @pytest.mark.parametrize(
        ("value", "replayed"),
        [((1, (2, 3)), [1, [2, 3]]), (Point(1, 2), {"x": 1, "y": 2}), (b"\x00\xff", b"\x00\xff")],
        ids=["tuple", "dataclass", "bytes"],
    )
    @pytest.mark.each_input_once
    async def test_the_first_call_returns_what_a_replay_would(self, store: Any, value: Any, replayed: Any) -> None:
        first = await store.get_or_put("run", "node", lambda: value)
        again = await store.get_or_put("run", "node", lambda: pytest.fail("computed anew"))
        assert first == again == replayed
        assert type(first) is type(again) is type(replayed)

    async def test_a_type_is_converted_to_in_the_first_call_as_in_a_replay(self, store: Any) -> None:
        for _ in range(2):
            assert await store.get_or_put("run", "node", lambda: (1, 2), type=tuple[int, int]) == (1, 2)
            point = await store.get_or_put("run", "point", lambda: {"x": 1, "y": 2}, type=Point)
            assert point == Point(1, 2)

    async def test_a_stored_value_that_does_not_fit_the_type_is_refused_in_each_call_and_stays(
        self, store: Any
    ) -> None:
        await store.put("run", "node", "text")
        for _ in range(2):
            with pytest.raises(DeserializationError, match=r"\$"):
                await store.get_or_put("run", "node", lambda: pytest.fail("computed anew"), type=int)
        assert await store.get("run", "node") == "text"

    async def test_what_the_factory_kept_of_its_value_is_not_what_the_caller_gets(self, store: Any) -> None:
        kept = {"a": [1]}
        first = await store.get_or_put("run", "node", lambda: kept)
        kept["a"].append(2)
        first["a"].append(3)
        assert await store.get("run", "node") == {"a": [1]}

    async def test_a_bad_id_is_refused_before_anything_is_computed(self, store: Any) -> None:
        for run, node in [("", "node"), ("run", ""), ("run", 5), ("run", "\0")]:
            with pytest.raises(InvalidKeyError):
                await store.get_or_put(run, node, lambda: pytest.fail("computed"))

    @pytest.mark.usefixtures("shared_target")
    async def test_a_read_only_store_replays_and_computes_nothing(self, make_store: Target) -> None:
        async with make_store() as store:
            await store.put("run", "there", 1)
        async with make_store(read_only=True) as store:
            assert await store.get_or_put("run", "there", lambda: pytest.fail("computed anew")) == 1
            with pytest.raises(ReadOnlyStoreError):
                await store.get_or_put("run", "missing", lambda: pytest.fail("computed"))


@pytest.mark.each_pair
class TestRaces:
    async def test_a_crowd_computes_once_and_all_get_equal_values_that_are_not_shared(self, store: Any) -> None:
        held = Held(store, {"rows": [1, 2]})
        crowd = spawn(*(store.get_or_put("run", "node", held.factory) for _ in range(50)))
        await until(lambda: waiters(store) == 49)
        held.release()
        values = await asyncio.gather(*crowd)
        assert held.begun == 1
        assert values == [{"rows": [1, 2]}] * 50
        assert len({id(value) for value in values}) == len({id(value["rows"]) for value in values}) == 50

    async def test_many_nodes_at_once_are_computed_once_each(self, store: Any) -> None:
        computed: list[int] = []

        def compute(number: int) -> int:
            computed.append(number)
            return number**2

        calls = [store.get_or_put("run", str(i % 20), functools.partial(compute, i % 20)) for i in range(80)]
        assert await asyncio.gather(*calls) == [(i % 20) ** 2 for i in range(80)]
        assert sorted(computed) == list(range(20))

    async def test_each_who_joined_converts_to_the_type_of_its_own(self, store: Any) -> None:
        held = Held(store, {"x": 1, "y": 2})
        crowd = spawn(
            store.get_or_put("run", "node", held.factory),
            store.get_or_put("run", "node", held.factory, type=Point),
            store.get_or_put("run", "node", held.factory, type=int),
        )
        await until(lambda: waiters(store) == 2)
        held.release()
        plain, point, refused = await outcomes_of(crowd)
        assert (plain, point) == ({"x": 1, "y": 2}, Point(1, 2))
        assert isinstance(refused, DeserializationError)

    async def test_a_put_that_comes_first_wins_and_its_value_is_returned(self, store: Any) -> None:
        held = Held(store, "computed")
        crowd = spawn(*(store.get_or_put("run", "node", held.factory) for _ in range(3)))
        await held.has_begun()
        await store.put("run", "node", "put")
        held.release()
        assert await asyncio.gather(*crowd) == ["put"] * 3

    @pytest.mark.usefixtures("shared_target")
    async def test_of_two_store_objects_both_compute_and_the_first_to_write_wins(self, make_store: Target) -> None:
        async with make_store() as one, make_store() as other:
            slow, quick = Held(one, "slow"), Held(other, "quick")
            crowd = spawn(*(one.get_or_put("run", "node", slow.factory) for _ in range(3)))
            crowd += spawn(other.get_or_put("run", "node", quick.factory))
            await slow.has_begun()
            await quick.has_begun()
            quick.release()
            assert await crowd[-1] == "quick"
            slow.release()
            assert await asyncio.gather(*crowd) == ["quick"] * 4

    def test_of_two_processes_the_first_to_write_wins_and_both_return_its_value(self, file_path: pathlib.Path) -> None:
        program = """
            with ContextStore(sys.argv[1]) as store:
                say("open")
                for node in range(30):
                    sys.stdin.readline()
                    say(store.get_or_put("run", str(node), lambda: sys.argv[2]))
        """
        with children(2, program, file_path) as (one, other):
            assert one.hear() == other.hear() == "open"
            winners = set()
            for _ in range(30):
                one.tell()
                other.tell()
                winner = one.hear()
                assert other.hear() == winner
                winners.add(winner)
            assert winners <= {"0", "1"}
            assert one.end()[0] == other.end()[0] == 0


class TestFailures:
    async def test_an_exception_reaches_all_who_waited_and_stores_nothing(self, store: Any) -> None:
        held = Held(store, ZeroDivisionError("of the factory"))
        crowd = spawn(*(store.get_or_put("run", "node", held.factory) for _ in range(10)))
        await until(lambda: waiters(store) == 9)
        held.release()
        outcomes = await outcomes_of(crowd)
        assert [str(outcome) for outcome in outcomes] == ["of the factory"] * 10
        assert {type(outcome) for outcome in outcomes} == {ZeroDivisionError}
        assert held.begun == 1
        assert await store.list_keys("run") == []

    async def test_the_call_after_a_failure_computes_anew(self, store: Any) -> None:
        for error in (ValueError, KeyError, RunDeletedError("of another store")):
            held = Held(store, error if isinstance(error, Exception) else error("no"))
            held.release()
            with pytest.raises(type(held.result)):
                await store.get_or_put("run", "node", held.factory)
        assert await store.get_or_put("run", "node", lambda: "at last") == "at last"

    async def test_a_value_that_cannot_be_stored_is_refused_for_all_who_waited(self, store: Any) -> None:
        held = Held(store, {"score": float("nan")})
        crowd = spawn(*(store.get_or_put("run", "node", held.factory) for _ in range(5)))
        await until(lambda: waiters(store) == 4)
        held.release()
        for outcome in await outcomes_of(crowd):
            assert isinstance(outcome, SerializationError)
            assert outcome.path == "$.score"
        assert await store.list_keys("run") == []
        assert await store.get_or_put("run", "node", lambda: 1) == 1

    async def test_a_commit_that_fails_reaches_all_who_waited_and_the_next_call_computes_anew(self, store: Any) -> None:
        fail(store, "commit", StoreFullError("full"))
        held = Held(store, 1)
        crowd = spawn(*(store.get_or_put("run", "node", held.factory) for _ in range(5)))
        await until(lambda: waiters(store) == 4)
        held.release()
        outcomes = await outcomes_of(crowd)
        assert {type(outcome) for outcome in outcomes} == {StoreFullError}
        assert await store.get_or_put("run", "node", lambda: 2) == 2

    async def test_a_commit_whose_outcome_is_unknown_is_settled_by_the_next_call(self, store: Any) -> None:
        engine: Any = core_of(store)._engine
        commit = engine.commit

        async def commit_and_lose_the_answer(units: Any) -> Any:
            await commit(units)
            engine.commit = commit
            raise StorageError("the answer was lost", outcome_unknown=True)

        engine.commit = commit_and_lose_the_answer
        with pytest.raises(StorageError) as caught:
            await store.get_or_put("run", "node", lambda: 1)
        assert caught.value.outcome_unknown
        assert await store.get_or_put("run", "node", lambda: pytest.fail("computed anew")) == 1

    async def test_a_run_that_is_deleted_before_takes_no_step(self, store: Any) -> None:
        await store.delete_run("run")
        with pytest.raises(RunDeletedError):
            await store.get_or_put("run", "node", lambda: 1)

    async def test_a_run_that_is_deleted_while_computing_takes_no_step(self, store: Any) -> None:
        held = Held(store)
        crowd = spawn(*(store.get_or_put("run", "node", held.factory) for _ in range(3)))
        await until(lambda: waiters(store) == 2)
        await store.delete_run("run")
        held.release()
        assert {type(outcome) for outcome in await outcomes_of(crowd)} == {RunDeletedError}

    async def test_a_run_that_is_deleted_between_losing_the_race_and_reading_is_deleted(self, store: Any) -> None:
        async def lose() -> None:
            await store.put("run", "node", "first")
            core = core_of(store)
            fetch = core._reader.fetch

            async def fetch_late(key: Any) -> Any:
                core._reader.fetch = fetch  # type: ignore[method-assign]
                # It runs where the caller is, on both faces, and must not wait there for the loop.
                await core.delete_run("run")
                return await fetch(key)

            core._reader.fetch = fetch_late  # type: ignore[method-assign]

        held = Held(store)
        crowd = spawn(store.get_or_put("run", "node", held.factory))
        await held.has_begun()
        await lose()
        held.release()
        (outcome,) = await outcomes_of(crowd)
        assert isinstance(outcome, RunDeletedError)

    async def test_a_store_that_is_closed_while_computing_refuses_what_comes_of_it(self, store: Any) -> None:
        held = Held(store)
        crowd = spawn(*(store.get_or_put("run", "node", held.factory) for _ in range(5)))
        await until(lambda: waiters(store) == 4)
        await store.close()
        held.release()
        assert {type(outcome) for outcome in await outcomes_of(crowd)} == {StoreClosedError}
        with pytest.raises(StoreClosedError):
            await store.get_or_put("run", "node", lambda: pytest.fail("computed"))


class TestFactoriesThatUseTheStore:
    async def test_a_factory_may_ask_for_other_nodes(self, store: Any) -> None:
        """Each node is the sum of the two before it; all are asked for from within one another."""
        computed: list[int] = []
        plain = getattr(store, "blocking", None)

        def fibonacci(n: int) -> int:
            computed.append(n)
            if n < 2:
                return n
            return sum(plain.get_or_put("run", str(n - d), functools.partial(fibonacci, n - d)) for d in (1, 2))

        async def fibonacci_awaited(n: int) -> int:
            computed.append(n)
            if n < 2:
                return n
            before = [store.get_or_put("run", str(n - d), functools.partial(fibonacci_awaited, n - d)) for d in (1, 2)]
            return sum(await asyncio.gather(*before))

        factory = functools.partial(fibonacci if plain else fibonacci_awaited, 20)
        assert await store.get_or_put("run", "20", factory) == 6765
        assert sorted(computed) == list(range(21))

    async def test_a_factory_may_write_and_read_and_update_globals(self, store: Any) -> None:
        plain = getattr(store, "blocking", None)

        def work() -> list[Any]:
            plain.put("run", "beside", 1)
            return [plain.get("run", "beside"), plain.update_global("n", lambda n: n + 1, 0), plain.list_keys("run")]

        async def work_awaited() -> list[Any]:
            await store.put("run", "beside", 1)
            update = store.update_global("n", lambda n: n + 1, 0)
            return [await store.get("run", "beside"), await update, await store.list_keys("run")]

        assert await store.get_or_put("run", "node", work if plain else work_awaited) == [1, 1, ["beside"]]

    async def test_a_factory_that_writes_its_own_output_loses_to_it(self, store: Any) -> None:
        plain = getattr(store, "blocking", None)

        def work() -> str:
            plain.put("run", "node", "put")
            return "returned"

        async def work_awaited() -> str:
            await store.put("run", "node", "put")
            return "returned"

        assert await store.get_or_put("run", "node", work if plain else work_awaited) == "put"

    async def test_a_factory_that_asks_for_itself_is_told_so(self, store: Any) -> None:
        plain = getattr(store, "blocking", None)

        def work() -> Any:
            return plain.get_or_put("run", "node", work)

        async def work_awaited() -> Any:
            return await store.get_or_put("run", "node", work_awaited)

        with pytest.raises(RuntimeError, match=r"\('run', 'node'\).*it would wait for itself"):
            await store.get_or_put("run", "node", work if plain else work_awaited)
        assert await store.get_or_put("run", "node", lambda: 1) == 1

    async def test_a_factory_that_asks_for_itself_through_others_is_told_so(self, store: Any) -> None:
        plain = getattr(store, "blocking", None)
        following = {"a": "b", "b": "c", "c": "a"}

        def work(node: str) -> Any:
            return plain.get_or_put("run", following[node], functools.partial(work, following[node]))

        async def work_awaited(node: str) -> Any:
            factory = functools.partial(work_awaited, following[node])
            return await store.get_or_put("run", following[node], factory)

        with pytest.raises(RuntimeError, match="it would wait for itself"):
            await store.get_or_put("run", "a", functools.partial(work if plain else work_awaited, "a"))

    async def test_factories_that_wait_for_each_other_in_a_circle_are_told_so(self, store: Any) -> None:
        plain = getattr(store, "blocking", None)
        following = {"a": "b", "b": "c", "c": "a"}
        begun: list[str] = []

        def work(node: str) -> Any:
            begun.append(node)
            while len(begun) < 3:
                pass
            return plain.get_or_put("run", following[node], lambda: pytest.fail("computed twice"))

        async def work_awaited(node: str) -> Any:
            begun.append(node)
            await until(lambda: len(begun) == 3)
            return await store.get_or_put("run", following[node], lambda: pytest.fail("computed twice"))

        crowd = spawn(
            *(store.get_or_put("run", node, functools.partial(work if plain else work_awaited, node)) for node in "abc")
        )
        outcomes = await outcomes_of(crowd)
        assert {type(outcome) for outcome in outcomes} == {RuntimeError}
        assert await store.get_or_put("run", "a", lambda: 1) == 1

    async def test_a_step_and_an_update_that_wait_for_each_other_are_told_so(self, store: Any) -> None:
        plain = getattr(store, "blocking", None)
        begun: list[str] = []

        def step() -> Any:
            begun.append("step")
            while len(begun) < 2:
                pass
            return plain.update_global("key", lambda _: 1)

        def update(_: Any) -> Any:
            begun.append("update")
            while len(begun) < 2:
                pass
            return plain.get_or_put("run", "node", lambda: 1)

        async def step_awaited() -> Any:
            begun.append("step")
            await until(lambda: len(begun) == 2)
            return await store.update_global("key", lambda _: 1)

        async def update_awaited(_: Any) -> Any:
            begun.append("update")
            await until(lambda: len(begun) == 2)
            return await store.get_or_put("run", "node", lambda: 1)

        outcomes = await outcomes_of(
            spawn(
                store.get_or_put("run", "node", step if plain else step_awaited),
                store.update_global("key", update if plain else update_awaited),
            )
        )
        assert RuntimeError in {type(outcome) for outcome in outcomes}

    async def test_asking_for_what_one_waits_for_at_most_is_no_circle(self, store: Any) -> None:
        """Two computations that wait for a third, from which one of them is asked for once it is there."""
        plain = getattr(store, "blocking", None)
        third = Held(store, 3)

        def work() -> Any:
            return 1 + plain.get_or_put("run", "third", third.factory)

        async def work_awaited() -> Any:
            return 1 + await store.get_or_put("run", "third", third.factory)

        factory = work if plain else work_awaited
        crowd = spawn(*(store.get_or_put("run", node, factory) for node in ("one", "two", "one")))
        await until(lambda: waiters(store) == 2)
        third.release()
        assert await asyncio.gather(*crowd) == [4, 4, 4]


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
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                events.append("cleaned up")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
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
            connection.execute("UPDATE output_rows SET value = '2'")
        threads_store.close()
        with ContextStore(file_path) as store, pytest.raises(CorruptStoreError):
            store.get_or_put("run", "node", lambda: pytest.fail("computed anew"))

    @pytest.mark.one_python
    @pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")
    @pytest.mark.parametrize("part", ["computes", "waits"])
    def test_an_interrupt_at_any_moment_leaves_nobody_waiting(self, threads_store: ContextStore, part: str) -> None:
        """As Ctrl-C would, but at each chance it has within ``once``, in who computes or in who joined."""
        threads_store.open()
        functions = {"once", "_land", "within", "waiting_for", "join", "set_result", "add_done_callback"}
        assert every_interrupt(functions, functools.partial(join_one_that_is_interrupted, threads_store, part)) > 10

    @pytest.mark.one_python
    @pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")
    def test_an_interrupt_at_any_moment_leaves_no_turn_taken(self, threads_store: ContextStore) -> None:
        threads_store.open()
        functions = {"run_locked", "_leave", "within", "waiting_for"}
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
    queues: Any = core_of(store)._updates._queues
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

    blocking = True


def call(function: Callable[[], Any]) -> Any:
    return function()


def wait_until(condition: Callable[[], Any]) -> None:
    asyncio.run(until(condition))


class InterruptAt:
    """Raises KeyboardInterrupt in certain functions of these rooms, at the so-and-so-manieth chance that a signal has.

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
        if (
            frame.f_code.co_filename not in (_callers.__file__, _circles.__file__)
            or frame.f_code.co_name not in self._functions
        ):
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
