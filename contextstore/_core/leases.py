"""Leases: what one holder has at a time, across processes and machines, and the fence that goes with its token.

Rules of this module: operations and records; no SQL, no threads. Of the callers of a store object one asks the engine
for a lease, and the others queue behind it. It looks whether the lease is free by reading, and commits only then. The
time for which it has seen a lease unrenewed is told by a clock that nobody sets.
"""

from __future__ import annotations

import datetime
import logging
import os
import secrets
import time
from functools import partial
from typing import NoReturn

from .._dispatch.held_leases import HeldLeases, Holding, Receipt
from .._display.brief import brief_repr
from .._engine.lease_operations import Acquired, AcquireLease, ExpectLease, Held
from .._process import boot_clock
from .._process.log import log
from .._results import time_of
from .._values.arguments import check_seconds
from .._values.expiry import microseconds_of
from .._values.keys import prefix_key
from .._waiting.deadline import Backoff, Deadline
from ..errors import ContextStoreError, LeaseHeldError, LeaseLostError, StorageError
from .session import Session

SHORTEST_TTL, LONGEST_TTL = 50_000, 86_400_000_000
"""Microseconds."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.005, 0.25
"""Seconds between two looks at a lease that another holds."""


class Lease:
    """What ``with store.lease(name)`` gives: a lease that is held for as long as the block goes on.

    Pass it to ``run`` or ``batch``, and what these write is committed only while it is its holder's.

    Attributes:
        name: its name.
        token: its number: higher than that of each holder before.
        holder: who has it: the host, the process, and what tells it from any other time.
        expires_at: until when it is held if it is not renewed, for people; aware, in UTC.
    """

    __slots__ = ("__weakref__", "_expires_at", "_holding", "_leases", "holder", "name", "token")

    def __init__(
        self,
        name: str,
        token: int,
        holder: str,
        expires_at: datetime.datetime,
        held: tuple[Holding, HeldLeases] | None = None,
    ) -> None:
        self.name = name
        self.token = token
        self.holder = holder
        self._expires_at = expires_at
        self._holding: Holding | None = held[0] if held else None
        self._leases: HeldLeases | None = held[1] if held else None

    @property
    def expires_at(self) -> datetime.datetime:
        return self._expires_at if self._holding is None else time_of(self._holding.expires_at)

    @property
    def lost(self) -> bool:
        """Whether another may hold it by now, as far as is known here: asks nobody.

        It turns true when a renewal was refused, when none has succeeded for the ttl, and when the lease was given
        back. Of a lease that ``list_leases`` has found it is true.
        """
        return self._holding is None or self._holding.is_lost

    def __repr__(self) -> str:
        return f"<Lease {brief_repr(self.name)} token={self.token} holder={self.holder!r}{' lost' * self.lost}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"lease {self.name!r} cannot be copied or sent to another process: it is one holder's")

    def __del__(self) -> None:
        if self._holding is not None and self._leases is not None:
            self._leases.give_back(self._holding)


def expectation_of(lease: Lease) -> ExpectLease:
    """The fence. Raises LeaseLostError where it is known already what the engine would say."""
    holding = lease._holding
    if holding is None or holding.is_over or holding.is_refused or not holding.is_ours:
        raise LeaseLostError(lease.name)
    return ExpectLease(lease.name, lease.token)


def _is_held_by(lease: Lease, leases: HeldLeases) -> bool:
    """Whether it is one of this store object's."""
    return lease._leases is leases


def _give_back(lease: Lease) -> Receipt | None:
    if lease._holding is None or lease._leases is None:
        return None
    return lease._leases.give_back(lease._holding)


def lease_of(session: Session, lease: Lease | None) -> Lease | None:
    """A lease that was passed as a fence, if it is one of the store's."""
    if lease is None:
        return None
    if not isinstance(lease, Lease):
        raise TypeError(f"lease must be a Lease, as 'with store.lease(...)' gives, not {type(lease).__name__}")
    if not _is_held_by(lease, session.backend.leases):
        raise ValueError(f"lease {lease.name!r} is not held by this store object: pass what its lease() gave")
    return lease


def lease_ttl(ttl: float | datetime.timedelta) -> int:
    """For how long a lease is held unless it is renewed, in microseconds."""
    if ttl is None:
        raise TypeError("ttl must be a number of seconds or a datetime.timedelta, not None: a lease always ends")
    lasts = microseconds_of(ttl)
    if lasts is None or not SHORTEST_TTL <= lasts <= LONGEST_TTL:
        raise ValueError(f"ttl must be from 0.05 seconds to a day, not {ttl!r}")
    return lasts


def check_wait(wait: float | None) -> None:
    if wait is not None:
        check_seconds("wait", wait)
        if wait < 0:
            raise ValueError(f"wait must not be negative, not {wait!r}")


