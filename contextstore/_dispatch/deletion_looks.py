"""When the poller looks for runs that were deleted, and which they are.

Rules of this module: no SQL, no values. To look for them is left out where no deletion is known of, but for now and
then: a program that does not know this store's ways may have made one.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from .._engine.contract import Feed

_REST_AFTER_DELETIONS = 29
_MOST_REST = 5.0
"""Seconds between two looks at most, however long they take."""
_DELETIONS_SECONDS = 0.1
"""Seconds between two looks for the runs that are waited for among the deleted ones, at least."""
_SURE_SECONDS = 5.0
"""Seconds after which these are looked for all the same where no deletion is known of."""


class Rest:
    """How long to leave others the time, after looks that took so long."""

    def __init__(self, times: int) -> None:
        self._times = times
        self._last = 0.0

    def after(self, seconds: float) -> float:
        # The shorter one of two: once in a while a look takes long, for no reason of its own.
        least, self._last = min(seconds, self._last), seconds
        return min(self._times * least, _MOST_REST)


class DeletionLooks:
    """When to look for deleted runs, and which they are."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._rest = Rest(_REST_AFTER_DELETIONS)
        self._may_be_some = True
        self._epoch: int | None = None
        self._next_at = time.monotonic() + _DELETIONS_SECONDS
        self._sure_at = self._next_at

    def may_be_news(self, something_changed: bool) -> bool:
        self._may_be_some = self._may_be_some or something_changed
        now = time.monotonic()
        if not self._may_be_some or now < self._next_at:
            return False
        epoch = self._feed.deletion_epoch()
        return epoch is None or epoch != self._epoch or now >= self._sure_at

    async def among(self, runs: Collection[tuple[str, int | None]]) -> list[str]:
        """The ids of those runs that are deleted, or forgotten; of one without a serial only if it is deleted."""
        began = time.monotonic()
        self._epoch, self._may_be_some = self._feed.deletion_epoch(), False  # before the look, not after it
        unknown = [flow_run_id for flow_run_id, serial in runs if serial is None]
        known = {serial: flow_run_id for flow_run_id, serial in runs if serial is not None}
        deleted = await self._feed.deleted_among(unknown) if unknown else []
        alive = set(await self._feed.alive_among(list(known))) if known else set()
        deleted += [flow_run_id for serial, flow_run_id in known.items() if serial not in alive]
        now = time.monotonic()
        self._next_at = now + max(_DELETIONS_SECONDS, self._rest.after(now - began))
        self._sure_at = now + _SURE_SECONDS
        return deleted
