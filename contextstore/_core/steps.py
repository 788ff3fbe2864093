"""Steps: functions that are called once, and whose result is recorded before anybody gets it.

Rules of this module: operations and records; no SQL, no threads. A step is computed as ``waits`` has it; here is what
its function says of the result, and what is recorded of the call.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from .._engine.operations import PutOutput
from .._engine.records import Made, OutputKey
from .._engine.run_operations import RecordFailure
from .._values.arguments import check_function
from .._values.inputs import digest_of
from .._values.keys import Id, named, output_key
from .._values.problems import shown, type_name
from .._values.results import recorded
from .._values.returns import Returns, name_of, returns_of
from .._values.run_facts import storable_text
from ..errors import InputsChangedError, SerializationError
from .leases import expectation_of
from .lives import Life, Lives
from .session import Session
from .waits import Candidate, Misfit, WaitService


class StepService:
    """What ``step`` does: the async face has its documentation."""

    def __init__(self, session: Session, waits: WaitService, lives: Lives) -> None:
        self._session = session
        self._waits = waits
        self._lives = lives

    async def step(
        self,
        flow_run_id: Id,
        node_id: Id,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        checks_inputs: bool,
        life: Life,
    ) -> Any:
        session = self._session
        session.callers.admit()
        key = output_key(flow_run_id, node_id)
        check_function("fn", fn)
        returns = returns_of(fn, is_awaited=not session.callers.may_block)
        # Before anything is awaited: the caller may change them then.
        inputs = digest_of(fn, args, kwargs, session.encode_default) if checks_inputs else None
        await session.ready()
        call = _Call(session, self._lives, key, fn, partial(fn, *args, **kwargs), returns, inputs)
        del args, kwargs
        computed = await self._waits.computed(key, call, life)
        if inputs is not None and not computed.is_own:
            await self._refuse_others(key, life, inputs)
        return computed.value

    async def _refuse_others(self, key: OutputKey, life: Life, given: str) -> None:
        """Raise InputsChangedError if the output that is there was made from other arguments."""
        # Not from memory, which holds values alone.
        record = await self._session.fetch(key)
        if record is None or record.made is None or life.serial not in (None, record.run):
            return
        recorded_inputs = record.made.inputs
        if recorded_inputs is not None and recorded_inputs != given:
            raise InputsChangedError(*key, recorded_inputs, given)


class _Call:
    """The call of a step's function, if it comes to one."""

    def __init__(
        self,
        session: Session,
        lives: Lives,
        key: OutputKey,
        fn: Callable[..., Any],
        call: Callable[[], Any],
        returns: Returns,
        inputs: str | None,
    ) -> None:
        self._session = session
        self._lives = lives
        self._key = key
        self._name = name_of(fn)
        self._call = call
        self._inputs = inputs
        self.type = returns
        self.kind = returns.kind

    async def make(self, life: Life | None) -> Candidate | Misfit:
        await self._refuse_if_lost(life)
        session, started_at = self._session, _now()
        try:
            result = await session.result_of(self._call)
        except Exception as error:  # raised again below: any failure is recorded before
            await self._record(life, started_at, error)
            raise
        try:
            value, made = recorded(result, self.type, session.encode, session.encode_default, self._name)
        except SerializationError as error:
            placed = SerializationError(error.path, f"{error.problem} ({named(*self._key)})")
            placed.__cause__ = error.__cause__
            await self._record(life, started_at, placed)
            return Misfit(self.type, placed)
        put = PutOutput(*self._key, value, exist_ok=False, made=Made(None, started_at, self._inputs))
        return Candidate(put, True, made)

    async def _refuse_if_lost(self, life: Life | None) -> None:
        """Raise LeaseLostError, and call nothing, if another has taken the lease: a holder that overslept may not know.

        Asked is the engine, by a commit of nothing, and only where the lease is not known to be held.
        """
        if life is not None and life.lease is not None and life.lease.lost:
            await self._session.commit([expectation_of(life.lease)])

    async def _record(self, life: Life | None, started_at: int, error: Exception) -> None:
        """Record the failure. If that fails, the error says so, and is raised all the same."""
        failure = RecordFailure(*self._key, started_at, _now(), _text_of(error), self._inputs)
        try:
            await self._lives.commit(life, [failure])
        except Exception as unrecorded:  # noqa: BLE001 - whatever it is, the function's own error matters more
            with contextlib.suppress(Exception):  # a class of the caller's may take no notes
                error.add_note(f"this failed attempt could not be recorded: {shown(unrecorded, 500)}")


def _now() -> int:
    return time.time_ns() // 1000


def _text_of(error: Exception) -> str:
    """The type and the text, as they can be stored."""
    try:
        text = str(error)
    except Exception as unreadable:  # noqa: BLE001 - the class is the caller's
        text = f"(its text cannot be had: {type(unreadable).__name__})"
    name = type_name(type(error))
    return storable_text(f"{name}: {text}" if text else name)
