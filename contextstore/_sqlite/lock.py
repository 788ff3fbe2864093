"""The lock file beside a store's file, which keeps the commits and checkpoints of all processes apart.

Rules of this module: no SQL, nothing of the store. Only programs that know the lock file heed it; SQLite's own locks
stay what makes a commit correct, also against those that don't.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
import weakref
from collections.abc import Callable

from .._process.fork import at_fork
from .._waiting.deadline import Backoff, Deadline
from ..errors import IncompatibleStoreError


def try_again(attempt: Callable[[], bool], wanted: Callable[[], bool]) -> bool:
    """After a first attempt to get a lock that another process or program holds. False: before a pause ``wanted()`` was
    false.
    """
    backoff = Backoff(0.0001, 0.002, 1.2)
    while wanted():
        time.sleep(backoff.pause())
        if attempt():
            return True
    return False


_NOTE_BYTES = 128
"""The first bytes of the file, which hold a note. Earlier versions read 100 of them, and nothing behind."""

_STAMP_OFFSET, _STAMP_BYTES = 256, 128
"""Where the stamp stands (wal_owner.py), behind the epoch."""


class FileLock:
    """``<file>-lock``: its holder may commit, checkpoint, open or close. One descriptor per store object.

    SQLite's own lock would do for correctness of commits, but its waiting starves: of four processes the slowest got
    0.04 of the fastest's share. And a checkpoint must never run beside a commit (see wal.py). A flock that is
    waited for by trying again every 0.1 to 2 ms is fair enough, can be given up at any moment, and leaves no thread
    behind that sleeps in the kernel. Rejected: a blocking flock in a helper thread, which cannot be called back while a
    stopped process holds the lock.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self.path = database + "-lock"
        self._encoded_path = os.fsencode(self.path)
        """As the system takes it: it is looked at whenever the lock is taken."""
        self._descriptor = -1
        self.openings = 0
        """How often it was opened: another file may be under its path since."""
        self.identity = (0, 0)
        """Device and inode of the file that is open."""
        self.is_held = False
        _file_locks.add(self)

    def acquire(self, wanted: Callable[[], bool]) -> bool:
        """Take the lock as soon as it can be had. False: it was not had before ``wanted()`` was false."""
        return self.try_now() or try_again(self.try_now, wanted)

    def acquire_within(self, seconds: float) -> bool:
        """Take the lock. False: it was held for so long. 0: it is tried once."""
        deadline = Deadline(seconds)
        return self.acquire(lambda: not deadline.is_over)

    @property
    def descriptor(self) -> int:
        """Of the lock file, while the lock is held."""
        return self._descriptor

    def try_now(self) -> bool:
        """Take the lock if it is free."""
        if self._descriptor < 0:
            self._open()
            self.identity = _identity(os.fstat(self._descriptor))
        self.is_held = True  # now: an interrupt may come as soon as it is
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.is_held = False
            # Also where the lock file was deleted since: its holder may be in the middle of a commit. To go over to
            # the new file before the holder has ended would put a second commit beside it.
            return False
        try:
            return not self._close_if_replaced()
        except OSError:
            self.release()
            raise

    def _open(self) -> None:
        try:
            database = os.stat(self._database)
            mode = database.st_mode & 0o666
        except FileNotFoundError:  # about to be created
            database, mode = None, 0o600
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        while self._descriptor < 0:  # another process may create or delete it between the two
            try:
                self._descriptor = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, mode)
            except FileExistsError:
                with contextlib.suppress(FileNotFoundError):
                    self._descriptor = os.open(self.path, flags)
                    if database is None:
                        self.openings += 1
                        self._refuse_other_content()
                        return
        self.openings += 1
        self._refuse_other_content()
        # A user who may write the database must be able to lock it. So the mode and the owner again: the umask took its
        # part, and those of the database may have been changed since the lock file was made.
        there = os.fstat(self._descriptor)
        with contextlib.suppress(PermissionError):  # a user who may not change them can still use it as it is
            if database is not None and os.geteuid() == 0 and _owner(there) != _owner(database):
                os.fchown(self._descriptor, database.st_uid, database.st_gid)
            if stat.S_IMODE(there.st_mode) != mode:
                os.fchmod(self._descriptor, mode)

    def _refuse_other_content(self) -> None:
        content = os.pread(self._descriptor, _NOTE_BYTES, 0).replace(b" ", b"").rstrip(b"\n\0")
        if content.isdigit() or not content:
            return
        self.close()
        raise IncompatibleStoreError(
            f"{self.path} is a file of something else, and a store beside it would need that name for its lock: choose "
            "another name for the store; nothing was changed"
        )

    def _close_if_replaced(self) -> bool:
        """Whether the file under the path is another one than ours, at which no other process looks any more."""
        try:
            if _identity(os.stat(self._encoded_path)) == self.identity:
                return False
        except FileNotFoundError:
            pass
        self.close()
        return True

    def noted(self) -> int | None:
        """The inode of the database that was opened last, as far as that is known. To be asked while holding the lock.

        The lock file's own inode stands beside it: where that does not fit, the folder was copied or restored, all
        inodes in it are new, and the note says nothing.
        """
        if self._descriptor < 0:  # there is none, for one that only reads
            return None
        try:
            own, database = map(int, os.pread(self._descriptor, _NOTE_BYTES, 0).split())
        except ValueError:
            return None
        return database if own == os.fstat(self._descriptor).st_ino else None

    def note(self, database: int) -> None:
        """Note the inode of the database that is about to be opened. To be done while holding the lock."""
        if self.noted() == database and os.fstat(self._descriptor).st_size >= _NOTE_BYTES:
            return
        note = b"%d %d" % (os.fstat(self._descriptor).st_ino, database)
        with contextlib.suppress(OSError):  # no room: then there is no note, but never a wrong one
            self.set_stamp("")  # it was of another file, or of another folder
            # In place: to cut off a file that others have mapped (epochs.py) would end their processes.
            os.pwrite(self._descriptor, note.ljust(_NOTE_BYTES - 1) + b"\n", 0)
            os.fsync(self._descriptor)  # after a power cut an old note would be a wrong one

    def stamp(self) -> str:
        """What was noted of how the database was written last. "" if nothing is known of it.

        As the note, it says nothing in a lock file that was copied.
        """
        if self.noted() is None:
            return ""
        return os.pread(self._descriptor, _STAMP_BYTES, _STAMP_OFFSET).decode("utf-8", "replace").strip(" \n\0")

    def set_stamp(self, stamp: str) -> None:
        """To be done while holding the lock. Where there is no room for it, the old one stays."""
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, stamp.encode().ljust(_STAMP_BYTES - 1) + b"\n", _STAMP_OFFSET)

    def sync(self) -> None:
        """What was noted and stamped is there after a power cut."""
        os.fsync(self._descriptor)

    def has_note_of_before(self) -> bool:
        """Whether what stands in it is the work of a version that left no stamps."""
        return self.noted() is not None and os.fstat(self._descriptor).st_size < _NOTE_BYTES

    def acquire_shared(self, seconds: float) -> bool:
        """Take it as a reader, beside other readers. While it is held no process commits, checkpoints, opens or closes.

        False if there is no lock file, or it is held for so long. It makes none, and writes nothing.
        """
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        deadline = Deadline(seconds)
        try:
            return self._try_shared() or try_again(self._try_shared, lambda: not deadline.is_over)
        except OSError:  # a file system that does not lock
            return False

    def _try_shared(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.is_held = False

    def close(self) -> None:
        """Close the descriptor, which also gives the lock back, unless a forked process shares it."""
        descriptor, self._descriptor, self.is_held = self._descriptor, -1, False
        if descriptor >= 0:
            os.close(descriptor)


def _identity(there: os.stat_result) -> tuple[int, int]:
    return there.st_dev, there.st_ino


def _owner(there: os.stat_result) -> tuple[int, int]:
    return there.st_uid, there.st_gid


_file_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_locks_in_child() -> None:
    # A forked child shares the lock with its parent. LOCK_UN here would free the parent's, and to keep the descriptor
    # would keep the lock held for as long as the child lives.
    for lock in list(_file_locks):
        lock.close()


at_fork(in_child=_close_locks_in_child)
