"""SQLite's errors and the system's, as the errors of this package.

Rules of this module: decided by codes, never by the text of a message. What it returns has the original as its cause.
"""

from __future__ import annotations

import errno
import os
import sqlite3

from ..errors import (
    CorruptStoreError,
    IncompatibleStoreError,
    ReadOnlyStoreError,
    StorageError,
    StoreBusyError,
    StoreFullError,
    StoreNotFoundError,
)
from .rights import side_file_in_the_way

_BY_CODE: dict[int, type[StorageError]] = {
    sqlite3.SQLITE_BUSY: StoreBusyError,
    sqlite3.SQLITE_LOCKED: StoreBusyError,
    sqlite3.SQLITE_FULL: StoreFullError,
    sqlite3.SQLITE_READONLY: ReadOnlyStoreError,
    sqlite3.SQLITE_PERM: ReadOnlyStoreError,
    sqlite3.SQLITE_CORRUPT: CorruptStoreError,
    sqlite3.SQLITE_NOTADB: IncompatibleStoreError,
    sqlite3.SQLITE_CANTOPEN: StorageError,
}
_ADVICE: dict[int, str] = {
    sqlite3.SQLITE_BUSY: "another program holds it; try again",
    sqlite3.SQLITE_FULL: "there is no room left; free some and try again",
    sqlite3.SQLITE_READONLY: "it cannot be written; check its permissions, or open it with read_only=True",
    sqlite3.SQLITE_CORRUPT: "the file is damaged (check() tells where); restore a backup",
    sqlite3.SQLITE_NOTADB: "this is not a SQLite database, or it is cut off; nothing was changed",
    sqlite3.SQLITE_CANTOPEN: "check that it is a file, and its permissions and those of its folder",
}


def code_of(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)


def translated(error: sqlite3.Error, location: str, doing: str, outcome_unknown: bool = False) -> StorageError:
    code = code_of(error)
    # A -shm file that cannot grow: there is no room, also if the system's error says something else.
    primary = sqlite3.SQLITE_FULL if code == sqlite3.SQLITE_IOERR_SHMSIZE else code & 0xFF
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    advice = _ADVICE.get(primary)
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        advice = side_file_in_the_way(os.path.realpath(location)) or advice
    message = f"{doing} {location}: {error} ({name})" + (f": {advice}" if advice else "")
    translated = _BY_CODE.get(primary, StorageError)(message, outcome_unknown, code=code)
    translated.__cause__ = error
    return translated


def translated_os(error: OSError, location: str, doing: str) -> StorageError:
    kind: type[StorageError] = StorageError
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        kind = StoreFullError
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        kind = ReadOnlyStoreError
    elif error.errno == errno.ENOENT:
        kind = StoreNotFoundError
    message = f"{doing} {location}: {error.strerror or error} ({errno.errorcode.get(error.errno or 0, '?')})"
    if error.errno in (errno.EACCES, errno.EPERM):
        advice = side_file_in_the_way(os.path.realpath(location))
        message += f": {advice}" if advice else ""
    translated = kind(message)
    translated.__cause__ = error
    return translated
