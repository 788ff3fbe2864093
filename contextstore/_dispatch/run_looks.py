"""When the poller looks for runs that have changed: one trip for all that wait, and only if something was written.

Rules of this module: no SQL, no values. A place is taken once somebody waits for a run, and given up when nobody does.
Who came before it was taken may have looked before a change that lies before it, and so has to look once more. A look
that could not be made is made anew.
"""

from __future__ import annotations

from collections.abc import Collection

from .._engine.contract import Feed
from .._engine.records import Cursor


class RunLooks:
    """Those of one poller."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._place: Cursor | None = None
        self._may_be_news = True

    def may_be_news(self, something_changed: bool, is_waited_for: bool) -> bool:
        """Whether to look; ``something_changed``: since the last time that this was asked."""
        if not is_waited_for:
            self._place = None
        self._may_be_news = self._may_be_news or something_changed
        return is_waited_for and (self._may_be_news or self._place is None)

    async def changed(self) -> Collection[str] | None:
        """Runs that have changed since the last look. None: this is the first one, and all have to look."""
        found = await self._feed.changed_runs(self._place)
        if found is None:
            self._may_be_news = True
            return ()
        is_first = self._place is None
        self._place, changed = found
        self._may_be_news = is_first or bool(changed)  # there may be more
        return None if is_first else changed
