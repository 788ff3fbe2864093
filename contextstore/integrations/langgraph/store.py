"""LangGraph's long-term memory, kept in a store: ``ContextStoreStore``, a ``BaseStore`` with everything but vectors.

    from contextstore.integrations.langgraph import ContextStoreStore

    with ContextStoreStore.from_conn_string("flows.db") as store:
        graph = builder.compile(store=store)

Rules of this module: what LangGraph calls, and what it is told; the work is done in ``store_items``, for both faces.
What asks for vectors is refused, and never answered as if it had not asked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, NoReturn

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchOp,
    TTLConfig,
)

from ... import AsyncContextStore, ContextStore
from .store_access import Access, Awaited, Called, run_at_once
from .store_items import Found, get, keep_longer, list_namespaces, put, search
from .store_keys import check_namespace, place_of
from .store_sweeper import Sweeper

_MINUTES_BETWEEN_SWEEPS = 5.0


class ContextStoreStore(BaseStore):
    """Items under namespaces and keys, for graphs: ``graph = builder.compile(store=ContextStoreStore(store))``.

    Both ways of LangGraph's interface work on either face of a store. With an ``AsyncContextStore``, though, ``get``,
    ``put`` and the others that are not awaited raise ``asyncio.InvalidStateError`` in a thread that runs an event loop,
    since they would block it; with a ``ContextStore`` they are taken there, too (a notebook).

    A write that has returned is durable, and all writes of a ``batch`` are one commit; its reads see what was there
    before. ``created_at`` is when an item was first written, whoever writes it over, by the store's clock.

    An item with a ``ttl`` is not there any more once it has passed since its last write, or since the last read with
    ``refresh_ttl`` (the default, unless ``refresh_on_read`` is False): such a read is a write. No sweeper is needed for
    that, and ``omit_expired=False`` changes nothing; sweeping frees space.

    Args:
        store: an open store, or one that opens itself. It is never closed here.
        index: there are no vectors: anything but None is refused, as are a ``query`` and fields to index.
        ttl: as LangGraph has it.
    """

    supports_ttl = True

    def __init__(
        self,
        store: ContextStore | AsyncContextStore,
        *,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
    ) -> None:
        if not isinstance(store, ContextStore | AsyncContextStore):
            raise TypeError(f"it takes a ContextStore or an AsyncContextStore, not {type(store).__name__}")
        if index is not None:
            _refuse_vectors("index=")
        self.store = store
        self.ttl_config = ttl
        self._is_awaited = isinstance(store, AsyncContextStore)
        self._blocking = store.blocking if isinstance(store, AsyncContextStore) else store
        self._called = Called(self._blocking)
        self._awaited = Awaited(store if isinstance(store, AsyncContextStore) else store.awaitable)
        self._sweeper: Sweeper | None = None

    @classmethod
    def from_conn_string(
        cls,
        conn_string: str | os.PathLike[str],
        *,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        **options: Any,
    ) -> OwnStore:
        """One on a store of its own, for ``with`` or ``async with``, which closes it at the end.

        Args:
            conn_string: a path or a URL, as ``ContextStore`` takes it.
            index, ttl: as for the class.
            options: those of ``ContextStore``: ``durability``, ``timeout`` …
        """
        if index is not None:
            _refuse_vectors("index=")
        return OwnStore(cls, conn_string, ttl, options)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations: the reads, then all writes in one commit. Results are in the order of the operations.

        Raises:
            asyncio.InvalidStateError: this thread runs an event loop, and the store was given as its awaited face.
            NotImplementedError: an operation asks for vectors; nothing was done.
            InvalidNamespaceError, ValueError, TypeError: an operation is none; nothing was done.
            StorageError, SerializationError: the engine could not, or a value is no JSON.
        """
        if self._is_awaited and _runs_a_loop():
            raise asyncio.InvalidStateError(
                "a blocking call in a thread that runs an event loop, which would stand still: "
                "await abatch(), aget(), aput() … there, or make this store from a ContextStore"
            )
        return run_at_once(_results(self._called, list(ops)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations: the reads, then all writes in one commit. Results are in the order of the operations.

        Raises:
            NotImplementedError: an operation asks for vectors; nothing was done.
            InvalidNamespaceError, ValueError, TypeError: an operation is none; nothing was done.
            StorageError, SerializationError: the engine could not, or a value is no JSON.
        """
        return await _results(self._awaited, list(ops))

    def sweep_ttl(self) -> int:
        """Free the space of what has expired or was deleted; how many globals of the whole store that were."""
        return self._blocking.prune(older_than=None).globals

    async def asweep_ttl(self) -> int:
        """Free the space of what has expired or was deleted; how many globals of the whole store that were."""
        report = await self._blocking.awaitable.prune(older_than=None)
        return report.globals

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Sweep now and then, in a thread, until the store is closed or ``stop_ttl_sweeper`` is called.

        Without a ``ttl`` configuration nothing is begun. If sweeping goes on already, it does so as before.

        Args:
            sweep_interval_minutes: None: that of the configuration, or five.

        Returns:
            A future that is done once sweeping has ended; to cancel it ends it.
        """
        if not self.ttl_config:
            nothing: Future[None] = Future()
            nothing.set_result(None)
            return nothing
        if self._sweeper is None or not self._sweeper.is_running:
            told = sweep_interval_minutes or self.ttl_config.get("sweep_interval_minutes")
            self._sweeper = Sweeper(self.sweep_ttl, (told or _MINUTES_BETWEEN_SWEEPS) * 60)
        return self._sweeper.future

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """End sweeping, if it goes on; whether it has ended within ``timeout`` seconds (None: it is waited for)."""
        return self._sweeper is None or self._sweeper.stop(timeout)


class OwnStore(AbstractContextManager[ContextStoreStore], AbstractAsyncContextManager[ContextStoreStore]):
    """What ``from_conn_string`` gives: a store that is opened for a block, and closed at its end."""

    def __init__(
        self,
        kind: type[ContextStoreStore],
        target: str | os.PathLike[str],
        ttl: TTLConfig | None,
        options: dict[str, Any],
    ) -> None:
        self._made = kind
        self._target, self._ttl, self._options = target, ttl, options
        self._opened: ContextStoreStore | None = None

    def __enter__(self) -> ContextStoreStore:
        self._opened = self._made(ContextStore(self._target, **self._options).__enter__(), ttl=self._ttl)
        return self._opened

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        store = self._ended()
        assert isinstance(store, ContextStore)
        store.__exit__(exc_type, exc, traceback)

    async def __aenter__(self) -> ContextStoreStore:
        self._opened = self._made(await AsyncContextStore(self._target, **self._options).__aenter__(), ttl=self._ttl)
        return self._opened

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        store = self._ended()
        assert isinstance(store, AsyncContextStore)
        await store.__aexit__(exc_type, exc, traceback)

    def _ended(self) -> ContextStore | AsyncContextStore:
        assert self._opened is not None, "it was not entered"
        opened, self._opened = self._opened, None
        opened.stop_ttl_sweeper(timeout=0)
        return opened.store


async def _results(access: Access, ops: list[Op]) -> list[Result]:
    gets = {number: op for number, op in enumerate(ops) if isinstance(op, GetOp)}
    puts = [op for op in ops if isinstance(op, PutOp)]
    for op in ops:
        _check(op)
    places = {number: place_of(check_namespace(op.namespace), op.key) for number, op in gets.items()}
    found = await get(access, list(places.values()))
    results: list[Result] = [None] * len(ops)
    read: dict[str, Found] = {}
    for number, op in enumerate(ops):
        if isinstance(op, GetOp):
            one = found.get(places[number].global_key)
            results[number] = None if one is None else one.as_item()
            if one is not None and op.refresh_ttl:
                read[one.entry.key] = one
        elif isinstance(op, SearchOp):
            some = await search(access, op)
            results[number] = [one.as_search_item() for one in some]
            if op.refresh_ttl:
                read |= {one.entry.key: one for one in some}
        elif isinstance(op, ListNamespacesOp):
            results[number] = await list_namespaces(access, op)
    if read:
        await keep_longer(access, list(read.values()))
    if puts:
        await put(access, puts)
    return results


def _check(op: object) -> None:
    if isinstance(op, SearchOp):
        check_namespace(op.namespace_prefix)
        if op.query:
            _refuse_vectors("a query")
    elif isinstance(op, PutOp):
        check_namespace(op.namespace)
        if op.index:
            _refuse_vectors("fields to index")
    elif isinstance(op, ListNamespacesOp):
        for condition in op.match_conditions or ():
            check_namespace(condition.path)
    elif not isinstance(op, GetOp):
        raise ValueError(f"Unknown operation type: {type(op)}")  # noqa: TRY004 - what LangGraph's own stores raise


def _refuse_vectors(what: str) -> NoReturn:
    raise NotImplementedError(
        f"{what}: ContextStoreStore has no vectors, so it cannot search by meaning: search by namespace and filter, "
        "or keep what is to be searched by meaning in a store with an index"
    )


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
