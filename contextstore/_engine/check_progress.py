"""How far a check has come, told some times a second.

Rules of this module: it knows neither tables nor threads. What is told rises, and never above what was counted at the
beginning.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 0.05
"""Between two reports: a bar moves smoothly by them, and they cost nothing beside what is looked at meanwhile."""


class CheckProgress:
    """Of the outputs and globals that are looked at.

    Args:
        report: told how many were looked at, and how many there are.
        total: how many there are, as they were counted at the beginning. What others write meanwhile is not counted.
    """

    def __init__(self, report: Callable[[int, int], None], total: int) -> None:
        self._report = report
        self._total = total
        self._looked_at = 0
        self.tell()

    def add(self, count: int = 1) -> None:
        """So many more were looked at."""
        self._looked_at += count
        if time.monotonic() >= self._next:
            self.tell()

    def tell(self) -> None:
        """Tell it now."""
        self._next = time.monotonic() + SECONDS
        self._report(min(self._looked_at, self._total), self._total)

    def end(self) -> None:
        """All was looked at: what is not there any more, or cannot be read, as well."""
        self._looked_at = self._total
        self.tell()
