"""One behavioural suite, multiplied over faces and engines.

A test that takes ``store`` or ``make_store`` is written once, in awaited form, and runs on every face and every engine.
The blocking face is awaited through worker threads, as a user of ``asyncio.to_thread`` would.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import pathlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

import pytest

from contextstore import AsyncContextStore, ContextStore


class Awaited:
    """A ContextStore with the calls of AsyncContextStore: each runs in a worker thread."""

    def __init__(self, store: ContextStore) -> None:
        self.blocking = store

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.blocking, name)
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

    def __init__(self, face: str, engine: str, folder: pathlib.Path) -> None:
        self.face = face
        self.engine = engine
        self.location: Any = ":memory:" if engine == "memory" else folder / "store.db"
        self.made: list[Any] = []

    def __call__(self, **options: Any) -> Any:
        store: Any
        if self.face == "async":
            store = AsyncContextStore(self.location, **options)
        else:
            store = Awaited(ContextStore(self.location, **options))
        self.made.append(store)
        return store


# A shell has what it runs in the background ignore SIGINT, and Python leaves that so.
signal.signal(signal.SIGINT, signal.default_int_handler)

FACES = ["async", "sync"]
ENGINES = ["file", "memory"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "make_store" in metafunc.fixturenames:
        # A test that needs two store objects on one place cannot run on an engine that keeps its place to itself.
        engines = ["file"] if "shared_target" in metafunc.fixturenames else ENGINES
        metafunc.parametrize(
            "face_and_engine", [(f, e) for f in FACES for e in engines], ids=lambda pair: "-".join(pair), indirect=False
        )


@pytest.fixture
def shared_target() -> None:
    """Asked for by tests that open the same place twice."""


@pytest.fixture
async def make_store(face_and_engine: tuple[str, str], tmp_path: pathlib.Path) -> AsyncIterator[Target]:
    # The default executor has a handful of threads, and a blocked call takes one.
    asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor(100))
    target = Target(*face_and_engine, tmp_path)
    yield target
    for store in target.made:
        await store.close()


@pytest.fixture
async def store(make_store: Target) -> AsyncIterator[Any]:
    async with make_store() as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Every test leaves no thread of ours."""
    yield
    left = [thread for thread in threading.enumerate() if _is_ours(thread)]
    for thread in left:
        thread.join(timeout=5)
    assert not [thread for thread in left if thread.is_alive()]


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
