"""State values of a run: small, and written over, for as long as the run is there.

Rules of this module: operations and records; no SQL, no threads. What writes encodes at once, as in ``outputs``. A read
is one trip, which tells whose values it has found: nothing is kept of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from .._engine.operations import Operation
from .._engine.records import StateRecord, after_prefix
from .._engine.run_operations import LoadState, UpsertState
from .._engine.run_states import RunStates
from .._results import StateEntry, time_of
from .._values.arguments import check_count, check_function
from .._values.codec import Encoded, decode
from .._values.keys import Id, flow_run_key, named_state, prefix_key, state_key
from ..errors import DeserializationError, RunDeletedError, SerializationError, VersionConflictError
from .lives import Life, Lives
from .session import Session

_PAGE_ROWS = 500
_PAGE_BYTES = 2**20


class RunStateService:
    """What the calls of run objects for state values do: the async run has their documentation."""

    def __init__(self, session: Session, lives: Lives) -> None:
        self._session = session
        self._lives = lives

    # -- reading ------------------------------------------------------------------------------------------------------

    async def get(self, flow_run_id: Id, key: Id, default: Any, type: Any, life: Life) -> Any:
        await self._session.ready()
        name = state_key(key)
        record = await self._fetch(life, name)
        return default if record is None else _converted(record.value, type, life.flow_run_id, name)

    async def _fetch(self, life: Life, name: str) -> StateRecord | None:
        found = await self._read(life, self._session.engine.fetch_state, name)
        return found.states[0].unwrap() if found.states else None

    async def list_all(self, flow_run_id: Id, prefix: str, life: Life) -> list[StateEntry]:
        await self._session.ready()
        low = prefix_key(prefix)
        high, run, after = after_prefix(low), life.serial, None
        entries: list[StateEntry] = []
        while True:
            page = self._session.engine.page_states
            found = await self._read(life, page, run, (low, high), after, _PAGE_ROWS, _PAGE_BYTES)
            for outcome in found.states:
                record = outcome.unwrap()
                run, after = record.run, record.key
                value = _converted(record.value, None, life.flow_run_id, record.key)
                entries.append(StateEntry(record.key, value, record.version, time_of(record.written_at)))
            if not found.states:  # a life that has ended in between has nothing
                return [] if life.is_over else entries

    async def _read(self, life: Life, call: Callable[..., Coroutine[Any, Any, RunStates]], *args: Any) -> RunStates:
        """What a read finds, if that is of the life; else nothing, as of a deleted run."""
        before = life.serial
        found = await self._session.read(call, life.flow_run_id, *args)
        is_its_own = self._lives.see(life, before, found.epoch, found.run)
        return found if is_its_own and not life.is_over else found._replace(states=[])

    # -- writing ------------------------------------------------------------------------------------------------------

    def upsert(
        self, flow_run_id: Id, key: Id, value: Any, expected_version: int | None, life: Life
    ) -> Coroutine[Any, Any, int]:
        self._session.callers.admit()
        return self._upsert(upsert_of(self._session, flow_run_id, key, value, expected_version), life)

    async def _upsert(self, upsert: UpsertState, life: Life) -> int:
        (version,) = await self._lives.commit(life, [upsert])
        return int(version)

    async def update(self, flow_run_id: Id, key: Id, fn: Callable[[Any], Any], default: Any, life: Life) -> Any:
        await self._session.writable()
        name = state_key(key)
        check_function("fn", fn)
        update = partial(self._update, name, fn, default, life)
        updates = self._session.backend.updates
        return await updates.run_locked(self._session.callers, (life.flow_run_id, name), update)

    async def _update(self, name: str, fn: Callable[[Any], Any], default: Any, life: Life) -> Any:
        """Under the key's lock, which other processes do not know: they are told by the version."""
        session, flow_run = self._session, life.flow_run_id
        while True:
            found = await self._read(life, session.engine.fetch_state, name)
            life.refuse_if_over()
            if found.run is not None and found.run.is_deleted:
                raise RunDeletedError(flow_run)
            record = found.states[0].unwrap() if found.states else None
            old = copy.deepcopy(default) if record is None else decode(record.value)
            new = encode_state(session, flow_run, name, await session.result_of(fn, old))
            version = 0 if record is None else record.version
            try:
                await self._upsert(UpsertState(flow_run, name, new, version), life)
            except VersionConflictError:
                continue
            return decode(new)


async def fork_states(session: Session, lives: Lives, origin: Life, copied: Life) -> None:
    """Give a run the state values of another one, with their versions. What is there already stands, if it is equal."""
    after: str | None = None
    while True:
        page = session.engine.page_states
        wanted = (origin.flow_run_id, origin.serial, ("", None), after, _PAGE_ROWS, _PAGE_BYTES)
        found = await session.read(page, *wanted)
        if not found.states:
            return
        loads: list[Operation] = []
        for outcome in found.states:
            record = outcome.unwrap()
            if not origin.owns(record.run):  # the id has another life since
                raise RunDeletedError(origin.flow_run_id)
            after = record.key
            key, value, version, written_at, _ = record
            loads.append(LoadState(copied.flow_run_id, key, value, version, written_at, replaces=False))
        await lives.commit(copied, loads)


def upsert_of(session: Session, flow_run_id: Id, key: Id, value: Any, expected_version: int | None) -> UpsertState:
    """The write of a state value, by what a caller has passed for it."""
    if expected_version is not None:
        check_count("expected_version", expected_version, 0)
    flow_run, name = flow_run_key(flow_run_id), state_key(key)
    return UpsertState(flow_run, name, encode_state(session, flow_run, name, value), expected_version)


def encode_state(session: Session, flow_run: str, key: str, value: Any) -> Encoded:
    try:
        return session.encode_only(value)
    except SerializationError as error:
        message = f"{error.problem} ({named_state(flow_run, key)})"
        raise SerializationError(error.path, message) from error.__cause__


def _converted(value: Encoded, type: Any, flow_run: str, key: str) -> Any:
    try:
        return decode(value, type)
    except DeserializationError as error:
        placed = DeserializationError(error.path, f"{error.problem} ({named_state(flow_run, key)})")
        raise placed from error.__cause__ or error
