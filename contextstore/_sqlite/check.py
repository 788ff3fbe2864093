"""Looking at all that a store in SQLite holds, for damage.

Rules of this module: plain functions over a connection of their own, in its thread. A check changes nothing and stops
at nothing, and leaves the GIL to others.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from .._engine.attempts import made_of
from .._engine.check_progress import CheckProgress
from .._engine.records import is_intact, is_intact_mark, is_time
from .._process.pacing import paced
from .._results import CheckReport, Problem
from .._values.codec import DELETED, Encoded, decode
from ..errors import ContextStoreError
from . import run_facts
from .additions import additions_in, missing_or_altered, trusting
from .appends import HAS_APPENDS
from .attempts import check_attempts
from .counting import WRONG_COUNTS
from .run_states import check_states
from .schema import APPLICATION_ID, SCHEMA_VERSION, schema_in

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
    "node_outputs",
    "output",
    """
    SELECT node_outputs.id, flow_runs.flow_run_id, node_outputs.run, node_outputs.node_id, node_outputs.written_at,
        node_outputs.codec, CAST(node_outputs.value AS BLOB), node_outputs.checksum, node_outputs.size,
        node_outputs.tag, node_outputs.attempt
    FROM node_outputs LEFT JOIN flow_runs ON flow_runs.serial = node_outputs.run
    WHERE node_outputs.id >= ? AND node_outputs.id <= ? ORDER BY node_outputs.id LIMIT ?
    """,
    "SELECT id, run, node_id FROM node_outputs INDEXED BY sqlite_autoindex_node_outputs_1 WHERE id > ?",
)
_GLOBALS = _Table(
    "global_values",
    "global",
    """
    SELECT id, key, version, written_at, codec, CAST(value AS BLOB), checksum, size, expires_at FROM global_values
    WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?
    """,
    "SELECT id, key FROM global_values INDEXED BY sqlite_autoindex_global_values_1 WHERE id > ?",
)


# In one statement, and so of one moment: others may have deleted outputs while the check went through them.
_MARKS_OF = f"""
    SELECT flow_run_id, marks, (SELECT count(*) FROM node_outputs WHERE run = serial AND codec = {DELETED})
    FROM flow_runs WHERE serial = ? AND deleted_at IS NULL
"""  # noqa: S608 - no input in it

_MARK = (0, "")
"""Run and node of what keeps the highest id: see the trigger in ``schema``."""

DAMAGE = (sqlite3.Error, UnicodeDecodeError)
"""What damage makes a statement raise; the latter where SQLite's own message quotes what is no text any more."""


def check_store(connection: sqlite3.Connection, on_row: Callable[[], None] = lambda: None) -> CheckReport:
    """Look at everything; ``on_row`` is called with each output and each global."""
    connection.text_factory = lambda text: text.decode(errors="replace")  # a name that is no text is still a name
    try:
        return _check_store(connection, on_row)
    finally:
        connection.text_factory = str


def check_and_tell(connection: sqlite3.Connection, report: Callable[[int, int], None]) -> CheckReport:
    """The same; ``report`` is told how many outputs and globals were looked at, and how many there are."""
    try:
        total = count_rows(connection)
    except DAMAGE:  # of which the check tells
        total = 0
    progress = CheckProgress(report, total)
    # The integrity check counts no rows, but can be given up.
    connection.set_progress_handler(progress.tell, 1_000_000)
    try:
        found = check_store(connection, progress.add)
    finally:
        connection.set_progress_handler(None, 0)
    progress.end()  # raises if this was given up, which then is what cut it short
    return found


def _check_store(connection: sqlite3.Connection, on_row: Callable[[], None]) -> CheckReport:
    problems: list[Problem] = []
    notes = [note for note in [_wal_reset_note(sqlite3.sqlite_version_info)] if note]
    problems += _check_file(connection)
    problems += _check_schema(connection, notes)
    outputs = globals_ = runs = 0
    marks: Counter[object] = Counter()
    for row in paced(_Scan(connection, _OUTPUTS, problems).rows()):
        if row[2:4] == _MARK:
            continue
        outputs += row[5] != DELETED
        marks[row[2]] += row[5] == DELETED
        on_row()
        problems += _check_output(row)
    for row in paced(_Scan(connection, _GLOBALS, problems).rows()):
        globals_ += row[5] is not None
        on_row()
        problems += _check_global(row)
    try:
        ((runs,),) = connection.execute("SELECT count(*) FROM flow_runs WHERE deleted_at IS NULL").fetchall()
        problems += _check_runs(connection)
        problems += run_facts.check(connection)
        problems += _check_appends(connection)
        problems += check_states(connection)
        problems += _check_marks(connection, marks)
        problems += check_attempts(connection)
        problems += _check_counts(connection)
        notes += _leftovers(connection)
    except DAMAGE as error:
        problems.append(Problem("file", (), f"the runs could not be read: {error}"))
    return CheckReport(runs, outputs, globals_, tuple(problems), tuple(notes))


