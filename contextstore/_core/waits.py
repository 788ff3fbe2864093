"""Outputs that are not there yet: computed once for all who ask, or waited for until some process writes them.

Rules of this module: operations and records; no SQL, no threads. What the user passed in is called with nothing held.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from .._dispatch.subscriptions import Subscription
from .._engine.epochs import Epoch, is_known
from .._engine.operations import PutOutput
from .._engine.records import OutputKey
from .._values.arguments import check_function, check_seconds
from .._values.codec import Encoded
from .._values.keys import Id, named, output_key
from .._waiting.deadline import Deadline
from ..errors import AlreadyExistsError, DeserializationError, RunDeletedError
from .answers import converted
from .lives import Life, Lives
from .outputs import OutputService
from .session import Session


class WaitService:
    """What ``get_or_put`` and ``wait_for`` do, and what steps stand on: the async face has their documentation."""

    def __init__(self, session: Session, outputs: OutputService, lives: Lives) -> None:
        self._session = session
        self._outputs = outputs
        self._lives = lives

    # -- computed -----------------------------------------------------------------------------------------------------

    async def get_or_put(
        self, flow_run_id: Id, node_id: Id, factory: Callable[[], Any], type: Any, life: Life | None = None
    ) -> Any:
        await self._session.ready()
        key = output_key(flow_run_id, node_id)
        check_function("factory", factory)
        return (await self.computed(key, _Factory(self._session, key, factory, type), life)).value

    async def computed(self, key: OutputKey, making: Making, life: Life | None) -> Computed:
        """The output; if it is not there, what ``making`` makes, in one computation for all calls that ask for it."""
        session = self._session
        while (value := self._cached(key, life)) is None:
            if life is not None:
                life.refuse_if_over()
            own = _Computation(session.engine.epochs.now[0], life)
            compute = partial(self._compute, key, making, own)
            found, epoch = await session.callers.single_flight(key, compute)
            if own.fitted:
                return Computed(own.fitted[0], is_own=True)
            if isinstance(found, Encoded):
                if own.is_begun or await self._is_still(epoch, life):
                    value = found
                    break
                # This call has joined another. A run was deleted since: perhaps this run, and before this call began.
            elif found.concerns(making.type, life):
                raise found.error
            # Else this call has joined one whose failure is none of what is asked for here.
        return Computed(converted(value, making.kind, *key), is_own=False)

    def _cached(self, key: OutputKey, life: Life | None) -> Encoded | None:
        return self._session.cache.get(key) if life is None else self._lives.cached(life, key)

    async def _is_still(self, epoch: Epoch, life: Life | None) -> bool:
        """Whether what another call has found, beginning in this epoch, is an answer here."""
        epochs = self._session.engine.epochs
        if life is not None:
            if not self._lives.is_current(life):
                await self._lives.look(life)
            # Where the epoch may be a second old, this call looks for itself.
            return epochs.is_exact and is_known(epoch) and epochs.now[0] == life.epoch == epoch
        return not epochs.is_exact or (is_known(epoch) and epochs.now[0] == epoch)

    async def _compute(
        self, key: OutputKey, making: Making, own: _Computation
    ) -> tuple[Encoded | Misfit | _Over, Epoch]:
        """``own`` is the record of the call that computes. Returns the epoch, too, in which that was begun."""
        own.is_begun = True
        try:
            found: Encoded | Misfit | _Over = await self._fetch(key, own.life) or await self._make(key, making, own)
        except RunDeletedError as error:
            if own.life is None:
                raise
            found = _Over(own.life, error)
        return found, own.epoch

    async def _fetch(self, key: OutputKey, life: Life | None) -> Encoded | None:
        if life is not None:
            value = await self._lives.find(life, key, refuse_deleted=True)
            life.refuse_if_over()
            return value
        record = await self._session.fetch(key, refuse_deleted=True)
        return None if record is None else record.value

    async def _make(self, key: OutputKey, making: Making, own: _Computation) -> Encoded | Misfit:
        # Before anything is called for nothing. Whether the run is deleted is left to the commit: asking for it here
        # would cost each new output a trip to the engine.
        self._session.refuse_if_read_only()
        made = await making.make(own.life)
        if isinstance(made, Misfit):
            return made
        try:
            await self._lives.commit(own.life, [made.put])
        except AlreadyExistsError:  # another process was first
            there = await self._fetch(key, own.life)
            if there is None:  # and its run was deleted since
                raise RunDeletedError(key[0]) from None
            return there
        if made.is_fitted:
            own.fitted.append(made.fitted)
        return made.put.value

    # -- waited for ---------------------------------------------------------------------------------------------------

    async def wait_for(
        self, flow_run_id: Id, node_id: Id, timeout: float | None, type: Any, life: Life | None = None
    ) -> Any:
        await self._session.ready()
        key = output_key(flow_run_id, node_id)
        if timeout is not None:
            check_seconds("timeout", timeout)
        value = self._cached(key, life)
        if value is None:
            try:
                # Whoever waits does so in one life: that of the run which has the id now, or comes to have it.
                here, deadline = life or Life(key[0]), None if timeout is None else Deadline(timeout)
                value = await self._wait_for(key, here, deadline)
            except TimeoutError:
                raise TimeoutError(f"{named(*key)} had no output within {timeout:g} seconds") from None
        return converted(value, type, *key)

    async def _wait_for(self, key: OutputKey, life: Life, deadline: Deadline | None) -> Encoded:
        session = self._session
        value = await self._fetch(key, life)
        if value is not None:  # and no poller need be started: that is half of the cost
            return value
        subscription = session.subscriptions.subscription(*key)
        began, timed_out = time.monotonic(), False
        try:
            await subscription.begin(session.host, session.callers)
            while (value := await self._fetch(key, life)) is None:
                await self._refuse_if_over(life, subscription)
                await subscription.next(None if deadline is None else deadline.left)
            return value
        except TimeoutError:
            timed_out = True
            raise
        finally:
            subscription.close()
            session.engine.reports.waited("output", time.monotonic() - began, timed_out=timed_out)

    async def _refuse_if_over(self, life: Life, subscription: Subscription) -> None:
        """Raise RunDeletedError if the life is over; when it may be from now on, the subscription tells."""
        await self._lives.refuse_if_over(life)
        if subscription.run != life.serial:
            subscription.run = life.serial
            if not self._lives.is_current(life):
                # Deleted since that look, perhaps, and told of already, to those who wait for its serial.
                await self._lives.refuse_if_over(life)


class Computed(NamedTuple):
    """What a call comes to."""

    value: Any
    is_own: bool
    """Whether this very call has computed and stored it."""


class Candidate(NamedTuple):
    """What was computed, and is to be stored."""

    put: PutOutput
    is_fitted: bool
    """Whether it was converted to the caller's type already: then it is this."""
    fitted: Any = None


