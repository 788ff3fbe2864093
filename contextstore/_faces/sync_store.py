"""The blocking face: ``ContextStore``.

Rules of this module: it only forwards, to the same core as the awaited face. No rule, default or sentence stands here a
second time; a test compares every signature and docstring with ``AsyncContextStore``.

A call runs the core's coroutine in the calling thread (see ``run_now``): encoding, checks and cache hits happen here,
on a store in a file also most reads, and the commit of a single put (see ``_sqlite/lending``). Where the core waits all
the same, the thread sleeps until the thread that does the I/O wakes it. What is left for the store's own event-loop
thread is to open, to close and to keep the drivers.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypeVar, overload

from .._core.backend import Backend
from .._core.core import Core, backend_for
from .._core.leases import Lease
from .._core.options import Durability, Options
from .._core.target import Target
from .._display.html import table
from .._results import (
    CheckReport,
    Counters,
    GlobalEntry,
    Output,
    PruneReport,
    RunAttributes,
    RunInfo,
    RunState,
    StoreStats,
)
from .._values.arguments import ExistOk, check_flag
from .._values.codec import decode
from .._values.expiry import KEEP, Keep
from .._values.keys import Id, Outputs, flow_run_key
from .._waiting.threads import ThreadCallers, run_now
from ..observers import Observer
from .async_store import AsyncContextStore, awaitable_face_of
from .batch import Batch
from .blocking import documented_as, iterate, wait_for, wait_for_global, wait_for_run
from .lease import LeaseBlock
from .sync_run import FlowRun

T = TypeVar("T")
D = TypeVar("D")


def _callers(backend: Backend) -> ThreadCallers:
    return ThreadCallers(backend.binding, backend.flights)


class ContextStore:
    """A durable store for what the nodes of a flow produce, called from blocking code.

    The same as ``AsyncContextStore``, call by call: names, parameters, results and errors. It may be called from any
    thread, also from one that runs an event loop (a notebook), and by any number of threads at once; their writes share
    commits.

        with ContextStore("flows.db") as store:
            store.put("run-1", "extract", {"rows": 3})
            assert store.get("run-1", "extract") == {"rows": 3}

    The store opens itself at its first use. ``KeyboardInterrupt`` during a call is a cancellation: a write that no
    commit has taken yet is withdrawn, another one is finished all the same. After ``fork()`` an object that has
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
        observers: Sequence[Observer] = (),
        max_connections: int = 4,
    ) -> None:
        options = Options(
            durability,
            timeout,
            cache_bytes,
            max_value_bytes,
            read_only,
            create,
            encode_default,
            observers,
            max_connections,
        )
        self._stand_on(backend_for(target, options))
        self._core.backend.views.add(ContextStore, self)

    @classmethod
    def _made_on(cls, backend: Backend) -> Self:
        face = object.__new__(cls)
        cls._stand_on(face, backend)
        return face

    def _stand_on(self, backend: Backend) -> None:
        self._core = Core(backend, _callers)

    @property
    def awaitable(self) -> AsyncContextStore:
        """The same store for tasks: an ``AsyncContextStore`` with the same threads, files, cache and queue.

        The same object at each look, and its ``blocking`` is this one. To close either closes both.
        """
        return awaitable_face_of(self._core.backend)

    @property
    def location(self) -> str:
        """As that of ``awaitable``."""
        return self._core.backend.location

    def __reduce__(self) -> NoReturn:
        self._core.session.__reduce__()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._core}>"

    def _repr_html_(self) -> str:
        return table(type(self).__name__, self._core.facts())

    @documented_as(AsyncContextStore.open)
    def open(self) -> None:
        run_now(self._core.session.open())

    @documented_as(AsyncContextStore.close)
    def close(self) -> None:
        run_now(self._core.session.close())

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run_now(self._core.session.leave())

    @documented_as(AsyncContextStore.put)
    def put(
        self, flow_run_id: Id, node_id: Id, value: Any, *, exist_ok: ExistOk = False, tag: str | None = None
    ) -> None:
        run_now(self._core.outputs.put(flow_run_id, node_id, value, exist_ok, tag))

    @documented_as(AsyncContextStore.append)
    def append(self, flow_run_id: Id, prefix: str, value: Any, *, key: Id | None = None, tag: str | None = None) -> str:
        return run_now(self._core.outputs.append(flow_run_id, prefix, value, key, tag))

    @overload
    def get(self, flow_run_id: Id, node_id: Id, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    def get(self, flow_run_id: Id, node_id: Id, default: D, *, type: type[T]) -> T | D: ...
    @overload
    def get(self, flow_run_id: Id, node_id: Id, default: Any = None, *, type: Any = None) -> Any: ...
    @documented_as(AsyncContextStore.get)
    def get(self, flow_run_id: Id, node_id: Id, default: Any = None, *, type: Any = None) -> Any:
        value = self._core.session.cache.find((flow_run_id, node_id))  # the quick way, as the async face has it
        if value is None:
            return run_now(self._core.outputs.get(flow_run_id, node_id, default, type))
        return decode(value) if type is None else self._core.converted(value, type, flow_run_id, node_id)

    @documented_as(AsyncContextStore.list_keys)
    def list_keys(
        self,
        flow_run_id: Id,
        *,
        prefix: str = "",
        after: Id | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> list[str]:
        return run_now(self._core.parts.list_keys(flow_run_id, prefix, after, limit, reverse))

    @documented_as(AsyncContextStore.put_global)
    def put_global(
        self, key: Id, value: Any, *, exist_ok: bool = False, ttl: float | datetime.timedelta | None = None
    ) -> None:
        run_now(self._core.globals.put(key, value, exist_ok, ttl))

    @documented_as(AsyncContextStore.upsert_global)
    def upsert_global(
        self,
        key: Id,
        value: Any,
        *,
        expected_version: int | None = None,
        ttl: float | datetime.timedelta | None = None,
    ) -> int:
        return run_now(self._core.globals.upsert(key, value, expected_version, ttl))

    @overload
    def get_global(self, key: Id, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    def get_global(self, key: Id, default: D, *, type: type[T]) -> T | D: ...
    @overload
    def get_global(self, key: Id, default: Any = None, *, type: Any = None) -> Any: ...
    @documented_as(AsyncContextStore.get_global)
    def get_global(self, key: Id, default: Any = None, *, type: Any = None) -> Any:
        return run_now(self._core.globals.get(key, default, type))

    @documented_as(AsyncContextStore.get_global_entry)
    def get_global_entry(self, key: Id, *, type: Any = None) -> GlobalEntry | None:
        return run_now(self._core.globals.get_entry(key, type))

    @documented_as(AsyncContextStore.list_globals)
    def list_globals(
        self, prefix: str = "", *, after: Id | None = None, limit: int = 1000, type: Any = None
    ) -> list[GlobalEntry]:
        return run_now(self._core.globals.page(prefix, after, limit, type))

    @documented_as(AsyncContextStore.list_global_keys)
    def list_global_keys(self, prefix: str = "", *, after: Id | None = None, limit: int | None = None) -> list[str]:
        return run_now(self._core.globals.keys(prefix, after, limit))

    @documented_as(AsyncContextStore.get_globals)
    def get_globals(self, keys: Iterable[Id], *, type: Any = None) -> dict[str, Any]:
        return run_now(self._core.globals.get_several(keys, type))

    @documented_as(AsyncContextStore.delete_globals)
    def delete_globals(self, keys: Iterable[Id] | None = None, *, prefix: str | None = None) -> int:
        return run_now(self._core.globals.delete_several(keys, prefix))

    @documented_as(AsyncContextStore.wait_for_global)
    def wait_for_global(
        self, key: Id, *, after_version: int = 0, timeout: float | None = None, type: Any = None
    ) -> GlobalEntry:
        return wait_for_global(self._core, key, after_version, timeout, type)

    @documented_as(AsyncContextStore.delete_global)
    def delete_global(self, key: Id) -> bool:
        return run_now(self._core.globals.delete(key))

    @documented_as(AsyncContextStore.update_global)
    def update_global(
        self,
        key: Id,
        fn: Callable[[Any], Any],
        default: Any = None,
        *,
        ttl: float | datetime.timedelta | Keep | None = KEEP,
    ) -> Any:
        return run_now(self._core.globals.update(key, fn, default, ttl))

    @documented_as(AsyncContextStore.exists)
    def exists(self, flow_run_id: Id, node_id: Id) -> bool:
        return run_now(self._core.outputs.exists(flow_run_id, node_id))

    @documented_as(AsyncContextStore.get_entry)
    def get_entry(self, flow_run_id: Id, node_id: Id, *, type: Any = None) -> Output | None:
        return run_now(self._core.outputs.get_entry(flow_run_id, node_id, type))

    @documented_as(AsyncContextStore.put_many)
    def put_many(self, flow_run_id: Id, outputs: Outputs, *, exist_ok: ExistOk = False) -> list[str]:
        return run_now(self._core.outputs.put_many(flow_run_id, outputs, exist_ok))

    @documented_as(AsyncContextStore.delete_outputs)
    def delete_outputs(
        self, flow_run_id: Id, node_ids: Iterable[Id] | None = None, *, prefix: str | None = None
    ) -> int:
        return run_now(self._core.deletions.delete_outputs(flow_run_id, node_ids, prefix))

    @overload
    def get_many(self, flow_run_id: Id, node_ids: Iterable[Id], *, type: type[T]) -> dict[str, T]: ...
    @overload
    def get_many(self, flow_run_id: Id, node_ids: Iterable[Id], *, type: Any = None) -> dict[str, Any]: ...
    @documented_as(AsyncContextStore.get_many)
    def get_many(self, flow_run_id: Id, node_ids: Iterable[Id], *, type: Any = None) -> dict[str, Any]:
        return run_now(self._core.outputs.get_many(flow_run_id, node_ids, type))

    @overload
    def get_outputs(self, pairs: Iterable[tuple[Id, Id]], *, type: type[T]) -> dict[tuple[str, str], T]: ...
    @overload
    def get_outputs(self, pairs: Iterable[tuple[Id, Id]], *, type: Any = None) -> dict[tuple[str, str], Any]: ...
    @documented_as(AsyncContextStore.get_outputs)
    def get_outputs(self, pairs: Iterable[tuple[Id, Id]], *, type: Any = None) -> dict[tuple[str, str], Any]:
        return run_now(self._core.outputs.get_outputs(pairs, type))

    @documented_as(AsyncContextStore.list_outputs)
    def list_outputs(
        self,
        flow_run_id: Id,
        *,
        prefix: str = "",
        after: Id | None = None,
        limit: int = 100,
        reverse: bool = False,
        type: Any = None,
    ) -> list[Output]:
        return run_now(self._core.parts.list_outputs(flow_run_id, prefix, after, limit, reverse, type))

    @overload
    def get_run(self, flow_run_id: Id, *, prefix: str = "", type: type[T]) -> dict[str, T]: ...
    @overload
    def get_run(self, flow_run_id: Id, *, prefix: str = "", type: Any = None) -> dict[str, Any]: ...
    @documented_as(AsyncContextStore.get_run)
    def get_run(self, flow_run_id: Id, *, prefix: str = "", type: Any = None) -> dict[str, Any]:
        return run_now(self._core.parts.get_run(flow_run_id, prefix, type))

    @documented_as(AsyncContextStore.iter_outputs)
    def iter_outputs(
        self, flow_run_id: Id, *, prefix: str = "", after: Id | None = None, reverse: bool = False, type: Any = None
    ) -> Iterator[Output]:
        return self._core.parts.iterate_now(flow_run_id, prefix, after, reverse, type)

    @documented_as(AsyncContextStore.batch)
    def batch(self, *, lease: Lease | None = None) -> Batch:
        return Batch(self._core, lease)

    @overload
    def get_or_put(self, flow_run_id: Id, node_id: Id, factory: Callable[[], Any], *, type: type[T]) -> T: ...
    @overload
    def get_or_put(self, flow_run_id: Id, node_id: Id, factory: Callable[[], Any], *, type: Any = None) -> Any: ...
    @documented_as(AsyncContextStore.get_or_put)
    def get_or_put(self, flow_run_id: Id, node_id: Id, factory: Callable[[], Any], *, type: Any = None) -> Any:
        return run_now(self._core.waits.get_or_put(flow_run_id, node_id, factory, type))

    @overload
    def wait_for(self, flow_run_id: Id, node_id: Id, *, timeout: float | None = None, type: type[T]) -> T: ...
    @overload
    def wait_for(self, flow_run_id: Id, node_id: Id, *, timeout: float | None = None, type: Any = None) -> Any: ...
    @documented_as(AsyncContextStore.wait_for)
    def wait_for(self, flow_run_id: Id, node_id: Id, *, timeout: float | None = None, type: Any = None) -> Any:
        return wait_for(self._core, flow_run_id, node_id, timeout, type)

    @documented_as(AsyncContextStore.watch)
    def watch(
        self,
        flow_run_id: Id | None = None,
        *,
        prefix: str = "",
        after: str | None = None,
        until: Id | None = None,
        type: Any = None,
    ) -> Generator[Output, None, None]:
        return iterate(self._core.watching.watch(flow_run_id, prefix, after, until, type))

    @documented_as(AsyncContextStore.wait_for_run)
    def wait_for_run(
        self,
        flow_run_id: Id,
        *,
        state: RunState | Iterable[RunState] = ("completed", "failed", "cancelled"),
        timeout: float | None = None,
    ) -> RunInfo:
        return wait_for_run(self._core, flow_run_id, state, timeout)

    @documented_as(AsyncContextStore.watch_runs)
    def watch_runs(
        self,
        *,
        after: str | None = None,
        state: RunState | Literal["deleted"] | Iterable[RunState | Literal["deleted"]] | None = None,
        attributes: RunAttributes | None = None,
        parent: Id | None = None,
    ) -> Generator[RunInfo, None, None]:
        return iterate(self._core.run_watching.watch(after, state, attributes, parent))

    @documented_as(AsyncContextStore.cursor)
    def cursor(self, of: Literal["outputs", "runs"] = "outputs") -> str:
        return run_now(self._core.watching.newest_cursor(of))

    @documented_as(AsyncContextStore.run)
    def run(self, flow_run_id: Id, *, check_inputs: bool = False, lease: Lease | None = None) -> FlowRun:
        check_flag("check_inputs", check_inputs)
        return FlowRun(self._core, flow_run_key(flow_run_id), check_inputs=check_inputs, lease=lease)

    @documented_as(AsyncContextStore.lease)
    def lease(self, name: Id, *, ttl: float | datetime.timedelta = 30.0, wait: float | None = None) -> LeaseBlock:
        return LeaseBlock(self._core, name, ttl, wait)

    @documented_as(AsyncContextStore.list_leases)
    def list_leases(self, prefix: str = "") -> list[Lease]:
        return run_now(self._core.leases.page(prefix))

    @documented_as(AsyncContextStore.list_runs)
    def list_runs(
        self,
        *,
        prefix: str = "",
        after: Id | None = None,
        limit: int = 100,
        oldest_first: bool = False,
        state: str | Iterable[str] | None = None,
        attributes: Mapping[str, str | int | float | bool] | None = None,
        parent: Id | None = None,
        since: datetime.datetime | None = None,
        until: datetime.datetime | None = None,
    ) -> list[RunInfo]:
        return run_now(
            self._core.run_listing.page(prefix, after, limit, oldest_first, state, attributes, parent, since, until)
        )

    @documented_as(AsyncContextStore.get_run_info)
    def get_run_info(self, flow_run_id: Id) -> RunInfo | None:
        return run_now(self._core.run_facts.info(flow_run_id))

    @documented_as(AsyncContextStore.fork_run)
    def fork_run(
        self, flow_run_id: Id, *, new_flow_run_id: Id | None = None, node_ids: Iterable[Id] | None = None
    ) -> str:
        return run_now(self._core.runs.fork(flow_run_id, new_flow_run_id, node_ids))

    @documented_as(AsyncContextStore.delete_run)
    def delete_run(self, flow_run_id: Id, *, forget: bool = False) -> int:
        return run_now(self._core.retention.delete_run(flow_run_id, forget))

    @documented_as(AsyncContextStore.prune)
    def prune(
        self,
        *,
        older_than: datetime.timedelta | None,
        state: RunState | Iterable[RunState] | None = None,
        dry_run: bool = False,
        progress: Callable[[int, int], Any] | None = None,
    ) -> PruneReport:
        return run_now(self._core.retention.prune(older_than, state, dry_run, progress))

    @documented_as(AsyncContextStore.stats)
    def stats(self) -> StoreStats:
        return run_now(self._core.maintenance.stats())

    @documented_as(AsyncContextStore.counters)
    def counters(self) -> Counters:
        return self._core.counters()

    @documented_as(AsyncContextStore.ping)
    def ping(self) -> float:
        return run_now(self._core.maintenance.ping())

    @documented_as(AsyncContextStore.check)
    def check(self, *, progress: Callable[[int, int], Any] | None = None) -> CheckReport:
        return run_now(self._core.maintenance.check(progress))

    @documented_as(AsyncContextStore.backup)
    def backup(
        self,
        path: str | os.PathLike[str],
        *,
        check: bool = True,
        overwrite: bool = False,
        progress: Callable[[int, int], Any] | None = None,
    ) -> None:
        run_now(self._core.maintenance.backup(path, check, overwrite, progress))


def core_of(store: ContextStore) -> Core:
    """For the functions of this package that take a store."""
    return store._core


def blocking_face_of(backend: Backend) -> ContextStore:
    """The one that is there, or a new one."""
    return backend.views.the(ContextStore, lambda: ContextStore._made_on(backend))