def _check_file(connection: sqlite3.Connection) -> Iterator[Problem]:
    try:
        for (message,) in connection.execute("PRAGMA integrity_check(1000000)").fetchall():
            if message != "ok":
                yield Problem("file", (), str(message))
        ((application_id,),) = connection.execute("PRAGMA application_id").fetchall()
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    except DAMAGE as error:
        yield Problem("file", (), f"the integrity check was cut short: {error}")
        return
    if application_id == APPLICATION_ID and version > SCHEMA_VERSION:
        known = f"this version of contextstore knows schemas up to {SCHEMA_VERSION}: upgrade contextstore"
        yield Problem("file", (), f"it has schema {version}, and {known}")
    elif (application_id, version) != (APPLICATION_ID, SCHEMA_VERSION):
        yield Problem("file", (), f"its marks are {application_id:#x} and {version}, not those of a store")


def _check_schema(connection: sqlite3.Connection, notes: list[str]) -> Iterator[Problem]:
    try:
        with trusting(connection):
            altered, additions = missing_or_altered(connection), additions_in(connection)
            there = {(kind, name) for kind, name, _, _ in schema_in(connection)}
    except DAMAGE as error:
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


def count_rows(connection: sqlite3.Connection) -> int:
    """How many outputs and globals a check will look at."""
    query = """
        SELECT (SELECT count(*) FROM node_outputs) + (SELECT count(*) FROM global_values)
            - (SELECT count(*) FROM node_outputs WHERE run = ? AND node_id = ?)
    """
    return int(connection.execute(query, _MARK).fetchone()[0])


class _Scan:
    """All rows of a table by id; where a page of the file is damaged, all that can be read around it."""

    def __init__(self, connection: sqlite3.Connection, table: _Table, problems: list[Problem]) -> None:
        self._connection = connection
        self._table = table
        self._problems = problems

    def rows(self) -> Iterator[tuple[Any, ...]]:
        after = last = 0
        trouble = "its rows are not in order"
        try:
            ((last,),) = self._connection.execute(f"SELECT max(id) FROM {self._table.name}").fetchall()  # noqa: S608 - a name of ours
            while last is not None and after < last:
                page = list(paced(self._connection.execute(self._table.rows, (after + 1, last, _PAGE))))
                ids = [row[0] for row in page]
                if not ids or ids[0] <= after or ids != sorted(ids):  # or the last rows were deleted just now
                    break
                yield from page
                after = ids[-1]
            else:
                return
        except DAMAGE as error:
            trouble = str(error)
        yield from self._rows_around_damage(after, last, trouble)

    def _rows_around_damage(self, after: int, last: int, trouble: str) -> Iterator[tuple[Any, ...]]:
        keys: Iterable[tuple[Any, ...]]
        try:
            # Not just all numbers: between two rows millions may have been deleted.
            ids: Sequence[int] = sorted(row[0] for row in paced(self._connection.execute(self._table.keys, (after,))))
            keys = self._connection.execute(self._table.keys, (after,))
        except DAMAGE:
            name = self._table.name
            message = f"{name} could not be read as a whole after row {after}, nor could its index: {trouble}"
            self._problems.append(Problem("file", (), message))
            ids, keys = range(after + 1, min(last, after + _BLIND) + 1), []
        unreadable: dict[int, str] = {}
        for start in range(0, len(ids), _PAGE):
            yield from self._readable_rows(ids[start : start + _PAGE], unreadable)
        for one, *names in keys:
            if one in unreadable:
                message = f"it could not be read: {unreadable.pop(one)}"
                self._problems.append(Problem(self._table.kind, _key(self._connection, *names), message))
        for one, error in unreadable.items():
            message = f"row {one} of {self._table.name} could not be read: {error}"
            self._problems.append(Problem("file", (), message))

    def _readable_rows(self, ids: Sequence[int], unreadable: dict[int, str]) -> list[tuple[Any, ...]]:
        """Those of the rows that can be read; why another one cannot is noted under its id."""
        with contextlib.suppress(*DAMAGE):
            page = self._connection.execute(self._table.rows, (ids[0], ids[-1], _PAGE)).fetchall()
            if len(page) >= len(ids):
                return page
        rows: list[tuple[Any, ...]] = []
        for one in ids:
            try:
                rows += self._connection.execute(self._table.rows, (one, one, 1)).fetchall()
            except DAMAGE as error:
                unreadable[one] = str(error)
        return rows


def _key(connection: sqlite3.Connection, *names: object) -> tuple[str, ...]:
    """What an index knows a row by, as the key that the store knows it by."""
    if len(names) == 1:
        return (str(names[0]),)
    serial, node_id = names
    try:
        query = "SELECT flow_run_id FROM flow_runs WHERE serial = ?"
        ((flow_run_id,),) = connection.execute(query, (serial,)).fetchall()
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
    _, name, version, written_at, *value, expires_at = row
    key = (str(name),)
    problems = _check_time("global", key, written_at)
    if expires_at is not None:
        problems += _check_time("global", key, expires_at)
    if type(version) is not int or version < 1:
        problems.append(Problem("global", key, f"{version!r} is no version"))
    if value != [None, None, None, None]:  # as a deleted one's are
        problems += _check_value("global", key, "", name, tuple(value))
    return problems


