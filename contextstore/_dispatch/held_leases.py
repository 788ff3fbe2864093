"""The leases that this store object holds: renewed in the background, and given back.

Rules of this module: no SQL, no I/O; all that it does is to hand units to the writer. Renewals run on the engine host's
loop, one task for each lease, and hold neither the store nor the caller's ``Lease``: both are collected as ever, and
the lease is given back then. Any thread may give one back, a finalizer too. What is given back here is queued, and
committed whether or not somebody waits for it; what the engine does not take ends by itself, after its ttl.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Coroutine
from functools import partial
from typing import Any

from .._engine.lease_operations import ReleaseLease, RenewLease
from .._process import boot_clock
from .._process.log import log
from .._waiting.callers import Callers
from .._waiting.deadline import Backoff
from .._waiting.future import SharedFuture
from .._waiting.outcome import Outcome
from .._waiting.waiters import Waiter, resolve
from ..errors import LeaseLostError, StorageError, StoreClosedError
from .host import EngineHost
from .writer import Writer

Receipt = SharedFuture[Outcome[list[Any]]]
"""Says what became of a lease that was given back."""

_SHORTEST_PAUSE = 0.005
"""Seconds before a renewal that has failed is tried again, at first."""


class Holding:
    """A lease that an acquisition got, and what is known of it since. Any threads use it: each step here is atomic."""

    def __init__(self, name: str, holder: str, ttl: int, asked_at: int) -> None:
        self.name = name
        self.holder = holder
        self.ttl = ttl
        self.token = 0
        self.expires_at = 0
        self.asked_at = asked_at
        """When it was asked for, or renewed last with success: before the engine has counted its ttl."""
        self.is_refused = False
        """Whether another has taken it: so it stays."""
        self.is_over = False
        """Whether it was given back."""
        self.is_overdue = False
        """Whether somebody was told that no renewal has come in time: so it stays."""
        self.waiter: Waiter[Any] | None = None
        """What its renewal sleeps on."""
        self._pid = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this process has acquired it. A forked child has the object only."""
        return self._pid == os.getpid()

    @property
    def is_lost(self) -> bool:
        if not self.is_overdue and boot_clock.now() - self.asked_at >= self.ttl:
            self.is_overdue = True
        return self.is_refused or self.is_over or self.is_overdue or not self.is_ours

    @property
    def seconds_to_renewal(self) -> float:
        return max(0, self.asked_at + self.ttl // 3 - boot_clock.now()) / 1_000_000


class HeldLeases:
    """Those of one store object, whichever face has acquired them.

    Args:
        callers: how the renewals wait: as tasks.
    """

    def __init__(self, location: str, writer: Writer, callers: Callers) -> None:
        self._location = location
        self._writer = writer
        self._callers = callers
        self._held: dict[str, Holding] = {}  # by the holder
        self._asking: dict[str, Waiter[Any]] = {}
        """What those sleep on who wait for a lease, one of each name."""
        self._is_closed = False

    # -- while it is held ----------------------------------------------------------------------------------------------

    def add(self, holding: Holding, host: EngineHost) -> None:
        """Renew it from now on. Raises StoreClosedError."""
        self._held[holding.holder] = holding
        try:
            if self._is_closed:  # perhaps before it was added
                raise StoreClosedError(self._location)
            host.call(partial(self._renew_till_its_end, holding))
        except BaseException:
            self.give_back(holding)
            raise

    async def _renew_till_its_end(self, holding: Holding) -> None:
        pauses = Backoff(_SHORTEST_PAUSE, max(_SHORTEST_PAUSE, holding.ttl / 6_000_000), 2)
        pause = holding.seconds_to_renewal
        while await self._slept(holding, pause):
            asked_at = boot_clock.now()
            try:
                (holding.expires_at,) = await self._renew(holding)
            except LeaseLostError:
                self._note_loss(holding)
                return
            except StoreClosedError:
                return
            except StorageError as error:  # it may still be ours, and writes under it are looked at by themselves
                message = "lease %r could not be renewed, and will be tried again: %s"
                log(logging.INFO, "lease_not_renewed", self._location, message, holding.name, error, lease=holding.name)
                pause = pauses.pause()
            else:
                holding.asked_at = asked_at
                pauses.reset()
                pause = holding.seconds_to_renewal

    def _renew(self, holding: Holding) -> Coroutine[Any, Any, list[Any]]:
        return self._writer.commit([RenewLease(holding.name, holding.token, holding.ttl)], self._callers)

    async def _slept(self, holding: Holding, seconds: float) -> bool:
        """Whether it is still to be renewed, once the time is over."""
        holding.waiter = waiter = self._callers.waiter()
        if not holding.is_over:  # else it was given back before there was a waiter
            await self._callers.wait_until(waiter, seconds, lambda: True)
        return not holding.is_over

    def _note_loss(self, holding: Holding) -> None:
        holding.is_refused = True
        self._held.pop(holding.holder, None)
        if not holding.is_over:  # else it was given back meanwhile
            message = "lease %r is lost: another has taken it over"
            log(logging.WARNING, "lease_lost", self._location, message, holding.name, lease=holding.name)

    # -- its end -------------------------------------------------------------------------------------------------------

    def give_back(self, holding: Holding) -> Receipt | None:
        """From any thread, any number of times. None: there is nothing left to be given back."""
        if holding.is_over or not holding.is_ours:
            return None
        holding.is_over = True
        self._held.pop(holding.holder, None)
        if holding.waiter is not None:
            resolve([(holding.waiter, True)])
        return None if holding.is_refused else self.withdraw(holding.name, holding.holder)

    def withdraw(self, name: str, holder: str) -> Receipt | None:
        """Have the lease free if the holder has it: behind its acquisition, of which it may not be known."""
        try:
            receipt = self._writer.post([ReleaseLease(name, holder)])
        except StoreClosedError:
            return None
        receipt.add_done_callback(lambda _: self._wake(name))
        return receipt

    def close(self) -> None:
        """Give all of them back: before the writer takes no more. Those who wait for one are woken."""
        self._is_closed = True
        for holding in list(self._held.values()):
            self.give_back(holding)
        for name in list(self._asking):
            self._wake(name)

    # -- those who wait for one ----------------------------------------------------------------------------------------

    async def sleep(self, name: str, seconds: float, callers: Callers) -> None:
        """Wait so long, or until a lease of that name was given back here. One caller at a time for each name."""
        self._asking[name] = waiter = callers.waiter()
        try:
            if not self._is_closed:
                await callers.wait_until(waiter, seconds, lambda: True)
        finally:
            self._asking.pop(name, None)

    def _wake(self, name: str) -> None:
        waiter = self._asking.get(name)
        if waiter is not None:
            resolve([(waiter, True)])
