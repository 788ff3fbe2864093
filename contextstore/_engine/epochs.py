"""The epoch of a store: it changes with each deletion of runs or outputs, by any client, and tells a cache when to go.

Rules of this module: no SQL, no values. Outputs never change, so a cached one is right until it is deleted, or its run.
An id that was deleted, forgotten and used anew has other outputs; the deleter may be another process. So what is cached
is good for one epoch only, and each answer from memory looks at the present one first.

An epoch is compared for equality and nothing else. None, and an odd number, stand for "not known just now": nothing is
answered from memory, and nothing is kept.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias

from .._process.fork import at_fork

Epoch: TypeAlias = "int | tuple[Any, ...] | None"

VALID_SECONDS = 1.0
"""How long an epoch that has to be asked for is taken for the present one."""


class Epochs(Protocol):
    """What an engine knows of its store's epoch."""

    @property
    def now(self) -> Sequence[Any]:
        """``now[0]`` is the present one. An index and not a call: each get that the cache answers looks at it."""

    @property
    def latest(self) -> Epoch:
        """The last one that is known to have come, whether or not answers from memory are good just now. It never goes
        back but after a fail-over."""

    @property
    def is_exact(self) -> bool:
        """Whether ``now[0]`` is the present one to the moment, and not up to ``VALID_SECONDS`` old."""

    @property
    def turn(self) -> tuple[Epoch, Epoch]:
        """The epochs before and after what this object has committed last; between them are its own deletions alone."""


def is_known(epoch: Epoch) -> bool:
    return epoch is not None and not (type(epoch) is int and epoch & 1)


class LocalEpochs:
    """Of a store that no other client has: in memory."""

    is_exact = True

    def __init__(self) -> None:
        self.now = [0]
        self.turn: tuple[Epoch, Epoch] = (0, 0)

    @property
    def latest(self) -> Epoch:
        return self.now[0]

    def begin_write(self, _: object = None) -> None:
        """Before a commit, or several of one turn."""
        self.turn = (self.now[0], self.now[0])

    def end_write(self) -> None:
        self.turn = (self.turn[0], self.now[0])

    @contextlib.contextmanager
    def deleting(self) -> Iterator[None]:
        """Around a commit that deletes runs, or outputs."""
        self.now[0] += 1
        try:
            yield
        finally:
            self.now[0] += 1


class AskedEpochs:
    """Of a store that has to be asked for its epoch: one on a server, or a file that is only read.

    An answer is good for ``VALID_SECONDS`` from when it was asked for; then nothing is answered from memory until it
    is asked for anew. Objects of this process on the same place tell each other at once.
    """

    is_exact = False

    def __init__(self, place: str) -> None:
        self._place = place
        self.known: Epoch = None
        self._asked_at = self._expired_at = self._changed_at = 0.0
        self.turn: tuple[Epoch, Epoch] = (None, None)
        self.now: Sequence[Any] = _Now(self)
        with _neighbours_lock:
            _neighbours.add(self)

    @property
    def latest(self) -> Epoch:
        return self.known

    @property
    def is_valid(self) -> bool:
        return self._expired_at < self._asked_at > time.monotonic() - VALID_SECONDS

    def note(self, epoch: Epoch, asked_at: float) -> None:
        """It was this one, or has changed since, when it was asked for. What was asked for earlier may come later."""
        if asked_at >= max(self._asked_at, self._changed_at, self._expired_at):
            self.known, self._asked_at = epoch, asked_at

    def begin_write(self) -> None:
        self.turn = (self.known, self.known)

    def deleted(self, before: Epoch, after: Epoch) -> None:
        """A deletion of this object's was committed, between these two."""
        first, last = self.turn
        # If another client has deleted a run since this object last asked, all that it has cached is out of date.
        self.turn = (first if last == before else None, after)
        self._changed_at = time.monotonic()
        if self.known != before:  # another client has deleted a run, too, before or after
            self._expired_at = self._changed_at
        # Also then: while an earlier one is taken for the present one, a read that began before would fill the cache.
        self.known = after
        self._tell_neighbours()

    def lose(self) -> None:
        """A deletion of this object's may have been committed or not."""
        self.known, self.turn = None, (None, None)
        self._changed_at = self._expired_at = time.monotonic()
        self._tell_neighbours()

    def _tell_neighbours(self) -> None:
        with _neighbours_lock:
            for other in _neighbours:
                if other is not self and other._place == self._place:
                    other._expired_at = time.monotonic()


_neighbours: weakref.WeakSet[AskedEpochs] = weakref.WeakSet()
_neighbours_lock = threading.RLock()  # reentrant: a finalizer that runs while it is held may make a store


def _renew_lock_in_child() -> None:
    global _neighbours_lock
    _neighbours_lock = threading.RLock()  # another thread of the parent may have held the old one while it forked


at_fork(in_child=_renew_lock_in_child)


class _Now(Sequence[Any]):
    def __init__(self, epochs: AskedEpochs) -> None:
        self._epochs = epochs

    def __getitem__(self, _: Any) -> Any:
        return self._epochs.known if self._epochs.is_valid else None

    def __len__(self) -> int:
        return 1
