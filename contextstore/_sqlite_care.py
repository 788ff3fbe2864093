"""The care of a SQLite store: looking for damage, and copying it while it is in use.

Rules of this room: plain functions over a connection of their own, in its thread. A check changes nothing and stops at
nothing; a backup is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from . import _codec
from ._codec import Encoded
from ._results import CheckReport, Problem
from ._sqlite_file import APPLICATION_ID, SCHEMA_VERSION, create_schema, is_whole, sync_folder, uri_of
from .errors import ContextStoreError, StorageError

_PAGE = 500

_OUTPUTS = """
    SELECT output_rows.id, runs.flow_run_id, output_rows.run, output_rows.node_id, output_rows.codec,
        CAST(output_rows.value AS BLOB), output_rows.checksum, output_rows.size
    FROM output_rows LEFT JOIN runs ON runs.serial = output_rows.run
    WHERE output_rows.id > ? AND output_rows.id <= ? ORDER BY output_rows.id LIMIT ?
"""
_GLOBALS = """
    SELECT id, key, codec, CAST(value AS BLOB), checksum, size FROM global_rows
    WHERE id > ? AND id <= ? AND value IS NOT NULL ORDER BY id LIMIT ?
"""


def check_store(connection: sqlite3.Connection) -> CheckReport:
    problems: list[Problem] = []
    notes = [note for note in [_wal_reset_note(sqlite3.sqlite_version_info)] if note]
    problems += _check_file(connection)
    problems += _check_schema(connection)
    outputs = globals_ = runs = 0
    for row in _rows(connection, "output_rows", _OUTPUTS, problems):
        outputs += 1
        problems += _check_output(row)
    for row in _rows(connection, "global_rows", _GLOBALS, problems):
        globals_ += 1
        problems += _check_value("global", (str(row[1]),), "", row[1], row[2:])
    try:
        ((runs,),) = connection.execute("SELECT count(*) FROM runs WHERE deleted_at IS NULL").fetchall()
        problems += _check_runs(connection)
        notes += _leftovers(connection)
    except sqlite3.Error as error:
        problems.append(Problem("file", (), f"the runs could not be read: {error}"))
    return CheckReport(runs, outputs, globals_, tuple(problems), tuple(notes))


def _check_file(connection: sqlite3.Connection) -> Iterator[Problem]:
    try:
        for (message,) in connection.execute("PRAGMA integrity_check(1000000)").fetchall():
            if message != "ok":
                yield Problem("file", (), str(message))
        ((application_id,),) = connection.execute("PRAGMA application_id").fetchall()
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    except sqlite3.Error as error:
        yield Problem("file", (), f"the integrity check was cut short: {error}")
        return
    if (application_id, version) != (APPLICATION_ID, SCHEMA_VERSION):
        yield Problem("file", (), f"its marks are {application_id:#x} and {version}, not those of a store")


def _check_schema(connection: sqlite3.Connection) -> Iterator[Problem]:
    query = "SELECT type, name, sql FROM sqlite_schema"
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        create_schema(model)
        expected = {(kind, name): sql for kind, name, sql in model.execute(query)}
    try:
        found = {(kind, name): sql for kind, name, sql in connection.execute(query)}
    except sqlite3.Error as error:
        yield Problem("file", (), f"the schema could not be read: {error}")
        return
    for kind, name in sorted(found.keys() - expected.keys()):
        if name != "sqlite_stat1":  # from ANALYZE, which does no harm
            yield Problem("schema", (name,), f"the {kind} {name!r} is not the store's")
    for kind, name in sorted(expected.keys() - found.keys()):
        yield Problem("schema", (name,), f"the {kind} {name!r} is missing")
    for kind, name in sorted(found.keys() & expected.keys()):
        if found[kind, name] != expected[kind, name]:
            yield Problem("schema", (name,), f"the {kind} {name!r} was altered")


def _rows(connection: sqlite3.Connection, table: str, query: str, problems: list[Problem]) -> Iterator[tuple[Any, ...]]:
    """All rows by id; where a page of the file is damaged, whatever can be read around it."""
    try:
        ((last,),) = connection.execute(f"SELECT max(id) FROM {table}").fetchall()  # noqa: S608 - a name of ours
    except sqlite3.Error as error:
        problems.append(Problem("file", (), f"{table} could not be read: {error}"))
        return
    after = 0
    while last is not None and after < last:
        try:
            page = connection.execute(query, (after, last, _PAGE)).fetchall()
        except sqlite3.Error:
            page = []
            for one in range(after + 1, min(after + _PAGE, last) + 1):
                try:
                    page += connection.execute(query, (one - 1, one, 1)).fetchall()
                except sqlite3.Error as error:
                    problems.append(Problem("file", (), f"row {one} of {table} could not be read: {error}"))
            after = min(after + _PAGE, last)
        else:
            after = page[-1][0] if page else last
        yield from page


def _check_output(row: tuple[Any, ...]) -> list[Problem]:
    _, flow_run_id, serial, node_id, *value = row
    if flow_run_id is None:
        return [Problem("output", (f"run number {serial}", str(node_id)), "it belongs to no run")]
    return _check_value("output", (str(flow_run_id), str(node_id)), flow_run_id, node_id, tuple(value))


def _check_value(kind: str, key: tuple[str, ...], owner: Any, name: Any, value: tuple[Any, ...]) -> list[Problem]:
    codec, data, checksum, size = value
    encoded = Encoded(codec, data)
    if not is_whole(owner, name, encoded, checksum, size):
        return [Problem(kind, key, "its checksum does not fit: the value, or whose it is, was changed")]
    try:
        _codec.decode(encoded)
    except ContextStoreError as error:
        return [Problem(kind, key, str(error))]
    return []


def _check_runs(connection: sqlite3.Connection) -> Iterator[Problem]:
    query = """
        SELECT flow_run_id FROM runs
        WHERE deleted_at IS NULL AND NOT EXISTS (SELECT 1 FROM output_rows WHERE run = runs.serial)
    """
    for (flow_run_id,) in connection.execute(query):
        yield Problem("run", (str(flow_run_id),), "its outputs are missing, and it was not deleted")


def _leftovers(connection: sqlite3.Connection) -> list[str]:
    query = """
        SELECT count(*) FROM output_rows WHERE run IN (SELECT serial FROM runs WHERE deleted_at IS NOT NULL)
    """
    ((left,),) = connection.execute(query).fetchall()
    return [f"{left} outputs of deleted runs still take up space: prune() removes them"] if left else []


def _wal_reset_note(version: tuple[int, ...]) -> str | None:
    """SQLite 3.7.0 to 3.51.2, but for two patched releases: https://sqlite.org/wal.html, "the WAL-reset bug"."""
    if not (3, 7, 0) <= version <= (3, 51, 2) or version in ((3, 44, 6), (3, 50, 7)):
        return None
    return (
        f"SQLite {'.'.join(map(str, version))} has the WAL-reset bug: a checkpoint that meets a commit may lose data. "
        "This library never lets the two meet; another program that writes to the file might"
    )


def back_up(connection: sqlite3.Connection, path: str, report: Callable[[int, int], None]) -> None:
    """Copy one snapshot into a new file, mode 0600. It gets its name only once it is whole and on the disk."""
    part = path + ".part"
    try:
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError as error:
        raise StorageError(
            f"{part} is there already: another backup is under way, or was cut off; remove it"
        ) from error
    try:
        if os.path.lexists(path):
            raise StorageError(f"{path} is there already and was not overwritten: choose another name")
        with contextlib.closing(sqlite3.connect(uri_of(part, "rw"), uri=True, isolation_level=None)) as copy:
            # An open read transaction holds the snapshot. Without it each commit of others would begin the copy anew.
            connection.execute("BEGIN")
            try:
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
                connection.backup(copy, pages=256, progress=lambda _, left, total: report(total - left, total), sleep=0)
            finally:
                connection.execute("ROLLBACK")
        os.link(part, path)  # unlike a rename it overwrites nothing
    finally:
        os.unlink(part)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part + "-journal")
    sync_folder(os.path.dirname(path))
