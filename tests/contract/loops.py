"""Loops for tests: asyncio, uvloop and trio, in the test's thread and beside it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import pathlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from contextstore import AsyncContextStore

from ..support.doubles import core_of

BACKENDS = [("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})]
KINDS = ["asyncio", "trio"]


@pytest.fixture(params=BACKENDS, ids=["asyncio", "uvloop", "trio"], name="anyio_backend")
def each_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def on_each_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run the test on each of the loops. As a plain function, or pytest-asyncio would run it on one of its own."""

    def on_a_loop(*own: Any, anyio_backend: tuple[str, dict[str, Any]], **arguments: Any) -> None:
        backend, options = anyio_backend
        anyio.run(functools.partial(test, *own, **arguments), backend=backend, backend_options=options)

    signature = inspect.signature(test)
    backend = inspect.Parameter("anyio_backend", inspect.Parameter.KEYWORD_ONLY)
    on_a_loop.__signature__ = signature.replace(parameters=[*signature.parameters.values(), backend])  # type: ignore[attr-defined]
    on_a_loop.__name__, on_a_loop.__doc__ = test.__name__, test.__doc__
    return on_a_loop


def run_on(kind: str, main: Callable[[], Awaitable[Any]]) -> Any:
    return anyio.run(main, backend=kind)


@contextlib.contextmanager
def loop_in_thread(kind: str, main: Callable[[], Awaitable[Any]]) -> Iterator[Callable[[], Any]]:
    """A loop of its own that runs this beside the test. Gives what waits for its end, and for what it came to."""
    outcome: list[Any] = []

    def live() -> None:
        try:
            outcome.append(run_on(kind, main))
        except BaseException as error:
            outcome.append(error)

    def result() -> Any:
        thread.join(60)
        assert not thread.is_alive()
        return outcome[0]

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield result
    finally:
        result()


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await anyio.sleep(0.001)


def flights(store: Any) -> dict[object, Any]:
    calls: Any = core_of(store)._session.callers
    by_key: dict[object, Any] = calls._flights.by_key
    return by_key


def assert_nothing_is_left(store: Any) -> None:
    """No flight, no turn, no subscription, and no timer of any loop."""
    gc.collect()
    core: Any = core_of(store)
    assert flights(store) == {}
    assert core._core.backend.updates._queues == {}
    assert core._session.subscriptions._all() == []
    assert dict(core._session.callers._timers) == {}


@pytest.fixture(name="store")
def store_for_any_loop(file_path: pathlib.Path) -> Iterator[AsyncContextStore]:
    """Made by no loop, and closed on one that it has not seen before."""
    made = AsyncContextStore(file_path)
    yield made
    asyncio.run(made.close())
    assert_nothing_is_left(made)


class Stop(BaseException):
    """No Exception, and no cancellation."""


class Hang:
    """A factory that ends when it is told to, and notes what becomes of it."""

    def __init__(self) -> None:
        self.begun = self.ended = self.cancelled = 0
        self.released = threading.Event()

    async def __call__(self) -> str:
        self.begun += 1
        try:
            await until(self.released.is_set)
        except (Exception, GeneratorExit):  # the latter by the collector, once its loop is closed: no time to await
            raise
        except BaseException:
            self.cancelled += 1
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            raise
        finally:
            self.ended += 1
        return "computed"
