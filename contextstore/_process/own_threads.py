"""The threads that the stores of this process have started: to which store does the running thread belong?

Rules of this module: nothing here waits, and nothing is looked up under a lock. A call that a store's own thread makes
to the store would wait for that very thread. So ``_waiting`` asks here before it lets a call in, and
``log_handover.py`` before it lets a record pass to the handlers of ``logging``. A thread of the caller's that commits
(``_sqlite/lending``) is one of them for as long as that takes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from .fork import at_fork

T = TypeVar("T")


class Lock(Protocol):
    is_held: bool


class OwnThreads:
    """The ids of the threads of one store. The starter of a thread adds its id, and discards it after the thread's end.

    A system gives ids again, perhaps before the starter has come to discard one. So a starter that is not the thread
    itself names the thread as well, and another thread of that id is none of the store's.

    Args:
        place: where the store is, as messages name it.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.lock: Lock | None = None
        """The lock that these threads hold while they write; None unless the store is open."""

    def add(self, ident: int, thread: threading.Thread | None = None) -> None:
        if thread is not None:
            _threads[ident] = thread
        else:
            _threads.pop(ident, None)
        OWNERS[ident] = self

    def discard(self, ident: int, thread: threading.Thread | None = None) -> None:
        if OWNERS.get(ident) is self and (thread is None or _threads.get(ident) is thread):
            del OWNERS[ident]
            _threads.pop(ident, None)

    def clear(self) -> None:
        for ident in [ident for ident, owner in OWNERS.copy().items() if owner is self]:
            self.discard(ident)

    def works_for(self, other: OwnThreads) -> bool:
        """Whether what one of these threads waits for, the other threads may wait for."""
        return self is other

    def __contains__(self, ident: object) -> bool:
        return isinstance(ident, int) and OWNERS.get(ident) is self

    def may_call(self, other: OwnThreads) -> bool:
        """Whether one of these threads may call the store that the other threads belong to.

        Not if that is its own store. Nor, while these threads hold the lock, if that is another object for the same
        place: the other would wait for the lock.
        """
        if self is other:
            return False
        is_locked = self.lock is not None and self.lock.is_held
        return not is_locked or os.path.realpath(self.place) != os.path.realpath(other.place)


class OnBehalf(OwnThreads):
    """A thread that works for a store without holding its lock, and for which no thread of that store waits."""

    def __init__(self, owner: OwnThreads) -> None:
        super().__init__(owner.place)
        self._owner = owner

    def may_call(self, other: OwnThreads) -> bool:
        return not self._owner.works_for(other)


class Within(OwnThreads):
    """A thread that is in the middle of a function which may not call the store: an observer.

    Args:
        owner: the threads of that store.
        before: what the thread was until then. What was refused to it before stays refused.
    """

    def __init__(self, owner: OwnThreads, before: OwnThreads | None) -> None:
        super().__init__(owner.place)
        self._owner = owner
        self._before = before

    def may_call(self, other: OwnThreads) -> bool:
        return other is not self._owner and (self._before is None or self._before.may_call(other))

    def works_for(self, other: OwnThreads) -> bool:
        return self._owner.works_for(other) or (self._before is not None and self._before.works_for(other))


class _OfAll(OwnThreads):
    """The threads that serve all stores: they may call none."""

    def may_call(self, other: OwnThreads) -> bool:
        return False


OWNERS: dict[int, OwnThreads] = {}
"""By the id of the thread. Each call of a blocking store looks it up directly, since a function would cost more."""

_threads: dict[int, threading.Thread] = {}
"""Which thread had the id when it was added, where that is known."""

OF_ALL: OwnThreads = _OfAll("")


def owner_here() -> OwnThreads | None:
    """The owner of the running thread; None if it is the program's."""
    ident = threading.get_ident()
    owner, thread = OWNERS.get(ident), _threads.get(ident)
    if owner is not None and thread is not None and thread is not threading.current_thread():
        return None  # the store's thread of that id has ended
    return owner


def call_within(owner: OwnThreads, function: Callable[[T], object], argument: T) -> None:
    """Call a function in whose course this thread may not call the store of these threads."""
    ident = threading.get_ident()
    before = owner_here()
    within = Within(owner, before)
    # Given back twice, since an interrupt may come in the middle of the first: the thread is the caller's.
    try:
        try:
            OWNERS[ident] = within
            function(argument)
        finally:
            _give_back(ident, before)
    finally:
        _give_back(ident, before)


def _give_back(ident: int, before: OwnThreads | None) -> None:
    if before is None:
        OWNERS.pop(ident, None)
    else:
        OWNERS[ident] = before


at_fork(in_child=OWNERS.clear)
at_fork(in_child=_threads.clear)
