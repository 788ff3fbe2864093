"""AtomicWriter: completes what is written, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import pathlib
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from contextstore import (
    AlreadyExistsError,
    AsyncContextStore,
    AtomicWriter,
    CompletionFailedError,
    ContextStore,
    InvalidKeyError,
    StorageError,
    StoreClosedError,
    WriteFailedError,
    errors,
)

from ..conftest import Target
from ..support.doubles import Gate, fail
from ..support.trio_face import InTrio


@pytest.fixture
def store(file_path: pathlib.Path) -> Iterator[ContextStore]:
    with ContextStore(file_path) as store:
        yield store


async def write_and_complete(store: Any, *arguments: Any) -> Any:
    """AtomicWriter's call, on either face."""
    if isinstance(store, AsyncContextStore):
        return await AtomicWriter(store).write_and_complete(*arguments)
    if isinstance(store, InTrio):
        return await store.made(AtomicWriter).write_and_complete(*arguments)
    return await asyncio.to_thread(AtomicWriter(store.plain).write_and_complete, *arguments)


class TestAtomicWriter:
    """``store`` here is the one of conftest, of each face and engine."""

    @pytest.fixture
    async def store(self, make_store: Target) -> Any:
        async with make_store() as store:
            yield store

    async def test_complete_is_called_once_and_its_result_returned(self, store: Any) -> None:
        calls: list[int] = []

        def complete() -> str:
            calls.append(1)
            return "done"

        assert await write_and_complete(store, "run", "node", {"rows": 3}, complete) == "done"
        assert calls == [1]
        assert await store.get("run", "node") == {"rows": 3}

    @pytest.mark.usefixtures("embedded")
    async def test_the_output_is_in_the_file_when_complete_is_called(
        self, make_store: Target, shared_target: None
    ) -> None:
        seen: list[Any] = []

        def complete() -> None:
            with contextlib.closing(sqlite3.connect(make_store.location)) as other:
                seen.extend(other.execute("SELECT node_id, value FROM outputs").fetchall())

        async with make_store() as store:
            await write_and_complete(store, "run", "node", [1, 2], complete)
        assert seen == [("node", "[1,2]")]

    async def test_complete_is_not_called_before_the_commit_is_done(self, store: Any) -> None:
        gate = Gate(store)
        calls: list[int] = []
        task = asyncio.ensure_future(write_and_complete(store, "run", "node", 1, lambda: calls.append(1)))
        await gate.wait_for_arrival()
        assert not calls
        gate.open()
        await task
        assert calls == [1]

    @pytest.mark.parametrize("value", [{"a": 1, "b": 2}, {"b": 2, "a": 1}])
    @pytest.mark.each_input_once
    async def test_where_an_equal_output_is_there_complete_is_called_and_nothing_logged(
        self, store: Any, value: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.put("run", "node", {"a": 1, "b": 2})
        assert await write_and_complete(store, "run", "node", value, lambda: "done") == "done"
        assert not caplog.records

    async def test_where_a_different_output_is_there_it_stands_complete_is_called_and_a_warning_logged(
        self, store: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.put("run", "node", 1)
        assert await write_and_complete(store, "run", "node", 2, lambda: "done") == "done"
        assert await store.get("run", "node") == 1
        (record,) = caplog.records
        assert (record.levelname, record.name) == ("WARNING", "contextstore")
        assert "'node'" in record.getMessage()
        assert "'run'" in record.getMessage()

    async def test_where_the_write_fails_complete_is_not_called_and_the_cause_is_told(self, store: Any) -> None:
        calls: list[int] = []
        broken = StorageError("the disk is on fire")
        fail(store, "commit", broken)
        with pytest.raises(WriteFailedError, match="the disk is on fire") as caught:
            await write_and_complete(store, "run", "node", 1, lambda: calls.append(1))
        assert not calls
        assert isinstance(caught.value.__cause__, StorageError)
        assert (caught.value.flow_run_id, caught.value.node_id) == ("run", "node")
        assert await write_and_complete(store, "run", "node", 1, lambda: "done") == "done"

    @pytest.mark.parametrize(
        ("arguments", "cause"),
        [
            (("run", "", 1), InvalidKeyError),
            (("run", "node", {1, 2}), errors.SerializationError),
            (("deleted", "node", 1), errors.RunDeletedError),
        ],
    )
    @pytest.mark.each_input_once
    async def test_a_write_that_is_refused_is_a_write_that_failed(
        self, store: Any, arguments: Any, cause: type[Exception]
    ) -> None:
        await store.delete_run("deleted")
        with pytest.raises(WriteFailedError) as caught:
            await write_and_complete(store, *arguments, lambda: pytest.fail("complete was called"))
        assert isinstance(caught.value.__cause__, cause)

    async def test_a_closed_store_completes_nothing(self, store: Any) -> None:
        await store.put("run", "node", 1)
        await store.close()
        with pytest.raises(WriteFailedError) as caught:
            await write_and_complete(store, "run", "node", 1, lambda: pytest.fail("complete was called"))
        assert isinstance(caught.value.__cause__, StoreClosedError)

    async def test_where_complete_raises_the_output_stays(self, store: Any) -> None:
        def complete() -> None:
            raise ZeroDivisionError("no flow")

        with pytest.raises(CompletionFailedError, match="no flow") as caught:
            await write_and_complete(store, "run", "node", 1, complete)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert await store.get("run", "node") == 1
        assert await write_and_complete(store, "run", "node", 1, lambda: "done") == "done"

    async def test_an_error_of_the_stores_own_from_complete_is_a_completion_that_failed(self, store: Any) -> None:
        def complete() -> None:
            raise AlreadyExistsError("run", "other", True)

        with pytest.raises(CompletionFailedError):
            await write_and_complete(store, "run", "node", 1, complete)

    async def test_complete_may_use_the_store(self, store: Any) -> None:
        plain = getattr(store, "plain", store)

        async def with_await() -> Any:
            await plain.put("run", "next", 2)
            return await plain.get("run", "node")

        def blocking() -> Any:
            plain.put("run", "next", 2)
            return plain.get("run", "node")

        complete = with_await if plain is store else blocking
        assert await write_and_complete(store, "run", "node", 1, complete) == 1
        assert await store.list_keys("run") == ["next", "node"]

    async def test_many_at_once_complete_each_once(self, store: Any) -> None:
        calls: list[int] = []
        await asyncio.gather(
            *(write_and_complete(store, "run", f"{i % 10}", i % 10, lambda i=i: calls.append(i)) for i in range(40))
        )
        assert sorted(calls) == list(range(40))
        assert len(await store.list_keys("run")) == 10


class TestAtomicWriterOnTheAsyncFace:
    async def test_complete_may_be_a_coroutine_function_or_return_something_to_be_awaited(
        self, file_path: pathlib.Path
    ) -> None:
        async def complete() -> str:
            await asyncio.sleep(0)
            return "done"

        async with AsyncContextStore(file_path) as store:
            writer = AtomicWriter(store)
            assert await writer.write_and_complete("run", "1", 1, complete) == "done"
            assert await writer.write_and_complete("run", "2", 1, lambda: complete()) == "done"
            future = asyncio.get_running_loop().create_future()
            future.set_result("done")
            assert await writer.write_and_complete("run", "3", 1, lambda: future) == "done"

    async def test_complete_runs_in_the_calling_task(self, file_path: pathlib.Path) -> None:
        async def complete() -> Any:
            return asyncio.current_task()

        async with AsyncContextStore(file_path) as store:
            assert await AtomicWriter(store).write_and_complete("run", "1", 1, complete) is asyncio.current_task()

    async def test_a_coroutine_function_that_raises_is_a_completion_that_failed(self, file_path: pathlib.Path) -> None:
        async def complete() -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError

        async with AsyncContextStore(file_path) as store:
            with pytest.raises(CompletionFailedError):
                await AtomicWriter(store).write_and_complete("run", "1", 1, complete)

    async def test_cancelled_during_the_write_nothing_is_completed(self, file_path: pathlib.Path) -> None:
        async with AsyncContextStore(file_path) as store:
            gate = Gate(store)
            task = asyncio.ensure_future(
                AtomicWriter(store).write_and_complete("run", "1", 1, lambda: pytest.fail("complete was called"))
            )
            await gate.wait_for_arrival()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.open()

    async def test_cancelled_during_the_completion_the_output_stays_and_the_cancellation_passes(
        self, file_path: pathlib.Path
    ) -> None:
        begun = asyncio.Event()

        async def complete() -> None:
            begun.set()
            await asyncio.Event().wait()

        async with AsyncContextStore(file_path) as store:
            task = asyncio.ensure_future(AtomicWriter(store).write_and_complete("run", "1", 1, complete))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await store.get("run", "1") == 1


class TestAtomicWriterOnTheBlockingFace:
    def test_a_coroutine_function_is_refused_and_nothing_written(self, store: ContextStore) -> None:
        async def complete() -> None: ...

        with pytest.raises(TypeError, match="AsyncContextStore"):
            AtomicWriter(store).write_and_complete("run", "node", 1, complete)
        assert store.list_keys("run") == []

    @pytest.mark.parametrize("seconds", [0, 0.001])
    def test_what_returns_something_to_be_awaited_is_a_completion_that_failed(
        self, seconds: float, store: ContextStore
    ) -> None:
        made: list[Any] = []

        def complete() -> Any:
            made.append(asyncio.sleep(seconds))
            return made[0]

        with pytest.raises(CompletionFailedError) as caught:
            AtomicWriter(store).write_and_complete("run", "node", 1, complete)
        assert isinstance(caught.value.__cause__, TypeError)
        assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED
        assert store.get("run", "node") == 1

    def test_an_interrupt_during_the_completion_passes_and_the_output_stays(self, store: ContextStore) -> None:
        def complete() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            AtomicWriter(store).write_and_complete("run", "node", 1, complete)
        assert store.get("run", "node") == 1

    def test_complete_runs_in_the_calling_thread(self, store: ContextStore) -> None:
        here = threading.current_thread()
        assert AtomicWriter(store).write_and_complete("run", "node", 1, threading.current_thread) is here

    def test_it_takes_a_store_and_nothing_else(self) -> None:
        with pytest.raises(TypeError, match="AsyncContextStore or a ContextStore"):
            AtomicWriter("flows.db")  # type: ignore[type-var]
