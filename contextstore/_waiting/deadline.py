"""Until when a call may go on, and how long it pauses between two attempts.

Rules of this module: seconds of the monotonic clock, which no change of the time of day touches.
"""

from __future__ import annotations

import math
import time


class Deadline:
    """A moment after which a call gives up. ``None`` seconds: never."""

    __slots__ = ("at",)

    def __init__(self, seconds: float | None) -> None:
        self.at = math.inf if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then, 0 once it is over; infinite if there is none."""
        return max(0.0, self.at - time.monotonic())

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.at


class Backoff:
    """The pauses between attempts: each longer than the one before by a factor, up to the longest."""

    __slots__ = ("_factor", "_longest", "_next", "_shortest")

    def __init__(self, shortest: float, longest: float, factor: float) -> None:
        self._shortest = self._next = shortest
        self._longest = longest
        self._factor = factor

    def pause(self) -> float:
        """How long to wait before the next attempt, in seconds."""
        pause = self._next
        self._next = min(pause * self._factor, self._longest)
        return pause

    def reset(self) -> None:
        """Begin anew with the shortest: something has happened."""
        self._next = self._shortest
