r"""py-key-value: its key-value protocol, kept in a store's globals. Extra ``py-key-value``.

    from contextstore import shared
    from contextstore.integrations.py_key_value import ContextStoreKeyValue

    sessions = ContextStoreKeyValue(shared("state.db"))
    await sessions.put("user-1", {"theme": "dark"}, collection="settings", ttl=3600)

An entry is one global, named ``<namespace>/<collection>/<key>``, whose value is ``{"value": {…}, "created_at": "…"}``,
with ``"expires_at"`` beside them if it has a time to live. Collections and keys are of any length and any text:

- What a global's key cannot have (NUL, lone surrogates), the ``%``, and the ``/`` of a collection stand there as ``%``
  and two hexadecimal digits for each byte of UTF-8: the collection ``a/b`` is ``a%2Fb``.
- A collection of more than 256 bytes, or a key of more than 512, stands there by its first 64 bytes, ``%:`` and its
  SHA-256 in hexadecimal; the entry then has both, written out, as ``"collection"`` and ``"key"``.

Rules of this module: the framework's base class checks arguments and keeps the rules of its protocol; what is here maps
entries to globals, each call to one trip. Values are what the framework's other stores take, no more: what
``json.dumps`` writes. What it writes and a store's JSON has no form for (NaN, integers of any size, lone surrogates) is
kept as its text.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import orjson

from .. import AsyncContextStore, ContextStore, errors

try:
    from key_value.aio.errors import DeserializationError, SerializationError
    from key_value.aio.stores.base import (
        BaseContextManagerStore,
        BaseCullStore,
        BaseDestroyCollectionStore,
        BaseDestroyStore,
        BaseEnumerateCollectionsStore,
        BaseEnumerateKeysStore,
        ManagedEntry,
    )
except ModuleNotFoundError as error:
    raise ImportError(
        "contextstore.integrations.py_key_value needs py-key-value: pip install 'contextstore[py-key-value]'"
    ) from error

__all__ = ["ContextStoreKeyValue"]

_NOT_IN_COLLECTIONS = re.compile("[%/\0\ud800-\udfff]+")
_NOT_IN_KEYS = re.compile("[%\0\ud800-\udfff]+")
_BEHIND = "0"
"""The character behind ``/``, which ends a collection's name."""
_LONGEST_NAMESPACE = 128
_LONGEST_COLLECTION = 256
_LONGEST_KEY = 512
"""Bytes of UTF-8. Together with two ``/`` they are less than a global's key may have."""
_HEAD = 64
"""Bytes of a long name that its short form begins with, for people, and for the order of lists."""
_SHORT = "%:"
"""What only a short form has in it: elsewhere a ``%`` comes before a hexadecimal digit."""
_NAMES = 64
"""So many entries are read at once where only they have their names."""
_PAGE = 100
"""Keys that are looked at at once for the collections that they are in."""

_LONGEST_TTL = datetime.timedelta(days=3653).total_seconds()
"""A global's. What is to last longer is kept for good, and not there once the entry's own ``expires_at`` is over."""
_SHORTEST_TTL = 1e-6

_LONG_NUMBER = re.compile("[0-9]{19}")

_json_of = json.JSONEncoder().encode


class _Draft(NamedTuple):
    """An entry about to be written."""

    name: str
    record: dict[str, Any]
    text: str
    """Its value as JSON, which stands in the record instead where the store's values have no such thing."""
    ttl: float | None


