"""What a step records of its calls: each that came to an end of its own, and what its arguments were."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import functools
from collections.abc import Callable
from typing import Any

import pytest

from contextstore import (
    AsyncContextStore,
    ContextStore,
    InputsChangedError,
    OutputDeletedError,
    RunDeletedError,
    SerializationError,
)

from ..conftest import Target
from ..support.doubles import until
from .steps import Held, outcomes_of, spawn, waiters
from .test_flow_run import Bound


@dataclasses.dataclass
class Point:
    x: int

    def plus(self, other: int) -> int:
        return self.x + other


class Checked(Bound):
    """A run that checks inputs."""

    def __init__(self, store: Any, run: str = "run") -> None:
        super().__init__(store, run)
        self._run = (store.plain if self.blocking else store).run(run, check_inputs=True)


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def same(value: Any, *_: Any, **__: Any) -> Any:
    return value


class TestWhatIsRecorded:
    async def test_a_success_with_its_output_and_failures_before_it(self, store: Any) -> None:
        run = Bound(store)
        before = datetime.datetime.now(datetime.UTC)
        for error in (ValueError("first"), KeyError("second")):
            with pytest.raises(type(error)):
                await run.step("node", failing(error))
        assert await run.step("node", lambda: 5) == 5
        attempts = await run.attempts("node")
        assert [(a.number, a.error, a.inputs) for a in attempts] == [
            (1, "ValueError: first", None),
            (2, "KeyError: 'second'", None),
            (3, None, None),
        ]
        assert all(before - datetime.timedelta(minutes=1) < a.started_at for a in attempts)

    async def test_a_replay_leaves_none(self, store: Any) -> None:
        run = Bound(store)
        for _ in range(3):
            assert await run.step("node", lambda: 5) == 5
        assert len(await run.attempts()) == 1

    async def test_get_or_put_leaves_none(self, store: Any) -> None:
        run = Bound(store)
        await run.get_or_put("node", lambda: 5)
        with pytest.raises(ValueError):
            await run.get_or_put("other", failing(ValueError()))
        assert await run.attempts() == []

    async def test_those_who_joined_leave_none(self, store: Any) -> None:
        held = Held(store, ValueError("once"))
        crowd = spawn(*(Bound(store).step("node", held.factory) for _ in range(10)))
        await until(lambda: waiters(store) == 9)
        held.release()
        await outcomes_of(crowd)
        assert [a.error for a in await Bound(store).attempts()] == ["ValueError: once"]

    async def test_who_loses_the_race_for_an_output_leaves_none(self, store: Any) -> None:
        held = Held(store, "own")
        (step,) = spawn(Bound(store).step("node", held.factory))
        await held.has_begun()
        await store.put("run", "node", "another's")
        held.release()
        assert await step == "another's"
        assert await Bound(store).attempts() == []

    async def test_a_text_is_stored_cut_at_a_character_and_without_what_no_text_has(self, store: Any) -> None:
        run = Bound(store)
        with pytest.raises(ValueError):
            await run.step("node", failing(ValueError("no\0pe \ud800 " + "é" * 5000)))
        error = str((await run.attempts())[0].error)
        assert error.startswith("ValueError: no")
        assert 4090 < len(error.encode()) <= 4096
        assert "\0" not in error

    async def test_an_exception_without_a_text_that_can_be_had_is_recorded_by_its_type(self, store: Any) -> None:
        class MuteError(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        run = Bound(store)
        with pytest.raises(MuteError):
            await run.step("node", failing(MuteError()))
        assert "MuteError" in str((await run.attempts())[0].error)

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
    def test_an_interruption_leaves_none(self, interruption: type[BaseException]) -> None:
        with ContextStore(":memory:") as store:
            run = store.run("run")
            with pytest.raises(interruption):
                run.step("node", failing(interruption()))
            assert run.attempts() == []

    async def test_a_cancellation_leaves_none(self) -> None:
        async with AsyncContextStore(":memory:") as store:
            begun = asyncio.Event()

            async def wait() -> None:
                begun.set()
                await asyncio.sleep(60)

            task = asyncio.ensure_future(store.run("run").step("node", wait))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await store.run("run").attempts() == []


class TestWhatCannotBeRecorded:
    async def test_the_functions_own_exception_is_raised_all_the_same_and_says_so(self, store: Any) -> None:
        run = Bound(store)
        await run.put("first", 1)
        error = ValueError("the function's")
        held = Held(store, error)
        (step,) = spawn(run.step("node", held.factory))
        await held.has_begun()
        await store.delete_run("run")
        held.release()
        assert await outcomes_of([step]) == [error]
        assert "could not be recorded" in error.__notes__[0]
        assert "RunDeletedError" in error.__notes__[0]
        assert error.__notes__[1] == "in step 'node' of flow run 'run'"

    async def test_of_a_deleted_run_or_output_nothing_is_called(self, store: Any) -> None:
        run = Bound(store)
        await run.step("node", lambda: 1)
        await store.delete_outputs("run", ["node"])
        with pytest.raises(OutputDeletedError):
            await run.step("node", lambda: pytest.fail("called"))
        await store.delete_run("run")
        with pytest.raises(RunDeletedError):
            await run.step("node", lambda: 1)


class TestInputs:
    async def test_a_replay_with_the_same_is_a_replay_and_with_others_an_error(self, store: Any) -> None:
        run = Checked(store)
        for _ in range(2):
            assert await run.step("node", same, 1, [2, {"b": 1, "a": (2,)}], k=Point(3)) == 1
            assert await run.step("node", same, 1, [2, {"a": [2], "b": 1}], k={"x": 3}) == 1
        (attempt,) = await run.attempts()
        for args, kwargs in [((1,), {}), ((1.0, [2, {"a": [2], "b": 1}]), {"k": {"x": 3}}), ((1, 2), {"j": {"x": 3}})]:
            with pytest.raises(InputsChangedError) as caught:
                await run.step("node", same, *args, **kwargs)
            error = caught.value
            assert (error.flow_run_id, error.node_id, error.recorded) == ("run", "node", attempt.inputs)
            assert len(error.given) == 64
            assert error.given != error.recorded
        assert len(await run.attempts()) == 1

    @pytest.mark.usefixtures("shared_target")
    async def test_another_object_compares_with_what_is_stored(self, make_store: Target) -> None:
        async with make_store() as store:
            await Checked(store).step("node", same, 1)
        async with make_store() as store:
            assert await Checked(store).step("node", same, 1) == 1
            with pytest.raises(InputsChangedError):
                await Checked(store).step("node", same, 2)
            assert await Bound(store).step("node", same, 2) == 1

    async def test_who_joins_with_others_is_told(self, store: Any) -> None:
        held = Held(store, "done")

        def fn(_: int) -> Any:
            return held.factory()

        first, joined, other = spawn(*(Checked(store).step("node", fn, n) for n in (1, 1, 2)))
        await until(lambda: waiters(store) == 2)
        held.release()
        outcomes = await outcomes_of([first, joined, other])
        computed = [outcome for outcome in outcomes if outcome == "done"]
        told = [outcome for outcome in outcomes if isinstance(outcome, InputsChangedError)]
        assert len(computed) + len(told) == 3
        assert told

    async def test_a_failure_is_recorded_with_them(self, store: Any) -> None:
        run = Checked(store)
        with pytest.raises(ValueError):
            await run.step("node", failing(ValueError()), 1)
        await run.step("node", same, 1)
        failed, made = await run.attempts()
        assert failed.inputs == made.inputs is not None

    async def test_an_output_without_a_digest_is_returned(self, store: Any) -> None:
        await Bound(store).step("step", same, 1)
        await store.put("run", "put", 1)
        run = Checked(store)
        assert [await run.step(node, same, 2) for node in ("step", "put")] == [1, 1]

    async def test_what_the_function_does_to_its_arguments_does_not_matter(self, store: Any) -> None:
        def consume(items: list[int]) -> int:
            return sum(items.pop() for _ in range(len(items)))

        for _ in range(2):
            assert await Checked(store).step("node", consume, [1, 2]) == 3

    async def test_a_partials_count_and_self_does_not(self, store: Any) -> None:
        run = Checked(store)
        assert await run.step("node", functools.partial(same, 1, k=2), 3) == 1
        assert await run.step("node", same, 1, 3, k=2) == 1
        assert await run.step("node", functools.partial(functools.partial(same, 1), 3, k=5), k=2) == 1
        with pytest.raises(InputsChangedError):
            await run.step("node", functools.partial(same, 1, k=3), 3)
        assert await run.step("method", Point(1).plus, 1) == 2
        assert await run.step("method", Point(5).plus, 1) == 2

    async def test_bytes_are_an_argument_as_a_whole(self, store: Any) -> None:
        run = Checked(store)
        assert [await run.step("node", len, b"abc") for _ in range(2)] == [3, 3]
        for other in (b"abd", "abc"):
            with pytest.raises(InputsChangedError):
                await run.step("node", len, other)

    async def test_arguments_without_a_json_form_are_refused_before_anything_is_called(self, store: Any) -> None:
        run = Checked(store)
        for args, kwargs, named in [((1, {2}), {}, "argument 2"), ((), {"k": [object()]}, "argument 'k'")]:
            with pytest.raises(SerializationError, match=named):
                await run.step("node", lambda *_, **__: pytest.fail("called"), *args, **kwargs)
        assert await run.attempts() == []

    async def test_encode_default_is_asked(self, make_store: Target) -> None:
        async with make_store(encode_default=sorted) as store:
            run = Checked(store)
            assert await run.step("node", same, 1, {3, 2}) == 1
            assert await run.step("node", same, 1, [2, 3]) == 1

    async def test_a_fork_keeps_the_digest(self, store: Any) -> None:
        await Checked(store).step("node", same, 1)
        await store.fork_run("run", new_flow_run_id="fork")
        with pytest.raises(InputsChangedError):
            await Checked(store, "fork").step("node", same, 2)

    @pytest.mark.parametrize("value", [1, None, "yes"])
    async def test_what_is_no_bool_is_refused(self, store: Any, value: Any) -> None:
        with pytest.raises(TypeError, match="check_inputs"):
            getattr(store, "plain", store).run("run", check_inputs=value)
