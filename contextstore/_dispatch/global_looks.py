"""When the poller looks for globals that are waited for: one trip for all of them, and only if something was written.

Rules of this module: no SQL, no values. A look that could not be made is made anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._engine.contract import Feed


class GlobalLooks:
    """Those of one poller."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._may_be_news = True

    def may_be_news(self, something_changed: bool) -> bool:
        """Whether to look; ``something_changed``: since the last time that this was asked."""
        self._may_be_news = self._may_be_news or something_changed
        return self._may_be_news

    async def beyond(self, versions: Mapping[str, int]) -> Sequence[tuple[str, int]]:
        """Those of the globals that are there with a version above the one named, and that version."""
        found = await self._feed.globals_beyond(versions) if versions else ()
        self._may_be_news = found is None
        return found or ()
