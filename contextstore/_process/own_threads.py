"""Whose thread this is: which threads the stores of this process have made for themselves.

Rules of this module: nothing here waits. A call from a thread of a store's own would wait for itself, so whoever admits
calls asks here first (_callers), and whoever hands on what such a thread logs, too (_logging).
"""

from __future__ import annotations

import os
import threading
from typing import Protocol

from .fork import at_fork


class Lock(Protocol):
    is_held: bool


class OwnThreads:
    """The ids of the threads of one store, kept up to date by whoever starts them. A system gives ids again.

    Args:
        place: where the store is, as messages name it.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.lock: Lock | None = None
        """What keeps others out while these threads write, as long as the store is open."""

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

        Nor another object at the same place, while these hold the lock that it would wait for.
        """
        if self is other:
            return False
        is_locked = self.lock is not None and self.lock.is_held
        return not is_locked or os.path.realpath(self.place) != os.path.realpath(other.place)


class OnBehalf(OwnThreads):
    """Of a thread that does something for a store, and for which none of that store's waits: it holds no lock."""

    def __init__(self, owner: OwnThreads) -> None:
        super().__init__(owner.place)
        self._owner = owner

    def may_call(self, other: OwnThreads) -> bool:
        return other is not self._owner


class _OfAll(OwnThreads):
    """Of threads that serve all stores."""

    def may_call(self, other: OwnThreads) -> bool:
        return False


OWNERS: dict[int, OwnThreads] = {}
"""By the id of the thread. Each call of a blocking store looks here, so not by way of a function."""

OF_ALL: OwnThreads = _OfAll("")


def owner_here() -> OwnThreads | None:
    """Whose the running thread is; None: the program's."""
    return OWNERS.get(threading.get_ident())


at_fork(in_child=OWNERS.clear)
