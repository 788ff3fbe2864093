"""What every connection to a store's file has in common: how the file is named, and what is set first.

Rules of this module: plain functions over a connection, in its thread; nothing here reads or writes what is stored.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import urllib.parse


def uri_of(path: str, mode: str) -> str:
    return f"file:{urllib.parse.quote(os.fsencode(path))}?mode={mode}"


def harden(connection: sqlite3.Connection) -> None:
    """Nothing in a file that another program made may run code or pass for sound: https://sqlite.org/security.html."""
    connection.execute("PRAGMA trusted_schema = 0").close()
    connection.execute("PRAGMA cell_size_check = 1").close()
    # The default, unless SQLite was built otherwise: no table of another program's may refuse what is deleted.
    connection.execute("PRAGMA foreign_keys = 0").close()


def set_up_reader(connection: sqlite3.Connection, timeout: float) -> None:
    """Of a connection to a file that only reads. Readers wait for no writer in WAL mode, but for another program's
    recovery or its exclusive lock."""
    harden(connection)
    connection.execute("PRAGMA query_only = 1").close()
    connection.execute("PRAGMA wal_autocheckpoint = 0").close()
    set_busy_timeout(connection, timeout)


def set_busy_timeout(connection: sqlite3.Connection, timeout: float) -> None:
    """Have SQLite itself wait for others' locks. It reads values above 2**31 - 1 as negative."""
    connection.execute(f"PRAGMA busy_timeout = {int(min(timeout * 1000, 2**31 - 1))}").close()


def roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction that is open, if one is."""
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):  # an error that ended the transaction by itself
            connection.execute("ROLLBACK")
