"""ContextStore: called from any thread, closed under load, interrupted at any instruction. And AtomicWriter.

What the two faces have in common is tested once for both, in test_contract.py and others.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dis
import gc
import inspect
import itertools
import logging
import os
import pathlib
import sqlite3
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
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
    StoreNotFoundError,
    WriteFailedError,
    WrongLoopError,
    errors,
)

from .conftest import Target
from .doubles import Gate, core_of, fail, queued
from .portions import steps

HANG = 60  # seconds after which a call is taken to hang


@pytest.fixture
def store(file_path: pathlib.Path) -> Iterator[ContextStore]:
    with ContextStore(file_path) as store:
        yield store


def run_threads(work: Callable[[int], Any], count: int) -> list[Any]:
    """The result, or the exception, of each of several threads at once. None of them hangs."""
    outcomes: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            outcomes[number] = work(number)
        except BaseException as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert not any(thread.is_alive() for thread in threads)
    return outcomes


def in_thread(work: Callable[[], Any], *, daemon: bool = False) -> Any:
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=daemon)
    thread.start()
    thread.join(HANG)
    return future.result(timeout=0)


def open_files(path: pathlib.Path) -> list[str]:
    """What of the store's files this process has open."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if target.startswith(str(path)):
                found.append(target)
    return found


def own_threads(path: pathlib.Path) -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if str(path) in thread.name or "_connection_worker_thread" in thread.name
    ]


# ------------------------------------------------------------------------------------------------------- from anywhere


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = threading.Event()
    for _ in range(HANG * 1000):
        if condition():
            return
        deadline.wait(0.001)
    raise AssertionError("it did not come to pass")


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


# ----------------------------------------------------------------------------------------- from the store's own threads


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


@pytest.mark.parametrize("where", ["post_read", "post_write", "room"])
def test_a_call_from_a_thread_of_the_stores_own_is_refused_at_once(where: str, store: ContextStore) -> None:
    store.put("run", "there", 1)
    core = core_of(store)
    assert core._host is not None
    post: Any = core._host.call if where == "room" else getattr(core._engine, where)
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
    delattr(core_of(store)._engine, call)  # what fail() has put there: from now on it does what it does
    wait_until(lambda: not core_of(store)._writer._draining)
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
    engine: Any = core_of(store)._engine
    release_write, failures = engine.release_write, [OSError("a bug")]

    def failing() -> None:
        release_write()
        if failures:
            raise failures.pop()

    engine.release_write = failing
    assert in_thread(lambda: store.put("run", "node", 1), daemon=True) is None
    assert store.get("run", "node") == 1
    store.put("run", "after", 1)


# ------------------------------------------------------------------------------------------------------------- the end


def close_with_others_in_calls(store: ContextStore) -> list[str]:
    acknowledged: list[str] = []

    def write() -> None:
        while True:
            node = os.urandom(8).hex()
            store.put("run", node, 1)
            acknowledged.append(node)

    def read() -> None:
        while True:
            store.get("run", "missing")
            store.list_keys("run", prefix="1")
            store.get_global("key")

    def wait() -> None:
        store.wait_for("run", "never")

    def close() -> None:
        wait_until(lambda: len(acknowledged) > 20)
        store.close()

    calls = [write] * 4 + [read] * 3 + [wait, close]
    outcomes = run_threads(lambda number: calls[number](), len(calls))
    assert [type(outcome) for outcome in outcomes] == [StoreClosedError] * 8 + [type(None)]
    return acknowledged


def test_close_with_other_threads_in_calls_ends_each_call_with_a_result_or_an_error(file_path: pathlib.Path) -> None:
    for _ in range(5):
        store = ContextStore(file_path, cache_bytes=0)
        store.open()
        acknowledged = close_with_others_in_calls(store)
        assert (own_threads(file_path), open_files(file_path)) == ([], [])
        with ContextStore(file_path) as again:
            assert set(acknowledged) <= set(again.list_keys("run"))


def test_close_in_several_threads_at_once_returns_in_each_when_all_is_gone(file_path: pathlib.Path) -> None:
    store = ContextStore(file_path)
    store.put("run", "node", 1)

    def close(_: int) -> Any:
        store.close()
        return own_threads(file_path), open_files(file_path)

    assert run_threads(close, 8) == [([], [])] * 8
    store.close()


def test_after_close_every_call_is_refused_and_nothing_is_left(file_path: pathlib.Path) -> None:
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with ContextStore(file_path) as store:
        store.put("run", "node", 1)
        assert store.get("run", "node") == 1
        assert len(open_files(file_path)) >= 4
    calls: list[Callable[[], Any]] = [
        store.open,
        lambda: store.get("run", "node"),
        lambda: store.put("run", "other", 1),
        lambda: store.list_keys("run"),
        lambda: store.get_global("key"),
        lambda: store.stats(),
        lambda: store.__enter__(),
    ]
    for call in calls:
        with pytest.raises(StoreClosedError, match="is closed"):
            call()
    store.close()
    assert (own_threads(file_path), open_files(file_path)) == ([], [])
    assert len(os.listdir("/proc/self/fd")) == files
    assert threading.active_count() <= threads + 1  # the one that watches for the end of the interpreter


