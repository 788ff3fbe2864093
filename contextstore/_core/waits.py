"""Outputs that are not there yet: computed once for all who ask, or waited for until some process writes them.

Rules of this module: operations and records; no SQL, no threads. What the user passed in is called with nothing held.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from .._engine.epochs import Epoch, is_known
from .._engine.operations import PutOutput
from .._engine.records import OutputKey
from .._values.arguments import check_function, check_seconds
from .._values.codec import Encoded
from .._values.keys import Id, named, output_key
from .._waiting.deadline import Deadline
from ..errors import AlreadyExistsError, DeserializationError, RunDeletedError
from .answers import converted
from .outputs import OutputService
from .runs import RunService
from .session import Session


class WaitService:
    """What ``get_or_put`` and ``wait_for`` do: the async face has their documentation."""

    def __init__(self, session: Session, outputs: OutputService, runs: RunService) -> None:
        self._session = session
        self._outputs = outputs
        self._runs = runs

    # -- computed -----------------------------------------------------------------------------------------------------

    async def get_or_put(self, flow_run_id: Id, node_id: Id, factory: Callable[[], Any], type: Any) -> Any:
        session = self._session
        await session.ready()
        key = output_key(flow_run_id, node_id)
        check_function("factory", factory)
        while (value := session.cache.get(key)) is None:
            own = _Computation(session.engine.epochs.now[0])
            compute = partial(self._compute, key, factory, type, own)
            found, epoch = await session.callers.single_flight(key, compute)
            if own.fitted:
                return own.fitted[0]
            if isinstance(found, Encoded):
                if own.is_begun or self._is_still(epoch):
                    value = found
                    break
                # This call has joined another. A run was deleted since: perhaps this run, and before this call began.
            elif found.type is type or found.type == type:
                raise found.error
            # Else this call has joined one that asked for another type, which is no failure of what is asked for here.
        return converted(value, type, *key)

    def _is_still(self, epoch: Epoch) -> bool:
        epochs = self._session.engine.epochs
        return not epochs.is_exact or (is_known(epoch) and epochs.now[0] == epoch)

    async def _compute(
        self, key: OutputKey, factory: Callable[[], Any], type: Any, own: _Computation
    ) -> tuple[Encoded | _Misfit, Epoch]:
        """``own`` is the record of the call that computes. Returns the epoch, too, in which that was begun."""
        own.is_begun = True
        record = await self._session.fetch(key)
        found = record.value if record is not None else await self._make(key, factory, type, own)
        return found, own.epoch

    async def _make(
        self, key: OutputKey, factory: Callable[[], Any], type: Any, own: _Computation
    ) -> Encoded | _Misfit:
        session = self._session
        # Before the factory is called for nothing. Whether the run is deleted is left to the commit: asking for it
        # here would cost each new output a trip to the engine.
        session.refuse_if_read_only()
        value = session.encode(await session.result_of(factory), *key)
        try:
            made = None if type is None else converted(value, type, *key)
        except Exception as error:  # noqa: BLE001 - any error is told to the calls that asked for this type
            return _Misfit(type, _not_stored(error))
        try:
            await session.commit([PutOutput(*key, value, exist_ok=False)])
        except AlreadyExistsError:  # another process was first
            record = await session.fetch(key)
            if record is None:  # and its run was deleted since
                raise RunDeletedError(key[0]) from None
            return record.value
        if type is not None:
            own.fitted.append(made)
        return value

    # -- waited for ---------------------------------------------------------------------------------------------------

    async def wait_for(self, flow_run_id: Id, node_id: Id, timeout: float | None, type: Any) -> Any:
        await self._session.ready()
        key = output_key(flow_run_id, node_id)
        if timeout is not None:
            check_seconds("timeout", timeout)
        value = self._session.cache.get(key)
        if value is None:
            try:
                value = await self._wait_for(key, None if timeout is None else Deadline(timeout))
            except TimeoutError:
                raise TimeoutError(f"{named(*key)} had no output within {timeout:g} seconds") from None
        return converted(value, type, *key)

    async def _wait_for(self, key: OutputKey, deadline: Deadline | None) -> Encoded:
        session = self._session
        record = await session.fetch(key)
        if record is not None:  # and no poller need be started: that is half of the cost
            return record.value
        subscription = session.subscriptions.subscription(*key)
        began, timed_out = time.monotonic(), False
        try:
            await subscription.begin(session.host, session.callers)
            while (record := await session.fetch(key)) is None:
                await self._runs.refuse_if_deleted(key[0])
                await subscription.next(None if deadline is None else deadline.left)
            return record.value
        except TimeoutError:
            timed_out = True
            raise
        finally:
            subscription.close()
            session.engine.reports.waited("output", time.monotonic() - began, timed_out=timed_out)


class _Computation:
    """What a call of ``get_or_put`` knows of its own computation, if it comes to one and does not join another's."""

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self.is_begun = False
        self.fitted: list[Any] = []
        """What was computed and stored as one of the caller's type, converted once."""


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
