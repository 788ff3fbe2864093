"""Globals that are not there yet, or not at a version yet: waited for until some process writes them.

Rules of this module: operations and records; no SQL, no threads. It looks whether the global is there only once it will
be told of what is committed after that look.
"""

from __future__ import annotations

import time
from typing import Any

from .._engine.records import GlobalRecord
from .._results import GlobalEntry
from .._values.arguments import check_count, check_seconds
from .._values.keys import Id, global_key
from .._waiting.deadline import Deadline
from .answers import global_entry_of
from .session import Session


class GlobalWaitService:
    """What ``wait_for_global`` does: the async face has its documentation."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def wait_for(self, key: Id, after_version: int, timeout: float | None, type: Any) -> GlobalEntry:
        await self._session.ready()
        name = global_key(key)
        check_count("after_version", after_version, 0)
        if timeout is not None:
            check_seconds("timeout", timeout)
        try:
            record = await self._wait_for(name, after_version, None if timeout is None else Deadline(timeout))
        except TimeoutError:
            beyond = f" above version {after_version}" if after_version else ""
            raise TimeoutError(f"global {name!r} was not there{beyond} within {timeout:g} seconds") from None
        return global_entry_of(record, type)

    async def _wait_for(self, name: str, after_version: int, deadline: Deadline | None) -> GlobalRecord:
        session = self._session
        record = await self._beyond(name, after_version)
        if record is not None:  # and no poller need be started: that is half of the cost
            return record
        subscription = session.subscriptions.subscription_to_global(name, after_version)
        began, timed_out = time.monotonic(), False
        try:
            await subscription.begin(session.host, session.callers)
            while (record := await self._beyond(name, after_version)) is None:
                await subscription.next(None if deadline is None else deadline.left)
            return record
        except TimeoutError:
            timed_out = True
            raise
        finally:
            subscription.close()
            session.engine.reports.waited("global", time.monotonic() - began, timed_out=timed_out)

    async def _beyond(self, name: str, after_version: int) -> GlobalRecord | None:
        record = await self._session.fetch_global(name)
        return record if record is not None and record.version > after_version else None
