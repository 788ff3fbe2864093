"""The awaited face: ``AsyncContextStore``, with the names, rules and errors of the contract.

Rules of this module: names, parameters, docstrings; what a call does stands in the core, and each body is one call of
one of its services. ``get`` alone has a quick way here, since most gets find what they ask for in memory.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeVar, overload

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
from .._waiting.tasks import TaskCallers
from ..observers import Observer
from .batch import AsyncBatch
from .lease import AsyncLeaseBlock
from .run import AsyncFlowRun

if TYPE_CHECKING:
    from .sync_store import ContextStore

T = TypeVar("T")
D = TypeVar("D")


def _callers(backend: Backend) -> TaskCallers:
    return TaskCallers(backend.binding, backend.patience, backend.flights)


class AsyncContextStore:
    """A durable store for what the nodes of a flow produce, awaited from asyncio or trio code.

    Each output is written once, under ``(flow_run_id, node_id)``; beside the outputs there are global keys. A write
    that has returned is durable and visible to every later read in any process; a write that has raised stored
    nothing, unless it is a ``StorageError`` with a true ``outcome_unknown``.

        async with AsyncContextStore("flows.db") as store:
            await store.put("run-1", "extract", {"rows": 3})
            assert await store.get("run-1", "extract") == {"rows": 3}

    The store opens itself at its first use, and may be used by any number of tasks at once, of any event loops, also of
    several at once. Each call waits on the loop it was made on, and a loop that ends takes only its own waiting calls
    with it. Leaving ``async with`` closes to the end, also if it is cancelled. ``ContextStore`` is the same for
    blocking code.

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
            call the store. An ``Exception`` of it becomes a ``SerializationError`` that names the place.
        observers: objects that are told of each call, commit, wait and trouble of this store, in this order: see
            ``contextstore.Observer``.
        max_connections: how many connections to a PostgreSQL server at most: one writes, the others read. 2 at least.
            Stores in files and in memory ignore it.

    A PostgreSQL store is shared by any number of machines, and needs the extra ``postgres``. Its tables are in a
    schema of the database (``?schema=name``, "contextstore" if none is named), which is made at the first opening. Of
    libpq's options the URL takes those that say where and as whom to connect (``sslmode``, ``passfile``,
    ``target_session_attrs`` with several hosts, ``application_name`` …), and ``pooler=transaction`` behind a pooler.
    What is different there: ``timeout`` is also the longest wait for a server that does not answer, or that has no
    connection left; a lost connection is mended, and a write that was under way is sent again, without being stored
    twice, or raises a ``StorageError`` with a true ``outcome_unknown``; what another store object has deleted may be
    answered from the cache for a second; ``backup`` is refused: use ``copy``, or the server's own tools.

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
        self._core.backend.views.add(AsyncContextStore, self)

    @classmethod
    def _made_on(cls, backend: Backend) -> Self:
        face = object.__new__(cls)
        cls._stand_on(face, backend)
        return face

    def _stand_on(self, backend: Backend) -> None:
        self._core = Core(backend, _callers)

    @property
    def blocking(self) -> ContextStore:
        """The same store for blocking code: a ``ContextStore`` with the same threads, files, cache and queue.

        The same object at each look, and its ``awaitable`` is this one. To close either closes both.
        """
        from .sync_store import blocking_face_of

        return blocking_face_of(self._core.backend)

    @property
    def location(self) -> str:
        """Where the store is: the path of its file, ``":memory:"``, or a URL without its password. No I/O."""
        return self._core.backend.location

    def __reduce__(self) -> NoReturn:
        self._core.session.__reduce__()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._core}>"

    def _repr_html_(self) -> str:
        return table(type(self).__name__, self._core.facts())

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
        await self._core.session.open()

    async def close(self) -> None:
        """Let accepted writes finish, end all waiting calls, and return when the store's threads and files are gone.

        Idempotent; a closed store stays closed. If cancelled, the store closes all the same, in the background.
        """
        await self._core.session.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._core.session.callers.to_the_end(self._core.session.leave)

    # -- outputs ------------------------------------------------------------------------------------------------------

    async def put(
        self, flow_run_id: Id, node_id: Id, value: Any, *, exist_ok: ExistOk = False, tag: str | None = None
    ) -> None:
        """Write the output of a node, once. When this returns, the output is durable.

        Args:
            flow_run_id, node_id: at most 1,024 bytes of UTF-8 each, not empty; a ``uuid.UUID`` is stored as its string.
            value: JSON (None, bool, int, float, str, list, dict with str keys), or what has a JSON form (tuples,
                dataclasses, attrs, msgspec and pydantic objects, datetimes, UUIDs, enums, numpy scalars), or, as a
                whole, bytes. An object of a class comes back equal by ``type=`` that class, or is refused.
            exist_ok: take an equal value that is stored already as success. That is what makes a retry safe.
                ``"keep"``: whatever is there stands, and nothing is raised.
            tag: what is to stand beside the value, in ``Output.tag``: a media type, a serializer's name. 1 to 64
                printable characters of ASCII. It is part of the value: with another tag an output is another one.

        Raises:
            AlreadyExistsError: there is an output already, and it stands.
            OutputDeletedError: there was one, which ``delete_outputs`` has deleted: its id stays used up.
            RunDeletedError: the run was deleted.
            InvalidKeyError, SerializationError: it cannot be stored as it is; the message names the place.
            StoreBusyError, StoreFullError, StorageError: the engine could not; see ``outcome_unknown``.
        """
        put = self._core.outputs.put(flow_run_id, node_id, value, exist_ok, tag)
        del value  # a call that waits for its commit keeps what is stored, and not what it was made of as well
        await put

    async def append(
        self, flow_run_id: Id, prefix: str, value: Any, *, key: Id | None = None, tag: str | None = None
    ) -> str:
        """Append an output to those of a prefix: it gets the prefix's next id. When this returns, it is durable.

        The id is ``f"{prefix}{n:012}"``. ``n`` is the prefix's own counter in the run, from 1 on, which is moved on
        within the commit: numbers rise in the order of commits, across threads and processes, and never repeat. An id
        that is taken, by a put or by an output that was deleted, is passed over. What was appended is an output like
        any other. (After 999,999,999,999 the digits go on, and ids sort by their number no more.)

            await store.append("run-1", "log/", {"level": "info"})  # "log/000000000001"

        Args:
            flow_run_id: at most 512 bytes of UTF-8, not empty; a ``uuid.UUID`` is stored as its string.
            prefix: with 12 digits behind it, it is a node's id. It may be empty.
            value: what ``put`` takes.
            key: makes a retry safe. The same key again, of the same run and prefix, returns the first id and stores
                nothing, whatever the value: for as long as the run lives, also when that output was deleted. An id as
                any other.
            tag: a word beside the value, in ``Output.tag``: at most 64 characters of ASCII.

        Returns:
            The id of the output.

        Raises:
            RunDeletedError: the run was deleted.
            InvalidKeyError, SerializationError: it cannot be stored as it is; the message names the place.
            StoreBusyError, StoreFullError, StorageError: the engine could not. If ``outcome_unknown`` is true, only a
                ``key`` makes it safe to append again.
        """
        append = self._core.outputs.append(flow_run_id, prefix, value, key, tag)
        del value
        return await append

    @overload
    async def get(self, flow_run_id: Id, node_id: Id, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    async def get(self, flow_run_id: Id, node_id: Id, default: D, *, type: type[T]) -> T | D: ...
    @overload
    async def get(self, flow_run_id: Id, node_id: Id, default: Any = None, *, type: Any = None) -> Any: ...
    async def get(self, flow_run_id: Id, node_id: Id, default: Any = None, *, type: Any = None) -> Any:
        """The output of a node, or ``default`` where none is written.

        A stored ``None`` comes back as ``None``, not as ``default``. Each call makes fresh objects.

        Args:
            default: what to return where nothing is written; returned as it is.
            type: convert to this type, and check: a dataclass, TypedDict, NamedTuple, Enum, datetime type, UUID,
                Decimal, Path, containers and unions of these; attrs, msgspec and pydantic types.

        Raises:
            DeserializationError: the stored value does not fit ``type``; the message names the place.
            CorruptStoreError: the stored value is damaged.
            InvalidKeyError, StorageError: no such id can be, or the engine could not read.
        """
        # The quick way, without a call between: each would be seen.
        value = self._core.session.cache.find((flow_run_id, node_id))
        if value is None:
            return await self._core.outputs.get(flow_run_id, node_id, default, type)
        return decode(value) if type is None else self._core.converted(value, type, flow_run_id, node_id)

    async def list_keys(
        self,
        flow_run_id: Id,
        *,
        prefix: str = "",
        after: Id | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> list[str]:
        """The ids of the nodes that have an output, sorted by code point; loads no values.

        Args:
            prefix: only ids that begin with it, literally.
            after: only ids beyond this one, in the order asked for. None, or empty: from the first on.
            limit: how many at most. None: all, as they are at one moment.
            reverse: the last id first.

        Raises:
            InvalidKeyError, StorageError: no such id can be, or the engine could not read.
        """
        return await self._core.parts.list_keys(flow_run_id, prefix, after, limit, reverse)

    # -- globals ------------------------------------------------------------------------------------------------------

    async def put_global(
        self, key: Id, value: Any, *, exist_ok: bool = False, ttl: float | datetime.timedelta | None = None
    ) -> None:
        """Write a global key, once. When this returns, it is durable.

        Args:
            key: at most 1,024 bytes of UTF-8; may be empty.
            value: JSON, what has a JSON form, or, as a whole, bytes: what ``put`` takes.
            exist_ok: take an equal value that is stored already as success. Then nothing is written, and the key
                expires when it would have.
            ttl: seconds, or a ``timedelta``, from the commit on for which the key is there: more than 0, at most ten
                years. They are counted by the clock of the machine that has the file, or by the server's, which reads
                ask, too. An expired key is not there for any call, and this one writes it anew. None: it stays.

        Raises:
            GlobalAlreadyExistsError: the key is there already, and its value stands.
            InvalidKeyError, SerializationError, StorageError: it cannot be stored as it is, or the engine could not.
        """
        put = self._core.globals.put(key, value, exist_ok, ttl)
        del value
        await put

    async def upsert_global(
        self,
        key: Id,
        value: Any,
        *,
        expected_version: int | None = None,
        ttl: float | datetime.timedelta | None = None,
    ) -> int:
        """Write a global key, or overwrite its value, also one that ``put_global`` wrote.

        Args:
            expected_version: write only if the key is at this version; 0: only if it is not there.
            ttl: as for ``put_global``. Each write sets it anew: without one the key stays for good.

        Returns:
            The new version: 1, 2, … A key's versions never repeat, also after it was deleted or has expired. Once
            ``prune`` has freed it, they begin again above the highest version of all keys that were ever freed.

        Raises:
            VersionConflictError: the key is at another version than expected.
            InvalidKeyError, SerializationError, StorageError: it cannot be stored as it is, or the engine could not.
        """
        upsert = self._core.globals.upsert(key, value, expected_version, ttl)
        del value
        return await upsert

    @overload
    async def get_global(self, key: Id, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    async def get_global(self, key: Id, default: D, *, type: type[T]) -> T | D: ...
    @overload
    async def get_global(self, key: Id, default: Any = None, *, type: Any = None) -> Any: ...
    async def get_global(self, key: Id, default: Any = None, *, type: Any = None) -> Any:
        """The value of a global key, or ``default`` where there is none.

        Args:
            default: what to return where there is none; returned as it is.
            type: convert to this type, and check; any that ``get`` takes.

        Raises:
            DeserializationError: the value does not fit ``type``; the message names the place.
            CorruptStoreError: the value is damaged.
        """
        return await self._core.globals.get(key, default, type)

    async def get_global_entry(self, key: Id, *, type: Any = None) -> GlobalEntry | None:
        """A global key's value with its version, when it was written and when it expires; None where there is none.

        Args:
            type: convert the value to this type, and check; any that ``get`` takes.

        Raises:
            DeserializationError: the value does not fit ``type``.
            CorruptStoreError: the stored value is damaged.
        """
        return await self._core.globals.get_entry(key, type)

    async def list_globals(
        self, prefix: str = "", *, after: Id | None = None, limit: int = 1000, type: Any = None
    ) -> list[GlobalEntry]:
        """Globals with their values, ordered by key.

        Args:
            prefix: only keys that begin with it, literally.
            after: only keys above this one: the last key of the page before. None: from the first on. Behind the empty
                key come all others: where there is none of it, that is the first page.
            limit: how many at most.
            type: convert each value to this type, and check; any that ``get`` takes.

        Raises:
            DeserializationError: a value does not fit ``type``; the message names its key.
            CorruptStoreError: one of the stored values is damaged.
        """
        return await self._core.globals.page(prefix, after, limit, type)

    async def list_global_keys(
        self, prefix: str = "", *, after: Id | None = None, limit: int | None = None
    ) -> list[str]:
        """The keys of globals that are there, sorted by code point; loads no values.

        Args:
            prefix: only keys that begin with it, literally.
            after: only keys above this one: the last key of the page before.
            limit: how many at most. None: all there are at one moment.

        Raises:
            InvalidKeyError, StorageError: no such key can be, or the engine could not read.
        """
        return await self._core.globals.keys(prefix, after, limit)

    async def get_globals(self, keys: Iterable[Id], *, type: Any = None) -> dict[str, Any]:
        """The values of these globals, in this order; those that are not there are left out. One trip to the engine.

        Args:
            type: convert each to this type, and check; any that ``get`` takes.

        Raises:
            DeserializationError: one of the values does not fit ``type``; the message names the place.
            CorruptStoreError: one of the values is damaged.
        """
        return await self._core.globals.get_several(keys, type)

    async def delete_globals(self, keys: Iterable[Id] | None = None, *, prefix: str | None = None) -> int:
        """Delete several globals in one commit, as ``delete_global`` does each; returns how many were there.

        Args:
            keys, prefix: exactly one of the two. Those with these keys, or all whose keys begin with the prefix,
                literally; ``prefix=""``: all there are.

        Raises:
            TypeError: neither of the two is given, or both.
            StorageError: the engine could not; see ``outcome_unknown``.
        """
        return await self._core.globals.delete_several(keys, prefix)

    async def wait_for_global(
        self, key: Id, *, after_version: int = 0, timeout: float | None = None, type: Any = None
    ) -> GlobalEntry:
        """The entry of a global, once it is there with a version above ``after_version``, written by any process.

        At once if it is so already. A global that is deleted, or expires, while this waits is waited for anew: its next
        version is higher. With the version of the entry as the next ``after_version`` one goes on waiting for changes;
        of several that are made quickly the last one is seen.

        Args:
            after_version: at least 0. 0: until it is there.
            timeout: seconds. None: for as long as it takes.
            type: convert the value to this type, and check; any that ``get`` takes.

        Raises:
            TimeoutError: (the builtin) it was not there within ``timeout``.
            DeserializationError: the value does not fit ``type``; the message names the place.
            StoreClosedError: the store was closed meanwhile.
        """
        return await self._core.global_waits.wait_for(key, after_version, timeout, type)

    async def delete_global(self, key: Id) -> bool:
        """Delete a global key; returns whether it was there. Its version is counted on if it is written again.

        Raises:
            StorageError: the engine could not; see ``outcome_unknown``.
        """
        return await self._core.globals.delete(key)

    async def update_global(
        self,
        key: Id,
        fn: Callable[[Any], Any],
        default: Any = None,
        *,
        ttl: float | datetime.timedelta | Keep | None = KEEP,
    ) -> Any:
        """Replace a global's value by ``fn`` of it, without lost updates; returns the new value, as a get would.

        Args:
            fn: called with a fresh copy of the value, or of ``default``; returns the new one. It may run more than
                once, if another process writes the key at that time. With ``AsyncContextStore`` it may be a coroutine
                function. It may use the store, but not update the same key.
            ttl: as for ``put_global``, from this write on. ``contextstore.KEEP``: the key expires when it would have,
                and a new one stays. None: it stays.

        Calls on one key from one store object queue, and run one after the other.

        Raises:
            Any exception that ``fn`` raises: then nothing was written.
            SerializationError, StorageError: the new value cannot be stored as it is, or the engine could not.
        """
        return await self._core.globals.update(key, fn, default, ttl)

    # -- several outputs ----------------------------------------------------------------------------------------------

    async def exists(self, flow_run_id: Id, node_id: Id) -> bool:
        """Whether a node has an output; loads no value.

        Raises:
            InvalidKeyError, StorageError: no such id can be, or the engine could not read.
        """
        return await self._core.outputs.exists(flow_run_id, node_id)

    async def get_entry(self, flow_run_id: Id, node_id: Id, *, type: Any = None) -> Output | None:
        """The output of a node with when it was written and its size in bytes; None where nothing is written.

        Args:
            type: convert the value to this type, and check; any that ``get`` takes.

        Raises:
            DeserializationError: the value does not fit ``type``.
            CorruptStoreError: the stored value is damaged.
        """
        return await self._core.outputs.get_entry(flow_run_id, node_id, type)

    async def put_many(self, flow_run_id: Id, outputs: Outputs, *, exist_ok: ExistOk = False) -> list[str]:
        """Write several outputs of a run in one commit: all of them, or none.

        Args:
            outputs: values by node id. An empty mapping does nothing.
            exist_ok: outputs that are there already with an equal value stay, missing ones are written, and a single
                different one refuses all. ``"keep"``: whatever is there stands, and only what is missing is written.

        Returns:
            The ids that were written, in the order of ``outputs``: all of them, unless ``exist_ok`` let some stand.

        Raises:
            AlreadyExistsError and the others of ``put``, for the first that is refused; then nothing was stored.
        """
        put = self._core.outputs.put_many(flow_run_id, outputs, exist_ok)
        del outputs
        return await put

    async def delete_outputs(
        self, flow_run_id: Id, node_ids: Iterable[Id] | None = None, *, prefix: str | None = None
    ) -> int:
        """Delete outputs of a run: their values go, and their ids stay used up, so that no late writer brings one back.

        Every put of such an id raises ``OutputDeletedError``, and so do ``get_or_put``, before it calls anything, and
        ``wait_for``, also where it waits already; ``get`` gives its default, and no list or count has the output. It is
        done in commits of bounded size, each of them final if it is interrupted; the same call then goes on. Another
        store object on a server, or a read-only one, may answer from its cache for a second more.

        Args:
            node_ids: those to delete. The ones without an output are passed over, and stay free.
            prefix: those that begin with it, literally; ``""``: all. Exactly one of the two is passed.

        Returns:
            How many outputs were deleted. 0 also for a run that was deleted, or was never seen.

        Raises:
            TypeError: both of ``node_ids`` and ``prefix``, or neither.
            StorageError: the engine could not; see ``outcome_unknown``. What was deleted by then is gone.
        """
        return await self._core.deletions.delete_outputs(flow_run_id, node_ids, prefix)

    @overload
    async def get_many(self, flow_run_id: Id, node_ids: Iterable[Id], *, type: type[T]) -> dict[str, T]: ...
    @overload
    async def get_many(self, flow_run_id: Id, node_ids: Iterable[Id], *, type: Any = None) -> dict[str, Any]: ...
    async def get_many(self, flow_run_id: Id, node_ids: Iterable[Id], *, type: Any = None) -> dict[str, Any]:
        """The outputs of these nodes, in this order; those that are not there are left out.

        Args:
            type: convert each value to this type, and check; any that ``get`` takes.

        Raises:
            DeserializationError: a value does not fit ``type``; the message names its node.
            CorruptStoreError: one of the stored values is damaged.
        """
        return await self._core.outputs.get_many(flow_run_id, node_ids, type)

    @overload
    async def get_outputs(self, pairs: Iterable[tuple[Id, Id]], *, type: type[T]) -> dict[tuple[str, str], T]: ...
    @overload
    async def get_outputs(self, pairs: Iterable[tuple[Id, Id]], *, type: Any = None) -> dict[tuple[str, str], Any]: ...
    async def get_outputs(self, pairs: Iterable[tuple[Id, Id]], *, type: Any = None) -> dict[tuple[str, str], Any]:
        """The outputs under these pairs of a run and a node, in this order; those that are not there are left out.

        Args:
            pairs: ``(flow_run_id, node_id)``, of any number of runs.
            type: convert each value to this type, and check; any that ``get`` takes.

        Raises:
            DeserializationError: a value does not fit ``type``; the message names its node and run.
            CorruptStoreError: one of the stored values is damaged.
        """
        return await self._core.outputs.get_outputs(pairs, type)

    async def list_outputs(
        self,
        flow_run_id: Id,
        *,
        prefix: str = "",
        after: Id | None = None,
        limit: int = 100,
        reverse: bool = False,
        type: Any = None,
    ) -> list[Output]:
        """A page of a run's outputs, by node id: at most ``limit``, and about 16 MiB, but one at least.

            last = await store.list_outputs("run-1", reverse=True, limit=1)

        An empty page says that there are no more. All of a page are as they were at one moment.

        Args:
            prefix: only outputs with a node id that begins with it, literally.
            after: only outputs with a node id beyond this one, in the order asked for: that of the last output of the
                page before. None, or empty: from the first on.
            limit: how many at most.
            reverse: the last node id first.
            type: convert each value to this type, and check; any that ``get`` takes.

        Raises:
            DeserializationError: a value does not fit ``type``; the message names its node.
            CorruptStoreError: the first output of the page is damaged. The error's ``node_id`` says which: with that as
                ``after`` one comes behind it. A page ends before a damaged output.
        """
        return await self._core.parts.list_outputs(flow_run_id, prefix, after, limit, reverse, type)

    @overload
    async def get_run(self, flow_run_id: Id, *, prefix: str = "", type: type[T]) -> dict[str, T]: ...
    @overload
    async def get_run(self, flow_run_id: Id, *, prefix: str = "", type: Any = None) -> dict[str, Any]: ...
    async def get_run(self, flow_run_id: Id, *, prefix: str = "", type: Any = None) -> dict[str, Any]:
        """The outputs of a run by node id, in the order of ``list_keys``. It loads them all: see ``iter_outputs``.

        Args:
            prefix: only outputs with a node id that begins with it, literally.
            type: convert each value to this type, and check; any that ``get`` takes.

        Raises:
            DeserializationError: a value does not fit ``type``; the message names its node.
            CorruptStoreError: one of the stored values is damaged; its ``node_id`` says which. ``iter_outputs`` gives
                those before it, and with ``after`` those behind it.
        """
        return await self._core.parts.get_run(flow_run_id, prefix, type)

    def iter_outputs(
        self, flow_run_id: Id, *, prefix: str = "", after: Id | None = None, reverse: bool = False, type: Any = None
    ) -> AsyncIterator[Output]:
        """Iterate over the outputs of a run, by node id, a page at a time: memory is bounded, nothing is held between.

        Outputs that are written during the iteration may or may not be seen. The iteration may be left at any point.

        Args:
            prefix: only outputs with a node id that begins with it, literally.
            after: only outputs with a node id beyond this one, in the order asked for. None, or empty: from the first
                on.
            reverse: the last node id first.
            type: convert each value to this type, and check; any that ``get`` takes.

        Raises:
            DeserializationError: the next value does not fit ``type``; the message names its node.
            CorruptStoreError: the next stored value is damaged. The error's ``node_id`` says which: with that as
                ``after`` the iteration can be begun anew behind it.
        """
        return self._core.parts.iterate(flow_run_id, prefix, after, reverse, type)

    def batch(self, *, lease: Lease | None = None) -> AsyncBatch:
        """Write several things in one commit, all of them or none, across runs and globals.

            async with store.batch() as batch:
                batch.put("run-1", "extract", 1)
                batch.upsert_global("latest", "run-1")

        The calls within check and encode at once, and return None; on both faces they are plain calls. The commit is
        made when the block ends, and the first refusal is raised there, with nothing stored. A block that is left by
        an exception stores nothing. The same output twice is a conflict, a put behind a deletion of it an
        ``OutputDeletedError``; of the same global twice the last stands.

        Args:
            lease: commit only while it is its holder's: see ``lease``.

        Raises:
            AlreadyExistsError, GlobalAlreadyExistsError, VersionConflictError and the others of ``put``: at the end of
                the block.
            LeaseLostError: at the end of the block: another has taken the lease, or it was given back.
            RuntimeError: a call outside the block.
        """
        return AsyncBatch(self._core, lease)

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
                a task of its own, on the loop of the call that started it, with a copy of that call's context and in
                none of its cancel scopes. So one cancelled caller does not cancel the others, on whichever loop they
                wait; when all are cancelled, so is it. If its loop ends before it does, those who wait elsewhere
                compute anew, one of them. With ``ContextStore`` it runs in the calling thread.
            type: convert to this type, and check; any that ``get`` takes. What ``factory`` returns is stored only if
                its stored form fits.

        Raises:
            Any exception of ``factory``, in every call that waited for it: then nothing was stored, and the next call
                computes anew.
            DeserializationError: the value does not fit ``type``. If ``factory`` has just returned it, the message says
                that nothing was stored, and the next call computes anew; else it is that of an output which stands.
            RuntimeError: the factory asked for its own output, perhaps by way of others': it would wait for itself.
            OutputDeletedError: the output was deleted. ``factory`` is not called.
            RunDeletedError, SerializationError, StorageError: what ``factory`` returned could not be stored.
        """
        return await self._core.waits.get_or_put(flow_run_id, node_id, factory, type)

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
            type: convert to this type, and check; any that ``get`` takes.

        Raises:
            TimeoutError: the builtin one: the output was not written in time.
            OutputDeletedError: the output was deleted, also if that was before this call had seen it.
            RunDeletedError: the run is deleted, or is being deleted, so that the output will never be written.
            StoreClosedError: the store was closed while the call waited.
        """
        return await self._core.waits.wait_for(flow_run_id, node_id, timeout, type)

    def watch(
        self,
        flow_run_id: Id | None = None,
        *,
        prefix: str = "",
        after: str | None = None,
        until: Id | None = None,
        type: Any = None,
    ) -> AsyncGenerator[Output, None]:
        """Iterate over the outputs of a run, or of all runs: those already there, then each once as it is written.

        They come in the order of the commits from the first one on, whichever process makes them; within one commit by
        run, in the order in which the store first saw the runs, and node id. It goes on for ever, and ends when its
        consumer stops: leave the loop, or cancel it. To go on later, in another process or after a restart, keep the
        ``cursor`` of the output that was dealt with last.

        Args:
            flow_run_id: None: all runs. Of a run that is deleted meanwhile the rest is passed over then.
            prefix: only node ids that begin with it, literally.
            after: the ``cursor`` of an output that ``watch`` gave. All that was not given before it is given; the last
                ones before it may be given again.
            until: the node, with a ``flow_run_id``, whose output ends the iteration: it is given, whether or not it has
                the prefix. If it lies at ``after`` or before it, the iteration ends at once.
            type: see ``get``.

        Raises:
            ValueError: ``after`` is no cursor of this store as it is now: one of another store, or from before a
                ``restore``; or ``until`` is passed without a ``flow_run_id``.
            RunDeletedError: the run is deleted, or is being deleted, also if its id has been used anew since.
            OutputDeletedError: the output ``until`` is deleted.
            StoreClosedError: the store was closed while the call waited.
            DeserializationError: a value does not fit ``type``.
            CorruptStoreError: a stored value is damaged.
        """
        return self._core.watching.watch(flow_run_id, prefix, after, until, type)

    async def wait_for_run(
        self,
        flow_run_id: Id,
        *,
        state: RunState | Iterable[RunState] = ("completed", "failed", "cancelled"),
        timeout: float | None = None,
    ) -> RunInfo:
        """The run, once it is in one of the states, as its runner has said in any process.

        At once if it is so already. A run that is not there yet is waited for. It looks at the state as it is now: one
        that lasts only for a moment may be over before this has seen it.

        Args:
            state: the name of a state, or several: ``"open"``, ``"completed"``, ``"failed"``, ``"cancelled"``.
            timeout: seconds. None: for ever; 0 or less: look once. ``ContextStore`` warns (``RuntimeWarning``) of None
                on the thread of a running event loop, which it blocks.

        Raises:
            TimeoutError: the builtin one: the run did not come to it in time.
            RunDeletedError: the run is deleted, or is being deleted, also if its id has been used anew since.
            StoreClosedError: the store was closed while the call waited.
            CorruptStoreError: what is stored of the run is damaged.
        """
        return await self._core.run_watching.wait_for(flow_run_id, state, timeout)

    def watch_runs(
        self,
        *,
        after: str | None = None,
        state: RunState | Literal["deleted"] | Iterable[RunState | Literal["deleted"]] | None = None,
        attributes: RunAttributes | None = None,
        parent: Id | None = None,
    ) -> AsyncGenerator[RunInfo, None]:
        """Iterate over runs: those that are there, oldest first, then each as it changes, whichever process does it.

        A run is told as it is begun, updated, given a failure or an output, or deleted (with the state ``"deleted"``),
        in the order of the commits. What is told is the run as it is now, so several quick changes of a run may be told
        as one. It goes on for ever, and ends when its consumer stops: leave the loop, or cancel it. To go on later, in
        another process or after a restart, keep the ``cursor`` of the run that was dealt with last.

        Of a deleted run nothing is left but that it is deleted: who asks for ``attributes`` or ``parent`` is not told.
        Of one that was deleted with ``forget=True`` not even that is left, nor of others once ``prune`` has forgotten
        their tombstones: who looks only then is not told that they are gone.

        Args:
            after: the ``cursor`` of a run that ``watch_runs`` gave. Every change that was not told before it is told;
                the last ones before it may be told again.
            state: the name of a state, or several, ``"deleted"`` among them. Asked of the run as it is told: a run that
                comes to another state is not told any more, nor are deletions, unless that state is named. None: any.
            attributes: only runs that have each of these, with an equal value; compared as JSON.
            parent: only runs that were begun with this one as their parent.

        Raises:
            ValueError: ``after`` is no cursor of the runs of this store as it is now: one of another store, or from
                before a ``restore``, or of an output; or ``state`` or ``attributes`` name what can be none.
            StoreClosedError: the store was closed while the call waited.
            CorruptStoreError: what is stored of a run is damaged.
        """
        return self._core.run_watching.watch(after, state, attributes, parent)

    async def cursor(self, of: Literal["outputs", "runs"] = "outputs") -> str:
        """The place in the store's history as it is now, for those who follow only what is new.

            after = await store.cursor()
            await store.put("run-1", "new", 1)
            async for output in store.watch(after=after):
                assert output.node_id == "new"
                break

        ``watch`` of a run or of all goes on from there, and ``watch_runs`` from that of runs, in this process or in
        another: all that is committed after this call is told, and nothing of before. What was being committed
        meanwhile may be told, too. It costs a short read, however much there is.

        Args:
            of: ``"outputs"``: for ``watch``. ``"runs"``: for ``watch_runs``, which then does not begin with the runs
                that there are.

        Raises:
            ValueError: ``of`` is neither.
        """
        return await self._core.watching.newest_cursor(of)

    def run(self, flow_run_id: Id, *, check_inputs: bool = False, lease: Lease | None = None) -> AsyncFlowRun:
        """The calls of this store bound to one run, and ``step``.

        The object belongs to one life of the id: from its first call on that finds the run, or makes it. Once that run
        is deleted, whoever deleted it, the object's writes and waits raise ``RunDeletedError``, also if the id was
        forgotten and names a new run by now. The store's own calls, by id, know no lives.

        Args:
            check_inputs: record a digest of the arguments with each step, and have a step that is replayed with others
                raise ``InputsChangedError``. The arguments have to be JSON, or bytes; the digest is taken of their JSON
                form, as they are given, before the function is called. An output without a digest is returned. A
                replay takes a trip to the engine.
            lease: every write of the object commits only while the lease is its holder's, else it raises
                ``LeaseLostError``, and nothing is stored: see ``lease``. Reads, and ``fork``, are not fenced.
        """
        check_flag("check_inputs", check_inputs)
        return AsyncFlowRun(self._core, flow_run_key(flow_run_id), check_inputs=check_inputs, lease=lease)

    def lease(self, name: Id, *, ttl: float | datetime.timedelta = 30.0, wait: float | None = None) -> AsyncLeaseBlock:
        """Hold a lease for as long as a block goes on: nobody else has it, in any process, on any machine.

            async with store.lease("nightly", wait=0) as lease:
                run = store.run("nightly-7", lease=lease)
                await run.put("extract", {"rows": 3})

        It is renewed in the background, and given back at the end of the block, however that is left. If its process
        dies, or stops, another takes it over after ``ttl``. A process that goes on then, and does not know yet, is kept
        from writing by the fence: what is written by way of ``run(..., lease=lease)`` or ``batch(lease=lease)`` commits
        only while nobody else has taken the lease since, else ``LeaseLostError``. No clock is asked for that. So what
        has to be done by one at a time is written under the lease; ``lease.lost`` says when it is time to stop, and the
        block itself is not cancelled.

        It is not re-entrant. Callers of one store object get it in the order in which they have asked.

        Args:
            name: of the lease: any text that can be an id, often that of a run.
            ttl: seconds, or a timedelta, from 0.05 seconds to a day: after how long another may take it over if it was
                not renewed. By a clock of the machine that nobody sets; on PostgreSQL by the server's.
            wait: seconds to wait for it while another holds it; 0: one try. None: without end.

        Raises:
            LeaseHeldError: another still holds it after ``wait`` seconds.
            InvalidKeyError, ReadOnlyStoreError, StorageError: as for ``put``. Leaving the block raises none of these.
            RuntimeError: the block goes on already.
        """
        return AsyncLeaseBlock(self._core, name, ttl, wait)

    async def list_leases(self, prefix: str = "") -> list[Lease]:
        """The leases that are held, by any process, ordered by name. Those that have expired are left out.

        Args:
            prefix: only names that begin with it, literally.

        Raises:
            InvalidKeyError, StorageError: no such name can be, or the engine could not read.
        """
        return await self._core.leases.page(prefix)

    # -- runs ---------------------------------------------------------------------------------------------------------

    async def list_runs(
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
        """The runs that there are, newest first, in the order in which the store first saw them.

        With ``since`` or ``until`` they come in the order in which they were begun instead, and those that never were
        are left out. Each filter alone costs a page, however many runs there are; several cost at most what the one
        with the fewest runs has. A page is the last if it is empty.

        Args:
            prefix: only ids that begin with it, literally.
            after: the last run of the page before. It may have been deleted since. None, or empty: the first page.
            limit: how many at most.
            oldest_first: the other way round.
            state: only runs in this state, or in one of several: ``"open"``, ``"completed"``, ``"failed"``,
                ``"cancelled"``. Several cost the page once each.
            attributes: only runs that have all of these, each equal as JSON (``1``, ``1.0`` and ``True`` differ).
            parent: only runs with this parent, which need not be there.
            since: only runs that were begun then or later; aware.
            until: only runs that were begun before; aware.

        Raises:
            InvalidKeyError: there is no trace of the run ``after``, or it was never begun and the order is that.
            ValueError: there is no such state, no such attribute can be, or a time is not aware.
        """
        return await self._core.run_listing.page(
            prefix, after, limit, oldest_first, state, attributes, parent, since, until
        )

    async def get_run_info(self, flow_run_id: Id) -> RunInfo | None:
        """A run, with what its runner has said of it: see ``RunInfo``. None: there is no such run, or it is deleted.

        Raises:
            CorruptStoreError: what was said of it is damaged.
        """
        return await self._core.run_facts.info(flow_run_id)

    async def fork_run(
        self, flow_run_id: Id, *, new_flow_run_id: Id | None = None, node_ids: Iterable[Id] | None = None
    ) -> str:
        """A new run that begins with (these of) the outputs of another: how to re-run from a node.

        The copying is done in commits of bounded size. If it is interrupted, the same call with the same
        ``new_flow_run_id`` goes on. The outputs of the new run have the time of the fork.

        Args:
            new_flow_run_id: the id of the new run. None: ``new_flow_run_id()``.
            node_ids: the outputs to take along; those that are not there are left out. None: all.

        Returns:
            The id of the new run.

        Raises:
            RunDeletedError: one of the two runs was deleted.
            AlreadyExistsError: the new run has another output already.
        """
        return await self._core.runs.fork(flow_run_id, new_flow_run_id, node_ids)

    async def delete_run(self, flow_run_id: Id, *, forget: bool = False) -> int:
        """Delete a run, for good: later puts raise ``RunDeletedError``, ``get`` gives its default.

        The run is gone for every reader at once; its outputs are then removed in commits of bounded size. If that is
        interrupted, it stays deleted, and another ``delete_run`` or ``prune`` removes the rest. Another store object on
        a server, or a read-only one, may answer from its cache for a second more.

        Args:
            forget: leave no trace of the run: when this returns, its id is new. Interrupted, the id stays deleted until
                the call is repeated. Run objects (``run``) that were of the run, in any process, go on refusing to
                write; the store's own calls, by id, begin a new run.

        Returns:
            How many outputs were removed. 0, and the run is marked as deleted all the same, if it was never seen.

        Raises:
            StorageError: the engine could not; see ``outcome_unknown``.
        """
        return await self._core.retention.delete_run(flow_run_id, forget)

    async def prune(
        self,
        *,
        older_than: datetime.timedelta | None,
        state: RunState | Iterable[RunState] | None = None,
        dry_run: bool = False,
        progress: Callable[[int, int], Any] | None = None,
    ) -> PruneReport:
        """Delete the runs that were last written to before, forget tombstones of that age, and give the space back.

        A run is as old as the last write to it of any kind: its beginning, an output, an attempt, an update, a state
        value. One whose id is the name of a lease that is held stays, whatever its age. Globals stay, but nothing is
        left of those that are deleted or have expired, of whatever age.

        Its cost is that of what is deleted: small runs share commits, which are of bounded size, and between which
        others write; each is final if this is interrupted, and the next ``prune`` goes on.

        Args:
            older_than: the age, by the clock of this machine. None: no runs are deleted, and no tombstones forgotten;
                deletions that were interrupted are finished all the same, and space is given back.
            state: only runs in this state, or in one of several: ``"open"``, ``"completed"``, ``"failed"``,
                ``"cancelled"``. None: in any. Of tombstones it is not asked.
            dry_run: only say what would be deleted.
            progress: called with how many runs were looked at, and how many there are.

        Raises:
            StorageError: the engine could not. What was deleted by then is gone.
        """
        return await self._core.retention.prune(older_than, state, dry_run, progress)

    # -- care ---------------------------------------------------------------------------------------------------------

    async def stats(self) -> StoreStats:
        """How much there is, and what this store object has done. It counts all rows, beside the other reads: about a
        second for a million.

        Raises:
            StorageError: the engine could not count.
        """
        return await self._core.maintenance.stats()

    def counters(self) -> Counters:
        """What this store object has done since it was made: calls, errors, waits, commits, and what its cache did.

        A plain call on both faces, without any I/O; also before the store is opened and after it is closed. Another
        object for the same place counts for itself. Raises no error of the store's, such as ``StoreClosedError``.
        """
        return self._core.counters()

    async def ping(self) -> float:
        """Go to the engine and back, and return the seconds that this took: is the store there, and how quickly?

        On SQLite a read of the file's first page under SQLite's lock, on PostgreSQL a round trip to the server, with
        the wait for a connection of the pool. It opens the store if need be, which is not counted in, and holds up no
        other call.

        Raises:
            StorageError, or another of its kind: the store cannot be opened, or read.
        """
        return await self._core.maintenance.ping()

    async def check(self, *, progress: Callable[[int, int], Any] | None = None) -> CheckReport:
        """Look for damage: every page, every value by its checksum, the schema. It changes and stops at nothing.

        It reads the whole store, while others go on reading and writing. What it cannot find is what could be right:
        another time, another version of a global, or one of a run's outputs gone with its index entry.

        Args:
            progress: called with how many outputs and globals were looked at, and how many there are, deleted ones that
                have left a mark among them: as counted at the beginning, and 0 where damage keeps them from being
                counted. If it raises, the check is given up.

        Returns:
            Every problem found, by key; ``ok`` if there is none.

        Raises:
            StorageError: the file cannot be opened at all. Damage is not raised, it is reported.
        """
        return await self._core.maintenance.check(progress)

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
            ValueError: ``path`` is a URL: see ``copy``.
        """
        await self._core.maintenance.backup(path, check, overwrite, progress)


def core_of(store: AsyncContextStore) -> Core:
    """For the functions of this package that take a store."""
    return store._core


def awaitable_face_of(backend: Backend) -> AsyncContextStore:
    """The one that is there, or a new one."""
    return backend.views.the(AsyncContextStore, lambda: AsyncContextStore._made_on(backend))
