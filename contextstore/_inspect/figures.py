"""What the commits of a store were like lately.

Rules of this module: an observer as any other, made of public names alone. What it keeps is bounded, however many
commits there are, and nothing of it is a value or an id.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass

from ..observers import CommitEvent, Observer

MOST_COMMITS = 4096
"""How many commits are kept: of a store that makes more in the time that is asked for, the newest of these tell."""


@dataclass(frozen=True, slots=True)
class CommitSummary:
    """What the commits of some time were like.

    Attributes:
        commits, failed: how many were made, and how many failed.
        median_seconds, slow_seconds: how long the middle one took, and how long the one that 99 of 100 do not exceed.
            None where there was no commit.
        units: how many calls shared a commit, on average. None where there was no commit.
    """

    commits: int
    failed: int
    median_seconds: float | None
    slow_seconds: float | None
    units: float | None


NO_COMMITS = CommitSummary(0, 0, None, None, None)


class CommitFigures(Observer):
    """An observer that keeps what the health page plots: pass it to the store, and to ``app``.

    figures = CommitFigures()
    store = AsyncContextStore("flows.db", observers=[figures])
    service.mount("/flows", app(store, figures=figures))
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[float, CommitEvent]] = deque(maxlen=MOST_COMMITS)  # whose calls are atomic

    def on_commit(self, event: CommitEvent, /) -> None:
        """A commit was made, or has failed."""
        self._kept.append((time.monotonic(), event))

    def since(self, begin: float) -> CommitSummary:
        """What the commits since a moment of ``time.monotonic`` were like."""
        events = [event for at, event in self._kept.copy() if at >= begin]
        made = [event for event in events if event.error is None]
        seconds = sorted(event.seconds for event in made)
        return CommitSummary(
            commits=len(made),
            failed=len(events) - len(made),
            median_seconds=statistics.median(seconds) if seconds else None,
            slow_seconds=seconds[(len(seconds) * 99 + 99) // 100 - 1] if seconds else None,
            units=statistics.fmean(event.units for event in made) if made else None,
        )
