"""Steps: what get_or_put and step compute is computed once, and stored before anybody gets it."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import pathlib
from typing import Any

import pytest

from contextstore import (
    DeserializationError,
    InvalidKeyError,
    ReadOnlyStoreError,
    RunDeletedError,
    SerializationError,
    StorageError,
    StoreClosedError,
    StoreFullError,
)

from ..conftest import Target
from ..support.doubles import core_of, fail, until
from ..support.forked import children
from .steps import Held, outcomes_of, spawn, waiters

pytestmark = pytest.mark.usefixtures("nothing_is_left_in_the_air")


@dataclasses.dataclass
class Point:
    x: int
    y: int


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
        engine: Any = core_of(store)._session.engine
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
            fetch = core._session.reader.fetch

            async def fetch_late(key: Any, callers: Any, **options: Any) -> Any:
                core._session.reader.fetch = fetch  # type: ignore[method-assign]
                # It runs where the caller is, on both faces, and must not wait there for the loop.
                await core.delete_run("run")
                return await fetch(key, callers, **options)

            core._session.reader.fetch = fetch_late  # type: ignore[method-assign]

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
        plain = getattr(store, "plain", None)

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
        plain = getattr(store, "plain", None)

        def work() -> list[Any]:
            plain.put("run", "beside", 1)
            return [plain.get("run", "beside"), plain.update_global("n", lambda n: n + 1, 0), plain.list_keys("run")]

        async def work_awaited() -> list[Any]:
            await store.put("run", "beside", 1)
            update = store.update_global("n", lambda n: n + 1, 0)
            return [await store.get("run", "beside"), await update, await store.list_keys("run")]

        assert await store.get_or_put("run", "node", work if plain else work_awaited) == [1, 1, ["beside"]]

    async def test_a_factory_that_writes_its_own_output_loses_to_it(self, store: Any) -> None:
        plain = getattr(store, "plain", None)

        def work() -> str:
            plain.put("run", "node", "put")
            return "returned"

        async def work_awaited() -> str:
            await store.put("run", "node", "put")
            return "returned"

        assert await store.get_or_put("run", "node", work if plain else work_awaited) == "put"

    async def test_a_factory_that_asks_for_itself_is_told_so(self, store: Any) -> None:
        plain = getattr(store, "plain", None)

        def work() -> Any:
            return plain.get_or_put("run", "node", work)

        async def work_awaited() -> Any:
            return await store.get_or_put("run", "node", work_awaited)

        with pytest.raises(RuntimeError, match=r"\('run', 'node'\).*it would wait for itself"):
            await store.get_or_put("run", "node", work if plain else work_awaited)
        assert await store.get_or_put("run", "node", lambda: 1) == 1

    async def test_a_factory_that_asks_for_itself_through_others_is_told_so(self, store: Any) -> None:
        plain = getattr(store, "plain", None)
        following = {"a": "b", "b": "c", "c": "a"}

        def work(node: str) -> Any:
            return plain.get_or_put("run", following[node], functools.partial(work, following[node]))

        async def work_awaited(node: str) -> Any:
            factory = functools.partial(work_awaited, following[node])
            return await store.get_or_put("run", following[node], factory)

        with pytest.raises(RuntimeError, match="it would wait for itself"):
            await store.get_or_put("run", "a", functools.partial(work if plain else work_awaited, "a"))

    async def test_factories_that_wait_for_each_other_in_a_circle_are_told_so(self, store: Any) -> None:
        plain = getattr(store, "plain", None)
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
        plain = getattr(store, "plain", None)
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
        plain = getattr(store, "plain", None)
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
