"""Leases for the tests: held on either face, and taken from their holders, as who finds them abandoned does."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from contextstore import Lease
from contextstore._engine.lease_operations import Acquired, AcquireLease
from contextstore._waiting.threads import run_now

from ..conftest import Awaited
from ..support.doubles import core_of
from .outputs import begun

LONG = 3600.0
"""Seconds of a ttl that no test outlasts."""


def held(store: Any, name: str, **terms: Any) -> AbstractAsyncContextManager[Lease]:
    """The block of either face, awaited."""
    return begun(store, getattr(store, "plain", store).lease(name, **terms))


def run_under(store: Any, flow_run_id: str, lease: Lease) -> Any:
    """A run object of either face, awaited."""
    if hasattr(store, "plain"):
        return Awaited(store.plain.run(flow_run_id, lease=lease))
    return store.run(flow_run_id, lease=lease)


async def take_from(store: Any, lease: Lease, ttl: int = 3_600_000_000) -> int:
    """The token of the one that has it from now on."""
    assert lease._holding is not None
    seen = lease.token, lease._holding.expires_at
    while True:  # on a server who writes under it comes first
        commit = core_of(store)._session.commit([AcquireLease(lease.name, "another", ttl, seen)])
        (acquired,) = run_now(commit) if hasattr(store, "plain") else await _awaited(store, commit)
        if isinstance(acquired, Acquired):
            return acquired.token


async def _awaited(store: Any, coroutine: Any) -> Any:
    thread = getattr(store, "_thread", None)
    return await coroutine if thread is None else await thread.run(lambda: coroutine)
