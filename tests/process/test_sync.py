"""ContextStore: called from any thread, the store's own among them.

What the two faces have in common is tested once for both, in tests/contract.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contextstore import AsyncContextStore, ContextStore, StorageError, WrongLoopError

from ..support.doubles import Gate, core_of, fail, queued
from .threads import HANG, in_thread, open_files, own_threads, run_threads, wait_until


def test_writes_of_many_threads_share_commits(store: ContextStore) -> None:
    gate = Gate(store)
    threads = [threading.Thread(target=store.put, args=("run", f"{i}", i)) for i in range(21)]
    threads[0].start()
    assert gate.arrived.acquire(timeout=HANG)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: queued(store) == 20)
    gate.open()
    for thread in threads:
        thread.join(HANG)
    assert gate.groups == [1, 20]
    assert store.get_run("run") == {f"{i}": i for i in range(21)}


def test_threads_that_write_without_pause_share_commits(store: ContextStore) -> None:
    gate = Gate(store)
    gate.open()

    def work(number: int) -> None:
        for i in range(50):
            store.put("run", f"{number}-{i}", i)

    assert run_threads(work, 8) == [None] * 8
    assert len(store.list_keys("run")) == sum(gate.groups) == 400
    assert len(gate.groups) < 300


def test_it_may_be_called_from_a_coroutine(store: ContextStore) -> None:
    async def cell_of_a_notebook() -> Any:
        store.put("run", "node", 1)
        return store.get("run", "node"), store.list_keys("run")

    assert asyncio.run(cell_of_a_notebook()) == (1, ["node"])


def test_it_may_be_opened_and_closed_in_a_coroutine(file_path: pathlib.Path) -> None:
    async def cell_of_a_notebook() -> Any:
        with ContextStore(file_path) as store:
            store.put("run", "node", 1)
            return store.get_run("run")

    assert asyncio.run(cell_of_a_notebook()) == {"node": 1}


def test_it_may_be_called_from_worker_threads_of_a_loop(store: ContextStore) -> None:
    async def main() -> None:
        await asyncio.gather(*(asyncio.to_thread(store.put, "run", f"{i}", i) for i in range(20)))

    asyncio.run(main())
    assert len(store.list_keys("run")) == 20


def test_it_may_be_called_from_an_executor_and_from_a_daemon_thread(store: ContextStore) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda i: store.put("run", f"{i}", i), range(40)))
        assert list(executor.map(lambda i: store.get("run", f"{i}"), range(40))) == list(range(40))
    in_thread(lambda: store.put("run", "daemon", 1), daemon=True)
    assert store.get("run", "daemon") == 1


def test_it_may_be_used_and_closed_by_other_threads_than_the_one_that_opened_it(file_path: pathlib.Path) -> None:
    store = ContextStore(file_path)
    in_thread(store.open)
    in_thread(lambda: store.put("run", "node", 1))
    assert in_thread(lambda: store.get("run", "node")) == 1
    in_thread(store.close)
    assert (own_threads(file_path), open_files(file_path)) == ([], [])


def test_an_async_store_and_a_blocking_one_share_a_file_within_a_process(file_path: pathlib.Path) -> None:
    async def main() -> None:
        async with AsyncContextStore(file_path) as one:
            with ContextStore(file_path) as other:
                for i in range(20):
                    await one.put("run", f"async {i}", i)
                    other.put("run", f"sync {i}", i)
                    assert other.get("run", f"async {i}") == await one.get("run", f"sync {i}") == i

    asyncio.run(main())


def outcomes_on_own_thread(store: ContextStore, post: Callable[[Any], None]) -> dict[str, Any]:
    """What each call gives when it is made by a job on a thread of the store's."""
    calls: dict[str, Callable[[], Any]] = {
        "open": store.open,
        "put": lambda: store.put("run", "new", 1),
        "get": lambda: store.get("run", "missing"),
        "get, cached": lambda: store.get("run", "there"),
        "list_keys": lambda: store.list_keys("run"),
        "upsert_global": lambda: store.upsert_global("key", 1),
        "close": store.close,
    }
    outcomes: dict[str, Any] = {}
    done = threading.Event()

    async def job() -> None:
        for name, call in calls.items():
            try:
                outcomes[name] = call()
            except Exception as error:
                outcomes[name] = error
        done.set()

    post(job)
    assert done.wait(HANG)
    return outcomes


@pytest.mark.parametrize("where", ["post_read", "post_write", "host"])
def test_a_call_from_a_thread_of_the_stores_own_is_refused_at_once(where: str, store: ContextStore) -> None:
    store.put("run", "there", 1)
    core = core_of(store)
    assert core._session.host is not None
    post: Any = core._session.host.call if where == "host" else getattr(core._session.engine, where)
    outcomes = outcomes_on_own_thread(store, post)
    assert {name: type(outcome) for name, outcome in outcomes.items()} == dict.fromkeys(outcomes, WrongLoopError)
    assert "a thread of its own" in str(outcomes["put"])
    store.put("run", "new", 1)


class CallingHandler(logging.Handler):
    """A logging handler that keeps its records in the store that logs them, and lets nothing be swallowed."""

    def __init__(self, store: Any) -> None:
        super().__init__()
        self.store = store
        self.raised: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.store.put("log", f"{id(record)}", record.getMessage())
        except BaseException as error:
            self.raised.append(error)
            raise


@pytest.fixture
def calling_handler(store: ContextStore) -> Iterator[CallingHandler]:
    handler = CallingHandler(store)
    logger = logging.getLogger("contextstore")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.mark.parametrize("call", ["acquire_write", "commit", "maintain", "fetch"])
def test_a_logging_handler_that_calls_the_store_and_raises_leaves_nobody_waiting(
    call: str, store: ContextStore, calling_handler: CallingHandler
) -> None:
    store.put("run", "there", 1)
    fail(store, call, *[ZeroDivisionError("a bug")] * 8)

    def work(number: int) -> None:
        store.put("run", f"{number}", number)
        store.get("run", f"missing {number}")

    outcomes = run_threads(work, 4)
    assert all(outcome is None or isinstance(outcome, StorageError) for outcome in outcomes)
    delattr(core_of(store)._session.engine, call)  # what fail() has put there: from now on it does what it does
    wait_until(lambda: not core_of(store)._session.writer._drains._posted)
    store.upsert_global("after", 1)
    assert store.get("run", "there") == 1
    assert calling_handler.raised
    assert {type(error) for error in calling_handler.raised} == {WrongLoopError}


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_whatever_a_commit_raises_its_callers_are_told_and_the_writer_goes_on(
    error: BaseException, store: ContextStore
) -> None:
    fail(store, "commit", error)
    outcomes = run_threads(lambda number: store.put("run", f"{number}", number), 4)
    assert all(outcome is None or isinstance(outcome, StorageError) for outcome in outcomes)
    assert any(isinstance(outcome, StorageError) for outcome in outcomes)
    store.put("run", "after", 1)


def test_an_error_at_the_end_of_a_turn_leaves_nobody_waiting(store: ContextStore) -> None:
    engine: Any = core_of(store)._session.engine
    release_write, failures = engine.release_write, [OSError("a bug")]

    def failing() -> None:
        release_write()
        if failures:
            raise failures.pop()

    engine.release_write = failing
    assert in_thread(lambda: store.put("run", "node", 1), daemon=True) is None
    assert store.get("run", "node") == 1
    store.put("run", "after", 1)
