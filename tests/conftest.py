"""One behavioural suite, multiplied over faces and engines.

A test that takes ``store`` or ``make_store`` is written once, in awaited form, and runs on every face and every engine.
The blocking face is awaited through worker threads, as a user of ``asyncio.to_thread`` would; trio runs in a thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import inspect
import itertools
import logging
import os
import pathlib
import re
import signal
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

import pytest

from contextstore import AsyncContextStore, ContextStore

from .support.portions import folder_in_memory, mark_what_repeats
from .support.proxy import Proxy
from .support.servers import Server, running_server
from .support.trio_face import InTrio, TrioThread


class Awaited:
    """A ContextStore with the calls of AsyncContextStore: each runs in a worker thread."""

    def __init__(self, store: ContextStore) -> None:
        self.plain = store

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.plain, name)
        if not inspect.ismethod(attribute):
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(attribute, *args, **kwargs)

        return call

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


class Target:
    """Where the stores of a test are, and how a second one of the same place is made."""

    def __init__(self, face: str, engine: str, location: Any) -> None:
        self.face = face
        self.engine = engine
        self.location = location
        self.made: list[Any] = []
        self.trio: TrioThread | None = None

    def __call__(self, **options: Any) -> Any:
        store: Any
        if self.face == "async":
            store = AsyncContextStore(self.location, **options)
        elif self.face == "trio":
            self.trio = self.trio or TrioThread()
            store = InTrio(self.trio, AsyncContextStore(self.location, **options))
        else:
            store = Awaited(ContextStore(self.location, **options))
        self.made.append(store)
        return store


# What helpers of these folders assert tells what it compared, as pytest has it for the tests themselves.
pytest.register_assert_rewrite("tests.contract", "tests.process", "tests.sqlite", "tests.values")

# A shell has what it runs in the background ignore SIGINT, and Python leaves that so.
signal.signal(signal.SIGINT, signal.default_int_handler)

IN_MEMORY = folder_in_memory()
if IN_MEMORY is not None:  # told to pytest's own factory of temporary folders, of this process and of its workers
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))

FACES = ["async", "sync"]
IN_TRIO = "trio"
"""The async face once more, awaited by tasks of trio's: all of it is ``thorough``."""
NOT_IN_TRIO = {
    "test_a_value_is_the_one_at_the_time_of_the_call": "counts turns of asyncio's loop",
    "test_it_may_be_left_half_read": "trio itself warns of a generator that is left to the collector",
    "test_the_function_runs_where_update_global_was_called": "asks for asyncio's current task",
    "test_it_is_called_where_backup_was_called": "asks for asyncio's current task",
    "test_it_is_called_where_check_was_called": "asks for asyncio's current task",
    "test_progress_is_called_where_prune_was_called": "asks for asyncio's current task",
    "test_write_and_complete_completes_nothing": "makes an AtomicWriter of a wrapper",
    "test_what_cannot_be_called_completes_nothing_and_writes_nothing": "makes an AtomicWriter of a wrapper",
    "test_an_iteration_paused_within_a_page_that_bytes_have_cut_holds_nothing": "takes the store for a blocking one",
    "test_a_copy_of_a_store_that_is_read_meanwhile_is_whole": "hands the store to copy(), which takes no wrapper",
    "test_a_close_between_the_look_and_the_waiting_is_told": "begins a task of asyncio's within the call",
}
"""Tests that are about asyncio itself, and what of it they look at."""
ENGINES = ["file", "memory", "postgres"]
_schemas = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "make_store" in metafunc.fixturenames:
        # A test that needs two store objects on one place cannot run on an engine that keeps its place to itself.
        engines = [engine for engine in ENGINES if engine != "memory" or "shared_target" not in metafunc.fixturenames]
        if "embedded" in metafunc.fixturenames:
            engines.remove("postgres")
        # Thousands of tests that each worker of a portion would make, to leave them out.
        faces = FACES if "not thorough" in metafunc.config.option.markexpr else [*FACES, IN_TRIO]
        metafunc.parametrize(
            "face_and_engine",
            [(f, e) for f in faces for e in engines],
            ids=lambda pair: "-".join(pair),
            indirect=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Nothing becomes garbage while thousands of tests are made, and to look for it takes its time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before those are left out that are marked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_what_repeats(items)
    for item in items:
        name, _, parameters = item.name.partition("[")
        if name in NOT_IN_TRIO and IN_TRIO in parameters:
            item.add_marker(pytest.mark.skip(reason=NOT_IN_TRIO[name]))


def pytest_collection_finish() -> None:
    """What is there now, thousands of tests and their modules, stays, and no full collection need walk over it.

    (With it, one takes a tenth of a second, and the interrupts at every instruction ask for some thousand.)
    """
    gc.collect()
    gc.freeze()


def named(value: object) -> str:
    """An id for a parameter, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@pytest.fixture
def shared_target() -> None:
    """Asked for by tests that open the same place twice."""


@pytest.fixture
def embedded() -> None:
    """Asked for by tests that are about SQLite, or look at its tables with plain sqlite3."""


@pytest.fixture
def tmp_path(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[pathlib.Path]:
    """A folder of the test's own: in memory, where a sync costs nothing, or on a disk if it is marked with ``disk``."""
    if IN_MEMORY is None or request.node.get_closest_marker("disk") is None:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="contextstore-", ignore_cleanup_errors=True) as folder:
        yield pathlib.Path(folder).resolve()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A server for all tests that only look at behaviour: quick, and not made to survive anything.

    What it says of itself is what servers say: one without fsync would be warned of by each store.
    """
    with running_server(IN_MEMORY, autovacuum="off") as server:
        yield server


def new_location(engine: str, request: pytest.FixtureRequest) -> Any:
    """Where nobody has been yet."""
    if engine == "memory":
        return ":memory:"
    if engine == "postgres":
        return request.getfixturevalue("postgres").url(schema=f"test_{next(_schemas)}")
    return request.getfixturevalue("tmp_path") / "store.db"


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """A place of its own on the server."""
    return str(new_location("postgres", request))


@pytest.fixture
def schema(url: str) -> str:
    return url.partition("?schema=")[2]


@pytest.fixture
def proxy(postgres: Server) -> Iterator[Proxy]:
    with Proxy(postgres.port) as running:
        yield running


@pytest.fixture
async def make_store(face_and_engine: tuple[str, str], request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    # The default executor has a handful of threads, and a blocked call takes one.
    asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor(100))
    face, engine = face_and_engine
    target = Target(face, engine, new_location(engine, request))
    yield target
    for store in target.made:
        await store.close()
    if target.trio is not None:
        await target.trio.stop()


@pytest.fixture
async def store(make_store: Target) -> AsyncIterator[Any]:
    async with make_store() as opened:
        yield opened


PATIENCE = 5.0
"""Seconds that what is about to end has for it, when a test is over."""


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test leaves no thread of ours, and on no event loop a task that never came to its end."""
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("no_task_left_behind")
    before: list[object] = [*_unfinished_tasks(), *threading.enumerate()]  # not this test's, then
    errors = _Errors()
    logging.getLogger("asyncio").addHandler(errors)
    yield
    deadline = time.monotonic() + PATIENCE
    # Not joined: one that is just being started cannot be.
    while left := [thread for thread in threading.enumerate() if _is_ours(thread) and thread not in before]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.001)
    logging.getLogger("asyncio").removeHandler(errors)
    assert not left
    assert not [task for task in _unfinished_tasks() if task not in before], "a loop was closed under a task"
    assert not errors.messages


