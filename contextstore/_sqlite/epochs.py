"""The epoch of a store file: a number in its lock file, mapped into the memory of every process that has it open.

Rules of this module: no SQL, no values. Only the holder of the lock writes the number; see ``_engine/epochs.py`` for
what an epoch is and what it is asked for.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .._engine.epochs import Epoch
from .._process.fork import at_fork
from .lock import FileLock

_WIDTH = 8
_OFFSET = 128
"""Where the epoch stands in the lock file: behind what earlier versions read of it."""


class MappedEpochs:
    """Of a file: a number in its lock file, which each process that has the store open maps into memory.

    To look at it takes as long as a look into a dict (37 ns). It is written under the lock, as a seqlock: odd before
    a deletion is committed, even again after it and before the deleting call returns. An odd one that a kill has left
    is mended by the next holder of the lock. Rejected: SQLite's data_version, which takes a statement a look and
    changes with every commit; and a registry within the process, since the deleter may be another one.

    It is written by pwrite, not through the map: on a full disk that raises, and ends no process.
    """

    is_exact = True

    def __init__(self) -> None:
        self._lock: FileLock | None = None  # of the present turn, or the last one
        self._map: _Map | None = None
        self._changing = threading.Lock()
        _mapped.add(self)
        self._has_space = True
        self._last = 0  # the last epoch that was seen in a turn
        self.now: Sequence[Any] = (None,)
        self.turn: tuple[Epoch, Epoch] = (None, None)

    @property
    def latest(self) -> Epoch:
        return self.now[0]  # type: ignore[no-any-return]  # a memoryview's item has no type

    def begin_write(self, lock: FileLock) -> bool:
        """While holding the lock: before a commit, or several of one turn. False: its file was replaced just now."""
        there = self._map
        self._has_space = True
        if there is None or self._lock is not lock or there.opening != lock.openings:
            try:
                there = self._map_file(lock)
            except OSError as error:
                # Where there is no room for one, nothing is deleted, and nothing answered from memory.
                self._has_space = False
                self.close()
                self._lock, self.turn = lock, (None, None)
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.ESTALE):
                    raise
                return error.errno not in (errno.ENOENT, errno.ESTALE)
        epoch: int = there.content[0]
        if epoch & 1:  # left by a kill
            epoch += 1
            self._write(lock, epoch)
        self._last = epoch
        self.turn = (epoch, epoch)
        return True

    def end_write(self) -> None:
        if self._has_space:
            self.turn = (self.turn[0], self._last)

    @contextlib.contextmanager
    def deleting(self) -> Iterator[None]:
        """Around a commit that deletes runs, in a turn."""
        assert self._lock is not None
        if not self._has_space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._lock.path)
        # Not by what the map says: a reader may have let go of it since.
        epoch = self._last
        self._write(self._lock, epoch + 1)
        self._last = epoch + 1
        try:
            yield
        finally:
            # Left odd it is safe: nothing is answered from memory until the next holder of the lock has mended it.
            with contextlib.suppress(OSError):
                self._write(self._lock, epoch + 2)
                self._last = epoch + 2

    def known_under(self, lock: FileLock) -> Epoch:
        """The present epoch, by the holder of this lock, in any thread. None: the map is of another lock file."""
        there = self._map
        return there.content[0] if there is not None and there.identity == lock.identity else None

    def before_a_read(self) -> Epoch:
        """The present epoch, for what is read next from the file.

        The map is let go of if its file is not the lock file any more: no process writes to it then. Nothing is
        answered from memory then, until this object's next turn, which looks for itself.
        """
        there = self._map
        if there is not None and there.identity != _identity_of(there.path):
            with self._changing:
                if self._map is there:
                    self._let_go()
        return self.now[0]  # type: ignore[no-any-return]  # a memoryview's item has no type

    def _map_file(self, lock: FileLock) -> _Map:
        found = _read(lock.descriptor)
        if not found or self._last:
            # Not from 0 on: a lock file that was deleted and made anew must not come by an epoch that it had before.
            # Nor where this one has left it, if it was replaced by an older copy of itself.
            self._write(lock, max(found + 2 & ~1, 2 * (time.time_ns() // 1000), self._last + 2 & ~1))
        # By a descriptor of its own. The map keeps a duplicate, and one of the lock's would hold the lock.
        descriptor = os.open(lock.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if not os.path.sameopenfile(descriptor, lock.descriptor):
                raise OSError(errno.ESTALE, "it was replaced by another file just now", lock.path)
            content = mmap.mmap(descriptor, _OFFSET + _WIDTH, prot=mmap.PROT_READ)
            identity = _identity_of(descriptor)
        finally:
            os.close(descriptor)
        epoch = memoryview(content)[_OFFSET : _OFFSET + _WIDTH].cast("Q")
        there = _Map(os.fsencode(lock.path), lock.openings, identity, epoch)
        with self._changing:
            self._lock, self._map, self.now = lock, there, epoch
        return there

    def _write(self, lock: FileLock, epoch: int) -> None:
        os.pwrite(lock.descriptor, epoch.to_bytes(_WIDTH, sys.byteorder), _OFFSET)

    def close(self) -> None:
        """Let go of the map. It is gone once no call of another thread is looking at it."""
        with self._changing:
            self._let_go()
            self._lock = None

    def renew_in_child(self) -> None:
        """Let go of the map, which keeps a descriptor, and at which no call of a forked child's looks."""
        self._changing = threading.Lock()  # another thread of the parent may have held the old one
        self._let_go()

    def _let_go(self) -> None:
        self.now, self._map = (None,), None


_mapped: weakref.WeakSet[MappedEpochs] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for epochs in list(_mapped):
        epochs.renew_in_child()


at_fork(in_child=_let_go_in_child)


class _Map(NamedTuple):
    path: bytes
    """As the system takes it: each read from the file looks there."""
    opening: int
    """Which of the lock's openings it belongs to."""
    identity: tuple[int, int] | None
    content: memoryview
    """The epoch is its first item."""


def _identity_of(file: bytes | int) -> tuple[int, int] | None:
    try:
        there = os.stat(file)
    except OSError:
        return None
    return there.st_dev, there.st_ino


def read_epoch(lock_path: str) -> tuple[int, tuple[int, int] | None] | None:
    """The epoch in a lock file that is not ours to open for long. None: it is not there, not to be read, or has none.

    It comes with the file's identity: in an older copy of the file the number would come again for another deletion.
    """
    try:
        descriptor = os.open(lock_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        found = _read(descriptor)
        return (found, _identity_of(descriptor)) if found else None
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> int:
    found = os.pread(descriptor, _WIDTH, _OFFSET)
    return int.from_bytes(found, sys.byteorder) if len(found) == _WIDTH else 0