def test_a_block_left_by_an_exception_closes_the_store_and_passes_the_exception_on(file_path: pathlib.Path) -> None:
    with pytest.raises(ZeroDivisionError), ContextStore(file_path) as store:  # noqa: PT012
        store.put("run", "node", 1)
        raise ZeroDivisionError
    with pytest.raises(StoreClosedError):
        store.get("run", "node")
    assert (own_threads(file_path), open_files(file_path)) == ([], [])


def test_a_store_that_was_never_opened_closes_and_stays_closed(file_path: pathlib.Path) -> None:
    store = ContextStore(file_path)
    store.close()
    with pytest.raises(StoreClosedError):
        store.open()
    assert not file_path.exists()


def test_close_while_others_open_ends_with_every_call_answered(file_path: pathlib.Path) -> None:
    for _ in range(20):
        store = ContextStore(file_path)
        *outcomes, closed = run_threads(
            lambda number, store=store: store.close() if number == 4 else store.put("run", os.urandom(8).hex(), 1), 5
        )
        assert all(outcome is None or isinstance(outcome, StoreClosedError) for outcome in outcomes)
        assert closed is None
        store.close()
        assert (own_threads(file_path), open_files(file_path)) == ([], [])


def test_a_store_that_is_collected_ends_and_warns(file_path: pathlib.Path) -> None:
    store = ContextStore(file_path)
    store.put("run", "node", 1)
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031
        del store
        gc.collect()
    wait_until(lambda: not own_threads(file_path))
    assert open_files(file_path) == []


def test_a_warning_that_is_an_error_does_not_keep_a_collected_store_from_ending(file_path: pathlib.Path) -> None:
    store = ContextStore(file_path)
    store.put("run", "node", 1)
    unraised: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda args: unraised.append(args.exc_type)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del store
            gc.collect()
    finally:
        sys.unraisablehook = hook
    assert unraised == [ResourceWarning]
    wait_until(lambda: not own_threads(file_path))


# ------------------------------------------------------------------------------------------------------ a failing open


