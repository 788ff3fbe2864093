"""What the commits of a store were like lately, for the plots of the page on its health."""

from __future__ import annotations

from ..observers import CommitEvent, Observer


class CommitFigures(Observer):
    """An observer that keeps what the health page plots: pass it to the store, and to ``app``.

    figures = CommitFigures()
    store = AsyncContextStore("flows.db", observers=[figures])
    service.mount("/flows", app(store, figures=figures))
    """

    def on_commit(self, event: CommitEvent, /) -> None:
        """A commit was made, or has failed."""