def _check_time(kind: str, key: tuple[str, ...], written_at: object) -> list[Problem]:
    return [] if is_time(written_at) else [Problem(kind, key, f"{written_at!r} is no time")]


def _check_value(kind: str, key: tuple[str, ...], owner: Any, name: Any, value: tuple[Any, ...]) -> list[Problem]:
    codec, data, checksum, size, *more = value
    tag, attempt = more or (None, None)
    encoded = Encoded(codec, data, tag)
    if kind == "output" and codec == DELETED:
        is_whole = attempt is None and is_intact_mark(owner, name, encoded, checksum, size)
        return [] if is_whole else [Problem(kind, key, "it was deleted, and its mark is damaged")]
    if not is_intact(owner, name, encoded, checksum, size, attempt):
        return [Problem(kind, key, "its checksum does not fit: the value, or whose it is, was changed")]
    if attempt is not None and made_of(attempt) is None:
        return [Problem(kind, key, "what it says of the attempt that made it is damaged")]
    try:
        decode(encoded)
    except ContextStoreError as error:
        return [Problem(kind, key, str(error))]
    return []


def _check_runs(connection: sqlite3.Connection) -> Iterator[Problem]:
    # A fork has its counters before its outputs, and nothing but counters where it takes no output.
    query = f"""
        SELECT flow_run_id FROM flow_runs
        WHERE deleted_at IS NULL AND touched_at IS NULL
            AND NOT EXISTS (SELECT 1 FROM node_outputs WHERE run = flow_runs.serial)
            AND NOT EXISTS (SELECT 1 FROM run_states WHERE run = flow_runs.serial)
            AND NOT {HAS_APPENDS}
    """  # noqa: S608 - no input in it
    for (flow_run_id,) in paced(connection.execute(query)):
        yield Problem("run", (str(flow_run_id),), "its outputs are missing, and it was not deleted")
    query = "SELECT flow_run_id, deleted_at FROM flow_runs WHERE deleted_at IS NOT NULL"
    for flow_run_id, deleted_at in paced(connection.execute(query)):
        yield from _check_time("run", (str(flow_run_id),), deleted_at)


def _check_appends(connection: sqlite3.Connection) -> Iterator[Problem]:
    query = """
        SELECT append_counters.run, flow_run_id, prefix, last FROM append_counters
        LEFT JOIN flow_runs ON flow_runs.serial = append_counters.run
        WHERE flow_run_id IS NULL OR typeof(last) <> 'integer' OR last < 1
    """
    for serial, flow_run_id, prefix, last in paced(connection.execute(query)):
        problem = "belongs to no run" if flow_run_id is None else f"is {last!r}, which is no number"
        yield Problem("run", (_run_name(serial, flow_run_id),), f"its counter of prefix {str(prefix)!r} {problem}")
    query = """
        SELECT append_keys.run, key FROM append_keys
        WHERE NOT EXISTS (SELECT 1 FROM flow_runs WHERE serial = append_keys.run)
    """
    for serial, key in paced(connection.execute(query)):
        yield Problem("run", (_run_name(serial, None),), f"its append key {str(key)!r} belongs to no run")


def _run_name(serial: object, flow_run_id: object) -> str:
    return f"run number {serial}" if flow_run_id is None else str(flow_run_id)


def _check_marks(connection: sqlite3.Connection, counted: Counter[object]) -> Iterator[Problem]:
    """Whether each run has as many marks of deleted outputs as its row says."""
    said = dict(connection.execute("SELECT serial, marks FROM flow_runs WHERE marks IS NOT 0 AND deleted_at IS NULL"))
    for serial in {serial for serial in said.keys() | counted.keys() if said.get(serial, 0) != counted[serial]}:
        for flow_run_id, marks, found in connection.execute(_MARKS_OF, (serial,)).fetchall():
            if marks != found:
                message = f"{found} of its outputs are marked as deleted, and its row says {marks}"
                yield Problem("run", (str(flow_run_id),), message)


def _check_counts(connection: sqlite3.Connection) -> Iterator[Problem]:
    """Whether each run has as many outputs as its row has counted."""
    for flow_run_id, said, found in paced(connection.execute(WRONG_COUNTS)):
        message = f"{found} outputs of it were counted, marks of deleted ones too, and its row says {said!r}"
        yield Problem("run", (str(flow_run_id),), message)


def _leftovers(connection: sqlite3.Connection) -> list[str]:
    query = """
        SELECT count(*) FROM node_outputs WHERE run IN (SELECT serial FROM flow_runs WHERE deleted_at IS NOT NULL)
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
