"""``restore``: a store brought back from its backup.

Rules of this module: a plain function over files, which needs no store object. The target is left as it is until a
whole, verified and synced file is there to take its place.
"""

from __future__ import annotations

import inspect
import os
import sqlite3
from collections.abc import Callable
from typing import Any

from .._values.arguments import check_function
from ..errors import IncompatibleStoreError, StorageError
from .backup import Report, begin_history, copy_snapshot, migrate_copy, verify
from .errors import translated, translated_os
from .location import check_place
from .placing import new_file, put_in_place, refuse_existing
from .schema import probe, schema_version
from .visit import ChangedMeanwhileError, visit

_BUSY_SECONDS = 30.0
_ATTEMPTS = 3


def restore(
    backup: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> None:
    """Make a store file of a backup of one, while no process has that store open.

    What ``backup()`` has made is taken, or any file of a store, with what is in the ``-wal`` beside it; it is only
    read, and may be in use. It is copied, verified as ``check()`` does, and takes the place of the target in one step,
    with the mode and the owner of the file that was there, else as the caller's with mode 0600. What is left of the
    old store, in the files beside it, is taken away. A kill at any moment leaves the old store whole, or the new one.

    It blocks, for as long as it takes to read the file twice: call it by ``asyncio.to_thread`` from a loop.

    Args:
        backup: the path of the file to be read.
        target: the path of the store.
        overwrite: replace the store that is there.
        progress: called with how many pages are done, and how many there are; each counts twice, as it is copied and as
            it is verified. If it raises, nothing is restored.

    Raises:
        TargetExistsError: there is something at ``target``, and no ``overwrite``, or it is no regular file.
        StoreBusyError: the store is in use, if only by a process that has it open.
        CorruptStoreError: the backup is damaged; the message names the first problem.
        IncompatibleStoreError: the backup is no store, or of a newer version.
        StoreNotFoundError: there is no such backup, or no folder for the target.
        StorageError: a file cannot be read or written. After any of these the target is as it was.
    """
    source, given = _path_of(backup, "backup"), _path_of(target, "target")
    path = os.path.realpath(given)
    if progress is not None:
        check_function("progress", progress)
        if inspect.iscoroutinefunction(progress):
            raise TypeError("progress must be a plain function: restore() awaits nothing")
    if os.path.exists(path) and os.path.exists(source) and os.path.samefile(source, path):
        raise ValueError("backup and target are the same file")

    told = (-1, 0)

    def report(done: int, total: int) -> None:
        nonlocal told
        if progress is not None and (done, total) != told:
            told = done, total
            progress(done, total)

    try:
        check_place(path, given)
        refuse_existing(path, overwrite)
        with new_file(path, "restore to") as part:
            _copy(source, part, report)
            migrate_copy(part, source)
            begin_history(part)
            verify(part, report, f"nothing was restored: {source}")
            put_in_place(part, path, overwrite=overwrite, is_store=True)
    except sqlite3.Error as error:
        raise translated(error, source, "could not restore from") from error
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise translated_os(error, given, "could not restore to") from error


def _path_of(given: object, name: str) -> str:
    if not isinstance(given, str | bytes | os.PathLike):
        raise TypeError(f"{name} must be a str or a Path, not {type(given).__name__}")
    path = os.fsdecode(given)
    if not path or "\0" in path or (isinstance(given, str) and ("://" in path or path == ":memory:")):
        raise ValueError(f"{name} must be the path of a file; a store elsewhere is filled by copy()")
    return os.path.abspath(path)


def _copy(source: str, part: str, report: Report) -> None:
    try:
        check_place(os.path.realpath(source), source, "there is nothing to restore from")
        probe(os.path.realpath(source), source)
        for attempt in range(_ATTEMPTS):
            found = visit(
                os.path.realpath(source), source, _BUSY_SECONDS, lambda connection: _set_up(connection, source)
            )
            try:
                copy_snapshot(found.connection, part, report, 2)
                found.confirm()
                return
            except (ChangedMeanwhileError, sqlite3.Error):
                if found.is_right() or attempt == _ATTEMPTS - 1:
                    raise
            finally:
                found.connection.close()
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise translated_os(error, source, "could not read") from error


def _set_up(connection: sqlite3.Connection, source: str) -> None:
    if schema_version(connection, source) == 0:
        raise IncompatibleStoreError(f"{source} is an empty database: there is nothing to restore from")
