"""Any loop: asyncio, uvloop or trio, one after the other, and none of them leaves anything."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import pathlib
import threading
import time
from typing import Any

import anyio
import pytest
import trio

from contextstore import AsyncContextStore, ContextStore, RunDeletedError, StoreClosedError, WrongLoopError, copy

from ..support.doubles import Gate, core_of, queued
from ..support.processes import run
from .loops import (  # noqa: F401 - fixtures
    KINDS,
    Hang,
    Stop,
    assert_nothing_is_left,
    each_backend,
    flights,
    loop_in_thread,
    on_each_loop,
    run_on,
    store_for_any_loop,
    until,
)


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
            async with contextlib.aclosing(store.watch("run")) as outputs:
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


class TestCancelScopes:
    @on_each_loop
    async def test_a_put_that_is_cancelled_while_it_is_queued_is_withdrawn(self, store: AsyncContextStore) -> None:
        await store.open()
        gate = Gate(store)
        async with anyio.create_task_group() as group:
            group.start_soon(store.put, "run", "taken", 1)
            await until(lambda: gate.arrived.acquire(blocking=False))
            with anyio.move_on_after(0.3) as scope:
                await store.put("run", "queued", 2)
            assert scope.cancelled_caught
            gate.open()
        await until(lambda: not queued(store))
        assert await store.list_keys("run") == ["taken"]

    @on_each_loop
    async def test_one_that_is_taken_already_is_finished_in_the_background(self, store: AsyncContextStore) -> None:
        await store.open()
        gate = Gate(store)
        with anyio.move_on_after(0.3) as scope:
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
        with anyio.move_on_after(0.3) as scope:
            await store.get("run", "node")
        assert scope.cancelled_caught
        released.set()
        assert await store.get("run", "node") == 1

    @on_each_loop
    async def test_a_wait_that_is_cancelled_is_no_subscription_any_more(self, store: AsyncContextStore) -> None:
        with anyio.move_on_after(0.3) as scope:
            await store.wait_for("run", "never")
        assert scope.cancelled_caught
        await until(lambda: core_of(store)._session.subscriptions._all() == [])

    @on_each_loop
    async def test_a_step_that_is_cancelled_ends_its_factory_before_it_returns(self, store: AsyncContextStore) -> None:
        hang = Hang()
        scope = anyio.CancelScope()

        async def ask() -> None:
            with scope:
                await store.get_or_put("run", "node", hang)

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await until(lambda: hang.begun)
            scope.cancel()
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
    async def test_of_a_backup_that_is_cancelled_nothing_is_left(
        self, store: AsyncContextStore, tmp_path: pathlib.Path
    ) -> None:
        await store.put("run", "node", b"x" * 100_000)
        folder, held = tmp_path / "copies", threading.Event()
        folder.mkdir()
        engine: Any = core_of(store)._session.engine
        backup = engine.backup

        def held_at_each_step(path: str, report: Any, *options: bool) -> Any:
            return backup(path, lambda *pages: (held.wait(30), report(*pages))[1], *options)

        engine.backup = held_at_each_step
        async with anyio.create_task_group() as group:
            group.start_soon(store.backup, folder / "copy.db")
            await until(lambda: list(folder.iterdir()))
            threading.Timer(0.1, held.set).start()
            group.cancel_scope.cancel()
        assert list(folder.iterdir()) == []

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
            callers, queues = store._core.session.callers, store._core.backend.updates._queues
            say(dict(callers._timers), callers._flights.by_key, queues)
            asyncio.run(store.close())
        """
        assert run(program, file_path) == ["1 2", "{} {} {}"]


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
