"""Where a store's file is: whether it may be there, whether it is still the one that was opened, what lies beside it.

Rules of this module: no SQL, and no descriptor of our own on the database file or the -shm, ever: closing one drops the
process's POSIX locks on them (https://sqlite.org/howtocorrupt.html, 2.2). What is not ours is refused as it was found.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator

from ..errors import IncompatibleStoreError, StorageError, StoreNotFoundError
from .errors import translated_os


class StoreFile:
    """The file of a store object, and whether it is still the one that was opened."""

    def __init__(self, given_path: str) -> None:
        self.location = given_path
        """As messages name it."""
        self.path = ""
        """The real path, from the opening on: a link that is changed later leads nowhere else."""
        self._encoded_path = b""
        """As the system takes it: each write and each read from the file looks there."""
        self._identity = (0, 0)

    def locate(self) -> str:
        """Look where the file is now."""
        self.path = os.path.realpath(self.location)
        self._encoded_path = os.fsencode(self.path)
        return self.path

    def identify(self) -> int:
        """Take what is there for the file that is opened. Returns its inode."""
        there = os.stat(self.path)
        self._identity = (there.st_dev, there.st_ino)
        return there.st_ino

    def check(self) -> None:
        """Raise unless the file that was opened is still the one under its name."""
        try:
            there = os.stat(self._encoded_path)
        except FileNotFoundError:
            raise StoreNotFoundError(
                f"{self.location} was deleted while it was open, and takes and gives nothing more: make a new store "
                "object"
            ) from None
        except OSError as error:
            raise translated_os(error, self.location, "could not find") from error
        if (there.st_dev, there.st_ino) != self._identity:
            raise StorageError(
                f"{self.location} was replaced by another file while it was open, and takes and gives nothing more: "
                "make a new store object"
            )


def size_of(path: str) -> int:
    """In bytes; 0 if it is not there."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def check_side_files(path: str, location: str, last_opened: int | None) -> None:
    """Raise if the WAL beside the file is that of another one, which was here before it.

    SQLite cannot tell: it would take the former file's pages for this one's, and mix the two for good.
    """
    if last_opened in (None, os.stat(path).st_ino):
        return
    if has_content(path + "-wal") or os.path.exists(path + "-shm"):
        raise IncompatibleStoreError(
            f"{location} has been replaced by another file, and beside it there are still the -wal and -shm of the "
            "former one: end the programs that have that one open, remove the two, and try again "
            f"(if they belong to the new file, remove {path}-lock instead)"
        )


def create_file(path: str) -> None:
    """An empty file, readable by its owner only; SQLite gives its side files the same mode.

    Side files without a file are those of one that was deleted, perhaps while other processes have it open. SQLite
    would join these on their -shm, and look for its pages in a WAL that it does not have.
    """
    for side_file in (path + "-wal", path + "-shm"):
        with contextlib.suppress(FileNotFoundError):
            refuse_database(side_file)
            os.unlink(side_file)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # again, since the umask took its part
    finally:
        os.close(descriptor)


def refuse_database(side_file: str) -> None:
    """Raise if what has the name of a side file is something else."""
    with open(side_file, "rb") as file:
        if file.read(16) == b"SQLite format 3\0":
            raise IncompatibleStoreError(
                f"{side_file} is a database, whose name a store beside it would need for its own: choose another name"
            )


def has_content(path: str) -> bool:
    return size_of(path) > 0


