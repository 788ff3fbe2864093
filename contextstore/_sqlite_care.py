"""The care of a SQLite store: looking for damage, and copying it while it is in use.

Rules of this room: plain functions over a connection of their own, in its thread. A check changes nothing and stops at
nothing, and leaves the GIL to others; a backup is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from . import _codec
from ._breath import unhurried
from ._codec import Encoded
from ._engine import is_time, is_whole
from ._results import CheckReport, Problem
from ._sqlite_file import APPLICATION_ID, SCHEMA_VERSION, create_schema, sync_folder, uri_of
from .errors import ContextStoreError, StorageError, StoreNotFoundError

_PAGE = 500
_BLIND = 1_000_000  # how many ids are tried one by one where the index cannot say which there are


class _Table(NamedTuple):
    name: str
    kind: str
    rows: str
    """Rows by id: from one up to another, so many at most. Not "above one", which would look at its page, too."""
    keys: str
    """Ids and what they go by, above one, from the index alone, which lies on other pages than the rows."""


_OUTPUTS = _Table(
    "output_rows",
    "output",
    """
    SELECT output_rows.id, runs.flow_run_id, output_rows.run, output_rows.node_id, output_rows.written_at,
        output_rows.codec, CAST(output_rows.value AS BLOB), output_rows.checksum, output_rows.size
    FROM output_rows LEFT JOIN runs ON runs.serial = output_rows.run
    WHERE output_rows.id >= ? AND output_rows.id <= ? ORDER BY output_rows.id LIMIT ?
    """,
    "SELECT id, run, node_id FROM output_rows INDEXED BY sqlite_autoindex_output_rows_1 WHERE id > ?",
)
_GLOBALS = _Table(
    "global_rows",
    "global",
    """
    SELECT id, key, version, written_at, codec, CAST(value AS BLOB), checksum, size FROM global_rows
    WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?
    """,
    "SELECT id, key FROM global_rows INDEXED BY sqlite_autoindex_global_rows_1 WHERE id > ?",
)


# What damage makes a statement raise; UnicodeDecodeError where SQLite's own message quotes what is no text any more.
_DAMAGE = (sqlite3.Error, UnicodeDecodeError)


def check_store(connection: sqlite3.Connection) -> CheckReport:
    connection.text_factory = lambda text: text.decode(errors="replace")  # a name that is no text is still a name
    try:
        return _check_store(connection)
    finally:
        connection.text_factory = str


def _check_store(connection: sqlite3.Connection) -> CheckReport:
    problems: list[Problem] = []
    notes = [note for note in [_wal_reset_note(sqlite3.sqlite_version_info)] if note]
    problems += _check_file(connection)
    problems += _check_schema(connection)
    outputs = globals_ = runs = 0
    for row in unhurried(_rows(connection, _OUTPUTS, problems)):
        outputs += 1
        problems += _check_output(row)
    for row in unhurried(_rows(connection, _GLOBALS, problems)):
        globals_ += row[5] is not None
        problems += _check_global(row)
    try:
        ((runs,),) = connection.execute("SELECT count(*) FROM runs WHERE deleted_at IS NULL").fetchall()
        problems += _check_runs(connection)
        notes += _leftovers(connection)
    except _DAMAGE as error:
        problems.append(Problem("file", (), f"the runs could not be read: {error}"))
    return CheckReport(runs, outputs, globals_, tuple(problems), tuple(notes))


def _check_file(connection: sqlite3.Connection) -> Iterator[Problem]:
    try:
        for (message,) in connection.execute("PRAGMA integrity_check(1000000)").fetchall():
            if message != "ok":
                yield Problem("file", (), str(message))
        ((application_id,),) = connection.execute("PRAGMA application_id").fetchall()
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    except _DAMAGE as error:
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
    except _DAMAGE as error:
        yield Problem("file", (), f"the schema could not be read: {error}")
        return
    for kind, name in sorted(found.keys() - expected.keys()):
        if name not in ("sqlite_stat1", "sqlite_stat4"):  # from ANALYZE, which does no harm
            yield Problem("schema", (name,), f"the {kind} {name!r} is not the store's")
    for kind, name in sorted(expected.keys() - found.keys()):
        yield Problem("schema", (name,), f"the {kind} {name!r} is missing")
    for kind, name in sorted(found.keys() & expected.keys()):
        if found[kind, name] != expected[kind, name]:
            yield Problem("schema", (name,), f"the {kind} {name!r} was altered")


def _rows(connection: sqlite3.Connection, table: _Table, problems: list[Problem]) -> Iterator[tuple[Any, ...]]:
    """All rows by id; where a page of the file is damaged, whatever can be read around it."""
    after = last = 0
    trouble = "its rows are not in order"
    try:
        ((last,),) = connection.execute(f"SELECT max(id) FROM {table.name}").fetchall()  # noqa: S608 - a name of ours
        while last is not None and after < last:
            page = connection.execute(table.rows, (after + 1, last, _PAGE)).fetchall()
            ids = [row[0] for row in page]
            if not ids or ids[0] <= after or ids != sorted(ids):  # or the last rows were deleted just now
                break
            yield from page
            after = ids[-1]
        else:
            return
    except _DAMAGE as error:
        trouble = str(error)
    yield from _rows_around_damage(connection, table, after, last, trouble, problems)


def _rows_around_damage(
    connection: sqlite3.Connection, table: _Table, after: int, last: int, trouble: str, problems: list[Problem]
) -> Iterator[tuple[Any, ...]]:
    keys: Iterable[tuple[Any, ...]]
    try:
        # Not just all numbers: between two rows millions may have been deleted.
        ids: Sequence[int] = sorted(row[0] for row in unhurried(connection.execute(table.keys, (after,))))
        keys = connection.execute(table.keys, (after,))
    except _DAMAGE:
        message = f"{table.name} could not be read as a whole after row {after}, nor could its index: {trouble}"
        problems.append(Problem("file", (), message))
        ids, keys = range(after + 1, min(last, after + _BLIND) + 1), []
    unreadable: dict[int, str] = {}
    for start in range(0, len(ids), _PAGE):
        part = ids[start : start + _PAGE]
        page: list[tuple[Any, ...]] = []
        with contextlib.suppress(*_DAMAGE):
            page = connection.execute(table.rows, (part[0], part[-1], _PAGE)).fetchall()
        if len(page) < len(part):
            page = []
            for one in part:
                try:
                    page += connection.execute(table.rows, (one, one, 1)).fetchall()
                except _DAMAGE as error_of_row:
                    unreadable[one] = str(error_of_row)
        yield from page
    for one, *names in keys:
        if one in unreadable:
            message = f"it could not be read: {unreadable.pop(one)}"
            problems.append(Problem(table.kind, _key(connection, *names), message))
    for one, row_error in unreadable.items():
        problems.append(Problem("file", (), f"row {one} of {table.name} could not be read: {row_error}"))


def _key(connection: sqlite3.Connection, *names: object) -> tuple[str, ...]:
    """What an index knows a row by, as the key that the store knows it by."""
    if len(names) == 1:
        return (str(names[0]),)
    serial, node_id = names
    try:
        ((flow_run_id,),) = connection.execute("SELECT flow_run_id FROM runs WHERE serial = ?", (serial,)).fetchall()
    except (sqlite3.Error, ValueError):  # unreadable, or not there
        flow_run_id = f"run number {serial}"
    return str(flow_run_id), str(node_id)


def _check_output(row: tuple[Any, ...]) -> list[Problem]:
    _, flow_run_id, serial, node_id, written_at, *value = row
    if flow_run_id is None:
        return [Problem("output", (f"run number {serial}", str(node_id)), "it belongs to no run")]
    key = (str(flow_run_id), str(node_id))
    return _check_time("output", key, written_at) + _check_value("output", key, flow_run_id, node_id, tuple(value))


def _check_global(row: tuple[Any, ...]) -> list[Problem]:
    _, name, version, written_at, *value = row
    key = (str(name),)
    problems = _check_time("global", key, written_at)
    if type(version) is not int or version < 1:
        problems.append(Problem("global", key, f"{version!r} is no version"))
    if value != [None, None, None, None]:  # as a deleted one's are
        problems += _check_value("global", key, "", name, tuple(value))
    return problems


def _check_time(kind: str, key: tuple[str, ...], written_at: object) -> list[Problem]:
    return [] if is_time(written_at) else [Problem(kind, key, f"{written_at!r} is no time")]


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
    for (flow_run_id,) in unhurried(connection.execute(query)):
        yield Problem("run", (str(flow_run_id),), "its outputs are missing, and it was not deleted")
    query = "SELECT flow_run_id, deleted_at FROM runs WHERE deleted_at IS NOT NULL"
    for flow_run_id, deleted_at in unhurried(connection.execute(query)):
        yield from _check_time("run", (str(flow_run_id),), deleted_at)


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
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise StoreNotFoundError(f"could not back up to {path}: there is no folder {folder}; create it first")
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise StorageError(
            f"{part} is there already: another backup is under way, or was cut off; remove it"
        ) from error
    try:
        try:
            os.fchmod(descriptor, 0o600)  # again, since the umask took its part
        finally:
            os.close(descriptor)
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
        _give_name(part, path)
    finally:
        for name in (part, part + "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
    sync_folder(folder)


def _give_name(part: str, path: str) -> None:
    """Rename, but overwrite nothing."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, as on many a USB stick
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.replace(part, path)
