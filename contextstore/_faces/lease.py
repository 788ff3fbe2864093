"""The blocks in which a lease is held: what ``lease()`` gives on either face.

Rules of this module: what was passed is checked at once; asked for is the lease when the block begins.
"""

from __future__ import annotations

import datetime
from types import TracebackType

from .._core.core import Core
from .._core.leases import Lease, check_wait, lease_ttl
from .._values.keys import Id, lease_key
from .._waiting.threads import run_now


class LeaseTerms:
    """What was asked for, and the lease while its block goes on."""

    def __init__(self, core: Core, name: Id, ttl: float | datetime.timedelta, wait: float | None) -> None:
        self._core = core
        self._name = lease_key(name)
        self._ttl = lease_ttl(ttl)
        check_wait(wait)
        self._wait = wait
        self._lease: Lease | None = None

    async def _begin(self) -> Lease:
        if self._lease is not None:
            raise RuntimeError(f"lease {self._name!r} is held by this block already: ask for another one with lease()")
        lease: Lease = await self._core.leases.acquire(self._name, self._ttl, self._wait)
        self._lease = lease
        return lease

    async def _end(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            await self._core.leases.release(lease)


class AsyncLeaseBlock(LeaseTerms):
    """What ``AsyncContextStore.lease()`` gives: an async context manager."""

    async def __aenter__(self) -> Lease:
        return await self._begin()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()


class LeaseBlock(LeaseTerms):
    """What ``ContextStore.lease()`` gives: a context manager."""

    def __enter__(self) -> Lease:
        return run_now(self._begin())

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run_now(self._end())
