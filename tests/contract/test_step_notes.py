"""What a step raises says in which step of which run it was raised, and is otherwise as it was raised."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, DeserializationError, SerializationError

from ..support.doubles import until
from ..support.forked import run as run_program
from .steps import Held, outcomes_of, spawn, waiters
from .test_flow_run import Bound


def notes_of(error: BaseException) -> Any:
    return getattr(error, "__notes__", None)


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int


class DeafError(Exception):
    def add_note(self, note: str) -> None:
        raise RuntimeError("it takes none")


class OddError(Exception):
    __notes__ = 5  # type: ignore[assignment]


class TestItsNote:
    async def test_what_the_function_raises_arrives_itself_and_names_the_step_and_the_run(self, store: Any) -> None:
        error = ZeroDivisionError("of the function")
        for _ in range(2):  # the second time it has its note already
            with pytest.raises(ZeroDivisionError) as caught:
                await Bound(store, "run-1").step("extract", raising(error))
            assert caught.value is error
            assert notes_of(error) == ["in step 'extract' of flow run 'run-1'"]

    async def test_of_steps_within_steps_each_adds_its_own(self, store: Any) -> None:
        plain = getattr(store, "plain", None)

        def outer() -> Any:
            return plain.run("inner run").step("inner", raising(KeyError("no")))

        async def outer_awaited() -> Any:
            return await store.run("inner run").step("inner", raising(KeyError("no")))

        with pytest.raises(KeyError) as caught:
            await Bound(store).step("outer", outer if plain else outer_awaited)
        assert notes_of(caught.value) == [
            "in step 'inner' of flow run 'inner run'",
            "in step 'outer' of flow run 'run'",
        ]

    async def test_of_those_who_joined_nobody_adds_it_again(self, store: Any) -> None:
        held = Held(store, ZeroDivisionError())
        crowd = spawn(*(Bound(store).step("node", held.factory) for _ in range(30)))
        await until(lambda: waiters(store) == 29)
        held.release()
        outcomes = await outcomes_of(crowd)
        assert {id(outcome) for outcome in outcomes} == {id(held.result)}
        assert notes_of(held.result) == ["in step 'node' of flow run 'run'"]

    async def test_a_result_that_cannot_be_stored_or_does_not_fit_is_told_with_it(self, store: Any) -> None:
        with pytest.raises(SerializationError) as refused:
            await Bound(store).step("node", lambda: {"score": float("nan")})

        def text() -> int:
            return "text"  # type: ignore[return-value]  # that is the misfit

        with pytest.raises(SerializationError) as misfit:
            await Bound(store).step("node", text)
        await store.put("run", "node", "text")
        with pytest.raises(DeserializationError) as replayed:
            await Bound(store).step("node", text)
        for caught in (refused, misfit, replayed):
            assert notes_of(caught.value) == ["in step 'node' of flow run 'run'"]

    async def test_notes_of_the_functions_own_stay_before_it(self, store: Any) -> None:
        error = ValueError()
        error.add_note("row 7")
        with pytest.raises(ValueError):
            await Bound(store).step("node", raising(error))
        assert notes_of(error) == ["row 7", "in step 'node' of flow run 'run'"]

    async def test_a_uuid_is_named_as_it_is_stored(self, store: Any) -> None:
        node_id = uuid.UUID(int=7)
        with pytest.raises(ValueError) as caught:
            await Bound(store).step(node_id, raising(ValueError()))
        assert notes_of(caught.value) == ["in step '00000000-0000-0000-0000-000000000007' of flow run 'run'"]

    async def test_get_or_put_adds_none(self, store: Any) -> None:
        with pytest.raises(ValueError) as caught:
            await store.get_or_put("run", "node", raising(ValueError()))
        assert notes_of(caught.value) is None


class TestWithoutOne:
    @pytest.mark.parametrize("error", [FrozenError(5), DeafError(), OddError()], ids=lambda error: type(error).__name__)
    async def test_an_exception_that_takes_no_note_arrives_as_it_is(self, store: Any, error: Exception) -> None:
        with pytest.raises(type(error)) as caught:
            await Bound(store).step("node", raising(error))
        assert caught.value is error
        assert await store.list_keys("run") == []

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
    def test_an_interruption_is_nobodys_failure(self, interruption: type[BaseException]) -> None:
        error = interruption()
        with ContextStore(":memory:") as store, pytest.raises(interruption):
            store.run("run").step("node", raising(error))
        assert notes_of(error) is None

    async def test_a_cancellation_is_nobodys_failure(self) -> None:
        async with AsyncContextStore(":memory:") as store:
            task = asyncio.ensure_future(store.run("run").step("node", asyncio.sleep, 60))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
        assert notes_of(caught.value) is None


class TestExceptionsOfFrozenClasses:
    """contextlib sets the traceback of what passes through its managers, and these refuse that."""

    async def test_they_reach_all_who_joined(self, store: Any) -> None:
        held = Held(store, FrozenError(5))
        crowd = spawn(*(store.get_or_put("run", "node", held.factory) for _ in range(5)))
        await until(lambda: waiters(store) == 4)
        held.release()
        assert await outcomes_of(crowd) == [FrozenError(5)] * 5

    async def test_they_come_through_steps_within_steps(self, store: Any) -> None:
        plain = getattr(store, "plain", None)

        def outer() -> Any:
            return plain.run("run").step("inner", raising(FrozenError(5)))

        async def outer_awaited() -> Any:
            return await store.run("run").step("inner", raising(FrozenError(5)))

        with pytest.raises(FrozenError):
            await Bound(store).step("outer", outer if plain else outer_awaited)

    async def test_they_come_through_an_update(self, store: Any) -> None:
        with pytest.raises(FrozenError):
            await store.update_global("key", lambda _: raising(FrozenError(5))())
        assert await store.update_global("key", lambda n: n + 1, 0) == 1


def test_a_child_that_was_forked_while_a_note_was_added_adds_its_own() -> None:
    said = run_program(
        """
        warnings.simplefilter("ignore", DeprecationWarning)
        adding, forked = threading.Event(), threading.Event()

        class SlowError(Exception):
            def add_note(self, note):
                adding.set()
                forked.wait(30)

        def fail(error):
            with ContextStore(":memory:") as store:
                try:
                    store.run("run").step("node", lambda: (_ for _ in ()).throw(error))
                except Exception as raised:
                    return raised.__notes__ if type(raised) is ValueError else None

        thread = threading.Thread(target=fail, args=(SlowError(),))
        thread.start()
        assert adding.wait(30)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            say(*fail(ValueError()))
            os._exit(0)
        say(os.waitpid(child, 0)[1])
        forked.set()
        thread.join()
        """
    )
    assert said == ["in step 'node' of flow run 'run'", "0"]
