"""The core: ``AsyncContextStore``, with the names, rules and errors of the contract.

Rules of this room: no SQL, no threads, no event loop of its own making. A call checks and encodes what it was given,
asks the cache, and leaves the rest to the writer and the reader; it awaits nothing but what its ``Callers`` gave it, so
that the blocking face can run the same code (see _callers). Whatever is shared between calls may be touched by several
threads at once.
"""

from __future__ import annotations

import math
import os
import threading
import urllib.parse
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from . import _codec
from ._callers import Callers, TaskCallers
from ._engine import Engine, Operation, PutGlobal, PutOutput, UpsertGlobal, own_error
from ._keys import Id, flow_run_key, global_key, node_key, prefix_key
from ._reader import OutputCache, Reader
from ._room import EngineRoom, warn_unclosed
from ._sqlite import FileEngine, MemoryEngine, ReadOnlyFileEngine
from ._writer import Writer
from .errors import ReadOnlyStoreError, StoreClosedError

T = TypeVar("T")
D = TypeVar("D")

Durability = Literal["full", "normal"]
Target = str | os.PathLike[str]


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
            ``sqlite:///relative.db``, ``sqlite:////absolute.db``. A ``Path`` is always a path.
        durability: ``"full"``: what was acknowledged survives a power cut. ``"normal"``: it survives the death of the
            process, and a power cut may lose the last writes.
        timeout: seconds that a call waits at most, from the call on, for another process's lock, a server's answer or
            room in the queue; then ``StoreBusyError``.
        cache_bytes: how much of what was read and written is kept in memory, encoded. 0: nothing.
        max_value_bytes: the largest value, encoded. None: 256 MiB.
        read_only: refuse every write with ``ReadOnlyStoreError``.
        create: make the store if there is none; else a missing file is a ``StoreNotFoundError``.

    Raises:
        TypeError, ValueError: an argument that cannot be meant. Nothing else: constructing does no I/O.
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
    ) -> None:
        if durability not in ("full", "normal"):
            raise ValueError(f"durability must be 'full' or 'normal', not {durability!r}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
        if not (math.isfinite(timeout) and timeout >= 0):
            raise ValueError(f"timeout must be a finite number of seconds from 0 on, not {timeout!r}")
        _check_count("cache_bytes", cache_bytes, 0)
        self._engine = _engine_for(target, durability, float(timeout), read_only, create)
        if max_value_bytes is None:
            max_value_bytes = self._engine.max_value_bytes
        self._max_value_bytes = _check_count("max_value_bytes", max_value_bytes, 1)
        self._read_only = read_only
        self._callers = self._make_callers()
        self._cache = OutputCache(cache_bytes)
        self._writer = Writer(self._engine, self._callers, self._cache, float(timeout))
        self._reader = Reader(self._engine, self._callers, self._cache)
        self._lifecycle = threading.Lock()
        self._room: EngineRoom | None = None
        self._is_open = False
        self._is_closed = False

    def _make_callers(self) -> Callers:
        return TaskCallers(self._engine.location)

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
        with self._lifecycle:
            if self._is_closed:
                raise StoreClosedError(self._engine.location)
            if self._is_open:
                return
            room = self._room
            if room is None:
                room = self._room = EngineRoom(self._engine)
                room.start()
        error = await self._callers.join(room.opened)
        with self._lifecycle:
            if self._is_closed:
                raise StoreClosedError(self._engine.location)
            if error is None:
                self._is_open = True
                return
            if self._room is room:
                self._room = None
        raise _own(error, self._engine)

    async def close(self) -> None:
        """Let accepted writes finish, end whatever waits, and return when the store's threads and files are gone.

        Idempotent; a closed store stays closed. If cancelled, the store closes all the same, in the background.
        """
        self._callers.admit_close()
        with self._lifecycle:
            is_first, self._is_closed = not self._is_closed, True
            self._is_open = False
            room = self._room
        if is_first:
            self._writer.close()
            self._reader.close()
            self._cache.clear()
        if room is not None:
            room.stop()
            error = await self._callers.join(room.closed)
            await self._callers.join_thread(room.thread)
            if error is not None:
                raise _own(error, self._engine)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        room: EngineRoom | None = getattr(self, "_room", None)
        if room is not None and not self._is_closed and room.is_running_here():
            warn_unclosed(room)
            room.stop()

    # -- outputs ------------------------------------------------------------------------------------------------------

    async def put(self, flow_run_id: Id, node_id: Id, value: Any, *, exist_ok: bool = False) -> None:
        """Write the output of a node, once. When this returns, the output is durable.

        Args:
            flow_run_id, node_id: at most 512 bytes of UTF-8 each, not empty; a ``uuid.UUID`` is stored as its string.
            value: JSON (None, bool, int, float, str, list, dict with str keys), or what has a JSON form (tuples,
                dataclasses, attrs, msgspec and pydantic objects, datetimes, UUIDs, enums), or, as a whole, bytes.
            exist_ok: take an equal value that is stored already as success. That is what makes a retry safe.

        Raises:
            AlreadyExistsError: there is an output already, and it stands.
            RunDeletedError: the run was deleted.
            InvalidKeyError, SerializationError: it cannot be stored as it is; the message names the place.
            StoreBusyError, StoreFullError, StorageError: the engine could not; see ``outcome_unknown``.
        """
        self._callers.admit()
        if not self._is_open:
            await self.open()
        put = PutOutput(flow_run_key(flow_run_id), node_key(node_id), self._encode(value), exist_ok)
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
                containers and unions of these; attrs, msgspec and pydantic types.

        Raises:
            DeserializationError: the stored value does not fit ``type``; the message names the place.
            CorruptStoreError: the stored value is damaged.
        """
        self._callers.admit()
        if not self._is_open:
            await self.open()
        key = (flow_run_key(flow_run_id), node_key(node_id))
        value = self._cache.get(key)
        if value is None:
            record = await self._reader.fetch(key)
            if record is None:
                return default
            value = record.value
        return _codec.decode(value, type)

    async def list_keys(self, flow_run_id: Id, *, prefix: str = "") -> list[str]:
        """The ids of the nodes that have an output, sorted by code point; loads no values.

        Args:
            prefix: only ids that begin with it, literally.
        """
        await self._ready()
        flow_run, literal = flow_run_key(flow_run_id), prefix_key(prefix)
        return await self._reader.call(lambda: self._engine.list_node_ids(flow_run, literal))

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
        await self._ready()
        await self._commit([PutGlobal(global_key(key), self._encode(value), exist_ok)])

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
        await self._ready()
        if expected_version is not None:
            _check_count("expected_version", expected_version, 0)
        (version,) = await self._commit([UpsertGlobal(global_key(key), self._encode(value), expected_version)])
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
        return default if record is None else _codec.decode(record.value, type)

    # -- within -------------------------------------------------------------------------------------------------------

    async def _ready(self) -> None:
        self._callers.admit()
        if not self._is_open:
            await self.open()

    def _encode(self, value: Any) -> _codec.Encoded:
        return _codec.encode(value, self._max_value_bytes)

    async def _commit(self, operations: list[Operation]) -> list[Any]:
        if self._read_only:
            raise ReadOnlyStoreError(f"{self._engine.location} was opened with read_only=True; nothing was stored")
        return await self._writer.commit(operations)


def _own(error: BaseException, engine: Engine) -> BaseException:
    return own_error(error, engine) if isinstance(error, Exception) else error


def _check_count(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value


# ----------------------------------------------------------------------------------------------------------- the target

_KNOWN = "a path, ':memory:', 'sqlite:///relative.db' or 'sqlite:////absolute.db'"


def _engine_for(target: Target, durability: Durability, timeout: float, read_only: bool, create: bool) -> Engine:
    if isinstance(target, os.PathLike):
        path = os.fspath(target)
        if not isinstance(path, str):
            raise TypeError(f"target must be a str or a Path, not a path of {type(path).__name__}")
    elif not isinstance(target, str):
        raise TypeError(f"target must be a str or a Path, not {type(target).__name__}")
    elif target == ":memory:":
        return _memory_engine(timeout, read_only)
    elif "://" in target:
        path = _path_of_url(target)
        if path == ":memory:":
            return _memory_engine(timeout, read_only)
    else:
        path = target
        if path.startswith("file:"):
            raise ValueError(f"target {target!r} is a SQLite URI, which is not taken; known are {_KNOWN}")
    if not path:
        raise ValueError(f"target must not be empty; known are {_KNOWN}")
    if "\0" in path:
        raise ValueError(f"target {target!r} has a NUL character")
    path = os.path.abspath(path)  # now, so that a later chdir does not move the store
    if read_only:
        return ReadOnlyFileEngine(path, timeout=timeout)
    return FileEngine(path, timeout=timeout, durability=durability, create=create)


def _memory_engine(timeout: float, read_only: bool) -> Engine:
    if read_only:
        raise ValueError("a store in memory is new and empty: read_only=True makes no sense for it")
    return MemoryEngine(timeout)


def _path_of_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme.lower() != "sqlite":
        raise ValueError(f"the scheme {scheme!r} is not known; known are {_KNOWN}")
    if not rest.startswith("/"):
        raise ValueError(f"{url!r} has no path after 'sqlite:///'; known are {_KNOWN}")
    path, mark, _ = rest[1:].partition("?")
    if mark:
        raise ValueError(f"{url!r} has options after '?', of which none is known: pass them as keywords")
    return urllib.parse.unquote(path)