def check_place(path: str, location: str, why_not_create: str = "") -> bool:
    """Whether the file exists. Raises if it cannot be a store, or is missing and not to be created, for that reason."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            hint = "; ~ is not expanded: use Path.expanduser()" if "/~" in folder else "; create it first"
            raise StoreNotFoundError(f"could not open {location}: there is no folder {folder}{hint}") from None
        if why_not_create:
            raise StoreNotFoundError(f"there is no store at {location}; {why_not_create}") from None
        _refuse_long_name(path, location)
        _refuse_network_file_system(folder, location)
        return False
    except NotADirectoryError:
        raise StoreNotFoundError(f"could not open {location}: a part of its path is a file, not a folder") from None
    if stat.S_ISDIR(there.st_mode):
        raise IncompatibleStoreError(f"{location} is a folder; name a file in it")
    _refuse_long_name(path, location)
    if not stat.S_ISREG(there.st_mode):
        raise IncompatibleStoreError(f"{location} is not a regular file")
    if there.st_nlink > 1:  # https://sqlite.org/howtocorrupt.html, 2.5
        raise IncompatibleStoreError(
            f"{location} has {there.st_nlink} names (hard links), and beside each there would be another -wal, which "
            "destroys it: remove all names but one, or make the others symbolic links"
        )
    _refuse_network_file_system(path, location)
    _refuse_mounted_file(path, location)
    return True


_LONGEST_SIDE_NAME = "-journal"
_LONGEST_PATH = 512 - len(_LONGEST_SIDE_NAME)  # MAX_PATHNAME in SQLite's os_unix.c, which cannot be configured


def _refuse_long_name(path: str, location: str) -> None:
    name, folder = os.fsencode(os.path.basename(path)), os.path.dirname(path)
    longest = os.pathconf(folder, "PC_NAME_MAX") - len(_LONGEST_SIDE_NAME)
    if len(name) > longest or len(os.fsencode(path)) > _LONGEST_PATH:
        raise StorageError(
            f"could not open {location}: its name is too long for SQLite and its side files, which take names of "
            f"{longest} bytes and paths of {_LONGEST_PATH}"
        )


_NETWORK_FILE_SYSTEMS = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "gfs2", "ocfs2", "beegfs", "fuse.sshfs"]
)


def _refuse_network_file_system(path: str, location: str) -> None:
    """Locks and shared memory do not work across hosts. Linux tells what a path is mounted from; others don't."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for mount, _, source in _mounts():
        if mount[2] == number and source in _NETWORK_FILE_SYSTEMS:
            raise IncompatibleStoreError(
                f"{location} is on a network file system ({source}), where its locks do not hold: "
                "put it on a local disk, or use PostgreSQL"
            )


def _refuse_mounted_file(path: str, location: str) -> None:
    """What is beside it is not beside the file that was mounted: who comes by that name, or later, has another -wal."""
    if any(point == path for _, point, _ in _mounts()):
        raise IncompatibleStoreError(
            f"{location} is mounted by itself, and its -wal, which has the newest writes, would stay behind: mount its "
            "folder instead"
        )


def _mounts() -> Iterator[tuple[list[str], str, str]]:
    """Of each mount its fields (proc(5), mountinfo), the path that it is at, and the type of its file system."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            lines = mounts.read().splitlines()
    except OSError:
        return
    for line in lines:
        before, _, source = line.partition(" - ")
        fields = before.split(" ")
        yield fields, re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4]), source.split()[0]


def refuse_emptied(path: str, location: str, was_store: bool, why_not_create: str = "") -> None:
    """Raise if the file is empty and a store was there, or if none is to be made of it, for that reason."""
    if os.stat(path).st_size:
        return
    signs = [
        f"{path}{suffix}" for suffix, is_sign in (("-wal", has_content(path + "-wal")), ("-lock", was_store)) if is_sign
    ]
    if signs:
        raise IncompatibleStoreError(
            f"{location} is empty, and a store was there, as {' and '.join(signs)} tell: all that it held is gone, and "
            f"no new one was made in its place: restore a backup, or remove {' and '.join(signs)} to begin anew"
        )
    if why_not_create:
        raise StoreNotFoundError(f"there is no store at {location}, which is empty; {why_not_create}")


def sync_folder(folder: str) -> None:
    """A new file is found after a power cut only if its folder was synced, too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
