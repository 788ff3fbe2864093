"""A visit to a SQLite file that is only read: it leaves the owner able to write.

A file that is in WAL mode is read by way of its -shm. The process that opens it first makes that, as its user's own. So
a visitor joins a -shm that a writer has made. Where there is none, no process has the file open: it is read as it is
(SQLite's ``immutable``), or, if a -wal with commits was left beside it, with an index of that -wal in memory. Then no
lock tells of a writer who comes, so the visitor looks at the files before and after each read, and begins anew as soon
as they have changed.

Rules of this module: connections, no statements of the store's. No lock file is made, and what is there is held for no
longer than an opening takes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

from .._waiting.deadline import Deadline
from ..errors import IncompatibleStoreError, StorageError
from .additions import check_schema_untouched
from .connection import set_up_reader, uri_of
from .errors import code_of
from .location import check_side_files, has_content, refuse_emptied, sync_folder
from .lock import FileLock
from .schema import SCHEMA_VERSION, schema_version
from .wal import sync_recovered_wal
from .wal_owner import descriptors_here, is_placed, read_wal, refuse_other_wal, was_store

_LOCK_SECONDS = 0.5
"""How long an opening waits for the lock file. A process that holds it for longer is stopped: it opens and closes
nothing."""

_SETTLED_NS = 20_000_000
"""What was written so long ago is told from what is written now: file systems count by ticks of up to 10 ms."""

NO_WRITER = "with read_only=True none is made: open it once without"


class ChangedMeanwhileError(StorageError):
    """What was read may be half old and half new."""


class _Fingerprint(NamedTuple):
    """How a store's files looked."""

    database: tuple[int, ...] | None
    wal: tuple[int, ...] | None
    shm: int | None

    def is_settled(self) -> bool:
        times = [time_ns for file in (self.database, self.wal) if file is not None for time_ns in file[2:]]
        return not any(abs(time.time_ns() - time_ns) < _SETTLED_NS for time_ns in times)


def _fingerprint(path: str) -> _Fingerprint:
    shm = _facts(path + "-shm")
    wal = _facts(path + "-wal")
    # Not the -wal's ctime: SQLite gives it to the file's owner each time that root opens it.
    return _Fingerprint(_facts(path), wal[:3] if wal else None, shm[0] if shm else None)


def _facts(path: str) -> tuple[int, ...] | None:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return None
    return there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns


class Visit:
    """A connection to a file that is only read, and what it takes to be right."""

    def __init__(
        self, path: str, location: str, connection: sqlite3.Connection, uri: str, seen: _Fingerprint | None
    ) -> None:
        self._path = path
        self._location = location
        self.connection = connection
        self.uri = uri
        self._seen = seen

    @property
    def follows(self) -> bool:
        """Whether it sees by itself what others write."""
        return self._seen is None

    def is_right(self) -> bool:
        return self._seen is None or self._seen == _fingerprint(self._path)

    def confirm(self) -> None:
        """Raise unless what was read since it was right is right."""
        if not self.is_right():
            raise ChangedMeanwhileError(
                f"{self._location} was being written each time that it was read, by programs that open it anew for "
                "each write: try again"
            )


SetUp = Callable[[sqlite3.Connection], None]


def set_up(connection: sqlite3.Connection, location: str) -> None:
    """Of a connection that reads a store of the present schema."""
    version = schema_version(connection, location)
    if version == 0:
        raise IncompatibleStoreError(f"{location} is empty: open it once without read_only=True")
    if version != SCHEMA_VERSION:
        raise IncompatibleStoreError(
            f"{location} is of an older schema: open it once without read_only=True, which migrates it; where it "
            "cannot be written, restore() makes a migrated copy of it"
        )
    check_schema_untouched(connection, location)


def visit(path: str, location: str, timeout: float, set_up: SetUp) -> Visit:
    """Open a file of this real path, to be only read. Raises what an opening raises, SQLite's errors as they are."""
    opening = _Opening(path, location, timeout, set_up)
    deadline = Deadline(timeout)
    while True:
        found = opening.attempt()
        if found is not None:
            return found
        if deadline.is_over:
            raise ChangedMeanwhileError(f"could not open {location}: others open, write and close it without a pause")


