"""The blocking face: ``ContextStore``.

Rules of this module: it only forwards. No rule, default or sentence stands here a second time; a test compares every
signature and docstring with ``AsyncContextStore``.

A call runs the core's coroutine in the calling thread (see _callers): encoding, checks and cache hits happen here, and
where the core waits, the thread sleeps until the thread that does the I/O wakes it. What is left for the store's own
event-loop thread is to open, to close and to keep the drivers.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, cast, overload

from .._core.target import Durability, Target
from .._results import CheckReport, GlobalEntry, Output, PruneReport, RunInfo, StoreStats
from .._values.keys import Id, Outputs, flow_run_key
from .._waiting.callers import Callers, ThreadCallers, run_now, warn_on_a_loop
from .async_store import AsyncContextStore, D, T
from .batch import Batch
from .run import FlowRun

F = TypeVar("F", bound=Callable[..., Any])


def _documented_as(original: Callable[..., Any]) -> Callable[[F], F]:
    def copy_docstring(function: F) -> F:
        function.__doc__ = original.__doc__
        return function

    return copy_docstring


class _Core(AsyncContextStore):
    """The core, with threads for callers."""

    def _make_callers(self, timeout: float) -> Callers:
        return ThreadCallers(self._engine.location, self._engine.own_threads)


class ContextStore:
    """A durable store for what the nodes of a flow produce, called from blocking code.

    The same as ``AsyncContextStore``, call by call: names, parameters, results and errors. It may be called from any
    thread, also from one that runs an event loop (a notebook), and by any number of threads at once; their writes share
    commits.

        with ContextStore("flows.db") as store:
            store.put("run-1", "extract", {"rows": 3})
            assert store.get("run-1", "extract") == {"rows": 3}

    The store opens itself at its first use. ``KeyboardInterrupt`` during a call is a cancellation: a write that no
    commit has taken yet is withdrawn, another one is finished in the background. After ``fork()`` an object that has
    not been used works in the child; every call of another raises ``ForkedProcessError`` there.
    """

    def __init__(
        self,
        target: Target,
        *,
        durability: Durability = "full",
        timeout: float = 30.0,
        cache_bytes: int = 64 * 2**20,
        max_value_bytes: int | None = None,
        read_only: bool = False,
        create: bool = True,
        encode_default: Callable[[Any], Any] | None = None,
        max_connections: int = 4,
    ) -> None:
        self._core = _Core(
            target,
            durability=durability,
            timeout=timeout,
            cache_bytes=cache_bytes,
            max_value_bytes=max_value_bytes,
            read_only=read_only,
            create=create,
            encode_default=encode_default,
            max_connections=max_connections,
        )

    def __reduce__(self) -> NoReturn:
        self._core.__reduce__()

    def __repr__(self) -> str:
        return repr(self._core).replace("_Core", type(self).__name__, 1)

    @_documented_as(AsyncContextStore.open)
    def open(self) -> None:
        return run_now(self._core.open())

    @_documented_as(AsyncContextStore.close)
    def close(self) -> None:
        return run_now(self._core.close())

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @_documented_as(AsyncContextStore.put)
    def put(self, flow_run_id: Id, node_id: Id, value: Any, *, exist_ok: bool = False) -> None:
        return run_now(self._core.put(flow_run_id, node_id, value, exist_ok=exist_ok))

    @overload
    def get(self, flow_run_id: Id, node_id: Id, default: Any = None) -> Any: ...
    @overload
    def get(self, flow_run_id: Id, node_id: Id, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    def get(self, flow_run_id: Id, node_id: Id, default: D, *, type: type[T]) -> T | D: ...
    @overload
    def get(self, flow_run_id: Id, node_id: Id, default: Any = None, *, type: Any = None) -> Any: ...
    @_documented_as(AsyncContextStore.get)
    def get(self, flow_run_id: Id, node_id: Id, default: Any = None, *, type: Any = None) -> Any:
        return run_now(self._core.get(flow_run_id, node_id, default, type=type))

    @_documented_as(AsyncContextStore.list_keys)
    def list_keys(self, flow_run_id: Id, *, prefix: str = "") -> list[str]:
        return run_now(self._core.list_keys(flow_run_id, prefix=prefix))

    @_documented_as(AsyncContextStore.put_global)
    def put_global(self, key: Id, value: Any, *, exist_ok: bool = False) -> None:
        return run_now(self._core.put_global(key, value, exist_ok=exist_ok))

    @_documented_as(AsyncContextStore.upsert_global)
    def upsert_global(self, key: Id, value: Any, *, expected_version: int | None = None) -> int:
        return run_now(self._core.upsert_global(key, value, expected_version=expected_version))

    @overload
    def get_global(self, key: Id, default: Any = None) -> Any: ...
    @overload
    def get_global(self, key: Id, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    def get_global(self, key: Id, default: D, *, type: type[T]) -> T | D: ...
    @overload
    def get_global(self, key: Id, default: Any = None, *, type: Any = None) -> Any: ...
    @_documented_as(AsyncContextStore.get_global)
    def get_global(self, key: Id, default: Any = None, *, type: Any = None) -> Any:
        return run_now(self._core.get_global(key, default, type=type))

    @_documented_as(AsyncContextStore.get_global_entry)
    def get_global_entry(self, key: Id) -> GlobalEntry | None:
        return run_now(self._core.get_global_entry(key))

    @_documented_as(AsyncContextStore.list_globals)
    def list_globals(self, prefix: str = "", *, after: Id | None = None, limit: int = 1000) -> list[GlobalEntry]:
        return run_now(self._core.list_globals(prefix, after=after, limit=limit))

    @_documented_as(AsyncContextStore.delete_global)
    def delete_global(self, key: Id) -> bool:
        return run_now(self._core.delete_global(key))

    @_documented_as(AsyncContextStore.update_global)
    def update_global(self, key: Id, fn: Callable[[Any], Any], default: Any = None) -> Any:
        return run_now(self._core.update_global(key, fn, default))

    @_documented_as(AsyncContextStore.exists)
    def exists(self, flow_run_id: Id, node_id: Id) -> bool:
        return run_now(self._core.exists(flow_run_id, node_id))

    @_documented_as(AsyncContextStore.get_entry)
    def get_entry(self, flow_run_id: Id, node_id: Id) -> Output | None:
        return run_now(self._core.get_entry(flow_run_id, node_id))

    @_documented_as(AsyncContextStore.put_many)
    def put_many(self, flow_run_id: Id, outputs: Outputs, *, exist_ok: bool = False) -> None:
        return run_now(self._core.put_many(flow_run_id, outputs, exist_ok=exist_ok))

    @_documented_as(AsyncContextStore.get_many)
    def get_many(self, flow_run_id: Id, node_ids: Iterable[Id]) -> dict[str, Any]:
        return run_now(self._core.get_many(flow_run_id, node_ids))

    @_documented_as(AsyncContextStore.get_run)
    def get_run(self, flow_run_id: Id) -> dict[str, Any]:
        return run_now(self._core.get_run(flow_run_id))

    @_documented_as(AsyncContextStore.iter_outputs)
    def iter_outputs(self, flow_run_id: Id, *, after: Id | None = None) -> Iterator[Output]:
        return _iterate(self._core.iter_outputs(flow_run_id, after=after))

    @_documented_as(AsyncContextStore.batch)
    def batch(self) -> Batch:
        return Batch(self._core._writable, self._core._encode, self._core._commit)

    @overload
    def get_or_put(self, flow_run_id: Id, node_id: Id, factory: Callable[[], Any], *, type: type[T]) -> T: ...
    @overload
    def get_or_put(self, flow_run_id: Id, node_id: Id, factory: Callable[[], Any], *, type: Any = None) -> Any: ...
    @_documented_as(AsyncContextStore.get_or_put)
    def get_or_put(self, flow_run_id: Id, node_id: Id, factory: Callable[[], Any], *, type: Any = None) -> Any:
        return run_now(self._core.get_or_put(flow_run_id, node_id, factory, type=type))

    @overload
    def wait_for(self, flow_run_id: Id, node_id: Id, *, timeout: float | None = None, type: type[T]) -> T: ...
    @overload
    def wait_for(self, flow_run_id: Id, node_id: Id, *, timeout: float | None = None, type: Any = None) -> Any: ...
    @_documented_as(AsyncContextStore.wait_for)
    def wait_for(self, flow_run_id: Id, node_id: Id, *, timeout: float | None = None, type: Any = None) -> Any:
        if timeout is None:
            warn_on_a_loop("wait_for without a timeout", "await AsyncContextStore.wait_for, or pass a timeout")
        return run_now(self._core.wait_for(flow_run_id, node_id, timeout=timeout, type=type))

    @_documented_as(AsyncContextStore.watch)
    def watch(self, flow_run_id: Id) -> Iterator[Output]:
        return _iterate(self._core.watch(flow_run_id))

    @_documented_as(AsyncContextStore.run)
    def run(self, flow_run_id: Id) -> FlowRun:
        return FlowRun(self, flow_run_key(flow_run_id))

    @_documented_as(AsyncContextStore.list_runs)
    def list_runs(self, *, prefix: str = "", after: Id | None = None, limit: int = 100) -> list[RunInfo]:
        return run_now(self._core.list_runs(prefix=prefix, after=after, limit=limit))

    @_documented_as(AsyncContextStore.fork_run)
    def fork_run(
        self, flow_run_id: Id, *, new_flow_run_id: Id | None = None, node_ids: Iterable[Id] | None = None
    ) -> str:
        return run_now(self._core.fork_run(flow_run_id, new_flow_run_id=new_flow_run_id, node_ids=node_ids))

    @_documented_as(AsyncContextStore.delete_run)
    def delete_run(self, flow_run_id: Id) -> int:
        return run_now(self._core.delete_run(flow_run_id))

    @_documented_as(AsyncContextStore.prune)
    def prune(
        self,
        *,
        older_than: datetime.timedelta,
        dry_run: bool = False,
        progress: Callable[[int, int], Any] | None = None,
    ) -> PruneReport:
        return run_now(self._core.prune(older_than=older_than, dry_run=dry_run, progress=progress))

    @_documented_as(AsyncContextStore.stats)
    def stats(self) -> StoreStats:
        return run_now(self._core.stats())

    @_documented_as(AsyncContextStore.check)
    def check(self) -> CheckReport:
        return run_now(self._core.check())

    @_documented_as(AsyncContextStore.backup)
    def backup(
        self,
        path: str | os.PathLike[str],
        *,
        check: bool = True,
        overwrite: bool = False,
        progress: Callable[[int, int], Any] | None = None,
    ) -> None:
        return run_now(self._core.backup(path, check=check, overwrite=overwrite, progress=progress))


def _iterate(iterator: AsyncIterator[T]) -> Iterator[T]:
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
