"""How a whole new file takes the place of a store's, and what is looked at before a file is opened.

Rules of this module: no SQL. At each step a kill leaves the old file with its own side files, or the new one with
nothing that belongs to the old one; what is left to do is stamped in the lock file before it is begun.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator

from ..errors import (
    ReadOnlyStoreError,
    StorageError,
    StoreBusyError,
    StoreNotFoundError,
    TargetExistsError,
)
from .location import check_side_files, has_content, refuse_database, refuse_emptied, sync_folder
from .lock import FileLock
from .wal_owner import is_open_here, is_placed, keep_stamp, refuse_other_wal, stamp_placing, was_store

_SIDE_FILES = ("-wal", "-shm", "-journal")

_LOCK_SECONDS = 5.0
"""How long the lock file is waited for: it is held for a commit, or a checkpoint."""

_SQLITE_LOCKS = (512, 0x40000000)
"""The bytes of a database file on which SQLite's locks lie: how many, from where on. In WAL mode each
connection holds a shared one for as long as it is open. https://sqlite.org/src/file/src/os.h"""


def check_before_opening(path: str, location: str, lock: FileLock, why_not_create: str) -> None:
    """Raise if the file, which is there, is not to be opened; finish what a kill cut off. While holding the lock."""
    stamp = lock.stamp()
    if is_placed(stamp, path):
        _finish_placing(path, lock)
        return
    refuse_emptied(path, location, was_store(stamp) or lock.has_note_of_before(), why_not_create)
    check_side_files(path, location, lock.noted())
    refuse_other_wal(path, location, stamp)


@contextlib.contextmanager
def new_file(path: str, doing: str) -> Iterator[str]:
    """The name of an empty file beside the path, mode 0600, which is gone at the end unless it was put in its place."""
    part = path + ".part"
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise StoreNotFoundError(f"could not {doing} {path}: there is no folder {folder}; create it first")
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise StorageError(
            f"{part} is there already: another backup or restoring is under way, or was cut off; remove it"
        ) from error
    try:
        try:
            os.fchmod(descriptor, 0o600)  # again, since the umask took its part
        finally:
            os.close(descriptor)
        yield part
    finally:
        for name in (part, *(part + suffix for suffix in _SIDE_FILES)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def refuse_existing(path: str, overwrite: bool) -> None:
    """Raise if there is something, and it is not to be overwritten, or cannot be."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return
    if not overwrite:
        raise TargetExistsError(
            f"{path} is there already and was not overwritten: choose another name, or pass overwrite=True"
        )
    if not stat.S_ISREG(there.st_mode):
        raise TargetExistsError(f"{path} is there already, and is no regular file, which alone can be overwritten")
    with _alone(path):
        pass


def put_in_place(part: str, path: str, *, overwrite: bool, is_store: bool) -> None:
    """Give a whole and synced file its name. With ``is_store`` it is about to be used, and gets its lock file."""
    # Beside a backup that was never opened nothing is left.
    needs_lock = (
        is_store or os.path.lexists(path + "-lock") or any(has_content(path + suffix) for suffix in _SIDE_FILES)
    )
    lock = FileLock(path) if needs_lock else None
    try:
        if lock is not None and not lock.acquire_within(_LOCK_SECONDS):
            raise StoreBusyError(f"{path} is in use: another process holds {lock.path}; close the store there")
        refuse_existing(path, overwrite)
        if os.path.lexists(path):
            _replace(part, path, lock)
        else:
            _remove_side_files(path)  # of a file that was deleted
            _give_name(part, path)
            sync_folder(os.path.dirname(path))
        if lock is not None:
            _finish_placing(path, lock)
        else:
            _remove_side_files(path)
    finally:
        if lock is not None:
            lock.close()


def _replace(part: str, path: str, lock: FileLock | None) -> None:
    old = os.stat(path)
    try:
        if (old.st_uid, old.st_gid) != (os.stat(part).st_uid, os.stat(part).st_gid):
            os.chown(part, old.st_uid, old.st_gid)
    except PermissionError as error:
        raise ReadOnlyStoreError(
            f"{path} belongs to uid {old.st_uid} and gid {old.st_gid}, which a file in its place has to keep: do "
            "this as its owner"
        ) from error
    os.chmod(part, stat.S_IMODE(old.st_mode))
    _sync(part)
    with _alone(path):
        if lock is not None:
            # From here on the old side files are void for every opening, as soon as the new file is there.
            stamp_placing(lock, os.stat(part).st_ino)
        os.replace(part, path)
        sync_folder(os.path.dirname(path))


def _finish_placing(path: str, lock: FileLock) -> None:
    _remove_side_files(path)
    sync_folder(os.path.dirname(path))
    lock.note(os.stat(path).st_ino)
    keep_stamp(lock, path)


def _remove_side_files(path: str) -> None:
    for suffix in _SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            refuse_database(path + suffix)
            os.unlink(path + suffix)


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Raise if a process has the file open by SQLite, also if it does nothing with it. Within it none can open it."""
    if is_open_here(path, path + "-shm"):
        raise StoreBusyError(f"{path} is in use by this process: close the store first; it was left as it is")
    # Only since this process has no other descriptor on it: closing this one would drop SQLite's locks.
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as error:
        raise ReadOnlyStoreError(
            f"{path} cannot be written, and so not be overwritten: check its permissions"
        ) from error
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, *_SQLITE_LOCKS)
        except (BlockingIOError, PermissionError) as error:
            raise StoreBusyError(
                f"{path} is in use by another process: close the store there first; it was left as it is"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give_name(part: str, path: str) -> None:
    """Rename, but overwrite nothing."""
    try:
        try:
            os.link(part, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links, as on many a USB stick
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            os.replace(part, path)
        else:
            os.unlink(part)  # at once: a file of two names is no store
    except FileExistsError as error:
        raise TargetExistsError(f"{path} has come to be there meanwhile, and was not overwritten") from error