def test_each_thread_that_finds_the_opening_failed_gets_an_error_of_its_own(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "no folder" / "store.db"
    store = ContextStore(path)
    outcomes = run_threads(lambda _: store.put("run", "node", 1), 12)
    assert {type(outcome) for outcome in outcomes} == {StoreNotFoundError}
    assert len({id(outcome) for outcome in outcomes}) == 12
    path.parent.mkdir()
    store.put("run", "node", 1)
    assert store.get("run", "node") == 1
    store.close()


def test_a_failed_opening_leaves_no_thread_and_no_file_open(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database, and long enough to be taken for one by nobody" * 20)
    files = len(os.listdir("/proc/self/fd"))
    store = ContextStore(path)
    for _ in range(3):
        with pytest.raises(errors.StorageError):
            store.open()
    wait_until(lambda: not own_threads(path))
    assert len(os.listdir("/proc/self/fd")) == files
    store.close()


def test_where_no_thread_can_be_had_opening_fails_and_is_tried_anew(
    file_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ContextStore(file_path)
    start, failures = threading.Thread.start, [RuntimeError("can't start new thread")]

    def failing(thread: threading.Thread) -> None:
        if failures and "contextstore" in thread.name:
            raise failures.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", failing)
    with pytest.raises(StorageError, match="can't start new thread"):
        store.open()
    store.put("run", "node", 1)
    store.close()


# ----------------------------------------------------------------------- Ctrl-C at every instruction where it may come

_CHECKS = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "RESUME", "JUMP_BACKWARD"} | {
    f"POP_JUMP_BACKWARD_IF_{what}" for what in ("TRUE", "FALSE", "NONE", "NOT_NONE")
}
"""After these the interpreter looks whether there was a signal (after a call only if it was of a function in C)."""


def at_every_instruction(test: Any) -> Any:
    # From 3.12 on, tracing passes over instructions, differently from run to run.
    skip = pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python does not trace every instruction")
    return pytest.mark.one_python(skip(test))


class Interrupt:
    """Raises KeyboardInterrupt at one of the places where a signal could: the n-th that the thread comes by."""

    def __init__(self, at: int) -> None:
        self._left = at
        self._before: dict[types.FrameType, str | None] = {}
        self.where: str | None = None
        self.raised: BaseException | None = None

    def run(self, call: Callable[[], Any]) -> Any:
        gc.collect()  # and not meanwhile: what a collected store does would be traced, and what it raises is swallowed
        gc.disable()
        try:
            sys.settrace(self._enter)
            try:
                return call()
            finally:
                sys.settrace(None)
                self._before.clear()
                gc.enable()
        except KeyboardInterrupt as error:
            self.raised = error  # kept, with its traceback and frames, as an interactive session keeps it

    def _enter(self, frame: types.FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename.endswith(
            "_weakrefset.py"
        ):  # called by the collector, which swallows what is raised
            return None
        caller = frame.f_back
        if caller in self._before:
            self._before[caller] = None
        self._before[frame] = None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: types.FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            before, self._before[frame] = self._before[frame], _names(frame.f_code)[frame.f_lasti]
            if before in _CHECKS:
                self._left -= 1
                if self._left < 0:
                    sys.settrace(None)
                    self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                    raise KeyboardInterrupt
        return self._step


def _names(code: types.CodeType, cache: dict[types.CodeType, dict[int, str]] = {}) -> dict[int, str]:  # noqa: B006
    if code not in cache:
        cache[code] = {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}
    return cache[code]


def interruptions(call: Callable[[int], Any]) -> Iterator[tuple[int, str]]:
    """Make the call again and again, interrupted one place later each time; yields the place."""
    for at in places():
        interrupt = Interrupt(at)
        with warnings.catch_warnings():
            # Between the making of a coroutine and its first step: it is dropped.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            interrupt.run(lambda at=at: call(at))
            if interrupt.where is None:
                assert at > 5
                return
            yield at, interrupt.where


def places() -> Iterator[int]:
    """The places to interrupt at: all of them in the whole suite."""
    gc.collect()
    gc.freeze()  # or each collection before a place would walk over what the tests before this one have left
    return itertools.count(*steps(5))


def works_on(store: ContextStore) -> bool:
    node = os.urandom(8).hex()
    assert in_thread(lambda: store.put("after", node, 1), daemon=True) is None
    core: Any = core_of(store)
    core._cache.clear()
    assert in_thread(lambda: store.get("after", node), daemon=True) == 1
    return (core._writer._queued_bytes, queued(store)) == (0, 0)


def _put_two(store: ContextStore, at: int) -> None:
    with store.batch() as batch:
        batch.put(f"batch {at}", "one", 1)
        batch.put(f"batch {at}", "two", 2)


INTERRUPTED: dict[str, Callable[[ContextStore, int], Any]] = {
    "put": lambda store, at: store.put("run", f"{at}", "x" * 2000),
    "get": lambda store, at: store.get("run", f"missing {at}"),
    "get, cached": lambda store, at: store.get("run", "there"),
    "list_keys": lambda store, at: store.list_keys("run"),
    "upsert_global": lambda store, at: store.upsert_global("key", at),
    "get_global": lambda store, at: store.get_global("key"),
    "update_global": lambda store, at: store.update_global("count", lambda n: (n or 0) + 1),
    "get_or_put": lambda store, at: store.get_or_put("run", "computed" if at % 2 else f"computed {at}", lambda: at),
    "batch": _put_two,
    "wait_for": lambda store, at: store.wait_for("run", "there"),
    "stats": lambda store, at: store.stats(),
}


@at_every_instruction
@pytest.mark.parametrize("call", INTERRUPTED)
def test_an_interrupt_at_any_instruction_of_a_call_leaves_the_store_usable(call: str, store: ContextStore) -> None:
    store.put("run", "there", 1)
    for at, where in interruptions(lambda at: INTERRUPTED[call](store, at)):
        assert works_on(store), (at, where)
        if call in ("update_global", "get_or_put"):  # what waits for its turn, or for another's result
            assert in_thread(lambda at=at: INTERRUPTED[call](store, at), daemon=True) is not None, (at, where)
        if call == "batch":
            assert len(store.list_keys(f"batch {at}")) in (0, 2), (at, where)
    core_of(store)._cache.clear()


@at_every_instruction
def test_an_interrupt_at_any_instruction_of_open_leaves_a_store_that_opens_at_the_next_call(
    file_path: pathlib.Path,
) -> None:
    for at in places():
        store = ContextStore(file_path)
        interrupt = Interrupt(at)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            interrupt.run(store.open)
        assert works_on(store), interrupt.where
        store.close()
        if interrupt.where is None:
            break


@at_every_instruction
def test_an_interrupt_at_any_instruction_of_close_leaves_a_store_that_the_next_close_ends(
    file_path: pathlib.Path,
) -> None:
    put = 0
    for at in places():
        store = ContextStore(file_path)
        store.put("run", f"{at}", 1)
        put += 1
        interrupt = Interrupt(at)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            interrupt.run(store.close)
        in_thread(store.close, daemon=True)
        with pytest.raises(StoreClosedError):
            store.get("run", f"{at}")
        assert (own_threads(file_path), open_files(file_path)) == ([], []), interrupt.where
        if interrupt.where is None:
            break
    with ContextStore(file_path) as again:
        assert len(again.list_keys("run")) == put


# ------------------------------------------------------------------------------------------------------- AtomicWriter


async def write_and_complete(store: Any, *arguments: Any) -> Any:
    """AtomicWriter's call, on either face."""
    if isinstance(store, AsyncContextStore):
        return await AtomicWriter(store).write_and_complete(*arguments)
    return await asyncio.to_thread(AtomicWriter(store.blocking).write_and_complete, *arguments)


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
        plain = getattr(store, "blocking", store)

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
