"""Observers and what nobody awaits or iterates over any more: told where nothing is held, and nothing kept alive."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import logging
import pathlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, InvalidKeyError, Observer, WrongLoopError
from contextstore.observers import CommitEvent, OperationEvent

from ..contract.test_observers import Recorder


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_an_iteration_that_fails_leaves_nothing_to_the_collector() -> None:
    with ContextStore(":memory:", observers=[Recorder()]) as store:

        def fail() -> weakref.ref[Exception] | None:
            try:
                list(store.iter_outputs("\0"))
            except InvalidKeyError as error:
                return weakref.ref(error)
            return None

        failed = fail()
        assert failed is not None
        assert failed() is None


async def test_a_call_that_is_closed_in_another_context_ends_quietly_and_is_told_with_the_next_one() -> None:
    recorder = Recorder()
    async with AsyncContextStore(":memory:", observers=[recorder]) as store:
        call = store.wait_for("run", "never")
        contextvars.copy_context().run(call.send, None)
        call.close()  # as when it is collected, after its loop
        assert recorder.operations == []
        await store.get("run", "a")
    assert [(event.operation, event.error) for event in recorder.operations] == [
        ("wait_for", "GeneratorExit"),
        ("get", None),
    ]


@pytest.mark.usefixtures("no_collector")
def test_an_iteration_that_is_collected_within_an_observer_is_told_after_that() -> None:
    class Locking(Recorder):
        """Holds a lock that is not reentrant, as exporters do, and allocates meanwhile."""

        lock = threading.Lock()

        def on_operation(self, event: OperationEvent, /) -> None:
            assert self.lock.acquire(blocking=False), "it is called in the middle of itself"
            try:
                super().on_operation(event)
                if event.operation == "get":
                    gc.collect()
            finally:
                self.lock.release()

    observer = Locking()
    with ContextStore(":memory:", observers=[observer]) as store:
        store.put_many("run", {"a": 1, "b": 2})
        ring: list[Any] = [store.iter_outputs("run")]
        next(ring[0])
        ring.append(ring)
        del ring
        store.get("run", "a")
        store.get("run", "b")
        assert store.counters().troubles == {}
    assert [event.operation for event in observer.operations] == ["put_many", "get", "iter_outputs", "get"]


def test_an_iteration_that_is_left_in_another_thread_is_told_with_the_next_call() -> None:
    recorder = Recorder()
    with ContextStore(":memory:", observers=[recorder]) as store:
        store.put_many("run", {"a": 1, "b": 2})
        outputs: Any = store.iter_outputs("run")
        next(outputs)
        leaving = threading.Thread(target=outputs.close)
        leaving.start()
        leaving.join(60)
        store.get("run", "a")
    told = [(event.operation, event.items, event.error) for event in recorder.operations]
    assert told == [("put_many", 2, None), ("iter_outputs", 1, None), ("get", None, None)]


def test_a_log_handler_is_refused_the_store_whose_observer_has_logged(file_path: pathlib.Path) -> None:
    class Opening(Observer):
        """Opens another store, which logs, in the thread of this one's that has committed."""

        def on_commit(self, event: CommitEvent, /) -> None:
            with ContextStore(file_path):
                pass

    class Putting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with contextlib.suppress(WrongLoopError):
                store.put("log", record.getMessage(), 1, exist_ok=True)
                stored.append(record.getMessage())

    stored: list[str] = []
    logger, handler = logging.getLogger("contextstore"), Putting()
    with ContextStore(":memory:", observers=[Opening()]) as store:
        before = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            store.put("run", "a", 1)
            store.delete_global("none")  # behind the observer: what it has logged is handled
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before)
    assert stored == []
