"""The core: ``AsyncContextStore``, with the names, rules and errors of the contract.

Rules of this module: no SQL, no threads, no event loop of its own making. A call checks and encodes what it was given,
asks the cache, and leaves the rest to the writer and the reader; it awaits nothing but what its ``Callers`` gave it, so
that the blocking face can run the same code (see _callers). Whatever is shared between calls may be touched by several
threads at once.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import inspect
import os
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self, TypeVar, overload

from .._core.retention import Deletion
from .._core.target import Durability, Target, engine_for
from .._dispatch.cache import OutputCache
from .._dispatch.host import EngineHost
from .._dispatch.reader import Reader
from .._dispatch.subscriptions import Subscriptions
from .._dispatch.writer import LEAST_PATIENCE, Writer
from .._engine.epochs import Epoch, is_known
from .._engine.failures import error_for_caller
from .._engine.operations import DeleteGlobal, Operation, PutGlobal, PutOutput, UpsertGlobal
from .._engine.records import Fetched, GlobalRecord, OutputKey, OutputRecord
from .._process.log_handover import prepare as prepare_logging
from .._results import CheckReport, GlobalEntry, Output, PruneReport, RunInfo, StoreStats
from .._values.arguments import check_count, check_function, check_plain_function, check_seconds
from .._values.codec import Encoded, decode, encode
from .._values.keys import Id, Outputs, flow_run_key, global_key, named, node_key, prefix_key
from .._values.keys import new_flow_run_id as new_id
from .._waiting.callers import Callers, KeyedLock, ProgressChannel, TaskCallers
from .._waiting.outcome import Outcome
from ..errors import (
    AlreadyExistsError,
    CorruptStoreError,
    DeserializationError,
    InvalidKeyError,
    ReadOnlyStoreError,
    RunDeletedError,
    SerializationError,
    StorageError,
    StoreClosedError,
    VersionConflictError,
)
from .batch import AsyncBatch
from .run import AsyncFlowRun

kind_of = type  # whose name is that of a parameter here

T = TypeVar("T")
D = TypeVar("D")

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_LARGEST = 999_000_000  # bytes of a value: SQLite's rows end at 10**9, with the keys in them; PostgreSQL's beyond that
_MOST = 2**31 - 1  # what every engine takes for a limit
_GET_MANY = 500  # outputs that get_many fetches in one trip to the engine
_PAGE_ROWS = 200  # rows of a page at most,
_PART_ROWS = 8  # outputs that are fetched by name at a time, however large each of them may be
_PAGE_BYTES = 2**20  # and about so many bytes: what an iteration holds in memory
_LIST_KEYS = 5000  # node ids that are listed by one look


class AsyncContextStore:
    """A durable store for what the nodes of a flow produce, awaited from asyncio code.

    Each output is written once, under ``(flow_run_id, node_id)``; beside the outputs there are global keys. A write
    that has returned is durable and visible to every later read in any process; a write that has raised stored
    nothing, unless it is a ``StorageError`` whose ``outcome_unknown`` is true.

        async with AsyncContextStore("flows.db") as store:
            await store.put("run-1", "extract", {"rows": 3})
            assert await store.get("run-1", "extract") == {"rows": 3}

    The store opens itself at its first use, belongs to the event loop of that first use, and may be used by any number
    of tasks at once. ``ContextStore`` is the same for blocking code.

    Args:
        target: where the store is. A path, ``":memory:"`` for a private store that ends with this object, or a URL:
            ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``postgresql://user:password@host:5432/database``. A
            ``Path`` is always a path.
        durability: ``"full"``: what was acknowledged survives a power cut. ``"normal"``: it survives the death of the
            process, and a power cut may lose the last writes.
        timeout: seconds that a call waits at most, from the call on, for another process's lock, a server's answer or
            room in the queue; then ``StoreBusyError``.
        cache_bytes: how much of what was read and written is kept in memory, encoded. 0: nothing.
        max_value_bytes: the largest value, encoded. None: 256 MiB, and 16 MiB on PostgreSQL.
        read_only: refuse every write with ``ReadOnlyStoreError``.
        create: make the store if there is none; else a missing file is a ``StoreNotFoundError``.
        encode_default: a function that is asked, as ``json.dumps``'s ``default`` is, for an object that has no JSON
            form, and returns something that has. It is called in the thread that puts, at the time of the call, and may
            call the store. Whatever it raises makes the put a ``SerializationError`` that names the place.
        max_connections: how many connections to a PostgreSQL server at most: one writes, the others read. 2 at least.
            Stores in files and in memory have two, whatever it is.

    A PostgreSQL store is shared by any number of machines, and needs ``pip install contextstore[postgres]``. Its tables
    are in a schema of the database (``?schema=name``, "contextstore" if none is named), which is made at the first
    opening. Of libpq's options the URL takes those that say where and as whom to connect (``sslmode``, ``passfile``,
    ``target_session_attrs`` with several hosts, ``application_name`` …), and ``pooler=transaction`` behind a pooler.
    What is different there: ``timeout`` is also the longest wait for a server that does not answer, or that has no
    connection left; a lost connection is mended, and a write that was under way is sent again, without being stored
    twice, or raises a ``StorageError`` whose ``outcome_unknown`` is true; what another store object has deleted may be
    answered from the cache; ``backup`` is refused: use ``copy``, or the server's own tools.

    Raises:
        TypeError, ValueError: an argument that cannot be meant; no message shows a part of a password. Nothing else:
            constructing does no I/O.
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
        if durability not in ("full", "normal"):
            raise ValueError(f"durability must be 'full' or 'normal', not {durability!r}")
        check_seconds("timeout", timeout)
        if not 0 <= timeout < 1e300:
            raise ValueError(f"timeout must be a finite number of seconds from 0 on, not {timeout!r}")
        check_count("cache_bytes", cache_bytes, 0)
        check_count("max_connections", max_connections, 2)
        self._engine = engine_for(target, durability, float(timeout), read_only, create, max_connections)
        if max_value_bytes is None:
            max_value_bytes = self._engine.max_value_bytes
        self._max_value_bytes = check_count("max_value_bytes", max_value_bytes, 1)
        if max_value_bytes > _LARGEST:
            raise ValueError(f"max_value_bytes must be at most {_LARGEST:,}, not {max_value_bytes:,}")
        if encode_default is not None:
            check_plain_function("encode_default", encode_default)
        self._encode_default = encode_default
        self._read_only = read_only
        self._callers = self._make_callers(max(float(timeout), LEAST_PATIENCE))
        self._cache = OutputCache(cache_bytes, self._engine.epochs)
        self._subscriptions = Subscriptions(self._engine, self._callers)
        notes = [self._cache.committed, self._subscriptions.committed]
        self._writer = Writer(self._engine, self._callers, notes, float(timeout))
        self._reader = Reader(self._engine, self._callers, self._cache, self._writer.patience)
        self._updates = KeyedLock(self._callers)
        writer, reader, subscriptions = self._writer, self._reader, self._subscriptions

        def refuse_calls() -> None:  # holds no reference to the store, which may be collected while its engine runs
            writer.close()
            reader.close()
            subscriptions.close()

        self._refuse_calls = refuse_calls
        self._lifecycle = threading.RLock()  # reentrant: a finalizer that runs while it is held may call the store
        self._host: EngineHost | None = None
        self._is_open = False
        self._is_closed = False

    def _make_callers(self, timeout: float) -> Callers:
        return TaskCallers(self._engine.location, timeout, self._engine.own_threads)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the store {self._engine.location} cannot be copied or sent to another process: make a store object there"
        )

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open" if self._is_open else "not opened yet"
        return f"<{type(self).__name__} {self._engine.location} ({state})>"

    # -- opening and closing ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the store: create the file if need be, migrate it, make durable what a crash has left.

        Idempotent, and done by the first operation anyway. If several calls need the store opened, one opens it and the
        others wait; if that fails, each of them gets the error, and the next call tries anew.

        Raises:
            StoreNotFoundError: there is none and none is to be created, or its folder is missing.
            IncompatibleStoreError: not a store of ours, of a newer schema, or in a place where a store is not safe.
            StorageError, or another of its kind: the file cannot be opened; the message says why.
        """
        self._callers.admit()
        if self._is_open:
            return
        self._callers.settle()
        prepare_logging()
        new = self._host or EngineHost(self._engine, self._refuse_calls)
        with self._lifecycle:
            if self._is_closed:
                raise StoreClosedError(self._engine.location)
            if self._is_open:
                return
            if self._host is None:
                self._host = new
            host = self._host
            host.start()  # also if it was there: an interrupted call may have left it empty
        error = (await self._callers.join(host.opened)).error
        with self._lifecycle:
            if self._is_closed:
                raise StoreClosedError(self._engine.location)
            if error is None:
                self._callers.bind()
                self._is_open = True
                return
            if self._host is host:
                self._host = None
        raise _own(error, self._engine.location)

    async def close(self) -> None:
        """Let accepted writes finish, end whatever waits, and return when the store's threads and files are gone.

        Idempotent; a closed store stays closed. If cancelled, the store closes all the same, in the background.
        """
        if not self._callers.admit_close():
            return
        with self._lifecycle:
            self._is_closed = True
            self._is_open = False
            self._callers.end()
            host = self._host
        # Also if it is not the first close(): an interrupted one may have come to any point of this.
        self._refuse_calls()
        self._cache.clear()
        if host is not None:
            host.is_warned_of = True  # it is not forgotten
            host.stop()
            error = (await self._callers.join(host.closed)).error
            await self._callers.join_thread(host.thread)
            if error is not None:
                raise _own(error, self._engine.location)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        host: EngineHost | None = getattr(self, "_host", None)
        if host is not None and host.is_running_here():
            host.stop()  # first: the warning may be an error
            if not self._is_closed:
                host.warn_unclosed(self)

    # -- outputs ------------------------------------------------------------------------------------------------------

    async def put(self, flow_run_id: Id, node_id: Id, value: Any, *, exist_ok: bool = False) -> None:
        """Write the output of a node, once. When this returns, the output is durable.

        Args:
            flow_run_id, node_id: at most 512 bytes of UTF-8 each, not empty; a ``uuid.UUID`` is stored as its string.
            value: JSON (None, bool, int, float, str, list, dict with str keys), or what has a JSON form (tuples,
                dataclasses, attrs, msgspec and pydantic objects, datetimes, UUIDs, enums, numpy scalars), or, as a
                whole, bytes. An object of a class comes back equal by ``type=`` that class, or is refused.
            exist_ok: take an equal value that is stored already as success. That is what makes a retry safe.

        Raises:
            AlreadyExistsError: there is an output already, and it stands.
            RunDeletedError: the run was deleted.
            InvalidKeyError, SerializationError: it cannot be stored as it is; the message names the place.
            StoreBusyError, StoreFullError, StorageError: the engine could not; see ``outcome_unknown``.
        """
        self._callers.admit()
        flow_run, node = flow_run_key(flow_run_id), node_key(node_id)
        put = PutOutput(flow_run, node, self._encode(value, flow_run, node), exist_ok)
        del value  # a call that waits for its commit keeps what is stored, and not what it was made of as well
        if not self._is_open:  # only now: meanwhile the caller may change the value
            await self.open()
        await self._commit([put])

    @overload
    async def get(self, flow_run_id: Id, node_id: Id, default: Any = None) -> Any: ...
    @overload
    async def get(self, flow_run_id: Id, node_id: Id, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    async def get(self, flow_run_id: Id, node_id: Id, default: D, *, type: type[T]) -> T | D: ...
    @overload
    async def get(self, flow_run_id: Id, node_id: Id, default: Any = None, *, type: Any = None) -> Any: ...
    async def get(self, flow_run_id: Id, node_id: Id, default: Any = None, *, type: Any = None) -> Any:
        """The output of a node, or ``default`` where none is written.

        A stored ``None`` comes back as ``None``, whatever ``default`` is. Each call makes fresh objects.

        Args:
            default: what to return where nothing is written; returned as it is.
            type: convert to this type, and check: a dataclass, TypedDict, NamedTuple, Enum, datetime type, UUID,
                Decimal, Path, containers and unions of these; attrs, msgspec and pydantic types.

        Raises:
            DeserializationError: the stored value does not fit ``type``; the message names the place.
            CorruptStoreError: the stored value is damaged.
            InvalidKeyError, StorageError: no such id can be, or the engine could not read.
        """
        self._callers.admit()
        if not self._is_open:
            await self.open()
        # A plain str is looked for as it is: what is found was checked when it went in.
        if kind_of(flow_run_id) is str is kind_of(node_id):
            value = self._cache.get((flow_run_id, node_id))
        else:
            value = self._cache.get((flow_run_key(flow_run_id), node_key(node_id)))
        if value is None:
            record = await self._reader.fetch((flow_run_key(flow_run_id), node_key(node_id)))
            if record is None:
                return default
            value = record.value
        return decode(value) if type is None else _converted(value, type, flow_run_id, node_id)

    async def list_keys(self, flow_run_id: Id, *, prefix: str = "") -> list[str]:
        """The ids of the nodes that have an output, sorted by code point; loads no values.

        Args:
            prefix: only ids that begin with it, literally.

        Raises:
            InvalidKeyError, StorageError: as for ``get``.
        """
        await self._ready()
        flow_run, literal = flow_run_key(flow_run_id), prefix_key(prefix)
        first = await self._reader.call(lambda: self._engine.first_node_ids(flow_run, literal, _LIST_KEYS))
        if len(first) < _LIST_KEYS:
            return first
        # Anew, so that all are of one moment, and where it keeps no get waiting.
        return await self._reader.scan(lambda: self._engine.list_node_ids(flow_run, literal))

    # -- globals ------------------------------------------------------------------------------------------------------

    async def put_global(self, key: Id, value: Any, *, exist_ok: bool = False) -> None:
        """Write a global key, once. When this returns, it is durable.

        Args:
            key: at most 512 bytes of UTF-8; may be empty.
            value: as for ``put``.
            exist_ok: take an equal value that is stored already as success.

        Raises:
            GlobalAlreadyExistsError: the key is there already, and its value stands.
            InvalidKeyError, SerializationError, StorageError: as for ``put``.
        """
        self._callers.admit()
        name = global_key(key)
        put = PutGlobal(name, self._encode(value, name), exist_ok)
        del value
        await self._ready()
        await self._commit([put])

    async def upsert_global(self, key: Id, value: Any, *, expected_version: int | None = None) -> int:
        """Write a global key, or overwrite whatever is there, also what ``put_global`` wrote.

        Args:
            expected_version: write only if the key is at this version; 0: only if it is not there.

        Returns:
            The new version: 1, 2, … A key's versions never repeat, also after it was deleted.

        Raises:
            VersionConflictError: the key is at another version than expected.
            InvalidKeyError, SerializationError, StorageError: as for ``put``.
        """
        self._callers.admit()
        if expected_version is not None:
            check_count("expected_version", expected_version, 0)
        name = global_key(key)
        upsert = UpsertGlobal(name, self._encode(value, name), expected_version)
        del value
        await self._ready()
        (version,) = await self._commit([upsert])
        return int(version)

    @overload
    async def get_global(self, key: Id, default: Any = None) -> Any: ...
    @overload
    async def get_global(self, key: Id, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    async def get_global(self, key: Id, default: D, *, type: type[T]) -> T | D: ...
    @overload
    async def get_global(self, key: Id, default: Any = None, *, type: Any = None) -> Any: ...
    async def get_global(self, key: Id, default: Any = None, *, type: Any = None) -> Any:
        """The value of a global key, or ``default`` where there is none.

        Args:
            default, type: as for ``get``.

        Raises:
            DeserializationError, CorruptStoreError: as for ``get``.
        """
        await self._ready()
        name = global_key(key)
        record = await self._reader.call(lambda: self._engine.fetch_global(name))
        return default if record is None else _converted(record.value, type, name)

    async def get_global_entry(self, key: Id) -> GlobalEntry | None:
        """A global key's value with its version and when it was written; None where there is none.

        Raises:
            CorruptStoreError: the stored value is damaged.
        """
        await self._ready()
        name = global_key(key)
        record = await self._reader.call(lambda: self._engine.fetch_global(name))
        return None if record is None else _global_entry(record)

    async def list_globals(self, prefix: str = "", *, after: Id | None = None, limit: int = 1000) -> list[GlobalEntry]:
        """Globals with their values, ordered by key.

        Args:
            prefix: only keys that begin with it, literally.
            after: only keys above this one: the last key of the page before.
            limit: how many at most.

        Raises:
            CorruptStoreError: one of the stored values is damaged.
        """
        await self._ready()
        literal, name = prefix_key(prefix), None if after is None else global_key(after, "after")
        most = min(check_count("limit", limit, 1), _MOST)
        records = await self._reader.call(lambda: self._engine.page_globals(literal, name, most))
        return [_global_entry(record) for record in records]

    async def delete_global(self, key: Id) -> bool:
        """Delete a global key; returns whether it was there. Its version is counted on if it is written again.

        Raises:
            StorageError: as for ``put``.
        """
        await self._ready()
        (was_there,) = await self._commit([DeleteGlobal(global_key(key))])
        return bool(was_there)

    async def update_global(self, key: Id, fn: Callable[[Any], Any], default: Any = None) -> Any:
        """Replace a global's value by ``fn`` of it, without lost updates; returns the new value, as a get would.

        Args:
            fn: called with a fresh copy of the value, or of ``default``; returns the new one. It may run more than
                once, if another process writes the key meanwhile. With ``AsyncContextStore`` it may be a coroutine
                function. It may use the store, but not update the same key.

        Calls on one key from one store object queue, and run one after the other.

        Raises:
            Whatever ``fn`` raises: then nothing was written.
            SerializationError, StorageError: as for ``put``.
        """
        await self._writable()
        name = global_key(key)
        check_function("fn", fn)
        return await self._updates.run_locked(name, lambda: self._update_global(name, fn, default))

    async def _update_global(self, name: str, fn: Callable[[Any], Any], default: Any) -> Any:
        while True:
            record = await self._reader.call(lambda: self._engine.fetch_global(name))
            old = copy.deepcopy(default) if record is None else decode(record.value)
            new = self._encode(await self._result_of(fn, old), name)
            version = 0 if record is None else record.version
            try:
                await self._commit([UpsertGlobal(name, new, version)])
            except VersionConflictError:
                continue
            return decode(new)

    # -- several outputs ----------------------------------------------------------------------------------------------

    async def exists(self, flow_run_id: Id, node_id: Id) -> bool:
        """Whether a node has an output; loads no value.

        Raises:
            InvalidKeyError, StorageError: as for ``get``.
        """
        await self._ready()
        key = (flow_run_key(flow_run_id), node_key(node_id))
        if self._cache.get(key) is not None:
            return True
        return await self._reader.call(lambda: self._engine.exists(key))

    async def get_entry(self, flow_run_id: Id, node_id: Id) -> Output | None:
        """The output of a node with when it was written and its size in bytes; None where nothing is written.

        Raises:
            CorruptStoreError: the stored value is damaged.
        """
        await self._ready()
        key = (flow_run_key(flow_run_id), node_key(node_id))
        record = await self._reader.fetch(key)
        return None if record is None else _output(key[0], record)

    async def put_many(self, flow_run_id: Id, outputs: Outputs, *, exist_ok: bool = False) -> None:
        """Write several outputs of a run in one commit: all of them, or none.

        Args:
            outputs: values by node id. An empty mapping does nothing.
            exist_ok: outputs that are there already with an equal value stay, missing ones are written, and a single
                different one refuses all.

        Raises:
            AlreadyExistsError and the others of ``put``, for the first that is refused; then nothing was stored.
        """
        self._callers.admit()
        flow_run = flow_run_key(flow_run_id)
        if not isinstance(outputs, Mapping):
            raise TypeError(f"outputs must be a mapping of node ids to values, not {type(outputs).__name__}")
        puts: list[Operation] = []
        for node_id, value in dict(outputs).items():
            node = node_key(node_id)
            puts.append(PutOutput(flow_run, node, self._encode(value, flow_run, node), exist_ok))
            del value
        del outputs
        await self._ready()
        if puts:
            await self._commit(puts)

    async def get_many(self, flow_run_id: Id, node_ids: Iterable[Id]) -> dict[str, Any]:
        """The outputs of these nodes, in this order; those that are not there are left out.

        Raises:
            CorruptStoreError: one of the stored values is damaged.
        """
        await self._ready()
        flow_run = flow_run_key(flow_run_id)
        keys = list(dict.fromkeys((flow_run, node_key(node_id)) for node_id in _several(node_ids)))
        return {key[1]: decode(value) for key, value in (await self._get_many(keys)).items()}

    async def _get_many(self, keys: list[OutputKey]) -> dict[OutputKey, Encoded]:
        """The outputs of one run, all of one life of its id, in the order of the keys."""
        epochs = self._engine.epochs
        epoch = epochs.now[0]
        found = {key: value for key in keys if (value := self._cache.get(key)) is not None}
        missing = [key for key in keys if key not in found]
        records: dict[OutputKey, OutputRecord] = {}
        if found and missing and epochs.is_exact:
            records = await self._fetch_many(missing)
            missing = []
        if missing or not is_known(epoch) or epochs.now[0] != epoch:
            # All of them: what was cached may be of a life before that of what is read.
            found, records = {}, await self._fetch_many(keys)
        found |= {key: record.value for key, record in records.items()}
        return {key: found[key] for key in keys if key in found}

    async def _fetch_many(self, keys: list[OutputKey]) -> dict[OutputKey, OutputRecord]:
        if len(keys) <= _GET_MANY:
            return await self._reader.fetch_many(keys)
        while True:
            run = await self._run_now(keys[0][0])
            records: dict[OutputKey, OutputRecord] = {}
            for start in range(0, len(keys), _GET_MANY):
                records |= await self._reader.fetch_many(keys[start : start + _GET_MANY])
            # Else the run was deleted, or its id used anew, between two trips, or it has just begun.
            if {record.run for record in records.values()} <= {run} and run == await self._run_now(keys[0][0]):
                return records

    async def _run_now(self, flow_run: str) -> int | None:
        """The serial of the run that has the id now. None: one without outputs, or none."""
        page = await self._reader.call(lambda: self._engine.page_outputs(flow_run, None, "", 1, 1))
        return next((outcome.result.run for outcome in page if outcome.result is not None), None)

    async def get_run(self, flow_run_id: Id) -> dict[str, Any]:
        """All outputs of a run by node id, in the order of ``list_keys``. It loads them all: see ``iter_outputs``.

        Raises:
            CorruptStoreError: one of the stored values is damaged; its ``node_id`` says which. ``iter_outputs`` gives
                those before it, and with ``after`` those behind it.
        """
        try:
            return {output.node_id: output.value async for output in self.iter_outputs(flow_run_id)}
        except CorruptStoreError as error:
            if error.node_id is None:
                raise
            raise CorruptStoreError(
                f"{error.message}; iter_outputs gives the outputs before it, and with after={error.node_id!r} those "
                "behind it",
                flow_run_id=error.flow_run_id,
                node_id=error.node_id,
            ) from error.__cause__

    async def iter_outputs(self, flow_run_id: Id, *, after: Id | None = None) -> AsyncIterator[Output]:
        """Iterate over the outputs of a run, by node id, a page at a time: memory is bounded, nothing is held between.

        Outputs that are written meanwhile may or may not be seen. The iteration may be left at any point.

        Args:
            after: only outputs with a node id above this one. None, or empty: from the first on.

        Raises:
            CorruptStoreError: the stored value whose turn it is is damaged. Its ``node_id`` says which: with that as
                ``after`` the iteration can be begun anew behind it.
        """
        flow_run = flow_run_key(flow_run_id)
        first = "" if after is None or after == "" else node_key(after, "after")
        async with contextlib.aclosing(self._iter_records(flow_run, first)) as records:
            async for record in records:
                yield _output(flow_run, record)

    async def _iter_records(self, flow_run: str, after: str) -> AsyncGenerator[OutputRecord, None]:
        run = None
        while page := await self._page_outputs(flow_run, run, after):
            for outcome in page:
                record = outcome.unwrap()
                after, run = record.node_id, record.run
                yield record
                # A closed store answers nothing more, not even with what was fetched ahead.
                await self._ready()

    async def _page_outputs(self, flow_run: str, run: int | None, after: str) -> list[Outcome[OutputRecord]]:
        """A page of the outputs; with the serial of a run only of that one, not of a later life of its id."""
        await self._ready()
        page = await self._reader.call(lambda: self._engine.page_outputs(flow_run, run, after, _PAGE_ROWS, _PAGE_BYTES))
        return _there(page)

    def batch(self) -> AsyncBatch:
        """Write several things in one commit, all of them or none, across runs and globals.

            async with store.batch() as batch:
                batch.put("run-1", "extract", 1)
                batch.upsert_global("latest", "run-1")

        The calls within check and encode at once, and return None; on both faces they are plain calls. The commit is
        made when the block ends, and the first refusal is raised there, with nothing stored. A block that is left by
        an exception stores nothing. The same output twice is a conflict; of the same global twice the last stands.

        Raises:
            AlreadyExistsError, GlobalAlreadyExistsError, VersionConflictError and the others of ``put``: at the end of
            the block. RuntimeError: a call outside the block.
        """
        return AsyncBatch(self._writable, self._encode, self._commit)

    # -- for the flow runner ------------------------------------------------------------------------------------------

    @overload
    async def get_or_put(
        self,
        flow_run_id: Id,
        node_id: Id,
        factory: Callable[[], Awaitable[Any]] | Callable[[], Any],
        *,
        type: type[T],
    ) -> T: ...
    @overload
    async def get_or_put(
        self,
        flow_run_id: Id,
        node_id: Id,
        factory: Callable[[], Awaitable[Any]] | Callable[[], Any],
        *,
        type: Any = None,
    ) -> Any: ...
    async def get_or_put(
        self,
        flow_run_id: Id,
        node_id: Id,
        factory: Callable[[], Awaitable[Any]] | Callable[[], Any],
        *,
        type: Any = None,
    ) -> Any:
        """The output of a node if it has one; else what ``factory()`` returns, stored before this returns.

        The first call returns what a replay would: the stored value, decoded. Calls for one output that come while it
        is being computed wait for that one computation, each with a ``type`` of its own; what does not fit that of the
        call which computes is not stored, and those who asked for another type then compute anew. If another process
        writes the output first, its value is returned.

        Args:
            factory: called without arguments. With ``AsyncContextStore`` it may be a coroutine function, and it runs in
                a task of its own, so that one cancelled caller does not cancel the others; when all are cancelled, so
                is it. With ``ContextStore`` it runs in the calling thread.
            type: as for ``get``. What ``factory`` returns is stored only if its stored form fits.

        Raises:
            Whatever ``factory`` raises, in every call that waited for it: then nothing was stored, and the next call
            computes anew.
            DeserializationError: the value does not fit ``type``. If ``factory`` has just returned it, the message says
            that nothing was stored, and the next call computes anew; else it is that of an output which stands.
            RuntimeError: the factory asked for its own output, perhaps by way of others': it would wait for itself.
            RunDeletedError, SerializationError, StorageError: as for ``put``.
        """
        await self._ready()
        key = (flow_run_key(flow_run_id), node_key(node_id))
        check_function("factory", factory)
        while (value := self._cache.get(key)) is None:
            own = _Computation(self._engine.epochs.now[0])
            found, epoch = await self._callers.single_flight(key, partial(self._get_or_put, key, factory, type, own))
            if own.fitted:
                return own.fitted[0]
            if isinstance(found, Encoded):
                if own.is_begun or self._is_still(epoch):
                    value = found
                    break
                # Joined, and a run was deleted meanwhile: before this call began perhaps, and this one.
            elif found.type is type or found.type == type:
                raise found.error
            # Else this call has joined one that asked for another type, which is no failure of what is asked for here.
        return _converted(value, type, *key)

    def _is_still(self, epoch: Epoch) -> bool:
        epochs = self._engine.epochs
        return not epochs.is_exact or (is_known(epoch) and epochs.now[0] == epoch)

    async def _get_or_put(
        self, key: OutputKey, factory: Callable[[], Any], type: Any, own: _Computation
    ) -> tuple[Encoded | _Misfit, Epoch]:
        """``own`` is that of the caller whose call this is. With the epoch in which it was begun."""
        own.is_begun = True
        return await self._compute(key, factory, type, own.fitted), own.epoch

    async def _compute(
        self, key: OutputKey, factory: Callable[[], Any], type: Any, fitted: list[Any]
    ) -> Encoded | _Misfit:
        """``fitted`` gets what was computed and stored as one of ``type``, converted once."""
        record = await self._reader.fetch(key)
        if record is None:
            # Before the factory is called for nothing. Whether the run is deleted is left to the commit: asking for it
            # here would cost each new output a trip to the engine.
            self._refuse_if_read_only()
            value = self._encode(await self._result_of(factory), *key)
            try:
                made = None if type is None else _converted(value, type, *key)
            except Exception as error:  # noqa: BLE001 - told to those who asked for this type, whatever it is
                return _Misfit(type, _not_stored(error))
            try:
                await self._commit([PutOutput(*key, value, exist_ok=False)])
            except AlreadyExistsError:  # another process was first
                record = await self._reader.fetch(key)
                if record is None:  # and somebody has deleted the run since
                    raise RunDeletedError(key[0]) from None
            else:
                if type is not None:
                    fitted.append(made)
        return value if record is None else record.value

    @overload
    async def wait_for(self, flow_run_id: Id, node_id: Id, *, timeout: float | None = None, type: type[T]) -> T: ...
    @overload
    async def wait_for(
        self, flow_run_id: Id, node_id: Id, *, timeout: float | None = None, type: Any = None
    ) -> Any: ...
    async def wait_for(self, flow_run_id: Id, node_id: Id, *, timeout: float | None = None, type: Any = None) -> Any:
        """The output of a node, waited for until it is written, by any process.

        Args:
            timeout: seconds. None: for ever; 0 or less: look once. ``ContextStore`` warns (``RuntimeWarning``) of None
                on the thread of a running event loop, which it blocks.
            type: as for ``get``.

        Raises:
            TimeoutError: the builtin one: the output was not written in time.
            RunDeletedError: the run is deleted, or is being deleted, so that the output will never be written.
            StoreClosedError: the store was closed meanwhile.
        """
        await self._ready()
        key = (flow_run_key(flow_run_id), node_key(node_id))
        deadline = None
        if timeout is not None:
            check_seconds("timeout", timeout)
            deadline = time.monotonic() + timeout
        value = self._cache.get(key)
        if value is None:
            try:
                value = await self._wait_for(key, deadline)
            except TimeoutError:
                raise TimeoutError(f"{named(*key)} had no output within {timeout:g} seconds") from None
        return _converted(value, type, *key)

    async def _wait_for(self, key: OutputKey, deadline: float | None) -> Encoded:
        record = await self._reader.fetch(key)
        if record is not None:  # and nobody need be asked for news: half of what it takes
            return record.value
        subscription = self._subscriptions.subscription(*key)
        try:
            await subscription.begin(self._host_now())
            while (record := await self._reader.fetch(key)) is None:
                await self._refuse_if_deleted(key[0])
                await subscription.next(None if deadline is None else deadline - time.monotonic())
            return record.value
        finally:
            subscription.close()

    async def watch(self, flow_run_id: Id) -> AsyncIterator[Output]:
        """Iterate over the outputs of a run: those already there by node id, then each once as it is written.

        It goes on for ever, and ends when its consumer stops: leave the loop, or cancel it.

        Raises:
            RunDeletedError: the run is deleted, or is being deleted.
            StoreClosedError: the store was closed meanwhile.
            CorruptStoreError: a stored value is damaged.
        """
        await self._ready()
        flow_run = flow_run_key(flow_run_id)
        subscription = self._subscriptions.subscription(flow_run, None)
        try:
            await subscription.begin(self._host_now())
            seen = set()
            run = None
            # Closed here and not by the collector, which on the thread of a loop would leave that to a task.
            async with contextlib.aclosing(self._iter_records(flow_run, "")) as records:
                async for record in records:
                    run = record.run
                    seen.add(record.node_id)
                    yield _output(flow_run, record)
            await self._refuse_if_deleted(flow_run)
            while True:
                nodes = await subscription.next(None)
                if not nodes:
                    await self._refuse_if_deleted(flow_run)
                # One at least, for its run's serial: of an id that was used anew, all nodes may have been seen before.
                for node_id in [node_id for node_id in nodes if node_id not in seen] or nodes[-1:]:
                    found = await self._reader.fetch((flow_run, node_id))
                    if found is None:  # its run was deleted, which the subscription will tell
                        continue
                    if found.run != (run or found.run):
                        raise RunDeletedError(flow_run)
                    run = found.run
                    if node_id not in seen:
                        seen.add(node_id)
                        yield _output(flow_run, found)
        finally:
            subscription.close()

    def run(self, flow_run_id: Id) -> AsyncFlowRun:
        """The calls of this store bound to one run, and ``step``."""
        return AsyncFlowRun(self, flow_run_key(flow_run_id))

    # -- runs ---------------------------------------------------------------------------------------------------------

    async def list_runs(self, *, prefix: str = "", after: Id | None = None, limit: int = 100) -> list[RunInfo]:
        """The runs that have outputs, newest first, in the order in which the store first saw them.

        Args:
            prefix: only ids that begin with it, literally.
            after: the last run of the page before. It may have been deleted meanwhile.
            limit: how many at most.

        Raises:
            InvalidKeyError: there is no trace of the run ``after``.
        """
        await self._ready()
        literal, run = prefix_key(prefix), None if after is None else flow_run_key(after, "after")
        most = min(check_count("limit", limit, 1), _MOST)
        try:
            records = await self._reader.scan(lambda: self._engine.list_runs(literal, run, most))
        except LookupError:
            raise InvalidKeyError("after", f"{run!r} is no run that this store has a trace of: begin anew") from None
        return [
            RunInfo(
                record.flow_run_id,
                record.outputs,
                _time_if_known(record.first_written_at),
                _time_if_known(record.last_written_at),
            )
            for record in records
        ]

    async def fork_run(
        self, flow_run_id: Id, *, new_flow_run_id: Id | None = None, node_ids: Iterable[Id] | None = None
    ) -> str:
        """A new run that begins with (these of) the outputs of another: how to re-run from a node.

        The copying is done in commits of bounded size. If it is interrupted, the same call with the same
        ``new_flow_run_id`` goes on.

        Args:
            new_flow_run_id: the id of the new run. None: ``new_flow_run_id()``.
            node_ids: the outputs to take along; those that are not there are left out. None: all.

        Returns:
            The id of the new run.

        Raises:
            RunDeletedError: one of the two runs was deleted.
            AlreadyExistsError: the new run has another output already.
        """
        await self._writable()
        source = flow_run_key(flow_run_id)
        target = new_id() if new_flow_run_id is None else flow_run_key(new_flow_run_id)
        if source == target:
            raise InvalidKeyError("new_flow_run_id", "must not be the run that is forked")
        wanted = None if node_ids is None else sorted({node_key(node_id) for node_id in _several(node_ids)})
        await self._refuse_if_deleted(source)
        await self._refuse_if_deleted(target)  # now, since there may be nothing to copy, which no commit would refuse
        after, run = "", None
        while True:
            if wanted is None:
                page = await self._page_outputs(source, run, after)
            else:
                page, size = [], 0
                while wanted and len(page) < _PAGE_ROWS and size < _PAGE_BYTES:
                    part, wanted = wanted[:_PART_ROWS], wanted[_PART_ROWS:]
                    some = await self._fetch_records(source, part)
                    page += some
                    size += sum(len(outcome.result.value.data) for outcome in some if outcome.error is None)
            puts: list[Operation] = []
            for outcome in page:
                record = outcome.unwrap()
                if record.run != (run or record.run):  # the id has another life since
                    raise RunDeletedError(source)
                after, run = record.node_id, record.run
                puts.append(PutOutput(target, record.node_id, record.value, exist_ok=True))
            if puts:
                await self._commit(puts)
            if not (wanted if wanted is not None else page):
                # Of a run that was deleted meanwhile a part was copied, and nothing tells it from the whole.
                await self._refuse_if_deleted(source, run)
                return target

    async def _refuse_if_deleted(self, flow_run: str, run: int | None = None) -> None:
        """With the serial of a run that had outputs also if the id has another life since."""
        if await self._reader.call(lambda: self._engine.is_deleted(flow_run)):
            raise RunDeletedError(flow_run)
        if run is not None and not await self._reader.call(lambda: self._engine.page_outputs(flow_run, run, "", 1, 1)):
            raise RunDeletedError(flow_run)

    async def _fetch_records(self, flow_run: str, node_ids: list[str]) -> list[Outcome[OutputRecord]]:
        keys = [(flow_run, node_id) for node_id in node_ids]
        _, found = await self._reader.call(lambda: self._engine.fetch(keys))
        return _there(found)

    async def delete_run(self, flow_run_id: Id) -> int:
        """Delete a run, for good: later puts raise ``RunDeletedError``, ``get`` gives its default.

        The run is gone for every reader at once; its outputs are then removed in commits of bounded size. If that is
        interrupted, it stays deleted, and another ``delete_run`` or ``prune`` removes the rest. Another store object
        may go on answering from its cache what it had read before.

        Returns:
            How many outputs were removed. 0, and the run is marked as deleted all the same, if it was never seen.

        Raises:
            StorageError: as for ``put``.
        """
        await self._ready()
        return await self._deletion().delete_run(flow_run_key(flow_run_id))

    def _deletion(self) -> Deletion:
        return Deletion(self._engine, self._reader, self._commit)

    async def prune(
        self,
        *,
        older_than: datetime.timedelta,
        dry_run: bool = False,
        progress: Callable[[int, int], Any] | None = None,
    ) -> PruneReport:
        """Delete the runs that were last written to before, forget tombstones of that age, and give the space back.

        A run is as old as its last output, but no older than its beginning. Its cost is that of what is deleted: small
        runs share commits, which are of bounded size, and between which others write; each is final if this is
        interrupted, and the next ``prune`` goes on. Globals stay.

        Args:
            older_than: the age, by the clock of this machine.
            dry_run: only say what would be deleted.
            progress: called with how many runs were looked at, and how many there are.

        Raises:
            StorageError: as for ``put``.
        """
        await self._ready()
        if not isinstance(older_than, datetime.timedelta):
            raise TypeError(f"older_than must be a datetime.timedelta, not {type(older_than).__name__}")
        if older_than < datetime.timedelta(0):
            raise ValueError("older_than must not be negative")
        if progress is not None:
            check_function("progress", progress)
        if not dry_run:
            self._refuse_if_read_only()
        # Not below 0: a timedelta reaches further back than the integers of an engine.
        before = max(0, time.time_ns() // 1000 - older_than // datetime.timedelta(microseconds=1))
        told = None if progress is None else partial(self._result_of, progress)
        deletion = self._deletion()
        return await (deletion.plan(before, told) if dry_run else deletion.prune(before, told))

    # -- care ---------------------------------------------------------------------------------------------------------

    async def stats(self) -> StoreStats:
        """How much there is, and what this store object has done. It counts all rows, beside the other reads: about a
        second for a million.

        Raises:
            StorageError: the engine could not count.
        """
        await self._ready()
        counts = await self._reader.scan(self._engine.count)
        engine = await self._on_host(self._engine.stats)
        return StoreStats(
            location=self._engine.location,
            runs=counts.runs,
            outputs=counts.outputs,
            globals=counts.globals,
            tombstones=counts.tombstones,
            value_bytes=counts.value_bytes,
            file_bytes=engine.file_bytes,
            wal_bytes=engine.wal_bytes,
            commits=self._writer.commits,
            writes=self._writer.writes,
            largest_group=self._writer.largest_group,
            queued_writes=self._writer.queued,
            cache_hits=self._cache.hits,
            cache_misses=self._cache.misses,
            cache_entries=len(self._cache),
            cache_bytes=self._cache.bytes,
            checkpoint_pinned=engine.checkpoint_pinned,
            engine=engine.name,
        )

    async def check(self) -> CheckReport:
        """Look for damage: every page, every value by its checksum, the schema. It changes and stops at nothing.

        It reads the whole store, while others go on reading and writing. What it cannot find is what could be right:
        another time, another version of a global, or one of a run's outputs gone with its index entry.

        Returns:
            Every problem found, by key; ``ok`` if there is none.

        Raises:
            StorageError: the file cannot be opened at all. Damage is not raised, it is reported.
        """
        await self._ready()
        return await self._on_host(self._engine.check)

    async def backup(
        self,
        path: str | os.PathLike[str],
        *,
        check: bool = True,
        overwrite: bool = False,
        progress: Callable[[int, int], Any] | None = None,
    ) -> None:
        """Copy the store, as it is at one moment, to a new file, while it is in use. The copy is a store, mode 0600.

        Args:
            path: where the copy goes. It is there only once it is whole. ``contextstore.restore`` brings it back.
            check: verify the copy as ``check()`` does before it gets its name. Without, what is damaged is copied as it
                is, in about half the time.
            overwrite: replace a regular file that is there, in one step; the new one keeps its mode and owner.
            progress: called with how many pages are done, and how many there are; those to be verified count twice.

        If it is interrupted, or ``progress`` raises, it is given up.

        Raises:
            TargetExistsError: there is something already, and no ``overwrite``, or it is no regular file.
            StoreBusyError: what is there is a store that is in use, such as this one.
            CorruptStoreError: something in the store is damaged; the message names the first problem. No copy is left.
            StorageError: it cannot be written. Then there is no copy.
        """
        await self._ready()
        if not isinstance(path, str | bytes | os.PathLike):
            raise TypeError(f"path must be a str or a Path, not {type(path).__name__}")
        if progress is not None:
            check_function("progress", progress)
        target = os.path.abspath(os.fsdecode(path))
        if "\0" in target:
            raise ValueError(f"path {target!r} has a NUL character")
        events = ProgressChannel(self._callers)
        given_up = False
        told = (-1, 0)

        def report(done: int, total: int) -> None:  # between two steps, in the thread that copies
            nonlocal told
            if given_up:
                raise StorageError(f"the backup to {target} was given up")
            if (done, total) != told:
                told = done, total
                events.report(done, total)

        done = self._host_now().call(lambda: self._engine.backup(target, report, check, overwrite))
        done.add_done_callback(lambda _: events.end())
        try:
            while (event := await events.next()) is not None:
                if progress is not None:
                    await self._result_of(progress, *event)
        except BaseException:
            given_up = True
            await self._callers.join(done)  # so that nothing of it is left when this call is over
            raise
        self._unwrapped(done.result())

    # -- within -------------------------------------------------------------------------------------------------------

    async def _ready(self) -> None:
        self._callers.admit()
        if not self._is_open:
            await self.open()

    async def _writable(self) -> None:
        await self._ready()
        self._refuse_if_read_only()

    def _host_now(self) -> EngineHost:
        host = self._host
        if host is None:
            raise StoreClosedError(self._engine.location)
        return host

    async def _on_host(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self._unwrapped(await self._callers.join(self._host_now().call(function)))

    def _unwrapped(self, outcome: Outcome[T]) -> T:
        """The result of something that others may ask for, too; its error is this caller's own copy."""
        if outcome.error is not None:
            raise _own(outcome.error, self._engine.location)
        return outcome.result

    async def _result_of(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what the user passed in, here and now: in the calling task, or the calling thread."""
        result = function(*arguments)
        if inspect.isawaitable(result):
            return await self._callers.awaited(result, function)
        return result

    def _encode(self, value: Any, *key: str) -> Encoded:
        """The stored form of what is to stand under this key: that of a global, or a flow run and a node."""
        try:
            return encode(value, self._max_value_bytes, self._encode_default)
        except SerializationError as error:
            raise SerializationError(error.path, f"{error.problem} ({named(*key)})") from error.__cause__

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            raise ReadOnlyStoreError(f"{self._engine.location} was opened with read_only=True; nothing was stored")

    async def _read(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """For ``copy``: a read of the engine's, one of very many."""
        await self._ready()
        return await self._reader.scan(call)

    async def _load(self, operations: list[Operation]) -> None:
        """For ``copy``: a commit of what another store has."""
        await self._writable()
        await self._commit(operations)

    def _commit(self, operations: list[Operation]) -> Coroutine[Any, Any, list[Any]]:
        self._refuse_if_read_only()
        return self._writer.commit(operations)


class _Computation:
    """What a call of ``get_or_put`` knows of its own computation, if it comes to one and does not join another's."""

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self.is_begun = False
        self.fitted: list[Any] = []


class _Misfit(NamedTuple):
    """What a computation comes to, if what it gave does not fit the type that its caller asked for."""

    type: Any
    error: Exception


def _not_stored(error: Exception) -> Exception:
    if not isinstance(error, DeserializationError):
        return error
    told = DeserializationError(error.path, f"{error.problem}; nothing was stored")
    told.__cause__ = error.__cause__
    return told


def _there(some: Iterable[Fetched]) -> list[Outcome[OutputRecord]]:
    """Without what is not there."""
    return [outcome for outcome in some if outcome.result is not None or outcome.error is not None]  # type: ignore[misc]


def _several(node_ids: Iterable[Id]) -> Iterable[Id]:
    if isinstance(node_ids, str | uuid.UUID):  # a str would be taken for its letters, and find nothing
        raise TypeError(f"node_ids must be several ids, not one: pass [{node_ids!r}]")
    if not isinstance(node_ids, Iterable):
        raise TypeError(f"node_ids must be several ids, not {type(node_ids).__name__}")
    return node_ids


def _converted(value: Encoded, type: Any, *key: object) -> Any:
    """The value as one of a type. If it does not fit, the error says whose it is."""
    try:
        return decode(value, type)
    except DeserializationError as error:
        placed = DeserializationError(error.path, f"{error.problem} ({named(*key)})")
        raise placed from error.__cause__ or error


def _time(microseconds: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(microseconds=microseconds)


def _time_if_known(microseconds: int | None) -> datetime.datetime | None:
    return None if microseconds is None else _time(microseconds)


def _output(flow_run_id: str, record: OutputRecord) -> Output:
    value = decode(record.value)
    return Output(flow_run_id, record.node_id, value, _time(record.written_at), len(record.value.data))


def _global_entry(record: GlobalRecord) -> GlobalEntry:
    return GlobalEntry(record.key, decode(record.value), record.version, _time(record.written_at))


def _own(error: BaseException, location: str) -> BaseException:
    return error_for_caller(error, location) if isinstance(error, Exception) else error