class Misfit(NamedTuple):
    """What a computation comes to, if what it gave does not fit the type that its caller asked for."""

    type: Any
    error: Exception

    def concerns(self, type: Any, _: Life | None) -> bool:
        """Whether it is the end of a call, too, that asks for this type, in this life."""
        return self.type is type or bool(self.type == type)


class Making(Protocol):
    """How an output is made that is not there."""

    type: Any
    """What a misfit is one of: calls that ask for another compute anew."""
    kind: Any
    """What an output that is there is converted to. None: it is given as it is."""

    async def make(self, life: Life | None) -> Candidate | Misfit: ...


class _Factory:
    """How ``get_or_put`` makes one."""

    def __init__(self, session: Session, key: OutputKey, factory: Callable[[], Any], type: Any) -> None:
        self._session = session
        self._key = key
        self._factory = factory
        self.type = self.kind = type

    async def make(self, _: Life | None) -> Candidate | Misfit:
        value = self._session.encode(await self._session.result_of(self._factory), *self._key)
        put = PutOutput(*self._key, value, exist_ok=False)
        if self.type is None:
            return Candidate(put, is_fitted=False)
        try:
            return Candidate(put, True, converted(value, self.type, *self._key))
        except Exception as error:  # noqa: BLE001 - any error is told to the calls that asked for this type
            return Misfit(self.type, _not_stored(error))


class _Computation:
    """What a call knows of its own computation, if it comes to one and does not join another's."""

    def __init__(self, epoch: Epoch, life: Life | None) -> None:
        self.epoch = epoch
        self.life = life
        self.is_begun = False
        self.fitted: list[Any] = []
        """What was computed and stored as one of the caller's type, converted once."""


class _Over(NamedTuple):
    """What a computation comes to, if the life that its caller belongs to is over."""

    life: Life
    error: RunDeletedError

    def concerns(self, _: Any, life: Life | None) -> bool:
        """Likewise."""
        return life is self.life


def _not_stored(error: Exception) -> Exception:
    if not isinstance(error, DeserializationError):
        return error
    told = DeserializationError(error.path, f"{error.problem}; nothing was stored")
    told.__cause__ = error.__cause__
    return told
