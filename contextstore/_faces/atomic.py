"""``AtomicWriter``, which a flow runner is built on: a node is complete only once its output is durable.

Rules of this module: it calls the stores' public methods alone, and knows nothing of a core.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, overload

from .._values.arguments import check_function
from .._values.keys import Id
from .._waiting.threads import run_now
from ..errors import AlreadyExistsError, CompletionFailedError, ContextStoreError, WriteFailedError
from .async_store import AsyncContextStore
from .sync_store import ContextStore

T = TypeVar("T")
S = TypeVar("S", AsyncContextStore, ContextStore)

logger = logging.getLogger("contextstore")


class AtomicWriter(Generic[S]):
    """Write before complete: a node counts as complete only once its output is durable.

    Args:
        store: an ``AsyncContextStore``, with which ``write_and_complete`` is awaited, or a ``ContextStore``.
    """

    def __init__(self, store: S) -> None:
        if not isinstance(store, AsyncContextStore | ContextStore):
            raise TypeError(f"store must be an AsyncContextStore or a ContextStore, not {type(store).__name__}")
        self._store: AsyncContextStore | ContextStore = store

    @overload
    def write_and_complete(
        self: AtomicWriter[AsyncContextStore],
        flow_run_id: Id,
        node_id: Id,
        value: Any,
        complete: Callable[[], Awaitable[T]],
    ) -> Awaitable[T]: ...
    @overload
    def write_and_complete(
        self: AtomicWriter[AsyncContextStore], flow_run_id: Id, node_id: Id, value: Any, complete: Callable[[], T]
    ) -> Awaitable[T]: ...
    @overload
    def write_and_complete(
        self: AtomicWriter[ContextStore], flow_run_id: Id, node_id: Id, value: Any, complete: Callable[[], T]
    ) -> T: ...
    def write_and_complete(self, flow_run_id: Id, node_id: Id, value: Any, complete: Callable[[], Any]) -> Any:
        """Write a node's output, then call ``complete()`` and return its result.

        ``complete`` is called only once the output is durable, also when there was one already: the first one stands,
        and if it differs from ``value``, that is logged as a warning. With an ``AsyncContextStore`` this is awaited,
        and ``complete`` may be a coroutine function.

        Raises:
            WriteFailedError: the output could not be written; ``complete`` was not called.
            CompletionFailedError: ``complete`` raised an ``Exception``; the output stays.
        """
        store = self._store
        check_function("complete", complete)
        if isinstance(store, AsyncContextStore):
            return _write_and_complete(store.put, flow_run_id, node_id, value, complete)
        if inspect.iscoroutinefunction(complete):
            raise TypeError(
                "complete is a coroutine function, and ContextStore takes plain ones: use AsyncContextStore"
            )
        blocking_put = store.put

        async def put(flow_run_id: Id, node_id: Id, value: Any) -> None:
            blocking_put(flow_run_id, node_id, value)

        def complete_plainly() -> Any:
            result = complete()
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise TypeError(f"{complete!r} returned an awaitable, and ContextStore takes plain functions")
            return result

        return run_now(_write_and_complete(put, flow_run_id, node_id, value, complete_plainly))


async def _write_and_complete(
    put: Callable[[Id, Id, Any], Awaitable[None]], flow_run_id: Id, node_id: Id, value: Any, complete: Callable[[], Any]
) -> Any:
    try:
        await put(flow_run_id, node_id, value)
    except AlreadyExistsError as error:
        if not error.same_value:
            logger.warning("%s; complete() is called for the stored one", error)
    except ContextStoreError as error:
        raise WriteFailedError(flow_run_id, node_id, str(error)) from error
    try:
        result = complete()
        return await result if inspect.isawaitable(result) else result
    except Exception as error:
        raise CompletionFailedError(flow_run_id, node_id, repr(error)) from error
