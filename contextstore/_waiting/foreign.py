"""Event loops other than asyncio's, and the cancel scopes of anyio, which asyncio's tasks may be in as well.

Rules of this module: it is imported when it is first needed, and only in a program that has imported trio or anyio; so
what it imports is there. A blocking call comes here only if it has to wait for another's computation or update, to ask
whether its thread runs such a loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

from .waiters import TaskLoop

T = TypeVar("T")


def foreign_loop() -> TaskLoop | None:
    """The loop of the calling task, if it is none of asyncio's. To be asked only where trio has been imported."""
    import sniffio

    try:
        library = sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return None
    if library != "trio":
        return None
    from .trio_ import trio_loop

    return trio_loop()


async def in_thread(call: Callable[[], T]) -> T:
    """What the call returns, made in a worker thread of the loop's."""
    import anyio.to_thread

    return await anyio.to_thread.run_sync(call)


def shield(seconds: float | None) -> contextlib.AbstractContextManager[object]:
    """A scope that no cancellation of a scope around it reaches, left quietly after so many seconds."""
    import anyio

    return anyio.move_on_after(seconds, shield=True)
