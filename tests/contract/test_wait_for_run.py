"""``wait_for_run``: told of a run's state by whichever process says it, and of its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contextstore import RunDeletedError, StoreClosedError

from ..conftest import Target
from ..support.forked import Child
from .followed import called
from .waiting import outcomes_of, spawn, subscriptions, waiting

pytestmark = pytest.mark.usefixtures("nobody_is_left_waiting")


class TestWhatIsThere:
    async def test_a_run_in_one_of_the_states_is_given_at_once(self, store: Any) -> None:
        await called(store, "begin", "run", attributes={"team": "a"}, parent="above")
        ended = await called(store, "update", "run", state="failed", error="no luck")
        assert await store.wait_for_run("run", timeout=0) == ended
        assert await called(store, "wait_for_run", "run", state=["open", "failed"], timeout=0) == ended
        assert (ended.state, ended.error, ended.attributes, ended.parent) == (
            "failed",
            "no luck",
            {"team": "a"},
            "above",
        )
        assert subscriptions(store) == []

    async def test_one_that_has_outputs_alone_is_open(self, store: Any) -> None:
        await store.put("run", "a", 1)
        assert (await store.wait_for_run("run", state="open", timeout=0)).outputs == 1

    async def test_another_state_is_waited_for_as_long_as_was_said(self, store: Any) -> None:
        await called(store, "begin", "run")
        for timeout in (0, 0.05):
            with pytest.raises(TimeoutError, match=r"'run' was not completed or failed or cancelled within"):
                await store.wait_for_run("run", timeout=timeout)
        with pytest.raises(TimeoutError, match="'none' was not open within"):
            await store.wait_for_run("none", state="open", timeout=0.01)

    @pytest.mark.parametrize("state", ["done", "deleted", "", [], ["open", "OPEN"]])
    @pytest.mark.each_input_once
    async def test_what_is_no_state_is_refused(self, store: Any, state: Any) -> None:
        with pytest.raises(ValueError, match="state must be"):
            await store.wait_for_run("run", state=state, timeout=0)

    @pytest.mark.parametrize("state", [None, 1, [None], b"open"])
    @pytest.mark.each_input_once
    async def test_nor_is_anything_but_names(self, store: Any, state: Any) -> None:
        with pytest.raises(TypeError, match="state must be"):
            await store.wait_for_run("run", state=state, timeout=0)

    @pytest.mark.parametrize("timeout", ["1", True, b""])
    @pytest.mark.each_input_once
    async def test_a_timeout_is_a_number(self, store: Any, timeout: Any) -> None:
        with pytest.raises(TypeError, match="timeout"):
            await store.wait_for_run("run", timeout=timeout)


class TestWhatIsSaid:
    @pytest.mark.each_pair
    async def test_by_any_object_is_told(self, pair: tuple[Any, Any]) -> None:
        waits, writes = pair
        (waiter,) = spawn(waits.wait_for_run("run"))
        await waiting(waits)
        await called(writes, "begin", "run")
        await writes.put("run", "a", 1)
        await called(writes, "update", "run", attributes={"step": 1})
        ended = await called(writes, "update", "run", state="completed")
        assert await outcomes_of([waiter]) == [ended]

    async def test_outputs_of_the_run_wake_nobody(self, store: Any) -> None:
        (waiter,) = spawn(store.wait_for_run("run"))
        await waiting(store)
        (subscription,) = subscriptions(store)
        woken = []
        subscription.nodes = type("Nodes", (), {"append": lambda _, node: woken.append(node), "__len__": lambda _: 0})()
        for number in range(10):
            await store.put("run", str(number), 1)
        await called(store, "update", "run", state="cancelled")
        assert (await outcomes_of([waiter]))[0].state == "cancelled"
        assert woken == []

    async def test_each_waits_for_the_state_that_it_asked_for(self, store: Any) -> None:
        states = ["open", "completed", "failed", "cancelled"]
        waiters = spawn(*(store.wait_for_run("run", state=state) for state in states))
        await waiting(store, 4)
        for number, state in enumerate(states):
            await called(store, "update", "run", state=state)
            assert (await outcomes_of([waiters[number]]))[0].state == state

    async def test_hundreds_who_wait_for_as_many_runs_are_each_told_of_their_own(self, store: Any) -> None:
        names = [f"run-{number}" for number in range(60)]
        waiters = spawn(*(store.wait_for_run(name) for name in names))
        await waiting(store, 60)
        for name in reversed(names):
            await called(store, "update", name, state="completed")
        assert [info.flow_run_id for info in await outcomes_of(waiters)] == names

    @pytest.mark.usefixtures("shared_target")
    async def test_by_another_process_is_told(self, make_store: Target) -> None:
        program = """
            with ContextStore(sys.argv[1]) as store:
                say("open")
                for _ in sys.stdin:
                    store.run("run").update(state="completed")
                    say("said")
        """
        async with make_store() as store:
            with Child(program, make_store.location) as child:
                assert await asyncio.to_thread(child.hear) == "open"
                (waiter,) = spawn(store.wait_for_run("run"))
                await waiting(store)
                child.tell()
                assert (await outcomes_of([waiter]))[0].state == "completed"
                assert child.hear() == "said"


class TestItsEnd:
    async def test_a_deleted_run_is_refused(self, store: Any) -> None:
        await called(store, "begin", "run")
        await store.delete_run("run")
        with pytest.raises(RunDeletedError):
            await store.wait_for_run("run", timeout=0)

    @pytest.mark.parametrize("forget", [False, True])
    @pytest.mark.each_pair
    async def test_one_that_is_deleted_while_it_is_waited_for(self, pair: tuple[Any, Any], forget: bool) -> None:
        waits, writes = pair
        await called(writes, "begin", "run")
        waiters = spawn(waits.wait_for_run("run"), called(waits, "wait_for_run", "run"))
        await waiting(waits, 2)
        await writes.delete_run("run", forget=forget)
        assert [type(outcome) for outcome in await outcomes_of(waiters)] == [RunDeletedError] * 2

    async def test_a_run_object_does_not_wait_for_another_life_of_its_id(self, store: Any) -> None:
        await called(store, "begin", "run")
        run = getattr(store, "plain", store).run("run")
        (waiter,) = spawn(asyncio.to_thread(run.begin) if hasattr(store, "plain") else run.begin())
        await outcomes_of([waiter])
        await store.delete_run("run", forget=True)
        await called(store, "update", "run", state="completed")
        wait = asyncio.to_thread(run.wait_for_run) if hasattr(store, "plain") else run.wait_for_run()
        assert [type(outcome) for outcome in await outcomes_of(spawn(wait))] == [RunDeletedError]
        assert (await store.wait_for_run("run")).state == "completed"

    async def test_closing_the_store_ends_it(self, make_store: Target) -> None:
        store = make_store()
        await store.open()
        (waiter,) = spawn(store.wait_for_run("run"))
        await waiting(store)
        await store.close()
        assert [type(outcome) for outcome in await outcomes_of([waiter])] == [StoreClosedError]

    async def test_a_cancelled_wait_leaves_nothing(self, make_store: Target) -> None:
        tasks_store = make_store()
        if hasattr(tasks_store, "plain"):
            pytest.skip("threads cannot be cancelled")
        await tasks_store.open()
        waiters = spawn(*(tasks_store.wait_for_run(f"run-{number % 3}") for number in range(20)))
        await waiting(tasks_store, 20)
        for waiter in waiters:
            waiter.cancel()
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in await outcomes_of(waiters))
        assert subscriptions(tasks_store) == []
