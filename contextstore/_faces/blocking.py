"""What the two blocking faces share beside ``run_now``: docstrings, iterators, and a warning.

Rules of this module: nothing of a store is known here but what is passed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable
from typing import Any, TypeVar, cast

from .._core.core import Core
from .._core.lives import Life
from .._results import GlobalEntry, RunInfo
from .._values.keys import Id
from .._waiting.threads import run_now, warn_on_a_loop

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def documented_as(original: Callable[..., Any]) -> Callable[[F], F]:
    """Give a call the docstring of the one that it is the blocking form of."""

    def copy_docstring(function: F) -> F:
        function.__doc__ = original.__doc__
        return function

    return copy_docstring


def iterate(iterator: AsyncIterator[T]) -> Generator[T, None, None]:
    """An async generator that never suspends, as a plain one."""
    generator = cast("AsyncGenerator[T, None]", iterator)
    try:
        while True:
            try:
                item = run_now(generator.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        run_now(generator.aclose())


def wait_for(core: Core, flow_run_id: Id, node_id: Id, timeout: float | None, type: Any, *life: Life) -> Any:
    """Wait for an output in the calling thread, which may be one that must not be blocked for ever."""
    if timeout is None:
        warn_on_a_loop("wait_for without a timeout", "await AsyncContextStore.wait_for, or pass a timeout")
    return run_now(core.waits.wait_for(flow_run_id, node_id, timeout, type, *life))


def wait_for_run(
    core: Core, flow_run_id: Id, state: str | Iterable[str], timeout: float | None, *life: Life
) -> RunInfo:
    """The same for a run."""
    if timeout is None:
        warn_on_a_loop("wait_for_run without a timeout", "await AsyncContextStore.wait_for_run, or pass a timeout")
    return run_now(core.run_watching.wait_for(flow_run_id, state, timeout, *life))


def wait_for_global(core: Core, key: Id, after_version: int, timeout: float | None, type: Any) -> GlobalEntry:
    """The same for a global."""
    if timeout is None:
        advice = "await AsyncContextStore.wait_for_global, or pass a timeout"
        warn_on_a_loop("wait_for_global without a timeout", advice)
    return run_now(core.global_waits.wait_for(key, after_version, timeout, type))