class ContextStoreKeyValue(
    BaseEnumerateKeysStore,
    BaseEnumerateCollectionsStore,
    BaseDestroyCollectionStore,
    BaseDestroyStore,
    BaseCullStore,
    BaseContextManagerStore,
):
    """A key-value store of py-key-value, FastMCP's for one, in a ``ContextStore``: one file, or one PostgreSQL server.

    Any number of processes may use one place at once. ``put_many`` and ``delete_many`` are one commit, all or nothing;
    ``get_many`` and ``ttl_many`` see one moment. What has expired is not there, nor listed; ``cull()`` gives its room
    back, as does the store's ``prune``.

    Args:
        store: an open store, of either face, or one that opens itself at its first use. It is never closed from here.
        default_collection: of calls that name none.
        namespace: what the names of all globals of this object begin with. Objects with others, in the same store, know
            nothing of each other.
        seed: entries to write at the first use: ``{collection: {key: value}}``.
        blocking_reads: whether ``get`` and ``ttl`` read where they are called, on the thread of the loop, as the
            framework's ``DiskStore`` does. From a file that is several times quicker than through another thread, and
            the loop stands still for as long as the disk takes. Not for a server.
    """

    def __init__(
        self,
        store: ContextStore | AsyncContextStore,
        *,
        default_collection: str | None = None,
        namespace: str = "key_value",
        seed: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
        blocking_reads: bool = False,
    ) -> None:
        if not isinstance(store, ContextStore | AsyncContextStore):
            raise TypeError(f"store is a ContextStore or an AsyncContextStore, not {type(store).__name__}")
        self._store = store.awaitable if isinstance(store, ContextStore) else store
        self._blocking = self._store.blocking if blocking_reads else None
        self._prefix = _escaped(namespace, _NOT_IN_COLLECTIONS) + "/"
        if len(self._prefix.encode()) > _LONGEST_NAMESPACE:
            raise ValueError(f"namespace is too long: more than {_LONGEST_NAMESPACE - 1} bytes of UTF-8")
        super().__init__(
            client_provided_by_user=True, default_collection=default_collection, seed=seed, stable_api=True
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def from_conn_string(
        cls,
        target: Any,
        *,
        default_collection: str | None = None,
        namespace: str = "key_value",
        seed: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
        blocking_reads: bool = False,
        **options: Any,
    ) -> AsyncIterator[Self]:
        """One with a store of its own, which is opened here and closed at the end of the block.

        Args:
            target: a path, or a URL, as ``AsyncContextStore`` takes it.
            default_collection, namespace, seed, blocking_reads: as for the class.
            **options: those of ``AsyncContextStore``: ``durability``, ``timeout``, ….
        """
        async with AsyncContextStore(target, **options) as store:
            made = cls(
                store,
                default_collection=default_collection,
                namespace=namespace,
                seed=seed,
                blocking_reads=blocking_reads,
            )
            async with made:
                yield made

    async def __aenter__(self) -> Self:
        """Open the store, so that one which cannot be opened is an error here."""
        await self._store.open()
        return await super().__aenter__()

    async def _get_managed_entry(self, *, collection: str, key: str) -> ManagedEntry | None:
        name = self._name(collection, key)
        if self._blocking is None:
            record = await self._store.get_global(name)
        else:
            await self._store.open()  # which alone may take long, and is awaited
            record = self._blocking.get_global(name)
        return None if record is None else _entry_of(record)

    async def _get_managed_entries(self, *, collection: str, keys: Sequence[str]) -> list[ManagedEntry | None]:
        names = self._names(collection, keys)
        found = await self._store.get_globals(names)
        return [_entry_of(found[name]) if name in found else None for name in names]

    async def _put_managed_entry(self, *, collection: str, key: str, managed_entry: ManagedEntry) -> None:
        draft = self._draft(self._prefix_of(collection), collection, key, managed_entry)
        try:
            await self._store.upsert_global(draft.name, draft.record, ttl=draft.ttl)
        except errors.SerializationError:
            with _refusals():
                await self._store.upsert_global(draft.name, draft.record | {"value": draft.text}, ttl=draft.ttl)

    async def _put_managed_entries(
        self,
        *,
        collection: str,
        keys: Sequence[str],
        managed_entries: Sequence[ManagedEntry],
        ttl: float | None,
        created_at: datetime.datetime,
        expires_at: datetime.datetime | None,
    ) -> None:
        prefix = self._prefix_of(collection)
        async with self._store.batch() as batch:
            for key, entry in zip(keys, managed_entries, strict=True):
                draft = self._draft(prefix, collection, key, entry)
                try:
                    batch.upsert_global(draft.name, draft.record, ttl=draft.ttl)
                except errors.SerializationError:
                    with _refusals():
                        batch.upsert_global(draft.name, draft.record | {"value": draft.text}, ttl=draft.ttl)

    async def _delete_managed_entry(self, *, key: str, collection: str) -> bool:
        return await self._store.delete_global(self._name(collection, key))

    async def _delete_managed_entries(self, *, keys: Sequence[str], collection: str) -> int:
        return await self._store.delete_globals(self._names(collection, keys))

    async def _get_collection_keys(self, *, collection: str, limit: int | None = None) -> list[str]:
        prefix = self._prefix_of(collection)
        names = await self._store.list_global_keys(prefix, limit=_limit(limit))
        keys = {name: None if _SHORT in name[len(prefix) :] else _plain(name[len(prefix) :]) for name in names}
        nameless = [name for name, key in keys.items() if key is None]
        for start in range(0, len(nameless), _NAMES):
            found = await self._store.get_globals(nameless[start : start + _NAMES])
            keys.update((name, _plain(record["key"])) for name, record in found.items())
        # One that is None has gone meanwhile.
        return [key for key in keys.values() if key is not None]

    async def _get_collection_names(self, *, limit: int | None = None) -> list[str]:
        most, names, after = _limit(limit), list[str](), ""
        while page := await self._store.list_global_keys(self._prefix, after=after or None, limit=_PAGE):
            # All of a collection stand one behind the other.
            for part in dict.fromkeys(name[len(self._prefix) :].partition("/")[0] for name in page):
                name = await self._collection_name(part)
                if name is not None:
                    names.append(name)
                if len(names) == most:
                    return names
                after = f"{self._prefix}{part}{_BEHIND}"
        return names

    async def _collection_name(self, part: str) -> str | None:
        """What the short form of a collection stands for, which its entries know. None if these have gone."""
        if _SHORT not in part:
            return _plain(part)
        entries = await self._store.list_globals(f"{self._prefix}{part}/", limit=1)
        return _plain(entries[0].value["collection"]) if entries else None

    async def _delete_collection(self, *, collection: str) -> bool:
        return await self._store.delete_globals(prefix=self._prefix_of(collection)) > 0

    async def _delete_store(self) -> bool:
        await self._store.delete_globals(prefix=self._prefix)
        return True

    async def _cull(self) -> None:
        await self._store.prune(older_than=None)

    def _prefix_of(self, collection: str) -> str:
        return f"{self._prefix}{_part(collection, _NOT_IN_COLLECTIONS, _LONGEST_COLLECTION)}/"

    def _name(self, collection: str, key: str) -> str:
        """Of the global that an entry is."""
        return self._prefix_of(collection) + _part(key, _NOT_IN_KEYS, _LONGEST_KEY)

    def _names(self, collection: str, keys: Sequence[str]) -> list[str]:
        prefix = self._prefix_of(collection)
        return [prefix + _part(key, _NOT_IN_KEYS, _LONGEST_KEY) for key in keys]

    def _draft(self, prefix: str, collection: str, key: str, entry: ManagedEntry) -> _Draft:
        value = entry.value
        try:
            if not all(isinstance(name, str) for name in value):
                raise TypeError("the keys of a value are strings")
            text = _json_of(dict(value))
        except (TypeError, ValueError, RecursionError) as error:
            raise SerializationError(f"Failed to serialize object to JSON: {error}") from error
        name, record = prefix + _part(key, _NOT_IN_KEYS, _LONGEST_KEY), dict[str, Any](value=_read_again(text))
        if entry.created_at is not None:
            record["created_at"] = entry.created_at.isoformat()
        if entry.expires_at is not None:
            record["expires_at"] = entry.expires_at.isoformat()
        if _SHORT in name:
            record |= {"collection": _escaped(collection, _NOT_IN_COLLECTIONS), "key": _escaped(key, _NOT_IN_KEYS)}
        return _Draft(name, record, text, _ttl_of(entry))


def _escaped(text: str, not_in: re.Pattern[str]) -> str:
    return not_in.sub(lambda found: "".join(f"%{byte:02X}" for byte in _bytes(found[0])), text)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _plain(part: str) -> str:
    """What ``_escaped`` was given."""
    if "%" not in part:
        return part
    pieces = re.split("%(..)", part)
    pieces_of_bytes = [bytes.fromhex(p) if n % 2 else p.encode() for n, p in enumerate(pieces)]
    return b"".join(pieces_of_bytes).decode("utf-8", "surrogatepass")


def _part(text: str, not_in: re.Pattern[str], longest: int) -> str:
    """A collection or a key as it stands in a global's name."""
    # What is far too long is not written out first.
    if len(text) <= longest:
        part = _escaped(text, not_in)
        if len(part if part.isascii() else part.encode()) <= longest:
            return part
    head = _escaped(text[:_HEAD], not_in).encode()[:_HEAD].decode(errors="ignore")
    return f"{head}{_SHORT}{hashlib.sha256(_bytes(text)).hexdigest()}"


def _limit(limit: int | None) -> int | None:
    """As the framework's other stores have it, no number and none above 0 are no limit of the caller's."""
    return limit if limit is not None and limit > 0 else None


def _read_again(text: str) -> Any:
    """A value as it comes back, or its text where only ``json`` itself knows what it says."""
    try:
        # orjson is five times as quick; what is beyond 64 bits would be a float to it.
        return json.loads(text) if _LONG_NUMBER.search(text) else orjson.loads(text)
    except ValueError:
        return text


def _entry_of(record: Any) -> ManagedEntry:
    try:
        value = record["value"]
        value = json.loads(value) if isinstance(value, str) else value
        created_at, expires_at = _time_of(record.get("created_at")), _time_of(record.get("expires_at"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DeserializationError(f"What is stored is no entry: {error!r}") from error
    if not isinstance(value, dict):
        raise DeserializationError(f"What is stored is no entry: its value is of type {type(value).__name__}")
    return ManagedEntry(value=value, created_at=created_at, expires_at=expires_at)


def _time_of(text: str | None) -> datetime.datetime | None:
    return None if text is None else datetime.datetime.fromisoformat(text)


def _ttl_of(entry: ManagedEntry) -> float | None:
    """Seconds from now on. What is over already is written all the same: what was there before is not to come back."""
    remaining = entry.ttl
    return None if remaining is None or remaining > _LONGEST_TTL else max(remaining, _SHORTEST_TTL)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Raise what the store refuses as the framework's own error."""
    try:
        yield
    except errors.SerializationError as error:
        raise SerializationError(str(error)) from error