@pytest.fixture
async def no_task_left_behind() -> AsyncIterator[None]:
    """A test's loop has nothing left to do. Whoever closes it would cancel what there is, and nobody would know."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:  # what was cancelled, and not waited for, needs some turns
        _, left = await asyncio.wait(left, timeout=PATIENCE)
    assert not left


class _Errors(logging.Handler):
    """What asyncio complains of to nobody: a task that was destroyed, an exception that was not looked at."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _unfinished_tasks() -> list[asyncio.Task[Any]]:
    # asyncio.all_tasks() wants to be given a loop; a loop that a test has made and closed is known to nobody.
    tasks: Any = getattr(asyncio.tasks, "_scheduled_tasks", None) or getattr(asyncio.tasks, "_all_tasks", ())
    return [task for task in list(tasks) if not task.done()]


def _is_ours(thread: threading.Thread) -> bool:
    return (thread.name.startswith("contextstore ") and "exit watcher" not in thread.name) or (
        "_connection_worker_thread" in thread.name
    )


@pytest.fixture
def file_path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "store.db"


@contextlib.contextmanager
def raises_and_stores_nothing(error: type[BaseException], connect: Callable[[], Any]) -> Iterator[Any]:
    """The block raises ``error``, and the tables are as they were."""
    with contextlib.closing(connect()) as connection:
        before = list(connection.iterdump())
    with pytest.raises(error) as caught:
        yield caught
    with contextlib.closing(connect()) as connection:
        assert list(connection.iterdump()) == before
