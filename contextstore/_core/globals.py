"""Globals: keys beside the runs, whose values may be written over.

Rules of this module: operations and records; no SQL, no threads. What writes encodes at once, as in ``outputs``.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeAlias

from .._engine.operations import DeleteGlobal, DeleteGlobals, PutGlobal, UpsertGlobal
from .._engine.records import GlobalRecord
from .._results import GlobalEntry
from .._values.arguments import check_count, check_function
from .._values.codec import decode
from .._values.expiry import KEEP, Keep, microseconds_of
from .._values.keys import Id, global_key, prefix_key
from ..errors import VersionConflictError
from .answers import converted, global_entry_of
from .arguments import page_size, several_keys
from .session import Session

_SHORT = 5000
"""So many keys are listed in the time that other reads may well wait."""

Ttl: TypeAlias = float | datetime.timedelta | None


class GlobalService:
    """What the stores' calls for globals do: the async face has their documentation."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, key: Id, value: Any, exist_ok: bool, ttl: Ttl) -> Coroutine[Any, Any, list[Any]]:
        session = self._session
        session.callers.admit()
        name, lasts = global_key(key), microseconds_of(ttl)
        return session.commit([PutGlobal(name, session.encode(value, name), exist_ok, lasts)])

    def upsert(self, key: Id, value: Any, expected_version: int | None, ttl: Ttl) -> Coroutine[Any, Any, int]:
        session = self._session
        session.callers.admit()
        if expected_version is not None:
            check_count("expected_version", expected_version, 0)
        name, lasts = global_key(key), microseconds_of(ttl)
        return self._upsert(UpsertGlobal(name, session.encode(value, name), expected_version, lasts))

    async def _upsert(self, upsert: UpsertGlobal) -> int:
        (version,) = await self._session.commit([upsert])
        return int(version)

    async def get(self, key: Id, default: Any, type: Any) -> Any:
        name, record = await self._fetch(key)
        return default if record is None else converted(record.value, type, name)

    async def get_entry(self, key: Id, type: Any) -> GlobalEntry | None:
        _, record = await self._fetch(key)
        return None if record is None else global_entry_of(record, type)

    async def _fetch(self, key: Id) -> tuple[str, GlobalRecord | None]:
        await self._session.ready()
        name = global_key(key)
        return name, await self._session.read(self._session.engine.fetch_global, name)

    async def page(self, prefix: str, after: Id | None, limit: int, type: Any) -> list[GlobalEntry]:
        await self._session.ready()
        literal, name = prefix_key(prefix), None if after is None else global_key(after, "after")
        page = await self._session.read(self._session.engine.page_globals, literal, name, page_size(limit))
        return [global_entry_of(record, type) for record in page]

    async def keys(self, prefix: str, after: Id | None, limit: int | None) -> list[str]:
        session = self._session
        await session.ready()
        literal, name = prefix_key(prefix), None if after is None else global_key(after, "after")
        most = None if limit is None else page_size(limit)
        is_short = most is not None and most <= _SHORT
        return await (session.read if is_short else session.scan)(session.engine.list_global_keys, literal, name, most)

    async def get_several(self, keys: Iterable[Id], type: Any) -> dict[str, Any]:
        session = self._session
        await session.ready()
        names = list(dict.fromkeys(several_keys(keys)))
        if not names:
            return {}
        found = [outcome.unwrap() for outcome in await session.read(session.engine.fetch_globals, names)]
        return {record.key: converted(record.value, type, record.key) for record in found if record is not None}

    async def delete_several(self, keys: Iterable[Id] | None, prefix: str | None) -> int:
        session = self._session
        await session.ready()
        if (keys is None) == (prefix is None):
            raise TypeError("delete_globals takes either keys or a prefix")
        names = () if keys is None else tuple(dict.fromkeys(several_keys(keys)))
        literal = None if prefix is None else prefix_key(prefix)
        session.refuse_if_read_only()
        if literal is None and not names:
            return 0
        (deleted,) = await session.commit([DeleteGlobals(names, literal)])
        return int(deleted)

    async def delete(self, key: Id) -> bool:
        await self._session.ready()
        (was_there,) = await self._session.commit([DeleteGlobal(global_key(key))])
        return bool(was_there)

    async def update(self, key: Id, fn: Callable[[Any], Any], default: Any, ttl: Ttl | Keep) -> Any:
        await self._session.writable()
        name = global_key(key)
        check_function("fn", fn)
        lasts = None if ttl is KEEP else microseconds_of(ttl)
        update = partial(self._update, name, fn, default, lasts, ttl is KEEP)
        return await self._session.backend.updates.run_locked(self._session.callers, name, update)

    async def _update(self, name: str, fn: Callable[[Any], Any], default: Any, lasts: int | None, is_kept: bool) -> Any:
        """Under the key's lock, which other processes do not know: they are told by the version."""
        session = self._session
        while True:
            record = await session.read(session.engine.fetch_global, name)
            old = copy.deepcopy(default) if record is None else decode(record.value)
            new = session.encode(await session.result_of(fn, old), name)
            version = 0 if record is None else record.version
            try:
                await session.commit([UpsertGlobal(name, new, version, lasts, is_kept)])
            except VersionConflictError:
                continue
            return decode(new)
