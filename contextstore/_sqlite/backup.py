"""Copying a store in SQLite while it is in use, and looking whether the copy is whole.

Rules of this module: plain functions over a connection of their own, in its thread. A backup is there whole or not at
all.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import TypeAlias

from ..errors import CorruptStoreError
from .check import DAMAGE, check_store, count_rows
from .connection import harden, uri_of
from .migrations import migrate
from .placing import new_file, put_in_place, refuse_existing
from .reads import snapshot
from .schema import NEW_HISTORY, NO_LEASES, SCHEMA_VERSION, refuse_other_format, schema_version

_ROWS_A_REPORT = 500

Report: TypeAlias = Callable[[int, int], None]


def back_up(
    connection: sqlite3.Connection,
    location: str,
    path: str,
    report: Report,
    *,
    check: bool,
    overwrite: bool,
    confirm: Callable[[], None],
) -> None:
    """Copy one snapshot into a new file, mode 0600. It gets its name only once it is whole and on the disk.

    ``confirm`` raises if what was copied may be no snapshot.
    """
    with new_file(path, "back up to") as part:
        refuse_existing(path, overwrite)
        copy_snapshot(connection, part, report, 2 if check else 1)
        confirm()
        _refuse_copy_of_other_format(part, location)  # else a newer one would pass for damage
        begin_history(part)
        if check:
            verify(part, report, f"the backup to {path} was not made: what it would hold")
        put_in_place(part, path, overwrite=overwrite, is_store=False)


def _refuse_copy_of_other_format(part: str, location: str) -> None:
    """Raise if the store that was copied had been migrated since it was opened. Of damage the check tells."""
    with contextlib.closing(_read_only(part)) as copy, contextlib.suppress(sqlite3.Error):
        refuse_other_format(copy, location)


def _read_only(part: str) -> sqlite3.Connection:
    """A connection to a file that nobody else knows."""
    return sqlite3.connect(uri_of(part, "ro") + "&immutable=1", uri=True, isolation_level=None)


def copy_snapshot(connection: sqlite3.Connection, part: str, report: Report, rounds: int) -> None:
    """Copy into an empty file. ``report`` is told of pages; each is counted as often as there will be rounds."""

    def tell(_: int, left: int, total: int) -> None:
        report(total - left, total * rounds)

    with (
        contextlib.closing(sqlite3.connect(uri_of(part, "rw"), uri=True, isolation_level=None)) as copy,
        # An open read transaction holds the snapshot. Without it each commit of others would begin the copy anew.
        snapshot(connection),
    ):
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        connection.backup(copy, pages=256, progress=tell, sleep=0)


def migrate_copy(part: str, location: str) -> None:
    """Bring a copy of an older schema up to the present one."""
    with _alone(part) as connection:
        if schema_version(connection, location) != SCHEMA_VERSION:
            migrate(connection, location)


def begin_history(part: str) -> None:
    """Have a copy be a store of its own to whoever watches, or holds a lease. Of damage the check tells."""
    with contextlib.suppress(sqlite3.Error), _alone(part) as connection:
        connection.execute(NEW_HISTORY)
        connection.execute(NO_LEASES)


@contextlib.contextmanager
def _alone(part: str) -> Iterator[sqlite3.Connection]:
    """A connection that writes to a copy; what it has written is in the file itself."""
    with contextlib.closing(sqlite3.connect(uri_of(part, "rw"), uri=True, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").close()  # no -shm for this
        harden(connection)
        yield connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def verify(part: str, report: Report, what: str) -> None:
    """Raise CorruptStoreError if a check of the file finds a problem. ``report`` is told of the second round."""
    with contextlib.closing(_read_only(part)) as connection:
        harden(connection)
        try:
            ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
            progress = _SecondRound(report, pages, count_rows(connection))
        except DAMAGE as error:
            raise CorruptStoreError(f"{what} is damaged: {error}") from error
        # The integrity check counts no rows, but can be given up.
        connection.set_progress_handler(progress.tell, 1_000_000)
        problems = check_store(connection, progress.count_row).problems
        connection.set_progress_handler(None, 0)
        progress.tell()  # raises if this was given up, which then is what cut it short
    if problems:
        first = problems[0]
        named = " ".join([first.kind, *map(repr, first.key)])
        raise CorruptStoreError(f"{what} is damaged ({len(problems)} problems, the first: {named}: {first.message})")
    report(2 * pages, 2 * pages)


class _SecondRound:
    """How far a check has come, in pages, of a file that was copied before."""

    def __init__(self, report: Report, pages: int, rows: int) -> None:
        self._report = report
        self._pages = pages
        self._rows = rows
        self._checked = 0

    def count_row(self) -> None:
        self._checked += 1
        if self._checked % _ROWS_A_REPORT == 0:
            self.tell()

    def tell(self) -> None:
        done = self._pages * min(self._checked, self._rows) // (self._rows + 1)
        self._report(self._pages + done, 2 * self._pages)
