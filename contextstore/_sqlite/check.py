"""The care of a SQLite store: looking for damage, and copying it while it is in use.

Rules of this module: plain functions over a connection of their own, in its thread. A check changes nothing and stops
at nothing, and leaves the GIL to others; a backup is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from .._engine.records import is_intact, is_time
from .._process.pacing import paced
from .._results import CheckReport, Problem
from .._values import codec as _codec
from .._values.codec import Encoded
from ..errors import ContextStoreError, CorruptStoreError
from .additions import additions_in, missing_or_altered, trusting
from .location import new_file, put_in_place, refuse_existing
from .schema import APPLICATION_ID, SCHEMA_VERSION, migrate, schema_in, schema_version, secure, uri_of

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


def check_store(connection: sqlite3.Connection, look: Callable[[], None] = lambda: None) -> CheckReport:
    """Look at everything; ``look`` is called with each output and each global."""
    connection.text_factory = lambda text: text.decode(errors="replace")  # a name that is no text is still a name
    try:
        return _check_store(connection, look)
    finally:
        connection.text_factory = str


def _check_store(connection: sqlite3.Connection, look: Callable[[], None]) -> CheckReport:
    problems: list[Problem] = []
    notes = [note for note in [_wal_reset_note(sqlite3.sqlite_version_info)] if note]
    problems += _check_file(connection)
    problems += _check_schema(connection, notes)
    outputs = globals_ = runs = 0
    for row in paced(_rows(connection, _OUTPUTS, problems)):
        outputs += 1
        look()
        problems += _check_output(row)
    for row in paced(_rows(connection, _GLOBALS, problems)):
        globals_ += row[5] is not None
        look()
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


def _check_schema(connection: sqlite3.Connection, notes: list[str]) -> Iterator[Problem]:
    try:
        with trusting(connection):
            altered, additions = missing_or_altered(connection), additions_in(connection)
            there = {(kind, name) for kind, name, _, _ in schema_in(connection)}
    except _DAMAGE as error:
        yield Problem("file", (), f"the schema could not be read: {error}")
        return
    for kind, name in altered:
        how = "was altered" if (kind, name) in there else "is missing"
        yield Problem("schema", (name,), f"the {kind} {name!r} {how}")
    for addition in additions:
        if addition.danger:
            message = f"{addition} is not the store's, and {addition.danger}: {addition.remedy}"
            yield Problem("schema", (addition.name,), message)
        else:
            notes.append(f"{addition} is not the store's; it may stay")


def _rows(connection: sqlite3.Connection, table: _Table, problems: list[Problem]) -> Iterator[tuple[Any, ...]]:
    """All rows by id; where a page of the file is damaged, whatever can be read around it."""
    after = last = 0
    trouble = "its rows are not in order"
    try:
        ((last,),) = connection.execute(f"SELECT max(id) FROM {table.name}").fetchall()  # noqa: S608 - a name of ours
        while last is not None and after < last:
            page = list(paced(connection.execute(table.rows, (after + 1, last, _PAGE))))
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
        ids: Sequence[int] = sorted(row[0] for row in paced(connection.execute(table.keys, (after,))))
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
    if not is_intact(owner, name, encoded, checksum, size):
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
    for (flow_run_id,) in paced(connection.execute(query)):
        yield Problem("run", (str(flow_run_id),), "its outputs are missing, and it was not deleted")
    query = "SELECT flow_run_id, deleted_at FROM runs WHERE deleted_at IS NOT NULL"
    for flow_run_id, deleted_at in paced(connection.execute(query)):
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


Report = Callable[[int, int], None]


def back_up(
    connection: sqlite3.Connection,
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
        if check:
            verify(part, report, f"the backup to {path} was not made: what it would hold")
        put_in_place(part, path, overwrite=overwrite, is_store=False)


def copy_snapshot(connection: sqlite3.Connection, part: str, report: Report, rounds: int) -> None:
    """Copy into an empty file. ``report`` is told of pages; each is counted as often as there will be rounds."""

    def tell(_: int, left: int, total: int) -> None:
        report(total - left, total * rounds)

    with contextlib.closing(sqlite3.connect(uri_of(part, "rw"), uri=True, isolation_level=None)) as copy:
        # An open read transaction holds the snapshot. Without it each commit of others would begin the copy anew.
        connection.execute("BEGIN")
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            connection.backup(copy, pages=256, progress=tell, sleep=0)
        finally:
            connection.execute("ROLLBACK")


def migrate_copy(part: str, location: str) -> None:
    """Bring a copy of an older schema up to the present one."""
    with contextlib.closing(sqlite3.connect(uri_of(part, "rw"), uri=True, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").close()  # no -shm for this
        secure(connection)
        if schema_version(connection, location) != SCHEMA_VERSION:
            migrate(connection, location)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def verify(part: str, report: Report, what: str) -> None:
    """Raise CorruptStoreError if a check of the file finds a problem. ``report`` is told of the second round."""
    with contextlib.closing(
        sqlite3.connect(uri_of(part, "ro") + "&immutable=1", uri=True, isolation_level=None)
    ) as connection:
        secure(connection)
        try:
            ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
            rows = sum(
                connection.execute(f"SELECT count(*) FROM {table.name}").fetchall()[0][0]  # noqa: S608 - a name of ours
                for table in (_OUTPUTS, _GLOBALS)
            )
        except _DAMAGE as error:
            raise CorruptStoreError(f"{what} is damaged: {error}") from error
        looked_at = 0

        def tell() -> None:
            report(pages + pages * min(looked_at, rows) // (rows + 1), 2 * pages)

        def look() -> None:
            nonlocal looked_at
            looked_at += 1
            if looked_at % _PAGE == 0:
                tell()

        connection.set_progress_handler(tell, 1_000_000)  # the integrity check counts no rows, but can be given up
        problems = check_store(connection, look).problems
        connection.set_progress_handler(None, 0)
        tell()  # raises if this was given up, which then is what cut it short
    if problems:
        first = problems[0]
        named = " ".join([first.kind, *map(repr, first.key)])
        raise CorruptStoreError(f"{what} is damaged ({len(problems)} problems, the first: {named}: {first.message})")
    report(2 * pages, 2 * pages)
