"""Single-flight and turns over threads and tasks at once: what one core does for the calls of both faces."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from contextstore._process.own_threads import OwnThreads
from contextstore._waiting.callers import Binding
from contextstore._waiting.single_flight import Flights
from contextstore._waiting.tasks import TaskCallers
from contextstore._waiting.threads import ThreadCallers, run_now

from ..support.doubles import until

KINDS = ["asyncio", "trio"]


class Faces:
    """The callers of one core: its tasks and its threads."""

    def __init__(self) -> None:
        binding = Binding("nowhere", OwnThreads("nowhere"))
        self.flights = Flights()
        self.tasks = TaskCallers(binding, 30.0, self.flights)
        self.threads = ThreadCallers(binding, self.flights)

    def callers_of_one(self) -> int:
        return sum(len(flight.callers) for flight in self.flights.by_key.values())


class InThread:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._outcome: list[Any] = []

        def work() -> None:
            try:
                self._outcome.append(call())
            except BaseException as error:
                self._outcome.append(error)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def result(self) -> Any:
        self._thread.join(30)
        return self._outcome[0]


@pytest.fixture
def faces() -> Faces:
    return Faces()


def ask_in_thread(faces: Faces, compute: Callable[[], Any]) -> InThread:
    async def computed() -> Any:
        return compute()

    return InThread(lambda: run_now(faces.threads.single_flight("key", computed)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_thread_joins_what_a_task_computes(faces: Faces, kind: str) -> None:
    async def compute() -> str:
        while faces.callers_of_one() < 2:
            await anyio.sleep(0.001)
        return "by the task"

    async def main() -> Any:
        return await faces.tasks.single_flight("key", compute)

    task = InThread(lambda: anyio.run(main, backend=kind))
    asyncio.run(until(faces.callers_of_one))
    thread = ask_in_thread(faces, lambda: pytest.fail("computed twice"))
    assert (task.result(), thread.result()) == ("by the task", "by the task")
    assert faces.flights.by_key == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_joins_what_a_thread_computes(faces: Faces, kind: str) -> None:
    def compute() -> str:
        asyncio.run(until(lambda: faces.callers_of_one() == 2))
        return "by the thread"

    async def never() -> Any:
        pytest.fail("computed twice")

    async def main() -> Any:
        return await faces.tasks.single_flight("key", never)

    thread = ask_in_thread(faces, compute)
    asyncio.run(until(faces.callers_of_one))
    assert anyio.run(main, backend=kind) == thread.result() == "by the thread"


def test_a_task_computes_anew_what_an_interrupted_thread_has_left(faces: Faces) -> None:
    def compute() -> str:
        asyncio.run(until(lambda: faces.callers_of_one() == 2))
        raise KeyboardInterrupt

    async def anew() -> str:
        return "anew"

    thread = ask_in_thread(faces, compute)
    asyncio.run(until(faces.callers_of_one))
    assert asyncio.run(faces.tasks.single_flight("key", anew)) == "anew"
    assert type(thread.result()) is KeyboardInterrupt


@pytest.mark.parametrize("kind", KINDS)
def test_a_thread_keeps_a_computation_alive_whose_tasks_are_all_cancelled(faces: Faces, kind: str) -> None:
    released = threading.Event()

    async def compute() -> str:
        while not released.is_set():
            await anyio.sleep(0.001)
        return "computed"

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(faces.tasks.single_flight, "key", compute)
            while faces.callers_of_one() < 2:
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()
        released.set()
        while faces.flights.by_key:
            await anyio.sleep(0.001)

    loop = InThread(lambda: anyio.run(main, backend=kind))
    asyncio.run(until(faces.callers_of_one))
    thread = ask_in_thread(faces, lambda: pytest.fail("computed twice"))
    assert (thread.result(), loop.result()) == ("computed", None)


def test_a_thread_computes_anew_what_a_closed_loop_has_left(faces: Faces) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # a task was destroyed, and it was pending

    async def hang() -> None:
        await asyncio.sleep(3600)

    tasks = [loop.create_task(faces.tasks.single_flight("key", hang))]
    loop.run_until_complete(asyncio.sleep(0.01))
    thread = ask_in_thread(faces, lambda: "anew")
    asyncio.run(until(lambda: faces.callers_of_one() == 2))
    loop.close()
    assert thread.result() == "anew"
    tasks.clear()
    del loop
    gc.collect()


@pytest.mark.parametrize("kind", KINDS)
def test_a_blocking_call_on_the_thread_of_the_loop_that_computes_is_refused(faces: Faces, kind: str) -> None:
    async def compute() -> str:
        async def computed() -> None:
            pytest.fail("computed twice")

        # In a context of its own, or it would be refused as a circle.
        with pytest.raises(RuntimeError, match="the event loop of this thread"):
            contextvars.Context().run(lambda: run_now(faces.threads.single_flight("key", computed)))
        return "computed"

    async def main() -> Any:
        return await faces.tasks.single_flight("key", compute)

    assert anyio.run(main, backend=kind) == "computed"
    assert faces.flights.by_key == {}
