"""The commits of a store object, in their order, until those who wait are told what each has brought.

Rules of this module: no lock, for a caller's thread may be interrupted anywhere, or be in a finalizer. Whoever has the
right to commit, and so nobody else just then, puts its commit at the end. A caller's thread does so before it commits:
an interrupt behind the commit would lose what it has brought. So the last one in the queue may still be under way. All
before it are over, also those whose threads never came to say so. To tell of one that was not made does no harm: who
waits looks whether the output is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .._engine.records import OutputKey


class Commit:
    """One commit, as those learn of it who wait.

    Args:
        found: the outputs that it brings.
        deleted: runs that it may have deleted.
        globals: keys of globals that it may have written.
    """

    __slots__ = ("changed", "deleted", "found", "globals", "is_over")

    def __init__(
        self, found: Sequence[OutputKey] = (), deleted: Sequence[str] = (), globals: Sequence[str] = ()
    ) -> None:
        self.found = found
        self.deleted = deleted
        self.globals = globals
        self.changed: Sequence[str] = ()
        """Runs that it may have changed otherwise than by outputs."""
        self.is_over = False


class CommitQueue:
    """Commits, by their order. They are taken out by one thread at a time."""

    def __init__(self) -> None:
        self._commits: deque[Commit] = deque()

    def append(self, commit: Commit) -> None:
        """With the right to commit."""
        self._commits.append(commit)

    def clear(self) -> None:
        """Nobody waits. With the right to commit: who comes from now on finds what these have brought."""
        self._commits.clear()

    def take(self) -> Commit | None:
        """The next one that is over."""
        try:
            commit = self._commits.popleft()  # first, since it may be cleared just now
        except IndexError:
            return None
        if commit.is_over or self._commits:
            return commit
        self._commits.appendleft(commit)
        return None

    @property
    def is_one_over(self) -> bool:
        """Whether there is one to be taken. To be asked again by who found none, once others may take."""
        try:
            return self._commits[0].is_over or len(self._commits) > 1
        except IndexError:
            return False
