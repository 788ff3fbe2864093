"""Globals: keys beside the runs, whose values may be written over.

Rules of this module: operations and records; no SQL, no threads. What writes encodes at once, as in ``outputs``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from .._engine.operations import DeleteGlobal, PutGlobal, UpsertGlobal
from .._engine.records import GlobalRecord
from .._results import GlobalEntry
from .._values.arguments import check_count, check_function
from .._values.codec import decode
from .._values.keys import Id, global_key, prefix_key
from ..errors import VersionConflictError
from .answers import converted, global_entry_of
from .arguments import behind, page_size
from .session import Session


class GlobalService:
    """What the stores' calls for globals do: the async face has their documentation."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, key: Id, value: Any, exist_ok: bool) -> Coroutine[Any, Any, list[Any]]:
        session = self._session
        session.callers.admit()
        name = global_key(key)
        return session.commit([PutGlobal(name, session.encode(value, name), exist_ok)])

    def upsert(self, key: Id, value: Any, expected_version: int | None) -> Coroutine[Any, Any, int]:
        session = self._session
        session.callers.admit()
        if expected_version is not None:
            check_count("expected_version", expected_version, 0)
        name = global_key(key)
        return self._upsert(UpsertGlobal(name, session.encode(value, name), expected_version))

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
        literal, last = prefix_key(prefix), behind(after)
        name = None if last is None else global_key(last, "after")
        page = await self._session.read(self._session.engine.page_globals, literal, name, page_size(limit))
        return [global_entry_of(record, type) for record in page]

    async def delete(self, key: Id) -> bool:
        await self._session.ready()
        (was_there,) = await self._session.commit([DeleteGlobal(global_key(key))])
        return bool(was_there)

    async def update(self, key: Id, fn: Callable[[Any], Any], default: Any) -> Any:
        await self._session.writable()
        name = global_key(key)
        check_function("fn", fn)
        update = partial(self._update, name, fn, default)
        return await self._session.backend.updates.run_locked(self._session.callers, name, update)

    async def _update(self, name: str, fn: Callable[[Any], Any], default: Any) -> Any:
        """Under the key's lock, which other processes do not know: they are told by the version."""
        session = self._session
        while True:
            record = await session.read(session.engine.fetch_global, name)
            old = copy.deepcopy(default) if record is None else decode(record.value)
            new = session.encode(await session.result_of(fn, old), name)
            version = 0 if record is None else record.version
            try:
                await session.commit([UpsertGlobal(name, new, version)])
            except VersionConflictError:
                continue
            return decode(new)