class _Opening:
    """Opens a file, as it is just now."""

    def __init__(self, path: str, location: str, timeout: float, set_up: SetUp) -> None:
        self._path = path
        self._location = location
        self._timeout = timeout
        self._set_up = set_up

    def attempt(self) -> Visit | None:
        """None: the file has changed since."""
        with _beside_other_openings(self._path) as (lock, is_held):
            seen = _fingerprint(self._path)
            has_wal = _check_files(self._path, self._location, lock, is_held)
            # A -shm that is missing is made only as the file's owner, whom it does not keep out.
            if has_wal is not None and seen.wal and (seen.shm or (has_wal and _is_owner(self._path))):
                try:
                    return self._joined()
                except sqlite3.OperationalError as error:
                    # A killed process may have left it in the middle of something, which only a writer may mend.
                    if code_of(error) & 0xFF != sqlite3.SQLITE_READONLY and _fingerprint(self._path) == seen:
                        raise
        return self._as_it_is(seen, bool(has_wal))

    def _joined(self) -> Visit:
        """By way of the -shm, beside writers. As a connection that could write: in one process, all connections
        that have the -shm open write to it or none."""
        uri = uri_of(self._path, "ro") + ("" if _may(self._path, os.W_OK) else "&readonly_shm=1")
        connection = self._connect(sqlite3.Connection, uri)
        _sync(self._path)
        return Visit(self._path, self._location, connection, uri, None)

    def _as_it_is(self, seen: _Fingerprint, with_wal: bool) -> Visit | None:
        """Open a file that no process has open. None: it has changed since it was seen."""
        while not seen.is_settled():
            time.sleep(0.005)
        needs_wal = with_wal and read_wal(self._path + "-wal", 1) is not None
        uri = uri_of(self._path, "ro") + ("&vfs=unix-none" if needs_wal else "&immutable=1")
        try:
            connection = self._connect(_WithoutLocks if needs_wal else sqlite3.Connection, uri)
            _sync(self._path)
        except (sqlite3.Error, StorageError):
            if _fingerprint(self._path) == seen:
                raise
            return None
        if _fingerprint(self._path) == seen:
            return Visit(self._path, self._location, connection, uri, seen)
        connection.close()
        return None

    def _connect(self, kind: type[sqlite3.Connection], uri: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, timeout=0, cached_statements=256, check_same_thread=False, factory=kind
        )
        try:
            set_up_reader(connection, self._timeout)
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection


@contextlib.contextmanager
def _beside_other_openings(path: str) -> Iterator[tuple[FileLock, bool]]:
    """Within it no writer opens or closes the file, if there is a lock file that can be held.

    Else SQLite might make the -wal anew, as ours, in the moment in which the last writer takes its own away.
    """
    lock = FileLock(path)
    try:
        yield lock, lock.acquire_shared(_LOCK_SECONDS)
    finally:
        lock.close()


def _check_files(path: str, location: str, lock: FileLock, is_held: bool) -> bool | None:
    """Whether there are commits in a -wal; None: what is there belongs to a file that was replaced."""
    stamp = lock.stamp()
    refuse_emptied(path, location, was_store(stamp) or lock.has_note_of_before(), NO_WRITER)
    if is_placed(stamp, path):
        return None
    if not has_content(path + "-wal"):
        return False
    if is_held:  # else a writer is there, and it is the writer's
        check_side_files(path, location, lock.noted())
        refuse_other_wal(path, location, stamp)
    return True


def _is_owner(path: str) -> bool:
    """Whether a side file that is made now keeps no user out. It gets the mode of the file, and by root its owner."""
    there = os.stat(path)
    is_his = os.geteuid() in (0, there.st_uid) and bool(there.st_mode & stat.S_IWUSR)
    return is_his and _may(path, os.W_OK) and _may(os.path.dirname(path), os.W_OK)


def _may(path: str, how: int) -> bool:
    return os.access(path, how, effective_ids=os.access in os.supports_effective_ids)


def _sync(path: str) -> None:
    # After recovery, which may have taken up what a killed writer did not sync.
    sync_recovered_wal(path)
    with contextlib.suppress(OSError):  # a medium that is only read has nothing to be synced
        sync_folder(os.path.dirname(path))


class _WithoutLocks(sqlite3.Connection):
    """A connection that keeps the index of the WAL in memory, and takes no locks.

    SQLite closes its descriptor at once, and with it go the locks of every other connection of this process to the
    file. So it is kept open for as long as there is another.
    """

    _all: ClassVar[weakref.WeakSet[_WithoutLocks]] = weakref.WeakSet()
    _kept: ClassVar[set[_WithoutLocks]] = set()

    def __init__(self, database: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(database, *args, **kwargs)
        self.execute("PRAGMA locking_mode = EXCLUSIVE").close()
        ((_, _, self.path),) = self.execute("PRAGMA database_list").fetchall()
        self._all.add(self)

    def close(self) -> None:
        self._kept.add(self)
        for one in list(self._kept):
            if descriptors_here(one.path) <= sum(other.path == one.path for other in list(self._all)):
                self._kept.discard(one)
                self._all.discard(one)
                sqlite3.Connection.close(one)
