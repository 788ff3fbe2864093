"""Whose thread this is: which threads the stores of this process have made for themselves.

Rules of this room: nothing here waits. A call from a thread of a store's own would wait for itself, so whoever admits
calls asks here first (_callers), and whoever hands on what such a thread logs, too (_logging).
"""

from __future__ import annotations

import os
import threading


class OwnThreads:
    """The ids of the threads of one store, kept up to date by whoever starts them. A system gives ids again.

    Args:
        place: where the store is, as messages name it. None: threads that belong to every store.
    """

    def __init__(self, place: str | None) -> None:
        self.place = place

    def add(self, ident: int) -> None:
        OWNERS[ident] = self

    def discard(self, ident: int) -> None:
        if OWNERS.get(ident) is self:
            del OWNERS[ident]

    def clear(self) -> None:
        for ident in [ident for ident, owner in OWNERS.copy().items() if owner is self]:
            self.discard(ident)

    def __contains__(self, ident: object) -> bool:
        return isinstance(ident, int) and OWNERS.get(ident) is self

    def may_call(self, other: OwnThreads) -> bool:
        """Whether a thread of these may call the store whose threads the others are: any but the own one.

        Nor another object at the same place: a thread that is in the middle of a commit has the lock which that one
        would wait for.
        """
        if self is other or self.place is None or other.place is None:
            return False
        if ":memory:" in (self.place, other.place):  # each of these is a place of its own
            return True
        return os.path.realpath(self.place) != os.path.realpath(other.place)


OWNERS: dict[int, OwnThreads] = {}
"""By the id of the thread. Each call of a blocking store looks here, so not by way of a function."""

OF_ALL = OwnThreads(None)
"""The threads that serve all stores."""


def owner_here() -> OwnThreads | None:
    """Whose the running thread is; None: the program's."""
    return OWNERS.get(threading.get_ident())


os.register_at_fork(after_in_child=OWNERS.clear)