class LeaseService:
    """What ``lease`` and ``list_leases`` do: the async face has their documentation."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def page(self, prefix: str) -> list[Lease]:
        session = self._session
        await session.ready()
        records = await session.scan(session.engine.list_leases, prefix_key(prefix))
        return [Lease(*record[:3], time_of(record.expires_at)) for record in records]

    async def acquire(self, name: str, ttl: int, wait: float | None) -> Lease:
        """Once it is free; raises LeaseHeldError after so many seconds."""
        session = self._session
        await session.writable()
        deadline, began = Deadline(wait), time.monotonic()
        ask = partial(self._acquire, name, ttl, deadline)
        try:
            lease = await session.backend.lease_turns.run_locked(session.callers, name, ask, deadline)
        except TimeoutError:  # in the queue: of those before it one asks, or its caller goes on with the lease
            held = await session.read(session.engine.find_lease, name)
            self._note_wait(began, timed_out=True)
            raise _refusal(name, held or Held("another caller of this store", 0, _now(), ttl, 0)) from None
        except LeaseHeldError:
            self._note_wait(began, timed_out=True)
            raise
        self._note_wait(began)
        return lease

    def _note_wait(self, began: float, *, timed_out: bool = False) -> None:
        self._session.engine.reports.waited("lease", time.monotonic() - began, timed_out=timed_out)

    async def release(self, lease: Lease) -> None:
        """Give it back, whatever has become of it. Raises nothing of the store's."""
        session, receipt = self._session, _give_back(lease)
        if receipt is None:
            return

        async def wait() -> None:
            await session.callers.join(receipt)

        await session.callers.to_the_end(wait)
        if isinstance(error := receipt.result().error, Exception):
            message = "lease %r could not be given back, and ends by itself: %s"
            log(logging.INFO, "lease_not_given_back", session.location, message, lease.name, error, lease=lease.name)

    # -- asked for -----------------------------------------------------------------------------------------------------

    async def _acquire(self, name: str, ttl: int, deadline: Deadline) -> Lease:
        acquire = AcquireLease(name, _new_holder(), ttl)
        pauses = Backoff(_SHORTEST_PAUSE, _LONGEST_PAUSE, 1.5)
        watch = _Watch()
        while True:
            asked_at = boot_clock.now()
            answer = await self._ask(acquire)
            if isinstance(answer, Acquired):
                return self._hold(acquire, answer, asked_at)
            watch.see(answer)
            await self._wait_until_free(name, answer, watch, deadline, pauses)
            acquire = acquire._replace(abandoned=watch.abandoned)

    async def _ask(self, acquire: AcquireLease) -> Acquired | Held:
        session = self._session
        try:
            (answer,) = await session.commit([acquire])
        except BaseException as error:
            # It may have been acquired, or be under way: then for nobody.
            is_certain = isinstance(error, ContextStoreError) and not getattr(error, "outcome_unknown", False)
            if not is_certain:
                session.backend.leases.withdraw(acquire.name, acquire.holder)
            raise
        found: Acquired | Held = answer
        return found

    async def _wait_until_free(self, name: str, held: Held, watch: _Watch, deadline: Deadline, pauses: Backoff) -> None:
        """Wait until it looks as if it could be had."""
        session = self._session
        found: Held | None = held
        while found is not None:
            if deadline.is_over:
                raise _refusal(name, found)
            pause = min(pauses.pause(), deadline.left)
            if found.left:
                pause = min(pause, found.left / 1_000_000 + 0.001)
            await session.backend.leases.sleep(name, pause, session.callers)
            found = await session.read(session.engine.find_lease, name)
            watch.see(found)
            if found is not None and (found.left == 0 or watch.abandoned is not None):
                return

    def _hold(self, acquire: AcquireLease, acquired: Acquired, asked_at: int) -> Lease:
        leases = self._session.backend.leases
        holding = Holding(acquire.name, acquire.holder, acquire.ttl, asked_at)
        holding.token, holding.expires_at = acquired
        at = time_of(acquired.expires_at)
        lease = Lease(acquire.name, acquired.token, acquire.holder, at, (holding, leases))
        leases.add(holding, self._session.host)
        return lease


class _Watch:
    """Sees whether a lease is renewed. The clock by which the engine says when it ends may have been set back."""

    def __init__(self) -> None:
        self._seen: tuple[int, int] | None = None
        self._since = 0
        self.abandoned: tuple[int, int] | None = None
        """Its token, and when it expires, once these have stayed the same for all of its ttl."""

    def see(self, held: Held | None) -> None:
        seen = None if held is None else (held.token, held.expires_at)
        now = boot_clock.now()
        if seen != self._seen:
            self._seen, self._since, self.abandoned = seen, now, None
        elif held is not None and now - self._since > held.ttl:
            self.abandoned = seen


def _refusal(name: str, held: Held) -> LeaseHeldError:
    try:
        expires_at = time_of(held.expires_at)
    except OverflowError:
        raise StorageError(f"lease {name!r} has no time that can be: its row is damaged") from None
    return LeaseHeldError(name, held.holder, expires_at)


def _now() -> int:
    return time.time_ns() // 1000


def _new_holder() -> str:
    """Who is about to take a lease: the host and the process, for people, and what no other acquisition has."""
    return f"{os.uname().nodename} pid {os.getpid()} {secrets.token_hex(8)}"
