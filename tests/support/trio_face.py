"""The async face as trio's tasks call it, with the tests on an asyncio loop: each call is a task of a real trio run.

That run has a thread of its own. To cancel who awaits a call cancels the scope of its task there. Functions that a test
passes in are called there, and what they return to be awaited is awaited on the test's loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Self

import trio

from contextstore import AsyncContextStore


class TrioThread:
    """A run of trio in a thread, which ends when it is told to."""

    def __init__(self) -> None:
        self._is_begun = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._live,), name="trio")
        self._thread.start()
        assert self._is_begun.wait(60)

    async def _live(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stopped = trio.Event()
        async with trio.open_nursery() as self._nursery:
            self._is_begun.set()
            await self._stopped.wait()

    async def stop(self) -> None:
        self._token.run_sync_soon(self._stopped.set)
        await asyncio.to_thread(self._thread.join)

    async def run(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """What the call comes to in a task of trio's, in a copy of the context of the task that awaits it."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        scope = trio.CancelScope()
        outcome: list[Any] = [None, None]

        async def task() -> None:
            try:
                with scope:
                    outcome[0] = await call()
            except BaseException as error:
                outcome[1] = error
            loop.call_soon_threadsafe(lambda: ended.done() or ended.set_result(None))

        context = contextvars.copy_context()
        self._token.run_sync_soon(lambda: context.run(self._nursery.start_soon, task))
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            self._token.run_sync_soon(scope.cancel)
            await ended
            raise
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


async def on_loop(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any]) -> Any:
    """In a task of trio's: what the awaitable comes to on a loop of asyncio's, in a copy of this task's context."""
    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()
    context = contextvars.copy_context()
    tasks: list[asyncio.Task[Any]] = []

    async def await_it() -> Any:
        return await awaitable

    def begin() -> None:
        tasks.append(loop.create_task(await_it(), context=context))
        tasks[0].add_done_callback(lambda _: token.run_sync_soon(ended.set))

    loop.call_soon_threadsafe(begin)
    try:
        await ended.wait()
    except trio.Cancelled:
        loop.call_soon_threadsafe(lambda: tasks[0].cancel())
        with trio.CancelScope(shield=True):
            await ended.wait()
        if not tasks[0].cancelled():
            tasks[0].exception()
        raise
    return tasks[0].result()


class InTrio:
    """An AsyncContextStore, or what one of its calls has made, with each call in a task of trio's."""

    def __init__(self, thread: TrioThread, wrapped: Any) -> None:
        self._thread = thread
        self._wrapped = wrapped
        if isinstance(wrapped, AsyncContextStore):
            self._core = getattr(wrapped, "_core", wrapped)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._wrapped, name)
        if not inspect.ismethod(attribute):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            loop = asyncio.get_running_loop()
            args = tuple(_translated(arg, loop) for arg in args)
            kwargs = {key: _translated(arg, loop) for key, arg in kwargs.items()}
            if not inspect.iscoroutinefunction(attribute):
                made = attribute(*args, **kwargs)
                if inspect.isawaitable(made):
                    return self._thread.run(lambda: made)
                if inspect.isasyncgen(made):
                    return Iterating(self._thread, made)
                return InTrio(self._thread, made) if hasattr(made, "__aenter__") or name == "run" else made
            return self._thread.run(lambda: attribute(*args, **kwargs))

        return call

    def made(self, make: Callable[[Any], Any]) -> InTrio:
        """What is made of the store, with each call in a task of trio's, too."""
        return InTrio(self._thread, make(self._wrapped))

    def __repr__(self) -> str:
        return repr(self._wrapped)

    def __reduce__(self) -> Any:
        return self._wrapped.__reduce__()

    async def __aenter__(self) -> Any:
        entered = await self._thread.run(self._wrapped.__aenter__)
        return self if isinstance(entered, AsyncContextStore) else entered

    async def __aexit__(self, *exc_info: object) -> Any:
        return await self._thread.run(lambda: self._wrapped.__aexit__(*exc_info))


class Iterating:
    """An async generator, each step of which is made by trio."""

    def __init__(self, thread: TrioThread, generator: Any) -> None:
        self._thread = thread
        self._generator = generator

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await self._thread.run(self._generator.__anext__)

    async def aclose(self) -> None:
        await self._thread.run(self._generator.aclose)


def _translated(argument: Any, loop: asyncio.AbstractEventLoop) -> Any:
    if isinstance(argument, functools.partial):  # its arguments are a step's inputs
        return functools.partial(_translated(argument.func, loop), *argument.args, **argument.keywords)
    if not inspect.isroutine(argument) and not hasattr(argument, "func"):
        return argument

    @functools.wraps(argument)  # what a step returns is what its function says
    def called_in_trio(*args: Any, **kwargs: Any) -> Any:
        result = argument(*args, **kwargs)
        return on_loop(loop, result) if inspect.isawaitable(result) else result

    return called_in_trio
