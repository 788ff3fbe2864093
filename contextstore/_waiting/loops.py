"""Which event loop a task runs on, and what asyncio and the others have each their own way for.

Rules of this module: whether a loop is asyncio's is found out without importing anything. A program that has imported
neither trio nor anyio has no other loops, and no other cancel scopes.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import get_running_loop
from collections.abc import AsyncIterator, Callable
from sys import modules
from typing import TypeVar

from .waiters import Loop, TaskLoop

T = TypeVar("T")


def running_loop() -> TaskLoop:
    """The loop that the calling task runs on; a RuntimeError if there is none.

    A program that has not imported trio has no loop but asyncio's. In one that has, both may run in one thread, one as
    the guest of the other, and ``sniffio`` knows which of them the caller is a task of.
    """
    if "trio" in modules:
        from .foreign import foreign_loop

        loop = foreign_loop()
        if loop is not None:
            return loop
    return get_running_loop()


def loop_here() -> TaskLoop | None:
    """The loop that runs in the calling thread, and would not while it is blocked."""
    try:
        return running_loop()
    except RuntimeError:
        return None


def is_running_here(loop: Loop | None) -> bool:
    """Whether the calling thread is that of this loop, and would keep it from running while it is blocked."""
    return loop is not None and loop_here() is loop


async def in_thread(call: Callable[[], T]) -> T:
    """What the call returns, made in a worker thread of the loop's."""
    if isinstance(running_loop(), asyncio.AbstractEventLoop):
        return await asyncio.to_thread(call)
    from .foreign import in_thread

    return await in_thread(call)


@contextlib.asynccontextmanager
async def out_of_reach(seconds: float | None) -> AsyncIterator[None]:
    """No cancel scope reaches what is awaited in here, which ends quietly after so many seconds.

    A scope of trio's or anyio's cancels again at each step, until it is left. asyncio cancels once, and that has been
    seen when this is entered.
    """
    if "anyio" in modules or "trio" in modules:
        from .foreign import shield

        with shield(seconds):
            yield
    else:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                yield
